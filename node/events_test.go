package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/consensus"
	"weir/topology"
)

// Each change of the log is one event, and what stays is none.
func TestEventsBetween(t *testing.T) {
	g := topology.Graph{Edges: []topology.Edge{{From: "in", To: "out"}}}
	p := consensus.Pipeline{Pipeline: topology.Pipeline{Name: "p", Version: 1, Graph: g}}
	p.Claims = []consensus.Claim{{Role: "in", Partition: "a", Holder: "n1", Boot: 1, Number: 3, Gen: 7}}
	old := &consensus.State{
		Index: 9, Term: 2, Leader: "n1", Voters: []topology.NodeID{"n1"},
		Roster:    []topology.Node{{ID: "n1", Boot: 1, Addr: "x:1"}, {ID: "n2", Boot: 1, Addr: "x:2"}, {ID: "n3", Boot: 4}},
		Pipelines: []consensus.Pipeline{p},
	}
	change := func(f func(*consensus.State, *consensus.Pipeline)) *consensus.State {
		s, q := *old, p
		q.Claims = append([]consensus.Claim(nil), p.Claims...)
		s.Index++
		s.Pipelines = []consensus.Pipeline{q}
		f(&s, &s.Pipelines[0])
		return &s
	}
	for _, tt := range []struct {
		name string
		f    func(*consensus.State, *consensus.Pipeline)
		want []string
	}{
		{"nothing", func(*consensus.State, *consensus.Pipeline) {}, nil},
		{"a leader", func(s *consensus.State, _ *consensus.Pipeline) { s.Term, s.Leader = 3, "n2" }, []string{"leader n2 leads in term 3"}},
		{"voters", func(s *consensus.State, _ *consensus.Pipeline) { s.Voters = []topology.NodeID{"n1", "n2"} }, []string{"voters  vote: n1, n2"}},
		{"one joins, one starts again, one is gone, one leaves", func(s *consensus.State, _ *consensus.Pipeline) {
			s.Roster = []topology.Node{{ID: "n0", Addr: "x:0", Roles: []string{"in"}}, {ID: "n1", Boot: 2, Addr: "x:9"}}
			s.Departed = []consensus.Departure{{ID: "n3", Boot: 4}}
		}, []string{"node n0 joined at x:0 with in", "node n1 started again, at x:9", "node n2 is gone", "node n3 left"}},
		{"a pipeline comes, another fails and pauses", func(s *consensus.State, q *consensus.Pipeline) {
			q.Failed, q.Paused, q.PausedRoles = &consensus.Failure{Reason: "why"}, true, []string{"out"}
			s.Pipelines = append(s.Pipelines, consensus.Pipeline{Pipeline: topology.Pipeline{Name: "q", Graph: g}})
		}, []string{"pipeline p failed: why", "pipeline p is paused", "pipeline p/out is paused", "pipeline q is new: in -> out"}},
		{"another version", func(_ *consensus.State, q *consensus.Pipeline) { q.Version = 2 }, []string{"pipeline p is at version 2: in -> out"}},
		{"a claim moves, and its place is gone", func(_ *consensus.State, q *consensus.Pipeline) {
			q.Claims[0].Holder, q.Claims[0].Number, q.Claims[0].Gen = "n2", 10, 8
		}, []string{"claim p/in n2 reads a, claim 10", "claim p/in a is read from its start again"}},
		{"an end", func(_ *consensus.State, q *consensus.Pipeline) { q.Claims[0].Done, q.Claims[0].Next = true, 5 },
			[]string{"claim p/in a is read to its end"}},
		{"a mark", func(_ *consensus.State, q *consensus.Pipeline) { q.Claims[0].Next = 5 }, nil},
	} {
		var got []string
		for _, e := range eventsBetween(old, change(tt.f)) {
			if e.Index != 10 {
				t.Errorf("%s: %+v is not of entry 10", tt.name, e)
			}
			got = append(got, e.Kind+" "+e.Name+" "+e.Text)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// A journal keeps the last, and says how many are missing before them.
func TestJournal(t *testing.T) {
	j := newJournal[int](8)
	_, _, next, more := j.after(0)
	for i := range 20 {
		j.add(i)
	}
	<-more
	vs, missed, next, more := j.after(next)
	if len(vs) == 0 || len(vs) > 8 || vs[len(vs)-1] != 19 || int(missed)+len(vs) != 20 || next != 20 {
		t.Errorf("%d, %d missed, then %d", vs, missed, next)
	}
	select {
	case <-more:
		t.Error("there is no more")
	default:
	}
	if vs, missed, _, _ := j.after(next); len(vs) != 0 || missed != 0 {
		t.Errorf("again %d, %d missed", vs, missed)
	}
}
