package tap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"weir/stream"
)

const (
	// followEvery is how often the end of a file is looked at: what a person who watches does not
	// notice, and five system calls a second.
	followEvery = 200 * time.Millisecond
	// followLinger is how long a file is read on when another has its name: programs that are told of
	// a rotation by a signal write to the old one until they have reopened it.
	followLinger = 2 * time.Second
	// rotatedMax is how many rotated files are considered, the newest: more than any rotation keeps.
	rotatedMax = 1024
)

// Follow is a tap that reads the lines of a file as they are written, for ever, through its rotation,
// as `tail -n +1 -F` does; a file that is not there yet is waited for. A file that is renamed is read
// to its end before the one that takes its place. One that is copied and truncated goes on in the copy,
// where there is one beside it. Copies and renamed files have the file's name and then `.`, `-` or `_`,
// and may be packed.
//
// From a mark it goes on where it was, in a rotated file too, and reads what was rotated meanwhile; where
// that file is gone, the error is stream.ErrReset.
func Follow(path string, cfg Config) (stream.Tap, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap follow %s: %w", path, err)
	}
	if cfg.Block {
		return nil, fmt.Errorf("tap follow %s: it cuts lines: a block would wait for more of them", path)
	}
	if packing(path) != "" {
		return nil, fmt.Errorf("tap follow %s: a packed file does not grow", path)
	}
	return &followTap{scope: scope{cfg.Shared, true}, cfg: cfg, path: path}, nil
}

type followTap struct {
	scope
	cfg  Config
	path string
}

func (t *followTap) Partitions(context.Context) ([]string, error) {
	return []string{t.path}, nil
}

func (t *followTap) Open(_ context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	if partition != t.path {
		return nil, fmt.Errorf("open tap %s: it has no partition %s", t.path, partition)
	}
	r := t.cfg.rule(cutLine)
	from, err := r.resume(at, "follow")
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", partition, err)
	}
	src := &follower{path: t.path, table: castagnoli(), log: t.cfg.log(), place: from}
	if len(at) > 0 && !src.find() {
		return nil, reset("no file beside %s is the one of which %d bytes were read before", t.path, from.offset)
	}
	return &reader{src: src, rule: r, before: from.before}, nil
}

// Again finds the file as Open does, and goes back in it.
func (t *followTap) Again(ctx context.Context, partition string, first stream.Mark) (stream.Reader, error) {
	opened, err := t.Open(ctx, partition, first)
	if err != nil {
		return nil, err
	}
	r := opened.(*reader)
	src := r.src.(*follower)
	if err := src.rewind(); err != nil {
		_ = src.close()
		return nil, err
	}
	r.before = 0
	return r, nil
}

// follower is the source of a file that grows.
type follower struct {
	path  string
	table *crc32.Table
	log   *slog.Logger

	in      *input      // nil: the next is to be opened
	had     int64       // bytes of it read
	wrote   time.Time   // when it was last written, at the last look
	renamed time.Time   // when another file was seen to have its name; zero: none has
	last    os.FileInfo // of the file before, at its end; nil: in is the first
	waiting bool        // for path to be there, and said so

	place place // behind all that was taken
	mark  []byte
}

// Errors of read that are none: there is more.
var (
	errTurn  = errors.New("a file has ended, and another begins")
	errAgain = errors.New("what was read and not taken comes again")
)

func (s *follower) read(ctx context.Context, p []byte) (int, error) {
	for {
		if s.in == nil {
			if err := s.open(); err != nil {
				return 0, err
			}
		}
		if s.in != nil {
			n, err := s.in.Read(p)
			s.had += int64(n)
			if n > 0 {
				return n, nil
			}
			if err != nil && err != io.EOF {
				return 0, err
			}
			if err := s.atEnd(); err != nil {
				return 0, err
			}
		}
		timer := time.NewTimer(followEvery)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, context.Cause(ctx)
		}
		if err := s.check(); err != nil {
			return 0, err
		}
	}
}

// open opens the next file, if it is there: the first that was written after the last one and rotated
// since, or path. One whose name another has got by then is looked for again, at the next look.
func (s *follower) open() error {
	path, next := s.path, os.FileInfo(nil)
	if s.last != nil {
		path, next = s.after(s.last)
	}
	in, err := openInput(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !s.waiting {
			s.log.Warn("a file that is followed is not there: it is waited for", "file", path)
			s.waiting = true
		}
		return nil
	case err != nil:
		return err
	case !in.regular:
		in.close()
		return &stream.ConfigError{Err: fmt.Errorf("%s is no regular file: only those can be followed", path)}
	}
	if next != nil && !os.SameFile(in.info, next) {
		in.close()
		return nil
	}
	s.waiting = false
	s.place.offset, s.place.sum = 0, sum{}
	s.use(in)
	return nil
}

// after is the file that was written after the one of info, and what it was then: nil, it is path.
func (s *follower) after(info os.FileInfo) (path string, next os.FileInfo) {
	path = s.path
	passed := false // those behind it come later, though the clock may not have ticked
	for _, r := range rotated(s.path) {
		switch {
		case os.SameFile(r.info, info):
			path, next, passed = s.path, nil, true
		case next == nil && (passed || r.info.ModTime().After(info.ModTime())):
			path, next = r.path, r.info
		}
	}
	return path, next
}

// use makes in, which stands at the place's offset, the file that is read.
func (s *follower) use(in *input) {
	s.in, s.had, s.renamed = in, s.place.offset, time.Time{}
	if s.place.before == 0 {
		s.place.head = in.begin(s.table, 0)
	}
	s.place.inode, s.place.listed = inodeOf(in.info), in.info.ModTime().UnixNano()
}

// atEnd decides what follows the present end of the file: more of it (nil), or what the error says.
func (s *follower) atEnd() error {
	info, err := s.in.Stat()
	if err != nil {
		return err
	}
	if s.in.packed != nil {
		return s.turn(info)
	}
	if info.Size() < s.had {
		return s.truncated(info)
	}
	now, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && os.SameFile(now, info):
		s.renamed = time.Time{}
	case err != nil:
		return err
	case s.renamed.IsZero():
		s.renamed = time.Now()
		if _, next := s.after(info); next != nil { // and that was rotated too: the next look is the last
			s.renamed = s.renamed.Add(-followLinger)
		}
	case time.Since(s.renamed) >= followLinger:
		return s.turn(info)
	}
	return nil
}

// check looks, before more is read of a file that was written meanwhile, whether it has what was read of
// it: it may have been truncated and have grown again.
func (s *follower) check() error {
	if s.in == nil || s.in.packed != nil || s.place.offset == 0 {
		return nil
	}
	info, err := s.in.Stat()
	if err != nil || info.ModTime().Equal(s.wrote) {
		return err
	}
	s.wrote = info.ModTime()
	if s.in.resume(s.table, s.place, 0) != nil {
		return s.truncated(info)
	}
	_, err = s.in.Seek(s.had, io.SeekStart)
	return err
}

// turn ends the file.
func (s *follower) turn(info os.FileInfo) error {
	s.last = info
	return errors.Join(s.close(), errTurn)
}

// truncated goes on in the copy that was made of the file before, where there is one.
func (s *follower) truncated(info os.FileInfo) error {
	had := s.had
	_ = s.close()
	if s.place.offset > 0 && s.find() {
		return errAgain
	}
	s.log.Warn("a file that is followed was truncated, and no copy is beside it: what was written since the last look is lost",
		"file", s.path, "read", had, "size", info.Size())
	s.last = nil
	return errTurn
}

// find opens the file that the place is in, be it rotated: by its inode, else by what is before the
// place, where it is none that was finished before.
func (s *follower) find() bool {
	var paths []string
	for _, r := range rotated(s.path) {
		paths = append(paths, r.path)
	}
	paths = append(paths, s.path)
	for _, sameInode := range []bool{true, false} {
		for _, path := range paths {
			in, err := openInput(path)
			if err != nil {
				continue
			}
			fits := inodeOf(in.info) == s.place.inode
			if !sameInode {
				fits = in.info.ModTime().UnixNano() >= s.place.listed
			}
			if fits && in.resume(s.table, s.place, 0) == nil {
				s.use(in)
				return true
			}
			in.close()
		}
	}
	return false
}

// rotatedFile is a file that had once the name of another.
type rotatedFile struct {
	path string
	info os.FileInfo
}

// rotated lists what was once the file at path, going by the name, the first written first.
func rotated(path string) []rotatedFile {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(cmp.Or(dir, "."))
	if err != nil {
		return nil // opening path will say why
	}
	var files []rotatedFile
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), base)
		if !ok || rest == "" || !strings.ContainsRune(".-_", rune(rest[0])) || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil {
			files = append(files, rotatedFile{dir + e.Name(), info})
		}
	}
	slices.SortStableFunc(files, func(a, b rotatedFile) int { return a.info.ModTime().Compare(b.info.ModTime()) })
	return files[max(0, len(files)-rotatedMax):]
}

func (s *follower) take(p []byte) stream.Mark {
	s.place.add(s.table, p)
	s.mark = s.place.append(s.mark[:0])
	return s.mark
}

func (s *follower) at() (string, int64) { return s.path, s.place.offset }

func (s *follower) close() error {
	if s.in != nil {
		s.in.close()
		s.in = nil
	}
	return nil
}

// rewind goes back to the start of the file, which the first record is in.
func (s *follower) rewind() error {
	in := s.in
	if in.packed != nil {
		var err error
		if in, err = openInput(in.Name()); err != nil {
			return err
		}
		s.in.close()
	} else if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s.place.before, s.place.offset, s.place.sum = 0, 0, sum{}
	s.use(in)
	return nil
}

func inodeOf(info os.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }
