package stream

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// The deadline of a handler is one of progress: it may take as long as it likes as long as something
// happens. One that misses it is told so by its context, and its records have failed, whether it
// returns or not. Until then it keeps its goroutine and the memory of its batch, but neither the role
// nor its end waits for it.

// deadlineLookMax is how late a missed deadline is seen at most (FAULTS 2.2, F26: deadline + 1 s).
const deadlineLookMax = time.Second

// progress is what a batch has come to; it is compared only.
type progress struct {
	steps          uint64 // calls of Progress
	outputs, nacks int
	left           int32 // un-acked outputs
}

// progress looks at a batch; waiting says that an output waits for credit, which is no fault of its
// handler's.
func (b *Batch) progress() (p progress, waiting bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p.steps = b.steps.Load()
	for i, e := range b.emitters[:len(b.Records)] {
		p.outputs += e.ordinal + len(e.strays)
		if e.nack != nil {
			p.nacks++
		}
		p.left += b.trees[i].outstanding()
	}
	return p, b.sending > 0
}

// vigil watches over one call of a handler.
type vigil struct {
	in    *Inlet
	b     *Batch
	miss  context.CancelCauseFunc // ends the handler's context
	every time.Duration
	timer *time.Timer

	mu    sync.Mutex
	last  progress
	since time.Time // of last
	over  bool      // the handler has returned
	dead  bool      // it missed its deadline

	settled chan struct{} // closed when its batch is, if it missed its deadline
}

// watched calls the handler under the role's deadline. It reports false when the handler missed that:
// then its batch is settled, and the goroutine is not one of the inlet's any more.
func (in *Inlet) watched(ctx context.Context, b *Batch) (err error, ok bool) {
	if in.cfg.Deadline <= 0 {
		return in.handle(ctx, b), true
	}
	handling, miss := context.WithCancelCause(ctx)
	defer miss(nil)
	v := &vigil{in: in, b: b, miss: miss, every: min(in.cfg.Deadline/8+1, deadlineLookMax), since: time.Now(), settled: make(chan struct{})}
	v.last, _ = b.progress()
	v.mu.Lock()
	v.timer = time.AfterFunc(v.every, func() { v.look(ctx) }) // stopped when the handler returns, or finds that
	v.mu.Unlock()
	err = in.handle(handling, b)
	v.mu.Lock()
	v.over = true
	v.timer.Stop()
	dead := v.dead
	v.mu.Unlock()
	if dead {
		<-v.settled
	}
	return err, !dead
}

// look sees whether there was progress, and looks again later or gives the handler up.
func (v *vigil) look(ctx context.Context) {
	v.mu.Lock()
	if v.over {
		v.mu.Unlock()
		return
	}
	if p, waiting := v.b.progress(); waiting || p != v.last {
		v.last, v.since = p, time.Now()
	}
	dead := time.Since(v.since) >= v.in.cfg.Deadline
	if v.dead = dead; !dead {
		v.timer.Reset(v.every)
	}
	v.mu.Unlock()
	if dead {
		v.miss(fmt.Errorf("no progress for %v", v.in.cfg.Deadline))
		v.in.giveUp(ctx, v.b)
		close(v.settled)
	}
}

// giveUp settles the batch of a handler that missed its deadline, as its goroutine would, and lets the
// role have another instead.
func (in *Inlet) giveUp(ctx context.Context, b *Batch) {
	defer in.group.Done()
	in.cfg.Hooks.sometimes("a handler misses its deadline")
	b.close(fmt.Errorf("no progress for %v", in.cfg.Deadline))
	in.settle(ctx, b)
	in.mu.Lock()
	in.busy -= len(b.Records)
	in.hands--
	in.stuck++
	stuck := in.stuck
	in.more.Signal()
	in.work.Signal()
	in.mu.Unlock()
	if stuck >= in.most() && ctx.Err() == nil {
		in.cfg.Log.Error("as many handlers hang as the role has", "role", in.cfg.Role, "handlers", stuck)
	}
}

// returned notes that a handler that was given up has returned; its goroutine ends.
func (in *Inlet) returned(b *Batch) {
	b.release()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stuck--
	in.more.Signal()
}
