package node

import (
	"context"
	"slices"
	"time"

	"weir/consensus"
	"weir/gossip"
	"weir/topology"
)

// takeoverDefault is how long a shared partition waits for its node, where the role does not say:
// longer than leaseFor, after which that node has stopped reading if it lives (DESIGN 6).
const takeoverDefault = 10 * time.Second

// assign has the log give shared partitions to nodes that read them.
func (o *orchestrator) assign(ctx context.Context, members map[topology.NodeID]member, now time.Time) {
	s := o.ledger.State()
	alive := func(id topology.NodeID) bool {
		return id == o.self || members[id].state == gossip.StateAlive || now.Sub(o.answered[id]) < probeAgain
	}
	away := make(map[topology.NodeID]time.Time)
	for _, p := range s.Pipelines {
		for _, c := range p.Claims {
			if !c.Shared || c.Holder == "" || alive(c.Holder) {
				continue
			}
			since, known := o.away[c.Holder]
			if !known {
				since = now
			}
			away[c.Holder] = since
		}
	}
	o.away = away
	for _, p := range s.Pipelines {
		cs := toAssign(s, p, alive, func(id topology.NodeID) time.Duration {
			if since, gone := away[id]; gone {
				return now.Sub(since)
			}
			return 0
		})
		for batch := range slices.Chunk(cs, consensus.MarksMax) {
			if err := o.ledger.Propose(ctx, consensus.Claims(p.Name, batch...)); err != nil {
				o.log.Info("partitions are not given out, tried again", "pipeline", p.Name, "err", err)
				return
			}
			for _, c := range batch {
				o.log.Info("partition given out", "pipeline", p.Name, "partition", c.Partition, "to", c.Holder)
			}
		}
	}
}

// toAssign returns the shared partitions of p that are to have another holder: those that nobody
// reads, those whose holder left, or began again, or has been away for the role's takeover, and
// as many as it takes to spread them evenly over the living nodes of the role.
func toAssign(s *consensus.State, p consensus.Pipeline, alive func(topology.NodeID) bool, away func(topology.NodeID) time.Duration) (give []consensus.Claim) {
	if p.Failed != nil {
		return nil
	}
	for _, r := range p.Roles {
		var able []topology.Node
		for _, n := range s.Roster {
			if p.ServedBy(n, r.Name) && alive(n.ID) {
				able = append(able, n)
			}
		}
		if len(able) == 0 {
			continue
		}
		held := make(map[topology.NodeID][]consensus.Claim) // of the able
		var again, free []consensus.Claim
		for _, c := range p.Claims {
			if c.Role != r.Name || !c.Shared || c.Done {
				continue
			}
			switch i := slices.IndexFunc(able, func(n topology.Node) bool { return n.ID == c.Holder }); {
			case i >= 0 && able[i].Boot == c.Boot:
				held[c.Holder] = append(held[c.Holder], c)
			case i >= 0: // it was started again
				c.Boot = able[i].Boot
				held[c.Holder] = append(held[c.Holder], c)
				again = append(again, c)
			case c.Holder == "" || s.HasLeft(c.Holder, c.Boot) || goesOn(s, p, r, c, away):
				free = append(free, c)
			}
		}
		give = append(give, spread(able, held, again, free)...)
	}
	return give
}

// goesOn reports whether a partition need not wait for its holder any more, which does not answer, or
// serves the role no more.
func goesOn(s *consensus.State, p consensus.Pipeline, r topology.Role, c consensus.Claim, away func(topology.NodeID) time.Duration) bool {
	if n, there := s.Node(c.Holder); there && (n.Boot > c.Boot || !p.ServedBy(n, r.Name)) {
		return true
	}
	wait := r.Takeover
	if wait == 0 {
		wait = takeoverDefault
	}
	return wait != topology.TakeoverNever && away(c.Holder) >= wait
}

// spread gives what is free to those who hold least, and then from those who hold two more than
// others; give is what is given anyhow. held is changed.
func spread(able []topology.Node, held map[topology.NodeID][]consensus.Claim, give, free []consensus.Claim) []consensus.Claim {
	extremes := func() (least, most topology.Node) {
		least, most = able[0], able[0]
		for _, n := range able[1:] {
			if len(held[n.ID]) < len(held[least.ID]) {
				least = n
			}
			if len(held[n.ID]) > len(held[most.ID]) {
				most = n
			}
		}
		return least, most
	}
	for {
		least, most := extremes()
		switch from := held[most.ID]; {
		case len(free) > 0:
			free[0].Holder, free[0].Boot = least.ID, least.Boot
			give, free = append(give, free[0]), free[1:]
		case len(from) >= len(held[least.ID])+2:
			c := from[len(from)-1]
			held[most.ID] = from[:len(from)-1]
			c.Holder, c.Boot = least.ID, least.Boot
			give = slices.DeleteFunc(give, func(g consensus.Claim) bool { return g.Partition == c.Partition && g.Role == c.Role })
			give = append(give, c)
		default:
			return give
		}
		c := give[len(give)-1]
		held[c.Holder] = append(held[c.Holder], c)
	}
}
