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
	// codedAlone is the most that packed records may take more than before, in bytes, since they
	// are coded against others: each may have to name its source, seq and path, which the
	// classes of buffers have room for; get grows beyond it.
	codedAlone = 64
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
	pending      *chunk // being filled
	marks        []wire.Mark
	taken, limit uint64 // absolute, as the receiver said
	pinned, live int64  // bytes of its chunks, and of the un-acked records in them
	draining     bool
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
	limit, err := o.greet(conn, r, h)
	if err != nil {
		return err
	}
	s := &Sender{o: o, e: e, peer: h.Link.To, conn: conn, self: h, wake: make(chan struct{}, 1), limit: limit}
	o.connect(s)
	defer o.disconnect(s)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.readAcks(r) })       // ended by the deadline
	g.Go(func() error { return s.write(ctx, drain) }) // ended by ctx or the deadline
	g.Go(func() error { return unblock(ctx, conn) })
	return g.Wait()
}

// unblock waits for ctx to be done and then lets all reads and writes on conn fail. A stream
// must not be closed while it is written.
func unblock(ctx context.Context, conn net.Conn) error {
	<-ctx.Done()
	if err := conn.SetDeadline(time.Unix(1, 0)); err != nil {
		return err
	}
	return context.Cause(ctx)
}

func (o *Outlet) edge(edge topology.Edge) *outEdge {
	for _, e := range o.edges {
		if e.edge.Port == edge.Port && e.edge.To == edge.To {
			return e
		}
	}
	return nil
}

// greet sends HELLO and returns the first credit limit.
func (o *Outlet) greet(conn net.Conn, r *bufio.Reader, h Hello) (limit uint64, err error) {
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return 0, err
	}
	hello := wire.Hello{
		Min: wire.Version, Max: wire.Version,
		Pipeline: h.Link.Pipeline, From: h.Link.Edge.From, Port: h.Link.Edge.Port, To: h.Link.Edge.To,
		Boot: h.Boot, Generation: h.Generation, Epoch: h.Epoch, RecordMax: uint64(o.cfg.RecordMax),
	}
	if _, err := conn.Write(hello.Append(nil)); err != nil {
		return 0, fmt.Errorf("send hello: %w", err)
	}
	t, body, err := readFrame(r, nil, o.cfg.RecordMax)
	if err != nil {
		return 0, fmt.Errorf("wait for hello-ok: %w", err)
	}
	switch t {
	case wire.TypeHelloOK:
		ok, err := wire.ParseHelloOK(body)
		if err != nil || ok.Version != wire.Version || ok.Limit > creditAheadMax {
			return 0, fmt.Errorf("hello-ok of version %d, limit %d: %w", ok.Version, ok.Limit, errors.Join(wire.ErrBad, err))
		}
		return ok.Limit, conn.SetDeadline(time.Time{})
	case wire.TypeHelloErr:
		refusal, err := wire.ParseHelloErr(body)
		if err != nil {
			return 0, err
		}
		return 0, &Refused{refusal.Code, refusal.Text}
	}
	return 0, fmt.Errorf("frame of type %d instead of hello-ok: %w", t, wire.ErrBad)
}

// readFrame reads one frame; the body is in buf where that is large enough.
func readFrame(r *bufio.Reader, buf []byte, recordMax int) (wire.Type, []byte, error) {
	head, err := r.Peek(wire.HeaderBytes)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	t, n, err := wire.Header(head, recordMax)
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

func (o *Outlet) connect(s *Sender) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.watch(EventOpen, 0, s.limit)
	s.e.senders = append(s.e.senders, s)
	for _, m := range s.e.marks {
		s.marks = append(s.marks, m)
	}
	s.signal()
	o.adopt(s.e)
	o.wake()
}

// disconnect makes orphans of all that s has not had acked.
func (o *Outlet) disconnect(s *Sender) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.watch(EventClose, 0, 0)
	e := s.e
	e.senders = slices.DeleteFunc(e.senders, func(other *Sender) bool { return other == s })
	var seen *chunk
	before := len(e.orphans)
	for seq := s.win.base; seq < s.win.next; seq++ {
		if c := s.win.at(seq).c; c != nil && c != seen {
			seen = c // a chunk's records ascend, packed chunks too
			c.each(func(seq uint64, r *wire.Record) bool {
				if sl, ok := s.win.free(seq); ok {
					e.orphans = append(e.orphans, orphan{t: sl.t, c: c, rec: *r, bytes: int(sl.bytes)})
				}
				return true
			})
		}
	}
	e.inflight -= len(e.orphans) - before
	o.adopt(e)
	o.wake()
}

// signal tells the writer that there is something to write.
func (s *Sender) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// untaken is the records sent that no handler has taken yet.
func (s *Sender) untaken() uint64 { return s.win.next - s.taken }

// write writes what is pending, never waiting for more.
func (s *Sender) write(ctx context.Context, drain <-chan struct{}) error {
	var frames []byte
	for {
		c, marks := s.next()
		frames = frames[:0]
		for _, m := range marks {
			frames = m.Append(frames)
		}
		if len(frames) > 0 {
			if _, err := s.conn.Write(frames); err != nil {
				return fmt.Errorf("write marks: %w", err)
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
		case <-drain:
			drain = nil
			s.o.mu.Lock()
			s.draining = true
			s.o.mu.Unlock()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// next takes what is pending for the writer.
func (s *Sender) next() (*chunk, []wire.Mark) {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	marks := s.marks
	s.marks = nil
	c := s.pending
	if c != nil {
		s.pending = nil
		c.writing, c.at = true, time.Now()
		c.finish(s.win.next >= s.limit)
		s.watchSent(c)
		s.o.wake() // there is room for a new chunk
	}
	return c, marks
}

func (s *Sender) drained() bool {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	return s.draining && s.win.records == 0
}

// wrote settles a chunk after its write: acked ones go, small ones move to a small buffer.
func (s *Sender) wrote(c *chunk) {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	c.writing = false
	if c.live > 0 && len(c.buf)*4 <= cap(c.buf) {
		small := s.o.cfg.Budget.chunks.get(len(c.buf))
		s.o.charge(s, int64(cap(small.buf)-cap(c.buf)))
		c.buf, small.buf = append(small.buf[:0], c.buf...), c.buf
		s.o.cfg.Budget.chunks.put(small)
	}
	s.settle(c)
}

// settle drops a chunk without live records.
func (s *Sender) settle(c *chunk) {
	if c.live == 0 && !c.writing && c != s.pending {
		s.o.charge(s, -int64(cap(c.buf)))
		s.o.cfg.Budget.chunks.put(c)
	}
}

// pack copies what is live out of chunks of which less than a quarter is: one record that
// takes long would otherwise pin a whole batch.
func (s *Sender) pack() {
	for seq := s.win.base; seq < s.win.next; seq++ {
		c := s.win.at(seq).c
		if c == nil || c.writing || c == s.pending || c.liveBytes*4 >= cap(c.buf) {
			continue
		}
		packed := s.o.cfg.Budget.chunks.get(wire.BatchPrefix + c.liveBytes + codedAlone)
		if cap(packed.buf) >= cap(c.buf) {
			continue
		}
		packed.at = c.at
		s.o.charge(s, int64(cap(packed.buf)-cap(c.buf)))
		c.each(func(seq uint64, r *wire.Record) bool {
			if seq >= s.win.base && s.win.at(seq).c == c {
				sl := s.win.at(seq)
				s.live -= int64(sl.bytes)
				sl.c, sl.bytes = packed, uint32(packed.append(seq, r))
				s.live += int64(sl.bytes)
			}
			return true
		})
		s.o.cfg.Budget.chunks.put(c)
	}
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
	if n := len(a.Acked); a.Taken > s.win.next || n > 0 && a.Acked[n-1].Hi > s.win.next || a.Limit > a.Taken+creditAheadMax {
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
		s.handled(r, now)
		s.watch(EventFreed, r.Lo, r.Hi)
		trees = s.free(r, now, trees)
	}
	o.adopt(s.e)
	if s.draining && s.win.records == 0 {
		s.signal()
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

// handled notes how long the records of a range took from their write to a handler's return.
func (s *Sender) handled(r wire.Range, now time.Time) {
	for seq := max(r.Lo, s.win.base); seq < min(r.Hi, s.win.next); seq++ {
		if sl := s.win.at(seq); sl.t != nil && !sl.handled {
			sl.handled = true
			s.e.latency.add(now.Sub(sl.c.at))
		}
	}
}

// free lets go of the acked records of a range and adds their inputs to trees.
func (s *Sender) free(r wire.Range, now time.Time, trees []*tree) []*tree {
	for seq := max(r.Lo, s.win.base); seq < min(r.Hi, s.win.next); seq++ {
		sl, ok := s.win.free(seq)
		if !ok {
			continue
		}
		s.e.inflight--
		if sl.again && s.e.firstRedelivered.IsZero() {
			s.e.firstRedelivered = now
		}
		if sl.again && s.o.cfg.Hooks.has(BugCounter) {
			trees = append(trees, sl.t)
		}
		trees = append(trees, sl.t)
		s.drop(sl)
	}
	return trees
}

// nacked takes a record back: to another node, or the run stops.
func (s *Sender) nacked(n wire.Nack) {
	if reason := s.giveBack(n); reason != "" && s.o.cfg.Fail != nil {
		s.o.cfg.Fail(reason, int(n.Exit))
	}
}

// giveBack makes an orphan of a nacked record. The first time that one may not be tried again
// it returns the reason.
func (s *Sender) giveBack(n wire.Nack) (reason string) {
	o := s.o
	o.mu.Lock()
	defer o.mu.Unlock()
	sl, ok := s.win.free(n.Seq)
	if !ok {
		return ""
	}
	o.cfg.Hooks.sometimes("a record is nacked")
	s.e.inflight--
	or := orphan{t: sl.t, c: sl.c, bytes: int(sl.bytes), avoid: s.peer}
	sl.c.each(func(seq uint64, r *wire.Record) bool {
		if seq == n.Seq {
			or.rec = *r
		}
		return seq != n.Seq
	})
	o.copyOut(s, &or)
	or.rec.Attempt++
	s.e.orphans = append(s.e.orphans, or)
	switch {
	case o.failed:
		return ""
	case n.Code == wire.CodeConfig:
		reason = fmt.Sprintf("role %s: %s", s.e.edge.To, n.Reason)
	case or.rec.Attempt > attemptsMax:
		o.cfg.Hooks.sometimes("a record has failed too often")
		reason = fmt.Sprintf("role %s failed %d times on record %d of its source: %s", s.e.edge.To, attemptsMax, or.rec.Seq, n.Reason)
	}
	o.failed = reason != ""
	o.adopt(s.e)
	return reason
}

// copyOut gives an orphan a chunk of its own, since the rest of its old one stays with s.
func (o *Outlet) copyOut(s *Sender, or *orphan) {
	b := o.cfg.Budget
	own := b.chunks.get(wire.BatchPrefix + wire.RecordBytes(&or.rec))
	b.held.Add(int64(cap(own.buf)))
	own.append(0, &or.rec)
	old := slot{c: or.c, bytes: uint32(or.bytes)}
	own.each(func(_ uint64, r *wire.Record) bool {
		or.rec, or.c = *r, own
		return false
	})
	s.drop(old)
}

// drop takes a record that left the window off its chunk.
func (s *Sender) drop(sl slot) {
	sl.c.live--
	sl.c.liveBytes -= int(sl.bytes)
	s.live -= int64(sl.bytes)
	s.settle(sl.c)
}
