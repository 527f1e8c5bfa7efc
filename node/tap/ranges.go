package tap

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"

	"weir/stream"
)

// Limits of ranges (DESIGN 6: at most 64 partitions).
const (
	rangesMax     = 64
	rangeBytesMin = 64 << 20 // large enough that a range is worth a claim
)

// rangesTap reads one file that all nodes of the role see, in ranges of bytes that are partitions: a line
// is of the range in which it begins. How large they are follows from the size of the file when it is first
// asked for, and stands in their names; the last has no end. So the file must be complete: one that
// grows is read, but by the node of the last range alone.
type rangesTap struct {
	scope
	cfg  Config
	path string
	each int64 // bytes of a range, at least
}

// span is a range of a file: the lines that begin at first or behind it, and before end.
type span struct{ first, end int64 } // bytes; end -1 = the file's

// spans divides a file of so many bytes into ranges of each or more.
func spans(size, each int64) []span {
	for size/each > rangesMax {
		each *= 2
	}
	var all []span
	for first := int64(0); first == 0 || first+each <= size; first += each {
		all = append(all, span{first, first + each})
	}
	all[len(all)-1].end = -1
	return all
}

// partition is the range's name.
func (t *rangesTap) partition(s span) string {
	if s == (span{0, -1}) {
		return t.path
	}
	end := ""
	if s.end >= 0 {
		end = strconv.FormatInt(s.end, 10)
	}
	return fmt.Sprintf("%s[%d-%s)", t.path, s.first, end)
}

// span is the range of that name.
func (t *rangesTap) span(partition string) (s span, ok bool) {
	rest, ok := strings.CutPrefix(partition, t.path)
	if rest == "" {
		return span{0, -1}, ok
	}
	first, end, _ := strings.Cut(strings.TrimPrefix(rest, "["), "-")
	s.first, _ = strconv.ParseInt(first, 10, 64)
	s.end = -1
	if end != ")" {
		s.end, _ = strconv.ParseInt(strings.TrimSuffix(end, ")"), 10, 64)
	}
	return s, ok && s.first >= 0 && t.partition(s) == partition
}

func (t *rangesTap) Partitions(context.Context) ([]string, error) {
	info, err := os.Stat(t.path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the input: %w", err)
	case !info.Mode().IsRegular():
		return nil, &stream.ConfigError{Err: fmt.Errorf("%s is no regular file: nodes cannot share it", t.path)}
	}
	var names []string
	for _, s := range spans(info.Size(), t.each) {
		names = append(names, t.partition(s))
	}
	return names, nil
}

// Keep returns those of known partitions that stand, whatever the file's size is by now.
func (t *rangesTap) Keep(known []string) []string {
	var keep []string
	for _, name := range known {
		if _, ok := t.span(name); ok {
			keep = append(keep, name)
		}
	}
	return keep
}

func (t *rangesTap) Open(_ context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	s, ok := t.span(partition)
	if !ok {
		return nil, fmt.Errorf("open tap %s: it has no partition %s", t.path, partition)
	}
	r := t.cfg.rule(cutBlock)
	from, err := r.resume(at)
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", partition, err)
	}
	src := &ranged{span: s, place: from, table: castagnoli()}
	if src.in, err = openInput(t.path); err != nil {
		return nil, err
	}
	if err := src.begin(len(at) == 0); err != nil {
		_ = src.close()
		return nil, err
	}
	return &reader{src: src, rule: r, before: from.before}, nil
}

// ranged is the source of a range.
type ranged struct {
	span
	in    *input
	table *crc32.Table
	had   int64 // where in the file reading is
	ended bool  // the line that begins last was read

	place place // behind all that was taken
	mark  []byte
}

// begin goes to the place, or to the range's first line.
func (s *ranged) begin(fresh bool) error {
	start, err := s.firstLine()
	if err != nil {
		return fmt.Errorf("read the input: %w", err)
	}
	if fresh {
		s.place.offset = start
		if _, err = s.in.Seek(start, io.SeekStart); err == nil {
			s.place.head = s.in.begin(s.table, start)
		}
	} else {
		err = s.in.resume(s.table, s.place, start)
	}
	s.had = s.place.offset
	s.ended = s.end >= 0 && s.had >= s.end
	return err
}

// firstLine is where the first line of the range begins; behind it, where there is none.
func (s *ranged) firstLine() (int64, error) {
	if s.first == 0 {
		return 0, nil
	}
	buf := make([]byte, readMin)
	for at := s.first - 1; s.end < 0 || at < s.end; {
		n, err := s.in.ReadAt(buf, at)
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			return at + int64(i) + 1, nil
		}
		at += int64(n)
		if err == io.EOF {
			return at, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return s.end, nil
}

func (s *ranged) read(_ context.Context, p []byte) (int, error) {
	if s.ended {
		return 0, io.EOF
	}
	inside := s.end < 0 || s.had < s.end-1
	if inside && s.end >= 0 {
		p = p[:min(int64(len(p)), s.end-1-s.had)]
	}
	n, err := s.in.Read(p)
	if n > 0 && !inside { // from the last byte of the range on, to the end of its line
		if i := bytes.IndexByte(p[:n], '\n'); i >= 0 {
			n, s.ended = i+1, true
		}
	}
	s.had += int64(n)
	if n > 0 {
		return n, nil // an error comes again, and an end too
	}
	return 0, err
}

func (s *ranged) take(p []byte) stream.Mark {
	s.place.add(s.table, p)
	s.mark = s.place.append(s.mark[:0])
	return s.mark
}

func (s *ranged) at() (string, int64) { return s.in.Name(), s.place.offset }

func (s *ranged) close() error {
	s.in.close()
	return nil
}
