package sim

import (
	"time"

	"weir/topology"
)

// deathMax is how long a link may outlive its receiver: heartbeats notice within 1.2 s, and the
// first record must be on another link 1.5 s after (FAULTS F3, F9); as much again for a machine
// that is busy.
const deathMax = 3 * time.Second

// deathRules judges F3: what a dead or frozen node held un-acked soon goes to others.
type deathRules struct {
	c      *check
	open   map[topology.NodeID]map[LifeID]time.Duration // by receiver: since when
	down   map[topology.NodeID]time.Duration            // since when
	deaths []death                                      // by time
}

type death struct {
	node topology.NodeID
	at   time.Duration
}

func newDeathRules(c *check) *deathRules {
	return &deathRules{
		c: c, open: make(map[topology.NodeID]map[LifeID]time.Duration), down: make(map[topology.NodeID]time.Duration),
	}
}

func (r *deathRules) see(e *Event) {
	for len(r.deaths) > 0 && e.At > r.deaths[0].at+deathMax {
		r.judge(r.deaths[0])
		r.deaths = r.deaths[1:]
	}
	switch e.Kind {
	case EventKilled, EventPaused:
		r.down[e.Node] = e.At
		r.deaths = append(r.deaths, death{e.Node, e.At})
	case EventResumed:
		delete(r.down, e.Node)
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

func (r *deathRules) judge(d death) {
	if since, down := r.down[d.node]; !down || since != d.at {
		return
	}
	for id, opened := range r.open[d.node] {
		from := r.c.h.Life(id).Link.From
		if _, down := r.down[from]; down || opened > d.at {
			continue
		}
		r.c.violated("F3", d.at+deathMax, subject{lives: []LifeID{id}, from: d.at}, "%s is still there %v after its receiver fell silent", r.c.h.lifeName(id), deathMax)
	}
}

func (r *deathRules) end(at time.Duration) {
	for _, d := range r.deaths {
		if at >= d.at+deathMax {
			r.judge(d)
		}
	}
}
