package sim

import (
	"context"
	"errors"
	"sync"
	"time"

	"weir/node"
	"weir/stream"
)

// pace is how fast one node's handlers, tap and sink work: it can hold them and stretch the time
// they take. It is safe for concurrent use.
type pace struct {
	mu       sync.Mutex
	holds    int
	open     chan struct{} // closed while nothing holds
	refusals int
	factor   float64
	moved    chan struct{} // closed when factor changes, and replaced
}

func newPace() *pace {
	p := &pace{open: make(chan struct{}), factor: 1, moved: make(chan struct{})}
	close(p.open)
	return p
}

// hold stops what begins from now on, until release was called as often.
func (p *pace) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holds++; p.holds == 1 {
		p.open = make(chan struct{})
	}
}

func (p *pace) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holds--; p.holds == 0 {
		close(p.open)
	}
}

// stretch multiplies the time that work takes; below 1 it undoes.
func (p *pace) stretch(factor float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.factor *= factor
	close(p.moved)
	p.moved = make(chan struct{})
}

// refuse adds to those who have all work put off.
func (p *pace) refuse(by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusals += by
}

var errRefused = errors.New("the scenario has it refused")

// ready blocks while the pace is held, and says whether work is to be put off.
func (p *pace) ready(ctx context.Context) error {
	if err := p.wait(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusals > 0 {
		return stream.Retry(0, errRefused)
	}
	return nil
}

// wait blocks while the pace is held.
func (p *pace) wait(ctx context.Context) error {
	for {
		p.mu.Lock()
		held, open := p.holds > 0, p.open
		p.mu.Unlock()
		if !held {
			return nil
		}
		select {
		case <-open:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// linger waits for what work since start takes longer than it took, at the pace of the moment, and
// until nothing holds.
func (p *pace) linger(ctx context.Context, start time.Time) error {
	took := time.Since(start)
	for {
		p.mu.Lock()
		more := time.Duration(p.factor*float64(took)) - time.Since(start)
		moved := p.moved
		p.mu.Unlock()
		if more <= 0 {
			return p.wait(ctx)
		}
		timer := time.NewTimer(more)
		select {
		case <-timer.C:
		case <-moved:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// paced is a role of the workload at that pace.
func (p *pace) paced(r node.Role) node.Role {
	switch {
	case r.Handler != nil:
		r.Handler = pacedHandler{r.Handler.(*loadHandler), p}
	case r.Tap != nil:
		r.Tap = pacedTap{r.Tap.(*loadTap), p}
	case r.Sink != nil:
		r.Sink = pacedSink{r.Sink.(*loadSink), p}
	}
	return r
}

type pacedHandler struct {
	*loadHandler
	pace *pace
}

func (h pacedHandler) Handle(ctx context.Context, b *stream.Batch) error {
	err := h.handle(ctx, b)
	if ctx.Err() != nil { // that of a record itself is the same: it is ill
		h.late(b)
	}
	return err
}

func (h pacedHandler) handle(ctx context.Context, b *stream.Batch) error {
	if err := h.pace.ready(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := h.loadHandler.Handle(ctx, b); err != nil {
		return err
	}
	return h.pace.linger(ctx, start)
}

type pacedSink struct {
	*loadSink
	pace *pace
}

func (s pacedSink) Write(ctx context.Context, rs []stream.Record, seen stream.Seen) error {
	if err := s.pace.ready(ctx); err != nil {
		return err
	}
	start := time.Now()
	if err := s.loadSink.Write(ctx, rs, seen); err != nil {
		return err
	}
	return s.pace.linger(ctx, start)
}

type pacedTap struct {
	*loadTap
	pace *pace
}

func (t pacedTap) Open(ctx context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	r, err := t.loadTap.Open(ctx, partition, at)
	if err != nil {
		return nil, err
	}
	return pacedReader{r, t.pace}, nil
}

func (t pacedTap) Again(ctx context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	r, err := t.loadTap.Again(ctx, partition, at)
	if err != nil {
		return nil, err
	}
	return pacedReader{r, t.pace}, nil
}

type pacedReader struct {
	stream.Reader
	pace *pace
}

func (r pacedReader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	if err := r.pace.wait(ctx); err != nil {
		return stream.Out{}, nil, err
	}
	return r.Reader.Next(ctx)
}
