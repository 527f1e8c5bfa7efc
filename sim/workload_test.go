package sim

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"weir/node"
	"weir/stream"
	"weir/topology"
)

func loadOf(t *testing.T, text string) (*Workload, *History) {
	t.Helper()
	s, err := ParseScenario("load", text, Shape{})
	if err != nil {
		t.Fatal(err)
	}
	h := NewHistory()
	return newWorkload(&s, 1, h), h
}

func TestOutcomes(t *testing.T) {
	a, b := "source>a>sink", "source>b>sink"
	for _, test := range []struct {
		graph   string
		split   bool
		leaves  []string
		missing string
	}{
		{"source -> a -> sink", false, []string{a}, ""},
		{"source -> a -> sink", false, nil, a},
		{"source -> a, b -> sink", false, []string{b, a}, ""},
		{"source -> a, b -> sink", false, []string{a}, b},
		{"source -> a, b -> sink", true, []string{a}, ""},
		{"source -> a, b -> sink", true, []string{b}, ""},
		{"source -> a, b -> sink", true, nil, a},
	} {
		w, _ := loadOf(t, "graph "+test.graph)
		for i, r := range w.pipeline.Roles {
			if r.Name == "source" && test.split {
				w.pipeline.Roles[i].Send = topology.SendSplit
			}
		}
		var leaves []uint64
		o := w.outcomes()["source"]
		for _, path := range test.leaves {
			leaves = append(leaves, hash(path))
			if o.find(hash(path)) == nil {
				t.Errorf("%s (split %v): %s is not among what may become of it", test.graph, test.split, path)
			}
		}
		if o.find(hash("source>sink")) != nil {
			t.Errorf("%s: it has a way that the graph has not", test.graph)
		}
		if got := o.missing(0, leaves); got != test.missing {
			t.Errorf("%s (split %v) with %q: %q is missing, want %q", test.graph, test.split, test.leaves, got, test.missing)
		}
	}
}

// A body that is not what was sent is noticed, whatever was done to it.
func FuzzBody(f *testing.F) {
	w := &Workload{seed: 7}
	f.Add([]byte("1 source 2"))
	f.Add([]byte("01 source>work 0"))
	f.Add(w.body(3, "source>work"))
	f.Fuzz(func(t *testing.T, body []byte) {
		number, path, err := w.parse(body)
		if err == nil && string(w.body(number, path)) != string(body) {
			t.Errorf("%q was taken for record %d of %s", body, number, path)
		}
	})
}

func TestBodyOfAnotherSeed(t *testing.T) {
	w, other := &Workload{seed: 1}, &Workload{seed: 2}
	if _, _, err := w.parse(w.body(5, "source>work")); err != nil {
		t.Errorf("its own body: %v", err)
	}
	if _, _, err := w.parse(other.body(5, "source>work")); !errors.Is(err, errBody) {
		t.Errorf("the body of another seed: %v, want errBody", err)
	}
}

// A tap reads at its rate, catches up when it is opened again, and ends when it is told to stop.
func TestTap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := loadOf(t, "rate 1")
		tap := roleOn(t, w, "source-1.2").Tap
		ctx := t.Context()
		parts, _ := tap.Partitions(ctx)
		if len(parts) != 1 || parts[0] != "source/source-1" {
			t.Fatalf("partitions %q", parts)
		}
		r, err := tap.Open(ctx, parts[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var marks []stream.Mark
		for range 21 {
			_, m, err := r.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			marks = append(marks, m)
		}
		if d := time.Since(began); d != 20*time.Second {
			t.Errorf("21 records took %v, want 20s", d)
		}
		for _, m := range marks[:20] {
			r.Done(m, nil)
			r.Done(m, nil) // told twice, counted once
		}
		if w.Acked() != 20 || w.Settled() {
			t.Errorf("%d acked, settled %v", w.Acked(), w.Settled())
		}
		r, _ = tap.Open(ctx, parts[0], nil)
		began = time.Now()
		for range 21 {
			_, _, _ = r.Next(ctx)
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("to read again took %v", d)
		}
		w.Stop()
		if _, _, err := r.Next(ctx); err != io.EOF {
			t.Errorf("after its stop: %v, want EOF", err)
		}
		if w.Settled() {
			t.Error("settled, and the second opening has no acks")
		}
		for _, m := range marks {
			r.Done(m, nil)
		}
		if !w.Settled() || w.Acked() != 21 {
			t.Errorf("all acked: settled %v, %d acked", w.Settled(), w.Acked())
		}
		if got := h.Len(); got != 2+42+41+20+1 { // the last: all was read
			t.Errorf("%d events", got)
		}
	})
}

// roleOn is the role source of a node.
func roleOn(t *testing.T, w *Workload, id topology.NodeID) node.Role {
	t.Helper()
	r, err := w.Role("source", id, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTapCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := loadOf(t, "rate 1")
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := roleOn(t, w, "source-1").Tap.Open(ctx, "source/source-1", nil)
		_, _, _ = r.Next(ctx)
		go func() { time.Sleep(time.Millisecond); cancel() }()
		if _, _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Next = %v, want a cancelled context", err)
		}
	})
}

func TestBitset(t *testing.T) {
	var b bitset
	for _, n := range []uint64{0, 63, 64, 5000, 64} {
		b.set(n)
	}
	if b.count != 4 || !b.has(64) || !b.has(5000) || b.has(1) || b.has(1<<40) {
		t.Errorf("count %d, %v", b.count, b.words[:2])
	}
}

// A tap goes on from its mark, and what is there in another input's place is to be read from its start.
func TestTapGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := loadOf(t, "rate 10\nrole source nodes 2 shared 2")
		ctx := t.Context()
		one, two := roleOn(t, w, "source-1").Tap, roleOn(t, w, "source-2").Tap
		parts, _ := one.Partitions(ctx)
		if others, _ := two.Partitions(ctx); !slices.Equal(parts, []string{"source/shared/1", "source/shared/2"}) || !slices.Equal(others, parts) {
			t.Fatalf("partitions %q and %q", parts, others)
		}
		r, _ := one.Open(ctx, parts[0], nil)
		first, at, _ := r.Next(ctx)
		_, _, _ = r.Next(ctx)
		r.Done(at, nil)
		s, err := two.Open(ctx, parts[0], at)
		if err != nil {
			t.Fatal(err)
		}
		if second, _, _ := s.Next(ctx); string(second.Body[:2]) != "1 " || string(first.Body[:2]) != "0 " {
			t.Errorf("it goes on with %q behind %q", second.Body, first.Body)
		}
		w.replace(&member{name: "source-2", role: "source"})
		if _, err := one.Open(ctx, parts[0], at); !errors.Is(err, stream.ErrReset) {
			t.Errorf("another input is read on: %v", err)
		}
		if s, err = one.Open(ctx, parts[0], nil); err != nil {
			t.Fatal(err)
		}
		fresh, _, _ := s.Next(ctx)
		if number, _, _ := w.parse(fresh.Body); number != 1<<recordBits {
			t.Errorf("the other input begins with record %s", recordName(number))
		}
		if _, err := two.Open(ctx, parts[0], at); !errors.Is(err, stream.ErrReset) {
			t.Errorf("a mark of an input that is gone: %v", err)
		}
	})
}
