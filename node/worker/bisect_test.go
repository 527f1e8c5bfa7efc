package worker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/stream"
)

// numbers is 1 to n, a line each.
func numbers(n int) string { return strings.Join(seq(n), "\n") }

// What fails of a block is found at its last attempt, or at once where the program says that it is
// the data; the rest goes on as if it had not been there.
func TestBisect(t *testing.T) {
	const runs = `echo run >>$RUNS; `
	for _, tc := range []struct {
		name    string
		sh      string
		in      string
		attempt int
		want    string
		err     string
		runs    int // at most
	}{
		{"first attempt", "grep bad && exit 3; cat", "a\nbad\nc", 1, "", "sh: exit 3", 1},
		{"last attempt", `x=$(cat); case $x in *bad*) exit 3;; esac; echo "$x"`, "a\nbad\nc\nd\n", 3, `"a\nc\nd"dead2:"bad"`, "", 9},
		{"at once", `x=$(cat); case $x in *bad*) exit 65;; esac; echo "$x"`, "bad\nb\nc", 1, `"b\nc"dead1:"bad"`, "", 7},
		{"two of ten", `x=$(cat); case "$x" in *[37]*) exit 65;; esac; echo "$x"`, numbers(10), 1, `"1\n2\n4\n5\n6\n8\n9\n10"dead3:"3"dead7:"7"`, "", 17},
		{"alone", "exit 65", "a", 1, "", "sh: exit 65", 1},
		{"all of few", "cat >/dev/null; exit 65", "a\nb", 1, `dead1:"a"dead2:"b"`, "", 3},
		{"all of many", "cat >/dev/null; exit 4", numbers(1000), 3, "", "sh: exit 4", 1 + failsMax},
		{"nothing printed for some", "grep -v 2 || exit 65", "1\n2\n3", 1, `"1\n3"`, "", 1},
		{"prints nothing", "! grep -q 2 || exit 65", "1\n2\n3", 1, `dead2:"2"`, "", 5},
		{"no final newline", `x=$(cat); case $x in *bad*) exit 65;; esac; printf %s "$x"`, "a\nbad\nc\nd", 1, `"a\nc\nd"dead2:"bad"`, "", 7},
		{"is killed", `x=$(cat); case $x in *bad*) kill -SEGV $$;; esac; echo "$x"`, "a\nbad", 3, `"a"dead2:"bad"`, "", 3},
		{"too much", "sed 's/.*/&&&&&/'", "12\n34\n56", 3, `"1212121212""3434343434""5656565656"`, "", 5},
		{"later after all", `x=$(cat); test "$x" = c && exit 75; case $x in *c*) exit 65;; esac; echo "$x"`, "a\nb\nc", 1, "", "sh: exit 75", 5},
		{"fails otherwise at the first attempt", `x=$(cat); test "$x" = c && exit 3; case $x in *c*) exit 65;; esac; echo "$x"`, "a\nb\nc", 1, "", "sh: exit 3", 5},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			log := filepath.Join(t.TempDir(), "runs")
			cfg := Config{Sh: strings.ReplaceAll(runs, "$RUNS", log) + tc.sh}
			if tc.name == "too much" {
				cfg.RecordMax = 12
			}
			p, ctx := start(t, cfg)
			r := record(tc.in)
			r.Attempt = tc.attempt
			var em fakeEmitter
			if err := p.handle(ctx, r, &em); text(err) != tc.err {
				t.Errorf("error %q, want %q", text(err), tc.err)
			}
			if got := bodies(&em); got != tc.want {
				t.Errorf("emitted %s, want %s", got, tc.want)
			}
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(string(text), "run"); got > tc.runs {
				t.Errorf("%d processes, want at most %d", got, tc.runs)
			}
			if len(p.slots) > 0 {
				t.Error("a slot is still taken")
			}
		})
	}
}

// Where very many lines fail, most go out as they are, in parts.
func TestBisectBound(t *testing.T) {
	t.Parallel()
	p, ctx := start(t, Config{Sh: `x=$(cat); test $x -ge 0 2>/dev/null && test $(($x % 2)) = 0 && echo $x || exit 65`})
	var em fakeEmitter
	if err := p.handle(ctx, record(numbers(1000)), &em); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, o := range em.outs {
		n += strings.Count(string(o.Body), "\n") + 1
	}
	last := em.outs[len(em.outs)-1]
	if got := last.Header["weir-line"]; n != 1000 || len(em.outs) > splitsMax || got != "501-1000" {
		t.Errorf("%d lines in %d outputs, the last of lines %s", n, len(em.outs), got)
	}
}

// A letter says which line, and why; what the record had stays.
func TestBisectLetter(t *testing.T) {
	p, ctx := start(t, Config{Sh: `read x; echo "no $x" >&2; test "$x" = b && exit 65; read y && exit 65; echo "$x"`, Role: "r"})
	r := record("a\nb")
	r.Key, r.Header = []byte("k"), map[string]string{"path": "f"}
	em := fakeEmitter{errs: true}
	if err := p.handle(ctx, r, &em); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%s %v %s", em.outs[1].Port, em.outs[1].Header, em.outs[1].Key)
	if want := "dead map[path:f weir-attempts:1 weir-line:2 weir-reason:sh: exit 65: no b weir-role:r] k"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := bodies(&em), `"a"dead2:"b"err"no a"err"no b"`; got != want {
		t.Errorf("emitted %s, want %s", got, want)
	}
	if len(r.Header) != 1 {
		t.Errorf("the record's own header is %v", r.Header)
	}
}

// Where nobody keeps letters, the run stops and says which line it was.
func TestBisectWithoutLetters(t *testing.T) {
	p, ctx := start(t, Config{Sh: `x=$(cat); case $x in *bad*) exit 65;; esac; echo "$x"`})
	em := fakeEmitter{noDead: true}
	err := p.handle(ctx, record("a\nb\nbad"), &em)
	if got, want := text(err), "line 3 of it: sh: exit 65"; got != want || stream.ExitCode(err) != 65 {
		t.Errorf("error %q with code %d, want %q", got, stream.ExitCode(err), want)
	}
}

// What an exit code says of the record is in the error.
func TestExitCodes(t *testing.T) {
	for code, want := range map[int]int{1: 0, 65: 65, 75: 75, 126: 78, 127: 78} {
		p, ctx := start(t, Config{Sh: fmt.Sprintf("echo oh >&2; exit %d", code)})
		err := p.handle(ctx, record("a"), &fakeEmitter{})
		if got := stream.ExitCode(err); got != want {
			t.Errorf("exit %d is an error with code %d, want %d", code, got, want)
		}
		var said interface{ Stderr() string }
		if !errors.As(err, &said) || said.Stderr() != "oh" {
			t.Errorf("exit %d: %v does not have its stderr", code, err)
		}
	}
}

// A program that hangs is ended, with all that it started; one that is slow is not.
func TestDeadline(t *testing.T) {
	const hung = "run sh: it neither read nor printed a byte for 2.5s, and was killed: raise deadline if it is slow"
	large := strings.Repeat("x", 6*pipeBytes)
	for _, tc := range []struct{ name, sh, in, want, err string }{
		{"hangs", "sleep 600", "a", "", hung},
		{"hangs, ignoring SIGTERM", "trap '' TERM; sleep 600; sleep 600", "a", "", hung},
		{"stops reading", "head -c 100; sleep 600", large, "", hung},
		{"stops printing", "echo a; sleep 600", "a", "", hung},
		{"prints now and then", "for i in 1 2 3 4 5 6; do sleep 0.6; echo $i; done", "a", `"1\n2\n3\n4\n5\n6"`, ""},
		{"says now and then", "for i in 1 2 3 4 5 6; do sleep 0.6; echo $i >&2; done; echo a", "a", `"a"err"1"err"2"err"3"err"4"err"5"err"6"`, ""},
		{"reads now and then", "for i in 1 2 3 4 5 6; do sleep 0.6; head -c 900000 >/dev/null; done; cat >/dev/null; echo a", large, `"a"`, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWatch(t)
			p, ctx := start(t, Config{Sh: "exec 3>" + w.path + "; echo up >&3; " + tc.sh, Deadline: 2500 * time.Millisecond})
			em := fakeEmitter{errs: true}
			done := make(chan error, 1)
			go func() { done <- p.handle(ctx, record(tc.in), &em) }() // ended by the program's deadline
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

// A block of which one line hangs the program loses that line, and is done in time.
func TestBisectHung(t *testing.T) {
	t.Parallel()
	p, ctx := start(t, Config{Sh: `while read x; do test "$x" = 3 && sleep 600; echo "$x"; done`, Deadline: time.Second})
	r := record(numbers(4))
	r.Attempt = 3
	em := fakeEmitter{errs: true}
	if err := p.handle(ctx, r, &em); err != nil {
		t.Fatal(err)
	}
	if got, want := bodies(&em), `"1\n2\n4"dead3:"3"`; got != want {
		t.Errorf("emitted %s, want %s", got, want)
	}
}

// What a program writes to stderr goes out behind its output, so much of it; of an attempt that
// fails it does not.
func TestErrPort(t *testing.T) {
	for _, tc := range []struct{ sh, want string }{
		{"echo a >&2; echo b; printf c >&2", `"b"err"a"err"c"`},
		{"echo a >&2; exit 1", ``},
		{"seq 100000 >&2", `err"` + strings.Join(seq(errLinesMax), `"err"`) + `"`},
		{"head -c 100000 /dev/zero | tr '\\0' x >&2", strings.Repeat(`err"`+strings.Repeat("x", stderrLineMax)+`"`, errBytesMax/stderrLineMax)},
	} {
		p, ctx := start(t, Config{Sh: tc.sh})
		em := fakeEmitter{errs: true}
		_ = p.handle(ctx, record("a"), &em)
		if got := bodies(&em); got != tc.want {
			t.Errorf("%s: emitted %.200s, want %.200s", tc.sh, got, tc.want)
		}
	}
}
