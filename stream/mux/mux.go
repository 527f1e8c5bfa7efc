package mux

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"weir/topology"
)

// Kind is the first byte of every stream: it names who handles it.
type Kind byte

// The kinds of stream. Those below KindLink go over the control connection.
const (
	KindHello   Kind = 0 // mux's own: the first stream of a connection
	KindGossip  Kind = 1
	KindRaft    Kind = 2
	KindWatch   Kind = 3
	KindPropose Kind = 4
	KindBeat    Kind = 5 // mux's own: heartbeats
	KindCall    Kind = 6 // questions of one node to another
	KindLink    Kind = 16
)

func (k Kind) class() class {
	if k < KindLink {
		return classCtl
	}
	return classData
}

// idBytesMax is the most a node id may hold, in bytes: it is a certificate's common name, which
// X.509 bounds to 64 (RFC 5280, ub-common-name).
const idBytesMax = 64

// Peer is a node as its HELLO told it, with the address it spoke from.
type Peer struct {
	ID    topology.NodeID
	Boot  uint64
	Addr  string // of its UDP port
	Epoch uint64 // of its State when it connected
}

// Config says who we are and on which socket.
type Config struct {
	// Conn is the one socket; Run closes it. A *net.UDPConn keeps batching, GSO and ECN.
	Conn   net.PacketConn
	Secret []byte          // 32 bytes; every key derives from it
	ID     topology.NodeID // 1 to 64 bytes
	Boot   uint64          // counts the node's starts, from 1
	// Key is the node's own, the same over its restarts; nil: made for this one.
	Key   ed25519.PrivateKey
	LogID func() uint64 // 0, or nil: none yet, which matches every other
	Epoch func() uint64 // nil: 0
	Log   *slog.Logger  // nil: discard
	// Reached is told of rare branches taken: the simulator's; nil: nobody.
	Reached func(branch string)
}

// Validate returns the first error with the field's name.
func (c Config) Validate() error {
	switch {
	case c.Conn == nil:
		return errors.New("mux: Conn is nil")
	case len(c.Secret) != secretBytes:
		return fmt.Errorf("mux: Secret has %d bytes, it must have %d", len(c.Secret), secretBytes)
	case c.ID == "" || len(c.ID) > idBytesMax:
		return fmt.Errorf("mux: ID has %d bytes, it must have 1 to %d", len(c.ID), idBytesMax)
	case c.Boot == 0:
		return errors.New("mux: Boot is 0, starts are counted from 1")
	}
	return nil
}

// handler runs one stream.
type handler func(ctx context.Context, p Peer, c net.Conn)

// Mux shares one socket. All methods may be called concurrently; those that need the network
// wait for Run to begin.
type Mux struct {
	// constant after New
	cfg    Config
	keys   keys
	client *tls.Config // NextProtos is set for each dial
	server *tls.Config
	tr     *quic.Transport

	loopbackWide bool // see isLoopbackWide

	// constant once Run is called
	handlers map[Kind]handler
	packets  func(b []byte, from net.Addr)

	table   *table
	ring    chan packet                // length: see ringPackets
	work    chan func(context.Context) // taken by Run, which runs each in group
	done    chan struct{}              // closed when Run begins to end
	group   sync.WaitGroup             // only Run and goroutines in it add to it
	serial  atomic.Uint64              // of our dials, see hello.serial
	pending atomic.Int64               // handshakes of strangers under way

	complaints complaints
	dropped    atomic.Uint64
	foreign    atomic.Uint64
}

// New makes a Mux from a valid Config. It starts nothing; the socket is the Mux's from here on.
func New(cfg Config) (*Mux, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.LogID == nil {
		cfg.LogID = func() uint64 { return 0 }
	}
	if cfg.Epoch == nil {
		cfg.Epoch = func() uint64 { return 0 }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	keys, err := deriveKeys(cfg.Secret, cfg.ID)
	if err != nil {
		return nil, fmt.Errorf("mux: derive keys: %w", err)
	}
	if err := checkClock(time.Now()); err != nil {
		return nil, fmt.Errorf("mux: %w", err)
	}
	keys.node = cfg.Key
	cert, pool, err := keys.mint(cfg.ID)
	if err != nil {
		return nil, fmt.Errorf("mux: mint certificate of %s: %w", cfg.ID, err)
	}
	m := &Mux{
		cfg:      cfg,
		keys:     keys,
		client:   clientTLS(cert, pool),
		server:   serverTLS(cert, pool),
		handlers: make(map[Kind]handler),
		packets:  func([]byte, net.Addr) {},
		table:    newTable(cfg.ID),
		ring:     make(chan packet, ringPackets),
		work:     make(chan func(context.Context)),
		done:     make(chan struct{}),

		loopbackWide: isLoopbackWide(cfg.Conn),
	}
	m.handlers[KindBeat] = echo
	m.tr = &quic.Transport{
		Conn:                coalesce(cfg.Conn, m.arrived),
		StatelessResetKey:   &m.keys.reset,
		VerifySourceAddress: m.mustVerify,
		ConnContext:         m.countHandshake,
		Tracer:              dropCounter{&m.dropped},
	}
	return m, nil
}

// Handle names who gets streams of a kind. h runs in a goroutine of its own for each, which Run
// joins; ctx ends with the connection, and c is closed when h returns. Call it before Run.
func (m *Mux) Handle(k Kind, h func(ctx context.Context, p Peer, c net.Conn)) {
	if _, taken := m.handlers[k]; taken || k == KindHello {
		panic(fmt.Sprintf("mux: kind %d has a handler", k))
	}
	m.handlers[k] = h
}

// HandlePacket names who gets bare packets, one after the other; b is h's. Call it before Run.
func (m *Mux) HandlePacket(h func(b []byte, from net.Addr)) { m.packets = h }

// Run serves the socket until ctx is done or the socket fails, and returns with nothing running:
// it closes the connections with an error code, joins the handlers, closes transport and socket.
func (m *Mux) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conf := quicConfig()
	conf.GetConfigForClient = func(c *quic.ClientInfo) (*quic.Config, error) { return m.quicConfigFor(c.RemoteAddr), nil }
	ln, err := m.tr.Listen(m.server, conf)
	if err != nil {
		close(m.done)
		return errors.Join(fmt.Errorf("listen on %s: %w", m.cfg.Conn.LocalAddr(), err), m.cfg.Conn.Close())
	}
	var failed error // of the socket; written before cancel, read after group.Wait
	m.group.Go(func() {
		failed = m.accept(ctx, ln)
		cancel(failed)
	})
	m.group.Go(func() { m.readPackets(ctx) })
	m.group.Go(func() { m.handlePackets(ctx) })
	for ctx.Err() == nil {
		select {
		case f := <-m.work:
			m.group.Go(func() { f(ctx) })
		case <-ctx.Done():
		}
	}
	close(m.done)
	m.table.close()
	m.group.Wait()
	return errors.Join(failed, ln.Close(), m.tr.Close(), m.cfg.Conn.Close())
}

// post has Run start f; f's ctx ends with Run.
func (m *Mux) post(ctx context.Context, f func(context.Context)) error {
	select {
	case m.work <- f:
		return nil
	case <-m.done:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Open returns a new stream to a node, over a connection that is there or dialled at addr. The
// kind has been written; the peer may still refuse it, which the first Read tells. An id of ""
// is a seed: any node of the cluster will do. Our own id gives an in-memory pair.
//
// The net.Conn's Close ends the writing side (what was written is delivered) and cancels the
// reading side; Reset, found by an interface assertion, drops both.
func (m *Mux) Open(ctx context.Context, id topology.NodeID, addr string, k Kind) (net.Conn, error) {
	if id == m.cfg.ID {
		return m.openLocal(ctx, k)
	}
	s, err := m.open(ctx, id, addr, k)
	if errors.Is(err, errSelf) {
		return m.openLocal(ctx, k)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %d to %s: %w", k, subject(id, addr), err)
	}
	return s, nil
}

// Resolve dials a seed and tells who it is; ourselves, if the address is our own.
func (m *Mux) Resolve(ctx context.Context, addr string) (Peer, error) {
	c, err := m.connect(ctx, target{addr: addr, class: classCtl})
	if errors.Is(err, errSelf) {
		return m.self(), nil
	}
	if err != nil {
		return Peer{}, fmt.Errorf("resolve %s: %w", addr, err)
	}
	return c.peer, nil
}

// Peers lists the nodes with a live connection, by id.
func (m *Mux) Peers() []Peer {
	peers := m.table.peers()
	slices.SortFunc(peers, func(a, b Peer) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return peers
}

// ClusterID names the cluster: 16 hex digits that follow from its secret.
func (m *Mux) ClusterID() string { return hex.EncodeToString(m.keys.cluster[:]) }

// ClusterID names the cluster of a secret.
func ClusterID(secret []byte) (string, error) {
	k, err := deriveKeys(secret, "")
	return hex.EncodeToString(k.cluster[:]), err
}

// self is what a peer would see of us.
func (m *Mux) self() Peer {
	return Peer{ID: m.cfg.ID, Boot: m.cfg.Boot, Addr: m.cfg.Conn.LocalAddr().String(), Epoch: m.cfg.Epoch()}
}

// subject names a node in an error: by id if we know it.
func subject(id topology.NodeID, addr string) string {
	if id == "" {
		return addr
	}
	return fmt.Sprintf("%s at %s", id, addr)
}
