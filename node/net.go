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
