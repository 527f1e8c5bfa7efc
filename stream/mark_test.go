package stream

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/stream/wire"
)

// Of two marks the higher of one generation is kept, and of two generations that of the newer claim;
// how many sources are known is bounded, and a new one is never refused.
func TestMarks(t *testing.T) {
	ms := make(marks)
	for i, tc := range []struct {
		m    wire.Mark
		news bool
	}{
		{wire.Mark{Gen: 1, Claim: 1, Next: 5}, true},
		{wire.Mark{Gen: 1, Claim: 1, Next: 5}, false},
		{wire.Mark{Gen: 1, Claim: 2, Next: 4}, false}, // a newer claim that began lower
		{wire.Mark{Gen: 1, Claim: 1, Next: 6}, true},
		{wire.Mark{Gen: 2, Claim: 2, Next: 0}, true},
		{wire.Mark{Gen: 1, Claim: 1, Next: 9}, false}, // late
		{wire.Mark{Gen: 2, Claim: 1, Next: 1}, true},
	} {
		if got := ms.note(tc.m); got != tc.news {
			t.Errorf("%d: %+v is news: %v", i, tc.m, got)
		}
	}
	for source := range uint64(2 * sourcesMax) {
		if !ms.note(wire.Mark{Source: 1 + source, Next: 1}) || len(ms) > sourcesMax {
			t.Fatalf("source %d of %d known ones", source, len(ms))
		}
	}
}

// sluggish is a sink that takes its time.
type sluggish struct{ *memory }

func (p *sluggish) Write(ctx context.Context, rs []Record, seen Seen) error {
	time.Sleep(10 * time.Millisecond)
	return p.memory.Write(ctx, rs, seen)
}

// F4, F29 (older): a tap that starts again goes on from what its peers know, under the same
// generation; nothing is lost, and nothing is there twice.
func TestSourceGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		m := newMemory()
		sink, h := r.sink("sink", &sluggish{m})
		const n = 50_000
		next, gen := uint64(0), uint64(99)
		var position Mark
		reads := uint64(0)
		for life := 0; ; life++ {
			b := NewBudget(0)
			o := r.outlet("tap", b, "", "sink")
			l := r.link(o, "tap", "sink", sink, "n1")
			synctest.Wait()
			if known, ok := o.Known(77); ok != (life > 0) || known.Gen != gen && ok || known.Next < next {
				t.Fatalf("life %d: %+v known, the log has %d", life, known, next)
			} else if ok {
				next, position = known.Next, known.Position
				if want := fmt.Sprint("record ", next-1); string(position) != want {
					t.Fatalf("life %d: at %d the position is %q", life, next, position)
				}
			}
			var last atomic.Uint64
			s := NewSource(SourceConfig{
				ID: 77, Gen: gen, Claim: uint64(life), Next: next, Position: position, Partition: "p", Outlet: o, Budget: b,
				Reader: &numbers{n: n, at: int(next)},
				OnMark: func(m wire.Mark) {
					if m.Next < last.Load() || m.Claim != uint64(life) || m.Gen != gen {
						t.Errorf("life %d: mark %+v after %d", life, m, last.Load())
					}
					last.Store(m.Next)
				},
			})
			done := make(chan error, 1)
			go func() { done <- s.Run(r.ctx, r.ctx) }() // ended by its end, or by the fence
			if life < 3 {
				for last.Load() < next+5000 && !s.Stats().Done {
					time.Sleep(time.Millisecond)
				}
				s.fence()
			}
			err := <-done
			reads += s.Stats().Read
			synctest.Wait() // the last mark is there
			l.cut()
			<-l.drained
			if err == nil {
				if st := s.Stats(); !st.Done || last.Load() != n {
					t.Errorf("life %d: %+v, last mark %d", life, st, last.Load())
				}
				if next == n {
					break // it began at its end, and was done at once
				}
				continue
			}
			if !errors.Is(err, ErrFenced) {
				t.Fatal(err)
			}
		}
		if rep := m.check(t, n, same); rep != 0 {
			t.Errorf("%d are there twice", rep)
		}
		if st := h.Stats(); st.Records != n || reads-n < st.Duplicates {
			t.Errorf("%d read, sink: %+v", reads, st)
		}
		t.Logf("%d read of %d", reads, n)
		r.stop()
	})
}
