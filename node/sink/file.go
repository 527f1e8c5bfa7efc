package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"weir/stream"
)

// OpenFile opens the file at path, or makes it, and locks it until Close: a second OpenFile, on
// this machine, is refused. What the file holds stays until a run begins (see Begin), and with
// keep it stays then too, as with `>>`. A name that ends in .gz or .zst has its text packed.
//
// A Write that returned nil survives a power cut. One that failed is taken back; it may be tried
// again.
//
// A path that is no regular file (a pipe, a terminal, /dev/null) is written to as Writer does:
// nothing of it is emptied, locked, packed or made durable, and it has no Begin. Opening a named
// pipe waits for its reader.
func OpenFile(path string, keep bool) (stream.Sink, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, newDiskError(path, err)
	}
	if !info.Mode().IsRegular() {
		return &writer{w: f, name: path, closer: f}, nil
	}
	s := &file{path: path, keep: keep, packing: packingOf(path)}
	if err := s.take(f); err != nil {
		return nil, err
	}
	return s, nil
}

func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NOCTTY, 0o666)
	if err != nil {
		return nil, newDiskError(path, err)
	}
	return f, nil
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
	path    string
	keep    bool     // a fresh run writes behind what is there
	packing *packing // nil: text as it is

	f      *os.File // locked; nil when closed
	begun  bool     // size is known
	size   int64    // bytes, all durable
	buf    []byte
	packed []byte
}

// take locks f and keeps it, or closes it.
func (s *file) take(f *os.File) error {
	if err := lock(f); err != nil {
		_ = f.Close() // nothing was written
		return err
	}
	s.f = f
	return nil
}

// Path is the file's: whoever begins a run remembers by it that it did.
func (s *file) Path() string { return s.path }

// Begin readies the file for a run of its pipeline: a fresh one replaces what is there, as `>`
// does; one that goes on, after a restart of its node, writes behind it. A last line, or part of a
// packed file, that is not all there is cut off then: its Write was not acked and comes again.
// Begin opens the file again where it was closed, or is no more the one of that name. Write does as
// Begin of a fresh run where nobody called it.
func (s *file) Begin(ctx context.Context, fresh bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.f != nil && !s.named() { // moved away since, as logrotate does
		if err := s.Close(); err != nil {
			return err
		}
	}
	if s.f == nil {
		f, err := open(s.path)
		if err != nil {
			return err
		}
		if err := s.take(f); err != nil {
			return err
		}
	}
	var size int64
	if s.keep || !fresh {
		var err error
		if size, err = s.end(ctx, fresh); err != nil {
			return err
		}
	}
	err := s.f.Truncate(size)
	if err == nil {
		err = syncDir(filepath.Dir(s.path))
	}
	if err == nil && s.packing != nil && size == 0 { // no bytes at all would not be a packed file
		s.packed = s.packing.pack(s.packed[:0], nil)
		var n int
		n, err = s.f.WriteAt(s.packed, 0)
		size = int64(n)
	}
	if err != nil {
		return newDiskError(s.path, err)
	}
	s.size, s.begun = size, true
	return nil
}

// named reports whether the file that is open has the path still.
func (s *file) named() bool {
	ours, err := s.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(s.path)
	return err == nil && os.SameFile(ours, there)
}

// end is where a run goes on to write.
func (s *file) end(ctx context.Context, fresh bool) (int64, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return 0, newDiskError(s.path, err)
	}
	defer f.Close() // it was only read
	if s.packing != nil {
		size, err := s.packing.whole(ctx, f)
		if damaged, ok := errors.AsType[*DamagedError](err); ok {
			damaged.Path = s.path
			return 0, damaged
		}
		return size, err
	}
	size, err := wholeLines(f)
	if err == nil && fresh {
		// The last line may be of another program, which wrote no end.
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil && info.Size() > size {
			_, err = s.f.WriteAt([]byte{'\n'}, info.Size())
			err = errors.Join(err, s.f.Sync()) // a run that goes on after a power cut would take it for its own
			size = info.Size() + 1
		}
	}
	if err != nil {
		return 0, newDiskError(s.path, err)
	}
	return size, nil
}

// wholeLines is how many bytes of f are lines with their ends.
func wholeLines(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, tailBytes)
	for end := info.Size(); end > 0; {
		from := max(0, end-tailBytes)
		part := buf[:end-from]
		if _, err := f.ReadAt(part, from); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return from + int64(i) + 1, nil
		}
		end = from
	}
	return 0, nil
}

// tailBytes is how much of a file is read at once to find its last line end: a write(2) of ours
// that was cut short has seldom more without one.
const tailBytes = 64 << 10

// Write writes the records behind what is durable and waits for the disk.
func (s *file) Write(ctx context.Context, rs []stream.Record, _ stream.Seen) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !s.begun {
		if err := s.Begin(ctx, true); err != nil {
			return err
		}
	}
	end := s.size
	var err error
	s.buf, err = gather(s.buf, rs, func(p []byte) error {
		if s.packing != nil {
			s.packed = s.packing.pack(s.packed[:0], p)
			p = s.packed
		}
		n, err := s.f.WriteAt(p, end)
		end += int64(n)
		return err
	})
	if cap(s.packed) > bufferKeepMax {
		s.packed = nil
	}
	if err == nil {
		err = s.f.Sync()
	}
	if err != nil {
		// None of it is acked, so none of it may stay if nothing follows.
		disk := newDiskError(s.path, err)
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
	f := s.f
	s.f, s.begun = nil, false
	if f == nil {
		return nil
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close the output: %w", err)
	}
	return nil
}
