// Package bench holds what `weir bench` measures with: a tap that makes records when asked, a
// role that copies, a sink that times, and the raw streams of QUIC and TLS to compare with.
//
//	Tap ──> Copy ──> … ──> Sink      through nodes, as any pipeline
//	Raw.pour ──────> Raw             bytes over one stream, no weir in between
//
// It starts no process and prints nothing. Its only goroutines are those of Raw, joined by Run.
package bench

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weir/stream"
)

// lagsMax is how many latencies a sink keeps between two questions: 8 bytes each.
const lagsMax = 1 << 20

// Copy hands on what it gets.
func Copy() stream.Handler {
	return stream.Each(func(ctx context.Context, r stream.Record, e stream.Emitter) error {
		return e.Emit(ctx, r.Out)
	})
}

// Tap makes records of one size while Run runs. It has one partition and never ends by itself.
type Tap struct {
	body  []byte
	begin chan time.Duration // to the reader, a Run's every
	quiet chan uint64        // from the reader: how many it has made in all, and makes no more
	over  atomic.Bool        // the Run's time is up
	_     [64]byte           // the reader looks at over for each record, others count in acked
	acked atomic.Uint64
}

// NewTap makes a tap of records of size bytes that do not compress.
func NewTap(size int) *Tap {
	t := &Tap{body: make([]byte, size), begin: make(chan time.Duration), quiet: make(chan uint64)}
	for i := range t.body {
		t.body[i] = byte(rand.Uint32())
	}
	return t
}

// Run makes records for about d, as fast as they are taken, or, if every is not 0, one each every,
// which carry their time; then it waits until all of them are acked. It returns how many and how long both took together.
func (t *Tap) Run(ctx context.Context, d, every time.Duration) (records uint64, took time.Duration, err error) {
	before := t.acked.Load()
	t.over.Store(false)
	select {
	case t.begin <- every:
	case <-ctx.Done():
		return 0, 0, context.Cause(ctx)
	}
	began := time.Now()
	timer := time.AfterFunc(d, func() { t.over.Store(true) })
	defer timer.Stop()
	var made uint64
	select {
	case made = <-t.quiet:
	case <-ctx.Done():
		return 0, 0, context.Cause(ctx)
	}
	look := time.NewTicker(time.Millisecond) // against seconds of d
	defer look.Stop()
	for t.acked.Load() < made {
		select {
		case <-look.C:
		case <-ctx.Done():
			return 0, 0, context.Cause(ctx)
		}
	}
	return made - before, time.Since(began), nil
}

// Partitions implements stream.Tap.
func (t *Tap) Partitions(context.Context) ([]string, error) { return []string{"bench"}, nil }

// Open implements stream.Tap.
func (t *Tap) Open(context.Context, string, stream.Mark) (stream.Reader, error) {
	return &reader{Tap: t}, nil
}

// reader is the one reader of a Tap.
type reader struct {
	*Tap
	made  uint64
	busy  bool          // for a Run
	every time.Duration // of that Run
	due   time.Time     // of its next record, if every is not 0
	key   [8]byte
}

// Next implements stream.Reader.
func (r *reader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	for !r.busy || r.over.Load() {
		if err := r.turn(ctx); err != nil {
			return stream.Out{}, nil, err
		}
	}
	out := stream.Out{Body: r.body}
	if r.every > 0 {
		if err := sleep(ctx, time.Until(r.due)); err != nil {
			return stream.Out{}, nil, err
		}
		r.due = r.due.Add(r.every)
		binary.BigEndian.PutUint64(r.key[:], uint64(time.Now().UnixNano()))
		out.Key = r.key[:]
	}
	r.made++
	return out, nil, nil
}

// turn ends the present Run's records, if there is one, and waits for the next.
func (r *reader) turn(ctx context.Context) error {
	if r.busy {
		r.busy = false
		select {
		case r.quiet <- r.made:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	select {
	case r.every = <-r.begin:
		r.busy, r.due = true, time.Now()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Done implements stream.Reader.
func (r *reader) Done(stream.Mark, error) { r.acked.Add(1) }

// Close implements stream.Reader.
func (r *reader) Close() error { return nil }

// Sink forgets records and keeps how long those that carry their time were under way. The
// clocks of tap and sink must be one machine's.
type Sink struct {
	mu   sync.Mutex
	lags []time.Duration // at most lagsMax
}

// Load implements stream.Sink.
func (s *Sink) Load(context.Context, uint64) ([]byte, error) { return nil, nil }

// Write implements stream.Sink.
func (s *Sink) Write(_ context.Context, rs []stream.Record, _ stream.Seen) error {
	if len(rs[0].Key) != 8 { // all of a Run carry their time, or none
		return nil
	}
	now := time.Now().UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rs {
		if len(r.Key) == 8 && len(s.lags) < lagsMax {
			s.lags = append(s.lags, time.Duration(now-int64(binary.BigEndian.Uint64(r.Key))))
		}
	}
	return nil
}

// Lags returns, sorted, how long each record took from the tap to here since it was last asked.
func (s *Sink) Lags() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	lags := s.lags
	s.lags = nil
	slices.Sort(lags)
	return lags
}

// Close implements stream.Sink.
func (s *Sink) Close() error { return nil }
