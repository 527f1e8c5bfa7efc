package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/consensus"
	"weir/gossip"
	"weir/topology"
)

// cableDelay is how long a write takes, so that a fault can come between a call and its answer.
const cableDelay = time.Millisecond

// cable connects nodes by pipes. Of one that is killed nobody hears, as over UDP: who waits for
// it waits in vain.
type cable struct {
	group sync.WaitGroup

	mu    sync.Mutex
	nodes map[string]*wired // by address
	lines []*line
}

func newCable() *cable { return &cable{nodes: make(map[string]*wired)} }

// wired is a node with an orchestrator, and no more.
type wired struct {
	cable  *cable
	node   topology.Node
	log    *consensus.Consensus
	ctx    context.Context
	cancel context.CancelFunc
	killed atomic.Bool
}

// line is a node's end of a pipe.
type line struct {
	net.Conn
	owner *wired
}

func (l *line) Write(p []byte) (int, error) {
	time.Sleep(cableDelay)
	if l.owner.killed.Load() {
		return 0, net.ErrClosed
	}
	return l.Conn.Write(p)
}

// Close is not seen by the other end once the owner is dead.
func (l *line) Close() error {
	if l.owner.killed.Load() {
		return l.SetDeadline(time.Unix(1, 0))
	}
	return l.Conn.Close()
}

func (w *wired) Open(ctx context.Context, id topology.NodeID, addr string, s consensus.Stream) (net.Conn, error) {
	w.cable.mu.Lock()
	to := w.cable.nodes[addr]
	for _, n := range w.cable.nodes {
		if n.node.ID == id {
			to = n
		}
	}
	w.cable.mu.Unlock()
	if to == nil || to.killed.Load() || w.killed.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a, b := net.Pipe()
	ours, theirs := &line{a, w}, &line{b, to}
	w.cable.mu.Lock()
	w.cable.lines = append(w.cable.lines, ours, theirs)
	w.cable.mu.Unlock()
	handle := map[consensus.Stream]func(context.Context, topology.NodeID, net.Conn){
		consensus.StreamRaft: to.log.HandleRaft, consensus.StreamWatch: to.log.HandleWatch, consensus.StreamPropose: to.log.HandlePropose,
	}[s]
	w.cable.group.Go(func() { handle(to.ctx, w.node.ID, theirs) })
	return ours, nil
}

// start runs node i: the first makes the cluster, the others watch it.
func (c *cable) start(t *testing.T, b *bench, i int, roles ...string) *wired {
	n := &wired{cable: c, node: topology.Node{ID: topology.NodeID(fmt.Sprintf("n%02d", i)), Boot: 1, Addr: fmt.Sprintf("10.0.0.%d:7411", i), Roles: roles}}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("WEIR_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("on", n.node.ID)
	}
	cfg := consensus.Config{ID: n.node.ID, Net: n, Log: log, Bootstrap: i == 1}
	if i > 1 {
		cfg.Seeds = []string{"10.0.0.1:7411"}
	}
	var err error
	if n.log, err = consensus.New(cfg); err != nil {
		t.Fatal(err)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	c.mu.Lock()
	c.nodes[n.node.Addr] = n
	c.mu.Unlock()
	o := &orchestrator{self: n.node.ID, members: b, ledger: n.log, voters: n.log, log: log}
	c.group.Go(func() {
		if err := n.log.Run(n.ctx); err != nil {
			t.Errorf("%s: %v", n.node.ID, err)
		}
	})
	c.group.Go(func() { o.run(n.ctx) })
	b.set(n.member(gossip.StateAlive))
	return n
}

func (w *wired) member(s gossip.State) gossip.Member {
	return gossip.Member{ID: w.node.ID, Boot: 1, Addr: w.node.Addr, Roles: w.node.Roles, State: s}
}

// kill is kill -9 to all others; what ran in the node ends too, unheard.
func (w *wired) kill() {
	w.killed.Store(true)
	w.cable.mu.Lock()
	defer w.cable.mu.Unlock()
	for _, l := range w.cable.lines {
		if l.owner == w {
			l.Close()
		}
	}
	w.cancel()
}

// stop ends all nodes at once and waits for what they started.
func (c *cable) stop() {
	c.mu.Lock()
	for _, n := range c.nodes {
		n.killed.Store(true)
		n.cancel()
	}
	for _, l := range c.lines {
		l.Conn.Close()
	}
	c.mu.Unlock()
	c.group.Wait()
}
