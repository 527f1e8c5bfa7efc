package sink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"weir/stream"
)

// OpenFile makes the file at path empty, or makes it, and returns a sink that writes to it, as
// `>` does. The file is locked until Close: a second OpenFile, on this machine, is refused.
//
// A Write that returned nil survives a power cut. One that failed is taken back; it may be tried
// again.
//
// A path that is no regular file (a pipe, a terminal, /dev/null) is written to as Writer does:
// nothing of it is emptied, locked or made durable. Opening a named pipe waits for its reader.
func OpenFile(path string) (stream.Sink, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NOCTTY, 0o666)
	if err != nil {
		return nil, newDiskError(path, err)
	}
	s, err := newFile(f)
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, err
	}
	return s, nil
}

func newFile(f *os.File) (stream.Sink, error) {
	path := f.Name()
	info, err := f.Stat()
	if err != nil {
		return nil, newDiskError(path, err)
	}
	if !info.Mode().IsRegular() {
		return &writer{w: f, name: path, closer: f}, nil
	}
	if err := lock(f); err != nil {
		return nil, err
	}
	// Emptied only now: until it is locked it may be another run's.
	if err := f.Truncate(0); err != nil {
		return nil, newDiskError(path, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, newDiskError(path, err)
	}
	return &file{f: f}, nil
}

// lock takes the file for this run.
func lock(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("lock the output: %w", err)
	}
	var lockErr error
	if err := conn.Control(func(fd uintptr) { lockErr = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB) }); err != nil {
		return fmt.Errorf("lock the output: %w", err)
	}
	switch {
	case errors.Is(lockErr, syscall.EWOULDBLOCK):
		return &LockedError{Path: f.Name()}
	case lockErr != nil:
		return fmt.Errorf("lock %s: %w", f.Name(), lockErr)
	}
	return nil
}

// syncDir makes the name of a new file survive a power cut (fsync(2): the file's own does not).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()                                                     // it was only read
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: a file system that cannot
		return err
	}
	return nil
}

// LockedError says that another run has the output.
type LockedError struct{ Path string }

func (e *LockedError) Error() string { return e.Path + " is locked by another run" }

// ExitCode is EX_TEMPFAIL of sysexits.h: later it is free.
func (e *LockedError) ExitCode() int { return 75 }

// DiskError says that the output was not taken: its disk is full or read-only, or it has no
// place there.
type DiskError struct {
	Path string // or the name of a Writer
	Err  error
}

// newDiskError makes a DiskError of what the system said, which names the path as well.
func newDiskError(path string, err error) *DiskError {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return &DiskError{Path: path, Err: err}
}

func (e *DiskError) Error() string { return fmt.Sprintf("write %s: %v", e.Path, e.Err) }
func (e *DiskError) Unwrap() error { return e.Err }

// ExitCode is EX_IOERR of sysexits.h.
func (e *DiskError) ExitCode() int { return 74 }

// file is the sink of a regular file.
type file struct {
	unseen
	f    *os.File
	size int64 // bytes, all durable
	buf  []byte
}

// Write writes the records behind what is durable and waits for the disk.
func (s *file) Write(ctx context.Context, rs []stream.Record, _ []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	end := s.size
	var err error
	s.buf, err = gather(s.buf, rs, func(p []byte) error {
		n, err := s.f.WriteAt(p, end)
		end += int64(n)
		return err
	})
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		// None of it is acked, so none of it may stay if nothing follows.
		disk := newDiskError(s.f.Name(), err)
		if undo := s.f.Truncate(s.size); undo != nil {
			disk.Err = fmt.Errorf("%w; what was written of it stays: %w", disk.Err, undo)
		}
		return disk
	}
	s.size = end
	return nil
}

// Close releases the file. All of it is on the disk already.
func (s *file) Close() error {
	if err := s.f.Close(); err != nil {
		return fmt.Errorf("close the output: %w", err)
	}
	return nil
}
