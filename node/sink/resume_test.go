package sink

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"weir/stream"
)

// What others did to a file between two lives of its sink stays, and is told; what no write of ours
// finished is cut off. What is not there as it was written does not count as had.
func TestResume(t *testing.T) {
	for _, tc := range []struct {
		name  string
		alter string // what the file holds then
		cut   bool   // of power
		want  string
		had   string // which of the records a and b are known then
		told  string
	}{
		{"nothing", "a\nb\n", false, "a\nb\nnew\n", "ab", ""},
		{"nothing, power cut", "a\nb\n", true, "a\nb\nnew\n", "ab", ""},
		{"a torn write, power cut", "a\nb\nc", true, "a\nb\nnew\n", "ab", "cut off what was not acked: it comes again"},
		{"a write that was not acked, power cut", "a\nb\nc\n", true, "a\nb\nnew\n", "ab", "cut off what was not acked: it comes again"},
		{"bytes that never came, power cut", "a\n\x00\x00", true, "a\nnew\n", "a", "cut off what was not acked: it comes again"},
		{"the last write is gone in part", "a\nb", false, "a\nnew\n", "a", "cut off what was not acked: it comes again"},
		{"the last write is gone", "a\n", false, "a\nnew\n", "a", ""},
		{"others wrote", "a\nb\ntheirs\n", false, "a\nb\ntheirs\nnew\n", "ab", "others have written to the output: it is kept"},
		{"others wrote no end", "a\nb\ntheirs", false, "a\nb\ntheirs\nnew\n", "ab", "others have written to the output: it is kept"},
		{"others wrote over the last", "a\nB\n", false, "a\nB\nnew\n", "a", "others have written to the output: it is kept"},
		{"no journal", "a\nb\n", false, "a\nb\nnew\n", "", "what the output holds is not known"},
		{"emptied", "", false, "new\n", "a", "the output is shorter than what was written: what is gone does not come again"},
		{"emptied, power cut", "", true, "new\n", "a", "the output is shorter than what was written: what is gone does not come again"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			writeAs(t, path, "one", true, "a", "b")
			if err := os.WriteFile(path, []byte(tc.alter), 0o644); err != nil {
				t.Fatal(err)
			}
			if tc.name == "no journal" {
				if err := os.Remove(journalOf(nil, path).path); err != nil {
					t.Fatal(err)
				}
			}
			boot := "one"
			if tc.cut {
				boot = "two"
			}
			for again := range 2 {
				had, told := writeAs(t, path, boot, false, "new")
				if got, _ := os.ReadFile(path); string(got) != tc.want+strings.Repeat("new\n", again) {
					t.Errorf("life %d: it holds %q, want %q", 2+again, got, tc.want)
				}
				if want := tc.had + strings.Repeat("new", again); had != want {
					t.Errorf("life %d: it had %q, want %q", 2+again, had, want)
				}
				if again == 0 && (tc.told == "" && told != "" || !strings.Contains(told, tc.told)) {
					t.Errorf("it said %q, want %q", told, tc.told)
				}
			}
		})
	}
}

// What others do to a file while it is written: no text goes where nobody finds it, behind a hole or
// over theirs.
func TestChangedWhileWritten(t *testing.T) {
	for _, tc := range []struct {
		name  string
		alter func(path string) error
		want  string
		told  string
	}{
		{"emptied", func(path string) error { return os.Truncate(path, 0) }, "c\nd\n", "the output is shorter"},
		{"cut", func(path string) error { return os.Truncate(path, 3) }, "a\nb\nc\nd\n", "the output is shorter"},
		{"removed", os.Remove, "c\nd\n", "the output is shorter"},
		{"moved", func(path string) error { return os.Rename(path, path+".1") }, "c\nd\n", "the output is shorter"},
		{"written to", func(path string) error { return os.WriteFile(path, []byte("a\nb\ntheirs\n"), 0o644) }, "a\nb\ntheirs\nc\nd\n", "others have written"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			path := filepath.Join(t.TempDir(), "out")
			s, err := OpenFile(FileConfig{Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			write := func(line string) {
				if err := s.Write(t.Context(), records(line), stream.Seen{Source: 1, Bytes: []byte(line)}); err != nil {
					t.Fatal(err)
				}
			}
			write("a")
			write("b")
			if err := tc.alter(path); err != nil {
				t.Fatal(err)
			}
			write("c")
			write("d")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(path); string(got) != tc.want {
				t.Errorf("it holds %q, want %q", got, tc.want)
			}
			if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, tc.told) {
				t.Errorf("it said %q, want one %q", got, tc.told)
			}
			if had, told := writeAs(t, path, "one", false); had != "abcd" || told != "" {
				t.Errorf("the next life had %q and said %q, want abcd and nothing", had, told)
			}
		})
	}
}

// writeAs is one life of a sink: it writes each line for itself, as what was seen of source 1, and
// returns what it had and said before.
func writeAs(t *testing.T, path, boot string, fresh bool, lines ...string) (had, told string) {
	t.Helper()
	var log bytes.Buffer
	s, err := OpenFile(FileConfig{Path: path, Disk: systemDisk{}, boot: boot, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := begin(t, s, fresh); err != nil {
		t.Fatal(err)
	}
	seen, err := s.Load(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if err := s.Write(t.Context(), records(line), stream.Seen{Source: 1, Bytes: []byte(line)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return string(seen), log.String()
}

// What was seen of each source is kept from its last Whole on, however long the run is; the journal
// stays small.
func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	open := func(fresh bool) *file {
		s, err := OpenFile(FileConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		s.(*file).journal.min = 1000
		if err := begin(t, s, fresh); err != nil {
			t.Fatal(err)
		}
		return s.(*file)
	}
	s := open(true)
	want := make([]string, 5)
	most := int64(0)
	for i := range 500 {
		source := i % len(want)
		seen := stream.Seen{Source: uint64(source), Bytes: []byte{byte(i), byte(i >> 8)}, Whole: i%70 < 5}
		if seen.Whole {
			want[source] = ""
		}
		want[source] += string(seen.Bytes)
		if err := s.Write(t.Context(), records("x"), seen); err != nil {
			t.Fatal(err)
		}
		most = max(most, s.journal.size)
		if i%97 == 0 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(false)
		}
	}
	defer s.Close()
	for source := range want {
		if got, err := s.Load(t.Context(), uint64(source)); err != nil || string(got) != want[source] {
			t.Errorf("source %d: %d bytes, want %d, %v", source, len(got), len(want[source]), err)
		}
	}
	if most > 10_000 {
		t.Errorf("the journal grew to %d bytes", most)
	}
	for source := range uint64(6 * journalSources) { // sources that never come back
		e := entry{kind: entryPart, source: 100 + source, end: s.size}
		if err := s.journal.put(&e); err != nil {
			t.Fatal(err)
		}
		if s.journal.keep(&e); s.journal.large() {
			s.rewrite()
		}
	}
	if n := len(s.journal.live); n > 3*journalSources || s.broken != nil {
		t.Errorf("%d sources are kept, %v", n, s.broken)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 2 {
		t.Errorf("the file and its journal are %q", left)
	}
}

// F14: where there is no room, a Write is to be tried again, and leaves nothing behind.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("it mounts a file system of its own: root alone may")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("no file system of its own:", err)
	}
	defer syscall.Unmount(dir, 0)
	path, stuffing := filepath.Join(dir, "out"), filepath.Join(dir, "stuffing")
	s, err := OpenFile(FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	line := strings.Repeat("x", 50_000)
	if err := s.Write(t.Context(), records("first"), stream.Seen{Source: 1, Bytes: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stuffing, make([]byte, 2<<20), 0o644); err == nil {
		t.Fatal("a disk of 1 MiB took 2")
	}
	for range 3 {
		err := s.Write(t.Context(), records(line), stream.Seen{Source: 1, Bytes: []byte("2")})
		if _, ok := stream.RetryAfter(err); !ok || err.Error() != "write "+path+": no space left on device" {
			t.Fatalf("error %v, want a Retry", err)
		}
		if got, _ := os.ReadFile(path); string(got) != "first\n" {
			t.Errorf("it holds %.40q", got)
		}
	}
	if err := os.Remove(stuffing); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), records(line), stream.Seen{Source: 1, Bytes: []byte("2")}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "first\n"+line+"\n" {
		t.Errorf("then it holds %d bytes", len(got))
	}
	if err := begin(t, s, false); err != nil {
		t.Fatal(err)
	}
	if seen, err := s.Load(t.Context(), 1); string(seen) != "12" {
		t.Errorf("it had %q, %v", seen, err)
	}
}

// What a Write costs: with one record, and with as many as a handler is given at most.
func BenchmarkFile(b *testing.B) {
	for _, n := range []int{1, 4096} {
		b.Run(fmt.Sprint(n, " records"), func(b *testing.B) {
			s, err := OpenFile(FileConfig{Path: filepath.Join(b.TempDir(), "out")})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			rs := records(slices.Repeat([]string{strings.Repeat("x", 127)}, n)...)
			seen := stream.Seen{Source: 1, Bytes: make([]byte, 30+4*n)}
			b.SetBytes(int64(128 * n))
			for b.Loop() {
				seen.Whole = !seen.Whole
				if err := s.Write(b.Context(), rs, seen); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Where nothing can be kept beside the file, the run is refused, and told of which file.
func TestNoJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s, err := OpenFile(FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	blocked := journalOf(nil, path).path + ".new"
	if err := os.Mkdir(blocked, 0o700); err != nil {
		t.Fatal(err)
	}
	err = begin(t, s, true)
	if _, ok := errors.AsType[*stream.ConfigError](err); !ok || stream.ExitCode(err) != 74 || err.Error() != "write "+blocked+": is a directory" {
		t.Errorf("code %d: %v", stream.ExitCode(err), err)
	}
}

// A name may be a link, /dev/stdout for one: what is kept is beside the file itself.
func TestJournalOfALink(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "out"), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	writeAs(t, link, "one", true, "a")
	if had, _ := writeAs(t, path, "one", false, "b"); had != "a" {
		t.Errorf("it had %q", had)
	}
	if got, _ := os.ReadFile(path); string(got) != "a\nb\n" {
		t.Errorf("it holds %q", got)
	}
	if _, err := os.Stat(journalOf(nil, path).path); err != nil {
		t.Error(err)
	}
}
