package node

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/node/api"
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

// leaves starts two nodes with these roles of tap -> a -> b -> sink and lets the first leave while records are on
// their way, and the second as well if both are to.
func leaves(t *testing.T, first, second string, both bool) {
	kinds := map[string]topology.Kind{"tap": topology.KindTap, "a": topology.KindGo, "b": topology.KindGo, "sink": topology.KindSink}
	c := newCluster(t, "tap -> a -> b -> sink", kinds)
	sink := newCollect()
	var count atomic.Int64
	c.add(Role{}, func(cfg *Config) { cfg.Roles = nil })
	var stops []func()
	for _, names := range []string{first, second} {
		var roles []Role
		for name := range strings.FieldsSeq(names) {
			roles = append(roles, map[string]Role{
				"tap":  {Name: "tap", Tap: numbered{1000}},
				"a":    {Name: "a", Capacity: 4, Handler: work(20*time.Millisecond, &count)},
				"b":    {Name: "b", Capacity: 4, Handler: work(20*time.Millisecond, &count)},
				"sink": {Name: "sink", Sink: sink},
			}[name])
		}
		_, stop := c.add(Role{}, func(cfg *Config) { cfg.Roles = roles })
		stops = append(stops, stop)
	}
	c.until(20*time.Second, "on its way", func(st api.Status) bool {
		return len(st.Pipelines) == 1 && st.Pipelines[0].RecordsOut > 10
	})
	late := time.AfterFunc(20*time.Second, func() { panic(fmt.Sprintf("%s and %s, both %v: it still waits", first, second, both)) })
	defer late.Stop() // a Fatal would wait for it as well
	stops[0]()
	if both {
		stops[1]()
	}
}

// A node leaves by itself though what it sent comes back to it by a node that stays, or leaves after it.
func TestLeaveOfBothEnds(t *testing.T) {
	t.Parallel()
	for _, both := range []bool{false, true} {
		for _, ends := range [][2]string{{"tap sink", "a b"}, {"a sink", "tap b"}, {"tap b", "a sink"}, {"a b", "tap sink"}} {
			t.Run(fmt.Sprintf("%s first, both %v", ends[0], both), func(t *testing.T) {
				t.Parallel()
				leaves(t, ends[0], ends[1], both)
			})
		}
	}
}

// A node that leaves does not wait for ever with what nobody takes: others get it, and all arrives.
func TestLeaveOfAStrandedWorker(t *testing.T) {
	t.Parallel()
	const n = 300
	c := newCluster(t, "tap -> map -> sink", mapKinds)
	var count atomic.Int64
	c.add(Role{Name: "tap", Tap: numbered{n}})
	_, stopMap := c.add(Role{Name: "map", Capacity: 4, Handler: work(20*time.Millisecond, &count)})
	sinks := []*collect{newCollect(), newCollect()}
	_, stopSink := c.add(Role{Name: "sink", Sink: sinks[0]})
	c.until(20*time.Second, "on its way", func(st api.Status) bool {
		return len(st.Pipelines) == 1 && st.Pipelines[0].RecordsOut > 10
	})
	stopSink()
	late := time.AfterFunc(20*time.Second, func() { panic("it still waits") }) // a Fatal would wait for it as well
	stopMap()
	late.Stop()
	c.add(Role{Name: "map", Capacity: 4, Handler: work(time.Millisecond, &count)})
	c.add(Role{Name: "sink", Sink: sinks[1]})
	c.until(20*time.Second, "finished", finished)
	c.stop()
	maps.Copy(sinks[0].bodies, sinks[1].bodies)
	if got := len(sinks[0].bodies); got != n {
		t.Errorf("%d different records at the sinks, want %d", got, n)
	}
}
