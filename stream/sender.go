package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/stream/wire"
	"weir/topology"
)

const (
	// helloTimeout is how long either end of a link waits for the other's first frame.
	helloTimeout = 5 * time.Second
	// readBytes is the read buffer of a link's data direction (STACK 6: 64 KiB is enough).
	readBytes = 64 << 10
	// ackReadBytes is that of its ack direction, whose frames are small.
	ackReadBytes = 4 << 10
	// lastWord is how long a link that cannot be written waits for its peer's last acks, or its word
	// that it has ended the link: both are on their way then.
	lastWord = 100 * time.Millisecond
	// creditAheadMax is the most a receiver may grant beyond what it took.
	creditAheadMax = 1 << 20
)

// Refused is a receiver's answer to a HELLO that it does not accept.
type Refused struct {
	Code wire.Code
	Text string
}

func (r *Refused) Error() string { return "link refused: " + r.Text }

// ErrDrained says that a link ended because it left the layout and all on it was acked.
var ErrDrained = errors.New("link drained")

// Sender is the sending end of a link: it writes what the outlet places on it and keeps each
// record until it is acked. The outlet's mu guards all fields below the first group.
type Sender struct {
	o    *Outlet
	e    *outEdge
	peer topology.NodeID
	conn net.Conn
	self Hello         // what it said first
	wake chan struct{} // a flag: something to write, or draining

	win          window
	pending      *chunk   // being filled
	marks        []uint64 // sources with a newer mark than was sent
	taken, limit uint64   // absolute, as the receiver said
	pinned, live int64    // bytes of its chunks, and of the un-acked records in them
	packed       int64    // what was pinned when packing was last tried
	capacity     uint64   // the most records that the peer's handlers have at once
	life         uint64   // of the peer's role
	since        time.Time
	suspects     int    // on it, not handled
	guarded      uint64 // after the last suspect placed on it
	barrier      uint64 // after the last one written: no batch is before all below are cleared
	cleared      uint64 // what the peer was told to be known as taken
	reserved     bool   // for the one suspect on it, which is to be alone
	draining     bool

	ended bool // by the peer, which therefore lives; set before Serve returns
}

// Hello describes a link to its receiver.
type Hello struct {
	Link       topology.Link
	Boot       uint64
	Generation uint64
	Epoch      uint64
}

// Serve opens a link on conn and runs it until ctx is done, the link breaks or, after drain
// is closed, all of its records are acked (ErrDrained). What is then un-acked goes to other
// links. It closes conn.
func (o *Outlet) Serve(ctx context.Context, conn net.Conn, h Hello, drain <-chan struct{}) error {
	defer conn.Close()
	e := o.edge(h.Link.Edge)
	if e == nil {
		return fmt.Errorf("role %s has no edge %v", o.cfg.Role, h.Link.Edge)
	}
	r := bufio.NewReaderSize(conn, ackReadBytes)
	stop := context.AfterFunc(ctx, func() { expire(conn) })
	ok, err := o.greet(conn, r, h)
	if !stop() || err != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	s := &Sender{o: o, e: e, peer: h.Link.To, conn: conn, self: h, wake: make(chan struct{}, 1), limit: ok.Limit, capacity: ok.Capacity, life: ok.Life}
	o.connect(s, max(ok.Attempts, 1))
	running := ctx
	defer func() { o.disconnect(s, !s.ended && running.Err() == nil) }()
	g, ctx := errgroup.WithContext(ctx)
	last := make(chan struct{})
	g.Go(func() error { // ended by the deadline
		defer close(last)
		err := s.readAcks(r)
		s.ended = errors.Is(err, io.EOF)
		return err
	})
	g.Go(func() error { // ended by ctx or the deadline
		err := s.write(ctx)
		if ctx.Err() == nil && !errors.Is(err, ErrDrained) {
			await(last, lastWord)
		}
		return err
	})
	g.Go(func() error { // ended by ctx
		select {
		case <-drain:
			s.drain()
			<-ctx.Done()
		case <-ctx.Done():
		}
		expire(conn)
		return context.Cause(ctx)
	})
	return g.Wait()
}

// await waits for done, for so long at most.
func await(done <-chan struct{}, most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// expire lets all reads and writes on conn fail from now on: a stream must not be closed while
// it is written.
func expire(conn net.Conn) { _ = conn.SetDeadline(time.Unix(1, 0)) }

// drain takes no more records.
func (s *Sender) drain() {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	s.draining = true
	raise(s.wake)
}

func (o *Outlet) edge(edge topology.Edge) *outEdge {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.find(edge)
}

// find is edge; the caller has mu.
func (o *Outlet) find(edge topology.Edge) *outEdge {
	for _, e := range o.edges {
		if e.edge.Port == edge.Port && e.edge.To == edge.To {
			return e
		}
	}
	return nil
}

// greet sends HELLO and returns the answer.
func (o *Outlet) greet(conn net.Conn, r *bufio.Reader, h Hello) (ok wire.HelloOK, err error) {
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return ok, err
	}
	hello := wire.Hello{
		Min: wire.Version, Max: wire.Version,
		Pipeline: h.Link.Pipeline, From: h.Link.Edge.From, Port: h.Link.Edge.Port, To: h.Link.Edge.To,
		Boot: h.Boot, Generation: h.Generation, Epoch: h.Epoch, RecordMax: uint64(o.cfg.RecordMax),
	}
	if _, err := conn.Write(hello.Append(nil)); err != nil {
		return ok, fmt.Errorf("send hello: %w", err)
	}
	t, body, err := readFrame(r, nil, o.cfg.RecordMax)
	if err != nil {
		return ok, fmt.Errorf("wait for hello-ok: %w", err)
	}
	switch t {
	case wire.TypeHelloOK:
		ok, err := wire.ParseHelloOK(body)
		if err != nil || ok.Version != wire.Version || ok.Limit > creditAheadMax {
			return ok, fmt.Errorf("hello-ok of version %d, limit %d: %w", ok.Version, ok.Limit, errors.Join(wire.ErrBad, err))
		}
		o.learn(ok.Marks)
		return ok, conn.SetDeadline(time.Time{})
	case wire.TypeHelloErr:
		refusal, err := wire.ParseHelloErr(body)
		if err != nil {
			return ok, err
		}
		return ok, &Refused{refusal.Code, refusal.Text}
	}
	return ok, fmt.Errorf("frame of type %d instead of hello-ok: %w", t, wire.ErrBad)
}

// readFrame reads one frame; the body is in buf where that is large enough.
func readFrame(r *bufio.Reader, buf []byte, recordMax int) (wire.Type, []byte, error) {
	t, n, err := peekHeader(r, recordMax)
	if err != nil {
		return 0, nil, err
	}
	if _, err := r.Discard(wire.HeaderBytes); err != nil {
		return 0, nil, err
	}
	body := slices.Grow(buf[:0], n)[:n]
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("frame of %d bytes: %w", n, err)
	}
	return t, body, nil
}

// peekHeader looks at the next frame's header; io.EOF where the stream ends between frames.
func peekHeader(r *bufio.Reader, recordMax int) (t wire.Type, n int, err error) {
	head, err := r.Peek(wire.HeaderBytes)
	if len(head) > 0 && errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, 0, err
	}
	return wire.Header(head, recordMax)
}

func (o *Outlet) connect(s *Sender, attempts uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.watch(EventOpen, 0, s.limit)
	s.since = time.Now()
	s.e.senders, s.e.changed, s.e.attempts = append(s.e.senders, s), s.since, attempts
	for source := range s.e.marks {
		s.mark(source)
	}
	o.adopt(s.e)
	o.wake()
}

// mark has the writer send the newest mark of a source.
func (s *Sender) mark(source uint64) {
	if !slices.Contains(s.marks, source) {
		s.marks = append(s.marks, source)
	}
	raise(s.wake)
}

// untaken is the records sent that no handler has taken yet.
func (s *Sender) untaken() uint64 { return s.win.next - s.taken }

// write writes what is pending, never waiting for more.
func (s *Sender) write(ctx context.Context) error {
	var frames []byte
	for {
		var c *chunk
		c, frames = s.next(frames[:0])
		if len(frames) > 0 {
			if _, err := s.conn.Write(frames); err != nil {
				return fmt.Errorf("write control frames: %w", err)
			}
		}
		if c != nil {
			first, n := c.seqs[0], uint64(len(c.seqs))
			_, err := s.conn.Write(c.buf)
			s.wrote(c)
			if err != nil {
				return fmt.Errorf("write batch: %w", err)
			}
			if s.o.cfg.dropAcks || s.o.cfg.Hooks.has(BugCustody) {
				_, _ = s.acked(&wire.Ack{Acked: []wire.Range{{Lo: first, Hi: first + n}}}, nil)
			}
			continue
		}
		if s.drained() {
			return ErrDrained
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// next takes what is pending for the writer, and appends the marks that are due and what is to be cleared.
func (s *Sender) next(frames []byte) (*chunk, []byte) {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	for _, source := range s.marks {
		if m, ok := s.e.marks[source]; ok {
			frames = m.Append(frames)
		}
	}
	s.marks = s.marks[:0]
	if s.clears() {
		s.cleared = s.taken
		frames = wire.Clear{Below: s.cleared}.Append(frames)
	}
	c := s.pending
	if s.cleared < s.barrier {
		c = nil // the peer reads nothing behind it before the records there are taken
	}
	if c != nil {
		s.pending = nil
		s.barrier = s.guarded
		c.writing, c.at = true, time.Now()
		c.finish(s.win.next >= s.limit)
		s.watchSent(c)
		s.o.adopt(s.e) // there is room for a new chunk
		s.o.wake()
	}
	return c, frames
}

// clears reports whether suspects were taken of which the peer does not know yet that we know.
func (s *Sender) clears() bool { return s.cleared < min(s.taken, s.barrier) }

func (s *Sender) drained() bool {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	return s.draining && s.win.records == 0
}

// readAcks reads the reverse direction; it never waits for a write.
func (s *Sender) readAcks(r *bufio.Reader) error {
	var buf []byte
	var ack wire.Ack
	var trees []*tree // used again and again
	for {
		t, body, err := readFrame(r, buf, 0)
		if err != nil {
			return fmt.Errorf("read acks: %w", err)
		}
		buf = body
		switch t {
		case wire.TypeAck:
			if err := ack.Parse(body); err != nil {
				return fmt.Errorf("ack: %w", err)
			}
			if trees, err = s.acked(&ack, trees[:0]); err != nil {
				return err
			}
		case wire.TypeNack:
			n, err := wire.ParseNack(body)
			if err != nil {
				return fmt.Errorf("nack: %w", err)
			}
			s.nacked(n)
		default:
			if !t.Skippable() {
				return fmt.Errorf("frame of type %d on the ack direction: %w", t, wire.ErrBad)
			}
		}
	}
}

// acked applies an ACK and then tells the inputs whose outputs were acked; it gathers these in
// trees and returns that.
func (s *Sender) acked(a *wire.Ack, trees []*tree) ([]*tree, error) {
	o := s.o
	o.mu.Lock()
	sent := s.sent()
	if n := len(a.Acked); a.Taken > sent || n > 0 && a.Acked[n-1].Hi > sent || a.Limit > a.Taken+creditAheadMax {
		o.mu.Unlock()
		return nil, fmt.Errorf("ack of records that were never sent: %w", wire.ErrBad)
	}
	s.taken, s.limit = max(s.taken, a.Taken), max(s.limit, a.Limit)
	s.watch(EventGrant, s.taken, s.limit)
	now := time.Now()
	for _, r := range a.Handled {
		s.handled(r, now)
	}
	for _, r := range a.Acked {
		s.watch(EventFreed, r.Lo, r.Hi)
		trees = s.free(r, now, trees)
	}
	o.adopt(s.e)
	if s.clears() || s.draining && s.win.records == 0 {
		raise(s.wake)
	}
	o.wake()
	o.mu.Unlock()

	done := ackBatch{slabs: &o.cfg.Budget.slabs}
	for _, t := range trees {
		done.done(t)
	}
	done.flush()
	return trees, nil
}

// sent is the first link seq that the writer has not taken.
func (s *Sender) sent() uint64 {
	if s.pending != nil {
		return s.pending.seqs[0]
	}
	return s.win.next
}

// handled notes how long the records of a range took from their write to a handler's return.
func (s *Sender) handled(r wire.Range, now time.Time) {
	for seq := max(r.Lo, s.win.base); seq < min(r.Hi, s.win.next); seq++ {
		if sl := s.win.at(seq); sl.t != nil && !sl.handled {
			sl.handled = true
			s.acquit(sl.custody)
			s.e.backoff.handled()
			s.e.latency.add(now.Sub(sl.c.at))
		}
	}
}

// free lets go of the acked records of a range and adds their inputs to trees. What they have
// in common, their chunk, is looked after once for each run of them.
func (s *Sender) free(r wire.Range, now time.Time, trees []*tree) []*tree {
	var c *chunk
	var records, bytes, latency int
	fresh := false // some were not known to be handled
	for seq := max(r.Lo, s.win.base); seq < min(r.Hi, s.win.next); seq++ {
		sl, ok := s.win.free(seq)
		if !ok {
			continue
		}
		if sl.c != c {
			s.drop(c, records, bytes)
			c, records, bytes = sl.c, 0, 0
			latency = bucket(now.Sub(c.at))
		}
		records++
		bytes += int(sl.bytes)
		if !sl.handled {
			s.acquit(sl.custody)
			fresh = true
			s.e.latency.counts[latency]++
		}
		if sl.again && s.e.firstRedelivered.IsZero() {
			s.e.firstRedelivered = now
		}
		if sl.again && s.o.cfg.Hooks.has(BugCounter) {
			trees = append(trees, sl.t)
		}
		trees = append(trees, sl.t)
	}
	s.drop(c, records, bytes)
	if fresh {
		s.e.backoff.handled()
	}
	return trees
}
