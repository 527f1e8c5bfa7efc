package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/node"
	"weir/node/api"
	"weir/topology"
)

// A graph changes while records flow: roles come, roles go, one of them with a node that dies while
// it has records. Nothing is lost, nothing stays behind.
func TestGraphChanges(t *testing.T) {
	long(t)
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprint("dies=", dies), func(t *testing.T) {
			inLab(t, "tap -> a -> sink\ntap -> log", func(l *lab) {
				const n = 20_000
				sink, log := newArrivals(), newArrivals()
				l.start("l1", node.Role{Name: "log", Sink: log})
				l.start("n1")
				l.start("a1", node.Role{Name: "a", Handler: via("a")})
				l.start("a2", node.Role{Name: "a", Handler: via("a")})
				l.start("b1", node.Role{Name: "b", Handler: via("b")})
				l.start("c1", node.Role{Name: "c", Handler: via("c")})
				l.start("s1", node.Role{Name: "sink", Sink: sink})
				l.start("t1", node.Role{Name: "tap", Tap: counted{n}})
				l.until("n1", "records", func(api.Status) bool { return sink.by("a") > 1000 })

				l.apply("b1", "tap -> a, b -> sink") // a role more, and one less
				l.until("n1", "records by b", func(api.Status) bool { return sink.by("b") > 1000 })

				l.until("n1", "the log has ended", func(api.Status) bool { return log.ended() })
				if came := log.by(""); came < 1000 || came == n {
					t.Errorf("%d records came to a sink that left", came)
				}

				l.apply("s1", "tap -> b -> sink\ntap -> c -> sink") // one for another
				if dies {
					l.kill("a1")
				}
				st := l.until("n1", "what left has ended", settled)
				if e := st.Edges; len(e) != 4 || st.Pipelines[0].Version != 3 {
					t.Errorf("version %d, edges %+v", st.Pipelines[0].Version, e)
				}
				l.until("n1", "records by c", func(api.Status) bool { return sink.by("c") > 1000 })
				byA := sink.by("a")

				l.apply("t1", "tap -> b -> c -> sink") // in another order
				l.until("n1", "what left has ended, records by b and c", func(st api.Status) bool { return settled(st) && sink.by("bc") > 0 })
				l.apply("t1", "tap -> b -> a -> sink") // a node again at work that ended
				l.until("n1", "finished", finished)
				sink.check(t, n, dies)
				if sink.by("a") != byA || sink.by("bc") == 0 || sink.by("ba") == 0 || sink.by("b")+sink.by("bc")+sink.by("ba")+byA < n {
					t.Errorf("by way: %v, by a before it went %d", sink.times, byA)
				}
			})
		})
	}
}

// A tap that leaves reads no more, and what it read arrives.
func TestTapLeaves(t *testing.T) {
	inLab(t, "tap -> a -> sink\nc -> a", func(l *lab) {
		l.first.Roles[1].Kind = topology.KindTap // c
		const n = 20_000
		sink := newArrivals()
		l.start("n1")
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("c1", node.Role{Name: "c", Tap: counted{0}})
		l.start("t1", node.Role{Name: "tap", Tap: counted{n}})
		l.until("n1", "records", func(api.Status) bool { return sink.by("a") > 1000 })
		p := l.pipeline("c -> a -> sink")
		p.Roles[1].Kind = topology.KindTap
		if _, err := l.nodes["n1"].Apply(context.Background(), api.Revision{Pipeline: p, Version: 1}); err != nil {
			t.Fatal(err)
		}
		l.until("n1", "the tap has ended", settled)
		read := sink.by("a")
		time.Sleep(time.Second)
		if sink.by("a") != read || read == n {
			t.Errorf("%d records came, then %d", read, sink.by("a"))
		}
		sink.check(t, read, false)
	})
}

// A6: a paused role takes nothing, whoever leads; what is before it waits within its windows.
func TestPauseOutlivesTheLeader(t *testing.T) {
	long(t)
	inLab(t, "tap -> a -> sink", func(l *lab) {
		const n = 30_000
		sink := newArrivals()
		ctx := context.Background()
		l.start("n1")
		l.start("n2")
		l.start("n3")
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.start("t1", node.Role{Name: "tap", Tap: counted{n}})
		st := l.until("t1", "records, and three voters", func(st api.Status) bool { return sink.by("a") > 1000 && len(st.Voters) == 3 })
		if err := l.nodes["s1"].Pause(ctx, "p/sink", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		before := sink.by("a")
		l.kill(st.Leader)
		time.Sleep(10 * time.Second)
		st = l.until("t1", "another leader", func(next api.Status) bool { return next.Quorum && next.Leader != st.Leader })
		if p := st.Pipelines[0]; p.State != "paused" || sink.by("a") != before || p.RecordsIn == n || p.RecordsIn-uint64(before) > 2*4096+1 {
			t.Errorf("paused: %+v; %d records came, then %d", p, before, sink.by("a"))
		}
		read := st.Pipelines[0].RecordsIn
		for _, what := range []string{"sink", "p/sin", "q"} {
			if err := l.nodes["t1"].Pause(ctx, what, false); err == nil {
				t.Errorf("%s goes on", what)
			}
		}
		l.start("s2", node.Role{Name: "sink", Sink: sink}) // a node that joins a paused role
		time.Sleep(3 * time.Second)
		if got := l.until("t1", "status", func(api.Status) bool { return true }).Pipelines[0].RecordsIn; got > read+4096+1 || sink.by("a") != before {
			t.Errorf("another node of the role: the tap read %d, then %d; %d records came", read, got, sink.by("a"))
		}
		if err := l.nodes["t1"].Pause(ctx, "p/sink", false); err != nil {
			t.Fatal(err)
		}
		l.until("t1", "finished", finished)
		sink.check(t, n, false)

		if err := l.nodes["t1"].Pause(ctx, "p", true); err != nil {
			t.Fatal(err)
		}
		if err := l.nodes["t1"].Pause(ctx, "p/tap", false); err == nil || !strings.HasSuffix(err.Error(), "weir resume p") {
			t.Errorf("a tap of a paused pipeline: %v", err)
		}
	})
}

// A call needs a leader, and says so when there is none; records need none.
func TestCallsWithoutLeader(t *testing.T) {
	inLab(t, "tap -> a -> sink", func(l *lab) {
		sink := newArrivals()
		l.start("n1")
		l.start("n2")
		l.start("n3")
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.start("t1", node.Role{Name: "tap", Tap: counted{60_000}})
		st := l.until("t1", "three voters", func(st api.Status) bool { return sink.by("a") > 100 && len(st.Voters) == 3 })
		for _, v := range st.Voters[:2] {
			l.kill(v)
		}
		time.Sleep(5 * time.Second)
		before := sink.by("a")
		err := l.nodes["s1"].Pause(context.Background(), "p", true)
		var failure *api.Error
		want := "there is no leader: NO QUORUM (1/3 voters): the data flows on, the graph is frozen; try again"
		if !errors.As(err, &failure) || failure.Text != want || failure.Exit != 75 || failure.Status != 503 {
			t.Errorf("pause: %#v, want %q", err, want)
		}
		if sink.by("a") <= before {
			t.Error("no record came while nobody leads")
		}
	})
}

// Raft runs at a node before any node may list it: what tells a run whom it may lose (mayLose).
func TestStandsBeforeItVotes(t *testing.T) {
	inLab(t, "tap -> a -> sink", func(l *lab) {
		for i := range 5 {
			l.start(fmt.Sprint("n", i+1))
		}
		st := l.until("n1", "three voters", func(st api.Status) bool { return len(st.Voters) == 3 })
		others := slices.DeleteFunc(st.Voters, func(id string) bool { return id == st.Leader })
		l.kill(others[0])
		stood, waited, replaced := make(map[topology.NodeID]bool), 0, false
		for range 10_000 { // ms
			var all []node.View
			stands := make(map[topology.NodeID]bool)
			for id, n := range l.nodes {
				v := n.View()
				all, stands[topology.NodeID(id)] = append(all, v), v.Stands
			}
			for _, v := range all {
				for _, id := range v.Voters {
					if l.nodes[string(id)] != nil && !stood[id] && len(stood) > 0 {
						t.Fatalf("%s votes and did not stand a moment before", id)
					}
				}
				if v.Leads {
					replaced = !slices.Contains(v.Voters, topology.NodeID(others[0]))
					for id, stands := range stands {
						if stands && !slices.Contains(v.Voters, id) {
							waited++
						}
					}
				}
			}
			stood = stands
			time.Sleep(time.Millisecond) // the pace of the looks, in virtual time
		}
		if waited == 0 || !replaced {
			t.Errorf("seen to stand before it votes for %d ms, want some; the dead one replaced: %v", waited, replaced)
		}
	})
}

// A node drains at the word of another: it leaves, ends well, and nothing is sent twice.
func TestDrain(t *testing.T) {
	inLab(t, "tap -> a -> sink", func(l *lab) {
		const n = 20_000
		sink := newArrivals()
		ctx := context.Background()
		l.start("n1")
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.start("a2", node.Role{Name: "a", Handler: via("a")})
		l.start("t1", node.Role{Name: "tap", Tap: counted{n}})
		l.until("n1", "records", func(api.Status) bool { return sink.by("a") > 1000 })
		if _, err := l.nodes["n1"].Drain(ctx, api.Drain{Node: "a3"}); err == nil || err.Error() != "there is no node a3: did you mean a1?" {
			t.Errorf("drain a3: %v", err)
		}
		d, err := l.nodes["n1"].Drain(ctx, api.Drain{Node: "a2"})
		if err != nil || len(d.Notes) != 0 || d.Self {
			t.Errorf("drain a2: %+v, %v", d, err)
		}
		if err := <-l.nodes["a2"].done; err != nil {
			t.Errorf("a2 ends with %v", err)
		}
		l.nodes["a2"].done <- nil
		st := l.until("n1", "a2 has left", func(st api.Status) bool {
			for _, node := range st.Nodes {
				if node.ID == "a2" && node.State != "left" {
					return false
				}
			}
			return true
		})
		for _, e := range st.Edges {
			if e.RedeliveredTotal != 0 {
				t.Errorf("%s -> %s: %d sent again", e.From, e.To, e.RedeliveredTotal)
			}
		}
		if d, err = l.nodes["a1"].Drain(ctx, api.Drain{Node: "s1"}); err != nil || len(d.Notes) != 1 || !strings.Contains(d.Notes[0], "role sink of pipeline p: its records wait") {
			t.Errorf("drain the only sink: %+v, %v", d, err)
		}
		<-l.nodes["s1"].done
		l.nodes["s1"].done <- nil
		l.start("s2", node.Role{Name: "sink", Sink: sink})
		l.until("n1", "finished", finished)
		sink.check(t, n, false)
	})
}

// A node of a paused role drains: what it did not take goes to others, once the role goes on.
func TestDrainPaused(t *testing.T) {
	inLab(t, "tap -> a -> sink", func(l *lab) {
		const n = 20_000
		sink := newArrivals()
		ctx := context.Background()
		l.start("n1")
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.start("t1", node.Role{Name: "tap", Tap: counted{n}})
		l.until("n1", "records", func(api.Status) bool { return sink.by("a") > 1000 })
		if err := l.nodes["n1"].Pause(ctx, "p/sink", true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		before := sink.by("a")
		if _, err := l.nodes["s1"].Drain(ctx, api.Drain{}); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-l.nodes["s1"].done:
			if err != nil {
				t.Errorf("s1 ends with %v", err)
			}
			l.nodes["s1"].done <- nil
		case <-time.After(10 * time.Second):
			t.Error("a node of a paused role does not end")
		}
		l.start("s2", node.Role{Name: "sink", Sink: sink})
		time.Sleep(time.Second)
		if sink.by("a") != before {
			t.Errorf("paused, and yet %d records came", sink.by("a")-before)
		}
		if err := l.nodes["n1"].Pause(ctx, "p/sink", false); err != nil {
			t.Fatal(err)
		}
		l.until("n1", "finished", finished)
		sink.check(t, n, false)
	})
}

// Of two who change the same version one is told.
func TestApplyMeanwhile(t *testing.T) {
	inLab(t, "tap -> a -> sink", func(l *lab) {
		l.start("n1")
		l.start("n2")
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.until("n1", "the pipeline", func(st api.Status) bool { return len(st.Pipelines) == 1 && len(st.Nodes) == 3 })
		l.apply("n2", "tap -> a, b -> sink")
		_, err := l.nodes["n1"].Apply(context.Background(), api.Revision{Pipeline: l.pipeline("tap -> b -> sink"), Version: 1})
		var failure *api.Error
		want := "pipeline p was changed meanwhile: it is at version 2, not 1 as planned; look at it again with weir plan"
		if !errors.As(err, &failure) || failure.Text != want || failure.Status != 409 || failure.Exit != 75 {
			t.Errorf("apply: %#v, want %q", err, want)
		}
		bad := l.pipeline("tap -> a -> sink")
		bad.Roles = bad.Roles[1:]
		if _, err := l.nodes["n1"].Plan(context.Background(), api.Revision{Pipeline: bad}); !errors.As(err, &failure) || failure.Status != 422 || failure.Exit != 78 {
			t.Errorf("plan of a pipeline without a role: %v", err)
		}
	})
}
