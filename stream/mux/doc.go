// Package mux is the one UDP port of a node: QUIC connections for streams and bare packets for
// gossip, on one socket, behind one identity. It knows peers and kinds of stream; what the
// streams say is for other packages. It never retries for its caller, never queues a stream
// and has no plaintext mode.
//
//	          Open(id, addr, kind)                     Send(b, addr)
//	                  │                                     │
//	┌─ weir-ctl/1 ────┴── raft, gossip, watch, beats        │ 0x01 version b
//	├─ weir-data/1 ────── links, 64 a connection            │
//	└──────────────┬────────────────────────────────────────┘
//	          quic.Transport ── one net.PacketConn ── the network
//	               │
//	   Handle(kind, h) h(ctx, peer, conn)     HandlePacket(h) h(b, from)
//
// A connection begins with a HELLO and its answer on a first stream; nothing is up before the
// answer (hello.go). Every later stream begins with one byte, its Kind. Connections are kept in
// a table by node id, class and index (table.go) and used in both directions.
//
// Unread data must never delay a heartbeat: QUIC's flow control window of a connection is shared
// by its streams, so control and data have connections of their own, and the window of each
// holds all the streams it may carry at their fullest.
//
// Goroutines, all joined by Run: the accept loop; the packet reader and the packet handler; one
// per connection, which accepts its streams; one per accepted stream, which runs the handler; one
// per dial and per connection that drains. Beat runs two of its own and joins them. quic-go's own
// end with their connection or with the transport.
package mux
