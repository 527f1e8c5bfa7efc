package worker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// watch is a named pipe that programs of a test hold open: its end is the end of the last of
// them, seen without asking again and again.
type watch struct {
	path string
	file *os.File
	r    *bufio.Reader
}

func newWatch(t *testing.T) *watch {
	t.Helper()
	w := &watch{path: filepath.Join(t.TempDir(), "watch")}
	if err := syscall.Mkfifo(w.path, 0o600); err != nil {
		t.Fatal(err)
	}
	return w
}

// line waits for a program to open the pipe, and for a line of it.
func (w *watch) line(t *testing.T) string {
	t.Helper()
	if w.file == nil {
		f, err := os.Open(w.path) // until a program opens it too
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		w.file, w.r = f, bufio.NewReader(f)
		if err := f.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	line, err := w.r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// end waits until no program holds the pipe.
func (w *watch) end(t *testing.T) {
	t.Helper()
	if _, err := io.Copy(io.Discard, w.r); err != nil {
		t.Errorf("a program lives on: %v", err)
	}
}

// run runs one record of sh, which may use $WATCH, in a goroutine of its own.
func run(t *testing.T, ctx context.Context, sh string, em *fakeEmitter) (*watch, chan error) {
	t.Helper()
	w := newWatch(t)
	t.Setenv("WATCH", w.path)
	p, _ := start(t, Config{Sh: sh})
	done := make(chan error, 1) // the test may have failed and not read it
	go func() { done <- p.handle(ctx, record(""), em) }()
	return w, done
}

func TestCancelEndsTheGroup(t *testing.T) {
	for _, tc := range []struct{ name, sh, says string }{
		{"a program that heeds SIGTERM", `exec 3>$WATCH; trap 'echo term >&3; exit 0' TERM; echo up >&3; while :; do sleep 0.01; done`, "term"},
		{"a program that ignores SIGTERM", `exec 3>$WATCH; trap '' TERM; echo up >&3; sleep 600; sleep 600`, ""},
		{"children too", `exec 3>$WATCH; sleep 600 & (trap '' TERM; sleep 600) & echo up >&3; wait`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			w, done := run(t, ctx, tc.sh, &fakeEmitter{})
			if got := w.line(t); got != "up" {
				t.Fatalf("said %q", got)
			}
			why := errors.New("the node leaves")
			cancel(why)
			if err := <-done; !errors.Is(err, why) {
				t.Errorf("error %v, want %v", err, why)
			}
			if tc.says != "" {
				if got := w.line(t); got != tc.says {
					t.Errorf("said %q, want %q", got, tc.says)
				}
			}
			w.end(t)
		})
	}
}

func TestDaemons(t *testing.T) {
	const held = "sh: exited, but 200ms later something it started still held its standard output: send that one's elsewhere"
	for _, tc := range []struct{ name, sh, want, err string }{
		{"holds stdout", `sleep 600 & echo hi`, "", held},
		{"holds stdout of one that fails", `sleep 600 & exit 3`, "", "sh: exit 3"},
		{"holds stderr", `sleep 600 >/dev/null & echo hi`, `"hi"`, ""},
		{"holds neither, and lives on", `sleep 0.3 >/dev/null 2>&1 & echo hi`, `"hi"`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var em fakeEmitter
			w, done := run(t, t.Context(), "exec 3>$WATCH; echo up >&3; "+tc.sh, &em)
			w.line(t)
			if err := <-done; text(err) != tc.err {
				t.Errorf("error %q, want %q", text(err), tc.err)
			}
			if got := bodies(&em); got != tc.want {
				t.Errorf("emitted %s, want %s", got, tc.want)
			}
			w.end(t)
		})
	}
}

func TestNiceness(t *testing.T) {
	p, ctx := start(t, Config{Sh: `while [ $(nice) -lt 5 ]; do :; done; nice`})
	var em fakeEmitter
	if err := p.handle(ctx, record(""), &em); err != nil {
		t.Fatal(err)
	}
}

// A node that is killed takes its programs with it.
func TestProgramsDieWithTheNode(t *testing.T) {
	if path := os.Getenv("WEIR_TEST_DIE"); path != "" { // this is the node
		p, err := newProgram(Config{Sh: "exec 3>" + path + "; echo up >&3; exec sleep 600"})
		if err != nil {
			t.Fatal(err)
		}
		t.Fatal(p.handle(t.Context(), record(""), &fakeEmitter{}))
	}
	w := newWatch(t)
	node := exec.Command(os.Args[0], "-test.run", "^TestProgramsDieWithTheNode$")
	node.Env = append(os.Environ(), "WEIR_TEST_DIE="+w.path)
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	w.line(t)
	if err := node.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = node.Wait()
	w.end(t)
}
