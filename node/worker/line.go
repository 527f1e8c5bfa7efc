package worker

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"weir/node/spec"
	"weir/stream"
)

const (
	// probeTime is how long the first answer may take once the first line was read: sed -u needs
	// milliseconds, and a person who forgot the -u should not wait (STACK 9.1).
	probeTime = 2 * time.Second
	// settleTime is how long we look for more after the first answer of a role, before it is
	// believed: a second line, or a prompt, follows at once.
	settleTime = 200 * time.Millisecond
)

// line is a program that reads lines without end and answers each, in order, with one line.
type line struct {
	*resident
	probe time.Duration
	fix   string // how the program is kept from holding answers back; "" = not known
}

func newLine(p *program, cfg Config) *line {
	l := &line{resident: newResident(p), probe: probeTime, fix: spec.Unbuffered(cfg.Exec, cfg.Sh)}
	if cfg.Deadline > 0 {
		l.probe = cfg.Deadline
	}
	l.speak = func(c *child) dialect { return &lineChild{child: c, l: l} }
	return l
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

// lineChild is the dialect of one process of a line program. Its last three fields are the child's mu's
// to guard.
type lineChild struct {
	*child
	l   *line
	in  []byte // of put: the lines of a job
	out []byte // of read: the answer to the oldest record, as far as it is there

	asked    int  // lines
	answered int  // lines
	unread   bool // the last time that the timer was up, so were bytes of the first line
}

// put writes the lines of a job. As long as no process of the role has answered a line, the first
// goes alone: the program must answer it while its input stays open, and once.
func (d *lineChild) put(ctx context.Context, w io.Writer, j job) bool {
	text := d.in[:0]
	for i := range j.records[j.next:j.to] {
		text = append(append(text, j.records[j.next+i].Body...), '\n')
	}
	if d.in = text; cap(text) > outputKeepMax {
		d.in = nil
	}
	if !d.l.proven.Load() {
		first := text[:bytes.IndexByte(text, '\n')+1]
		text = text[len(first):]
		d.ask(1)
		if _, err := w.Write(first); err != nil {
			return false // the process's end says more
		}
		if !d.await(ctx, func() bool { return d.answered > 0 }) {
			return false
		}
	}
	d.ask(bytes.Count(text, newline))
	_, err := w.Write(text)
	return err == nil
}

// ask notes that lines are about to be written.
func (d *lineChild) ask(lines int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked == d.answered && lines > 0 {
		d.wait(d.l.patience())
	}
	d.asked += lines
}

func (d *lineChild) read(ctx context.Context, r io.Reader) {
	br := bufio.NewReaderSize(r, outputMin)
	for {
		d.out = d.out[:0]
		if !d.line(br, r) {
			return
		}
		d.mu.Lock()
		j := &d.sent[0]
		batch, at, rec := j.batch, j.next, j.record()
		more := bytes.Count(rec.Body, newline)
		d.emitting = more == 0
		d.mu.Unlock()
		for range more {
			if !d.line(br, r) {
				return
			}
		}
		if more > 0 {
			d.mu.Lock()
			d.emitting = true
			d.mu.Unlock()
		}
		em := batch.To(at)
		if err := em.Emit(ctx, stream.Out{Body: d.out[:len(d.out)-1], Key: rec.Key, Header: rec.Header}); err != nil {
			batch.Nack(at, err)
		} else if said := d.heard(); len(said.outs) > 0 {
			if err := said.emit(ctx, rec, em); err != nil {
				batch.Nack(at, err)
			}
		}
		d.finish()
		if cap(d.out) > outputKeepMax {
			d.out = nil
		}
	}
}

// line reads one answer behind out; r is what br reads from.
func (d *lineChild) line(br *bufio.Reader, r io.Reader) bool {
	if _, err := br.Peek(1); err != nil {
		return false
	}
	d.mu.Lock()
	due := d.answered < d.asked
	d.mu.Unlock()
	for due {
		part, err := br.ReadSlice('\n')
		d.out = append(d.out, part...)
		switch {
		case len(d.out) > d.l.outputMax:
			d.kill(d.l.tooMuch())
			return false
		case err == nil:
			if d.progress(br.Buffered() > 0 || !d.l.proven.Load() && d.goesOn(br, r)) {
				return true
			}
			due = false
		case err != bufio.ErrBufferFull:
			return false
		}
	}
	d.kill(&stream.ConfigError{Err: fmt.Errorf("%s printed a line that nobody asked for: in mode: line it must answer each line with one; mode: each lets it print any number", d.l.name)})
	return false
}

// goesOn reports whether r, a pipe, brings more within settleTime after the first answer.
func (d *lineChild) goesOn(br *bufio.Reader, r io.Reader) bool {
	d.mu.Lock()
	d.wait(never) // it did answer in time
	d.mu.Unlock()
	pipe, ok := r.(interface{ SetReadDeadline(time.Time) error })
	if !ok || pipe.SetReadDeadline(time.Now().Add(settleTime)) != nil {
		return false
	}
	_, err := br.Peek(1)
	_ = pipe.SetReadDeadline(time.Time{})
	return err == nil
}

// progress notes an answer; false: there is more, and no line it could answer.
func (d *lineChild) progress(more bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answered++
	switch {
	case d.answered < d.asked:
		d.wait(d.l.deadline)
	case more:
		return false
	default:
		d.wait(never)
	}
	d.l.proven.Store(true)
	raise(d.room)
	return true
}

// finish takes the oldest record off the window.
func (d *lineChild) finish() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emitting = false
	if j := &d.sent[0]; j.next+1 < j.to {
		j.next++
	} else {
		d.remove(0)
	}
}

// late ends the process unless it has not read its first line yet: it may still be starting.
func (d *lineChild) late() error {
	waiting := d.asked - d.answered
	unread := !d.l.proven.Load() && unreadBytes(d.stdin) > 0
	left := d.l.deadline - time.Since(d.began)
	switch {
	case waiting == 0: // answered at the last moment
		return nil
	case unread && left > 0, d.unread && !unread: // or it may have read just now
		d.unread = unread
		d.set(d.l.probe)
		return nil
	case unread:
		return &stream.ConfigError{Err: fmt.Errorf("%s has not read a line for %v: raise deadline if it is slow to start", d.l.name, d.l.deadline)}
	case !d.l.proven.Load():
		return &stream.ConfigError{Err: d.l.noAnswer()}
	}
	return fmt.Errorf("%s: gave no answer for %v, with %d of its lines unanswered, and was killed: in mode: line it must answer each; raise deadline if it is slow", d.l.name, d.l.deadline, waiting)
}

func (d *lineChild) ended() error {
	waiting := d.asked - d.answered
	switch {
	case len(d.out) > 0 && !bytes.HasSuffix(d.out, newline):
		return fmt.Errorf("%s: ended in the middle of an answer", d.l.name)
	case waiting > 0:
		return fmt.Errorf("%s: ended with %d of its lines unanswered: in mode: line it must read until its input ends", d.l.name, waiting)
	}
	return nil
}
