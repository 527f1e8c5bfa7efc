package consensus

import (
	"cmp"
	"slices"

	"weir/topology"
)

// Pure: who should vote.

// VotersMax is the most voters a cluster has.
const VotersMax = 5

// Change is a step towards the voters wanted; at most one field is set.
type Change struct {
	Add      []topology.NodeID // give them votes, the best first
	Remove   topology.NodeID   // take its vote
	Transfer []topology.NodeID // hand one of them the leadership, the best first: the leader is to lose its vote
}

// ChooseVoters returns the next change of voters, made by the leader self: promote first, demote
// after, at most one too many at a time. Preferred are nodes that are no tap or sink and that lose no role its
// last node when they die. alive and left are as the leader sees them; all other nodes are dead.
//
// There are target voters. Where fewer nodes are there, those that vote already stay, in the
// largest odd number. Death alone never makes them fewer: a dead voter keeps its place until
// another has taken it, since fewer voters survive fewer deaths (FAULTS T11). Those that left
// make room at once.
func ChooseVoters(s *State, self topology.NodeID, alive, left map[topology.NodeID]bool, target int) Change {
	target = min(target, VotersMax)
	staying := 0
	for _, id := range s.Voters {
		if !left[id] {
			staying++
		}
	}
	there := 0
	for _, n := range s.Roster {
		there += truth(alive[n.ID])
	}
	size := min(target, max(there, staying))
	if size == 0 {
		return Change{} // all have left, this node among them: it leads until it is gone
	}
	size -= 1 - size%2 // odd
	ranked := rank(s, alive, there < target)
	wanted := ranked[:min(size, len(ranked))]

	if len(s.Voters) > size {
		return demote(s, self, ranked, wanted)
	}
	lacking := slices.DeleteFunc(slices.Clone(wanted), s.Votes)
	return Change{Add: lacking[:min(len(lacking), size+1-len(s.Voters))]}
}

// demote takes the vote of one that is not wanted: the dead first, which are not ranked, then
// the worst, the leader last.
func demote(s *State, self topology.NodeID, ranked, wanted []topology.NodeID) Change {
	extra := slices.DeleteFunc(slices.Clone(s.Voters), func(id topology.NodeID) bool { return slices.Contains(wanted, id) })
	place := func(id topology.NodeID) int {
		if i := slices.Index(ranked, id); i >= 0 {
			return i
		}
		return len(ranked)
	}
	slices.SortStableFunc(extra, func(a, b topology.NodeID) int {
		return cmp.Or(truth(a == self)-truth(b == self), place(b)-place(a))
	})
	if len(extra) == 0 {
		return Change{}
	}
	if extra[0] != self {
		return Change{Remove: extra[0]}
	}
	return Change{Transfer: slices.DeleteFunc(slices.Clone(wanted), func(id topology.NodeID) bool { return id == self || !s.Votes(id) })}
}

// rank returns the living nodes of the roster, the best voters first: by burden, then those that
// vote already, or the other way round to keep them; then by id.
func rank(s *State, alive map[topology.NodeID]bool, keep bool) []topology.NodeID {
	var list []topology.NodeID
	burden := make(map[topology.NodeID]int)
	for _, n := range s.Roster {
		if alive[n.ID] {
			list = append(list, n.ID)
			burden[n.ID] = burdenOf(n, s, alive)
		}
	}
	slices.SortFunc(list, func(a, b topology.NodeID) int {
		votes, burdens := truth(s.Votes(b))-truth(s.Votes(a)), burden[a]-burden[b]
		if keep {
			return cmp.Or(votes, burdens, cmp.Compare(a, b))
		}
		return cmp.Or(burdens, votes, cmp.Compare(a, b))
	})
	return list
}

// burdenOf is 2 for a tap or sink, 1 for the only living node of a role, else 0.
func burdenOf(n topology.Node, s *State, alive map[topology.NodeID]bool) int {
	burden := 0
	for _, p := range s.Pipelines {
		for _, r := range p.Roles {
			switch {
			case !p.ServedBy(n, r.Name):
			case r.Kind == topology.KindTap, r.Kind == topology.KindSink:
				return 2
			case !hasFellow(n.ID, p, r.Name, s, alive):
				burden = 1
			}
		}
	}
	return burden
}

func hasFellow(id topology.NodeID, p Pipeline, role string, s *State, alive map[topology.NodeID]bool) bool {
	return slices.ContainsFunc(s.Roster, func(m topology.Node) bool {
		return m.ID != id && alive[m.ID] && p.ServedBy(m, role)
	})
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}
