// Package node joins the rooms: gossip, consensus, mux and stream make one node of a cluster.
//
// Control goes round once, through the log; every node draws the same links from it:
//
//	gossip ── orchestrator (on the leader) ──> log ──> State ──> roles.go: what runs here
//	                                                        └──> links.go: who connects to whom
//
// Goroutines: Run owns one for each of mux, gossip, consensus, orchestrator, the keeper that
// follows the State (keeper.go), the marks on their way to the log (marks.go) and the API's
// listeners; one that says what the node waits for until it has joined (join.go), and one that
// looks for another node of its name (twin.go). The keeper owns one for each inlet, each tap and
// each partition that it reads (reading.go), each link that starts here, and each peer with links
// (heartbeats). What a peer or the API asks runs in the goroutine of its stream or request; a
// replay and a put own one for each of their links (inject.go), joined before they answer.
package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/consensus"
	"weir/gossip"
	"weir/node/api"
	"weir/stream"
	"weir/stream/mux"
	"weir/topology"
)

const (
	// defaultPort is the UDP port of a node that was not told another.
	defaultPort = ":7411"
	// secretBytes is the length of a cluster's secret.
	secretBytes = 32
	// leaveTimeout is how long a node that leaves waits for the log to say so: some elections,
	// and less than what those who stop it wait before they kill it (up: 5 s).
	leaveTimeout = 2 * time.Second
	// handOverMax is how long a leader that leaves tries to hand leadership on: one voter that does
	// not answer, and one that does. When all leave at once nobody takes it.
	handOverMax = 500 * time.Millisecond
	// idBytesMax is the longest name of a node, in bytes (mux).
	idBytesMax = 64
	// memoryMin is the least memory of a node: a batch for each of a few links.
	memoryMin = 1 << 20
)

// Node is one node of a cluster. Its exported methods are safe for concurrent use.
type Node struct {
	cfg    Config
	self   topology.Node
	dir    *dataDir
	conn   net.PacketConn
	log    *slog.Logger
	budget *stream.Budget

	mux        *mux.Mux
	gossip     *gossip.Gossip
	consensus  *consensus.Consensus
	keeper     *keeper
	marks      *marks
	reports    reports
	letters    *letters
	events     *journal[api.Event]
	injections *injections

	draining atomic.Bool
	drained  chan struct{} // closed by the first call to drain: Run is to leave
}

// New validates the config and binds the socket; it starts no goroutine.
func New(cfg Config) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Secret == nil {
		cfg.Secret = make([]byte, secretBytes)
		_, _ = rand.Read(cfg.Secret) // never fails (crypto/rand)
	}
	dir, err := openDataDir(cfg)
	if err != nil {
		return nil, err
	}
	addr := cfg.Advertise
	if cfg.Conn == nil {
		if cfg.Conn, addr, err = bind(cfg); err != nil {
			return nil, errors.Join(err, dir.close())
		}
	}
	n := &Node{cfg: cfg, dir: dir, conn: cfg.Conn, budget: stream.NewBudget(cfg.Memory), drained: make(chan struct{})}
	n.self = topology.Node{ID: dir.ID, Boot: dir.Boot, Addr: cmp.Or(addr, cfg.Conn.LocalAddr().String()), Roles: namesOf(cfg.Roles), Tags: cfg.Tags}
	n.log = cfg.Log.With("node", dir.ID)
	if err := n.join(); err != nil {
		return nil, errors.Join(err, cfg.Conn.Close(), dir.close())
	}
	return n, nil
}

func (c Config) validate() error {
	for _, r := range c.Roles {
		kinds := 0
		for _, is := range []bool{r.Handler != nil, r.Tap != nil, r.Sink != nil} {
			if is {
				kinds++
			}
		}
		if kinds != 1 {
			return fmt.Errorf("role %s: want exactly one of Handler, Tap and Sink, got %d", r.Name, kinds)
		}
	}
	if err := checkHTTP(c.HTTP); err != nil {
		return err
	}
	for _, seed := range c.Join {
		if err := checkSeed(seed); err != nil {
			return err
		}
	}
	for _, tag := range c.Tags {
		if err := topology.CheckName(tag); err != nil {
			return &usageError{fmt.Sprintf("--tag %s: %v", tag, err)}
		}
	}
	switch {
	case len(c.Tags) > topology.TagsMax:
		return &usageError{fmt.Sprintf("--tag: there are %d, at most %d are allowed", len(c.Tags), topology.TagsMax)}
	case c.Secret == nil && len(c.Join) > 0:
		return errors.New("config: Join needs the Secret of the cluster")
	case c.Secret != nil && len(c.Secret) != secretBytes:
		return fmt.Errorf("config: Secret has %d bytes, want %d", len(c.Secret), secretBytes)
	case c.Memory != 0 && c.Memory < memoryMin:
		return &usageError{fmt.Sprintf("memory of %d bytes: a node needs %d at least", c.Memory, memoryMin)}
	case c.Voters < 0 || c.Voters > 5:
		return fmt.Errorf("config: Voters is %d, want 1 to 5", c.Voters)
	}
	return nil
}

// usageError is a config that was mistyped.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// ExitCode is that of a wrong flag.
func (e *usageError) ExitCode() int { return 2 }

// checkHTTP refuses an address of the API that is not on loopback: it asks for no password.
func checkHTTP(addr string) error {
	if addr == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return &usageError{fmt.Sprintf("--http %s: want 127.0.0.1:PORT", addr)}
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return &usageError{fmt.Sprintf("--http %s: the API is open to all who reach it, so it listens on loopback only, as 127.0.0.1:%s", addr, port)}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return &usageError{fmt.Sprintf("--http %s: a port is a number from 1 to 65535", addr)}
	}
	return nil
}

// NewID names a node for this run: its first role, so that people know it again, and a random
// part, so that no other run has it.
func NewID(role string) topology.NodeID {
	name := role[strings.LastIndex(role, "/")+1:]
	b := make([]byte, 5)
	_, _ = rand.Read(b)
	random := "-" + strings.ToLower(base32.StdEncoding.EncodeToString(b))
	return topology.NodeID(name[:min(len(name), idBytesMax-len(random))] + random)
}

func namesOf(roles []Role) (names []string) {
	for _, r := range roles {
		names = append(names, r.Name)
	}
	return names
}

// join builds the rooms on each other.
func (n *Node) join() error {
	var err error
	n.mux, err = mux.New(mux.Config{
		Conn: n.conn, Secret: n.cfg.Secret, ID: n.self.ID, Boot: n.self.Boot, Key: n.dir.key(), Log: n.log,
		LogID: func() uint64 { return n.consensus.State().LogID },
		Epoch: func() uint64 { return n.consensus.State().Epoch }, Reached: n.cfg.Hooks.ofMux(),
	})
	if err != nil {
		return err
	}
	n.consensus, err = consensus.New(consensus.Config{
		ID: n.self.ID, Bootstrap: len(n.cfg.Join) == 0, Seeds: n.cfg.Join, Net: consensusNet{n}, Store: n.dir.store, Log: n.log,
		Hooks: n.cfg.Hooks.ofConsensus(),
	})
	if err != nil {
		return err
	}
	n.gossip, err = gossip.New(gossip.Config{
		Self: gossip.Member{ID: n.self.ID, Addr: n.self.Addr, Boot: n.self.Boot, Roles: n.self.Roles, Tags: n.self.Tags, Version: Version},
		Net:  gossipNet{n.mux}, Secret: n.cfg.Secret, Seeds: n.cfg.Join, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.keeper = newKeeper(n)
	n.marks = newMarks(n.consensus.Propose, n.log)
	n.letters, n.injections, n.events = newLetters(n), newInjections(n), newJournal[api.Event](eventsMax)
	n.mux.HandlePacket(n.gossip.HandlePacket)
	n.mux.Handle(mux.KindGossip, func(_ context.Context, _ mux.Peer, c net.Conn) { n.gossip.HandleStream(c) })
	n.mux.Handle(mux.KindRaft, onlyID(n.consensus.HandleRaft))
	n.mux.Handle(mux.KindWatch, onlyID(n.consensus.HandleWatch))
	n.mux.Handle(mux.KindPropose, onlyID(n.consensus.HandlePropose))
	n.mux.Handle(mux.KindCall, n.handleCalls(n.remotes()))
	n.mux.Handle(mux.KindLink, n.keeper.handleLink)
	return nil
}

// Addr is the address that the node tells others: of its one UDP port.
func (n *Node) Addr() string { return n.self.Addr }

// Cluster names the cluster: 16 hex digits that follow from its secret.
func (n *Node) Cluster() string { return n.mux.ClusterID() }

// ID is the node's name.
func (n *Node) ID() topology.NodeID { return n.self.ID }

// ErrKilled as the cause of a context's end stops a node as kill -9 does, as far as a node can:
// without a leave and without a word to anyone.
var ErrKilled = errors.New("the node is killed")

// Run runs the node until ctx is done or a call has it drain, then leaves the cluster in good
// order, unless the cause is ErrKilled, and returns with nothing running. Any other end is an
// error.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, n.dir.close()) }()
	if n.cfg.DataDir == "" {
		n.log.Info("nothing is kept for a restart: there is no --data-dir")
	}
	listeners, err := n.listenAPI()
	if err != nil {
		return errors.Join(err, n.conn.Close())
	}
	// The network outlives the work: what is in flight is acked and the leave is told first.
	network, stopNetwork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopNetwork()
	net, network := errgroup.WithContext(network)
	net.Go(func() error { return ended("mux", n.mux.Run(network)) })
	if err := n.findTwin(network); err != nil { // before we vote or speak in its place
		for _, l := range listeners {
			l.Close()
		}
		stopNetwork()
		return errors.Join(err, net.Wait())
	}
	net.Go(func() error { return ended("consensus", n.consensus.Run(network)) })

	work, stopWork := context.WithCancel(network)
	defer stopWork()
	rooms, work := errgroup.WithContext(work)
	rooms.Go(func() error { return ended("gossip", n.gossip.Run(work)) })
	rooms.Go(func() error { return ended("orchestrator", n.newOrchestrator().run(work)) })
	rooms.Go(func() error { return ended("announce", n.announce(work)) })
	rooms.Go(func() error { return ended("join", n.sayWaiting(work)) })
	rooms.Go(func() error { return n.awaitTwin(work) })
	rooms.Go(func() error { return ended("keeper", n.keeper.run(work)) })
	rooms.Go(func() error { return ended("marks", n.marks.run(work)) })
	rooms.Go(func() error { return ended("events", n.watchEvents(work)) })
	rooms.Go(func() error { return ended("create", n.create(work)) })
	for _, l := range listeners {
		rooms.Go(func() error { return ended("api", api.Serve(work, l, n, n.calls(), n.flows())) })
	}
	select {
	case <-ctx.Done():
		if errors.Is(context.Cause(ctx), ErrKilled) {
			stopNetwork()
		} else {
			n.leave(work)
		}
	case <-n.drained:
		n.leave(work)
	case <-work.Done():
		if _, twin := errors.AsType[*TwinError](context.Cause(work)); twin {
			stopNetwork() // a leave would be the other's
		}
	}
	stopWork()
	err = rooms.Wait()
	stopNetwork()
	return errors.Join(err, net.Wait())
}

// ended names the room that ended with an error; the end of its context is none.
func ended(room string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", room, err)
}

func (n *Node) listenAPI() (ls []net.Listener, err error) {
	if n.cfg.HTTP != "" {
		l, err := net.Listen("tcp", n.cfg.HTTP)
		if err != nil {
			return nil, fmt.Errorf("serve the API: %w", err)
		}
		ls = append(ls, l)
	}
	if n.cfg.Socket != "" {
		l, err := api.Listen(n.cfg.Socket)
		if err != nil {
			for _, other := range ls {
				other.Close()
			}
			return nil, err
		}
		ls = append(ls, l)
	}
	return ls, nil
}

// announce lets gossip say what the log says of us.
func (n *Node) announce(ctx context.Context) error {
	for {
		changed := n.consensus.Changed()
		s := n.consensus.State()
		n.cfg.Hooks.state(s)
		roster := make([]string, len(s.Roster))
		for i, node := range s.Roster {
			roster[i] = node.Addr
		}
		n.gossip.Announce(s.LogID, s.Votes(n.self.ID), roster)
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// create proposes our pipelines until the log has them.
func (n *Node) create(ctx context.Context) error {
	for _, p := range n.cfg.Pipelines {
		has := func(s *consensus.State) bool { _, ok := s.Pipeline(p.Name); return ok }
		if err := n.insist(ctx, consensus.Create(p), has); err != nil {
			return err
		}
	}
	return nil
}

// insist proposes a command until the State shows its effect.
func (n *Node) insist(ctx context.Context, c consensus.Command, done func(*consensus.State) bool) error {
	pause := retryMin
	for {
		changed := n.consensus.Changed()
		if done(n.consensus.State()) {
			return nil
		}
		if err := n.consensus.Propose(ctx, c); err != nil {
			n.log.Debug("propose again later", "err", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-changed:
		case <-timer.C:
			pause = min(2*pause, retryMax)
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// handOver makes another voter the leader if this node leads, so that its end is no election.
func (n *Node) handOver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handOverMax)
	defer cancel()
	s := n.consensus.State()
	for _, id := range s.Voters {
		if _, stays := s.Node(id); !stays || id == n.self.ID || ctx.Err() != nil || !n.consensus.IsLeader() {
			continue
		}
		if err := n.consensus.TransferLeadership(ctx, id); err != nil {
			n.log.Debug("leadership not handed over", "peer", id, "err", err)
		}
	}
}

// Writable reports whether the role, as pipeline/role, could hand on a small record now.
func (n *Node) Writable(role string) bool {
	r := n.keeper.role(role)
	return r != nil && r.outlet != nil && r.outlet.Writable()
}

// Run is New and Run.
func Run(ctx context.Context, cfg Config) error {
	n, err := New(cfg)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// Version is the program's own, as gossip tells it.
const Version = "0.1.0"

// hostPID is the process that status shows.
var hostPID = os.Getpid()
