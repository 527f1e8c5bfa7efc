package tap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"weir/node/worker"
	"weir/stream"
)

func openProgram(t *testing.T, sh string, cfg Config) stream.Reader {
	t.Helper()
	run, err := worker.Prints(worker.Config{Sh: sh, OK: []int{1}, Log: cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	tp, err := Program("sh", run, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := open(t, tp, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestProgram(t *testing.T) {
	dir := t.TempDir()
	again := fmt.Sprintf("test -e %[1]s/$0 && exit 0; : >%[1]s/$0; ", dir) // the second time
	for i, tc := range []struct{ name, sh, want, log string }{
		{"lines", `printf 'a\n\nb'`, `["a" "" "b"]`, ""},
		{"nothing", `:`, `[]`, ""},
		{"NULs", `printf 'a\0b\n\0'`, `["a\x00b" "\x00"]`, ""},
		{"a code that is as good as 0", `echo a; exit 1`, `["a"]`, ""},
		{"no input", `cat; echo x`, `["x"]`, ""},
		{"it closes its output, then fails", again + `echo x; exec >&-; sleep 0.1; exit 3`, `["x"]`, "exit 3"},
		{"it fails", again + `printf 'a\nb'; echo wrong >&2; exit 3`, `["a" "b"]`, "wrong"},
		{"it is killed", again + `echo a; kill -9 $$`, `["a"]`, "killed"},
		{"it leaves a daemon", `sleep 5 & echo a`, `["a"]`, ""},
		{"not there", `no-such-program`, `[] error of exit code 78`, ""},
		{"a line without end", `yes | tr -d '\n'`, `[] error of exit code 65`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			sh := strings.ReplaceAll(tc.sh, "$0", fmt.Sprint(i))
			cfg := Config{Log: slog.New(slog.NewTextHandler(&log, nil))}
			bodies, _, err := readAll(openProgram(t, sh, cfg))
			got := fmt.Sprintf("%q", bodies)
			if err != nil {
				got += fmt.Sprintf(" error of exit code %d", stream.ExitCode(err))
			}
			if got != tc.want || !strings.Contains(log.String(), tc.log) {
				t.Errorf("got %s, %v; want %s; the log is %s", got, err, tc.want, log.String())
			}
		})
	}
}

// A program that prints as fast as it can is held up by whoever reads, and ended with the tap: by
// SIGKILL, where it does not hear.
func TestProgramIsEnded(t *testing.T) {
	for _, sh := range []string{"yes", "trap '' TERM; yes", "trap '' TERM; sleep 60"} {
		pidFile := t.TempDir() + "/pid"
		r := openProgram(t, "echo $$ >"+pidFile+"; echo first; "+sh, Config{Block: true})
		if _, _, err := r.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		why := errors.New("why")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, why)
		var err error
		for err == nil {
			_, _, err = r.Next(ctx)
		}
		cancel()
		if !errors.Is(err, why) {
			t.Errorf("%s: error %v", sh, err)
		}
		began := time.Now()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: ended after %v", sh, took)
		}
		text, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(text))); err == nil {
			t.Errorf("%s: it lives on", sh)
		}
		r.(*reader).src = &stdin{} // closed once
	}
}
