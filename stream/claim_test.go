package stream

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/topology"
)

// F27: of two that read one partition, the one with the older claim is refused at the first hop, by
// what came before or by what the State says, and its source ends with ErrFenced. What it had sent
// before goes on.
func TestOlderClaimIsFenced(t *testing.T) {
	for _, by := range []string{"record", "state"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				b := NewBudget(0)
				m := newMemory()
				sink, _ := r.sink("sink", m)
				var known atomic.Uint64
				mid := r.outlet("map", b, "", "sink")
				in := r.inlet(InletConfig{Role: "map", Handler: shout, Outlet: mid, Budget: b, Claim: func(source uint64) uint64 {
					if source != 1 {
						t.Errorf("asked for the claim of source %d", source)
					}
					return known.Load()
				}})
				r.linkFrom("n1", mid, "map", "sink", sink, "n9")
				read := func(node topology.NodeID, claim, next uint64, reader Reader) (*Source, chan error) {
					tap := r.outlet("tap", b, "", "map")
					r.linkFrom(node, tap, "tap", "map", in, "n1")
					s := NewSource(SourceConfig{ID: 1, Gen: 1, Claim: claim, Next: next, Partition: "test", Reader: reader, Outlet: tap, Budget: b})
					done := make(chan error, 1)
					r.group.Go(func() { done <- s.Run(r.ctx, r.ctx) })
					return s, done
				}
				zombie, zombied := read("z", 5, 0, &trickle{n: 1000, every: time.Second})
				time.Sleep(10500 * time.Millisecond)
				before := zombie.Stats()
				if by == "state" {
					known.Store(6)
				} else {
					_, done := read("y", 6, 10, &numbers{n: 20})
					if err := <-done; err != nil {
						t.Fatal(err)
					}
				}
				select {
				case err := <-zombied:
					if !errors.Is(err, ErrFenced) {
						t.Errorf("the older claim ended with %v", err)
					}
				case <-time.After(time.Minute):
					t.Error("the older claim reads on")
				}
				if st := zombie.Stats(); before.Acked != 10 || st.Acked != 10 || st.Read != 11 {
					t.Errorf("the older claim: %+v, then %+v; want 10 acked, one refused", before, st)
				}
				if by == "record" {
					m.mu.Lock()
					if len(m.bodies) != 30 {
						t.Errorf("%d records at the sink, want 10 and 20", len(m.bodies))
					}
					m.mu.Unlock()
				}
				r.stop()
			})
		})
	}
}

// L7, L8: of a fan-out with a branch that nobody serves, nothing is acked, and the tap stops in bounds.
func TestBranchWithoutConsumerBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "here", "nowhere")
		r.link(tap, "tap", "here", r.inlet(InletConfig{Role: "here", Handler: drop, Budget: b}), "n1")
		s, done := r.source(tap, b, &numbers{n: 100_000})
		time.Sleep(time.Hour)
		if st := s.Stats(); st.Acked != 0 || st.Read > 2 {
			t.Errorf("without a consumer of one branch: %+v", st)
		}
		m := newMemory()
		in, _ := r.sink("nowhere", m)
		r.link(tap, "tap", "nowhere", in, "n2")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		m.check(t, 100_000, same)
		r.stop()
	})
}

// L10: a sender keeps a record until the chain has acked it: not when it was written, not when a handler
// had it. The node between dies with all that it was told.
func TestCustodyUntilTheChainAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		stalled := newMemory()
		stalled.stalled = make(chan struct{})
		blocked, _ := r.sink("sink", stalled)
		first := r.outlet("map", b, "", "sink")
		r.linkFrom("n1", first, "map", "sink", blocked, "n8")
		l := r.link(tap, "tap", "map", r.inlet(InletConfig{Role: "map", Handler: copier, Outlet: first, Budget: b}), "n1")
		s, done := r.source(tap, b, &numbers{n: 500})
		time.Sleep(time.Minute)
		if st := s.Stats(); st.Read != 500 || st.Acked != 0 {
			t.Errorf("before the sink has anything: %+v", st)
		}
		l.cut()
		<-l.drained
		if st := tap.Stats()[0]; st.Inflight != 500 || st.Suspects != 0 {
			t.Errorf("after the death of a node that had handled all: %+v, want all 500 kept, none suspected", st)
		}
		m := newMemory()
		sink, _ := r.sink("sink", m)
		second := r.outlet("map", b, "", "sink")
		r.linkFrom("n2", second, "map", "sink", sink, "n9")
		r.link(tap, "tap", "map", r.inlet(InletConfig{Role: "map", Handler: copier, Outlet: second, Budget: b}), "n2")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		m.check(t, 500, same)
		r.stop()
	})
}

// K12: acks are read while nothing can be written: a receiver that takes nothing more acks what it has.
func TestAcksAreReadWhileWritesBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		release, all := make(chan struct{}), make(chan struct{})
		in := r.inlet(InletConfig{Role: "map", Budget: b, Capacity: 4, Handler: Each(func(ctx context.Context, rec Record, _ Emitter) error {
			if rec.ID.Seq < 4 {
				hang(ctx, release)
			} else {
				hang(ctx, all)
			}
			return nil
		})})
		r.link(tap, "tap", "map", in, "n1")
		s, done := r.source(tap, b, &numbers{n: 50_000})
		time.Sleep(time.Second)
		close(release)
		time.Sleep(time.Second)
		if st := s.Stats(); st.Acked != 4 {
			t.Errorf("%d acked while the role is busy, want the 4 that it has handled", st.Acked)
		}
		close(all)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.stop()
	})
}
