package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/stream"
)

// start is a worker that a test may wait for: a program that hangs fails it.
func start(t *testing.T, cfg Config) (*program, context.Context) {
	t.Helper()
	p, err := newProgram(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.grace = 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	t.Cleanup(cancel)
	return p, ctx
}

func record(body string) stream.Record {
	return stream.Record{Attempt: 1, Out: stream.Out{Body: []byte(body)}}
}

// bodies is what was emitted, each body quoted, behind its port and the line it was.
func bodies(f *fakeEmitter) string {
	var b strings.Builder
	for _, o := range f.outs {
		if b.WriteString(o.Port); o.Header["weir-line"] != "" {
			b.WriteString(o.Header["weir-line"] + ":")
		}
		fmt.Fprintf(&b, "%q", o.Body)
	}
	return b.String()
}

func TestHandle(t *testing.T) {
	big := strings.Repeat("0123456789abcde\n", 40_000) + "end" // 640 KB: more than a pipe, then less
	for _, tc := range []struct {
		name string
		cfg  Config
		in   string
		want string // what is emitted, quoted
		err  string // the error's text
	}{
		{"cat", Config{Exec: []string{"cat"}}, "a\nb", `"a\nb"`, ""},
		{"empty line", Config{Exec: []string{"cat"}}, "", `""`, ""},
		{"block of empty lines", Config{Exec: []string{"cat"}}, "\n\n", `"\n\n"`, ""},
		{"large", Config{Exec: []string{"cat"}}, big, fmt.Sprintf("%q", big), ""},
		{"pipe of filters", Config{Sh: "grep 7 | sed s/7/x/"}, "7\n8\n17", `"x\n1x"`, ""},
		{"arguments as they are", Config{Exec: []string{"printf", "%s", "a b 'c' $HOME"}}, "", `"a b 'c' $HOME"`, ""},
		{"nothing printed", Config{Exec: []string{"true"}}, "a", "", ""},
		{"only one newline stripped", Config{Sh: `printf 'a\n\n'`}, "", `"a\n"`, ""},
		{"no final newline", Config{Sh: "printf a"}, "", `"a"`, ""},
		{"NULs", Config{Sh: `printf 'a\000b\n\000'`}, "", `"a\x00b\n\x00"`, ""},
		{"NULs in", Config{Exec: []string{"cat"}}, "a\x00\x00b", `"a\x00\x00b"`, ""},
		{"reads a part", Config{Exec: []string{"head", "-1"}}, "first\n" + big + big + big, `"first"`, ""},
		{"closes stdin", Config{Sh: "exec <&-; echo done"}, big + big, `"done"`, ""},
		{"never reads", Config{Exec: []string{"echo", "hi"}}, big + big, `"hi"`, ""},
		{"no match", Config{Exec: []string{"grep", "z"}}, "a", "", "grep: exit 1"},
		{"no match, and ok", Config{Exec: []string{"grep", "z"}, OK: []int{1}}, "a", "", ""},
		{"ok with output", Config{Sh: "echo some; exit 3", OK: []int{1, 3}}, "a", `"some"`, ""},
		{"fails after output", Config{Sh: "echo some; exit 4"}, "a", "", "sh: exit 4"},
		{"stderr in the error", Config{Sh: "echo 'grep: Unmatched [' >&2; exit 2"}, "a", "", "sh: exit 2: grep: Unmatched ["},
		{"stderr is no answer", Config{Sh: "echo warning >&2; echo answer"}, "a", `"answer"`, ""},
		{"killed", Config{Sh: "echo oh >&2; kill -SEGV $$"}, "a", "", "sh: killed by SIGSEGV: oh"},
		{"at the limit", Config{Sh: "printf 12345678; echo", RecordMax: 8}, "", `"12345678"`, ""},
		{"above the limit", Config{Sh: "printf 123456789", RecordMax: 8}, "", `"123456789"`, ""},
		{"above by a line", Config{Sh: "printf 123456789; echo", RecordMax: 8}, "", "", "sh: printed more than 8 bytes for one record and was killed: raise record-max"},
		{"endless", Config{Exec: []string{"yes"}}, "", "", "yes: printed more than 1048576 bytes for one record and was killed: raise record-max"},
		{"endless without newline", Config{Exec: []string{"cat", "/dev/zero"}}, "", "", "cat: printed more than 1048576 bytes for one record and was killed: raise record-max"},
		{"endless behind a shell that ignores signals", Config{Sh: "trap '' TERM PIPE; yes; sleep 600"}, "", "", "sh: printed more than 1048576 bytes for one record and was killed: raise record-max"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, ctx := start(t, tc.cfg)
			var em fakeEmitter
			err := p.handle(ctx, record(tc.in), &em)
			if text(err) != tc.err {
				t.Errorf("error %q, want %q", text(err), tc.err)
			}
			if got := bodies(&em); got != tc.want {
				t.Errorf("emitted %.100s, want %.100s", got, tc.want)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A handler is used again and again: nothing of one record may be in the next.
func TestHandleAgain(t *testing.T) {
	p, ctx := start(t, Config{Sh: "cat; echo >&2 heard; read x || test -z \"$FAIL\""})
	for i := range 20 {
		in := strings.Repeat("x", (i*7919)%100_000)
		var em fakeEmitter
		if err := p.handle(ctx, record(in), &em); err != nil {
			t.Fatal(err)
		}
		if got := bodies(&em); got != fmt.Sprintf("%q", in) {
			t.Fatalf("record %d: got %d bytes, want %d", i, len(got), len(in))
		}
	}
}

// Wherever a text is cut into blocks, a filter of lines gives what it gives for the whole
// (SEEDS A11).
func TestBlocksAreThePipe(t *testing.T) {
	const sh = "grep 7 | sed s/7/x/"
	whole, err := exec.Command("sh", "-c", "seq 1 1000 | "+sh).Output()
	if err != nil {
		t.Fatal(err)
	}
	p, ctx := start(t, Config{Sh: sh, OK: []int{1}})
	for _, size := range []int{7, 100, 333, 1000} {
		var em fakeEmitter
		for lines := range slices.Chunk(seq(1000), size) {
			if err := p.handle(ctx, record(strings.Join(lines, "\n")), &em); err != nil {
				t.Fatal(err)
			}
		}
		var got strings.Builder
		for _, o := range em.outs {
			fmt.Fprintf(&got, "%s\n", o.Body)
		}
		if got.String() != string(whole) {
			t.Errorf("blocks of %d lines: got %d bytes, the pipe gives %d", size, got.Len(), len(whole))
		}
	}
}

func seq(n int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = strconv.Itoa(i + 1)
	}
	return lines
}

func TestKeyAndHeaderStay(t *testing.T) {
	p, ctx := start(t, Config{Exec: []string{"cat"}})
	r := record("a")
	r.Key, r.Header = []byte("k"), map[string]string{"path": "f"}
	var em fakeEmitter
	if err := p.handle(ctx, r, &em); err != nil {
		t.Fatal(err)
	}
	if o := em.outs[0]; string(o.Key) != "k" || o.Header["path"] != "f" {
		t.Errorf("emitted %+v", o)
	}
}

func TestConfigErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	file("plain.sh", "#!/bin/sh\n", 0o644)
	file("nobang", "echo hi\n", 0o755)
	file("badbang", "#!/no/such/interpreter\n", 0o755)
	for _, tc := range []struct {
		name string
		cfg  Config
		err  string // DIR stands for dir, … for the shell's words
	}{
		{"nothing", Config{}, "worker: fields Exec and Sh: one of them must name a program"},
		{"both", Config{Exec: []string{"a"}, Sh: "b"}, "worker: fields Exec and Sh: only one of them may be set"},
		{"no name", Config{Exec: []string{""}}, "worker: field Exec: the program's name is empty"},
		{"negative procs", Config{Sh: "a", Procs: -1}, "worker: field Procs: -1 is negative"},
		{"line with codes", Config{Sh: "a", Line: true, OK: []int{1}}, "worker: field OK: a program that stays is not judged by its exit code"},
		{"negative deadline", Config{Sh: "a", Line: true, Deadline: -1}, "worker: field Deadline: -1ns is negative"},
		{"bad code", Config{Sh: "a", OK: []int{256}}, "worker: OK: 256 is no exit code: 0 to 255"},
		{"not on PATH", Config{Exec: []string{"no-such-program"}}, "run no-such-program: no program of that name on PATH"},
		{"no file", Config{Exec: []string{"./no.sh"}}, "run no.sh: there is no file DIR/no.sh"},
		{"directory", Config{Exec: []string{"../" + filepath.Base(dir)}}, "run " + filepath.Base(dir) + ": DIR is a directory"},
		{"not executable", Config{Exec: []string{"./plain.sh"}}, "run plain.sh: DIR/plain.sh is not executable: chmod +x it"},
		{"no interpreter line", Config{Exec: []string{"./nobang"}}, "run nobang: DIR/nobang is no program for this machine: has it a #! line?"},
		{"bad interpreter line", Config{Exec: []string{"./badbang"}}, "run badbang: fork/exec DIR/badbang: no such file or directory: the program, the interpreter in its #! line or its directory is gone"},
		{"shell finds nothing", Config{Sh: "no-such-program"}, "sh: exit 127, program not found: …no-such-program…"},
		{"shell may not run it", Config{Sh: "./plain.sh"}, "sh: exit 126, program not executable: …./plain.sh…"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.Dir = dir
			p, err := newProgram(tc.cfg)
			if err == nil {
				err = p.handle(t.Context(), record(""), &fakeEmitter{})
			}
			want := strings.ReplaceAll(tc.err, "DIR", dir)
			for _, part := range strings.Split(want, "…") {
				if !strings.Contains(text(err), part) {
					t.Errorf("error %q, want %q", text(err), want)
				}
			}
			var ce *stream.ConfigError
			if !strings.HasPrefix(want, "worker:") && !errors.As(err, &ce) {
				t.Errorf("%q is no ConfigError", text(err))
			}
		})
	}
}

// 127 that the user listed as ok is an answer like any other.
func TestExit127OK(t *testing.T) {
	p, ctx := start(t, Config{Sh: "exit 127", OK: []int{127}})
	if err := p.handle(ctx, record(""), &fakeEmitter{}); err != nil {
		t.Error(err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("WEIR_SECRET", "deep")
	t.Setenv("WEIR_ROLE", "of another")
	t.Setenv("MINE", "kept")
	p, ctx := start(t, Config{
		Sh:       `echo $WEIR_PIPELINE $WEIR_ROLE $WEIR_NODE $WEIR_ATTEMPT $PYTHONUNBUFFERED $MINE ${WEIR_SECRET-none}`,
		Pipeline: "enrich", Role: "facebook", Node: "n3",
	})
	r := record("")
	r.Attempt = 2
	var em fakeEmitter
	if err := p.handle(ctx, r, &em); err != nil {
		t.Fatal(err)
	}
	if got, want := bodies(&em), `"enrich facebook n3 2 1 kept none"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDir(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f.sh"), []byte("#!/bin/sh\ncat f.sh $1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "words"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []Config{
		{Exec: []string{"./f.sh", "words"}, Dir: dir},
		{Sh: "./f.sh words", Dir: dir},
	} {
		p, ctx := start(t, cfg)
		var em fakeEmitter
		if err := p.handle(ctx, record(""), &em); err != nil {
			t.Fatal(err)
		}
		if got, want := bodies(&em), `"#!/bin/sh\ncat f.sh $1\nx"`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestProcs(t *testing.T) {
	dir := t.TempDir()
	const procs = 2
	p, ctx := start(t, Config{Sh: `mkdir $$; ls | wc -l; sleep 0.05; rmdir $$`, Dir: dir, Procs: procs})
	var em fakeEmitter
	var wg sync.WaitGroup
	for range 4 * procs {
		wg.Go(func() {
			if err := p.handle(ctx, record(""), &em); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	most := ""
	for _, o := range em.outs {
		most = max(most, string(bytes.TrimSpace(o.Body)))
	}
	if most != "2" {
		t.Errorf("%s processes at once, want 2", most)
	}
}

func TestCancelBeforeASlotIsFree(t *testing.T) {
	p, _ := start(t, Config{Exec: []string{"cat"}, Procs: 1})
	p.slots <- struct{}{}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if err := p.handle(ctx, record(""), &fakeEmitter{}); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
}
