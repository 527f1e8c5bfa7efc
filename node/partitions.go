package node

import (
	"cmp"
	"fmt"
	"slices"

	"weir/consensus"
	"weir/node/api"
	"weir/topology"
)

// Pure: the partitions of a pipeline's taps, as status shows them.

// strandedMax is how many partitions that nobody reads are named: what a person reads.
const strandedMax = 3

// partitions lists the partitions of a pipeline's taps, as the log and the nodes know them.
func partitions(p consensus.Pipeline, all map[topology.NodeID]report) []api.Tap {
	type key struct{ role, partition string }
	taps := make(map[key]api.Tap)
	for _, c := range p.Claims {
		taps[key{c.Role, c.Partition}] = api.Tap{Node: string(c.Holder), Claim: c.Number, Done: c.Done}
	}
	for id, r := range all {
		for _, role := range r.Roles {
			if _, known := p.Role(role.Role); role.Pipeline != p.Name || !known {
				continue
			}
			for _, t := range role.Taps {
				k := key{role.Role, t.Partition}
				sum, known := taps[k]
				if !known {
					sum.Node = string(id)
				}
				sum.Read += t.Read
				sum.Acked += t.Acked
				sum.Done = sum.Done || t.Done
				taps[k] = sum
			}
		}
	}
	list := make([]api.Tap, 0, len(taps))
	for k, t := range taps {
		t.Role, t.Partition = k.role, k.partition
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b api.Tap) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Partition, b.Partition))
	})
	return list
}

// stranded lists partitions that nobody reads, with whom they wait for.
func stranded(s *consensus.State, p consensus.Pipeline) (why []string) {
	for _, c := range p.Claims {
		if len(why) == strandedMax {
			break
		}
		switch _, there := s.Node(c.Holder); {
		case c.Done || there:
		case c.Holder == "":
			why = append(why, fmt.Sprintf("nobody reads %s of role %s yet", c.Partition, c.Role))
		default:
			why = append(why, fmt.Sprintf("%s of role %s waits for node %s", c.Partition, c.Role, c.Holder))
		}
	}
	return why
}
