package node

import (
	"context"
	"net"

	"weir/consensus"
	"weir/stream/mux"
	"weir/topology"
)

// gossipNet and consensusNet are the mux as these rooms see it.
type (
	gossipNet    struct{ *mux.Mux }
	consensusNet struct{ *mux.Mux }
)

func (g gossipNet) Open(ctx context.Context, id topology.NodeID, addr string) (net.Conn, error) {
	return g.Mux.Open(ctx, id, addr, mux.KindGossip)
}

func (c consensusNet) Open(ctx context.Context, id topology.NodeID, addr string, s consensus.Stream) (net.Conn, error) {
	kinds := map[consensus.Stream]mux.Kind{
		consensus.StreamRaft: mux.KindRaft, consensus.StreamWatch: mux.KindWatch, consensus.StreamPropose: mux.KindPropose,
	}
	return c.Mux.Open(ctx, id, addr, kinds[s])
}

// onlyID is a handler that needs no more of a peer than its id.
func onlyID(h func(context.Context, topology.NodeID, net.Conn)) func(context.Context, mux.Peer, net.Conn) {
	return func(ctx context.Context, p mux.Peer, c net.Conn) { h(ctx, p.ID, c) }
}
