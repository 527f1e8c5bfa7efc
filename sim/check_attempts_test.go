package sim

import (
	"slices"
	"testing"
	"time"

	"weir/topology"
)

// expectedOfIlls is what is asked of histories in which records are ill at the role work.
func expectedOfIlls() Expect {
	x := expected()
	x.Once = true
	ills := map[uint64]ill{1: {poison: true, atOnce: true}, 2: {poison: true}, 3: {kills: true}, 4: {pair: true}, 5: {fails: 2}}
	x.Ill = func(role string, n uint64, _ string) ill {
		if role == "work" {
			return ills[n]
		}
		return ill{}
	}
	leaf := func(path string) outcome { return outcome{path: path, leaf: hash(path), letter: letterOf(path)} }
	second := outcome{path: "source>work+", all: []outcome{leaf("source>work+>sink")}}
	work := outcome{
		path: "source>work", letter: letterOf("source>work"), all: []outcome{leaf(wholeWay)},
		second: &second, paired: func(n uint64) bool { return ills[n].pair },
	}
	x.Outcomes = map[string]outcome{"source": {path: "source", letter: letterOf("source"), all: []outcome{work}}}
	return x
}

func TestRulesOfAttempts(t *testing.T) {
	const after = 11 * time.Second
	handled := func(n, attempt uint64) []any {
		return []any{Event{Kind: EventHandled, Node: workNode, Record: n, Leaf: hash("source"), Text: "work", N: attempt}, time.Millisecond}
	}
	letter := func(n, attempt uint64) Event {
		return Event{Kind: EventLetter, Node: workNode, Record: n, Leaf: letterOf("source>work"), Text: "work", N: attempt}
	}
	stored := func(id topology.NodeID, n uint64, path string) Event {
		return Event{Kind: EventStored, Node: id, Record: n, Leaf: hash(path), Text: "sink"}
	}
	struck := func(n uint64) []any {
		return []any{
			Event{Kind: EventStruck, Node: workNode, Record: n}, Event{Kind: EventKilled, Node: workNode}, time.Second,
			Event{Kind: EventStarted, Node: workNode}, time.Second,
		}
	}
	ways := []any{Event{Kind: EventHandled, Node: workNode, Record: 0, Leaf: hash("source"), Text: "work", N: 1}, time.Millisecond}
	ended := func(l LifeID) []any {
		return []any{ways, Event{Kind: EventLinkClose, Node: tapNode, Life: l}, time.Millisecond}
	}
	over := Event{Kind: EventOver}
	s := new(script)
	toSink := s.life(1)
	toWork := s.h.LifeID(Life{topology.Link{Edge: topology.Edge{From: "source", To: "work"}, From: tapNode, To: workNode}, 1, 1})
	for _, test := range []struct {
		name  string
		steps []any
		want  []string
	}{
		{"a poison record", []any{read(1), handled(1, 1), letter(1, 1), acked(1), after}, nil},
		{"a poison record that does not say so", []any{read(2), handled(2, 1), handled(2, 2), handled(2, 3), letter(2, 3), acked(2), after}, nil},
		{"it is given up too early", []any{read(2), handled(2, 1), handled(2, 2), letter(2, 2), acked(2), after}, []string{"I9"}},
		{"a poison record is dropped", []any{read(1), handled(1, 1), acked(1), after}, []string{"I1"}},
		{"a letter by no way of the graph", []any{read(1), Event{Kind: EventLetter, Record: 1, Leaf: 7}}, []string{"I2"}},
		{"a sound record is a letter", []any{read(0), handled(0, 1), handled(0, 2), handled(0, 3), letter(0, 3), acked(0)}, []string{"I9"}},
		{"and was held up", []any{read(0), handled(0, 3), late(0), late(0), late(0), letter(0, 3), acked(0)}, nil},
		{"and was held up twice", []any{read(0), handled(0, 3), late(0), late(0), letter(0, 3), acked(0)}, []string{"I9"}},
		{"and four links ended that had it", []any{read(0), ended(toWork), ended(toWork), ended(toWork), ended(toWork), letter(0, 4), acked(0)}, nil},
		{"and three links ended that had it", []any{read(0), ended(toWork), ended(toWork), ended(toWork), letter(0, 4), acked(0)}, []string{"I9"}},
		{"and four other links ended", []any{read(0), ended(toSink), ended(toSink), ended(toSink), ended(toSink), letter(0, 4), acked(0)}, []string{"I9"}},
		{"it failed twice, and was held up", []any{read(5), handled(5, 1), handled(5, 2), handled(5, 3), late(5), letter(5, 3), acked(5)}, nil},
		{"a fourth attempt", []any{read(3), handled(3, 4), letter(3, 4), acked(3)}, []string{"I9"}},
		{"a killer ends five nodes", []any{read(3), struck(3), struck(3), struck(3), struck(3), struck(3), letter(3, 4), acked(3)}, nil},
		{"a killer ends six nodes", []any{read(3), struck(3), struck(3), struck(3), struck(3), struck(3), struck(3), letter(3, 4), acked(3)}, []string{"F24"}},
		{"a killer ends six nodes, another tap reads on", []any{
			read(3), struck(3), struck(3), struck(3), Event{Kind: EventOpened, Node: tapNode, Text: part, N: 2}, read(3), struck(3), struck(3), struck(3), letter(3, 4), acked(3),
		}, nil},
		{"a killer ends six nodes, one by the reader before", []any{
			read(3), handled(3, 1), Event{Kind: EventOpened, Node: tapNode, Text: part, N: 2}, read(3), struck(3), handled(3, 1), struck(3), struck(3), struck(3), struck(3), struck(3), letter(3, 4), acked(3),
		}, nil},
		{"a killer ends six nodes, while one is busy", []any{
			read(3), Event{Kind: EventFaultBegin, Node: workNode, Text: "busy work for 9s"}, struck(3), struck(3), struck(3), struck(3), struck(3), struck(3),
			Event{Kind: EventFaultEnd, Node: workNode, Text: "busy work for 9s"}, letter(3, 4), acked(3),
		}, nil},
		{"a killer ends six nodes after one was busy", []any{
			read(3), Event{Kind: EventFaultBegin, Node: workNode, Text: "busy work for 9s"}, Event{Kind: EventFaultEnd, Node: workNode, Text: "busy work for 9s"},
			struck(3), struck(3), struck(3), struck(3), struck(3), struck(3), letter(3, 4), acked(3),
		}, []string{"F24"}},
		{"a killer ends six nodes, another one dies", []any{
			read(3), struck(3), struck(3), struck(3), Event{Kind: EventKilled, Node: sinkNode}, Event{Kind: EventStarted, Node: sinkNode},
			struck(3), struck(3), struck(3), letter(3, 4), acked(3),
		}, nil},

		{"kept once", []any{read(0), sunk(0, wholeWay), acked(0), stored(sinkNode, 0, wholeWay), over}, nil},
		{"kept twice", []any{read(0), sunk(0, wholeWay), acked(0), stored(sinkNode, 0, wholeWay), stored(sinkNode, 0, wholeWay), over}, []string{"I2"}},
		{"kept in two files", []any{read(0), sunk(0, wholeWay), acked(0), stored(sinkNode, 0, wholeWay), stored("sink-2", 0, wholeWay), over}, nil},
		{"kept twice, read in two generations", []any{
			read(0), Event{Kind: EventSource, Node: tapNode, Record: 77, N: 6, Text: part}, read(0), sunk(0, wholeWay), acked(0),
			stored(sinkNode, 0, wholeWay), stored(sinkNode, 0, wholeWay), over,
		}, nil},
		{"kept twice, of what is not the same each time", []any{
			read(4), sunk(4, wholeWay), sunk(4, "source>work+>sink"), acked(4),
			stored(sinkNode, 4, wholeWay), stored(sinkNode, 4, wholeWay), stored(sinkNode, 4, "source>work+>sink"), over,
		}, nil},
		{"one of two is missing", []any{read(4), sunk(4, wholeWay), acked(4)}, []string{"I1"}},
		{"acked and not kept", []any{read(0), read(1), sunk(0, wholeWay), sunk(1, wholeWay), acked(0), acked(1), stored(sinkNode, 1, wholeWay), over}, []string{"I1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := new(script)
			s.life(1)
			s.h.LifeID(Life{topology.Link{Edge: topology.Edge{From: "source", To: "work"}, From: tapNode, To: workNode}, 1, 1})
			s.add(time.Second, begins(), test.steps)
			var got []string
			for _, v := range Check(&s.h, expectedOfIlls()) {
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

func late(n uint64) []any {
	return []any{Event{Kind: EventLate, Node: workNode, Record: n, Text: "work"}, time.Millisecond}
}
