package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/stream/wire"
	"weir/topology"
)

// Incoming is a link that a sender opened and nobody has accepted yet.
type Incoming struct {
	wire.Hello
	conn net.Conn
	r    *bufio.Reader
}

// Accept reads the HELLO of a link on conn. The caller then checks it against its State and
// calls Inlet.Serve or Refuse.
func Accept(conn net.Conn) (*Incoming, error) {
	if err := conn.SetDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(conn, readBytes)
	t, body, err := readFrame(r, nil, 0)
	if err != nil {
		return nil, fmt.Errorf("wait for hello: %w", err)
	}
	if t != wire.TypeHello {
		return nil, fmt.Errorf("frame of type %d instead of hello: %w", t, wire.ErrBad)
	}
	h, err := wire.ParseHello(body)
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	l := &Incoming{h, conn, r}
	if h.Min > wire.Version || h.Max < wire.Version {
		text := fmt.Sprintf("this node speaks version %d of the link protocol, not %d to %d", wire.Version, h.Min, h.Max)
		return nil, errors.Join(&Refused{wire.CodeVersion, text}, l.Refuse(wire.CodeVersion, text))
	}
	return l, nil
}

// Refuse answers HELLO-ERR and closes the link.
func (l *Incoming) Refuse(code wire.Code, text string) error {
	_, err := l.conn.Write(wire.HelloErr{Code: code, Text: text}.Append(nil))
	return errors.Join(err, l.conn.Close())
}

// Edge is the edge that the link is of.
func (l *Incoming) Edge() topology.Edge {
	return topology.Edge{From: l.From, Port: l.Port, To: l.To}
}

// Receiver is the receiving end of a link: one goroutine reads frames, the next batch only when all
// records of the one before are taken; another writes acks.
type Receiver struct {
	in    *Inlet
	conn  net.Conn
	br    *bufio.Reader
	hello wire.Hello
	key   linkKey
	root  uint64        // the path of records that come right from a tap
	room  chan struct{} // a flag: a block is all taken
	wake  chan struct{} // a flag: there is something to ack
	stop  context.CancelCauseFunc

	// in.mu guards these; link seqs.
	next    uint64 // read
	taken   uint64
	limit   uint64
	ahead   int    // bytes of buffers read and not all taken
	cleared uint64 // the sender knows that those below are taken
	spent   bool   // the sender said that its credit ended
	gone    bool
	passed  passed

	mu          sync.Mutex // guards what the ack writer sends next
	credit      wire.Ack   // its Taken and Limit
	handledSeqs ranges
	ackedSeqs   ranges
	nacks       []wire.Nack
}

func newReceiver(in *Inlet, l *Incoming, from topology.NodeID, stop context.CancelCauseFunc) *Receiver {
	return &Receiver{
		in: in, conn: l.conn, br: l.r, hello: l.Hello, key: linkKey{l.Edge(), from}, stop: stop,
		root: rootPath(l.Pipeline, l.From),
		room: make(chan struct{}, 1), wake: make(chan struct{}, 1),
	}
}

func (r *Receiver) run(ctx context.Context) error {
	r.in.mu.Lock()
	ok := wire.HelloOK{Version: wire.Version, Limit: r.limit, Capacity: uint64(r.in.cfg.Capacity),
		Attempts: uint64(r.in.cfg.Attempts), Life: r.in.life, Marks: r.in.marks.list()}
	r.in.mu.Unlock()
	if _, err := r.conn.Write(ok.Append(nil)); err != nil {
		return fmt.Errorf("answer hello: %w", err)
	}
	if err := r.conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.read(ctx) })      // ended by ctx or the deadline
	g.Go(func() error { return r.writeAcks(ctx) }) // likewise
	g.Go(func() error {                            // ended by ctx
		<-ctx.Done()
		expire(r.conn)
		return context.Cause(ctx)
	})
	return g.Wait()
}

// fail ends the link. It may be called from any goroutine.
func (r *Receiver) fail(err error) { r.stop(err) }

// read reads frames until the link ends; a clean end is io.EOF.
func (r *Receiver) read(ctx context.Context) error {
	b := r.in.cfg.Budget
	for {
		t, n, err := peekHeader(r.br, r.in.cfg.RecordMax)
		if err != nil {
			return fmt.Errorf("read link: %w", err)
		}
		if t == wire.TypeBatch {
			if err := r.await(ctx); err != nil {
				return err
			}
		}
		c := b.chunks.get(wire.HeaderBytes + n)
		c.buf = c.buf[:wire.HeaderBytes+n]
		if _, err := io.ReadFull(r.br, c.buf); err != nil {
			b.chunks.put(c)
			return fmt.Errorf("read frame of %d bytes: %w", n, err)
		}
		if t == wire.TypeBatch {
			err = r.readBatch(c)
		} else {
			err = r.control(t, c.buf[wire.HeaderBytes:])
			b.chunks.put(c)
		}
		if err != nil {
			return err
		}
	}
}

func (r *Receiver) control(t wire.Type, body []byte) error {
	switch {
	case t == wire.TypeMark:
		m, err := wire.ParseMark(body)
		if err != nil {
			return fmt.Errorf("mark: %w", err)
		}
		m.Position = slices.Clone(m.Position)
		r.in.mark(m)
	case t == wire.TypeClear:
		c, err := wire.ParseClear(body)
		if err != nil {
			return fmt.Errorf("clear: %w", err)
		}
		return r.in.clear(r, c.Below)
	case !t.Skippable():
		return fmt.Errorf("frame of type %d on the data direction: %w", t, wire.ErrBad)
	}
	return nil
}

// await waits until the next batch may be read: what is read and not taken is one batch, little more for
// a sink, the rest stays with the sender.
func (r *Receiver) await(ctx context.Context) error {
	for !r.in.mayRead(r) {
		select {
		case <-r.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// readBatch hands a batch to the inlet.
func (r *Receiver) readBatch(c *chunk) error {
	batch, err := wire.ParseBatch(c.buf[wire.HeaderBytes:])
	if err != nil {
		return err
	}
	in := r.in
	in.mu.Lock()
	next, limit := r.next, r.limit
	in.mu.Unlock()
	if batch.First != next || batch.First+uint64(batch.Count) > limit {
		return fmt.Errorf("batch of link seqs %d to %d where %d to %d may come: %w",
			batch.First, batch.First+uint64(batch.Count), next, limit, wire.ErrBad)
	}
	bl := &block{r: r, c: c, batch: batch, left: batch.Count, at: time.Now(),
		slab: in.cfg.Budget.slabs.get(batch.Count, r, batch.First)}
	bl.refs.Store(1)
	if !in.enqueue(bl) {
		in.cfg.Hooks.sometimes("a batch comes on a link that was replaced")
		return errors.New("the link was replaced")
	}
	return nil
}

// block is a batch that was read: its records are parts of its chunk's buffer, which is freed
// when all have been handled.
type block struct {
	r     *Receiver
	c     *chunk
	slab  *slab
	batch wire.Batch
	left  int // records not taken
	at    time.Time
	refs  atomic.Int32 // the queue, and each hand-over that has records of it

	rec    wire.Record // the next one, when peeked
	peeked bool
}

// peek decodes the next record.
func (bl *block) peek() error {
	if bl.peeked {
		return nil
	}
	bl.peeked = true
	return bl.batch.Next(&bl.rec)
}

// take takes the peeked record and returns its tree.
func (bl *block) take() *tree {
	t := &bl.slab.trees[bl.batch.Count-bl.left]
	bl.left--
	bl.peeked = false
	return t
}

func (bl *block) release(b *Budget) {
	if bl.refs.Add(-1) == 0 {
		b.chunks.put(bl.c)
	}
}

// grant has the ack writer send the link's taken and limit; the caller has the inlet's mu.
func (r *Receiver) grant() {
	r.mu.Lock()
	r.credit.Taken, r.credit.Limit = r.taken, r.limit
	r.mu.Unlock()
	raise(r.wake)
}

// ack has the ack writer send that these are done with.
func (r *Receiver) ack(lo, hi uint64) {
	r.watchDone(lo, hi)
	r.mu.Lock()
	r.ackedSeqs.add(lo, hi)
	r.mu.Unlock()
	raise(r.wake)
}

// fence is for sources: only what comes right from a tap is fenced.
func (r *Receiver) fence() {}

// handled has the ack writer send that the handler returned for this one.
func (r *Receiver) handled(seq uint64) {
	r.mu.Lock()
	r.handledSeqs.add(seq, seq+1)
	r.mu.Unlock()
	raise(r.wake)
}

// nack gives a record back to the sender.
func (r *Receiver) nack(n wire.Nack) {
	r.mu.Lock()
	r.nacks = append(r.nacks, n)
	r.mu.Unlock()
	raise(r.wake)
}

// writeAcks writes what there is to ack, as one write; while it blocks, more comes together.
func (r *Receiver) writeAcks(ctx context.Context) error {
	var frames []byte
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		frames = r.frames(frames[:0])
		if _, err := r.conn.Write(frames); err != nil {
			return fmt.Errorf("write acks: %w", err)
		}
	}
}

// frames appends all that is to be told, as frames of at most RangesMax ranges.
func (r *Receiver) frames(b []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.nacks {
		b = n.Append(b)
	}
	handled, acked := r.handledSeqs, r.ackedSeqs
	if r.in.cfg.dropAcks {
		handled, acked = nil, nil
	}
	for first := true; first || len(handled)+len(acked) > 0; first = false {
		a := r.credit
		n, m := min(len(handled), wire.RangesMax/2), min(len(acked), wire.RangesMax/2)
		a.Handled, a.Acked = handled[:n], acked[:m]
		b = a.Append(b)
		handled, acked = handled[n:], acked[m:]
	}
	r.nacks, r.handledSeqs, r.ackedSeqs = r.nacks[:0], r.handledSeqs[:0], r.ackedSeqs[:0]
	return b
}
