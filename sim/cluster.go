package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weir/node"
	"weir/stream"
	"weir/topology"
)

const (
	// startApart is the most time between the starts of two nodes: N^2 messages of N nodes that
	// join at one instant would be the run's whole cost (STACK 2).
	startApart = 20 * time.Millisecond
	// seedsMax is how many nodes a new node is told of.
	seedsMax = 3
	// simPort is the UDP port of every node; their addresses differ.
	simPort = 7411
)

// cluster is real nodes on a simulated network. One goroutine calls its methods, but for those
// that say otherwise.
type cluster struct {
	seed     uint64
	net      *network
	load     *Workload
	history  *History
	log      *slog.Logger
	secret   []byte
	bug      stream.Bug
	pipeline topology.Pipeline
	disks    string // the folder of the nodes' data dirs; "": they keep nothing

	members []*member // in the order of their names in the scenario
	founder *member   // its first start makes the cluster
	broken  broken
}

// broken keeps the errors of nodes whose Run ended by itself.
type broken struct {
	mu   sync.Mutex
	errs []error
}

// member is a place for a node: its name and address, and the node that is there now.
type member struct {
	name, role string // role: "" = none
	addr       netip.AddrPort
	boots      int
	moves      int   // to other addresses
	life       *life // nil: nobody there
	last       *life // the newest, which may have ended
	leaving    *life // the one before, which was told to leave
	lives      sync.WaitGroup
	disk       *disk
	stores     []string // files of its sinks
}

// life is one start of a node. Without a disk its ID is new each time (DESIGN 3).
type life struct {
	id      topology.NodeID
	node    *node.Node
	port    *port
	mount   *mount
	stop    context.CancelCauseFunc
	pace    *pace
	ended   chan struct{}
	freezes int         // steps that hold it now
	cut     atomic.Bool // it was to leave and did not get to
}

func newCluster(s *Scenario, cfg Config, net *network, load *Workload, h *History) *cluster {
	seed := cfg.Seed
	c := &cluster{seed: seed, net: net, load: load, history: h, log: cfg.Log, bug: cfg.bug, pipeline: load.Pipeline()}
	for i := range uint64(4) { // 32 bytes
		c.secret = binary.LittleEndian.AppendUint64(c.secret, mix(seed, i))
	}
	for _, r := range s.Roles {
		for _, name := range s.nodeNames(r.Name) {
			c.place(name, r.Name)
		}
	}
	for _, name := range s.nodeNames(bareName) {
		c.place(name, "")
	}
	c.founder = c.members[0]
	if last := c.members[len(c.members)-1]; last.role == "" { // as an operator would begin
		c.founder = last
	}
	return c
}

// place makes room for a node.
func (c *cluster) place(name, role string) *member {
	m := &member{name: name, role: role, disk: newDisk(mix(c.seed, hash(name)), c.bug)}
	c.members = append(c.members, m)
	m.addr = address(m, len(c.members))
	return m
}

// move gives a member another address, for its next start.
func (c *cluster) move(m *member) {
	m.moves++
	m.addr = address(m, 1+slices.Index(c.members, m))
}

// address is that of the nth member.
func address(m *member, n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(m.moves), byte(n >> 8), byte(n)}), simPort)
}

// start starts the node of a member that has none: with a disk the one that it was.
func (c *cluster) start(m *member) error {
	c.hurry(m)
	m.boots++
	id := topology.NodeID(m.name)
	if m.boots > 1 && c.disks == "" {
		id = topology.NodeID(fmt.Sprintf("%s.%d", m.name, m.boots))
	}
	cfg := node.Config{
		ID: id, Secret: c.secret, Log: c.log, Pipelines: []topology.Pipeline{c.pipeline},
		Memory: int64(c.load.memory), DeadLetters: true,
		Conn: c.net.listen(m.name, m.addr), Hooks: c.load.Hooks(id, c.bug),
	}
	if role := c.load.roles[m.role]; numberOf(m.name) <= role.Tagged {
		cfg.Tags = role.needs()
	}
	if m != c.founder || m.boots > 1 {
		cfg.Join = c.seeds(m)
	}
	if c.disks != "" {
		cfg.DataDir = filepath.Join(c.disks, m.name)
		if m.last != nil {
			<-m.last.ended // it was killed, or hurried: until then it has its data dir
		}
	}
	pace, mount := newPace(), m.disk.mount()
	if m.role != "" {
		role, err := c.load.Role(m.role, id, mount)
		if err != nil {
			return fmt.Errorf("start %s: %w", id, err)
		}
		cfg.Roles = []node.Role{pace.paced(role)}
		if store := storeOf(m.role, id); role.Sink != nil && !slices.Contains(m.stores, store) {
			m.stores = append(m.stores, store)
		}
	}
	n, err := node.New(cfg)
	if err != nil {
		return fmt.Errorf("start %s: %w", id, err)
	}
	ctx, stop := context.WithCancelCause(context.Background()) // close ends it
	l := &life{id: id, node: n, port: cfg.Conn.(*port), stop: stop, pace: pace, mount: mount, ended: make(chan struct{})}
	m.life, m.last = l, l
	c.history.Add(Event{Kind: EventStarted, Node: id, N: uint64(m.boots)})
	m.lives.Go(func() { // ended by stop; joined by close
		defer close(l.ended)
		if err := n.Run(ctx); err != nil && ctx.Err() == nil {
			c.broken.add(fmt.Errorf("node %s ended by itself: %w", id, err))
		}
	})
	return nil
}

func (b *broken) add(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errs = append(b.errs, err)
}

func (b *broken) all() []error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.errs)
}

// seeds are the addresses that a joining node is told: the founder's, and the first others'.
func (c *cluster) seeds(m *member) (addrs []string) {
	for _, other := range append([]*member{c.founder}, c.members...) {
		addr := other.addr.String()
		if other != m && !slices.Contains(addrs, addr) && len(addrs) < seedsMax {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// kill ends a node without a word to anyone.
func (c *cluster) kill(m *member) {
	l := m.life
	m.life = nil
	c.history.Add(Event{Kind: EventKilled, Node: l.id})
	l.port.crash()
	l.mount.end()
	l.stop(node.ErrKilled)
}

// drain has a node leave in good order; it goes on until it has.
func (c *cluster) drain(m *member) {
	l := m.life
	m.life, m.leaving = nil, l
	l.stop(context.Canceled)
	m.lives.Go(func() { // ended by the node's end
		<-l.ended
		if !l.cut.Load() {
			c.history.Add(Event{Kind: EventStopped, Node: l.id})
		}
	})
}

// hurry ends a node that still leaves, as who is tired of waiting does.
func (c *cluster) hurry(m *member) {
	l := m.leaving
	m.leaving = nil
	if l == nil {
		return
	}
	select {
	case <-l.ended:
		return
	default:
	}
	l.cut.Store(true)
	c.history.Add(Event{Kind: EventKilled, Node: l.id})
	l.port.crash()
	l.mount.end()
	_ = l.port.Close() // never fails; its node ends without a socket
}

// freeze holds a node until thaw was called as often.
func (c *cluster) freeze(l *life) {
	if l.freezes++; l.freezes == 1 {
		l.port.freeze()
		l.pace.hold()
		c.history.Add(Event{Kind: EventFrozen, Node: l.id})
	}
}

func (c *cluster) thaw(l *life) {
	if l.freezes--; l.freezes == 0 {
		c.history.Add(Event{Kind: EventThawed, Node: l.id})
		l.pace.release()
		l.port.thaw()
	}
}

// stored cuts the power everywhere, and has the history say what sinks' files hold when it is back.
func (c *cluster) stored() error {
	for _, m := range c.members {
		if m.life != nil {
			m.life.mount.end()
		}
		m.disk.cut()
		for _, path := range m.stores {
			if err := c.load.stored(path, m.disk); err != nil {
				return fmt.Errorf("look at %s of %s: %w", path, m.name, err)
			}
		}
	}
	return nil
}

// close kills all nodes and waits for them.
func (c *cluster) close() {
	for _, m := range c.members {
		c.hurry(m)
		if m.life != nil {
			c.kill(m)
		}
	}
	for _, m := range c.members {
		m.lives.Wait()
	}
}

// up lists the members with a node.
func (c *cluster) up() []*member {
	return slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return m.life == nil })
}

// leader is the member that leads in the highest term; nil: nobody.
func (c *cluster) leader() (leads *member, view node.View) {
	for _, m := range c.up() {
		if v := m.life.node.View(); v.Leads && (leads == nil || v.Term > view.Term) {
			leads, view = m, v
		}
	}
	return leads, view
}

// voting lists the members that vote, as the leader has it; without one, as the node with the
// highest term has.
func (c *cluster) voting() (members []*member, voters int) {
	_, best := c.leader()
	for _, m := range c.up() {
		if v := m.life.node.View(); best.Voters == nil || v.Term > best.Term {
			best = v
		}
	}
	for _, m := range c.up() {
		if slices.Contains(best.Voters, m.life.id) {
			members = append(members, m)
		}
	}
	return members, len(best.Voters)
}

// mayLose reports whether the cluster survives the loss of m for good: it neither votes nor is to, or
// all voters live and there are three at least. A node without a disk comes back without its vote.
func (c *cluster) mayLose(m *member) bool {
	if c.disks != "" {
		return true
	}
	living, voters := c.voting()
	return !m.life.node.View().Stands || len(living) == voters && voters >= 3
}
