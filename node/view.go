package node

import (
	"slices"

	"weir/topology"
)

// View is what one node knows of its cluster without asking anybody: Status asks all.
type View struct {
	Leads  bool            // this node leads, in Term
	Leader topology.NodeID // of Term, as the log has it; it may have died since
	Term   uint64
	Epoch  uint64
	Quorum bool // a leader was heard of lately
	Voters []topology.NodeID
	Stands bool // this node votes, or is to
	Roster []topology.NodeID
	Held   int64 // bytes of records in sender windows
}

// View looks at the node.
func (n *Node) View() View {
	s := n.consensus.State()
	v := View{
		Leads: n.consensus.IsLeader(), Leader: s.Leader, Term: s.Term, Epoch: s.Epoch,
		Quorum: n.consensus.Quorum(), Voters: slices.Clone(s.Voters), Stands: n.consensus.Stands(), Held: n.budget.Held(),
	}
	for _, r := range s.Roster {
		v.Roster = append(v.Roster, r.ID)
	}
	return v
}
