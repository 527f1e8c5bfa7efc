package sim

import (
	"time"

	"weir/topology"
)

// pauseRules judges A6: what is paused takes nothing, once all have heard of it. Only while nothing
// else goes on: whoever is cut off does not hear. That it goes on afterwards is I13.
type pauseRules struct {
	c      *check
	quiet  *quiet
	paused map[string]bool            // roles, ""; the cluster says so
	taken  map[LifeID]uint64          // records, by handlers
	waited map[topology.NodeID]uint64 // tap: records read during its pause; one had been asked for
}

func newPauseRules(c *check, q *quiet) *pauseRules {
	return &pauseRules{
		c: c, quiet: q,
		paused: make(map[string]bool), taken: make(map[LifeID]uint64), waited: make(map[topology.NodeID]uint64),
	}
}

func (r *pauseRules) see(e *Event) {
	switch e.Kind {
	case EventPaused:
		r.paused[e.Text] = true
		clear(r.waited)
	case EventResumed:
		delete(r.paused, e.Text)
	case EventRead:
		tap := tapOf(e.Text)
		if !r.calm(e.At) || !r.paused[tap] && !r.paused[""] {
			return
		}
		if r.waited[e.Node]++; r.waited[e.Node] > 1 {
			r.c.violated("A6", e.At, aboutRecord(e.Record), "%s reads record %s, and %s is paused", e.Node, recordName(e.Record), tap)
		}
	case EventTaken:
		before := r.taken[e.Life]
		r.taken[e.Life] = e.N
		if role := r.c.h.Life(e.Life).Link.Edge.To; r.calm(e.At) && r.paused[role] && e.N > before {
			r.c.violated("A6", e.At, subject{lives: []LifeID{e.Life}, kinds: []EventKind{EventTaken}},
				"%s takes %d records, and %s is paused", e.Node, e.N-before, role)
		}
	}
}

// calm reports whether all have had the time to hear what the cluster agreed to.
func (r *pauseRules) calm(now time.Duration) bool {
	q := r.quiet
	return q.on == 0 && len(q.frozen) == 0 && now-q.last >= deliveryMax
}

func (r *pauseRules) end(time.Duration) {}
