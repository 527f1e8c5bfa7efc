package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"weir/node/spec"
	"weir/stream"
)

// Times of a resident program.
const (
	// DeadlineDefault is how long a program may go without answering a line that it has
	// (FAULTS F26).
	DeadlineDefault = 30 * time.Second
	// probeTime is how long the first answer may take once the first line was read: sed -u needs
	// milliseconds, and a person who forgot the -u should not wait (STACK 9.1).
	probeTime = 2 * time.Second
	// settleTime is how long we look for more after the first answer of a role, before it is
	// believed: a second line, or a prompt, follows at once.
	settleTime = 200 * time.Millisecond
	// backoffMin and backoffMax are the waits between two starts of a program that ends by
	// itself; they double, and begin anew after healthy (FAULTS F25). As long as no process of the
	// role has answered a line they end above probeTime: six starts, two to three seconds.
	backoffMin = 100 * time.Millisecond
	backoffMax = 30 * time.Second
	healthy    = 60 * time.Second
)

// A process has at most so much of lines that it has not answered, unless one record alone is
// more.
const (
	// WindowRecords is in records: what a program may read ahead of its answers (STACK 9.2).
	WindowRecords = 64
	// windowBytes is in bytes: what its pipe holds, so that the next lines are there when it
	// comes back from one.
	windowBytes = pipeBytes
)

// line is the handler of a program that stays: it reads lines without end and answers each, in
// order, with one line. Its processes live in Run, which may be called again.
type line struct {
	*program
	log      *slog.Logger
	procs    int
	deadline time.Duration
	probe    time.Duration
	fix      string      // how the program is kept from holding answers back; "" = not known
	proven   atomic.Bool // it has answered a line
	jobs     chan job    // unbuffered: a process takes one when it has room
}

func newLine(p *program, cfg Config) *line {
	l := &line{
		program: p, log: p.stderr.log, procs: cap(p.slots), deadline: cfg.Deadline, probe: probeTime,
		fix: spec.Unbuffered(cfg.Exec, cfg.Sh), jobs: make(chan job),
	}
	if l.deadline == 0 {
		l.deadline = DeadlineDefault
	} else {
		l.probe = l.deadline
	}
	return l
}

// job is records that one process is to answer, next those from next on.
type job struct {
	batch   batch
	records []stream.Record
	next    int
	to      int
	cost    int // of the window, in bytes
	done    *sync.WaitGroup
}

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
func (l *line) Handle(ctx context.Context, b *stream.Batch) error {
	return l.handle(ctx, b.Records, b)
}

func (l *line) handle(ctx context.Context, records []stream.Record, b batch) error {
	var done sync.WaitGroup
	defer done.Wait() // the records are lent until we return
	for from := 0; from < len(records); {
		j := job{batch: b, records: records, next: from, to: from, done: &done}
		for j.to < len(records) {
			cost := windowCost(&records[j.to])
			if j.to > from && j.cost+cost > windowBytes {
				break
			}
			j.cost += cost
			j.to++
		}
		done.Add(1)
		select {
		case l.jobs <- j:
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

// Run runs the processes that Handle gives its lines to, each from the first record for it on,
// until ctx is done. Then their inputs end; what has not ended after a grace is killed.
func (l *line) Run(ctx context.Context) error {
	var group sync.WaitGroup
	for range l.procs {
		group.Go(func() { l.keep(ctx) })
	}
	group.Wait()
	return context.Cause(ctx)
}

// keep runs one process after the other, none while there is no record for it.
func (l *line) keep(ctx context.Context) {
	backoff := backoffMin
	var next *job // taken by the process before
	for {
		if next == nil {
			select {
			case j := <-l.jobs:
				next = &j
			case <-ctx.Done():
				return
			}
		}
		c := newChild(l)
		c.last = backoff > probeTime
		err := c.run(ctx, *next)
		next = c.next
		var config *stream.ConfigError
		if ctx.Err() != nil || errors.As(err, &config) { // then nacks have ended the pipeline
			next.nack(err)
			return
		}
		if time.Since(c.began) >= healthy {
			backoff = backoffMin
		}
		wait := backoff/2 + rand.N(backoff/2) // jitter: the processes of a role often end together
		l.log.Warn("program ended", "err", err, "again_in", wait.Round(time.Millisecond))
		backoff = min(2*backoff, backoffMax)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			next.nack(context.Cause(ctx))
			return
		}
	}
}

// patience is how long the program may take for its next answer.
func (l *line) patience() time.Duration {
	if l.proven.Load() {
		return l.deadline
	}
	return l.probe
}

// noAnswer says what a program may be that reads its first line and prints nothing.
func (l *line) noAnswer() error {
	if l.fix != "" {
		return fmt.Errorf("%s has read a line and not answered it for %v: run %s, so that it holds no answer back; one that does not answer every line needs mode: each", l.name, l.probe, l.fix)
	}
	return fmt.Errorf("%s has read a line and not answered it for %v: let it flush each answer (as python3 -u does), or raise deadline if it is slow; one that does not answer every line needs mode: each", l.name, l.probe)
}
