package sim

import (
	"time"

	"weir/topology"
)

// controlRules judges what nodes agree on: I11 (one leader a term, one state an index), I12 (one
// layout an epoch) and I14 (one log).
type controlRules struct {
	c       *check
	leaders map[uint64]topology.NodeID // by term
	states  map[uint64]*Event          // by index
	log     *Event                     // the first state of a log
	epochs  map[uint64]*epochSeen
}

// epochSeen is the links of one epoch, as nodes follow them.
type epochSeen struct {
	links map[topology.NodeID]map[uint64]bool // by node, hashes
	named map[topology.NodeID][]LinkSeen      // by node: links to or from it that the other end follows
}

func newControlRules(c *check) *controlRules {
	return &controlRules{
		c: c, leaders: make(map[uint64]topology.NodeID), states: make(map[uint64]*Event), epochs: make(map[uint64]*epochSeen),
	}
}

func (r *controlRules) see(e *Event) {
	switch e.Kind {
	case EventElected:
		if other, ok := r.leaders[e.N]; ok && other != e.Node {
			r.violated("I11", e, other, "%s and %s both lead in term %d", e.Node, other, e.N)
		}
		r.leaders[e.N] = e.Node
	case EventState:
		r.state(e)
	case EventLayout:
		r.layout(e)
	}
}

func (r *controlRules) state(e *Event) {
	s := e.State
	if s.LogID == 0 {
		return // it belongs to no cluster yet
	}
	if r.log == nil {
		r.log = e
	}
	if s.LogID != r.log.State.LogID {
		r.violated("I14", e, r.log.Node, "%s follows another log than %s", e.Node, r.log.Node)
		return
	}
	first := r.states[s.Index]
	if first == nil {
		r.states[s.Index] = e
	} else if first.State.Hash != s.Hash {
		r.violated("I11", e, first.Node, "%s and %s hold different states of index %d", e.Node, first.Node, s.Index)
	}
}

// layout checks that both ends of each link follow it, as soon as both follow the epoch. A node
// without links says nothing: its pipeline may have failed, which no epoch tells.
func (r *controlRules) layout(e *Event) {
	ep := r.epochs[e.N]
	if ep == nil {
		ep = &epochSeen{make(map[topology.NodeID]map[uint64]bool), make(map[topology.NodeID][]LinkSeen)}
		r.epochs[e.N] = ep
	}
	if len(e.State.Layout) == 0 || ep.links[e.Node] != nil {
		return
	}
	ours := make(map[uint64]bool, len(e.State.Layout))
	for _, l := range e.State.Layout {
		ours[l.Hash] = true
		other := l.From
		if other == e.Node {
			other = l.To
		}
		ep.named[other] = append(ep.named[other], l)
		if theirs := ep.links[other]; theirs != nil && !theirs[l.Hash] {
			r.violated("I12", e, other, "in epoch %d %s has a link from %s to %s that the other end has not", e.N, e.Node, l.From, l.To)
		}
	}
	for _, l := range ep.named[e.Node] {
		if !ours[l.Hash] {
			r.violated("I12", e, l.From, "in epoch %d %s has no link from %s to %s, and the other end has", e.N, e.Node, l.From, l.To)
		}
	}
	ep.links[e.Node] = ours
}

func (r *controlRules) violated(rule string, e *Event, other topology.NodeID, format string, args ...any) {
	s := subject{nodes: []topology.NodeID{e.Node, other}, kinds: []EventKind{e.Kind}}
	r.c.violated(rule, e.At, s, format, args...)
}

func (r *controlRules) end(time.Duration) {}
