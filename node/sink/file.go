package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
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

	boot string // of the system's disk
}

// OpenFile opens the file at cfg.Path, or makes it, and locks it until Close: a second OpenFile, on
// this machine, is refused. What the file holds stays until a run begins (see Begin), and with
// Append it stays then too. A name that ends in .gz or .zst has its text packed.
//
// A Write that returned nil survives a power cut, with what was seen: that is kept in a hidden file
// beside, .NAME.seen. One that failed is taken back; where there is no room it is a stream.Retry, else
// a *stream.ConfigError, since no disk gets better by being tried again.
//
// A path that is no regular file (a pipe, a terminal, /dev/null) is written to as Writer does:
// nothing of it is emptied, locked, packed or made durable, and it has no Begin. Opening a named
// pipe waits for its reader.
func OpenFile(cfg FileConfig) (stream.Sink, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Disk == nil {
		cfg.Disk, cfg.boot = systemDisk{}, bootOf()
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
	beside := cfg.Path
	if _, ok := cfg.Disk.(systemDisk); ok { // of a link, as /dev/stdout, the file has it
		if real, err := filepath.EvalSymlinks(cfg.Path); err == nil {
			beside = real
		}
	}
	s.journal = journalOf(cfg.Disk, beside)
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
	cfg     FileConfig
	packing *packing // nil: text as it is
	journal *journal

	f      File  // locked; nil when closed
	begun  bool  // size is known
	broken error // a Write could not be taken back
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
// does; one that goes on, after a restart of its node, writes behind what was acked, and knows what
// that was. What a Write left that was not acked is cut off: it comes again. Begin opens the file
// again where it was closed, or is no more the one of that name. Write does as Begin of a fresh run
// where nobody called it.
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
	var err error
	switch {
	case !fresh:
		size, err = s.resume(ctx)
	case s.cfg.Append:
		size, err = s.end(ctx, true)
	}
	if err != nil {
		return s.failed(err)
	}
	if fresh {
		s.journal.live = nil
	}
	if s.size, err = s.ready(size); err != nil {
		return s.failed(err)
	}
	s.begun, s.broken = true, nil
	return nil
}

// begin readies the file for a Write, where nobody called Begin or others did something to it since
// the last one. Where it was moved or removed its name is made again, and the text goes behind what
// there is: else it would be where nobody finds it, behind a hole, or over theirs.
func (s *file) begin(ctx context.Context) error {
	if !s.begun {
		return s.Begin(ctx, true)
	}
	if s.f != nil && !s.f.Named() {
		_ = s.f.Close() // what was acked is on the disk
		s.f = nil
	}
	if s.f == nil {
		if err := s.open(); err != nil {
			if disk, ok := errors.AsType[*DiskError](err); ok {
				err = disk.Err
			}
			return s.failed(err)
		}
	}
	length, err := s.f.Size()
	if err != nil {
		return s.failed(err)
	}
	if length == s.size {
		return nil
	}
	s.changed(length, s.size)
	size, err := s.end(ctx, true)
	if err == nil {
		size, err = s.ready(size)
	}
	if err != nil {
		return s.failed(err)
	}
	s.size = size
	return nil
}

// changed warns of what others did to the file.
func (s *file) changed(length, written int64) {
	what := "others have written to the output: it is kept"
	if length < written {
		what = "the output is shorter than what was written: what is gone does not come again"
	}
	s.cfg.Log.Warn(what, "file", s.cfg.Path, "bytes", length, "written", written)
}

// ready makes the first size bytes of the file all of it, and durable, with a journal that says so.
// It returns how many they are then: no bytes at all would not be a packed file.
func (s *file) ready(size int64) (int64, error) {
	if err := s.f.Truncate(size); err != nil {
		return 0, err
	}
	if s.packing != nil && size == 0 {
		s.packed = s.packing.pack(s.packed[:0], nil)
		if _, err := s.f.WriteAt(s.packed, 0); err != nil {
			return 0, err
		}
		size = int64(len(s.packed))
	}
	if err := s.f.Sync(); err != nil {
		return 0, err
	}
	return size, s.journal.rewrite(s.cfg.boot, size) // and the name: it is in the same directory
}

// end is where the text of others ends, with an end of their last line.
func (s *file) end(ctx context.Context, theirs bool) (int64, error) {
	length, err := s.f.Size()
	if err != nil {
		return 0, err
	}
	if s.packing != nil {
		size, err := s.packing.whole(ctx, s.f, length)
		if damaged, ok := errors.AsType[*DamagedError](err); ok {
			damaged.Path = s.cfg.Path
		}
		return size, err
	}
	size, err := wholeLines(s.f, length)
	if err == nil && theirs && length > size {
		_, err = s.f.WriteAt([]byte{'\n'}, length)
		size = length + 1
	}
	return size, err
}

// failed is the error of an operation on the file or its journal.
func (s *file) failed(err error) error {
	_, ours := errors.AsType[journalError](err)
	if _, ok := errors.AsType[*DamagedError](err); ok || ours || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	disk := newDiskError(s.cfg.Path, err)
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		disk.Path = pe.Path // it may be the journal's
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return stream.Retry(0, disk)
	}
	disk.Err = &stream.ConfigError{Err: disk.Err} // inside: the exit code stays the disk's
	return disk
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

// Load returns what was seen of a source before this run went on.
func (s *file) Load(_ context.Context, source uint64) ([]byte, error) {
	if !s.begun {
		return nil, nil
	}
	seen, err := s.journal.seen(source)
	if err != nil {
		return nil, s.failed(err)
	}
	return seen, nil
}

// Write writes the records behind what is durable, and what was seen, and waits for the disk.
func (s *file) Write(ctx context.Context, rs []stream.Record, seen stream.Seen) error {
	if s.broken != nil {
		return s.broken
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.begin(ctx); err != nil {
		return err
	}
	p := s.text(rs)
	e := entry{
		kind: entryPart, end: s.size + int64(len(p)), bytes: int64(len(p)), sum: crc32.Checksum(p, castagnoli()),
		source: seen.Source, body: seen.Bytes,
	}
	if seen.Whole {
		e.kind = entryWhole
	}
	if err := s.write(p, &e); err != nil {
		// None of it is acked, so none of it may stay if nothing follows; what was seen of it least.
		if undo := errors.Join(s.f.Truncate(s.size), s.journal.drop()); undo != nil {
			s.broken = s.failed(fmt.Errorf("%v; what was written of it stays: %w", err, undo))
			return s.broken
		}
		return s.failed(err)
	}
	s.size = e.end
	s.journal.keep(&e)
	_ = s.journal.synced() // without it the entry is as durable
	if s.journal.large() {
		s.rewrite()
	}
	return nil
}

// rewrite makes the journal smaller. Where there is no room for another it grows on.
func (s *file) rewrite() {
	err := s.journal.rewrite(s.cfg.boot, s.size)
	if err == nil {
		return
	}
	s.cfg.Log.Warn("what the sink has seen grows", "file", s.cfg.Path, "err", err)
	if _, ok := stream.RetryAfter(s.failed(err)); !ok {
		s.broken = s.failed(err)
	}
}

// write writes an entry, then what it is about, and makes both durable.
func (s *file) write(p []byte, e *entry) error {
	if err := s.journal.put(e); err != nil {
		return err
	}
	if _, err := s.f.WriteAt(p, s.size); err != nil {
		return err
	}
	synced := make(chan error, 1)
	go func() { synced <- s.journal.f.Sync() }() // waited for below: at once they cost one
	return errors.Join(s.f.Sync(), <-synced)
}

// text is the records as the file has them.
func (s *file) text(rs []stream.Record) []byte {
	if cap(s.buf)+cap(s.packed) > bufferKeepMax {
		s.buf, s.packed = nil, nil
	}
	s.buf = s.buf[:0]
	for i := range rs {
		s.buf = append(append(s.buf, rs[i].Body...), '\n')
	}
	if s.packing == nil {
		return s.buf
	}
	s.packed = s.packing.pack(s.packed[:0], s.buf)
	return s.packed
}

// Close releases the file. All of it is on the disk already.
func (s *file) Close() error {
	f := s.f
	s.f, s.begun = nil, false
	if f == nil {
		return nil
	}
	if err := errors.Join(s.journal.close(), f.Close()); err != nil {
		return fmt.Errorf("close the output: %w", err)
	}
	return nil
}
