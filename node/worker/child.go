package worker

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"weir/stream"
)

// child is one process of a line program. Two goroutines of os/exec work for it: one takes jobs
// and writes their lines (write), the other reads the answers and emits them (read). Were they
// one, the two pipes would fill, and the program and we wait for each other.
type child struct {
	l     *line
	began time.Time
	kill  context.CancelCauseFunc
	errs  *tail
	last  bool          // if it ends before the role's first answer, no other is started
	room  chan struct{} // length 1, a flag: something was answered
	ended chan struct{} // closed when read returns
	in    []byte        // of write: the lines of a job
	out   []byte        // of read: the answer to the oldest record, as far as it is there
	next  *job          // of write, then run's caller's: taken, and nothing of it written

	mu       sync.Mutex
	stdin    io.Writer // nil until the process has started
	sent     []job     // oldest first; of each, some record is not answered
	cost     int       // of sent
	asked    int       // lines
	answered int       // lines
	timer    *time.Timer
	unread   bool // the last time that the timer was up, so were bytes of the first line
	closing  bool // the timer is for the process to end, not for an answer
}

func newChild(l *line) *child {
	return &child{l: l, began: time.Now(), errs: new(tail), room: make(chan struct{}, 1), ended: make(chan struct{})}
}

// run starts the process with its first job and returns why it ended, with no job left but next.
func (c *child) run(ctx context.Context, first job) error {
	life, kill := context.WithCancelCause(context.WithoutCancel(ctx))
	defer kill(nil)
	c.kill = kill
	c.timer = time.AfterFunc(never, c.late)
	defer c.timer.Stop()
	c.add(first)

	cmd := c.l.command(life)
	cmd.Stdin = writing(func(w io.Writer) { c.write(ctx, w, first) })
	cmd.Stdout = reading(func(r io.Reader) { c.read(ctx, r) })
	cmd.Stderr = c.errs
	c.errs.begin(c.l.stderr, func([]byte) {})
	if err := c.l.start(cmd); err != nil {
		c.abandon(err)
		return err
	}
	stop := context.AfterFunc(ctx, c.close)
	_ = c.l.wait(life, cmd) // the verdict has better words
	stop()
	c.errs.end()
	err := c.verdict(ctx, life, cmd.ProcessState)
	if c.last && ctx.Err() == nil && !c.l.proven.Load() {
		err = &stream.ConfigError{Err: fmt.Errorf("%w; it was started again and again and never answered a line: try it by hand", err)}
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
	for c.put(ctx, w, j) && c.await(ctx, func() bool { return c.cost < windowBytes }) {
		select {
		case j = <-c.l.jobs:
		case <-c.ended:
			return
		case <-ctx.Done():
			return
		}
		if !c.await(ctx, func() bool { return c.cost == 0 || c.cost+j.cost <= windowBytes }) {
			c.next = &j
			return
		}
		c.add(j)
	}
}

// put writes the lines of a job. As long as no process of the role has answered a line, the first
// goes alone: the program must answer it while its input stays open, and once.
func (c *child) put(ctx context.Context, w io.Writer, j job) bool {
	text := c.in[:0]
	for i := range j.records[j.next:j.to] {
		text = append(append(text, j.records[j.next+i].Body...), '\n')
	}
	if c.in = text; cap(text) > outputKeepMax {
		c.in = nil
	}
	if !c.l.proven.Load() {
		first := text[:bytes.IndexByte(text, '\n')+1]
		text = text[len(first):]
		c.ask(1)
		if _, err := w.Write(first); err != nil {
			return false // the process's end says more
		}
		if !c.await(ctx, func() bool { return c.answered > 0 }) {
			return false
		}
	}
	c.ask(bytes.Count(text, newline))
	_, err := w.Write(text)
	return err == nil
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

func (c *child) add(j job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = append(c.sent, j)
	c.cost += j.cost
}

// ask notes that lines are about to be written.
func (c *child) ask(lines int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == c.answered && lines > 0 {
		c.wait(c.l.patience())
	}
	c.asked += lines
}

// wait gives the process so long, anew; under mu.
func (c *child) wait(limit time.Duration) {
	if !c.closing {
		c.timer.Reset(limit)
	}
}

// read reads answers until the program has ended its output, or does what it may not.
func (c *child) read(ctx context.Context, r io.Reader) {
	defer c.close() // it has to end now
	defer close(c.ended)
	growPipe(r)
	br := bufio.NewReaderSize(r, outputMin)
	for {
		c.out = c.out[:0]
		if !c.line(br, r) {
			return
		}
		c.mu.Lock()
		j := c.sent[0]
		c.mu.Unlock()
		rec := &j.records[j.next]
		for range bytes.Count(rec.Body, newline) {
			if !c.line(br, r) {
				return
			}
		}
		body := c.out[:len(c.out)-1]
		if err := j.batch.To(j.next).Emit(ctx, stream.Out{Body: body, Key: rec.Key, Header: rec.Header}); err != nil {
			j.batch.Nack(j.next, err)
		}
		c.finish()
		if cap(c.out) > outputKeepMax {
			c.out = nil
		}
	}
}

// line reads one answer behind out; r is what br reads from.
func (c *child) line(br *bufio.Reader, r io.Reader) bool {
	if _, err := br.Peek(1); err != nil {
		return false
	}
	c.mu.Lock()
	due := c.answered < c.asked
	c.mu.Unlock()
	for due {
		part, err := br.ReadSlice('\n')
		c.out = append(c.out, part...)
		switch {
		case len(c.out) > c.l.outputMax:
			c.kill(c.l.tooMuch())
			return false
		case err == nil:
			if c.progress(br.Buffered() > 0 || !c.l.proven.Load() && c.goesOn(br, r)) {
				return true
			}
			due = false
		case err != bufio.ErrBufferFull:
			return false
		}
	}
	c.kill(&stream.ConfigError{Err: fmt.Errorf("%s printed a line that nobody asked for: in mode: line it must answer each line with one; mode: each lets it print any number", c.l.name)})
	return false
}

// goesOn reports whether r, a pipe, brings more within settleTime after the first answer.
func (c *child) goesOn(br *bufio.Reader, r io.Reader) bool {
	c.mu.Lock()
	c.wait(never) // it did answer in time
	c.mu.Unlock()
	pipe, ok := r.(interface{ SetReadDeadline(time.Time) error })
	if !ok || pipe.SetReadDeadline(time.Now().Add(settleTime)) != nil {
		return false
	}
	_, err := br.Peek(1)
	_ = pipe.SetReadDeadline(time.Time{})
	return err == nil
}

// progress notes an answer; false: there is more, and no line it could answer.
func (c *child) progress(more bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered++
	switch {
	case c.answered < c.asked:
		c.wait(c.l.deadline)
	case more:
		return false
	default:
		c.wait(never)
	}
	c.l.proven.Store(true)
	raise(c.room)
	return true
}

// never is a time that no process lives to see.
const never = time.Duration(1<<63 - 1)

// finish takes the oldest record off the window.
func (c *child) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := &c.sent[0]
	if j.next++; j.next < j.to {
		return
	}
	c.cost -= j.cost
	j.done.Done()
	c.sent = slices.Delete(c.sent, 0, 1)
	raise(c.room)
}

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
		c.timer.Reset(c.l.grace)
	}
}

// late ends the process, for which the timer is up; one that has not read its first line yet may
// still be starting.
func (c *child) late() {
	c.mu.Lock()
	waiting := c.asked - c.answered
	unread := !c.l.proven.Load() && unreadBytes(c.stdin) > 0
	left := c.l.deadline - time.Since(c.began)
	var err error
	switch {
	case c.closing:
		err = fmt.Errorf("%s: closed its output, and was killed as it did not end", c.l.name)
	case waiting == 0: // answered at the last moment
	case unread && left > 0, c.unread && !unread: // or it may have read just now
		c.unread = unread
		c.timer.Reset(c.l.probe)
	case unread:
		err = &stream.ConfigError{Err: fmt.Errorf("%s has not read a line for %v: raise deadline if it is slow to start", c.l.name, c.l.deadline)}
	case !c.l.proven.Load():
		err = &stream.ConfigError{Err: c.l.noAnswer()}
	default:
		err = fmt.Errorf("%s: gave no answer for %v, with %d of its lines unanswered, and was killed: in mode: line it must answer each; raise deadline if it is slow", c.l.name, c.l.deadline, waiting)
	}
	c.mu.Unlock()
	if err != nil {
		c.kill(err)
	}
}

// verdict says why the process ended.
func (c *child) verdict(ctx, life context.Context, ps *os.ProcessState) error {
	waiting := c.asked - c.answered
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("run %s: %w", c.l.name, context.Cause(ctx))
	case life.Err() != nil:
		return context.Cause(life)
	case ps.ExitCode() != 0:
		return c.l.exitError(ps, c.errs)
	case len(c.out) > 0 && !bytes.HasSuffix(c.out, newline):
		return fmt.Errorf("%s: ended in the middle of an answer", c.l.name)
	case waiting > 0:
		return fmt.Errorf("%s: ended with %d of its lines unanswered: in mode: line it must read until its input ends", c.l.name, waiting)
	}
	return fmt.Errorf("%s: exit 0", c.l.name)
}

// abandon nacks what was not answered.
func (c *child) abandon(err error) {
	for _, j := range c.sent {
		j.nack(err)
	}
	c.sent = nil
}
