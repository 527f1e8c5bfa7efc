package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/stream/wire"
)

const (
	// sourceSpan is the most records from a source's low-water mark to its newest one, so that
	// one stuck record does not stop the tap at once.
	sourceSpan = 1 << 20
	// markEvery is how often a source's low-water mark travels: within 10 ms on an idle link,
	// with the time of its hops.
	markEvery = 5 * time.Millisecond
	// markBytesMax is the most a tap's position may hold, in bytes.
	markBytesMax = 4 << 10
	// rootsPerSlab is how many roots share one allocation.
	rootsPerSlab = 256
)

// SourceConfig says what a source reads and where its records go. All fields are needed but Claim
// and those below it.
type SourceConfig struct {
	ID, Gen   uint64
	Partition string
	Reader    Reader
	Outlet    *Outlet
	Budget    *Budget

	Claim    uint64 // goes into each record and mark
	Next     uint64 // where the numbering goes on
	Position Mark   // where the reader was opened, after the record before Next
	// OnMark is told of each low-water mark that is sent; it must not block.
	OnMark func(wire.Mark)
	// OnFirst is told of the mark behind the first record; its error ends the source before the
	// record is sent. The mark is lent.
	OnFirst func(context.Context, Mark) error
}

// Source reads one partition of a tap into an outlet and knows how far it is acked without a
// gap.
type Source struct {
	cfg  SourceConfig
	gate gate

	mu    sync.Mutex
	roots roots
	past  uint64 // one more than the highest acked seq
	acked uint64
	lines uint64
	ended bool          // by the reader
	done  bool          // and all of it is acked
	first bool          // OnFirst was told; of the reading goroutine
	room  chan struct{} // a flag: the low-water mark rose
	moved chan struct{} // a flag: the same, for the marks

	fenced chan struct{} // a flag: a newer claim reads the partition
}

// roots is the un-acked records of a source: a ring from the low-water mark on. Its fields
// are guarded by the source's mu.
type roots struct {
	low, next uint64
	ring      []root
	position  Mark // of the record before low
}

type root struct {
	mark  Mark
	acked bool
}

func (r *roots) at(seq uint64) *root { return &r.ring[seq&uint64(len(r.ring)-1)] }

// add gives a record the next seq.
func (r *roots) add(mark Mark) uint64 {
	if r.next-r.low == uint64(len(r.ring)) {
		ring := make([]root, max(1024, 2*len(r.ring)))
		for seq := r.low; seq < r.next; seq++ {
			ring[seq&uint64(len(ring)-1)] = *r.at(seq)
		}
		r.ring = ring
	}
	seq := r.next
	*r.at(seq) = root{mark: mark}
	r.next++
	return seq
}

// ack marks seqs as acked and reports whether the low-water mark rose.
func (r *roots) ack(lo, hi uint64) (rose bool) {
	for seq := lo; seq < hi; seq++ {
		r.at(seq).acked = true
	}
	for r.low < r.next && r.at(r.low).acked {
		r.position = r.at(r.low).mark
		*r.at(r.low) = root{}
		r.low++
		rose = true
	}
	return rose
}

// NewSource makes a source; it reads nothing before Run.
func NewSource(cfg SourceConfig) *Source {
	s := &Source{cfg: cfg, room: make(chan struct{}, 1), moved: make(chan struct{}, 1), fenced: make(chan struct{}, 1)}
	s.roots.low, s.roots.next, s.past = cfg.Next, cfg.Next, cfg.Next
	s.roots.position = cfg.Position
	if cfg.Next > 0 {
		raise(s.moved) // the first mark says where it goes on
	}
	return s
}

// Run reads until the reader or reading, which descends from ctx, ends, and returns nil when all
// that was read is acked; an error when the reader fails or ctx is done, ErrFenced when the claim
// is not the newest any more.
func (s *Source) Run(ctx, reading context.Context) error {
	s.watch(EventSource, s.cfg.Next)
	g, ctx := errgroup.WithContext(ctx)
	reading, stop := context.WithCancel(reading)
	defer stop()
	defer context.AfterFunc(ctx, stop)() // who is fenced reads no more
	finished := make(chan struct{})
	g.Go(func() error {
		defer close(finished)
		if err := s.read(ctx, reading); err != nil {
			return err
		}
		if err := s.waitBelow(ctx, 0); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.done = s.ended
		return nil
	})
	g.Go(func() error { return s.sendMarks(ctx, finished) }) // ended by finished or ctx
	return g.Wait()
}

// ErrFenced says that another node has a newer claim on the partition.
var ErrFenced = errors.New("the partition is another's now")

// fence ends Run with ErrFenced. It may be called by any goroutine and under any lock.
func (s *Source) fence() { raise(s.fenced) }

// read numbers what the reader returns and emits it.
func (s *Source) read(ctx, reading context.Context) error {
	path := rootPath(s.cfg.Outlet.cfg.Pipeline, s.cfg.Outlet.cfg.Role)
	var sl *slab
	var marks []byte // positions are copied into it, many to one allocation
	for used := rootsPerSlab; ; used++ {
		out, mark, err := s.next(ctx, reading)
		if errors.Is(err, io.EOF) || errors.Is(err, errStopped) {
			s.abandon(sl, used)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ended = !errors.Is(err, errStopped)
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", s.cfg.Partition, err)
		}
		if len(mark) > markBytesMax {
			return fmt.Errorf("read %s: a position of %d bytes: at most %d", s.cfg.Partition, len(mark), markBytesMax)
		}
		if err := s.cfg.Outlet.check(&out); err != nil {
			return fmt.Errorf("read %s: %w", s.cfg.Partition, err)
		}
		if len(marks)+len(mark) > cap(marks) {
			marks = make([]byte, 0, 16<<10)
		}
		marks = append(marks, mark...)
		seq, span := s.number(marks[len(marks)-len(mark):], &out)
		if span >= sourceSpan {
			if err := s.waitBelow(ctx, sourceSpan-1); err != nil {
				return err
			}
		}
		if used == rootsPerSlab {
			sl, used = s.cfg.Budget.slabs.get(rootsPerSlab, s, seq), 0
		}
		items := [1]item{{
			rec: wire.Record{
				Source: s.cfg.ID, Gen: s.cfg.Gen, Claim: s.cfg.Claim, Seq: seq, Path: path,
				Attempt: 1, Key: out.Key, Body: out.Body, Header: out.Header,
			},
			port: out.Port,
			t:    &sl.trees[used],
		}}
		if err := s.cfg.Outlet.emit(ctx, items[:]); err != nil {
			return err
		}
		done := ackBatch{slabs: &s.cfg.Budget.slabs}
		done.done(items[0].t) // the handler's part of the count
		done.flush()
	}
}

// errStopped says that the reading was ended from outside.
var errStopped = errors.New("the source was stopped")

// next is the reader's Next. The end of reading ends the wait for a record, never the way of one
// that was read.
func (s *Source) next(ctx, reading context.Context) (Out, Mark, error) {
	if reading.Err() != nil && ctx.Err() == nil {
		return Out{}, nil, errStopped
	}
	out, mark, err := s.cfg.Reader.Next(reading)
	if err == nil && !s.first && s.cfg.OnFirst != nil && len(mark) <= markBytesMax {
		s.first = true
		err = s.cfg.OnFirst(reading, mark)
	}
	if err != nil && reading.Err() != nil && ctx.Err() == nil {
		err = errStopped
	}
	if err == nil {
		err = s.gate.pass(ctx, reading)
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx) // what was read is not numbered, and comes again
	}
	return out, mark, err
}

// abandon counts the trees of a slab that are not needed as done.
func (s *Source) abandon(sl *slab, used int) {
	if left := rootsPerSlab - used; left > 0 && sl.live.Add(int32(-left)) == 0 {
		s.cfg.Budget.slabs.put(sl)
	}
}

// number gives a record its seq; span is how many there are from the low-water mark to it.
func (s *Source) number(mark Mark, out *Out) (seq, span uint64) {
	lines := Lines(out.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines += lines
	seq = s.roots.add(mark)
	return seq, s.roots.next - s.roots.low
}

// Lines is the number of lines of a body: blocks have no final newline.
func Lines(body []byte) uint64 { return uint64(bytes.Count(body, []byte{'\n'})) + 1 }

// waitBelow waits until at most n records from the low-water mark on are there.
func (s *Source) waitBelow(ctx context.Context, n uint64) error {
	for {
		s.mu.Lock()
		there := s.roots.next - s.roots.low
		s.mu.Unlock()
		if there <= n {
			return nil
		}
		select {
		case <-s.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ack is told by the tree that these roots are acked end to end.
func (s *Source) ack(lo, hi uint64) {
	var marks [64]Mark // on the stack: the reader is told outside mu
	rose := false
	for lo < hi {
		n := min(hi-lo, uint64(len(marks)))
		s.mu.Lock()
		for i := range n {
			marks[i] = s.roots.at(lo + i).mark
		}
		s.acked += n
		s.past = max(s.past, lo+n)
		rose = s.roots.ack(lo, lo+n) || rose
		s.mu.Unlock()
		for _, m := range marks[:n] {
			s.cfg.Reader.Done(m, nil)
		}
		lo += n
	}
	if rose {
		raise(s.room)
		raise(s.moved)
	}
}

// sendMarks sends the low-water mark when it rose, at most once in markEvery.
func (s *Source) sendMarks(ctx context.Context, finished <-chan struct{}) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		ended := false
		select {
		case <-s.moved:
		case <-finished:
			ended = true // the last mark may be before us
		case <-s.fenced:
			return ErrFenced
		case <-ctx.Done():
			return nil
		}
		s.mu.Lock()
		m := wire.Mark{Source: s.cfg.ID, Gen: s.cfg.Gen, Claim: s.cfg.Claim, Next: s.roots.low, Position: s.roots.position}
		if s.cfg.Outlet.cfg.Hooks.has(BugMarkGap) {
			m.Next = s.past
		}
		s.mu.Unlock()
		s.watch(EventMark, m.Next)
		s.cfg.Outlet.Mark(m)
		if s.cfg.OnMark != nil {
			s.cfg.OnMark(m)
		}
		if ended {
			return nil
		}
		pause.Reset(markEvery)
		select {
		case <-pause.C:
		case <-s.fenced:
			return ErrFenced
		case <-ctx.Done():
			return nil
		}
	}
}

// SourceStats is what a source counts.
type SourceStats struct {
	Partition   string
	Read, Acked uint64 // records, of this Run
	Lines       uint64
	Done        bool // ended, and all of it acked
}

// Stats returns the counts.
func (s *Source) Stats() SourceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SourceStats{s.cfg.Partition, s.roots.next - s.cfg.Next, s.acked, s.lines, s.done}
}
