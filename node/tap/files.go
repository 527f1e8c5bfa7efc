package tap

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"slices"
	"sort"
	"strings"
	"syscall"

	"weir/stream"
)

// File is a tap that reads one file, once, to its end. It looks for the file when it is opened. A
// name that ends in .gz or .zst is unpacked, by Glob too; offsets are of its text. A large one that is
// shared and not packed is read in up to 64 ranges, each by another node.
func File(path string, cfg Config) (stream.Tap, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap file %s: %w", path, err)
	}
	if path == "" {
		return nil, errors.New("tap file: the path is empty")
	}
	if cfg.Shared && packing(path) == "" {
		return &rangesTap{scope: scope{true, true}, cfg: cfg, path: path, each: rangeBytesMin}, nil
	}
	return &filesTap{scope: scope{cfg.Shared, true}, cfg: cfg, partition: path, path: path}, nil
}

// filesTap reads files one after the other as one partition: a line that has no newline at
// the end of its file goes on in the next, as with `cat`. The files of a shared glob are as many partitions
// as their names fall into, and end with a line each.
type filesTap struct {
	scope
	cfg       Config
	partition string
	path      string   // the one file
	patterns  []string // of several; nil: path
}

// bucketsMax is how many partitions the files of a shared glob are divided into, by their names
// (DESIGN 6).
const bucketsMax = 64

// Partitions of a shared glob are those that have a file now.
func (t *filesTap) Partitions(context.Context) ([]string, error) {
	if t.patterns == nil || !t.shared {
		return []string{t.partition}, nil
	}
	paths, err := expand(t.patterns)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, path := range paths {
		if name := t.bucket(path); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// bucket is the partition that a file of a shared glob is in.
func (t *filesTap) bucket(path string) string {
	h := fnv.New64a()
	_, _ = io.WriteString(h, path) // it takes all
	return fmt.Sprintf("%s#%d", t.partition, h.Sum64()%bucketsMax)
}

// list is the files of a partition, sorted. From a mark there may be none left.
func (t *filesTap) list(partition string, fresh bool) ([]string, error) {
	if t.patterns == nil {
		return []string{t.path}, nil
	}
	paths, err := expand(t.patterns)
	if errors.Is(err, errNoMatch) && !fresh {
		return nil, nil
	}
	if t.shared {
		paths = slices.DeleteFunc(paths, func(path string) bool { return t.bucket(path) != partition })
	}
	return paths, err
}

// Open lists the files and opens the first to read. From a mark it goes on only where what comes
// before is what was read before; else the error is stream.ErrReset, with the reason. DESIGN.md says
// what may come and go.
func (t *filesTap) Open(_ context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	apart := t.patterns != nil && t.shared
	if apart && !strings.HasPrefix(partition, t.partition+"#") || !apart && partition != t.partition {
		return nil, fmt.Errorf("open tap %s: it has no partition %s", t.partition, partition)
	}
	r := t.cfg.rule(cutBlock)
	from, err := r.resume(at)
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", t.partition, err)
	}
	src := &files{many: t.patterns != nil, apart: apart, table: castagnoli()}
	if src.paths, err = t.list(partition, len(at) == 0); err != nil {
		return nil, err
	}
	if err := src.begin(from); err != nil {
		return nil, err
	}
	return &reader{src: src, rule: r, before: from.before}, nil
}

// files is the source of several files. What is read is ahead of what is taken.
type files struct {
	paths []string
	many  bool // each place has the name of its file
	apart bool // they are not beside each other: no line or block goes on from one to the next
	table *crc32.Table

	index int     // of the file that is read
	in    *input  // paths[index]; nil: there is none left
	had   int64   // bytes of it that were read
	ends  []int64 // bytes of each file from paths[taken] to the one before paths[index]

	taken int   // index of the file of place
	place place // behind all that was taken
	mark  []byte
}

// begin goes on from a place, or starts.
func (s *files) begin(from place) (err error) {
	s.place = from
	if s.many {
		if err := s.locate(); err != nil {
			return err
		}
	}
	s.taken, s.had = s.index, s.place.offset
	if s.index == len(s.paths) {
		return nil
	}
	s.in, err = openInput(s.paths[s.index])
	if errors.Is(err, fs.ErrNotExist) && from.offset > 0 {
		return reset("%s is gone, and %d bytes of it were read before", s.paths[s.index], from.offset)
	}
	if err == nil {
		err = s.in.resume(s.table, s.place, 0)
	}
	if err != nil {
		s.close()
		return err
	}
	if s.place.before == 0 {
		s.place.head = s.in.begin(s.table, 0)
	}
	return nil
}

// locate finds the file of the place among several. Those that sort before it were read; one that
// has changed since they were listed was not read as it is now, or not at all. From the first mark none
// may have.
func (s *files) locate() error {
	from := s.place
	for _, path := range s.paths {
		changed := changedAt(path)
		switch {
		case changed <= from.listed:
		case path < from.name:
			return reset("%s came or was changed after the files behind it were begun", path)
		case from.head.end > 0 && path != from.name: // nothing may be acked yet, and sinks have more of them than is known
			return reset("%s came or was changed since the files were listed", path)
		}
		s.place.listed = max(s.place.listed, changed)
	}
	s.index = sort.SearchStrings(s.paths, from.name)
	if s.index < len(s.paths) && s.paths[s.index] == from.name {
		return nil
	}
	if from.offset > 0 {
		return reset("%s is gone, and %d bytes of it were read before", from.name, from.offset)
	}
	if s.index < len(s.paths) {
		s.place.name = s.paths[s.index]
	}
	return nil
}

// changedAt is when the file, or the link that leads to it, was made, written, renamed or put in place
// there, by the clock of its file system, in ns since 1970; 0: it cannot be told.
func changedAt(path string) (ns int64) {
	for _, stat := range []func(string) (os.FileInfo, error){os.Lstat, os.Stat} {
		if info, err := stat(path); err == nil {
			ns = max(ns, info.Sys().(*syscall.Stat_t).Ctim.Nano())
		}
	}
	return ns
}

// read reads of the present file, or of the next that has something.
func (s *files) read(ctx context.Context, p []byte) (int, error) {
	for s.in != nil {
		if !s.in.regular {
			if err := waitReadable(ctx, s.in.File); err != nil {
				return 0, fmt.Errorf("read %s: %w", s.in.Name(), err)
			}
		}
		n, err := s.in.Read(p)
		s.had += int64(n)
		if n > 0 {
			return n, nil // an error comes again, and an end too
		}
		if err != nil && err != io.EOF {
			return 0, err
		}
		if s.index == len(s.paths)-1 {
			return 0, io.EOF
		}
		s.in.close()
		s.index++
		s.ends = append(s.ends, s.had)
		s.had = 0
		if s.in, err = openInput(s.paths[s.index]); err != nil {
			return 0, err
		}
		if s.apart {
			return 0, errTurn
		}
	}
	return 0, io.EOF
}

func (s *files) take(p []byte) stream.Mark {
	for {
		n := int64(len(p))
		if len(s.ends) > 0 {
			n = min(n, s.ends[0]-s.place.offset)
		}
		s.place.add(s.table, p[:n])
		if p = p[n:]; len(p) == 0 {
			break
		}
		s.next()
	}
	mark := s.place
	if s.many && s.whole() {
		mark.name, mark.offset, mark.sum = mark.name+"\x00", 0, sum{} // behind it, whatever becomes of it
	}
	s.mark = mark.append(s.mark[:0])
	return s.mark
}

// next has the place begin with the next file.
func (s *files) next() {
	s.ends = s.ends[1:]
	s.taken++
	s.place.offset, s.place.sum, s.place.head, s.place.name = 0, sum{}, head{}, s.paths[s.taken]
}

// whole reports whether the place is known to be at the end of its file.
func (s *files) whole() bool {
	if len(s.ends) > 0 {
		return s.place.offset == s.ends[0]
	}
	return s.in != nil && s.in.size > 0 && s.place.offset == s.in.size
}

func (s *files) at() (string, int64) {
	for len(s.ends) > 0 && s.place.offset == s.ends[0] {
		s.next()
	}
	return s.paths[min(s.taken, len(s.paths)-1)], s.place.offset
}

func (s *files) close() error {
	if s.in != nil {
		s.in.close()
		s.in = nil
	}
	return nil
}
