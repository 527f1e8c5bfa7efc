package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"weir/topology"
)

// This file and the other check_*.go are pure: a history in, violations out.

// Expect is what a run promised. Zero values ask for less.
type Expect struct {
	Outcomes map[string]outcome                                // by tap: what becomes of its records
	Ill      func(role string, record uint64, path string) ill // what ails a record that came so far
	Capacity map[string]int                                    // by role: records worked on at once
	Tagged   map[string]int                                    // by role: how many of its nodes, the first, may work for it; 0 = all
	Live     map[string]bool                                   // by tap: what was read cannot be read again
	Once     bool                                              // a sink's file has a record once
	Fails    float64                                           // share of attempts that the workload has fail
	Attempts uint64                                            // the most of a record (I9); 0 = any number
	Memory   uint64                                            // the most bytes a node's windows may hold (I8); 0 = any
	Settle   time.Duration                                     // how long after the last fault and read all is acked (I13); 0 = not asked
}

// illOf is what ails the record of a dead letter; false: it cannot be one by this way.
func (x *Expect) illOf(e *Event) (ill, bool) {
	for _, o := range x.Outcomes {
		if found := o.find(e.Leaf); found != nil && x.Ill != nil {
			return x.Ill(e.Text, e.Record, found.path), true
		}
	}
	return ill{}, false
}

// Violation is a promise that was not kept.
type Violation struct {
	Rule string // I1 to I17 of FAULTS 3.5
	At   time.Duration
	Text string  // what happened, in a sentence
	Part []Event // the shortest part of the history that shows it

	subject subject
}

// subject says which events show a violation: those between two times that are about any of
// these. Zero values match nothing.
type subject struct {
	from   time.Duration
	record *uint64
	lives  []LifeID
	nodes  []topology.NodeID
	kinds  []EventKind // of nodes and lives; nil: all of lives
}

const (
	// violationsMax is how many violations of one rule are kept: one is enough to look for its
	// cause, thousands only cost.
	violationsMax = 10
	// partMax is how many events show a violation: a screen.
	partMax = 40
)

// rule judges a run. It is given all events in order.
type rule interface {
	see(e *Event)
	end(at time.Duration)
}

// Check judges a history.
func Check(h *History, x Expect) []Violation {
	c := newCheck(h, x)
	quiet := newQuiet()
	rules := []rule{
		quiet,
		newRecordRules(c, quiet), newAttemptRules(c), newMarkRules(c), newSeenRules(c), newLinkRules(c, quiet), newFenceRules(c),
		newDeathRules(c), newControlRules(c), newTrafficRules(c, quiet), newPauseRules(c, quiet),
	}
	var end time.Duration
	for _, e := range h.All {
		for _, r := range rules {
			r.see(e)
		}
		end = e.At
	}
	for _, r := range rules {
		r.end(end)
	}
	slices.SortStableFunc(c.found, func(a, b Violation) int { return cmp.Compare(a.At, b.At) })
	for i := range c.found {
		c.found[i].Part = h.part(&c.found[i])
	}
	return c.found
}

// check is what the rules share.
type check struct {
	h     *History
	x     Expect
	found []Violation
	count map[string]int
}

func newCheck(h *History, x Expect) *check {
	return &check{h: h, x: x, count: make(map[string]int)}
}

// violated notes a violation; of each rule the first few.
func (c *check) violated(name string, at time.Duration, s subject, format string, args ...any) {
	c.count[name]++
	if c.count[name] <= violationsMax {
		c.found = append(c.found, Violation{Rule: name, At: at, Text: fmt.Sprintf(format, args...), subject: s})
	}
}

// quiet knows when the last disturbance was, and whether one goes on.
type quiet struct {
	last   time.Duration
	on     int                      // faults in force
	up     map[topology.NodeID]bool // started
	down   map[topology.NodeID]bool // killed, stopped or frozen
	frozen map[topology.NodeID]bool
	paused map[string]bool // roles that are not to work; "": all taps
}

func newQuiet() *quiet {
	return &quiet{
		down: make(map[topology.NodeID]bool), up: make(map[topology.NodeID]bool), frozen: make(map[topology.NodeID]bool),
		paused: make(map[string]bool),
	}
}

func (q *quiet) see(e *Event) {
	switch e.Kind {
	case EventFaultBegin:
		q.on++
	case EventFaultEnd:
		q.on--
	case EventFrozen:
		q.down[e.Node], q.frozen[e.Node] = true, true
	case EventThawed:
		delete(q.down, e.Node)
		delete(q.frozen, e.Node)
	case EventKilled, EventStopped:
		q.down[e.Node] = true
		delete(q.frozen, e.Node)
	case EventStarted:
		q.up[e.Node] = true
		delete(q.down, e.Node)
	case EventPauseAsked:
		q.paused[e.Text] = true
	case EventResumed:
		delete(q.paused, e.Text)
	case EventPaused:
	default:
		return
	}
	q.last = e.At
}

func (q *quiet) end(time.Duration) {}

// disturbed reports whether a fault goes on.
func (q *quiet) disturbed() bool { return q.on > 0 || len(q.frozen) > 0 || len(q.paused) > 0 }

// lasts reports whether nothing has disturbed the run for d.
func (q *quiet) lasts(d, now time.Duration) bool { return !q.disturbed() && now-q.last >= d }

// serves reports whether a living node serves the role; tagged: one of its first so many.
func (q *quiet) serves(role string, tagged int) bool {
	for id := range q.up {
		if !q.down[id] && servedBy(id) == role && (tagged == 0 || numberOf(placeOf(id)) <= tagged) {
			return true
		}
	}
	return false
}

// servedBy is the role of a node by its id.
func servedBy(id topology.NodeID) string { return roleOf(placeOf(id)) }

// placeOf is the name of a node's place: its id without the count of starts from the second on.
func placeOf(id topology.NodeID) string {
	place, _, _ := strings.Cut(string(id), ".")
	return place
}

// part picks the events that show a violation, the last ones where there are too many.
func (h *History) part(v *Violation) (part []Event) {
	for _, e := range h.All {
		if e.At > v.At {
			break
		}
		if e.At >= v.subject.from && v.subject.matches(e) {
			part = append(part, *e)
		}
	}
	return part[max(0, len(part)-partMax):]
}

func (s *subject) matches(e *Event) bool {
	switch {
	case e.Kind >= EventStarted: // faults: where they are part of the story
		return s.from > 0 || slices.Contains(s.nodes, e.Node)
	case s.record != nil && e.Record == *s.record && e.Kind >= EventRead && e.Kind <= EventStored:
		return true
	case e.Life != 0 && slices.Contains(s.lives, e.Life):
		return s.kinds == nil || slices.Contains(s.kinds, e.Kind)
	}
	return slices.Contains(s.nodes, e.Node) && slices.Contains(s.kinds, e.Kind)
}

func (v *Violation) String() string { return fmt.Sprintf("%s at %v: %s", v.Rule, v.At, v.Text) }
