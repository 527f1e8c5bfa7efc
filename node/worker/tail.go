package worker

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
	"time"
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
}

// begin readies the tail for a process.
func (t *tail) begin(log *limiter) { *t = tail{buf: t.buf[:0], log: log} }

// end logs the last line where it has no newline.
func (t *tail) end() {
	if t.line < len(t.buf) {
		t.log.print(t.buf[t.line:])
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

// print logs the lines that are complete, or too long to wait for.
func (t *tail) print() {
	for t.line < len(t.buf) {
		rest := t.buf[t.line:]
		i := bytes.IndexByte(rest, '\n')
		switch {
		case i >= 0 && i <= stderrLineMax:
			t.log.print(rest[:i])
			t.line += i + 1
		case len(rest) > stderrLineMax:
			t.log.print(rest[:stderrLineMax])
			t.line += stderrLineMax
		default:
			return
		}
	}
}

// limiter logs the stderr of a role's processes, so much a second, and says what it left out.
type limiter struct {
	log *slog.Logger

	mu      sync.Mutex
	second  time.Time // when the present second began
	logged  int       // bytes, in this second
	dropped int       // bytes, since it was last said
}

// print logs line, or counts it.
func (l *limiter) print(line []byte) {
	allowed, dropped := l.take(len(line), time.Now())
	if dropped > 0 {
		l.log.Warn("stderr was too much for the log", "dropped_bytes", dropped)
	}
	if allowed && len(line) > 0 {
		l.log.Warn("stderr", "line", string(bytes.TrimRight(line, "\r")))
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
