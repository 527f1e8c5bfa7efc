package node

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"weir/consensus"
	"weir/node/api"
	"weir/topology"
)

// oneState is a ledger that shows one State and counts what is proposed.
type oneState struct {
	ledger
	state    *consensus.State
	proposed int
}

func (l *oneState) State() *consensus.State                              { return l.state }
func (l *oneState) Propose(_ context.Context, c consensus.Command) error { l.proposed++; return nil }

// What leaves a pipeline ends when all nodes have answered, have followed, and hold nothing of it.
func TestSettle(t *testing.T) {
	in, out := topology.Edge{From: "tap", To: "b"}, topology.Edge{From: "b", Port: "err", To: "sink"}
	s := &consensus.State{Epoch: 7, Roster: []topology.Node{{ID: "n1"}, {ID: "n2"}}}
	s.Pipelines = []consensus.Pipeline{{
		Pipeline: topology.Pipeline{Name: "p", Version: 3},
		Leaving:  consensus.Leaving{Edges: []topology.Edge{in, out}, Roles: []topology.Role{{Name: "b"}, {Name: "tap", Kind: topology.KindTap}}},
	}}
	edge := func(from, to string, inflight int64) edgeReport {
		return edgeReport{Edge: api.Edge{From: from, To: to, InflightRecords: inflight}}
	}
	held := func(pipeline, role string, over bool, edges ...edgeReport) *report {
		return &report{Epoch: 7, Roles: []roleReport{{Pipeline: pipeline, Role: role, Tap: role == "tap", Over: over, Edges: edges}}}
	}
	none := &report{Epoch: 7}
	for name, tt := range map[string]struct {
		n1, n2 *report // nil: it does not answer
		ends   bool
	}{
		"nothing anywhere":             {none, none, true},
		"a node does not answer":       {none, nil, false},
		"a node is behind":             {none, &report{Epoch: 6}, false},
		"a node is ahead":              {none, &report{Epoch: 8}, true},
		"records to the role":          {none, held("p", "tap", true, edge("tap", "b", 1)), false},
		"records from a port of it":    {held("p", "b", false, edge("b.err", "sink", 1)), none, false},
		"the tap reads":                {held("p", "tap", false, edge("tap", "b", 0)), none, false},
		"the tap is over":              {held("p", "tap", true, edge("tap", "b", 0)), none, true},
		"records on another edge":      {held("p", "b", false, edge("b", "sink", 5)), none, true},
		"records of another pipeline":  {held("q", "tap", false, edge("tap", "b", 5)), none, true},
		"a handler of it, without any": {held("p", "b", false, edge("b.err", "sink", 0)), none, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := &oneState{state: s}
			o := &orchestrator{ledger: l, log: slog.New(slog.DiscardHandler)}
			o.ask = func(_ context.Context, n topology.Node) (report, error) {
				r := map[topology.NodeID]*report{"n1": tt.n1, "n2": tt.n2}[n.ID]
				if r == nil {
					return report{}, errors.New("no answer")
				}
				return *r, nil
			}
			o.settle(t.Context())
			if (l.proposed > 0) != tt.ends {
				t.Errorf("proposed %d times, want it to end: %v", l.proposed, tt.ends)
			}
		})
	}
}
