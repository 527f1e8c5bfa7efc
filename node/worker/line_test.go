package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"weir/stream"
)

// fakeBatch keeps what records become.
type fakeBatch struct {
	emitters []fakeEmitter
	mu       sync.Mutex
	nacks    map[int]error
}

func newFakeBatch(n int) *fakeBatch {
	return &fakeBatch{emitters: make([]fakeEmitter, n), nacks: make(map[int]error)}
}

func (f *fakeBatch) To(i int) stream.Emitter { return &f.emitters[i] }

func (f *fakeBatch) Nack(i int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nacks[i] = err
}

// fates is what became of each record: "x" emitted, or !error.
func (f *fakeBatch) fates() string {
	var b strings.Builder
	for i := range f.emitters {
		b.WriteString(bodies(&f.emitters[i]))
		if err := f.nacks[i]; err != nil {
			fmt.Fprintf(&b, "!%v ", err)
		}
	}
	return b.String()
}

// startLine runs a line program until the test ends.
func startLine(t *testing.T, cfg Config) (*line, context.Context) {
	t.Helper()
	cfg.Line = true
	if cfg.Procs == 0 {
		cfg.Procs = 1
	}
	p, ctx := start(t, cfg)
	l := newLine(p, cfg)
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan struct{})
	go func() { defer close(ran); _ = l.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ran })
	return l, ctx
}

func batchOf(bodies ...string) []stream.Record {
	rs := make([]stream.Record, len(bodies))
	for i, b := range bodies {
		rs[i] = record(b)
	}
	return rs
}

// need skips a test of a program that is not there.
func need(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("%s is not here: %v", name, err)
		}
	}
}

const python = `import sys
for l in sys.stdin: print(l.rstrip("\n").upper())`

// Real programs answer lines, and blocks of them with blocks.
func TestLinePrograms(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		cfg  Config
		in   []string
		want string
	}{
		{"cat", Config{Exec: []string{"cat"}}, []string{"a", "", "b\x00\r"}, `"a""""b\x00\r"`},
		{"blocks", Config{Exec: []string{"cat"}}, []string{"a\nb", "c", "\n\n", "d\n"}, `"a\nb""c""\n\n""d\n"`},
		{"sed", Config{Exec: []string{"sed", "-u", "s/a/b/"}}, []string{"a", "aa\nca"}, `"b""ba\ncb"`},
		{"awk that counts", Config{Exec: []string{"mawk", "-Winteractive", "{print NR, $0}"}}, []string{"a", "b", "c\nd"}, `"1 a""2 b""3 c\n4 d"`},
		{"python", Config{Exec: []string{"python3", "-c", python}}, []string{"a", "b"}, `"A""B"`},
		{"jq", Config{Exec: []string{"jq", "--unbuffered", "-c", ".a"}}, []string{`{"a":1}`, `{"b":2}`}, `"1""null"`},
		{"perl", Config{Exec: []string{"perl", "-pe", "$| = 1; s/a/b/"}}, []string{"a"}, `"b"`},
		{"a shell's pipe", Config{Sh: "sed -u s/a/b/ | sed -u s/b/c/"}, []string{"a", "b"}, `"c""c"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if len(tc.cfg.Exec) > 0 {
				need(t, tc.cfg.Exec[0])
			}
			l, ctx := startLine(t, tc.cfg)
			for range 2 { // the second time the program is there
				b := newFakeBatch(len(tc.in))
				if err := l.handle(ctx, batchOf(tc.in...), b); err != nil {
					t.Fatal(err)
				}
				if got := b.fates(); got != tc.want && !strings.Contains(tc.name, "counts") {
					t.Errorf("got %s, want %s", got, tc.want)
				}
			}
		})
	}
}

// What a program may do wrong ends it, and its records say how.
func TestLineErrors(t *testing.T) {
	t.Parallel()
	const asks = "sh printed a line that nobody asked for: in mode: line it must answer each line with one; mode: each lets it print any number"
	for _, tc := range []struct {
		name   string
		sh     string
		in     []string
		config bool
		want   string // the fates, with ~ for the error of the record before
	}{
		{"dies", "read x; echo $x; read x; echo oh >&2; exit 4", []string{"a", "b", "c"}, false, `"a"!sh: exit 4: oh !~`},
		{"is killed", "kill -SEGV $$", []string{"a"}, false, "!sh: killed by SIGSEGV "},
		{"ends early", "head -n 1", []string{"a", "b"}, false, `"a"!sh: ended with 1 of its lines unanswered: in mode: line it must read until its input ends `},
		{"ends in the middle of a line", "read x; printf half", []string{"a"}, false, "!sh: ended in the middle of an answer "},
		{"ends in the middle of a block", "sed -u 2q", []string{"a\nb\nc"}, false, "!sh: ended with 1 of its lines unanswered: in mode: line it must read until its input ends "},
		{"closes its output", "exec cat >&-", []string{"a"}, false, "!sh: exit 1: cat: standard output: Bad file descriptor "},
		{"closes its output and lives", "exec >&-; trap '' TERM; sleep 600; sleep 600", []string{"a"}, false, "!sh: closed its output, and was killed as it did not end "},
		{"not found", "no-such-program", []string{"a"}, true, "!sh: exit 127, program not found: "},
		{"holds back", "sed s/a/b/", []string{"a", "b"}, true, "!sh has read a line and not answered it for 1s: run sed -u, so that it holds no answer back; one that does not answer every line needs mode: each !~"},
		{"drops", "cat >/dev/null", []string{"a"}, true, "!sh has read a line and not answered it for 1s: let it flush each answer (as python3 -u does), or raise deadline if it is slow; one that does not answer every line needs mode: each "},
		{"two for one", "sed -u p", []string{"a"}, true, "!" + asks + " "},
		{"two for one, one after the other", `while read x; do echo "$x"; echo "$x"; done`, []string{"a"}, true, "!" + asks + " "},
		{"a greeting", "echo hello; exec cat", []string{"a"}, true, "!" + asks + " "},
		{"a line without end", "read x; exec cat /dev/zero", []string{"a"}, false, "!sh: printed more than 1048576 bytes for one record and was killed: raise record-max "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l, ctx := startLine(t, Config{Sh: tc.sh})
			l.probe = time.Second
			b := newFakeBatch(len(tc.in))
			if err := l.handle(ctx, batchOf(tc.in...), b); err != nil {
				t.Fatal(err)
			}
			if tc.config != errors.As(b.nacks[0], new(*stream.ConfigError)) {
				t.Errorf("%v: a ConfigError: %v", b.nacks[0], !tc.config)
			}
			last, _, _ := strings.Cut(tc.want, "!~")
			_, last, _ = strings.Cut(last, "!")
			want := strings.ReplaceAll(tc.want, "~", last)
			if got := b.fates(); !strings.HasPrefix(got, want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// An answer is as large as a record may be, however many lines it is of.
func TestLineRecordMax(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"1234567", "123\n567", "12345678", "1\n3\n5\n78"} {
		l, ctx := startLine(t, Config{Exec: []string{"cat"}, RecordMax: 7})
		b := newFakeBatch(1)
		if err := l.handle(ctx, batchOf(in), b); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%q", in)
		if len(in) > 7 {
			want = "!cat: printed more than 7 bytes for one record and was killed: raise record-max "
		}
		if got := b.fates(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A program that is slow to start, or between two answers, is not one that holds back.
func TestLineSlowPrograms(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, sh string
		deadline time.Duration
		want     string
	}{
		{"starts late", "sleep 1.5; cat", 0, `"a""b""c"`},
		{"never reads", "sleep 600", 200 * time.Millisecond, "!sh has not read a line for 200ms: raise deadline if it is slow to start "},
		{"slow answers", `while read x; do sleep 0.75; echo "$x"; done`, 2 * time.Second, `"a""b""c"`},
		{"answers one", `read x; echo "$x"; sleep 600`, time.Second, `"a"!sh: gave no answer for 1s, with 2 of its lines unanswered, and was killed: in mode: line it must answer each; raise deadline if it is slow `},
		{"answers two", `read x; echo "$x"; read x; echo "$x"; sleep 600`, time.Second, `"a""b"!sh: gave no answer for 1s, with 1 of its lines unanswered, and was killed: in mode: line it must answer each; raise deadline if it is slow `},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			l, ctx := startLine(t, Config{Sh: tc.sh, Deadline: tc.deadline})
			if tc.deadline == 0 {
				l.probe = 500 * time.Millisecond
			}
			b := newFakeBatch(3)
			if err := l.handle(ctx, batchOf("a", "b", "c"), b); err != nil {
				t.Fatal(err)
			}
			if got := b.fates(); !strings.HasPrefix(got, tc.want) {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// Much more than pipes hold goes through at once, in order, in lines and in blocks.
func TestLineFlow(t *testing.T) {
	t.Parallel()
	for _, procs := range []int{1, 3} {
		l, ctx := startLine(t, Config{Exec: []string{"cat"}, Procs: procs, RecordMax: 8 << 20})
		l.proven.Store(true)
		var group sync.WaitGroup
		for g := range 4 {
			group.Go(func() {
				for n := range 20 {
					var in []string
					for i := range 100 {
						in = append(in, fmt.Sprintf("%d %d %d %s", g, n, i, strings.Repeat("a line\n", i*n/5)))
					}
					if n == 10 {
						in[50] = strings.Repeat("0123456789abcde\n", 100_000) // 1.6 MB
					}
					b := newFakeBatch(len(in))
					if err := l.handle(ctx, batchOf(in...), b); err != nil {
						t.Error(err)
						return
					}
					for i, want := range in {
						if o := b.emitters[i].outs; len(o) != 1 || string(o[0].Body) != want {
							t.Errorf("record %d of batch %d: %d outputs, error %v", i, n, len(o), b.nacks[i])
							return
						}
					}
				}
			})
		}
		group.Wait()
	}
}

// A process that ended is started again for the next record, later each time.
func TestLineRestarts(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	l, ctx := startLine(t, Config{Sh: `read x; echo "$$ $x"`, Log: lines(&log), Role: "r"})
	pids := make(map[string]bool)
	begin := time.Now()
	for len(pids) < 4 {
		b := newFakeBatch(1)
		if err := l.handle(ctx, batchOf("a"), b); err != nil {
			t.Fatal(err)
		}
		if len(b.nacks) == 0 { // it was not given to one that had just answered its last
			pids[b.fates()] = true
		}
	}
	if took, least := time.Since(begin), (100+200+400)/2*time.Millisecond; took < least {
		t.Errorf("4 starts took %v, want at least %v", took, least)
	}
	if got := log.String(); !strings.Contains(got, `msg="program ended" role=r err="sh: `) || !strings.Contains(got, "again_in=") {
		t.Errorf("the log has %s", got)
	}
}

// A record that was blamed before is alone with its process, so that it ends for no other.
func TestLineSuspects(t *testing.T) {
	t.Parallel()
	l, ctx := startLine(t, Config{Sh: `while read x; do test "$x" = bad && exit 3; echo "$x"; done`})
	rs := batchOf("a", "bad", "b", "c")
	b := newFakeBatch(len(rs))
	if err := l.handle(ctx, rs, b); err != nil {
		t.Fatal(err)
	}
	if got, want := b.fates(), `"a"!sh: exit 3 !sh: exit 3 !sh: exit 3 `; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	for i := range rs {
		rs[i].Attempt = 2
	}
	b = newFakeBatch(len(rs))
	if err := l.handle(ctx, rs, b); err != nil {
		t.Fatal(err)
	}
	if got, want := b.fates(), `"a"!sh: exit 3 "b""c"`; got != want {
		t.Errorf("again got %s, want %s", got, want)
	}
}

// A record that a process took and had no room for is not blamed for its end: the next has it.
func TestLineNextRecord(t *testing.T) {
	t.Parallel()
	tell := filepath.Join(t.TempDir(), "tell")
	if err := syscall.Mkfifo(tell, 0o600); err != nil {
		t.Fatal(err)
	}
	l, ctx := startLine(t, Config{Sh: `read x; test "$x" = bad && read y <` + tell + ` && exit 3; echo "$x"; exec cat`})
	l.proven.Store(true)
	bad, good := newFakeBatch(1), newFakeBatch(1)
	var done sync.WaitGroup
	done.Add(2)
	for _, j := range []job{
		{batch: bad, records: batchOf("bad"), to: 1, cost: 1, done: &done},
		{batch: good, records: batchOf("good"), to: 1, cost: windowBytes, done: &done},
	} {
		select {
		case l.jobs <- j: // the second is taken by the process that has the first
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	if err := os.WriteFile(tell, []byte("end\n"), 0); err != nil {
		t.Fatal(err)
	}
	done.Wait()
	if got, want := bad.fates()+good.fates(), `!sh: exit 3 "good"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A program that ends whenever it is started, and answers nothing, ends its run within seconds.
func TestLineNeverAnswers(t *testing.T) {
	t.Parallel()
	l, ctx := startLine(t, Config{Sh: `read x; echo "no module" >&2; exit 1`})
	for starts := 1; ; starts++ {
		b := newFakeBatch(1)
		if err := l.handle(ctx, batchOf("a"), b); err != nil {
			t.Fatal(err)
		}
		if !errors.As(b.nacks[0], new(*stream.ConfigError)) {
			continue
		}
		if starts < 4 {
			t.Errorf("only %d starts", starts)
		}
		if got, want := b.nacks[0].Error(), "sh: exit 1: no module; it was started again and again and never answered: try it by hand"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		return
	}
}

// When the role ends, the program's input does: it may end by itself; one that does not is killed,
// with all that it started.
func TestLineEnds(t *testing.T) {
	for _, tc := range []struct{ name, sh, says string }{
		{"at the end of its input", `exec 3>$WATCH; while read x; do echo "$x"; done; echo bye >&3`, "bye"},
		{"ignoring it", `exec 3>$WATCH; read x; echo "$x"; trap 'echo term >&3; exit' TERM; while :; do sleep 0.01; done`, "term"},
		{"ignoring all", `exec 3>$WATCH; read x; echo "$x"; echo up >&3; trap '' TERM; sleep 600; sleep 600`, "up"},
		{"not reading", `exec 3>$WATCH; read x; echo "$x"; echo up >&3; exec sleep 600`, "up"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWatch(t)
			t.Setenv("WATCH", w.path)
			p, ctx := start(t, Config{Sh: tc.sh, Procs: 1})
			l := newLine(p, Config{Sh: tc.sh})
			ctx, cancel := context.WithCancelCause(ctx)
			why := errors.New("the node leaves")
			done := make(chan error, 2) // the test may have failed and not read them
			go func() { done <- l.Run(ctx) }()
			first, rest := newFakeBatch(1), newFakeBatch(1)
			go func() {
				_ = l.handle(ctx, batchOf("a"), first)
				if tc.name == "not reading" {
					_ = l.handle(ctx, batchOf(strings.Repeat("x", 3*pipeBytes)), rest)
				} else {
					cancel(why)
				}
				done <- nil
			}()
			if tc.name == "not reading" {
				w.line(t)
				cancel(why)
			} else if got := w.line(t); got != tc.says {
				t.Errorf("said %q, want %q", got, tc.says)
			}
			<-done
			<-done
			w.end(t)
			if got := first.fates(); got != `"a"` {
				t.Errorf("first got %s", got)
			}
		})
	}
}

// A batch that comes when the role ends is not kept.
func TestLineCancelled(t *testing.T) {
	p, _ := start(t, Config{Sh: "cat"})
	l := newLine(p, Config{Sh: "cat"})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if err := l.handle(ctx, batchOf("a"), newFakeBatch(1)); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	if err := l.Run(ctx); !errors.Is(err, why) {
		t.Errorf("Run: error %v, want %v", err, why)
	}
}

// Nothing of a process stays open when it has ended.
func TestLineNothingStaysOpen(t *testing.T) {
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skipf("only Linux tells what is open: %v", err)
		}
		return len(files)
	}
	round := func() {
		p, ctx := start(t, Config{Exec: []string{"cat"}, Procs: 3})
		l := newLine(p, Config{Exec: []string{"cat"}})
		ctx, cancel := context.WithCancel(ctx)
		ran := make(chan struct{})
		go func() { defer close(ran); _ = l.Run(ctx) }()
		for range 10 {
			if err := l.handle(ctx, batchOf("a", "b"), newFakeBatch(2)); err != nil {
				t.Error(err)
			}
		}
		cancel()
		<-ran
	}
	round() // opens what the runtime keeps
	before := open()
	round()
	if after := open(); after > before {
		t.Errorf("%d files are open, %d were before", after, before)
	}
}
