package stream

import (
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
