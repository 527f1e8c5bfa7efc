package mux

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func exampleHello() hello {
	return hello{
		versionMin: 1, versionMax: 3,
		cluster: [clusterBytes]byte{0xc1, 2, 3, 4, 5, 6, 7, 8},
		logID:   0x1111, boot: 2, epoch: 17, index: 3, serial: 9,
		id: "n1",
	}
}

// The bytes are the wire: a change of them is a new version.
func TestHelloBytes(t *testing.T) {
	const want = "0034" + "0001" + "0003" + "c102030405060708" + "0000000000001111" + "0000000000000002" +
		"0000000000000011" + "00000003" + "0000000000000009" + "0002" + "6e31"
	b := exampleHello().append(nil)
	if got := fmt.Sprintf("%x", b); got != want {
		t.Errorf("HELLO is %s, want %s", got, want)
	}
	got, err := readHello(bytes.NewReader(b))
	if err != nil || got != exampleHello() {
		t.Errorf("read %+v, %v", got, err)
	}
	later := append(exampleHello().append(nil), "of a later version"...)
	later[1] += byte(len("of a later version"))
	if got, err := readHello(bytes.NewReader(later)); err != nil || got != exampleHello() {
		t.Errorf("with more behind it: %+v, %v", got, err)
	}
}

func TestHelloRefused(t *testing.T) {
	change := func(f func(h *hello)) []byte {
		h := exampleHello()
		f(&h)
		return h.append(nil)
	}
	for _, test := range []struct {
		name  string
		bytes []byte
		want  error
	}{
		{"nothing", nil, io.EOF},
		{"half a length", []byte{0}, io.ErrUnexpectedEOF},
		{"too long", []byte{0xff, 0xff}, ErrProtocol},
		{"one byte too long", []byte{0x10, 0x01}, ErrProtocol},
		{"shorter than it says", exampleHello().append(nil)[:20], io.ErrUnexpectedEOF},
		{"too short", []byte{0, 1, 0}, ErrProtocol},
		{"no id", change(func(h *hello) { h.id = "" }), ErrProtocol},
		{"a long id", change(func(h *hello) { h.id = "n" + exampleID64 }), ErrProtocol},
		{"boot 0", change(func(h *hello) { h.boot = 0 }), ErrProtocol},
		{"a high index", change(func(h *hello) { h.index = indexMax }), ErrProtocol},
	} {
		if _, err := readHello(bytes.NewReader(test.bytes)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

const exampleID64 = "0123456789012345678901234567890123456789012345678901234567890123"

func TestMatch(t *testing.T) {
	ours := exampleHello()
	for _, test := range []struct {
		name string
		set  func(h *hello)
		want error
	}{
		{"same", func(*hello) {}, nil},
		{"later version that still speaks ours", func(h *hello) { h.versionMin, h.versionMax = 3, 9 }, nil},
		{"version 0", func(h *hello) { h.versionMin, h.versionMax = 0, 0 }, ErrVersion},
		{"version 65535", func(h *hello) { h.versionMin, h.versionMax = 65535, 65535 }, ErrVersion},
		{"other cluster", func(h *hello) { h.cluster[0]++ }, ErrOtherCluster},
		{"other log", func(h *hello) { h.logID++ }, ErrOtherLog},
		{"no log", func(h *hello) { h.logID = 0 }, nil},
		{"other id than certified", func(h *hello) { h.id = "n3" }, ErrNotPeer},
		{"other index", func(h *hello) { h.index++ }, ErrProtocol},
	} {
		theirs := ours
		theirs.id = "n2"
		test.set(&theirs)
		if err := match(ours, theirs, "n2"); !errors.Is(err, test.want) || test.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if err := match(ours, ours, "n1"); !errors.Is(err, ErrSameID) {
		t.Errorf("our own id: %v", err)
	}
}

func FuzzHello(f *testing.F) {
	f.Add(exampleHello().append(nil))
	f.Add([]byte{0xff, 0xff, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := readHello(bytes.NewReader(h.append(nil)))
		if err != nil {
			t.Fatalf("%+v does not survive: %v", h, err)
		}
		if d := cmp.Diff(h, again, cmp.AllowUnexported(hello{})); d != "" {
			t.Error(d)
		}
	})
}

// The keys are fixed by secret and id: other nodes, and other versions, must derive the same.
func TestKeys(t *testing.T) {
	k1, err := deriveKeys(secret("s"), "n1")
	if err != nil {
		t.Fatal(err)
	}
	k2, err := deriveKeys(secret("s"), "n2")
	if err != nil {
		t.Fatal(err)
	}
	other, err := deriveKeys(secret("o"), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if k1.cluster != k2.cluster || !k1.ca.Equal(k2.ca) {
		t.Error("two nodes of one cluster derive other keys")
	}
	if k1.reset == k2.reset || k1.reset == other.reset || k1.cluster == other.cluster || k1.ca.Equal(other.ca) {
		t.Error("a key does not follow from all it should")
	}
	if got, want := fmt.Sprintf("%x %x %x", k1.cluster, k1.ca.Seed()[:4], k1.reset[:4]), goldenKeys; got != want {
		t.Errorf("the keys have changed: %s, want %s", got, want)
	}
	if strings.Contains(fmt.Sprintf("%x", k1.ca), strings.Repeat("73", 8)) {
		t.Error("a key shows the secret")
	}
}

// goldenKeys is the cluster id, and the first bytes of authority and reset key, of secret("s") and n1.
const goldenKeys = "6d1567012ccfe48b 123110ef adb95168"
