package node

import (
	"context"
	"net"
	"slices"

	"weir/consensus"
	"weir/gossip"
	"weir/stream/mux"
	"weir/topology"
)

// gossipNet is the mux as gossip sees it, consensusNet the mux with what is known of addresses.
type (
	gossipNet    struct{ *mux.Mux }
	consensusNet struct{ n *Node }
)

func (g gossipNet) Open(ctx context.Context, id topology.NodeID, addr string) (net.Conn, error) {
	return g.Mux.Open(ctx, id, addr, mux.KindGossip)
}

func (c consensusNet) Open(ctx context.Context, id topology.NodeID, addr string, s consensus.Stream) (net.Conn, error) {
	kinds := map[consensus.Stream]mux.Kind{
		consensus.StreamRaft: mux.KindRaft, consensus.StreamWatch: mux.KindWatch, consensus.StreamPropose: mux.KindPropose,
	}
	if id != "" {
		addr = c.n.addrOf(id)
	}
	return c.n.mux.Open(ctx, id, addr, kinds[s])
}

// seedsKept is how many addresses that the log had before a restart are tried for ever beside the
// seeds: some of them still hold when most have changed.
const seedsKept = 8

// seeds are the addresses at which gossip looks for the others: those the config names, and after
// a restart those of the log, voters first.
func (n *Node) seeds() []string {
	s := n.consensus.State()
	list := slices.Clone(n.cfg.Join)
	for _, votes := range []bool{true, false} {
		for _, m := range s.Roster {
			if len(list) < len(n.cfg.Join)+seedsKept && m.ID != n.self.ID && s.Votes(m.ID) == votes && !slices.Contains(list, m.Addr) {
				list = append(list, m.Addr)
			}
		}
	}
	return list
}

// addrOf is where a node is: as gossip has it while it lives, else as the log has it, else where
// gossip saw it last. "" is not known.
func (n *Node) addrOf(id topology.NodeID) string {
	members := n.gossip.Members()
	i := slices.IndexFunc(members, func(m gossip.Member) bool { return m.ID == id })
	if i >= 0 && members[i].State == gossip.StateAlive {
		return members[i].Addr
	}
	if known, ok := n.consensus.State().Node(id); ok || i < 0 {
		return known.Addr
	}
	return members[i].Addr
}

// onlyID is a handler that needs no more of a peer than its id.
func onlyID(h func(context.Context, topology.NodeID, net.Conn)) func(context.Context, mux.Peer, net.Conn) {
	return func(ctx context.Context, p mux.Peer, c net.Conn) { h(ctx, p.ID, c) }
}
