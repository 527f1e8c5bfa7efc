package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"weir/stream"
)

// FileConfig says which file a sink writes, and how. Path is needed.
type FileConfig struct {
	Path   string
	Append bool         // a fresh run writes behind what is there, as `>>` does
	Disk   Disk         // nil = the system's
	Log    *slog.Logger // nil = discard
}

// OpenFile opens the file at cfg.Path, or makes it, and locks it until Close: a second OpenFile, on
// this machine, is refused. What the file holds stays until a run begins (see Begin), and with
// Append it stays then too. A name that ends in .gz or .zst has its text packed.
//
// A Write that returned nil survives a power cut. One that failed is taken back; it may be tried
// again.
//
// A path that is no regular file (a pipe, a terminal, /dev/null) is written to as Writer does:
// nothing of it is emptied, locked, packed or made durable, and it has no Begin. Opening a named
// pipe waits for its reader.
func OpenFile(cfg FileConfig) (stream.Sink, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Disk == nil {
		cfg.Disk = systemDisk{}
		if info, err := os.Stat(cfg.Path); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
			f, err := os.OpenFile(cfg.Path, os.O_WRONLY|syscall.O_NOCTTY, 0)
			if err != nil {
				return nil, newDiskError(cfg.Path, err)
			}
			return &writer{w: f, name: cfg.Path, closer: f}, nil
		}
	}
	s := &file{cfg: cfg, packing: packingOf(cfg.Path)}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

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
	cfg     FileConfig
	packing *packing // nil: text as it is

	f      File  // locked; nil when closed
	begun  bool  // size is known
	size   int64 // bytes, all durable
	buf    []byte
	packed []byte
}

// open opens and locks the file.
func (s *file) open() error {
	f, err := s.cfg.Disk.Open(s.cfg.Path)
	if err != nil {
		return newDiskError(s.cfg.Path, err)
	}
	if err := f.Lock(); err != nil {
		_ = f.Close() // nothing was written
		return err
	}
	s.f = f
	return nil
}

// Path is the file's: whoever begins a run remembers by it that it did.
func (s *file) Path() string { return s.cfg.Path }

// Begin readies the file for a run of its pipeline: a fresh one replaces what is there, as `>`
// does; one that goes on, after a restart of its node, writes behind it. A last line, or part of a
// packed file, that is not all there is cut off then: its Write was not acked and comes again.
// Begin opens the file again where it was closed, or is no more the one of that name. Write does as
// Begin of a fresh run where nobody called it.
func (s *file) Begin(ctx context.Context, fresh bool) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.f != nil && !s.f.Named() { // moved away since, as logrotate does
		if err := s.Close(); err != nil {
			return err
		}
	}
	if s.f == nil {
		if err := s.open(); err != nil {
			return err
		}
	}
	var size int64
	if s.cfg.Append || !fresh {
		var err error
		if size, err = s.end(ctx, fresh); err != nil {
			return err
		}
	}
	err := s.f.Truncate(size)
	if err == nil {
		err = s.cfg.Disk.SyncDir(filepath.Dir(s.cfg.Path))
	}
	if err == nil && s.packing != nil && size == 0 { // no bytes at all would not be a packed file
		s.packed = s.packing.pack(s.packed[:0], nil)
		var n int
		n, err = s.f.WriteAt(s.packed, 0)
		size = int64(n)
	}
	if err != nil {
		return newDiskError(s.cfg.Path, err)
	}
	s.size, s.begun = size, true
	return nil
}

// end is where a run goes on to write.
func (s *file) end(ctx context.Context, fresh bool) (int64, error) {
	length, err := s.f.Size()
	if err != nil {
		return 0, newDiskError(s.cfg.Path, err)
	}
	if s.packing != nil {
		size, err := s.packing.whole(ctx, s.f, length)
		if damaged, ok := errors.AsType[*DamagedError](err); ok {
			damaged.Path = s.cfg.Path
			return 0, damaged
		}
		return size, err
	}
	size, err := wholeLines(s.f, length)
	if err == nil && fresh && length > size {
		// The last line is of another program, which wrote no end.
		_, err = s.f.WriteAt([]byte{'\n'}, length)
		err = errors.Join(err, s.f.Sync()) // a run that goes on after a power cut would take it for its own
		size = length + 1
	}
	if err != nil {
		return 0, newDiskError(s.cfg.Path, err)
	}
	return size, nil
}

// wholeLines is how many of the length bytes of f are lines with their ends.
func wholeLines(f io.ReaderAt, length int64) (int64, error) {
	buf := make([]byte, tailBytes)
	for end := length; end > 0; {
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
		disk := newDiskError(s.cfg.Path, err)
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
