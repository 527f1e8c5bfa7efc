package sim

import (
	"maps"
	"time"

	"weir/topology"
)

// fenceRules judges I5: a receiver reads one life of a link at a time, each later than those
// before, and takes nothing of one that has ended; and no record of a source whose claim is older than
// one it has taken.
type fenceRules struct {
	c      *check
	links  map[topology.Link]*fenceSeen
	ended  map[LifeID]bool
	claims map[claimer]uint64 // the newest taken
}

// claimer is a source as a node knows it.
type claimer struct {
	node   topology.NodeID
	source uint64
}

// lifeEvents are the begin and the end of a life, at both ends of a link.
var lifeEvents = []EventKind{EventLinkOpen, EventLinkClose, EventLinkAccept, EventLinkEnd}

type fenceSeen struct {
	open   LifeID // 0: none
	newest LifeID
}

func newFenceRules(c *check) *fenceRules {
	return &fenceRules{c: c, links: make(map[topology.Link]*fenceSeen), ended: make(map[LifeID]bool), claims: make(map[claimer]uint64)}
}

func (r *fenceRules) see(e *Event) {
	switch e.Kind {
	case EventLinkAccept:
		r.accept(e)
	case EventLinkEnd:
		r.ended[e.Life] = true
		if f := r.links[r.c.h.Life(e.Life).Link]; f != nil && f.open == e.Life {
			f.open = 0
		}
	case EventClaimed:
		of := claimer{e.Node, e.Record}
		if e.N < r.claims[of] {
			s := subject{nodes: []topology.NodeID{e.Node}, kinds: []EventKind{EventClaimed}}
			r.c.violated("I5", e.At, s, "%s takes records of claim %d, and has taken such of claim %d", e.Node, e.N, r.claims[of])
		}
		r.claims[of] = e.N
	case EventStarted: // what it knew it may know no more
		maps.DeleteFunc(r.claims, func(of claimer, _ uint64) bool { return of.node == e.Node })
	case EventTaken:
		if r.ended[e.Life] {
			r.violated(e, 0, "%s takes records of a generation that has ended")
		}
	}
}

func (r *fenceRules) accept(e *Event) {
	life := r.c.h.Life(e.Life)
	f := r.links[life.Link]
	if f == nil {
		f = new(fenceSeen)
		r.links[life.Link] = f
	}
	switch {
	case f.open != 0:
		r.violated(e, f.open, "%s reads another generation and has not ended the one before")
	case f.newest != 0 && !later(life, r.c.h.Life(f.newest)):
		r.violated(e, f.newest, "%s reads a generation that is not later than one before")
	}
	f.open, f.newest = e.Life, e.Life
}

// later reports whether a is of a later boot or generation than b.
func later(a, b Life) bool {
	return a.Boot > b.Boot || a.Boot == b.Boot && a.Generation > b.Generation
}

func (r *fenceRules) violated(e *Event, other LifeID, format string) {
	r.c.violated("I5", e.At, subject{lives: []LifeID{e.Life, other}, kinds: lifeEvents}, format, r.c.h.lifeName(e.Life))
}

func (r *fenceRules) end(time.Duration) {}
