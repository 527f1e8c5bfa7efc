// Package gossip says who is alive: which nodes there are, where, and with which roles.
//
// What it says is a hint. Identity comes from certificates, roles and votes from the log; the
// orchestrator probes before it believes a death. It never opens a socket: packets and streams
// come from and go to a Net, which the node gives it.
//
//	Net ── HandlePacket, HandleStream ──> transport ──> memberlist ──> Members, Changed
//
// Goroutines: Run owns one loop, which joins and rejoins. memberlist's own end soon after
// Shutdown, which Run calls last; memberlist gives no way to wait for them.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"weir/topology"
)

const (
	// membersMax is how many members are remembered; FAULTS limits table.
	membersMax = 4096
	// idBytesMax is the longest node id, in bytes; FAULTS limits table.
	idBytesMax = 64
	// lostKeep is how long a member lost without a leave is tried again: longer than most
	// repairs of a network. A seed, and a node of the roster, is tried for ever.
	lostKeep = time.Hour
	// leftKeep is how long a member that left is still shown.
	leftKeep = 10 * time.Minute
	// joinEvery is the time between tries while no other node is known.
	joinEvery = 500 * time.Millisecond
	// settleRounds is how often a node that has found others asks one of them again for all it
	// knows, settleEvery apart: of a burst of joins memberlist loses a broadcast now and then
	// (measured: one of 15 clusters of six missed somebody for more than 5 s).
	settleRounds = 3
	settleEvery  = time.Second
	// rejoinEvery is the time between tries to reach lost members and seeds. memberlist alone
	// does not merge again after a healed partition; measured with 5 s: 1 s at 10 nodes, 60 s
	// at 200 (STACK 2).
	rejoinEvery = 5 * time.Second
	// rejoinAtOnce is how many lost members are tried in one round.
	rejoinAtOnce = 3
	// leaveWait is the longest each of the two steps of a leave takes.
	leaveWait = 500 * time.Millisecond
	// lookUpWait is how long the name of a seed may take to resolve.
	lookUpWait = time.Second
	// updateWait is how long the loop waits for a changed Announce to spread.
	updateWait = 500 * time.Millisecond
)

// State is how a member was last seen. memberlist does not tell whom it suspects: a suspect is
// alive here until it is dead.
type State string

// The states of a member.
const (
	StateAlive State = "alive"
	StateDead  State = "dead" // lost without a leave
	StateLeft  State = "left" // said that it goes
)

// Member is a node as gossip sees it now.
type Member struct {
	ID      topology.NodeID
	Addr    string // ip:port
	Boot    uint64 // counts the node's starts
	LogID   uint64 // the cluster's log; 0 = it belongs to none yet
	Roles   []string
	Tags    []string
	Version string // of its program
	Voter   bool   // says that it votes; the log knows
	State   State
	Since   time.Time // when State began, on this node's clock
}

// Net carries gossip between nodes. Packets may be lost, streams are ordered and reliable.
type Net interface {
	// Send sends one packet to ip:port and keeps no reference to b.
	Send(b []byte, addr string) error
	// Open opens a stream; an empty id stands for whoever is at addr.
	Open(ctx context.Context, id topology.NodeID, addr string) (net.Conn, error)
}

// Config says who we are and how to reach the others.
type Config struct {
	Self   Member   // ID, Addr (an ip:port that others reach), Boot, Roles, Tags; State and Since are ignored
	Net    Net      //
	Secret []byte   // 32 bytes
	Seeds  []string // host:port; tried until they answer
	Log    *slog.Logger
}

// validate returns the first error, with the name of the field.
func (c Config) validate() error {
	switch {
	case c.Self.ID == "" || len(c.Self.ID) > idBytesMax || strings.ContainsAny(string(c.Self.ID), "/@"):
		return fmt.Errorf("Self.ID %q: want 1 to %d bytes without / and @", c.Self.ID, idBytesMax)
	case c.Net == nil:
		return errors.New("Net is missing")
	case len(c.Secret) != secretBytes:
		return fmt.Errorf("field Secret has %d bytes, want %d", len(c.Secret), secretBytes)
	}
	return nil
}

// Gossip knows the members of the cluster. Its methods are safe for concurrent use.
type Gossip struct {
	seeds     []string
	log       *slog.Logger
	transport *transport
	announced chan struct{} // length 1: self changed and must be spread

	mu      sync.Mutex
	self    Member
	roster  []string // addresses of the nodes that the log has
	leaving bool
	members map[topology.NodeID]Member
	changed chan struct{} // closed and replaced at each change
}

// New checks the config. It does nothing on the network before Run.
func New(c Config) (*Gossip, error) {
	if err := c.validate(); err != nil {
		return nil, fmt.Errorf("gossip config: %w", err)
	}
	addr, err := netip.ParseAddrPort(c.Self.Addr)
	if err != nil {
		return nil, fmt.Errorf("gossip config: Self.Addr %q: want ip:port: %w", c.Self.Addr, err)
	}
	if _, err := metaOf(c.Self, false).encode(); err != nil {
		return nil, fmt.Errorf("gossip config: Self: %w", err)
	}
	seal, err := newSeal(c.Secret)
	if err != nil {
		return nil, fmt.Errorf("gossip config: Secret: %w", err)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Gossip{
		seeds:     c.Seeds,
		log:       c.Log,
		transport: newTransport(c.Net, seal, addr),
		announced: make(chan struct{}, 1),
		self:      c.Self,
		members:   make(map[topology.NodeID]Member),
		changed:   make(chan struct{}),
	}, nil
}

// Run gossips until ctx is done, then says that the node leaves, which takes at most a second;
// Net must work until Run returns.
func (g *Gossip) Run(ctx context.Context) error {
	defer g.transport.close()
	defer context.AfterFunc(ctx, g.transport.closeStreams)()
	g.transport.dialing(ctx)
	list, err := memberlist.Create(g.listConfig())
	if err != nil {
		return fmt.Errorf("gossip as %s: %w", g.self.ID, err)
	}
	settling := settleRounds
	for ctx.Err() == nil {
		alone := g.rejoin(ctx, list, settling > 0)
		if !alone && settling > 0 {
			settling--
		}
		g.prune(time.Now())
		select {
		case <-ctx.Done():
		case <-g.announced:
			if err := list.UpdateNode(updateWait); err != nil {
				g.log.Debug("gossip announcement is slow", "err", err)
			}
		case <-time.After(g.nextTry(alone, settling > 0)):
		}
	}
	g.leave(list)
	return nil
}

// HandlePacket takes a packet that Net received. It never blocks: a packet too many is lost, as
// on any network. b may be reused when it returns.
func (g *Gossip) HandlePacket(b []byte, from net.Addr) { g.transport.handlePacket(b, from) }

// HandleStream serves a stream that a peer opened, and closes it; it returns when that is done.
func (g *Gossip) HandleStream(c net.Conn) { g.transport.handleStream(c) }

// Members returns all members known, this node among them, sorted by id. The slice is the
// caller's, the roles in it are not.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	ms := make([]Member, 0, len(g.members))
	for _, m := range g.members {
		ms = append(ms, m)
	}
	slices.SortFunc(ms, func(a, b Member) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return ms
}

// Changed returns a channel that is closed when Members next changes: take it before looking.
func (g *Gossip) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// Announce changes what this node says of itself: the log it belongs to, and whether it votes.
// The addresses of the log's roster are tried like seeds: of two halves of a cluster that were apart
// for long, at least the one without a leader has not forgotten the other.
func (g *Gossip) Announce(logID uint64, voter bool, roster []string) {
	g.mu.Lock()
	same := g.self.LogID == logID && g.self.Voter == voter
	g.self.LogID, g.self.Voter, g.roster = logID, voter, roster
	g.mu.Unlock()
	if same {
		return
	}
	select {
	case g.announced <- struct{}{}:
	default:
	}
}

// rejoin tries the seeds that are no living member, and some members lost without a leave; with
// settling also a living one. It reports whether this node was alone before.
func (g *Gossip) rejoin(ctx context.Context, list *memberlist.Memberlist, settling bool) (alone bool) {
	alive, targets := g.targets(g.lookUp(ctx))
	if settling && len(alive) > 0 {
		targets = append(targets, alive[rand.IntN(len(alive))])
	}
	if len(targets) == 0 {
		return len(alive) == 0
	}
	var group sync.WaitGroup
	for _, target := range targets {
		group.Go(func() { // all at once: after a restart most may have moved, and each costs streamWait
			if _, err := list.Join([]string{target}); err != nil {
				g.log.Debug("gossip does not find a node", "addr", target, "err", err)
			}
		})
	}
	group.Wait()
	return len(alive) == 0
}

// lookUp returns the seeds as ip:port, as their names resolve now: memberlist would ask for a name
// by TCP first, and a seed that it knows by its address is not to be tried again by its name.
func (g *Gossip) lookUp(ctx context.Context) (addrs []string) {
	ctx, cancel := context.WithTimeout(ctx, lookUpWait)
	defer cancel()
	for _, seed := range g.seeds {
		host, port, err := net.SplitHostPort(seed)
		if _, notIP := netip.ParseAddr(host); err != nil || notIP == nil {
			addrs = append(addrs, seed)
			continue
		}
		ips, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			g.log.Debug("seed not found", "seed", seed, "err", err)
		}
		for _, ip := range ips {
			addrs = append(addrs, net.JoinHostPort(ip, port))
		}
	}
	return addrs
}

// targets returns the other members that are alive, and the addresses to try: seeds, and some of
// the members that were lost and of the roster.
func (g *Gossip) targets(seeds []string) (alive, targets []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	known := map[string]bool{g.transport.self.String(): true}
	for id, m := range g.members {
		switch {
		case id == g.self.ID:
		case m.State == StateAlive:
			known[m.Addr] = true
			alive = append(alive, string(m.ID)+"/"+m.Addr)
		case m.State == StateDead:
			targets = append(targets, string(m.ID)+"/"+m.Addr)
		}
	}
	for _, addr := range g.roster {
		if !known[addr] {
			targets = append(targets, addr)
		}
	}
	rand.Shuffle(len(targets), func(i, j int) { targets[i], targets[j] = targets[j], targets[i] })
	targets = targets[:min(len(targets), rejoinAtOnce)]
	for _, s := range seeds {
		if !known[s] {
			targets = append(targets, s)
		}
	}
	return alive, targets
}

// nextTry is short while this node is alone and has somebody to look for.
func (g *Gossip) nextTry(alone, settling bool) time.Duration {
	switch {
	case alone && len(g.seeds) > 0:
		return joinEvery
	case !alone && settling:
		return settleEvery
	default:
		return rejoinEvery
	}
}

// leave spreads first that we are about to go, so that others can tell a leave from a death
// (memberlist does not tell its users), then that we are gone.
func (g *Gossip) leave(list *memberlist.Memberlist) {
	g.mu.Lock()
	g.leaving = true
	g.mu.Unlock()
	for range 2 { // once misses a node now and then, and what comes next stops others from telling it
		if err := list.UpdateNode(leaveWait / 2); err != nil {
			g.log.Debug("gossip leave is slow", "err", err)
		}
	}
	if err := list.Leave(leaveWait); err != nil {
		g.log.Debug("gossip leave is slow", "err", err)
	}
	if err := list.Shutdown(); err != nil {
		g.log.Info("gossip does not shut down cleanly", "err", err)
	}
}

// set records a member, unless a later start of it is known, and wakes those who wait.
func (g *Gossip) set(m Member) {
	m.Since = time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	old, known := g.members[m.ID]
	switch {
	case known && old.Boot > m.Boot:
		return
	case known && old.Boot == m.Boot && old.State == m.State:
		m.Since = old.Since
	}
	g.members[m.ID] = m
	g.wake()
}

// prune forgets members that are long gone.
func (g *Gossip) prune(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, m := range g.members {
		gone := now.Sub(m.Since)
		if m.State == StateLeft && gone > leftKeep || m.State == StateDead && gone > lostKeep {
			delete(g.members, id)
			g.wake()
		}
	}
}

// wake is called with mu held.
func (g *Gossip) wake() {
	close(g.changed)
	g.changed = make(chan struct{})
}

func (g *Gossip) listConfig() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = nameOf(g.self.ID, g.self.Boot)
	c.Transport = g.transport
	c.BindAddr, c.BindPort = "", int(g.transport.self.Port())
	c.Delegate, c.Events, c.Alive = &delegate{g}, &delegate{g}, &delegate{g}
	// Measured over loopback (STACK 1): with these a death is known after 2.4 to 3.9 s.
	c.ProbeInterval, c.ProbeTimeout = 500*time.Millisecond, 300*time.Millisecond
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = 3, 3
	c.GossipInterval = 100 * time.Millisecond
	// A burst of joins sometimes loses a broadcast, and then waits for the next push/pull
	// (STACK 2); memberlist itself stretches it above 32 members.
	c.PushPullInterval = 5 * time.Second
	c.TCPTimeout = streamWait
	c.DeadNodeReclaimTime = 5 * time.Second // a node may come back under its name at another address
	c.UDPBufferSize = packetBytesMax - sealBytes
	c.EnableCompression = false
	c.LogOutput = io.Discard
	if g.log.Enabled(context.Background(), slog.LevelDebug) {
		c.LogOutput = slog.NewLogLogger(g.log.Handler(), slog.LevelDebug).Writer()
	}
	return c
}
