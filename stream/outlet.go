package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weir/stream/wire"
	"weir/topology"
)

// OutletConfig says what an outlet hands on. All fields but Share and Fail are needed.
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
	Log   *slog.Logger
	Hooks *Hooks // nil but in the simulator

	dropAcks bool // test hook: records are done with once written, as if nobody acked
}

// Outlet hands on the records of one role on one node: it picks a link for each and keeps the
// record until the chain behind that link has acked it. Emitting and Serve may be called
// concurrently.
type Outlet struct {
	cfg  OutletConfig
	path uint64 // hash of the role, for the paths of its outputs

	mu      sync.Mutex
	edges   []*outEdge
	waiters []chan struct{} // emitters without credit
	failed  bool            // the run must stop: what was nacked stays here
}

// outEdge is one edge that starts at the outlet's role. The outlet's mu guards it.
type outEdge struct {
	edge    topology.Edge
	senders []*Sender
	turn    int
	orphans []orphan             // in our custody, without a link
	marks   map[uint64]wire.Mark // the newest of each source, for new links

	records, deliveries, redelivered uint64
	firstRedelivered                 time.Time // when the first redelivered record was acked
	latency                          histogram
	inflight                         int // records in senders' windows
}

// orphan is a record whose link died, or that was nacked, until another link takes it. Its
// chunk keeps its bytes, and stays charged.
type orphan struct {
	t     *tree
	c     *chunk
	rec   wire.Record // its slices are parts of the chunk
	bytes int
	avoid topology.NodeID // the node that nacked it
}

// NewOutlet makes an outlet without links.
func NewOutlet(cfg OutletConfig) *Outlet {
	if cfg.RecordMax == 0 {
		cfg.RecordMax = RecordBytesMax
	}
	if cfg.Share == 0 {
		cfg.Share = cfg.Budget.max
	}
	o := &Outlet{cfg: cfg, path: hashString(cfg.Pipeline + "/" + cfg.Role)}
	for _, e := range cfg.Edges {
		o.edges = append(o.edges, &outEdge{edge: e, marks: make(map[uint64]wire.Mark)})
	}
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
	for _, e := range o.edges {
		if e.edge.Port == out.Port {
			return nil
		}
	}
	return fmt.Errorf("role %s, port %q: %w", o.cfg.Role, out.Port, ErrNoEdge)
}

// emit hands on items in order; it blocks while no link of an edge has credit, window and
// memory. What was handed on before an error stays so.
func (o *Outlet) emit(ctx context.Context, items []item) error {
	o.mu.Lock()
	for i := range items {
		it := &items[i]
		split := o.cfg.Send == topology.SendSplit
		for k := range o.edges {
			e := o.edges[k]
			if e.edge.Port != it.port {
				continue
			}
			for !o.push(e, it, split) {
				if err := o.wait(ctx); err != nil {
					o.mu.Unlock()
					return err
				}
			}
			if split {
				break
			}
		}
	}
	o.mu.Unlock()
	return nil
}

// offer is emit for one item that never waits: all its edges take it, or none.
func (o *Outlet) offer(it *item) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	split := o.cfg.Send == topology.SendSplit
	need := wire.RecordBytes(&it.rec)
	for _, e := range o.edges {
		if e.edge.Port != it.port {
			continue
		}
		if split {
			if o.push(e, it, true) {
				return nil
			}
			return ErrBusy
		}
		if len(e.orphans) > 0 || o.pick(e, need, "") == nil {
			return ErrBusy
		}
	}
	for _, e := range o.edges {
		if e.edge.Port == it.port && !o.push(e, it, false) {
			return ErrBusy // not reached: nothing was let go since the look above
		}
	}
	return nil
}

// wait gives up mu until something was acked, written or connected.
func (o *Outlet) wait(ctx context.Context) error {
	ready := make(chan struct{}, 1) // a flag: wake never blocks
	o.waiters = append(o.waiters, ready)
	o.mu.Unlock()
	var err error
	select {
	case <-ready:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	o.mu.Lock()
	return err
}

// wake lets all waiting emitters look again.
func (o *Outlet) wake() {
	for _, ready := range o.waiters {
		ready <- struct{}{}
	}
	o.waiters = o.waiters[:0]
}

// push gives an item to the best link of e, with split to the best of all edges of e's port.
// Records without a link go first.
func (o *Outlet) push(e *outEdge, it *item, split bool) bool {
	need := wire.RecordBytes(&it.rec)
	var s *Sender
	for _, other := range o.edges {
		if other != e && (!split || other.edge.Port != e.edge.Port) || len(other.orphans) > 0 {
			continue
		}
		if o := o.pick(other, need, ""); o != nil && (s == nil || o.untaken() < s.untaken()) {
			s = o
		}
	}
	if s == nil {
		return false
	}
	atomic.AddInt32(&it.t.left, 1)
	s.e.records++
	o.place(s, &it.rec, it.t, need)
	return true
}

// pick returns the link of e with the fewest records not yet taken, among those that can take
// one of need bytes; ties in turn; avoid is only picked when it is the only node.
func (o *Outlet) pick(e *outEdge, need int, avoid topology.NodeID) *Sender {
	var best *Sender
	bestAt, others := 0, false
	for k := range e.senders {
		at := (e.turn + k) % len(e.senders)
		s := e.senders[at]
		others = others || s.peer != avoid
		if s.peer == avoid || !o.ready(s, need) || best != nil && s.untaken() >= best.untaken() {
			continue
		}
		best, bestAt = s, at
	}
	if best == nil && avoid != "" && !others {
		o.cfg.Hooks.sometimes("a nacked record goes back to the only node")
		return o.pick(e, need, "")
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
	size := int64(chunkBytes(max(wire.BatchPrefix+need, wire.BatchBytes)))
	if o.fits(s, size) {
		return true
	}
	o.cfg.Hooks.sometimes("a window has no room for another chunk")
	if s.live*2 < s.pinned {
		o.cfg.Hooks.sometimes("chunks are packed")
		s.pack()
	}
	return o.fits(s, size)
}

// fits reports whether s may pin size bytes more.
func (o *Outlet) fits(s *Sender, size int64) bool {
	return (s.pinned+size <= windowBytes || s.win.records == 0) && o.cfg.Budget.held.Load()+size <= o.cfg.Share
}

// place appends a record to the pending chunk of s.
func (o *Outlet) place(s *Sender, r *wire.Record, t *tree, need int) {
	if s.pending == nil {
		s.pending = o.cfg.Budget.chunks.get(max(wire.BatchPrefix+need, wire.BatchBytes))
		o.charge(s, int64(cap(s.pending.buf)))
		s.signal()
	}
	seq := s.win.next
	bytes := s.pending.append(seq, r)
	s.win.add(slot{t: t, c: s.pending, bytes: uint32(bytes)})
	s.live += int64(bytes)
	s.e.inflight++
	s.e.deliveries++
}

// charge counts bytes pinned by s; negative gives back.
func (o *Outlet) charge(s *Sender, bytes int64) {
	s.pinned += bytes
	o.cfg.Budget.held.Add(bytes)
}

// adopt moves orphans to links, as far as these have credit.
func (o *Outlet) adopt(e *outEdge) {
	n := 0
	for ; n < len(e.orphans) && !o.failed; n++ {
		or := &e.orphans[n]
		need := wire.RecordBytes(&or.rec)
		s := o.pick(e, need, or.avoid)
		if s == nil {
			o.cfg.Hooks.sometimes("a record without a link waits for one")
			break
		}
		o.cfg.Hooks.sometimes("a record goes to another link")
		o.place(s, &or.rec, or.t, need)
		s.win.at(s.win.next - 1).again = true
		e.redelivered++
		o.dropOrphan(or)
	}
	e.orphans = slices.Delete(e.orphans, 0, n)
}

// dropOrphan frees the orphan's part of its chunk.
func (o *Outlet) dropOrphan(or *orphan) {
	c := or.c
	c.live--
	if c.live == 0 {
		o.cfg.Budget.held.Add(-int64(cap(c.buf)))
		o.cfg.Budget.chunks.put(c)
	}
}

// Mark passes a low-water mark on; each link gets the newest of each source.
func (o *Outlet) Mark(m wire.Mark) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.edges {
		if old, ok := e.marks[m.Source]; ok && old.Gen == m.Gen && old.Next >= m.Next {
			continue
		}
		e.marks[m.Source] = m
		for _, s := range e.senders {
			s.marks = append(s.marks, m)
			s.signal()
		}
	}
}

// Writable reports whether each edge could take a small record now.
func (o *Outlet) Writable() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.edges {
		if len(e.orphans) > 0 || o.pick(e, 1, "") == nil {
			return false
		}
	}
	return true
}

// exitError gives the exit code that an error asks for, in a NACK.
type exitError interface{ ExitCode() int }

func exitCode(err error) uint64 {
	var e exitError
	if errors.As(err, &e) {
		return uint64(e.ExitCode())
	}
	return 0
}

// EdgeStats is what an outlet counts for one of its edges.
type EdgeStats struct {
	Edge             topology.Edge
	Links            int
	Inflight         int    // sent, not acked, and waiting for a link
	CreditUsed       uint64 // sent, not taken
	CreditLimit      uint64 // credit used and left
	Records          uint64 // distinct
	Deliveries       uint64
	Redelivered      uint64
	FirstRedelivered time.Time // when the first of these was acked; zero: none
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
			Edge: e.edge, Links: len(e.senders), Inflight: e.inflight + len(e.orphans),
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
