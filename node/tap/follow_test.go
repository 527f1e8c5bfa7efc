package tap

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"weir/stream"
)

// following is a tap that is read in the background.
type following struct {
	bodies []string
	at     stream.Mark
	err    error
	cancel context.CancelFunc
	done   chan struct{}
}

func follow(t *testing.T, path string, at stream.Mark) *following {
	t.Helper()
	tp, err := Follow(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	f := &following{at: at, done: make(chan struct{})}
	r, err := tp.Open(t.Context(), path, at)
	if err != nil {
		f.err, f.cancel = err, func() {}
		close(f.done)
		return f
	}
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(t.Context())
	go func() { // ended by cancel
		defer close(f.done)
		defer r.Close()
		for {
			o, m, err := r.Next(ctx)
			if err != nil {
				f.err = err
				return
			}
			f.bodies, f.at = append(f.bodies, string(o.Body)), bytes.Clone(m)
		}
	}()
	return f
}

// rotate does what a line says, each at another time by the clock of the file system, which the bubble's
// is not: the words of changeFiles, "pack NAME", "copy NAME NAME", "truncate NAME", "sametime NAME NAME" and "wait".
func rotate(t *testing.T, dir, script string) {
	t.Helper()
	for line := range strings.SplitSeq(script, ";") {
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 10e6}, nil)
		w := append(strings.Fields(line), "", "")
		path := filepath.Join(dir, w[1])
		switch w[0] {
		case "wait": // for the tap to see it
			time.Sleep(followLinger / 2)
		case "pack":
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			info, _ := os.Stat(path)
			write(t, dir, w[1]+".gz", pack(t, ".gz", string(text)))
			_ = os.Chtimes(path+".gz", info.ModTime(), info.ModTime())
			_ = os.Remove(path)
		case "sametime":
			info, err := os.Stat(path)
			if err == nil {
				err = os.Chtimes(filepath.Join(dir, w[2]), info.ModTime(), info.ModTime())
			}
			if err != nil {
				t.Fatal(err)
			}
		case "copy":
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, w[2], string(text))
		case "truncate":
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		default:
			changeFiles(t, dir, line)
		}
	}
}

// A followed file is written, rotated and truncated while it is read (live) and while it is not (down).
func TestFollow(t *testing.T) {
	const rotation = "rename log log.1;write log b1/b2/"
	for _, tc := range []struct{ name, before, live, down, want string }{
		{"it grows", "write log a1/a2/", "append log a3/;append log a4/", "append log a5/", "a1 a2 a3 a4 | a5"},
		{"whole lines only", "write log a1/a", "append log 2", "append log 3/a4", "a1 | a23"},
		{"it is not there yet", "", "write log a1/", "", "a1 |"},
		{"rotated", "write log a1/", rotation, "append log b3/", "a1 b1 b2 | b3"},
		{"rotated, with an end that is no line", "write log a1/a2", rotation, "", "a1 a2 b1 b2 |"},
		{"written to after its rotation", "write log a1/", rotation + ";wait;append log.1 a2/", "", "a1 a2 b1 b2 |"},
		{"rotated while down", "write log a1/", "", "append log a2/;" + rotation, "a1 | a2 b1 b2"},
		{"rotated twice while down", "write log a1/", "", "append log a2/;rename log log.2;write log m1/m2/;rename log log.1;write log b1/", "a1 | a2 m1 m2 b1"},
		{"rotated twice and packed while down", "write log a1/", "", "append log a2/;rename log log.2;pack log.2;write log m1/m2/;rename log log.1;write log b1/", "a1 | a2 m1 m2 b1"},
		{"what was rotated before is not read again", "write log.1 o1/;write log a1/", rotation + ";rename log log-2;write log c1/", "append log c2/", "a1 b1 b2 c1 | c2"},
		{"copied and truncated", "write log a1/a2/", "append log a3/;copy log log.1;truncate log;append log b1/", "", "a1 a2 a3 b1 |"},
		{"copied and truncated in a line", "write log a1/a", "append log 2/a3/;copy log log.1;truncate log;append log b1/", "", "a1 a2 a3 b1 |"},
		{"an older one begins as the copy", "write log.2 a1/o2/;write log a1/", "append log a2/;copy log log.1;truncate log;append log b1/", "", "a1 a2 b1 |"},
		{"copied and truncated while down", "write log a1/a2/", "", "append log a3/;copy log log.1;truncate log;append log b1/", "a1 a2 | a3 b1"},
		{"rotated twice within a tick", "write log a1/", "", "rename log log.1;write log m1/;write log.2 m1/;write log b1/;sametime log.2 log;rename log log.3;write log c1/", "a1 | m1 b1 c1"},
		{"truncated", "write log a1/a2/", "truncate log;append log b1/", "append log b2/", "a1 a2 b1 | b2"},
		{"truncated, and longer than it was", "write log a1/a2/", "truncate log;append log b1/b2/b3/b4/", "", "a1 a2 b1 b2 b3 b4 |"},
		{"truncated in a line", "write log a1/a2", "truncate log;append log b1/", "", "a1 a2 b1 |"},
		{"truncated while down", "write log a1/a2/", "", "truncate log;append log b1/", "a1 a2 | reset"},
		{"gone while down", "write log a1/a2/", "", "remove log;write log b1/b2/b3/", "a1 a2 | reset"},
		{"moved away and not there yet", "write log a1/", "rename log log.1;append log.1 a2/", "write log b1/", "a1 a2 | b1"},
		{"another log's file beside it", "write log a1/", "write logger x/;write log.d/x y/;rename log old;write log b1/", "", "a1 b1 |"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				settle := func() { time.Sleep(3 * followLinger); synctest.Wait() }
				do := func(script string) {
					if script != "" {
						rotate(t, dir, script)
					}
				}
				do(tc.before)
				f := follow(t, dir+"/log", nil)
				settle()
				do(tc.live)
				settle()
				f.cancel()
				<-f.done
				do(tc.down)
				g := follow(t, dir+"/log", f.at)
				settle()
				g.cancel()
				<-g.done
				if errors.Is(g.err, stream.ErrReset) {
					g.bodies = append(g.bodies, "reset")
				}
				if got := strings.TrimSpace(strings.Join(f.bodies, " ") + " | " + strings.Join(g.bodies, " ")); got != tc.want {
					t.Errorf("got %s, want %s (%v, %v)", got, tc.want, f.err, g.err)
				}
			})
		})
	}
}

// From the mark behind its first record a followed file is read from its start, wherever that is by now.
func TestFollowAgain(t *testing.T) {
	const rotation = "rename log log.1;write log b1/"
	for _, tc := range []struct{ name, down, want string }{
		{"nothing", "", "a1 a2"},
		{"it grew", "append log a3/", "a1 a2 a3"},
		{"rotated", rotation, "a1 a2 b1"},
		{"rotated and packed", rotation + ";pack log.1", "a1 a2 b1"},
		{"replaced", "remove log;write log x1/x2/", "reset"},
		{"replaced by one with the same first line", "remove log;write log a1/x2/", "reset"},
		{"gone", "remove log", "reset"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				rotate(t, dir, "write log a1/a2/")
				tp, err := Follow(dir+"/log", Config{})
				if err != nil {
					t.Fatal(err)
				}
				at := afterRecords(t, tp, 1)
				if tc.down != "" {
					rotate(t, dir, tc.down)
				}
				var got []string
				r, err := tp.(*followTap).Again(t.Context(), dir+"/log", at)
				for err == nil {
					var body string
					if body, _, err = nextOf(t, r, 3*followLinger); err == nil {
						got = append(got, body)
					}
				}
				if r != nil {
					_ = r.Close()
				}
				if errors.Is(err, stream.ErrReset) {
					got = append(got, "reset")
				}
				if text := strings.Join(got, " "); text != tc.want {
					t.Errorf("got %s, want %s (%v)", text, tc.want, err)
				}
			})
		})
	}
}

func TestFollowErrors(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		path string
		cfg  Config
		err  string
	}{
		{"x.gz", Config{}, "tap follow x.gz: a packed file does not grow"},
		{"x", Config{Block: true}, "tap follow x: it cuts lines: a block would wait for more of them"},
		{dir, Config{}, "read the input: " + dir + " is a directory"},
		{os.DevNull, Config{}, os.DevNull + " is no regular file: only those can be followed"},
	} {
		tp, err := Follow(tc.path, tc.cfg)
		if err == nil {
			var r stream.Reader
			if r, err = open(t, tp, nil); err == nil {
				_, _, err = readAll(r)
			}
		}
		if text(err) != tc.err {
			t.Errorf("error %q, want %q", text(err), tc.err)
		}
	}
}
