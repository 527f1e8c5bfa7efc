package mux

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// class is a sort of connection; each has an ALPN of its own.
type class byte

const (
	classCtl  class = iota // small things that must not wait
	classData              // links
)

func (c class) alpn() string {
	if c == classCtl {
		return "weir-ctl/1"
	}
	return "weir-data/1"
}

// indexMax is how many connections of the data class two nodes may have: 512 links each way,
// twice what the layout plans for one edge (DESIGN 2).
const indexMax = 8

// connsMax is how many connections one start of a node may have with us: each place once, and once
// more while the one that lost it drains.
const connsMax = 2 * (indexMax + 1)

// Windows of flow control, in bytes, and the streams that follow from them. They are fixed at the
// handshake, and the same for both classes, because a server must choose them before it knows the
// ALPN.
const (
	// streamWindow lets one stream run at full speed on a LAN (STACK 5: 512 KiB is 100 %,
	// 256 KiB 93 %); it is also what a stalled stream pins at its receiver.
	streamWindow = 512 << 10
	// streamsMax is how many streams each side may open on one connection.
	streamsMax = 64
	// connWindow holds all streams of a side at their fullest and leaves room for what comes
	// back on those of the other side: unread data never delays another stream (FAULTS T1).
	connWindow = streamsMax*streamWindow + 256<<10
)

// Times of a connection.
const (
	idleMax      = 10 * time.Second // heartbeats notice earlier; this ends what nobody beats
	keepAlive    = 3 * time.Second  // three may be lost within idleMax
	handshakeMax = 3 * time.Second  // some round trips on a bad path
)

func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeMax,
		MaxIdleTimeout:                 idleMax,
		KeepAlivePeriod:                keepAlive,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: connWindow,
		MaxConnectionReceiveWindow:     connWindow,
		MaxIncomingStreams:             streamsMax + 1, // and the HELLO, which may end a little late
		MaxIncomingUniStreams:          -1,
		// A path whose MTU shrinks after discovery kills a connection (FAULTS T4), so packets
		// keep quic-go's initial 1280 bytes. The size is left unset on purpose: only then
		// quic-go falls back to 1200 where the interface takes no more.
		DisablePathMTUDiscovery: true,
	}
}

// loopbackPacketBytes is what a packet on loopback holds, in bytes: the most that quic-go makes (its
// protocol.MaxPacketBufferSize). Measured: a link costs 5 % less CPU than with 1280.
const loopbackPacketBytes = 1452

// quicConfigFor is the config of a connection with a peer at addr. Only loopback is known to carry
// larger packets.
func (m *Mux) quicConfigFor(addr net.Addr) *quic.Config {
	c := quicConfig()
	if udp, ok := addr.(*net.UDPAddr); ok && m.loopbackWide && udp.IP.IsLoopback() {
		c.InitialPacketSize = loopbackPacketBytes
	}
	return c
}

// isLoopbackWide reports whether a socket's loopback takes such packets, as it does unless somebody
// made its MTU smaller than Ethernet's.
func isLoopbackWide(conn net.PacketConn) bool {
	if _, ok := conn.(*net.UDPConn); !ok {
		return false
	}
	all, err := net.Interfaces()
	return err == nil && slices.ContainsFunc(all, func(i net.Interface) bool {
		return i.Flags&net.FlagLoopback != 0 && i.MTU >= 1500
	})
}

// conn is one connection that has said HELLO.
type conn struct {
	// constant
	q       *quic.Conn
	place   place
	peer    Peer
	ours    bool   // dialled by us
	serial  uint64 // of the dial
	dialled string // the address as the caller wrote it; "" if the peer dialled

	beaten chan struct{} // a flag: the peer beats us and hears our answers
	opened atomic.Int32  // streams opened here and not closed
	active atomic.Int32  // streams of both sides not closed here
}

func (c *conn) origin() origin { return origin{boot: c.peer.Boot, ours: c.ours, serial: c.serial} }

// gone reports whether the connection is closed, by whom ever.
func (c *conn) gone() bool { return c.q.Context().Err() != nil }

func (c *conn) close(code quic.ApplicationErrorCode, why string) { _ = c.q.CloseWithError(code, why) }

// open opens a stream and writes its kind. A full data connection is errFull; on a full control
// connection it waits.
func (c *conn) open(ctx context.Context, k Kind) (*stream, error) {
	if c.opened.Add(1) > streamsMax && c.place.class == classData {
		c.opened.Add(-1)
		return nil, errFull
	}
	q, err := c.openQUIC(ctx)
	if err != nil {
		c.opened.Add(-1)
		return nil, err
	}
	s := newStream(c, q, true)
	if _, err := s.Write([]byte{byte(k)}); err != nil { // one byte is buffered: it never blocks
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

func (c *conn) openQUIC(ctx context.Context) (*quic.Stream, error) {
	if c.place.class == classCtl {
		q, err := c.q.OpenStreamSync(ctx)
		return q, streamError(err)
	}
	q, err := c.q.OpenStream()
	if _, full := errors.AsType[*quic.StreamLimitReachedError](err); full {
		return nil, errFull
	}
	return q, streamError(err)
}

// drainTick is how often a connection that lost its place looks whether its last stream has
// ended. It closes after two looks without one, so that a stream the peer was opening arrives.
const drainTick = time.Second

// drain closes a connection once it is unused.
func (c *conn) drain(ctx context.Context) {
	tick := time.NewTicker(drainTick)
	defer tick.Stop()
	for idle := 0; idle < 2; {
		select {
		case <-tick.C:
		case <-c.q.Context().Done():
			return
		case <-ctx.Done():
			return
		}
		if idle++; c.active.Load() > 0 {
			idle = 0
		}
	}
	c.close(codeRetired, "another connection took its place")
}

// serve accepts the streams of a connection until it is closed or ctx is done, and closes it.
func (m *Mux) serve(ctx context.Context, c *conn) {
	log := m.cfg.Log.With("peer", c.peer.ID, "addr", c.peer.Addr, "class", c.place.class.alpn(), "index", c.place.index)
	log.Debug("connection up", "boot", c.peer.Boot, "epoch", c.peer.Epoch, "dialled", c.ours)
	ctx, cancel := context.WithCancelCause(ctx)
	defer m.table.remove(c)
	for {
		q, err := c.q.AcceptStream(ctx)
		if err != nil {
			log.Debug("connection gone", "err", err)
			cancel(fmt.Errorf("%w: %w", ErrLost, err))
			c.close(codeBye, "the node stops") // unless it is closed, with the code it was closed with
			return
		}
		s := newStream(c, q, false)
		m.group.Go(func() { m.handle(ctx, s) }) // ends with the handler, which ends with ctx or the stream
	}
}

// handle reads the kind of a stream and runs its handler.
func (m *Mux) handle(ctx context.Context, s *stream) {
	defer s.Close()
	var first [1]byte
	_ = s.SetReadDeadline(time.Now().Add(helloMax))
	if _, err := s.Read(first[:]); err != nil {
		s.Reset()
		return
	}
	k := Kind(first[0])
	h := m.handlers[k]
	if h == nil || k.class() != s.c.place.class {
		m.cfg.Log.Debug("stream refused", "peer", s.c.peer.ID, "kind", byte(k), "class", s.c.place.class.alpn())
		s.reset(streamNoHandler)
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	h(ctx, s.c.peer, s)
}

// openLocal makes an in-memory pair whose other end goes to our own handler.
func (m *Mux) openLocal(ctx context.Context, k Kind) (net.Conn, error) {
	h := m.handlers[k]
	if h == nil {
		return nil, fmt.Errorf("open stream %d to ourselves: %w", k, ErrNoHandler)
	}
	here, there := net.Pipe()
	err := m.post(ctx, func(ctx context.Context) {
		stop := context.AfterFunc(ctx, func() { there.Close() })
		defer stop()
		defer there.Close()
		h(ctx, m.self(), local{there})
	})
	if err != nil {
		return nil, fmt.Errorf("open stream %d to ourselves: %w", k, err)
	}
	return local{here}, nil
}
