package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir/stream"
)

// Times of a program that stays.
const (
	// DeadlineDefault is how long a program that stays may go without a sign of the record that it has
	// had longest (FAULTS F26).
	DeadlineDefault = 30 * time.Second
	// backoffMin and backoffMax are the waits between two starts of a program that ends by
	// itself; they double, and begin anew after healthy (FAULTS F25). As long as no process of the
	// role has answered they end above probeTime: six starts, two to three seconds.
	backoffMin = 100 * time.Millisecond
	backoffMax = 30 * time.Second
	healthy    = 60 * time.Second
)

// A process has at most so much that it has not answered, unless one record alone is more.
const (
	// WindowRecords is in records: what a program may read ahead of its answers (STACK 9.2).
	WindowRecords = 64
	// windowBytes is in bytes: what its pipe holds, so that the next records are there when it
	// comes back from one.
	windowBytes = pipeBytes
)

// resident is the handler of a program that stays. Its processes live in Run, which may be called
// again.
type resident struct {
	*program
	log        *slog.Logger
	procs      int
	jobRecords int // the most of a job; 0 = any number
	speak      func(*child) dialect
	proven     atomic.Bool // it has answered
	jobs       chan job    // unbuffered: a process takes one when it has room

	resting atomic.Int32           // processes that are to be started again, but not yet
	why     atomic.Pointer[string] // the last of them ended
}

func newResident(p *program) *resident {
	return &resident{program: p, log: p.stderr.log, procs: cap(p.slots), jobs: make(chan job)}
}

// dialect is how one process is spoken to. put and read are called by a goroutine each.
type dialect interface {
	// put writes a job; false: nothing more can be written.
	put(ctx context.Context, w io.Writer, j job) bool
	// read reads answers until the program has ended its output, or does what it may not.
	read(ctx context.Context, r io.Reader)
	// late says, under the child's mu and as its timer is up, why the process is to be killed; nil:
	// it is not, and the timer is set anew where it must be.
	late() error
	// ended says why a process that exited with 0 should not have; nil: it might.
	ended() error
}

// job is records that one process is to answer, next those from next on.
type job struct {
	batch   batch
	records []stream.Record
	next    int
	to      int
	id      uint64 // of the jobs of a process, from 1
	cost    int    // of the window, in bytes
	done    *sync.WaitGroup
}

// record is the next to be answered.
func (j *job) record() *stream.Record { return &j.records[j.next] }

// nack ends a job, or nil, that is not answered, or not all of it.
func (j *job) nack(err error) {
	if j == nil {
		return
	}
	for i := j.next; i < j.to; i++ {
		j.batch.Nack(i, err)
	}
	j.done.Done()
}

// batch is what of a stream.Batch answers go to.
type batch interface {
	To(i int) stream.Emitter
	Nack(i int, err error)
}

// Handle returns when each record is answered, or nacked with the end of its process.
func (s *resident) Handle(ctx context.Context, b *stream.Batch) error {
	return s.handle(ctx, b.Records, b)
}

func (s *resident) handle(ctx context.Context, records []stream.Record, b batch) error {
	var done sync.WaitGroup
	defer done.Wait() // the records are lent until we return
	for from := 0; from < len(records); {
		j := job{batch: b, records: records, next: from, to: from, done: &done}
		for j.to < len(records) && (s.jobRecords == 0 || j.to-from < s.jobRecords) {
			cost := windowCost(&records[j.to])
			if j.to > from && j.cost+cost > windowBytes {
				break
			}
			j.cost += cost
			j.to++
		}
		done.Add(1)
		select {
		case s.jobs <- j:
		case <-ctx.Done():
			done.Done()
			return context.Cause(ctx)
		}
		from = j.to
	}
	return nil
}

// windowCost is the part of a window that a record takes. One that was blamed before takes it
// all: should it end the process again, no other record is blamed with it.
func windowCost(r *stream.Record) int {
	if r.Attempt > 1 {
		return windowBytes
	}
	return min(max(len(r.Body)+1, windowBytes/WindowRecords), windowBytes)
}

// Run runs the processes that Handle gives its records to, each from the first record for it on,
// until ctx is done. Then their inputs end; what has not ended after a grace is killed.
func (s *resident) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for range s.procs {
		group.Go(func() { s.keep(ctx) })
	}
	group.Wait()
	return context.Cause(ctx)
}

// keep runs one process after the other, none while there is no record for it.
func (s *resident) keep(ctx context.Context) {
	backoff := backoffMin
	var next *job // taken by the process before
	for {
		if next == nil {
			select {
			case j := <-s.jobs:
				next = &j
			case <-ctx.Done():
				return
			}
		}
		c := newChild(s)
		c.last = backoff > probeTime
		err := c.run(ctx, *next)
		next = c.next
		var config *stream.ConfigError
		if ctx.Err() != nil || errors.As(err, &config) {
			s.refuse(ctx, next, err)
			return
		}
		if time.Since(c.began) >= healthy {
			backoff = backoffMin
		}
		wait := backoff/2 + rand.N(backoff/2) // jitter: the processes of a role often end together
		s.log.Warn("program ended", "err", err, "again_in", wait.Round(time.Millisecond))
		backoff = min(2*backoff, backoffMax)
		if !s.rest(ctx, wait, err) {
			next.nack(context.Cause(ctx))
			return
		}
	}
}

// rest waits before a process that ended with err is started again; false: ctx is done.
func (s *resident) rest(ctx context.Context, wait time.Duration, err error) bool {
	why, _, _ := strings.Cut(err.Error(), "\n")
	s.why.Store(&why)
	s.resting.Add(1)
	defer s.resting.Add(-1)
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
		return false
	}
}

// Waits says why a process of the role is about to be started again, "" where none is.
func (s *resident) Waits() string {
	if s.resting.Load() == 0 {
		return ""
	}
	return *s.why.Load()
}

// refuse nacks next, and whatever comes until ctx is done: the nacks end the pipeline, but each only
// once the Handle that it belongs to has returned.
func (s *resident) refuse(ctx context.Context, next *job, err error) {
	for {
		next.nack(err)
		select {
		case j := <-s.jobs:
			next = &j
		case <-ctx.Done():
			return
		}
	}
}
