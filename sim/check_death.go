package sim

import (
	"maps"
	"slices"
	"time"

	"weir/topology"
)

const (
	// deathMax is how long a link may outlive its receiver: heartbeats notice within 1.2 s, and
	// the first record must be on another link 1.5 s after (FAULTS F3, F9); as much again for a
	// network that loses what says so.
	deathMax = 3 * time.Second
	// youngMax is how old a link may be before its first heartbeat has been answered: a handshake
	// may take so long (stream/mux, handshakeMax), and only its end tells of a death meanwhile.
	youngMax = 3 * time.Second
)

// deathRules judges F3: what a dead or frozen node held un-acked soon goes to others.
type deathRules struct {
	c      *check
	open   map[topology.NodeID]map[LifeID]time.Duration // by receiver: since when
	down   map[topology.NodeID]bool                     // dead or frozen
	deaths []death                                      // by when they are judged
	young  []death                                      // the same, for links that were young
}

type death struct {
	node topology.NodeID
	at   time.Duration
}

func newDeathRules(c *check) *deathRules {
	return &deathRules{
		c: c, open: make(map[topology.NodeID]map[LifeID]time.Duration), down: make(map[topology.NodeID]bool),
	}
}

func (r *deathRules) see(e *Event) {
	r.judgeAll(e.At)
	switch e.Kind {
	case EventKilled, EventFrozen:
		r.down[e.Node] = true
		r.deaths = append(r.deaths, death{e.Node, e.At})
		r.young = append(r.young, death{e.Node, e.At})
	case EventThawed: // it goes on with what it held
		delete(r.down, e.Node)
		its := func(d death) bool { return d.node == e.Node }
		r.deaths, r.young = slices.DeleteFunc(r.deaths, its), slices.DeleteFunc(r.young, its)
	case EventStarted: // of the links that it had open before, it tells no end
		delete(r.down, e.Node)
		for _, lives := range r.open {
			maps.DeleteFunc(lives, func(id LifeID, _ time.Duration) bool { return r.c.h.Life(id).Link.From == e.Node })
		}
	case EventLinkOpen:
		to := r.c.h.Life(e.Life).Link.To
		if r.open[to] == nil {
			r.open[to] = make(map[LifeID]time.Duration)
		}
		r.open[to][e.Life] = e.At
	case EventLinkClose:
		delete(r.open[r.c.h.Life(e.Life).Link.To], e.Life)
	}
}

// judgeAll judges the deaths whose time is over.
func (r *deathRules) judgeAll(now time.Duration) {
	for len(r.deaths) > 0 && now > r.deaths[0].at+deathMax {
		r.judge(r.deaths[0], deathMax, func(age time.Duration) bool { return age >= youngMax })
		r.deaths = r.deaths[1:]
	}
	for len(r.young) > 0 && now > r.young[0].at+youngMax+deathMax {
		r.judge(r.young[0], youngMax+deathMax, func(age time.Duration) bool { return age >= 0 && age < youngMax })
		r.young = r.young[1:]
	}
}

// judge asks that the links to a dead node are gone after some time, of those that had such an
// age when it died.
func (r *deathRules) judge(d death, after time.Duration, such func(age time.Duration) bool) {
	for id, opened := range r.open[d.node] {
		from := r.c.h.Life(id).Link.From
		if r.down[from] || !such(d.at-opened) {
			continue
		}
		r.c.violated("F3", d.at+after, subject{lives: []LifeID{id}, from: d.at},
			"%s is still there %v after its receiver fell silent", r.c.h.lifeName(id), after)
	}
}

func (r *deathRules) end(at time.Duration) { r.judgeAll(at) }
