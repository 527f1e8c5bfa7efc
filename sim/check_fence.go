package sim

import (
	"time"

	"weir/topology"
)

// fenceRules judges I5: a receiver reads one life of a link at a time, each later than those
// before, and takes nothing of one that has ended.
type fenceRules struct {
	c     *check
	links map[topology.Link]*fenceSeen
	ended map[LifeID]bool
}

// lifeEvents are the begin and the end of a life, at both ends of a link.
var lifeEvents = []EventKind{EventLinkOpen, EventLinkClose, EventLinkAccept, EventLinkEnd}

type fenceSeen struct {
	open   LifeID // 0: none
	newest LifeID
}

func newFenceRules(c *check) *fenceRules {
	return &fenceRules{c: c, links: make(map[topology.Link]*fenceSeen), ended: make(map[LifeID]bool)}
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
