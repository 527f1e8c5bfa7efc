package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weir/stream/wire"
	"weir/topology"
)

// OutletConfig says what an outlet hands on. Pipeline, Role, Edges and Budget are needed.
type OutletConfig struct {
	Pipeline string
	Role     string
	Edges    []topology.Edge // those that start at Role
	Send     topology.Send
	Budget   *Budget
	// Share is the most bytes of the budget that this outlet may pin, 0 = all: a tap's is
	// smaller, so that the roles behind it on its node always find some.
	Share     int64
	RecordMax int // bytes of a body; 0 = RecordBytesMax
	// Fail is told once why the run must stop: a record failed too often, or a role can
	// never work. It must not block.
	Fail  func(reason string, exitCode int)
	Hooks *Hooks // nil but in the simulator

	dropAcks bool // test hook: records are done with once written, as if nobody acked
}

// Outlet hands on the records of one role on one node: it picks a link for each and keeps the
// record until the chain behind that link has acked it. Emitting and Serve may be called
// concurrently.
type Outlet struct {
	cfg  OutletConfig
	path uint64 // hash of the role, for the paths of its outputs

	ports atomic.Pointer[[]string] // of open edges, for check

	mu      sync.Mutex
	send    topology.Send
	edges   []*outEdge      // those that are closed too
	waiters []chan struct{} // emitters without credit
	pinned  int64           // bytes, by all senders and orphans
	timer   *time.Timer     // for records that are to be tried later; nil: none yet
	rings   time.Time       // when it does; zero: not set
	known   marks           // what receivers knew of sources
	failed  bool            // the run must stop: what was nacked stays here
	closed  bool            // what is not acked is forgotten
}

// outEdge is one edge that starts at the outlet's role. The outlet's mu guards it.
type outEdge struct {
	edge    topology.Edge
	closed  bool // it gets no new records
	senders []*Sender
	turn    int
	orphans []orphan // in our custody, without a link: these go before new records
	nacked  []orphan // likewise, each for another node than the one that nacked it
	retries []orphan // likewise, not before they are due
	lane    lane
	backoff backoff
	marks   marks

	changed  time.Time // when a link last came or went
	attempts uint64    // how often a record may fail there, as the last peer said
	peeks    []*Peek   // who looks at it

	records, deliveries, redelivered uint64
	firstRedelivered                 time.Time // when the first redelivered record was acked
	latency                          histogram
	inflight                         int // records in senders' windows
	waiting                          int // emitters
}

// NewOutlet makes an outlet without links.
func NewOutlet(cfg OutletConfig) *Outlet {
	if cfg.RecordMax == 0 {
		cfg.RecordMax = RecordBytesMax
	}
	if cfg.Share == 0 {
		cfg.Share = cfg.Budget.max
	}
	o := &Outlet{cfg: cfg, known: make(marks), path: rolePath(cfg.Pipeline, cfg.Role)}
	o.Revise(cfg.Edges, cfg.Send)
	return o
}

// item is one output on its way to the links.
type item struct {
	rec  wire.Record
	port string
	t    *tree
}

// check refuses what no link could carry.
func (o *Outlet) check(out *Out) error {
	if len(out.Body) > o.cfg.RecordMax {
		return fmt.Errorf("a record of %d bytes: at most %d (key record-max)", len(out.Body), o.cfg.RecordMax)
	}
	if out.Key != nil || out.Header != nil {
		r := wire.Record{Key: out.Key, Header: out.Header}
		if err := r.Check(); err != nil {
			return err
		}
	}
	if o.carries(out.Port) {
		return nil
	}
	return o.noEdge(out.Port)
}

// carries reports whether an open edge starts at a port.
func (o *Outlet) carries(port string) bool { return slices.Contains(*o.ports.Load(), port) }

func (o *Outlet) noEdge(port string) error {
	return fmt.Errorf("role %s, port %q: %w", o.cfg.Role, port, ErrNoEdge)
}

// emit hands on items in order; it blocks while no link of an edge has credit, window and
// memory. What was handed on before an error stays so.
func (o *Outlet) emit(ctx context.Context, items []item) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range items {
		it := &items[i]
		need := wire.RecordBytes(&it.rec)
		sent := false
		for k := 0; k < len(o.edges); k++ { // there may be more after a wait
			e := o.edges[k]
			if e.closed || e.edge.Port != it.port {
				continue
			}
			s, err := o.await(ctx, e, need)
			if err != nil {
				return err
			}
			if s == nil { // closed while we waited: another edge may have come for it
				if !sent {
					k = -1
				}
				continue
			}
			o.push(s, it, need)
			sent = true
			if o.split() {
				break
			}
		}
		if !sent { // its last edge was closed since it was checked
			return o.noEdge(it.port)
		}
	}
	return nil
}

func (o *Outlet) split() bool { return o.send == topology.SendSplit }

// offer is emit for one item that never waits: all its edges take it, or none.
func (o *Outlet) offer(it *item) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	need := wire.RecordBytes(&it.rec)
	var links []*Sender
	for _, e := range o.edges {
		if e.closed || e.edge.Port != it.port {
			continue
		}
		s := o.best(e, need)
		if s == nil {
			return ErrBusy
		}
		links = append(links, s)
		if o.split() {
			break
		}
	}
	if len(links) == 0 {
		return o.noEdge(it.port)
	}
	for _, s := range links { // the second edge may go beyond the memory that both looked at
		o.push(s, it, need)
	}
	return nil
}

// await returns a link for a record on edge e, when there is one, nil when e is closed.
func (o *Outlet) await(ctx context.Context, e *outEdge, need int) (*Sender, error) {
	for !e.closed {
		if s := o.best(e, need); s != nil {
			return s, nil
		}
		freed := o.cfg.Budget.freed()
		if s := o.best(e, need); s != nil { // memory may have come free in between
			return s, nil
		}
		e.waiting++
		err := o.wait(ctx, need, freed)
		e.waiting--
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// wait gives up mu until something was acked, written or connected here, or, where the node's
// memory is short, something of it came free after freed.
func (o *Outlet) wait(ctx context.Context, need int, freed uint64) error {
	ready := make(chan struct{}, 1) // a flag
	o.waiters = append(o.waiters, ready)
	o.cfg.Budget.await(ready, pendingBytes(need), freed)
	o.mu.Unlock()
	defer o.mu.Lock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		o.cfg.Budget.forget(ready)
		o.mu.Lock()
		defer o.mu.Unlock()
		o.waiters = slices.DeleteFunc(o.waiters, func(c chan struct{}) bool { return c == ready })
		return context.Cause(ctx)
	}
}

// wake lets all waiting emitters look again.
func (o *Outlet) wake() {
	for _, ready := range o.waiters {
		raise(ready)
	}
	o.waiters = o.waiters[:0]
}

// raise sets a flag, a channel of length 1.
func raise(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}

// best returns the best link of e, with split of all edges of e's port, that can take a record
// of need bytes now. Where records wait for a link, these go first.
func (o *Outlet) best(e *outEdge, need int) *Sender {
	var best *Sender
	for _, other := range o.edges {
		if other != e && (!o.split() || other.closed || other.edge.Port != e.edge.Port) ||
			len(other.orphans) > 0 || other.kept() > 0 && o.swamped(other, need) {
			continue
		}
		if s := o.pick(other, need, wanted{}); s != nil && (best == nil || s.untaken() < best.untaken()) {
			best = s
		}
	}
	return best
}

// kept is how many records of an edge have come back and wait.
func (e *outEdge) kept() int {
	return len(e.nacked) + len(e.retries) + len(e.lane.suspects) + len(e.lane.accused)
}

// swamped reports whether so much of an edge has come back that it gets no new records: those that
// came back are in no window, but must have a bound as well.
func (o *Outlet) swamped(e *outEdge, need int) bool {
	return e.kept() >= windowRecords || e.inflight == 0 && !o.room(pendingBytes(need))
}

// push gives an item to a link.
func (o *Outlet) push(s *Sender, it *item, need int) {
	atomic.AddInt32(&it.t.left, 1)
	s.e.records++
	for _, p := range s.e.peeks {
		p.see(&it.rec)
	}
	o.place(s, &it.rec, it.t, need)
}

// wanted says which links a record may not go to.
type wanted struct {
	avoid topology.NodeID // this node, unless it is the only one
	lone  bool            // those that have a suspect
	open  bool            // those that have one that is to be alone
}

// pick returns the link of e with the fewest records not yet taken, among those that can take
// one of need bytes; ties in turn.
func (o *Outlet) pick(e *outEdge, need int, w wanted) *Sender {
	var best *Sender
	bestAt, others := 0, false
	for k := range e.senders {
		at := (e.turn + k) % len(e.senders)
		s := e.senders[at]
		others = others || s.peer != w.avoid && !s.draining
		if s.peer == w.avoid || w.lone && s.suspects > 0 || w.open && s.reserved || !o.ready(s, need) || best != nil && s.untaken() >= best.untaken() {
			continue
		}
		best, bestAt = s, at
	}
	if best == nil && w.avoid != "" && !others {
		o.cfg.Hooks.sometimes("a nacked record goes back to the only node")
		w.avoid = ""
		return o.pick(e, need, w)
	}
	e.turn = bestAt + 1
	return best
}

// ready reports whether s can take a record of need bytes now.
func (o *Outlet) ready(s *Sender, need int) bool {
	if s.draining || s.win.next >= s.limit || s.win.full() {
		o.cfg.Hooks.sometimes("a link has no credit")
		return false
	}
	if c := s.pending; c != nil {
		return len(c.buf)+need <= cap(c.buf)
	}
	if s.e.inflight == 0 {
		return true // an edge may always have one record in flight
	}
	size := pendingBytes(need)
	if o.fits(s, size) {
		return true
	}
	o.cfg.Hooks.sometimes("a window has no room for another chunk")
	if s.live*2 < s.pinned && s.pinned != s.packed {
		o.cfg.Hooks.sometimes("chunks are packed")
		s.pack()
	}
	return o.fits(s, size)
}

// pendingBytes is what a new pending chunk pins, for a first record of need bytes.
func pendingBytes(need int) int64 {
	return int64(chunkBytes(max(wire.BatchPrefix+need, wire.BatchBytes)))
}

// fits reports whether s may pin size bytes more.
func (o *Outlet) fits(s *Sender, size int64) bool {
	return (s.pinned+size <= windowBytes || s.win.records == 0) && o.room(size)
}

// room reports whether the outlet may pin size bytes more.
func (o *Outlet) room(size int64) bool {
	return o.pinned+size <= o.cfg.Share && o.cfg.Budget.held.Load()+size <= o.cfg.Budget.max
}

// Writable reports whether each edge could take a small record now.
func (o *Outlet) Writable() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.edges {
		if !e.closed && o.best(e, 1) == nil {
			return false
		}
	}
	return true
}

// ExitCode is the exit code that an error asks for by a method of that name, 0 for none.
func ExitCode(err error) int {
	var e interface{ ExitCode() int }
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return 0
}

// EdgeStats is what an outlet counts for one of its edges.
type EdgeStats struct {
	Edge             topology.Edge
	Links            int
	Inflight         int    // sent, not acked, and waiting for a link
	Waiting          int    // emitters that wait for a link, or room in one
	CreditUsed       uint64 // sent, not taken
	CreditLimit      uint64 // credit used and left
	Records          uint64 // distinct
	Deliveries       uint64
	Redelivered      uint64
	FirstRedelivered time.Time // when the first of these was acked; zero: none
	Retries          int       // records that wait to be tried again
	Suspects         int       // records that may be why a node died, and are not handled since
	Pinned           int64     // bytes
	Latency          [LatencyBuckets]uint64
}

// Stats returns the counts of each edge.
func (o *Outlet) Stats() []EdgeStats {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []EdgeStats
	for _, e := range o.edges {
		st := EdgeStats{
			Edge: e.edge, Links: len(e.senders), Inflight: e.inflight + len(e.orphans) + e.kept(), Waiting: e.waiting, Retries: len(e.retries), Suspects: len(e.lane.suspects) + len(e.lane.accused) + e.lane.sent,
			Records: e.records, Deliveries: e.deliveries, Redelivered: e.redelivered,
			FirstRedelivered: e.firstRedelivered, Latency: e.latency.counts,
		}
		for _, s := range e.senders {
			st.CreditUsed += s.untaken()
			st.CreditLimit += s.untaken() + max(s.limit, s.win.next) - s.win.next
			st.Pinned += s.pinned
		}
		all = append(all, st)
	}
	return all
}
