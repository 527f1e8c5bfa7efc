package worker

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipeBytes is what we ask a program's pipes to hold, in bytes: enough for the largest block
// a tap cuts, so that neither side waits for the other (measured: `cat` of 512 KiB takes
// 0.87 ms, with the 64 KiB of pipe(7) 0.98). It is the most that a user without privileges
// gets (/proc/sys/fs/pipe-max-size).
const pipeBytes = 1 << 20

// growPipe makes f's pipe hold pipeBytes. A refusal (pipe-user-pages-soft is spent) leaves the
// pipe as it was: slower, not wrong.
func growPipe(f any) {
	sc, ok := f.(syscall.Conn)
	if !ok {
		return
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = rc.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
}

// unreadBytes is how many bytes f's pipe holds; 0 where nobody knows.
func unreadBytes(f any) (n int) {
	if sc, ok := f.(syscall.Conn); ok {
		if rc, err := sc.SyscallConn(); err == nil {
			_ = rc.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }) // FIONREAD
		}
	}
	return n
}

var newline = []byte{'\n'}

// input is a body and a newline for os/exec to copy to a program. A program that does not
// read all of it breaks the pipe, which os/exec takes as no error.
type input struct {
	body []byte

	n    atomic.Int64 // bytes written
	pipe atomic.Value // of io.Writer: the pipe, once there is one
}

// pieceBytes is how much of a body is written at once, in bytes: each piece that the pipe took is a
// sign of progress, and most blocks are one or two.
const pieceBytes = 256 << 10

// WriteTo is what os/exec uses: the body is written without a copy.
func (in *input) WriteTo(w io.Writer) (int64, error) {
	growPipe(w)
	in.pipe.Store(w)
	for piece := range slices.Chunk(in.body, pieceBytes) {
		n, err := w.Write(piece)
		if in.n.Add(int64(n)); err != nil {
			return in.n.Load(), err
		}
	}
	n, err := w.Write(newline)
	return in.n.Add(int64(n)), err
}

// read is how many bytes the program has read, as far as one can see: once the input has ended, all
// that was written.
func (in *input) read() int64 { return in.n.Load() - int64(unreadBytes(in.pipe.Load())) }

// Read makes input an io.Reader, as os/exec asks for one.
func (in *input) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// writing and reading are what os/exec calls with a program's standard input and output, in a
// goroutine each; Wait waits for them.
type (
	writing func(w io.Writer)
	reading func(r io.Reader)
)

// WriteTo is what os/exec uses.
func (f writing) WriteTo(w io.Writer) (int64, error) { f(w); return 0, nil }

// Read makes writing an io.Reader, as os/exec asks for one.
func (f writing) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// ReadFrom is what os/exec uses.
func (f reading) ReadFrom(r io.Reader) (int64, error) { f(r); return 0, nil }

// Write makes reading an io.Writer, as os/exec asks for one.
func (f reading) Write([]byte) (int, error) { return 0, errors.ErrUnsupported }

// output is what a program prints, read into one buffer that serves one process after another.
type output struct {
	buf  []byte
	max  int    // bytes it may hold
	over func() // ends the program, as it prints more
	full bool   // it did print more
	cut  error  // the pipe was closed on us before its end

	n atomic.Int64 // bytes read, of this process
}

// begin readies the buffer for a process.
func (o *output) begin(limit int, over func()) {
	o.buf, o.max, o.over, o.full, o.cut = o.buf[:0], limit, over, false, nil
	o.n.Store(0)
}

// reset forgets the process; false: the buffer is not worth keeping.
func (o *output) reset() bool {
	o.begin(0, nil)
	return cap(o.buf) <= outputKeepMax
}

// The sizes of an output's buffer, in bytes: what it starts with, an ordinary pipe's content, and
// the largest that is kept for the next process: a default record's, doubled by growing.
const (
	outputMin     = 64 << 10
	outputKeepMax = 2 << 20
)

// ReadFrom is what os/exec uses: it reads until the program, and all it left behind, has
// closed its standard output.
func (o *output) ReadFrom(r io.Reader) (int64, error) {
	growPipe(r)
	start := len(o.buf)
	for {
		if len(o.buf) > o.max {
			o.full = true
			o.over()
			return int64(len(o.buf) - start), errOutputMax
		}
		if len(o.buf) == cap(o.buf) {
			grown := make([]byte, len(o.buf), min(max(2*cap(o.buf), outputMin), o.max+1))
			copy(grown, o.buf)
			o.buf = grown
		}
		// One byte above max is enough to know.
		n, err := r.Read(o.buf[len(o.buf):min(cap(o.buf), o.max+1)])
		o.buf = o.buf[:len(o.buf)+n]
		o.n.Add(int64(n))
		if err == io.EOF {
			return int64(len(o.buf) - start), nil
		}
		if err != nil {
			o.cut = err
			return int64(len(o.buf) - start), err
		}
	}
}

// Write makes output an io.Writer, as os/exec asks for one.
func (o *output) Write(p []byte) (int, error) {
	n, err := o.ReadFrom(bytes.NewReader(p))
	return int(n), err
}

// errOutputMax ends the copying of an output that is too large.
var errOutputMax = errors.New("output above the limit")
