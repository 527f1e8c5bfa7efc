package tap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"weir/stream"
)

// File is a tap that reads one file, once, to its end. It looks for the file when it is opened. A
// name that ends in .gz or .zst is unpacked, by Glob too; offsets are of its text.
func File(path string, cfg Config) (stream.Tap, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap file %s: %w", path, err)
	}
	if path == "" {
		return nil, errors.New("tap file: the path is empty")
	}
	list := func() ([]string, error) { return []string{path}, nil }
	return &filesTap{scope: scope{cfg.Shared, true}, cfg: cfg, partition: cfg.partition(path), list: list}, nil
}

// filesTap reads files one after the other as one partition: a line that has no newline at
// the end of its file goes on in the next, as with `cat`.
type filesTap struct {
	scope
	cfg       Config
	partition string
	list      func() ([]string, error)
}

func (t *filesTap) Partitions(context.Context) ([]string, error) {
	return []string{t.partition}, nil
}

// Open lists the files and opens the first to read. Files that are added, taken away or
// shortened while a run goes on from a mark change what the mark means: a file that is now too
// short is refused, the rest is not seen.
func (t *filesTap) Open(_ context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	if partition != t.partition {
		return nil, fmt.Errorf("open tap %s: it has no partition %s", t.partition, partition)
	}
	from, err := parseMark(at)
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", t.partition, err)
	}
	paths, err := t.list()
	if err != nil {
		return nil, err
	}
	if from.file >= len(paths) {
		return nil, fmt.Errorf("open tap %s: the mark is in file %d and there are %d", t.partition, from.file+1, len(paths))
	}
	src := &files{
		paths:  paths,
		index:  from.file,
		pos:    from.before,
		first:  from.file,
		starts: []int64{from.before - from.offset},
	}
	if err := src.open(from.offset); err != nil {
		return nil, err
	}
	return &reader{src: src, rule: t.cfg.rule(cutBlock), before: from.before}, nil
}

// files is the source of several files.
type files struct {
	paths   []string
	index   int       // of the file that is read
	file    *os.File  // paths[index]
	packed  *unpacker // what unpacks file; nil: it is text
	regular bool      // it is no pipe, terminal or device: reading it does not wait for others
	pos     int64     // bytes of the partition read

	first  int     // the file that starts[0] is of
	starts []int64 // bytes of the partition before each file opened so far
}

// open opens paths[index] at offset.
func (s *files) open(offset int64) error {
	path := s.paths[s.index]
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the input: %w", err)
	}
	if err := s.use(f, offset); err != nil {
		_ = f.Close() // nothing was written
		return fmt.Errorf("read the input: %w", err)
	}
	return nil
}

// use makes f the file that is read, from offset.
func (s *files) use(f *os.File, offset int64) error {
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory", f.Name())
	}
	s.file, s.regular = f, info.Mode().IsRegular()
	if s.packed = newUnpacker(f); s.packed != nil {
		return s.unpackFrom(offset)
	}
	switch {
	case s.regular && info.Size() < offset:
		return anotherFile(f, info.Size(), offset)
	case offset > 0:
		_, err = f.Seek(offset, io.SeekStart)
	}
	return err
}

// unpackFrom begins a packed file with the byte of its text at offset.
func (s *files) unpackFrom(offset int64) error {
	if !s.regular {
		return fmt.Errorf("%s is no regular file: have it unpacked before it comes here", s.file.Name())
	}
	n, err := io.CopyN(io.Discard, s.packed, offset)
	if err == io.EOF {
		return anotherFile(s.file, n, offset)
	}
	return err
}

func anotherFile(f *os.File, size, offset int64) error {
	return fmt.Errorf("%s has %d bytes, and %d were read before: it is another file now", f.Name(), size, offset)
}

// read reads of the present file, or of the next that has something.
func (s *files) read(ctx context.Context, p []byte) (int, error) {
	for {
		if !s.regular {
			if err := waitReadable(ctx, s.file); err != nil {
				return 0, fmt.Errorf("read %s: %w", s.file.Name(), err)
			}
		}
		n, err := s.readFile(p)
		s.pos += int64(n)
		if n > 0 {
			return n, nil // an error comes again, and an end too
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		if s.index == len(s.paths)-1 {
			return 0, io.EOF
		}
		_ = s.close() // nothing was written
		s.index++
		s.starts = append(s.starts, s.pos)
		if err := s.open(0); err != nil {
			return 0, err
		}
	}
}

// at finds the last file that begins at or before the byte.
func (s *files) at(before int64) place {
	i := sort.Search(len(s.starts), func(i int) bool { return s.starts[i] > before }) - 1
	return place{file: s.first + i, offset: before - s.starts[i], before: before}
}

func (s *files) name(file int) string { return s.paths[file] }

func (s *files) readFile(p []byte) (int, error) {
	if s.packed != nil {
		return s.packed.Read(p)
	}
	return s.file.Read(p)
}

func (s *files) close() error {
	if s.packed != nil {
		s.packed.free()
	}
	return s.file.Close()
}
