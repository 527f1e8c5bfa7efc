package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/stream"
)

func records(bodies ...string) []stream.Record {
	var rs []stream.Record
	for _, b := range bodies {
		rs = append(rs, record(b))
	}
	return rs
}

// What a program does with a batch, and how it ends, says what becomes of it.
func TestSinkProgram(t *testing.T) {
	big := strings.Repeat("0123456789abcde\n", 200_000) + "end"
	for _, tc := range []struct {
		name string
		sh   string
		in   []stream.Record
		want string // of the file out
		exit int
		err  string
	}{
		{"lines", "cat >out", records("a", "", "b\nc"), "a\n\nb\nc\n", 0, ""},
		{"more than a pipe holds", "cat >out; echo done", records(big, big), big + "\n" + big + "\n", 0, ""},
		{"prints all", "tee out", records(big), big + "\n", 0, ""},
		{"reads nothing", "exec <&-; sleep .1; echo >out", records(big), "\n", 0, ""},
		{"attempt", `echo $WEIR_ATTEMPT $WEIR_ROLE >out`, records("a"), "1 r\n", 0, ""},
		{"exit 1", "cat >out; echo why >&2; exit 1", records("a"), "a\n", 0, "sh: exit 1: why"},
		{"exit 65", "exit 65", records("a"), "", 65, "sh: exit 65"},
		{"exit 75", "exit 75", records("a"), "", 75, "sh: exit 75"},
		{"exit 127", "no-such-program-x", records("a"), "", 78, "sh: exit 127, program not found: /bin/sh: 1: no-such-program-x: not found"},
		{"killed", "kill -9 $$", records("a"), "", 0, "sh: killed by SIGKILL, perhaps for want of memory"},
		{"a daemon stays", "sleep 60 & cat >out", records("a"), "a\n", 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, err := NewSink(Config{Sh: tc.sh, Dir: dir, Role: "r"})
			if err != nil {
				t.Fatal(err)
			}
			s.(*sink).grace = 200 * time.Millisecond
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			err = s.Write(ctx, tc.in, stream.Seen{})
			if fmt.Sprint(err) != tc.err && (err != nil || tc.err != "") || stream.ExitCode(err) != tc.exit {
				t.Errorf("error %v (%d), want %s (%d)", err, stream.ExitCode(err), tc.err, tc.exit)
			}
			if stream.IsPoison(err) != (tc.exit == 65) {
				t.Errorf("error %v is poison: %v", err, stream.IsPoison(err))
			}
			if got, _ := os.ReadFile(filepath.Join(dir, "out")); string(got) != tc.want {
				t.Errorf("it wrote %d bytes %.40q, want %d %.40q", len(got), got, len(tc.want), tc.want)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSinkProgramLogs(t *testing.T) {
	var log bytes.Buffer
	s, err := NewSink(Config{Sh: "echo said; echo warned >&2", Role: "r", Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), records("a"), stream.Seen{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"level=INFO msg=stdout role=r line=said\n", "level=WARN msg=stderr role=r line=warned\n"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has %s, want %s", &log, want)
		}
	}
}

// A program that does not end is ended with its role, children and all.
func TestSinkProgramCancelled(t *testing.T) {
	dir := t.TempDir()
	s, err := NewSink(Config{Sh: "trap '' TERM; echo >started; sleep 600", Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s.(*sink).grace = 200 * time.Millisecond
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	go func() { // ended by the file, or the test's time
		for t.Context().Err() == nil {
			if _, err := os.Stat(filepath.Join(dir, "started")); err == nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		cancel(why)
	}()
	if err := s.Write(ctx, records("a"), stream.Seen{}); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	if err := s.Write(ctx, records("a"), stream.Seen{}); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
}

// A program that hangs is killed, children and all, and its records have failed.
func TestSinkProgramHangs(t *testing.T) {
	s, err := NewSink(Config{Sh: "cat >/dev/null; sleep 600", Deadline: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = s.Write(ctx, records("a"), stream.Seen{})
	const want = "run sh: it neither read nor printed a byte for 300ms, and was killed: raise deadline if it is slow"
	if err == nil || err.Error() != want || stream.ExitCode(err) != 0 {
		t.Errorf("error %v (%d), want %s", err, stream.ExitCode(err), want)
	}
}

func TestSinkProgramNotThere(t *testing.T) {
	if _, err := NewSink(Config{Exec: []string{"no-such-program-x"}}); stream.ExitCode(err) != 78 {
		t.Errorf("error %v (%d)", err, stream.ExitCode(err))
	}
}
