package node

import (
	"context"
	"slices"
	"sync"

	"weir/consensus"
	"weir/topology"
)

// settle ends what is leaving pipelines, where nothing is in flight any more.
func (o *orchestrator) settle(ctx context.Context) {
	s := o.ledger.State()
	if !slices.ContainsFunc(s.Pipelines, func(p consensus.Pipeline) bool { return !p.Leaving.IsZero() }) {
		return
	}
	all, complete := o.survey(ctx, s)
	if !complete {
		return // who is missing may hold records
	}
	for _, p := range s.Pipelines {
		if p.Leaving.IsZero() || !quiet(p, all) {
			continue
		}
		if err := o.ledger.Propose(ctx, consensus.Settle(p.Name, p.Version)); err != nil {
			o.log.Info("what a pipeline lost stays, tried again", "pipeline", p.Name, "err", err)
			continue
		}
		o.log.Info("what a pipeline lost has ended", "pipeline", p.Name, "version", p.Version)
	}
}

// survey asks all nodes of the roster; complete: all have answered, and have followed s.
func (o *orchestrator) survey(ctx context.Context, s *consensus.State) (all []report, complete bool) {
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, node := range s.Roster {
		group.Go(func() { // ended by reportTimeout
			r, err := o.ask(ctx, node)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && r.Epoch >= s.Epoch {
				all = append(all, r)
			}
		})
	}
	group.Wait()
	return all, len(all) == len(s.Roster)
}

// quiet reports whether nothing is in flight on the edges that leave p, and will not be: no tap
// that leaves reads. All that goes on from a role that leaves came to it by such an edge and is
// un-acked there.
func quiet(p consensus.Pipeline, all []report) bool {
	leaves := func(e edgeReport) bool {
		return slices.ContainsFunc(p.Leaving.Edges, func(x topology.Edge) bool { return x.Source() == e.From && x.To == e.To })
	}
	for _, r := range all {
		for _, role := range r.Roles {
			if role.Pipeline != p.Name {
				continue
			}
			if role.Tap && p.Leaves(role.Role) && !role.Over {
				return false
			}
			if slices.ContainsFunc(role.Edges, func(e edgeReport) bool { return leaves(e) && e.InflightRecords > 0 }) {
				return false
			}
		}
	}
	return true
}
