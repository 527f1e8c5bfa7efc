package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"weir/stream"
)

// Limits of what a program writes to stderr.
const (
	// tailKeep is how much of its last is kept while a process runs, in bytes (STACK 9.6).
	tailKeep = 64 << 10
	// tailShown is how much of that an error carries, in bytes: a stack trace, not a log.
	tailShown = 4 << 10
	// stderrLineMax is where a line is cut for the log, in bytes.
	stderrLineMax = 4 << 10
	// stderrRate is how much of a role is logged, in bytes a second; the rest is counted.
	stderrRate = 64 << 10
)

// tail reads what one process after another writes to stderr: each line goes to the log, the
// last of all stays for the error.
type tail struct {
	buf  []byte // the last bytes read, at most tailKeep
	line int    // where in buf the unfinished line begins
	log  *limiter
	hear func(line []byte) // is lent each line

	n atomic.Int64 // bytes read, of this process
}

// begin readies the tail for a process.
func (t *tail) begin(log *limiter, hear func(line []byte)) {
	t.buf, t.line, t.log, t.hear = t.buf[:0], 0, log, hear
	t.n.Store(0)
}

// end tells of the last line where it has no newline.
func (t *tail) end() {
	if t.line < len(t.buf) {
		t.tell(t.buf[t.line:])
	}
	t.line = len(t.buf)
}

// last is the end of what was written, at most tailShown.
func (t *tail) last() string {
	b := bytes.TrimSpace(t.buf)
	return string(bytes.ToValidUTF8(b[max(0, len(b)-tailShown):], []byte("?")))
}

// ReadFrom is what os/exec uses: it reads until stderr is closed.
func (t *tail) ReadFrom(r io.Reader) (n int64, err error) {
	if t.buf == nil {
		t.buf = make([]byte, 0, tailKeep)
	}
	for {
		if len(t.buf) == cap(t.buf) {
			t.slide()
		}
		m, err := r.Read(t.buf[len(t.buf):cap(t.buf)])
		t.buf = t.buf[:len(t.buf)+m]
		n += int64(m)
		t.n.Add(int64(m))
		t.print()
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// Write makes tail an io.Writer, as os/exec asks for one.
func (t *tail) Write(p []byte) (int, error) {
	n, err := t.ReadFrom(bytes.NewReader(p))
	return int(n), err
}

// slide makes room by forgetting the older half.
func (t *tail) slide() {
	half := len(t.buf) / 2
	t.buf = t.buf[:copy(t.buf, t.buf[half:])]
	t.line = max(0, t.line-half)
}

// tell logs a line and hands it on.
func (t *tail) tell(line []byte) {
	t.log.print(line)
	t.hear(line)
}

// print tells of the lines that are complete, or too long to wait for.
func (t *tail) print() {
	for t.line < len(t.buf) {
		rest := t.buf[t.line:]
		i := bytes.IndexByte(rest, '\n')
		switch {
		case i >= 0 && i <= stderrLineMax:
			t.tell(rest[:i])
			t.line += i + 1
		case len(rest) > stderrLineMax:
			t.tell(rest[:stderrLineMax])
			t.line += stderrLineMax
		default:
			return
		}
	}
}

// Limits of what goes out on port err for one record; what is more is only logged.
const (
	errLinesMax = 256
	errBytesMax = 64 << 10
)

// errLines are lines of stderr on their way to port err.
type errLines struct {
	outs  []stream.Out
	bytes int
}

// add copies a line.
func (e *errLines) add(line []byte) {
	if len(e.outs) < errLinesMax && e.bytes+len(line) <= errBytesMax {
		e.outs = append(e.outs, stream.Out{Body: bytes.Clone(bytes.TrimRight(line, "\r")), Port: stream.PortErr})
		e.bytes += len(line)
	}
}

// emit hands the lines on, with key and header of the record they belong to; where no edge starts at
// the port they are dropped.
func (e *errLines) emit(ctx context.Context, r *stream.Record, em stream.Emitter) error {
	if len(e.outs) == 0 {
		return nil
	}
	for i := range e.outs {
		e.outs[i].Key, e.outs[i].Header = r.Key, r.Header
	}
	err := em.EmitBatch(ctx, e.outs)
	if errors.Is(err, stream.ErrNoEdge) {
		return nil
	}
	return err
}

// limiter logs the stderr of a role's processes, so much a second, and says what it left out.
type limiter struct {
	log    *slog.Logger
	stdout bool // it is their standard output, and no warning

	mu      sync.Mutex
	second  time.Time // when the present second began
	logged  int       // bytes, in this second
	dropped int       // bytes, since it was last said
}

// print logs line, or counts it.
func (l *limiter) print(line []byte) {
	allowed, dropped := l.take(len(line), time.Now())
	name, log := "stderr", l.log.Warn
	if l.stdout {
		name, log = "stdout", l.log.Info
	}
	if dropped > 0 {
		l.log.Warn(name+" was too much for the log", "dropped_bytes", dropped)
	}
	if allowed && len(line) > 0 {
		log(name, "line", string(bytes.TrimRight(line, "\r")))
	}
}

// take asks for n bytes at now; dropped is what was left out before and is to be said now.
// The first bytes left out are said at once, so that a log never ends without a word of it.
func (l *limiter) take(n int, now time.Time) (allowed bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.second) >= time.Second {
		l.second, l.logged = now, 0
		dropped, l.dropped = l.dropped, 0
	}
	if l.logged > stderrRate {
		l.dropped += n
		return false, dropped
	}
	if l.logged += n; l.logged > stderrRate {
		return false, dropped + n
	}
	return true, dropped
}
