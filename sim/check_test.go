package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"weir/topology"
)

// The way of a record in these histories: source > work > sink.
const (
	tapNode  = topology.NodeID("source-1")
	workNode = topology.NodeID("work-1")
	sinkNode = topology.NodeID("sink-1")
	part     = "source/source-1"
	wholeWay = "source>work>sink"
)

// script makes a history: each step is an event, a time to go on by, or steps.
type script struct {
	h  History
	at time.Duration
}

func (s *script) add(steps ...any) *script {
	for _, step := range steps {
		switch x := step.(type) {
		case time.Duration:
			s.at += x
		case Event:
			x.At = s.at
			s.h.Add(x)
		case []any:
			s.add(x...)
		}
	}
	return s
}

// life is the link of these histories in one generation.
func (s *script) life(generation uint64) LifeID {
	l := topology.Link{Pipeline: pipelineName, Edge: topology.Edge{From: "work", To: "sink"}, From: workNode, To: sinkNode}
	return s.h.LifeID(Life{l, 1, generation})
}

func begins() []any {
	var all []any
	for _, id := range []topology.NodeID{tapNode, workNode, sinkNode} {
		all = append(all, Event{Kind: EventStarted, Node: id})
	}
	return append(all, Event{Kind: EventOpened, Node: tapNode, Text: part, N: 1}, Event{Kind: EventSource, Node: tapNode, Record: 77, N: 5, Text: part}, readAll())
}

func read(n uint64) Event { return Event{Kind: EventRead, Node: tapNode, Text: part, Record: n, N: 1} }
func readAll() Event      { return Event{Kind: EventReadAll, Node: tapNode, Record: 9, N: 1} }
func acked(n uint64) Event {
	return Event{Kind: EventAcked, Node: tapNode, Text: part, Record: n, N: 1}
}
func mark(n uint64) Event {
	return Event{Kind: EventMark, Node: tapNode, Text: part, Record: 77, N: 5, M: n}
}
func sunk(n uint64, path string) Event {
	return Event{Kind: EventSunk, Node: sinkNode, Text: "sink", Record: n, Leaf: hash(path), N: 1}
}

// through is the way of records [lo, hi), to their acks.
func through(lo, hi uint64) (all []any) {
	for n := lo; n < hi; n++ {
		all = append(all, read(n), sunk(n, wholeWay), acked(n))
	}
	return all
}

// seen says that the sink remembers so many roots, up to the one before past.
func seen(roots uint32, past uint64) Event {
	return Event{Kind: EventSeen, Node: sinkNode, Record: 77, N: 5, M: past, Roots: roots}
}

func claimed(claim uint64) Event {
	return Event{Kind: EventClaimed, Node: workNode, Record: 77, N: claim}
}

func linkEvent(k EventKind, l LifeID, n, m uint64) Event {
	id := sinkNode
	if k <= EventFreed {
		id = workNode
	}
	return Event{Kind: k, Node: id, Life: l, N: n, M: m}
}

// expected is what is asked of these histories.
func expected() Expect {
	return Expect{
		Outcomes: map[string]outcome{"source": {all: []outcome{{all: []outcome{{path: wholeWay, leaf: hash(wholeWay)}}}}}},
		Capacity: map[string]int{"work": 10, "sink": 10}, Tagged: map[string]int{"tagged": 2}, Attempts: 3, Memory: 1000, Settle: 10 * time.Second,
	}
}

// Each rule must say so when its promise is broken, and nothing when it is kept.
func TestRules(t *testing.T) {
	const after = 11 * time.Second
	s := new(script)
	one, two := s.life(1), s.life(2)
	open := []any{linkEvent(EventLinkAccept, one, 0, 1), linkEvent(EventLinkOpen, one, 0, 1)}
	flows := []any{open, linkEvent(EventSent, one, 0, 1), linkEvent(EventTaken, one, 1, 21), linkEvent(EventGranted, one, 1, 21)}
	fault := []any{Event{Kind: EventFaultBegin}, Event{Kind: EventFaultEnd}}
	lost := []any{open, linkEvent(EventSent, one, 0, 1), linkEvent(EventTaken, one, 1, 21), fault}
	state := func(id topology.NodeID, index, hash, log uint64) Event {
		return Event{Kind: EventState, Node: id, N: index, State: &StateSeen{Index: index, Hash: hash, LogID: log}}
	}
	layout := func(id topology.NodeID, links ...LinkSeen) Event {
		return Event{Kind: EventLayout, Node: id, N: 4, State: &StateSeen{Epoch: 4, Layout: links}}
	}
	link := LinkSeen{9, workNode, sinkNode}
	elected := func(id topology.NodeID, term uint64) Event { return Event{Kind: EventElected, Node: id, N: term} }
	pause := func(k EventKind, role string) Event { return Event{Kind: k, Text: role} }
	pauses := func(role string) []any { return []any{pause(EventPauseAsked, role), pause(EventPaused, role)} }
	source := func(gen, next uint64) Event {
		return Event{Kind: EventSource, Node: tapNode, Record: 77, N: gen, M: next, Text: part}
	}
	node := func(k EventKind, id topology.NodeID) Event { return Event{Kind: k, Node: id} }
	for _, test := range []struct {
		name  string
		steps []any
		want  []string // rules, each once
	}{
		{"a record goes its way", []any{read(0), sunk(0, wholeWay), acked(0), mark(1), after}, nil},
		{"acked before it is durable", []any{read(0), acked(0)}, []string{"I1"}},
		{"acked and never read", []any{acked(3)}, []string{"I1"}},
		{"written twice is allowed", []any{read(0), sunk(0, wholeWay), sunk(0, wholeWay), acked(0)}, nil},
		{"written by no way of the graph", []any{read(0), sunk(0, "source>sink")}, []string{"I2"}},
		{"written and never read", []any{sunk(0, wholeWay)}, []string{"I2"}},
		{"a body that nobody sent", []any{Event{Kind: EventBroken, Text: "nonsense"}}, []string{"I2"}},
		{"a mark over a gap", []any{read(0), read(1), sunk(1, wholeWay), acked(1), mark(2), time.Millisecond, sunk(0, wholeWay), acked(0)}, []string{"I3"}},
		{"a mark a moment before its ack", []any{read(0), sunk(0, wholeWay), mark(1), acked(0)}, nil},
		{"a mark that falls", []any{read(0), sunk(0, wholeWay), acked(0), mark(1), time.Millisecond, mark(0)}, []string{"I3"}},
		{"a sink remembers what was not acked", []any{through(0, 300), seen(300, 300)}, nil},
		{"a sink forgets by pages", []any{through(0, 300), mark(250), mark(250), through(300, 301), seen(51+63, 301)}, nil},
		{"a sink does not forget", []any{through(0, 300), mark(250), mark(250), through(300, 301), seen(51+64, 301)}, []string{"I15"}},
		{"a sink has nothing new since a mark", []any{through(0, 300), mark(250), mark(250), seen(300, 300)}, nil},
		{"a mark that has not left", []any{through(0, 300), mark(250), through(300, 301), seen(301, 301)}, nil},
		{"a sink remembers what its tap read again", []any{through(0, 300), mark(250), mark(250), through(300, 301), source(5, 20), seen(301, 301)}, []string{"I15"}},
		{"a sink remembers what its tap had read before", []any{through(0, 300), mark(20), mark(20), through(300, 301), source(5, 20), through(20, 300), mark(250), mark(250), through(300, 301), seen(281, 301)}, nil},
		{"a sink remembers an older generation", []any{through(0, 300), mark(250), mark(250), through(300, 301), source(6, 0), seen(301, 301)}, nil},
		{"a fourth attempt", []any{read(0), Event{Kind: EventHandled, Node: workNode, Text: "work", N: 4}, sunk(0, wholeWay), acked(0)}, []string{"I9"}},
		{"a node without the tag works", []any{read(0), Event{Kind: EventHandled, Node: "tagged-3.2", Text: "tagged", N: 1}, sunk(0, wholeWay), acked(0)}, []string{"A25"}},
		{"a node with the tag works", []any{read(0), Event{Kind: EventHandled, Node: "tagged-2.3", Text: "tagged", N: 1}, sunk(0, wholeWay), acked(0)}, nil},
		{"never acked", []any{read(0), after}, []string{"I13"}},
		{"not acked yet", []any{read(0), 5 * time.Second}, nil},
		{"not acked yet since a fault", []any{read(0), after, node(EventFrozen, workNode), node(EventThawed, workNode), 5 * time.Second}, nil},
		{"never acked since who was frozen died", []any{read(0), node(EventFrozen, workNode), node(EventKilled, workNode), node(EventStarted, workNode), after}, []string{"I13"}},
		{"never acked, its tap is dead", []any{read(0), node(EventKilled, tapNode), after}, nil},
		{"never acked, a role has no node", []any{read(0), node(EventKilled, workNode), after}, nil},
		{"its tap reads no more", []any{Event{Kind: EventOpened, Node: tapNode, Text: part, N: 2}, after}, []string{"I13"}},
		{"its tap reads no more, it is paused", []any{pauses("source"), Event{Kind: EventOpened, Node: tapNode, Text: part, N: 2}, after}, nil},
		{"its tap reads no more, and was asked to go on", []any{pauses(""), Event{Kind: EventOpened, Node: tapNode, Text: part, N: 2}, pause(EventResumed, ""), after}, []string{"I13"}},
		{"never acked, a role is paused", []any{read(0), pauses("work"), after}, nil},
		{"never acked since a pause", []any{read(0), pauses("work"), pause(EventResumed, "work"), after}, []string{"I13"}},
		{"a paused tap reads one record more", []any{pauses(""), after, read(0), sunk(0, wholeWay), acked(0)}, nil},
		{"a paused tap reads on", []any{pauses("source"), after, read(0), read(1), sunk(0, wholeWay), sunk(1, wholeWay), acked(0), acked(1)}, []string{"A6"}},
		{"the taps of a paused pipeline read on", []any{pauses(""), after, read(0), read(1), sunk(0, wholeWay), sunk(1, wholeWay), acked(0), acked(1)}, []string{"A6"}},
		{"a paused role takes on", []any{open, linkEvent(EventSent, one, 0, 1), pauses("sink"), after, linkEvent(EventTaken, one, 1, 21), linkEvent(EventGranted, one, 1, 21)}, []string{"A6"}},
		{"a role takes as it is paused", []any{open, linkEvent(EventSent, one, 0, 1), pauses("sink"), time.Millisecond, linkEvent(EventTaken, one, 1, 21), linkEvent(EventGranted, one, 1, 21)}, nil},
		{"a role is asked to pause and takes", []any{open, linkEvent(EventSent, one, 0, 1), pause(EventPauseAsked, "sink"), after, linkEvent(EventTaken, one, 1, 21), linkEvent(EventGranted, one, 1, 21)}, nil},
		{"another role is paused", []any{open, linkEvent(EventSent, one, 0, 1), pauses("work"), after, linkEvent(EventTaken, one, 1, 21), linkEvent(EventGranted, one, 1, 21)}, nil},

		{"a link flows", []any{flows, linkEvent(EventDone, one, 0, 1), linkEvent(EventFreed, one, 0, 1), after}, nil},
		{"sent beyond the limit", []any{open, linkEvent(EventSent, one, 0, 2)}, []string{"I4"}},
		{"a link seq left out", []any{flows, linkEvent(EventSent, one, 2, 3), after}, []string{"I4", "I7"}},
		{"a limit that nobody granted", []any{open, linkEvent(EventGranted, one, 0, 7)}, []string{"I4"}},
		{"taken and never sent", []any{open, linkEvent(EventTaken, one, 1, 21)}, []string{"I4"}},
		{"a limit taken back", []any{flows, linkEvent(EventTaken, one, 1, 20)}, []string{"I4", "I7"}},
		{"two generations at once", []any{open, linkEvent(EventLinkAccept, two, 0, 1)}, []string{"I5"}},
		{"a generation after the other", []any{open, linkEvent(EventLinkEnd, one, 0, 0), linkEvent(EventLinkAccept, two, 0, 1)}, nil},
		{"a claim after another", []any{claimed(3), claimed(4), claimed(4)}, nil},
		{"an older claim", []any{claimed(4), claimed(3)}, []string{"I5"}},
		{"an older claim at a node that has started anew", []any{claimed(4), node(EventKilled, workNode), node(EventStarted, workNode), claimed(3)}, nil},
		{"an older generation", []any{linkEvent(EventLinkAccept, two, 0, 1), linkEvent(EventLinkEnd, two, 0, 1), open}, []string{"I5"}},
		{"taken after the end", []any{open, linkEvent(EventSent, one, 0, 1), linkEvent(EventLinkEnd, one, 0, 1), linkEvent(EventTaken, one, 1, 21)}, []string{"I5"}},
		{"custody ends without an ack", []any{flows, linkEvent(EventFreed, one, 0, 1)}, []string{"I6"}},
		{"acked and not taken", []any{open, linkEvent(EventSent, one, 0, 1), linkEvent(EventDone, one, 0, 1)}, []string{"I6"}},
		{"credit does not come back", []any{open, linkEvent(EventSent, one, 0, 1), linkEvent(EventTaken, one, 1, 20)}, []string{"I7"}},
		{"more credit than there is", []any{open, linkEvent(EventSent, one, 0, 1), linkEvent(EventTaken, one, 1, 9000)}, []string{"I7"}},
		{"a limit never heard of", []any{open, linkEvent(EventSent, one, 0, 1), linkEvent(EventTaken, one, 1, 21), after}, []string{"I7"}},
		{"a limit said as a fault ends, not yet heard of", []any{lost, 9 * time.Second}, nil},
		{"the same, never heard of", []any{lost, after}, []string{"I7"}},
		{"the same on an old link", []any{open, after, linkEvent(EventSent, one, 0, 1), linkEvent(EventTaken, one, 1, 21), fault, 2 * time.Second}, []string{"I7"}},
		{"the same, said after the fault", []any{fault, time.Millisecond, open, linkEvent(EventSent, one, 0, 1), linkEvent(EventTaken, one, 1, 21), 2 * time.Second}, []string{"I7"}},
		{"an acceptance said as a fault ends, not yet heard of", []any{linkEvent(EventLinkAccept, one, 0, 1), fault, 9 * time.Second}, nil},
		{"too much held", []any{Event{Kind: EventHeld, Node: workNode, N: 1001}}, []string{"I8"}},
		{"a dead receiver is left", []any{open, 5 * time.Second, node(EventKilled, sinkNode), time.Second, linkEvent(EventLinkClose, one, 0, 0), after}, nil},
		{"a dead receiver is not left", []any{open, 5 * time.Second, node(EventKilled, sinkNode), after}, []string{"F3"}},
		{"a frozen receiver is not left in time", []any{open, 5 * time.Second, node(EventFrozen, sinkNode), 4 * time.Second, linkEvent(EventLinkClose, one, 0, 0)}, []string{"F3"}},
		{"a receiver soon awake", []any{open, 5 * time.Second, node(EventFrozen, sinkNode), 2 * time.Second, node(EventThawed, sinkNode), after}, nil},
		{"a young link to a dead receiver", []any{open, time.Second, node(EventKilled, sinkNode), 5 * time.Second, linkEvent(EventLinkClose, one, 0, 0), after}, nil},
		{"a young link to a dead receiver, too long", []any{open, time.Second, node(EventKilled, sinkNode), after}, []string{"F3"}},
		{"a dead receiver, back soon and not left", []any{open, 5 * time.Second, node(EventKilled, sinkNode), time.Second, node(EventStarted, sinkNode), after}, []string{"F3"}},
		{"a dead receiver, back soon and left", []any{open, 5 * time.Second, node(EventKilled, sinkNode), time.Second, node(EventStarted, sinkNode), linkEvent(EventLinkClose, one, 0, 0), after}, nil},
		{"a dead sender, back soon", []any{flows, linkEvent(EventSent, one, 1, 3), node(EventKilled, workNode), time.Second, node(EventStarted, workNode), after, node(EventKilled, sinkNode), after, node(EventStarted, sinkNode), after}, nil},
		{"never acked, its tap is back", []any{read(0), node(EventKilled, tapNode), time.Second, node(EventStarted, tapNode), after}, []string{"I13"}},

		{"a leader a term", []any{elected(workNode, 1), elected(sinkNode, 2), elected(sinkNode, 2)}, nil},
		{"two leaders in a term", []any{elected(workNode, 2), elected(sinkNode, 2)}, []string{"I11"}},
		{"one state an index", []any{state(workNode, 5, 1, 8), state(sinkNode, 6, 2, 8), state(sinkNode, 5, 1, 8)}, nil},
		{"two states of one index", []any{state(workNode, 5, 1, 8), state(sinkNode, 5, 2, 8)}, []string{"I11"}},
		{"another log", []any{state(workNode, 5, 1, 8), state(sinkNode, 5, 1, 9)}, []string{"I14"}},
		{"no log yet", []any{state(workNode, 5, 1, 8), state(sinkNode, 0, 3, 0)}, nil},
		{"both ends of a link", []any{layout(workNode, link), layout(sinkNode, link)}, nil},
		{"one end of a link", []any{layout(workNode, link), layout(sinkNode, LinkSeen{8, workNode, sinkNode})}, []string{"I12", "I12"}},
		{"a link to who follows none", []any{layout(workNode, link), layout(sinkNode)}, nil},
		{"much is sent again", []any{after, linkEvent(EventLinkAccept, one, 0, 4000), linkEvent(EventLinkOpen, one, 0, 4000), Event{Kind: EventSent, Node: workNode, Life: one, M: 2000, Again: 300}}, []string{"I16"}},
		{"much is sent again after a fault", []any{linkEvent(EventLinkAccept, one, 0, 4000), linkEvent(EventLinkOpen, one, 0, 4000), Event{Kind: EventSent, Node: workNode, Life: one, M: 2000, Again: 300}}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := new(script)
			s.life(1)
			s.life(2)
			s.add(time.Second, begins(), test.steps, Event{Kind: EventHeld, Node: workNode})
			var got []string
			for _, v := range Check(&s.h, expected()) {
				got = append(got, v.Rule)
				t.Log(s.h.Story(&v))
			}
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("violated: %q, want %q", got, test.want)
			}
		})
	}
}

// A violation shows the events of its record and no others, and each as a line.
func TestStory(t *testing.T) {
	s := new(script)
	s.add(begins(), time.Second, read(0), read(1), time.Millisecond,
		Event{Kind: EventHandled, Node: workNode, Record: 1, N: 1, Text: "work"}, acked(1), sunk(0, wholeWay), acked(0))
	vs := Check(&s.h, expected())
	if len(vs) != 1 {
		t.Fatalf("%d violations, want one: %v", len(vs), vs)
	}
	const want = `I1 at 1.001s: record 0:1 was acked to its tap before it was durable as source>work>sink
      1.0000s  source-1 reads record 0:1
      1.0010s  work-1 (work) is given record 0:1, attempt 1
      1.0010s  source-1 is told that record 0:1 is acked
`
	if got := s.h.Story(&vs[0]); got != want {
		t.Errorf("the story is\n%s\nwant\n%s", got, want)
	}
}

// Every kind of event has a line, with all of its values and no more.
func TestLines(t *testing.T) {
	s := new(script)
	for k := EventOpened; k <= EventFaultEnd; k++ {
		line := s.h.line(&Event{Kind: k, Node: "n1", Life: s.life(1), Text: "text", N: 2, M: 3, State: &StateSeen{}})
		if strings.Contains(line, "%!") || !strings.Contains(line, "n1 ") {
			t.Errorf("kind %d: %q", k, line)
		}
	}
}

// However often a rule is broken, what is kept is bounded.
func TestViolationsAreBounded(t *testing.T) {
	s := new(script)
	s.add(begins())
	for n := range uint64(1000) {
		s.add(read(n), acked(n))
	}
	vs := Check(&s.h, expected())
	if len(vs) != violationsMax {
		t.Errorf("%d violations are kept, want %d", len(vs), violationsMax)
	}
	for _, v := range vs {
		if len(v.Part) == 0 || len(v.Part) > partMax {
			t.Errorf("a violation is shown by %d events", len(v.Part))
		}
	}
}
