package node

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/node/api"
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
