package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weir/consensus"
	"weir/stream"
	"weir/stream/mux"
	"weir/stream/wire"
	"weir/topology"
)

const (
	// catchUp is how long a link waits for its receiver to reach the sender's epoch (DESIGN 6).
	catchUp = 2 * time.Second
)

// keeper keeps what runs on this node as the State has it: the roles of pipelines that this
// node serves, the links that start here, heartbeats to all peers with links.
type keeper struct {
	n *Node

	epoch  atomic.Uint64                     // of the State that follow has followed
	claims atomic.Pointer[map[uint64]uint64] // the numbers of the claims that the State has, by source
	retire chan roleKey                      // run drains the links that start at the role

	mu      sync.Mutex
	roles   map[roleKey]*roleRun // those that ended too, to be counted
	changed chan struct{}        // closed and replaced when roles changes
	idle    map[roleKey]string   // why a role that this node serves does not run here

	// only the run loop uses these
	layout topology.Layout
	links  map[topology.Link]*linkRun
	beats  map[topology.NodeID]context.CancelFunc
	group  sync.WaitGroup
	nextID uint64 // of link generations
}

// roleKey names a role of a pipeline.
type roleKey struct{ pipeline, role string }

func newKeeper(n *Node) *keeper {
	return &keeper{
		n: n, retire: make(chan roleKey), roles: make(map[roleKey]*roleRun), changed: make(chan struct{}),
		links: make(map[topology.Link]*linkRun), beats: make(map[topology.NodeID]context.CancelFunc),
		idle: make(map[roleKey]string),
	}
}

// run follows the State until ctx is done and then waits for all that it started.
func (k *keeper) run(ctx context.Context) error {
	defer k.group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		changed := k.n.consensus.Changed()
		k.follow(ctx, k.n.consensus.State())
		select {
		case <-changed:
		case key := <-k.retire:
			k.layout.Links = slices.DeleteFunc(slices.Clone(k.layout.Links), func(l topology.Link) bool {
				gone := l.From == k.n.self.ID && l.Pipeline == key.pipeline && l.Edge.From == key.role
				if lr := k.links[l]; gone && lr != nil {
					close(lr.drain)
				}
				return gone
			})
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follow makes what runs here agree with s.
func (k *keeper) follow(ctx context.Context, s *consensus.State) {
	defer k.epoch.Store(s.Epoch)
	k.claims.Store(claimsOf(s))
	var live []topology.Pipeline
	for _, p := range s.Pipelines {
		whole := p.Whole()
		if p.Failed != nil {
			k.stop(whole, errors.New(p.Failed.Reason))
			continue
		}
		live = append(live, whole)
		for _, r := range whole.Roles {
			k.start(ctx, p, r)
		}
		k.end(whole)
	}
	if _, in := s.Node(k.n.self.ID); !in {
		return // not yet, or no more: a node that leaves keeps its links until they are drained
	}
	layout := topology.ComputeFor(live, s.Roster, k.n.self.ID)
	open, drain := topology.Diff(k.layout, layout)
	k.n.cfg.Hooks.layout(s.Epoch, layout)
	if k.n.draining.Load() { // who left the roster may be draining too: what came from there goes back there
		layout.Links = slices.Concat(layout.Links, drain)
		slices.SortFunc(layout.Links, topology.Link.Compare)
		drain = nil
	}
	k.layout = layout
	for _, l := range drain {
		if lr := k.links[l]; lr != nil {
			close(lr.drain) // it stays in links: should it come back, its successor waits for its end
		}
	}
	for _, l := range open {
		if l.From == k.n.self.ID && !k.openLink(l) { // its role may run at a later State: a Diff has to open it then
			k.layout.Links = slices.DeleteFunc(slices.Clone(k.layout.Links), func(m topology.Link) bool { return m == l })
		}
	}
	k.beat(ctx, layout)
}

// start runs a role if this node serves it, as this version of its pipeline has it.
func (k *keeper) start(ctx context.Context, p consensus.Pipeline, r topology.Role) {
	key := roleKey{p.Name, r.Name}
	before := k.get(key)
	if before != nil && before.ctx.Err() == nil {
		before.revise(p, r)
		return
	}
	i := slices.IndexFunc(k.n.cfg.Roles, func(c Role) bool {
		return c.Name == r.Name || c.Name == p.Name+"/"+r.Name
	})
	if i < 0 || ctx.Err() != nil {
		return
	}
	cfg := k.n.cfg.Roles[i]
	if err := k.fits(key, r, cfg); err != nil {
		k.mu.Lock()
		said := k.idle[key]
		k.idle[key] = err.Error()
		k.mu.Unlock()
		if said != err.Error() { // once, not at each change of the State
			k.n.log.Error("role does not run", "pipeline", p.Name, "role", r.Name, "err", err)
		}
		return
	}
	rr, all := newRoleRun(ctx, k.n, p, r, cfg), k.all()
	k.mu.Lock()
	delete(k.idle, key)
	k.roles[key] = rr
	close(k.changed)
	k.changed = make(chan struct{})
	k.mu.Unlock()
	if k.n.draining.Load() { // who leaves has told all others already
		rr.stopReading()
	}
	k.group.Go(func() { // ended by ctx, a failure of the pipeline, or a version without the role
		for _, other := range all {
			if other.key == key || cfg.Handler == nil && other.cfg.Name == cfg.Name {
				<-other.ended // its tap or sink are ours from then on
			}
		}
		rr.run()
	})
	k.n.log.Info("role runs", "pipeline", p.Name, "role", r.Name)
}

// fits checks that our role is of the kind that the log has, that we have what it needs, and that
// its tap or sink, which have one user, is not at work for another pipeline.
func (k *keeper) fits(key roleKey, r topology.Role, cfg Role) error {
	if (r.Kind == topology.KindTap) != (cfg.Tap != nil) || (r.Kind == topology.KindSink) != (cfg.Sink != nil) {
		return fmt.Errorf("this node has another kind of role than the cluster's %s", r.Kind)
	}
	if tag := r.Lacks(k.n.self); tag != "" {
		return fmt.Errorf("it needs %s, which this node has not: start it with --tag %s", tag, tag)
	}
	for _, other := range k.all() {
		if cfg.Handler == nil && other.cfg.Name == cfg.Name && other.key != key && other.ctx.Err() == nil {
			return fmt.Errorf("it is at work for pipeline %s", other.key.pipeline)
		}
	}
	return nil
}

// idles returns why roles that this node serves do not run here, by "pipeline/role".
func (k *keeper) idles() map[string]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	why := make(map[string]string, len(k.idle))
	for key, text := range k.idle {
		why[key.pipeline+"/"+key.role] = text
	}
	return why
}

// claim is the number of the newest claim on a source that the State has, 0: none.
func (k *keeper) claim(source uint64) uint64 { return (*k.claims.Load())[source] }

// claimsOf is the numbers of all claims, by source.
func claimsOf(s *consensus.State) *map[uint64]uint64 {
	claims := make(map[uint64]uint64)
	for _, p := range s.Pipelines {
		for _, c := range p.Claims {
			claims[stream.SourceID(p.Name, c.Role, c.Partition)] = c.Number
		}
	}
	return &claims
}

// stop ends the roles of a pipeline.
func (k *keeper) stop(p topology.Pipeline, why error) {
	for _, r := range p.Roles {
		if rr := k.get(roleKey{p.Name, r.Name}); rr != nil {
			rr.cancel(why)
		}
	}
}

// end ends the roles that a pipeline has no more.
func (k *keeper) end(p topology.Pipeline) {
	for _, rr := range k.all() {
		if _, has := p.Role(rr.key.role); rr.key.pipeline == p.Name && !has && rr.ctx.Err() == nil {
			k.n.log.Info("role ends", "pipeline", p.Name, "role", rr.key.role)
			rr.cancel(fmt.Errorf("version %d of pipeline %s has no role %s", p.Version, p.Name, rr.key.role))
		}
	}
}

func (k *keeper) get(key roleKey) *roleRun {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.roles[key]
}

// role finds a role by pipeline/role.
func (k *keeper) role(name string) *roleRun {
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, rr := range k.roles {
		if key.pipeline+"/"+key.role == name {
			return rr
		}
	}
	return nil
}

func (k *keeper) all() []*roleRun {
	k.mu.Lock()
	defer k.mu.Unlock()
	rs := make([]*roleRun, 0, len(k.roles))
	for _, rr := range k.roles {
		rs = append(rs, rr)
	}
	slices.SortFunc(rs, func(a, b *roleRun) int { return compareKeys(a.key, b.key) })
	return rs
}

func compareKeys(a, b roleKey) int {
	return slices.Compare([]string{a.pipeline, a.role}, []string{b.pipeline, b.role})
}

// stopReading ends the taps' reading; what they read goes on.
func (k *keeper) stopReading() {
	for _, rr := range k.all() {
		rr.stopReading()
	}
	k.n.injections.stop()
}

// handleLink takes a link that a peer opened, if this node's State has it, in time.
func (k *keeper) handleLink(ctx context.Context, p mux.Peer, c net.Conn) {
	l, err := stream.Accept(c)
	if err != nil {
		k.n.log.Debug("link not accepted", "peer", p.ID, "err", err)
		return
	}
	rr, err := k.accept(ctx, l, p.ID)
	if err != nil {
		k.n.log.Debug("link refused", "peer", p.ID, "role", l.To, "err", err)
		code := wire.CodeRefused
		if errors.Is(err, errStale) {
			code = wire.CodeStale
			k.n.cfg.Hooks.sometimes("a link is refused because our state is behind")
		}
		_ = l.Refuse(code, err.Error()) // the peer has gone, or asks again
		return
	}
	serving, done := context.WithCancel(ctx)
	var beats sync.WaitGroup
	if whole, _ := k.n.consensus.State().Pipeline(l.Pipeline); injects(whole.Whole(), l.From) {
		// No layout has this link: nobody else sees that its sender is dead.
		beats.Go(func() { k.n.beatOn(serving, p.ID) }) // ended by done
	}
	err = rr.inlet.Serve(ctx, l, p.ID)
	done()
	beats.Wait()
	k.n.log.Debug("link ended", "peer", p.ID, "role", l.To, "err", err)
}

// errStale says that this node's State is behind the sender's.
var errStale = errors.New("this node's state is behind: ask again")

// accept judges a link by the State: the edge is in the graph, both ends hold their roles.
func (k *keeper) accept(ctx context.Context, l *stream.Incoming, from topology.NodeID) (*roleRun, error) {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	for {
		k.mu.Lock()
		roles := k.changed
		k.mu.Unlock()
		changed := k.n.consensus.Changed()
		s := k.n.consensus.State()
		err := k.judge(s, l, from)
		rr := k.get(roleKey{l.Pipeline, l.To})
		if err == nil && rr != nil && rr.inlet != nil && rr.ctx.Err() == nil { // one that ended may have a successor soon
			return rr, nil
		}
		if err != nil && s.Epoch >= l.Epoch {
			return nil, err
		}
		k.n.cfg.Hooks.sometimes("a link waits for our state to catch up")
		select {
		case <-changed:
		case <-roles:
		case <-ctx.Done():
			return nil, fmt.Errorf("epoch %d of yours, %d of mine: %w", l.Epoch, s.Epoch, errStale)
		}
	}
}

func (k *keeper) judge(s *consensus.State, l *stream.Incoming, from topology.NodeID) error {
	p, ok := s.Pipeline(l.Pipeline)
	whole := p.Whole()
	switch {
	case !ok:
		return fmt.Errorf("there is no pipeline %s", l.Pipeline)
	case p.Failed != nil:
		return fmt.Errorf("pipeline %s failed: %s", l.Pipeline, p.Failed.Reason)
	}
	type end struct {
		id   topology.NodeID
		role string
	}
	ends := []end{{k.n.self.ID, l.To}}
	if edge := l.Edge(); injects(whole, l.From) {
		if err := judgeInjected(s, whole, edge, from); err != nil {
			return err
		}
	} else {
		ends = append(ends, end{from, l.From})
		if !slices.ContainsFunc(whole.Graph.Edges, func(e topology.Edge) bool {
			return e.From == edge.From && e.Port == edge.Port && e.To == edge.To
		}) {
			return fmt.Errorf("pipeline %s has no edge %v", l.Pipeline, edge)
		}
	}
	for _, end := range ends {
		if node, ok := s.Node(end.id); !ok || !whole.ServedBy(node, end.role) {
			return fmt.Errorf("node %s does not serve role %s of pipeline %s", end.id, end.role, l.Pipeline)
		}
	}
	return nil
}
