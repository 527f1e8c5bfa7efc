package sim

import (
	"maps"
	"strings"
	"time"

	"weir/topology"
)

// attemptRules judges what records are blamed for: I9, F24.
type attemptRules struct {
	c      *check
	struck map[uint64]uint64        // by record: nodes that it ended since another fault, or its tap's start
	opened map[uint64]time.Duration // when each partition was opened last
	dying  topology.NodeID          // who was struck last
	busy   int                      // busy faults: who was asked to try a record later has not died of it, and acquits it
}

func newAttemptRules(c *check) *attemptRules {
	return &attemptRules{c: c, struck: make(map[uint64]uint64), opened: make(map[uint64]time.Duration)}
}

func (r *attemptRules) see(e *Event) {
	most := r.c.x.Attempts
	switch e.Kind {
	case EventHandled, EventSunk:
		if most > 0 && e.N > most {
			r.c.violated("I9", e.At, aboutRecord(e.Record), "record %s is at attempt %d, %d is the most", recordName(e.Record), e.N, most)
		}
	case EventLetter:
		r.letter(e)
	case EventStruck:
		// The first death makes it a suspect, at the second there may have been others beside it; as many
		// as there are attempts are its own.
		if r.dying = e.Node; r.busy > 0 || r.begun(e) < r.opened[e.Record>>recordBits] {
			return
		}
		if r.struck[e.Record]++; most > 0 && r.struck[e.Record] > most+2 {
			r.c.violated("F24", e.At, aboutRecord(e.Record), "record %s has ended %d nodes", recordName(e.Record), r.struck[e.Record])
		}
	case EventOpened: // who reads on counts anew, but not what came by the reader before
		r.opened[e.Record>>recordBits] = e.At
		maps.DeleteFunc(r.struck, func(record, _ uint64) bool { return record>>recordBits == e.Record>>recordBits })
	case EventFaultBegin, EventFaultEnd, EventFrozen, EventKilled, EventStopped: // who counts its attempts may be gone by it
		if strings.HasPrefix(e.Text, string(verbBusy)) {
			r.busy += map[EventKind]int{EventFaultBegin: 1, EventFaultEnd: -1}[e.Kind]
		}
		if e.Kind != EventKilled || e.Node != r.dying {
			clear(r.struck)
		}
		r.dying = ""
	}
}

// begun is when a node that a record ended was given it.
func (r *attemptRules) begun(struck *Event) (at time.Duration) {
	at = struck.At
	for _, e := range r.c.h.All {
		if e.At > struck.At {
			break
		}
		if e.Kind == EventHandled && e.Record == struck.Record && e.Node == struck.Node {
			at = e.At
		}
	}
	return at
}

// letter asks that a dead letter is one for its own fault, and after as many attempts as it may have.
func (r *attemptRules) letter(e *Event) {
	ill, ok := r.c.x.illOf(e)
	switch {
	case !ok:
		return // it has come by no way that there is: I2
	case ill.atOnce:
	case !ill.hopeless() && r.blames(e, ill) < r.c.x.Attempts:
		r.c.violated("I9", e.At, aboutRecord(e.Record), "record %s is a dead letter of %s and nothing ails it", recordName(e.Record), e.Text)
	case e.N < r.c.x.Attempts:
		r.c.violated("I9", e.At, aboutRecord(e.Record), "record %s is a dead letter of %s at attempt %d of %d", recordName(e.Record), e.Text, e.N, r.c.x.Attempts)
	}
}

// blames is how often a record may have been blamed that should not end as a dead letter: for its planned
// failures, for what a scenario let last too long, and for the ends of links that had it, but for the first
// of these, which only makes it a suspect.
func (r *attemptRules) blames(letter *Event, i ill) uint64 {
	var on topology.NodeID // who has it
	failed, late, lost := 0, 0, 0
	var since time.Duration
	for _, e := range r.c.h.All {
		if e.At > letter.At {
			break
		}
		switch {
		case e.Kind == EventHandled && e.Record == letter.Record && e.Text == letter.Text:
			on, since = e.Node, e.At
			if e.N <= uint64(i.fails) {
				failed++
			}
		case e.Kind == EventLate && e.Record == letter.Record && e.Text == letter.Text:
			late++
		case e.Kind == EventLinkClose && on != "" && e.At >= since:
			if l := r.c.h.Life(e.Life).Link; l.To == on && l.Edge.To == letter.Text {
				lost++
				on = ""
			}
		}
	}
	return uint64(failed + late + max(lost-1, 0))
}

func (r *attemptRules) end(time.Duration) {}
