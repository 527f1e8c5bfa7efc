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

// paced is numbers at 100 a millisecond: without it, all would flow in no time.
type paced struct{ numbers }

func (r *paced) Next(ctx context.Context) (Out, Mark, error) {
	if r.at%100 == 0 {
		time.Sleep(time.Millisecond)
	}
	return r.numbers.Next(ctx)
}

// A6: a sink that is paused takes nothing, its tap stops within a window, nothing is lost.
func TestPauseInlet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		m := newMemory()
		sink, h := r.sink("sink", m)
		r.link(tap, "tap", "sink", sink, "n1")
		const n = 50_000
		s, done := r.source(tap, b, &paced{numbers{n: n}})
		for h.Stats().Records < 1000 {
			time.Sleep(time.Millisecond)
		}
		sink.Pause(true)
		time.Sleep(time.Second) // virtual: what handlers had is done
		before, read := h.Stats().Records, s.Stats().Read
		time.Sleep(3 * time.Second)
		if after := h.Stats().Records; after != before {
			t.Errorf("paused, and yet it took %d records", after-before)
		}
		if after := s.Stats().Read; after != read || after == n || after-before > windowRecords+1 {
			t.Errorf("the tap read %d records, then %d of %d; %d were taken, the window holds %d", read, after, n, before, windowRecords)
		}
		if sink.Fed("other") {
			t.Error("a paused role with no record in hand waits for its links")
		}
		sink.Pause(false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if rep := m.check(t, n, same); rep != 0 {
			t.Errorf("%d records came twice", rep)
		}
		r.stop()
	})
}

// A role that is paused before anything came takes nothing; a pause that ends is over.
func TestPauseIdleInlet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		m := newMemory()
		sink, h := r.sink("sink", m)
		sink.Pause(true)
		r.link(tap, "tap", "sink", sink, "n1")
		_, done := r.source(tap, b, &numbers{n: 100})
		time.Sleep(time.Minute)
		if got := h.Stats().Records; got != 0 {
			t.Errorf("%d records were taken", got)
		}
		for range 3 {
			sink.Pause(false)
			sink.Pause(true)
		}
		sink.Pause(false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		m.check(t, 100, same)
		r.stop()
	})
}

func TestPauseSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		m := newMemory()
		sink, _ := r.sink("sink", m)
		r.link(tap, "tap", "sink", sink, "n1")
		const n = 50_000
		s, done := r.source(tap, b, &paced{numbers{n: n}})
		for s.Stats().Read < 1000 {
			time.Sleep(time.Millisecond)
		}
		s.Pause(true)
		s.Pause(true)
		time.Sleep(time.Second)
		read := s.Stats()
		time.Sleep(3 * time.Second)
		if after := s.Stats(); after.Read != read.Read || after.Acked != read.Read || read.Read == n {
			t.Errorf("read %d of %d when paused, then %d; acked %d", read.Read, n, after.Read, after.Acked)
		}
		s.Pause(false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if rep := m.check(t, n, same); rep != 0 {
			t.Errorf("%d records came twice", rep)
		}
		r.stop()
	})
}

// Edges come and go while records flow: each record goes by the edges of one moment, what is on
// an edge that ends goes to its end, also where a node of it dies.
func TestRevise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "a")
		to := func(roles ...string) (edges []topology.Edge) {
			for _, role := range roles {
				edges = append(edges, topology.Edge{From: "tap", To: role})
			}
			return edges
		}
		ma, mb := newMemory(), newMemory()
		a1, _ := r.sink("a", ma)
		a2, _ := r.sink("a", ma)
		ib, hb := r.sink("b", mb)
		dying := r.link(tap, "tap", "a", a1, "n1")
		r.link(tap, "tap", "a", a2, "n2")
		const n = 60_000
		s, done := r.source(tap, b, &paced{numbers{n: n}})
		for s.Stats().Acked < 5000 {
			time.Sleep(time.Millisecond)
		}
		tap.Revise(to("a", "b"), "")
		r.link(tap, "tap", "b", ib, "n3")
		for hb.Stats().Records < 5000 {
			time.Sleep(time.Millisecond)
		}
		a1.Pause(true) // it holds records when its edge ends, and then it dies
		a2.Pause(true)
		time.Sleep(time.Second)
		tap.Revise(to("b"), "")
		dying.cut()
		a2.Pause(false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		got := make(map[string]bool)
		for body := range ma.bodies {
			got[body] = true
		}
		for body := range mb.bodies {
			got[body] = true
		}
		if len(got) != n || len(ma.bodies) == n || len(mb.bodies) == n {
			t.Errorf("%d of %d records at a or b, %d at a, %d at b", len(got), n, len(ma.bodies), len(mb.bodies))
		}
		for _, st := range tap.Stats() {
			if st.Inflight != 0 {
				t.Errorf("%d records are stuck on %v", st.Inflight, st.Edge)
			}
		}
		r.stop()
	})
}

// A record that waits for an edge when that is closed goes by the edges there are then.
func TestReviseWhileBlocked(t *testing.T) {
	edges := func(roles ...string) (edges []topology.Edge) {
		for _, role := range roles {
			edges = append(edges, topology.Edge{From: "tap", To: role})
		}
		return edges
	}
	for name, versions := range map[string][][]topology.Edge{
		"a new one":             {edges("a"), edges("b")},
		"one that comes back":   {edges("b"), edges("a"), edges("b")},
		"one that was there":    {edges("a", "b"), edges("b")},
		"the last one, renewed": {edges("a"), edges("c", "b"), edges("b")},
	} {
		for _, send := range []topology.Send{topology.SendCopy, topology.SendSplit} {
			t.Run(name+" "+string(send), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t)
					b := NewBudget(0)
					tap := r.outlet("tap", b, send) // only b will ever have a node
					tap.Revise(versions[0], send)
					m := newMemory()
					sink, _ := r.sink("b", m)
					if name == "one that was there" {
						r.link(tap, "tap", "b", sink, "n1")
					}
					_, done := r.source(tap, b, &numbers{n: 100})
					for _, v := range versions[1:] {
						time.Sleep(time.Second)
						tap.Revise(v, send)
					}
					if name != "one that was there" {
						r.link(tap, "tap", "b", sink, "n1")
					}
					if err := <-done; err != nil {
						t.Fatal(err)
					}
					m.check(t, 100, same)
					r.stop()
				})
			})
		}
	}
}

// A record that waits when the last edge of its port is closed is not taken for handed on.
func TestReviseLeavesNoEdge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "a")
		s, done := r.source(tap, b, &numbers{n: 1})
		synctest.Wait() // a has no node yet
		tap.Revise([]topology.Edge{{From: "tap", Port: "err", To: "a"}}, "")
		if err := <-done; !errors.Is(err, ErrNoEdge) {
			t.Errorf("Run ends with %v and %d records acked, want %v", err, s.Stats().Acked, ErrNoEdge)
		}
		r.stop()
	})
}

// An outlet whose role ends gives back the memory of what is not acked, whether its links end before or
// after, and also of what waits to be tried again: the node's other roles have use for it.
func TestCloseGivesBack(t *testing.T) {
	for _, before := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			b := NewBudget(0)
			tap := r.outlet("tap", b, "", "map")
			var n atomic.Int64
			in := r.inlet(InletConfig{Role: "map", Capacity: 10, Handler: Each(func(ctx context.Context, _ Record, _ Emitter) error {
				if n.Add(1) < 50 {
					return Retry(time.Minute, errors.New("later"))
				}
				<-ctx.Done()
				return ctx.Err()
			})})
			r.link(tap, "tap", "map", in, "n1")
			l := r.link(tap, "tap", "map", in, "n2")
			_, done := r.source(tap, b, &numbers{n: 20_000})
			time.Sleep(time.Second)
			l.cut()
			<-l.drained
			if st := tap.Stats()[0]; st.Retries == 0 || st.Suspects == 0 || b.Held() == 0 {
				t.Fatalf("%d bytes held, %+v: want some that wait", b.Held(), st)
			}
			if before {
				tap.Close()
			}
			r.stop()
			<-done
			if !before {
				tap.Close()
			}
			if b.Held() != 0 || tap.Stats()[0].Inflight == 0 {
				t.Errorf("%d bytes held, %+v", b.Held(), tap.Stats()[0])
			}
		})
	}
}
