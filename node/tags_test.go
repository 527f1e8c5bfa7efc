package node

import (
	"sync/atomic"
	"testing"
	"time"

	"weir/node/api"
	"weir/topology"
)

// A25: a role that needs a tag waits for a node that has it, and no other works for it.
func TestTags(t *testing.T) {
	const n = 1000
	c := newCluster(t, "tap -> pipe-29 -> sink", map[string]topology.Kind{
		"tap": topology.KindTap, "pipe-29": topology.KindGo, "sink": topology.KindSink,
	})
	for i := range c.graph.Roles {
		if r := &c.graph.Roles[i]; r.Name == "pipe-29" {
			r.Needs = []string{"gpu"}
		}
	}
	var untagged, tagged atomic.Int64
	sink := newCollect()
	c.add(Role{Name: "tap", Tap: numbered{n}})
	c.add(Role{Name: "pipe-29", Capacity: 10, Handler: work(0, &untagged)})
	c.add(Role{Name: "sink", Sink: sink}, func(cfg *Config) { cfg.Tags = []string{"big"} })
	c.until(20*time.Second, "waiting for a node with the tag", func(st api.Status) bool {
		return len(st.Pipelines) == 1 && st.Pipelines[0].State == "waiting" &&
			st.Pipelines[0].Reason == "no node serves role pipe-29 with --tag gpu"
	})
	c.add(Role{Name: "pipe-29", Capacity: 10, Handler: work(0, &tagged)}, func(cfg *Config) { cfg.Tags = []string{"big", "gpu"} })
	c.until(20*time.Second, "finished", finished)
	sink.check(t, n, "+")
	if untagged.Load() != 0 || tagged.Load() != n {
		t.Errorf("%d records without the tag, %d with it; want 0 and %d", untagged.Load(), tagged.Load(), n)
	}
}
