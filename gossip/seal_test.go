package gossip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

func testSeal(t testing.TB, secret byte) seal {
	t.Helper()
	s, err := newSeal(bytes.Repeat([]byte{secret}, secretBytes))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func compound(parts ...[]byte) []byte {
	b := []byte{typeCompound, byte(len(parts))}
	for _, p := range parts {
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
	}
	return append(b, bytes.Join(parts, nil)...)
}

func TestSealOpensOnlyWhatItShould(t *testing.T) {
	ours, theirs := testSeal(t, 1), testSeal(t, 2)
	ping, bomb := []byte{0, 1, 2, 3}, []byte{typeCompress, 1, 2, 3}
	crc := []byte{typeCRC, 0, 0, 0, 0}
	tampered := ours.close(ping)
	tampered[len(tampered)-1] ^= 1
	version := ours.close(ping)
	version[0] = 2
	for _, tt := range []struct {
		name   string
		packet []byte
		err    error
	}{
		{"ours", ours.close(ping), nil},
		{"empty message", ours.close(nil), nil},
		{"compound", ours.close(compound(ping, ping, nil)), nil},
		{"cut compound", ours.close([]byte{typeCompound, 255, 0xff, 0xff}), nil},
		{"no bytes", nil, errSealed},
		{"one byte", []byte{sealVersion}, errSealed},
		{"plain", append([]byte{sealVersion}, make([]byte, 100)...), errSealed},
		{"another secret", theirs.close(ping), errSealed},
		{"changed", tampered, errSealed},
		{"another version", version, errSealed},
		{"compressed", ours.close(bomb), errCompressed},
		{"compressed in a checksum", ours.close(append(crc, bomb...)), errCompressed},
		{"compressed in a compound", ours.close(compound(ping, bomb)), errCompressed},
		{"compressed in a compound in a compound", ours.close(compound(compound(bomb))), errCompressed},
	} {
		if _, err := ours.open(tt.packet); !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.err)
		}
	}
	sealed := ours.close(ping)
	if len(sealed) != len(ping)+sealBytes {
		t.Errorf("sealing adds %d bytes, want %d", len(sealed)-len(ping), sealBytes)
	}
	if sealed[0]&0xc0 != 0 {
		t.Errorf("first byte %#x could be taken for QUIC", sealed[0])
	}
	if got, _ := ours.open(sealed); !bytes.Equal(got, ping) {
		t.Errorf("opened %v, want %v", got, ping)
	}
}

func FuzzExpands(f *testing.F) {
	f.Add([]byte{typeCompound, 2, 0, 1, 0, 1, 0, typeCompress})
	f.Add([]byte{typeCRC, 0, 0, 0, 0, typeCompress})
	f.Fuzz(func(t *testing.T, b []byte) {
		if !expands(b) && len(b) > 0 && b[0] == typeCompress {
			t.Errorf("%v is compressed", b)
		}
	})
}

// A node of the version before tags is still understood.
func TestMetaVersion1(t *testing.T) {
	old := []byte{1, flagVoter, 0, 0, 0, 0, 0, 0, 0, 9, 3, 3, '0', '.', '1', 1, 3, 'p', '/', 'b'}
	m, err := decodeMeta(old)
	if err != nil || m.logID != 9 || m.boot != 3 || !m.voter || m.version != "0.1" || !slices.Equal(m.roles, []string{"p/b"}) || m.tags != nil {
		t.Errorf("decoded %+v, %v", m, err)
	}
}

func FuzzDecodeMeta(f *testing.F) {
	for _, m := range []meta{{}, {boot: 3, logID: 9, voter: true, leaving: true, version: "1.0", roles: []string{"a", "p/b"}, tags: []string{"gpu"}}} {
		b, err := m.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			t.Fatalf("%+v does not encode: %v", m, err)
		}
		if m2, err := decodeMeta(again); err != nil || m2.boot != m.boot || m2.logID != m.logID || !slices.Equal(m2.roles, m.roles) || !slices.Equal(m2.tags, m.tags) {
			t.Errorf("%+v became %+v, %v", m, m2, err)
		}
	})
}
