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

// File is a tap that reads one file, once, to its end. It looks for the file when it is opened.
func File(path string, cfg Config) (stream.Tap, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap file %s: %w", path, err)
	}
	if path == "" {
		return nil, errors.New("tap file: the path is empty")
	}
	list := func() ([]string, error) { return []string{path}, nil }
	return &filesTap{cfg: cfg, partition: cfg.partition(path), list: list}, nil
}

// filesTap reads files one after the other as one partition: a line that has no newline at
// the end of its file goes on in the next, as with `cat`.
type filesTap struct {
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
	index   int      // of the file that is read
	file    *os.File // paths[index]
	regular bool     // it is no pipe, terminal or device: reading it does not wait for others
	pos     int64    // bytes of the partition read

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
	case info.Mode().IsRegular() && info.Size() < offset:
		return fmt.Errorf("%s has %d bytes, and %d were read before: it is another file now", f.Name(), info.Size(), offset)
	case offset > 0:
		if _, err := f.Seek(offset, io.SeekStart); err != nil {
			return err
		}
	}
	s.file, s.regular = f, info.Mode().IsRegular()
	return nil
}

// read reads of the present file, or of the next that has something.
func (s *files) read(ctx context.Context, p []byte) (int, error) {
	for {
		if !s.regular {
			if err := waitReadable(ctx, s.file); err != nil {
				return 0, fmt.Errorf("read %s: %w", s.file.Name(), err)
			}
		}
		n, err := s.file.Read(p)
		s.pos += int64(n)
		if n > 0 || (err != nil && !errors.Is(err, io.EOF)) {
			return n, err
		}
		if s.index == len(s.paths)-1 {
			return 0, io.EOF
		}
		_ = s.file.Close() // nothing was written
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

func (s *files) close() error { return s.file.Close() }
