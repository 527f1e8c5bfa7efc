package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"weir/stream"
)

// ReaderGone says that whoever read the output has stopped, as `head` does: the run is over, and
// no fault (exit 141). Go ends a process that writes to a closed standard output by SIGPIPE;
// it gets this error only where that signal is handled (os/signal.Notify; not Ignore, which
// programs started later inherit).
type ReaderGone struct{ Name string }

func (e *ReaderGone) Error() string { return "nobody reads " + e.Name + " any more" }

// ExitCode is what a shell shows of a program that SIGPIPE ended: 128 and the signal's 13.
func (e *ReaderGone) ExitCode() int { return 141 }

// Writer is a sink that writes to w, called name in errors. Nothing of it is durable: nil from
// Write says that w has taken the records. A Write that w does not take blocks, whatever its
// context. Close leaves w open. A write that fails is a *DiskError; it wraps a
// *stream.ConfigError, so that the run stops at once, since nothing can follow it.
func Writer(w io.Writer, name string) stream.Sink { return &writer{w: w, name: name} }

// writer is the sink of anything that is no regular file.
type writer struct {
	unseen
	w      io.Writer
	name   string
	closer io.Closer // w, where it is ours to close; or nil
	buf    []byte
	broken error // of the first write that failed: what was taken of it nobody knows
}

func (s *writer) Write(ctx context.Context, rs []stream.Record, _ stream.Seen) error {
	if s.broken != nil {
		return s.broken
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var err error
	s.buf, err = gather(s.buf, rs, func(p []byte) error {
		_, err := s.w.Write(p)
		return err
	})
	switch {
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		s.broken = &ReaderGone{Name: s.name}
	case err != nil:
		disk := newDiskError(s.name, err)
		disk.Err = &stream.ConfigError{Err: disk.Err} // inside: the exit code stays the disk's
		s.broken = disk
	}
	return s.broken
}

func (s *writer) Close() error {
	if s.closer == nil {
		return nil
	}
	if err := s.closer.Close(); err != nil {
		return fmt.Errorf("close %s: %w", s.name, err)
	}
	return nil
}
