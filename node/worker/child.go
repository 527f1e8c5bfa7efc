package worker

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weir/stream"
)

// child is one process of a program that stays. Two goroutines of os/exec work for it: one takes jobs
// and writes them (write), the other reads the answers and emits them (the dialect's read). Were they
// one, the two pipes would fill, and the program and we wait for each other.
type child struct {
	s     *resident
	d     dialect
	began time.Time
	kill  context.CancelCauseFunc
	errs  *tail
	last  bool          // if it ends before the role's first answer, no other is started
	room  chan struct{} // length 1, a flag: something was answered
	ended chan struct{} // closed when the dialect's read returns
	next  *job          // of write, then run's caller's: taken, and nothing of it written

	hears atomic.Bool // said is not empty

	mu       sync.Mutex
	stdin    io.Writer // nil until the process has started
	sent     []job     // oldest first; of each, some record is not answered
	count    uint64    // of jobs
	cost     int       // of sent
	said     errLines  // stderr, of the oldest record
	timer    *time.Timer
	limit    time.Duration // that it was set to
	due      time.Time     // when it should be up
	emitting bool          // an output waits for credit: the process is not to blame for that
	closing  bool          // the timer is for the process to end, not for an answer
}

func newChild(s *resident) *child {
	c := &child{s: s, began: time.Now(), errs: new(tail), room: make(chan struct{}, 1), ended: make(chan struct{})}
	c.d = s.speak(c)
	return c
}

// run starts the process with its first job and returns why it ended, with no job left but next.
func (c *child) run(ctx context.Context, first job) error {
	life, kill := context.WithCancelCause(context.WithoutCancel(ctx))
	defer kill(nil)
	c.kill = kill
	c.timer = time.AfterFunc(never, c.late)
	defer c.timer.Stop()
	first = c.add(first)

	cmd := c.s.command(life)
	cmd.Stdin = writing(func(w io.Writer) { c.write(ctx, w, first) })
	cmd.Stdout = reading(func(r io.Reader) {
		defer c.close() // it has to end now
		defer close(c.ended)
		growPipe(r)
		c.d.read(ctx, r)
	})
	cmd.Stderr = c.errs
	c.errs.begin(c.s.stderr, c.hear)
	if err := c.s.start(cmd); err != nil {
		c.abandon(err)
		return err
	}
	stop := context.AfterFunc(ctx, c.close)
	_ = c.s.wait(life, cmd) // the verdict has better words
	stop()
	c.errs.end()
	err := c.verdict(ctx, life, cmd.ProcessState)
	if c.last && ctx.Err() == nil && !c.s.proven.Load() {
		err = &stream.ConfigError{Err: fmt.Errorf("%w; it was started again and again and never answered: try it by hand", err)}
	}
	c.abandon(err)
	return err
}

// write writes job after job until ctx is done or the process has ended; the program's input ends
// with it.
func (c *child) write(ctx context.Context, w io.Writer, j job) {
	growPipe(w)
	c.mu.Lock()
	c.stdin = w
	c.mu.Unlock()
	for c.d.put(ctx, w, j) && c.await(ctx, func() bool { return c.cost < windowBytes }) {
		select {
		case j = <-c.s.jobs:
		case <-c.ended:
			return
		case <-ctx.Done():
			return
		}
		if !c.await(ctx, func() bool { return c.cost == 0 || c.cost+j.cost <= windowBytes }) {
			c.next = &j
			return
		}
		j = c.add(j)
	}
}

// await waits until cond, which is called under mu, holds; false: there is no process for it.
func (c *child) await(ctx context.Context, cond func() bool) bool {
	for {
		c.mu.Lock()
		ok := cond()
		c.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-c.room:
		case <-c.ended:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// add takes a job into the window and gives it its id.
func (c *child) add(j job) job {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	j.id = c.count
	c.sent = append(c.sent, j)
	c.cost += j.cost
	return j
}

// remove takes the answered job i off the window; under mu.
func (c *child) remove(i int) {
	c.cost -= c.sent[i].cost
	c.sent[i].done.Done()
	c.sent = slices.Delete(c.sent, i, i+1)
	raise(c.room)
}

// hear keeps a line of stderr for the record that the process has had longest.
func (c *child) hear(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sent) > 0 {
		c.said.add(line)
		c.hears.Store(true)
	}
}

// heard is what was kept, as the oldest record is answered.
func (c *child) heard() errLines {
	if !c.hears.Load() {
		return errLines{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hears.Store(false)
	said := c.said
	c.said = errLines{}
	return said
}

// wait gives the process so long, anew; under mu.
func (c *child) wait(limit time.Duration) {
	if !c.closing {
		c.set(limit)
	}
}

// set has the timer be up in so long; under mu.
func (c *child) set(limit time.Duration) {
	c.limit, c.due = limit, time.Now().Add(limit)
	c.timer.Reset(limit)
}

// stoodStill is how late a timer is up, at least, where this process or its machine was stopped: the
// program may have been as well, and its time begins again.
const stoodStill = time.Second

// never is a time that no process lives to see.
const never = time.Duration(1<<63 - 1)

func raise(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default: // it is up
	}
}

// close gives the process time to end by itself.
func (c *child) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		c.closing = true
		c.set(c.s.grace)
	}
}

// late ends the process, for which the timer is up, unless it was not for the process to speak.
func (c *child) late() {
	c.mu.Lock()
	var err error
	switch {
	case time.Since(c.due) >= stoodStill:
		c.set(c.limit)
	case c.closing:
		err = fmt.Errorf("%s: closed its output, and was killed as it did not end", c.s.name)
	case c.emitting:
		c.set(c.s.deadline)
	default:
		err = c.d.late()
	}
	c.mu.Unlock()
	if err != nil {
		c.kill(err)
	}
}

// verdict says why the process ended.
func (c *child) verdict(ctx, life context.Context, ps *os.ProcessState) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("run %s: %w", c.s.name, context.Cause(ctx))
	case life.Err() != nil:
		return context.Cause(life)
	case ps.ExitCode() != 0:
		return c.s.exitError(ps, c.errs)
	}
	if err := c.d.ended(); err != nil {
		return err
	}
	return fmt.Errorf("%s: exit 0", c.s.name)
}

// abandon nacks what was not answered.
func (c *child) abandon(err error) {
	c.mu.Lock()
	left := c.sent
	c.sent = nil
	c.mu.Unlock()
	for _, j := range left {
		j.nack(err)
	}
}
