package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// packetsWaiting is how many packets wait for memberlist: several bursts of a large
	// cluster (200 nodes joining at once), 300 KiB at most. More are dropped.
	packetsWaiting = 256
	// streamsAtOnce is how many streams of peers are served at once (FAULTS T9).
	streamsAtOnce = 4
	// streamBytesMax is the most read from one stream, in bytes (FAULTS T9): the state of
	// membersMax members.
	streamBytesMax = 4 << 20
	// streamWait bounds a stream: opening it, waiting for a turn, and its life.
	streamWait = 3 * time.Second
)

var errStreamLong = fmt.Errorf("the stream brings more than %d bytes", streamBytesMax)

// transport is memberlist's door to Net.
type transport struct {
	net     Net
	seal    seal
	self    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	turns   chan struct{} // length streamsAtOnce: one for each stream being served
	done    chan struct{} // closed by close

	// dialContext is set by dialing before memberlist starts: memberlist dials without one.
	dialContext func(time.Duration) (context.Context, context.CancelFunc)

	mu     sync.Mutex
	open   map[*stream]struct{}
	closed bool
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(n Net, s seal, self netip.AddrPort) *transport {
	return &transport{
		net: n, seal: s, self: self,
		packets: make(chan *memberlist.Packet, packetsWaiting),
		streams: make(chan net.Conn),
		turns:   make(chan struct{}, streamsAtOnce),
		done:    make(chan struct{}),
		open:    make(map[*stream]struct{}),
	}
}

// dialing says how long dials may go on: until ctx is done.
func (t *transport) dialing(ctx context.Context) {
	t.dialContext = func(d time.Duration) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, d)
	}
}

// close ends all streams; nothing is taken from then on.
func (t *transport) close() {
	t.closeStreams()
	close(t.done)
}

// closeStreams ends the streams there are, and those to come at once.
func (t *transport) closeStreams() {
	t.mu.Lock()
	t.closed = true
	open := t.open
	t.open = make(map[*stream]struct{})
	t.mu.Unlock()
	for s := range open {
		s.Conn.Close()
	}
}

func (t *transport) handlePacket(b []byte, from net.Addr) {
	plain, err := t.seal.open(b)
	if err != nil {
		return // anybody can send us bytes: not worth a line each
	}
	select {
	case t.packets <- &memberlist.Packet{Buf: plain, From: from, Timestamp: time.Now()}:
	default:
	}
}

func (t *transport) handleStream(c net.Conn) {
	late := time.NewTimer(streamWait)
	defer late.Stop()
	select {
	case t.turns <- struct{}{}:
	case <-late.C:
		c.Close()
		return
	case <-t.done:
		c.Close()
		return
	}
	defer func() { <-t.turns }()
	s := t.track(c)
	defer s.Close()
	select {
	case t.streams <- s:
	case <-late.C:
		return
	case <-t.done:
		return
	}
	select {
	case <-s.closed: // memberlist closes each, under a deadline of its own
	case <-t.done:
	}
}

func (t *transport) track(c net.Conn) *stream {
	s := &stream{Conn: c, left: streamBytesMax, transport: t, closed: make(chan struct{})}
	t.mu.Lock()
	t.open[s] = struct{}{}
	closed := t.closed
	t.mu.Unlock()
	if closed {
		c.Close()
	}
	return s
}

// FinalAdvertiseAddr is our address, whatever memberlist was configured to.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.self.Addr().AsSlice(), int(t.self.Port()), nil
}

func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	if err := t.net.Send(t.seal.close(b), addr); err != nil {
		return time.Time{}, fmt.Errorf("send gossip to %s: %w", addr, err)
	}
	return time.Now(), nil
}

func (t *transport) DialTimeout(addr string, d time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, d)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, d time.Duration) (net.Conn, error) {
	ctx, cancel := t.dialContext(d)
	defer cancel()
	c, err := t.net.Open(ctx, idOf(a.Name), a.Addr)
	if err != nil {
		return nil, fmt.Errorf("open gossip stream to %s: %w", a.Addr, err)
	}
	return t.track(c), nil
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

// Shutdown is for memberlist; Run closes the transport itself.
func (t *transport) Shutdown() error { return nil }

// stream reads at most left bytes, and no compressed message. memberlist reads it in one
// goroutine; Close may be called by several.
type stream struct {
	net.Conn
	left      int
	begun     bool
	transport *transport
	once      sync.Once
	closed    chan struct{} // closed by Close
}

func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if s.left == 0 {
		return 0, errStreamLong
	}
	n, err := s.Conn.Read(p[:min(len(p), s.left)])
	if n > 0 && !s.begun && p[0] == typeCompress {
		return 0, errors.Join(errCompressed, s.Close())
	}
	s.begun = s.begun || n > 0
	s.left -= n
	return n, err
}

func (s *stream) Close() error {
	err := s.Conn.Close()
	s.once.Do(func() {
		s.transport.mu.Lock()
		delete(s.transport.open, s)
		s.transport.mu.Unlock()
		close(s.closed)
	})
	return err
}
