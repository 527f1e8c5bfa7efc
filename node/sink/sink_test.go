package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"weir/stream"
)

func records(bodies ...string) []stream.Record {
	rs := make([]stream.Record, len(bodies))
	for i, b := range bodies {
		rs[i].Body = []byte(b)
	}
	return rs
}

// Every sink of text writes the same for the same records.
func TestText(t *testing.T) {
	large := strings.Repeat("x", gatherBytes/2)
	for _, tc := range []struct {
		name   string
		writes [][]stream.Record
		want   string
	}{
		{"nothing", nil, ""},
		{"lines", [][]stream.Record{records("a", "", "b"), records("c")}, "a\n\nb\nc\n"},
		{"a block", [][]stream.Record{records("a\nb\n"), records("\x00\r")}, "a\nb\n\n\x00\r\n"},
		{"more than is gathered", [][]stream.Record{records(large, large, large, "end"), records("z")}, large + "\n" + large + "\n" + large + "\nend\nz\n"},
	} {
		path := filepath.Join(t.TempDir(), "out")
		fifo := filepath.Join(t.TempDir(), "fifo")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		var memory bytes.Buffer
		piped := make(chan string, 1) // read only after the sink is closed
		go func() { b, _ := os.ReadFile(fifo); piped <- string(b) }()
		for _, kind := range []struct {
			name string
			open func() (stream.Sink, error)
			read func() string
		}{
			{"file", func() (stream.Sink, error) { return OpenFile(FileConfig{Path: path}) }, func() string { b, _ := os.ReadFile(path); return string(b) }},
			{"pipe", func() (stream.Sink, error) { return OpenFile(FileConfig{Path: fifo}) }, func() string { return <-piped }},
			{"writer", func() (stream.Sink, error) { return Writer(&memory, "stdout"), nil }, memory.String},
		} {
			t.Run(tc.name+"/"+kind.name, func(t *testing.T) {
				s, err := kind.open()
				if err != nil {
					t.Fatal(err)
				}
				if seen, err := s.Load(t.Context(), 1); seen != nil || err != nil {
					t.Errorf("load: %q, %v", seen, err)
				}
				for _, rs := range tc.writes {
					if err := s.Write(t.Context(), rs, stream.Seen{}); err != nil {
						t.Fatal(err)
					}
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if got := kind.read(); got != tc.want {
					t.Errorf("wrote %d bytes %.40q, want %d %.40q", len(got), got, len(tc.want), tc.want)
				}
			})
		}
	}
}

func TestFileIsReplacedWhenItIsFree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.txt")
	if err := os.WriteFile(path, []byte("of the last run, and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	first, err := OpenFile(FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Write(t.Context(), records("mine"), stream.Seen{}); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(FileConfig{Path: path}); err == nil || err.Error() != path+" is locked by another run" {
		t.Errorf("the second: %v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "mine\n" {
		t.Errorf("the second left %q", got)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := OpenFile(FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if got, _ := os.ReadFile(path); string(got) != "mine\n" {
		t.Errorf("before its run begins the second left %q", got)
	}
	if err := begin(t, second, true); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); len(got) != 0 {
		t.Errorf("a new run begins with %q", got)
	}
}

func begin(t *testing.T, s stream.Sink, fresh bool) error {
	t.Helper()
	return s.(interface {
		Begin(context.Context, bool) error
	}).Begin(t.Context(), fresh)
}

// A file that was moved away before the run begins is left alone.
func TestBeginAfterTheFileWasMoved(t *testing.T) {
	for _, fresh := range []bool{true, false} {
		dir := t.TempDir()
		path, old := filepath.Join(dir, "out"), filepath.Join(dir, "out.1")
		if err := os.WriteFile(path, []byte("kept\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := OpenFile(FileConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, old); err != nil {
			t.Fatal(err)
		}
		if err := begin(t, s, fresh); err != nil {
			t.Fatal(err)
		}
		if err := s.Write(t.Context(), records("new"), stream.Seen{}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{path: "new\n", old: "kept\n"} {
			if got, err := os.ReadFile(name); string(got) != want {
				t.Errorf("fresh %v: %s holds %q, want %q (%v)", fresh, filepath.Base(name), got, want, err)
			}
		}
	}
}

// A run that goes on writes behind what was acked; a fresh one replaces it.
func TestBegin(t *testing.T) {
	long := strings.Repeat("x", tailBytes)
	for _, tc := range []struct {
		name, was string
		fresh     bool
		want      string
	}{
		{"fresh, nothing there", "", true, "new\n"},
		{"fresh", "a\nb\n", true, "new\n"},
		{"goes on, nothing there", "", false, "new\n"},
		{"goes on", "a\nb\n", false, "a\nb\nnew\n"},
		{"goes on after a torn write", "a\nb", false, "a\nnew\n"},
		{"goes on after a torn first write", "ab", false, "new\n"},
		{"goes on after a long torn write", "a\n" + long + long + "b", false, "a\nnew\n"},
		{"goes on after a line as long as is read at once", "a\n" + long, false, "a\nnew\n"},
		{"goes on after a long torn first write", long + long + "b", false, "new\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(path, []byte(tc.was), 0o644); err != nil {
				t.Fatal(err)
			}
			s, err := OpenFile(FileConfig{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			if err := begin(t, s, tc.fresh); err != nil {
				t.Fatal(err)
			}
			if err := s.Write(t.Context(), records("new"), stream.Seen{}); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(path); string(got) != tc.want {
				t.Errorf("the file holds %.60q, want %.60q", got, tc.want)
			}
			// Closed, it can serve the next run.
			if err := begin(t, s, false); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenFile(FileConfig{Path: path}); err == nil {
				t.Error("it is not locked again")
			}
			if err := s.Write(t.Context(), records("more"), stream.Seen{}); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(path); string(got) != tc.want+"more\n" {
				t.Errorf("then it holds %.60q", got)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir:           "write " + dir + ": is a directory",
		dir + "/no/x": "write " + dir + "/no/x: no such file or directory",
	} {
		var disk *DiskError
		if _, err := OpenFile(FileConfig{Path: path}); !errors.As(err, &disk) || err.Error() != want {
			t.Errorf("error %v, want the DiskError %s", err, want)
		}
	}
}

// A write that fails is taken back, so that what is in the file is what was acked.
func TestFailedWriteIsTakenBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s, err := OpenFile(FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Write(t.Context(), records("kept"), stream.Seen{}); err != nil {
		t.Fatal(err)
	}
	// A limit on the size of files is what this process can have as a full disk. It is above what the
	// test's own log may hold, which go test writes meanwhile.
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 20, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	failed := s.Write(t.Context(), records(strings.Repeat("x", 2<<20)), stream.Seen{})
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	var disk *DiskError
	if !errors.As(failed, &disk) || !errors.Is(failed, syscall.EFBIG) || disk.ExitCode() != 74 {
		t.Fatalf("error %v, want a DiskError of EFBIG", failed)
	}
	if want := "write " + path + ": file too large"; failed.Error() != want {
		t.Errorf("error %q, want %q", failed, want)
	}
	if got, _ := os.ReadFile(path); string(got) != "kept\n" {
		t.Errorf("the file holds %.40q", got)
	}
	if err := s.Write(t.Context(), records("again"), stream.Seen{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "kept\nagain\n" {
		t.Errorf("then it holds %.40q", got)
	}
}

func TestReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_ = r.Close()
	ours, theirs := io.Pipe()
	_ = ours.Close()
	for _, w := range []io.Writer{w, theirs} {
		s := Writer(w, "stdout")
		for range 2 {
			err := s.Write(t.Context(), records("a"), stream.Seen{})
			var gone *ReaderGone
			if !errors.As(err, &gone) || gone.ExitCode() != 141 || err.Error() != "nobody reads stdout any more" {
				t.Errorf("%T: error %v", w, err)
			}
		}
	}
}

// After a write that failed in part nothing more may follow its torn end: the run stops at once,
// with the disk's code.
func TestWriterStaysBroken(t *testing.T) {
	w := &failing{err: errors.New("line down")}
	s := Writer(w, "the terminal")
	for range 2 {
		err := s.Write(t.Context(), records("abc"), stream.Seen{})
		if err == nil || err.Error() != "write the terminal: line down" || stream.ExitCode(err) != 74 {
			t.Errorf("error %v with code %d", err, stream.ExitCode(err))
		}
		var config *stream.ConfigError
		if !errors.As(err, &config) {
			t.Errorf("error %v is tried again", err)
		}
	}
	if w.calls != 1 {
		t.Errorf("written to %d times, want once", w.calls)
	}
}

type failing struct {
	err   error
	calls int
}

func (f *failing) Write(p []byte) (int, error) {
	f.calls++
	return 1, f.err
}

func TestCancelled(t *testing.T) {
	f, err := OpenFile(FileConfig{Path: filepath.Join(t.TempDir(), "out")})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	for _, s := range []stream.Sink{f, Writer(io.Discard, "x")} {
		if err := s.Write(ctx, records("a"), stream.Seen{}); !errors.Is(err, why) {
			t.Errorf("%T: error %v, want %v", s, err, why)
		}
	}
}

func TestDiscard(t *testing.T) {
	s := Discard()
	if seen, err := s.Load(t.Context(), 1); seen != nil || err != nil {
		t.Errorf("load: %q, %v", seen, err)
	}
	if err := s.Write(t.Context(), records("a"), stream.Seen{}); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A large record does not stay in memory once it is written.
func TestBufferIsBounded(t *testing.T) {
	s := &writer{w: io.Discard}
	for _, n := range []int{1, gatherBytes, 64 << 20, 1} {
		if err := s.Write(t.Context(), records(string(make([]byte, n))), stream.Seen{}); err != nil {
			t.Fatal(err)
		}
		if cap(s.buf) > bufferKeepMax {
			t.Errorf("after %d bytes the buffer has %d", n, cap(s.buf))
		}
	}
}

func ExampleWriter() {
	s := Writer(os.Stdout, "stdout")
	defer s.Close()
	rs := []stream.Record{{Out: stream.Out{Body: []byte("a block\nof lines")}}, {Out: stream.Out{Body: []byte("a line")}}}
	if err := s.Write(context.Background(), rs, stream.Seen{}); err != nil {
		fmt.Println(err)
	}
	// Output:
	// a block
	// of lines
	// a line
}
