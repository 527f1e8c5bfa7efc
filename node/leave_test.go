package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/consensus"
	"weir/node/api"
	"weir/stream"
	"weir/topology"
)

// Two nodes that send to each other and leave at the same time do not wait for each other: what
// is in flight ends, and nothing is lost that was read.
func TestNeighboursLeaveTogether(t *testing.T) {
	t.Parallel()
	for _, delay := range []time.Duration{0, 20 * time.Millisecond} { // finished, and in the middle
		c := newCluster(t, "tap -> map -> sink", mapKinds)
		sink := newCollect()
		var count atomic.Int64
		c.add(Role{}, func(cfg *Config) { cfg.Roles = nil })
		_, stopEnds := c.add(Role{}, func(cfg *Config) {
			cfg.Roles = []Role{{Name: "tap", Tap: numbered{1000}}, {Name: "sink", Sink: sink}}
		})
		_, stopMap := c.add(Role{Name: "map", Capacity: 4, Handler: work(delay, &count)})
		st := c.until(20*time.Second, "on its way", func(st api.Status) bool {
			return len(st.Pipelines) == 1 && (delay > 0 && st.Pipelines[0].RecordsOut > 10 || finished(st))
		})
		both := make(chan struct{})
		var leaving sync.WaitGroup
		leaving.Go(stopEnds)
		leaving.Go(stopMap)
		go func() { defer close(both); leaving.Wait() }() // ends with the test
		select {
		case <-both:
		case <-time.After(30 * time.Second):
			panic(fmt.Sprintf("%v a record: they still wait for each other", delay)) // a Fatal would wait for them as well
		}
		sink.mu.Lock()
		if out := uint64(len(sink.bodies)); out < st.Pipelines[0].RecordsOut || out != uint64(count.Load()) {
			t.Errorf("%v a record: %d at the sink, %d made, %d before", delay, out, count.Load(), st.Pipelines[0].RecordsOut)
		}
		sink.mu.Unlock()
		c.stop()
	}
}

// A node leaves by itself though what it sent comes back to it by a node that stays, or leaves as well: when all is
// acked, where it need not go before, else when nothing was for drainQuiet.
func TestLeaveOfBothEnds(t *testing.T) {
	t.Parallel()
	const stays = -1
	for _, c := range []struct {
		first, second string // roles of two nodes
		after         time.Duration
		whole         bool // all that was read arrives
	}{
		{"tap sink", "a b c", stays, true},
		{"tap sink", "a b c", 0, true},
		{"tap sink", "a b c", 100 * time.Millisecond, true},
		{"a b c", "tap sink", 100 * time.Millisecond, true},
		{"sink", "tap a b c", 100 * time.Millisecond, false},
		{"a sink", "tap b c", stays, false},
		{"a sink", "tap b c", 0, false},
		{"a sink", "tap b c", 100 * time.Millisecond, false},
		{"b sink", "tap a c", 100 * time.Millisecond, false},
		{"a c", "tap b sink", 100 * time.Millisecond, false},
	} {
		if testing.Short() && !c.whole {
			continue
		}
		name := fmt.Sprintf("%s, then %s after %v", c.first, c.second, c.after)
		if c.after == stays {
			name = fmt.Sprintf("%s, not %s", c.first, c.second)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stops, sent, sink := twoNodes(t, c.first, c.second)
			late := time.AfterFunc(4*drainQuiet, func() { panic(name + ": still not left") }) // a Fatal would wait as well
			defer late.Stop()
			var leaving sync.WaitGroup
			leaving.Go(stops[0])
			if c.after != stays {
				time.Sleep(c.after) // what a signal to a second machine takes longer
				leaving.Go(stops[1])
			}
			leaving.Wait()
			sink.mu.Lock()
			defer sink.mu.Unlock()
			if out := int64(len(sink.bodies)); c.whole && out != sent.Load() {
				t.Errorf("%d of %d at the sink", out, sent.Load())
			}
		})
	}
}

// twoNodes starts two nodes with these roles of a pipeline whose records are on their way when it returns.
// sent counts what role a has done.
func twoNodes(t *testing.T, first, second string) (stops []func(), sent *atomic.Int64, sink *collect) {
	sent, sink = new(atomic.Int64), newCollect()
	counts := map[string]*atomic.Int64{"a": sent, "b": new(atomic.Int64), "c": new(atomic.Int64)}
	kinds := map[string]topology.Kind{"tap": topology.KindTap, "a": topology.KindGo, "b": topology.KindGo, "c": topology.KindGo, "sink": topology.KindSink}
	c := newCluster(t, "tap -> a -> b -> c -> sink", kinds)
	c.add(Role{}, func(cfg *Config) { cfg.Roles = nil })
	for _, names := range []string{first, second} {
		var roles []Role
		for name := range strings.FieldsSeq(names) {
			switch kinds[name] {
			case topology.KindTap:
				roles = append(roles, Role{Name: name, Tap: numbered{1000}})
			case topology.KindSink:
				roles = append(roles, Role{Name: name, Sink: sink})
			default:
				roles = append(roles, Role{Name: name, Capacity: 4, Handler: work(20*time.Millisecond, counts[name])})
			}
		}
		_, stop := c.add(Role{}, func(cfg *Config) { cfg.Roles = roles })
		stops = append(stops, stop)
	}
	c.until(20*time.Second, "on its way", func(st api.Status) bool {
		return len(st.Pipelines) == 1 && st.Pipelines[0].RecordsOut > 10
	})
	return stops, sent, sink
}

// What a node that leaves has from others, and can send no further, goes back, though there is a new sink: others get
// it, and all arrives.
func TestLeaveOfAStrandedWorker(t *testing.T) {
	t.Parallel()
	const n = 300
	kinds := map[string]topology.Kind{"tap": topology.KindTap, "a": topology.KindGo, "b": topology.KindGo, "sink": topology.KindSink}
	c := newCluster(t, "tap -> a -> b -> sink", kinds)
	var count atomic.Int64
	c.add(Role{Name: "tap", Tap: numbered{n}})
	worker := func(cfg *Config) {
		for _, name := range []string{"a", "b"} {
			cfg.Roles = append(cfg.Roles, Role{Name: name, Capacity: 4, Handler: work(10*time.Millisecond, &count)})
		}
		cfg.Roles = cfg.Roles[1:]
	}
	leaver, stopWorker := c.add(Role{}, worker)
	sinks := []*collect{newCollect(), newCollect()}
	_, stopSink := c.add(Role{Name: "sink", Sink: sinks[0]})
	c.until(20*time.Second, "on its way", func(st api.Status) bool {
		return len(st.Pipelines) == 1 && st.Pipelines[0].RecordsOut > 10
	})
	stopSink()
	left := make(chan struct{})
	go func() { defer close(left); stopWorker() }() // ends with the cluster
	c.until(20*time.Second, "it leaves", func(api.Status) bool {
		_, in := c.nodes[0].consensus.State().Node(leaver.ID())
		return !in
	})
	c.add(Role{Name: "sink", Sink: sinks[1]})
	late := time.AfterFunc(4*drainQuiet, func() { panic("it still waits") }) // a Fatal would wait for it as well
	<-left
	late.Stop()
	c.add(Role{}, worker)
	c.until(20*time.Second, "finished", finished)
	c.stop()
	maps.Copy(sinks[0].bodies, sinks[1].bodies)
	if got := len(sinks[0].bodies); got != n {
		t.Errorf("%d different records at the sinks, want %d", got, n)
	}
}

// Work that takes longer than drainQuiet is finished: by the only node of it, of the role before it and of the sink,
// or elsewhere, though it has a port dead of which no node takes anything.
func TestLeaveWaitsForSlowWork(t *testing.T) {
	t.Parallel()
	kinds := map[string]topology.Kind{"tap": topology.KindTap, "a": topology.KindGo, "b": topology.KindGo, "sink": topology.KindSink, "letters": topology.KindSink}
	for _, leaves := range [][]string{{"a", "b", "sink"}, {"a"}} {
		t.Run(strings.Join(leaves, " "), func(t *testing.T) {
			t.Parallel()
			var sent, begun, ended atomic.Int64
			slow := stream.Each(func(ctx context.Context, r stream.Record, e stream.Emitter) error {
				begun.Add(1)
				select {
				case <-time.After(drainQuiet + 2*time.Second):
				case <-ctx.Done():
					return ctx.Err()
				}
				ended.Add(1)
				return e.Emit(ctx, stream.Out{Body: r.Body})
			})
			sink := newCollect()
			var leaver, other []Role
			for _, r := range []Role{{Name: "a", Handler: work(0, &sent)}, {Name: "b", Capacity: 4, Handler: slow}, {Name: "sink", Sink: sink}} {
				if slices.Contains(leaves, r.Name) {
					leaver = append(leaver, r)
				} else {
					other = append(other, r)
				}
			}
			c := newCluster(t, "tap -> a -> b -> sink\nb.dead -> letters", kinds)
			c.add(Role{Name: "tap", Tap: numbered{4}})
			_, stop := c.add(Role{}, func(cfg *Config) { cfg.Roles = leaver })
			c.add(Role{}, func(cfg *Config) { cfg.Roles = other })
			c.until(20*time.Second, "in hand", func(api.Status) bool { return begun.Load() == 4 })
			stop()
			sink.mu.Lock()
			defer sink.mu.Unlock()
			if out := len(sink.bodies); ended.Load() != 4 || out != 4 {
				t.Errorf("%d of 4 ended, %d at the sink", ended.Load(), out)
			}
		})
	}
}

// sharedTap has two partitions that all nodes see; opened counts.
type sharedTap struct{ opened *atomic.Int64 }

func (t sharedTap) Shared() bool                                 { return true }
func (t sharedTap) Partitions(context.Context) ([]string, error) { return []string{"x", "y"}, nil }
func (t sharedTap) Open(context.Context, string, stream.Mark) (stream.Reader, error) {
	t.opened.Add(1)
	return &numberedReader{n: 1 << 20}, nil
}

// What a node read that leaves is read on by another at once, though its records take long.
func TestLeaveHandsOnWhatIsShared(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "tap -> map -> sink", mapKinds)
	var opened, count atomic.Int64
	c.add(Role{Name: "sink", Sink: newCollect()})
	roles := []Role{{Name: "tap", Tap: sharedTap{&opened}}, {Name: "map", Capacity: 2, Handler: work(2*time.Second, &count)}}
	leaver, stop := c.add(Role{}, func(cfg *Config) { cfg.Roles = roles })
	other, _ := c.add(Role{}, func(cfg *Config) { cfg.Roles = roles })
	reads := func(st api.Status, n *Node) (partitions int) {
		for _, p := range st.Pipelines {
			for _, tap := range p.Taps {
				if tap.Node == string(n.ID()) {
					partitions++
				}
			}
		}
		return partitions
	}
	c.until(30*time.Second, "each reads one", func(st api.Status) bool {
		return reads(st, leaver) == 1 && reads(st, other) == 1 && opened.Load() >= 2 && count.Load() > 2
	})
	began := time.Now()
	left := make(chan time.Duration, 1)
	go func() { stop(); left <- time.Since(began) }() // ends with the cluster
	c.until(30*time.Second, "the other reads both", func(st api.Status) bool { return reads(st, other) == 2 })
	if moved, all := time.Since(began), <-left; moved > all/2 || all < 2*time.Second {
		t.Errorf("the other read on after %v, and %v after that it had left", moved, all-moved)
	}
}

// A tap that starts while its node leaves reads nothing, so that the node gets to leave.
func TestTapStartsWhileItLeaves(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "tap -> map -> sink", mapKinds)
	var count, opened atomic.Int64
	c.add(Role{}, func(cfg *Config) { cfg.Roles = nil })
	n, stop := c.add(Role{}, func(cfg *Config) {
		cfg.Roles = []Role{{Name: "tap", Tap: numbered{1000}}, {Name: "late", Tap: sharedTap{&opened}}}
	})
	c.add(Role{}, func(cfg *Config) {
		cfg.Roles = []Role{{Name: "map", Capacity: 2, Handler: work(500*time.Millisecond, &count)}, {Name: "sink", Sink: newCollect()}, {Name: "end", Sink: newCollect()}}
	})
	c.until(20*time.Second, "in hand", func(api.Status) bool { return count.Load() > 0 })
	left := make(chan struct{})
	go func() { defer close(left); stop() }() // ends with the cluster
	c.until(10*time.Second, "it drains", func(api.Status) bool { return n.draining.Load() })
	time.Sleep(100 * time.Millisecond) // by then it has stopped the taps that it had; earlier the test would show less
	g, err := topology.Parse("late -> end")
	if err != nil {
		t.Fatal(err)
	}
	p := topology.Pipeline{Name: "q", Graph: g, Roles: []topology.Role{{Name: "late", Kind: topology.KindTap}, {Name: "end", Kind: topology.KindSink}}}
	if err := c.nodes[0].consensus.Propose(c.ctx, consensus.Create(p)); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(4*drainQuiet, func() { panic("it reads on, and does not leave") }) // a Fatal would wait as well
	<-left
	late.Stop()
	if opened.Load() > 0 {
		t.Error("it began to read")
	}
}
