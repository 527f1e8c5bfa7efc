package tap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"weir/stream"
)

// pipe is a pipe as a shell makes one: it blocks.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w = os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

func openStdin(t *testing.T, in io.Reader, cfg Config) stream.Reader {
	t.Helper()
	tp, err := Stdin(in, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := open(t, tp, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A block is what one read returned, to the last newline; the rest begins the next.
func TestStdinBlocks(t *testing.T) {
	in, w := pipe(t)
	r := openStdin(t, in, Config{Block: true})
	for _, step := range []struct{ write, want string }{
		{"one\n", "one"},
		{"two\nthree\nfo", "two\nthree"},
		{"ur\n\nfi", "four\n"},
		{"ve", ""},
		{" and more\n", "five and more"},
		{"last", ""},
	} {
		if _, err := io.WriteString(w, step.write); err != nil {
			t.Fatal(err)
		}
		if step.want == "" {
			continue
		}
		o, _, err := r.Next(t.Context())
		if err != nil || string(o.Body) != step.want {
			t.Errorf("after %q: got %q, %v; want %q", step.write, o.Body, err, step.want)
		}
	}
	_ = w.Close()
	o, m, err := r.Next(t.Context())
	if err != nil || string(o.Body) != "last" || m != nil {
		t.Errorf("at the end: %q, mark %x, %v", o.Body, m, err)
	}
	if _, _, err := r.Next(t.Context()); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// What is there is taken together, though it was written in pieces.
func TestStdinTakesWhatIsThere(t *testing.T) {
	in, w := pipe(t)
	r := openStdin(t, in, Config{Block: true})
	line := strings.Repeat("x", 1023) + "\n"
	for range 600 { // more than an ordinary pipe holds
		if _, err := io.WriteString(w, line); err != nil {
			t.Fatal(err)
		}
	}
	_ = w.Close()
	bodies, _, err := readAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(bodies) != 2 || len(bodies[0])+1 != readMax || len(joined(bodies)) != 600<<10 {
		t.Errorf("%d blocks, the first of %d bytes, %d in all", len(bodies), len(bodies[0]), len(joined(bodies)))
	}
}

func TestStdinLines(t *testing.T) {
	in, w := pipe(t)
	r := openStdin(t, in, Config{})
	_, _ = io.WriteString(w, "a\n\nb")
	_ = w.Close()
	bodies, _, err := readAll(r)
	if got := fmt.Sprintf("%q", bodies); err != nil || got != `["a" "" "b"]` {
		t.Errorf("got %s, %v", got, err)
	}
}

// Whatever standard input is, Next ends with its context, and what comes later is not lost.
func TestStdinIsInterrupted(t *testing.T) {
	socket := func(t *testing.T) (r, w *os.File) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		r, w = os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
		t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		return r, w
	}
	polled := func(t *testing.T) (r, w *os.File) {
		r, w, err := os.Pipe() // non-blocking, by the runtime
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = r.Close(), w.Close() })
		return r, w
	}
	for _, tc := range []struct {
		name string
		open func(*testing.T) (r, w *os.File)
	}{{"pipe", pipe}, {"socket", socket}, {"non-blocking pipe", polled}} {
		t.Run(tc.name, func(t *testing.T) {
			in, w := tc.open(t)
			r := openStdin(t, in, Config{Block: true})
			why := errors.New("why")
			for range 3 {
				ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, why)
				if _, _, err := r.Next(ctx); !errors.Is(err, why) {
					t.Errorf("error %v, want %v", err, why)
				}
				cancel()
			}
			_, _ = io.WriteString(w, "later\n")
			o, _, err := r.Next(t.Context())
			if err != nil || string(o.Body) != "later" {
				t.Errorf("then %q, %v", o.Body, err)
			}
		})
	}
}

func TestStdinKinds(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	regular, err := os.Open(write(t, t.TempDir(), "f", "from a file\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer regular.Close()
	for _, tc := range []struct {
		name string
		in   io.Reader
		want string
	}{
		{"/dev/null", null, `[]`},
		{"a file", regular, `["from a file"]`},
		{"memory", bytes.NewBufferString("a\nb"), `["a" "b"]`},
	} {
		bodies, _, err := readAll(openStdin(t, tc.in, Config{}))
		if got := fmt.Sprintf("%q", bodies); err != nil || got != tc.want {
			t.Errorf("%s: got %s, %v; want %s", tc.name, got, err, tc.want)
		}
	}
}

func TestStdinHasNoMarks(t *testing.T) {
	tp, err := Stdin(strings.NewReader("a\n"), Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t, tp, stream.Mark{1})
	if want := "open tap stdin: standard input cannot be read again from a mark"; text(err) != want {
		t.Errorf("error %q, want %q", text(err), want)
	}
}
