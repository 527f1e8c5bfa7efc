package consensus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"weir/topology"
)

// fabric is a network in memory. Streams lose nothing, but what is written while a direction is
// cut arrives only when it is mended, as over QUIC.
type fabric struct {
	t     *testing.T
	group sync.WaitGroup // handlers

	mu      sync.Mutex
	members map[topology.NodeID]*member
	stores  map[topology.NodeID]string // the file of a node that has one
	cut     map[path]bool
	changed chan struct{} // closed and replaced when something may have arrived
}

// path is a direction: from, to.
type path [2]topology.NodeID

type member struct {
	*Consensus
	fabric *fabric
	node   topology.Node
	ctx    context.Context
	stop   func() error
}

func newFabric(t *testing.T) *fabric {
	return &fabric{t: t, members: make(map[topology.NodeID]*member), stores: make(map[topology.NodeID]string), cut: make(map[path]bool), changed: make(chan struct{})}
}

// start runs node i: the first makes the cluster, the others watch it.
func (f *fabric) start(i int) *member {
	f.t.Helper()
	m := &member{fabric: f, node: testNode(i)}
	c := Config{ID: m.node.ID, Net: m, Bootstrap: i == 1}
	if i > 1 {
		c.Seeds = []string{testNode(1).Addr}
	}
	if testing.Verbose() && os.Getenv("RAFT_LOG") != "" {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", m.node.ID)
	}
	if file := f.stores[m.node.ID]; file != "" {
		c.Store = openTest(f.t, file)
	}
	var err error
	if m.Consensus, err = New(c); err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.ctx = ctx
	done := make(chan error, 1)
	m.stop = sync.OnceValue(func() error {
		cancel()
		err := <-done
		if c.Store != nil {
			err = errors.Join(err, c.Store.Close())
		}
		return err
	})
	f.mu.Lock()
	f.members[m.node.ID] = m
	f.mu.Unlock()
	go func() { done <- m.Run(ctx) }()
	return m
}

func testNode(i int, roles ...string) topology.Node {
	return topology.Node{ID: topology.NodeID(fmt.Sprintf("n%d", i)), Boot: 1, Addr: fmt.Sprintf("10.0.0.%d:7411", i), Roles: roles}
}

// kill is kill -9: from now on nobody hears of m.
func (f *fabric) kill(m *member) {
	f.isolate(m, true)
	f.group.Go(func() { m.stop() })
}

func (f *fabric) isolate(m *member, cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.members {
		if id != m.node.ID {
			f.cut[path{m.node.ID, id}] = cut
			f.cut[path{id, m.node.ID}] = cut
		}
	}
	f.wake()
}

func (f *fabric) sever(from, to *member, cut bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut[path{from.node.ID, to.node.ID}] = cut
	f.wake()
}

// stopAll ends the test's members and waits for everything they started.
func (f *fabric) stopAll() {
	f.mu.Lock()
	members := f.members
	f.mu.Unlock()
	for _, m := range members {
		f.group.Go(func() {
			if err := m.stop(); err != nil {
				f.t.Errorf("run %s: %v", m.node.ID, err)
			}
		})
	}
	f.group.Wait()
}

// wake is called with mu held.
func (f *fabric) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (m *member) Open(ctx context.Context, id topology.NodeID, addr string, s Stream) (net.Conn, error) {
	f := m.fabric
	f.mu.Lock()
	to := f.members[id]
	for _, other := range f.members {
		if id == "" && other.node.Addr == addr {
			to = other
		}
	}
	reachable := to != nil && !f.cut[path{m.node.ID, to.node.ID}] && !f.cut[path{to.node.ID, m.node.ID}]
	f.mu.Unlock()
	if !reachable || to.ctx.Err() != nil {
		<-ctx.Done()
		return nil, errors.New("no answer")
	}
	there, back := new(half), new(half)
	there.path, back.path = path{m.node.ID, to.node.ID}, path{to.node.ID, m.node.ID}
	ours, theirs := &conn{fabric: f, in: back, out: there}, &conn{fabric: f, in: there, out: back}
	f.group.Go(func() {
		switch s {
		case StreamRaft:
			to.HandleRaft(to.ctx, m.node.ID, theirs)
		case StreamWatch:
			to.HandleWatch(to.ctx, m.node.ID, theirs)
		case StreamPropose:
			to.HandlePropose(to.ctx, m.node.ID, theirs)
		}
	})
	return ours, nil
}

// half is one direction of a stream; the fabric's mu guards it.
type half struct {
	path   path
	buf    bytes.Buffer
	closed bool
}

type conn struct {
	fabric   *fabric
	in, out  *half
	deadline time.Time // of reads, guarded by the fabric's mu; writes never block
	gone     bool
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		c.fabric.mu.Lock()
		cut, changed, deadline := c.fabric.cut[c.in.path], c.fabric.changed, c.deadline
		if c.gone {
			c.fabric.mu.Unlock()
			return 0, net.ErrClosed
		}
		if !cut && c.in.buf.Len() > 0 {
			defer c.fabric.mu.Unlock()
			return c.in.buf.Read(p)
		}
		if !cut && c.in.closed {
			c.fabric.mu.Unlock()
			return 0, io.EOF
		}
		c.fabric.mu.Unlock()
		var late <-chan time.Time
		if !deadline.IsZero() {
			if !time.Now().Before(deadline) {
				return 0, os.ErrDeadlineExceeded
			}
			late = time.After(time.Until(deadline))
		}
		select {
		case <-changed:
		case <-late:
		}
	}
}

func (c *conn) Write(p []byte) (int, error) {
	c.fabric.mu.Lock()
	defer c.fabric.mu.Unlock()
	if c.gone || c.in.closed && !c.fabric.cut[c.in.path] {
		return 0, net.ErrClosed
	}
	c.fabric.wake()
	return c.out.buf.Write(p)
}

func (c *conn) Close() error {
	c.fabric.mu.Lock()
	defer c.fabric.mu.Unlock()
	c.gone, c.out.closed = true, true
	c.fabric.wake()
	return nil
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.fabric.mu.Lock()
	defer c.fabric.mu.Unlock()
	c.deadline = t
	c.fabric.wake()
	return nil
}

func (c *conn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
func (c *conn) LocalAddr() net.Addr              { return nil }
func (c *conn) RemoteAddr() net.Addr             { return nil }
