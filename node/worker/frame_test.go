package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/stream"
)

// startFrame runs a frame program until the test ends.
func startFrame(t *testing.T, cfg Config) (*resident, context.Context) {
	t.Helper()
	cfg.Frame = true
	if cfg.Procs == 0 {
		cfg.Procs = 1
	}
	p, ctx := start(t, cfg)
	s := newFrame(p)
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan struct{})
	go func() { defer close(ran); _ = s.Run(ctx) }() // ended by cancel
	t.Cleanup(func() { cancel(); <-ran })
	return s, ctx
}

// each is a shell program of mode: frame that does sh for each record, as $line, with its $id.
func each(sh string) string {
	return `while read -r line; do id=${line#*:}; id=${id%%,*}; ` + sh + `; done`
}

// The helpers that the README names do what it says.
func TestFrameExamples(t *testing.T) {
	for _, tc := range []struct {
		program, needs, in, want string
	}{
		{"upper.py", "python3", "a\nhé \"<\"\nthis line has more than twenty letters\n\x00", `"A""HÉ \"<\"""THIS LINE HAS MORE THAN TWENTY LETTERS"big"THIS LINE HAS MORE THAN TWENTY LETTERS""\x00"`},
		{"upper.py", "python3", "\nb", `!upper.py: ValueError('an empty line') "B"`},
		{"length.mjs", "node", "a\nhé\n", `"1 a""2 hé""0 "`},
		{"words.sh", "jq", "one two\n3, 4\nfive", `"one""two"!words.sh: no words in it "five"`},
	} {
		t.Run(tc.program, func(t *testing.T) {
			need(t, tc.needs)
			path, err := filepath.Abs("../../examples/frame/" + tc.program)
			if err != nil {
				t.Fatal(err)
			}
			s, ctx := startFrame(t, Config{Exec: []string{path}})
			in := strings.Split(tc.in, "\n")
			for range 2 { // the second time the program is there
				b := newFakeBatch(len(in))
				if err := s.handle(ctx, batchOf(in...), b); err != nil {
					t.Fatal(err)
				}
				if got := b.fates(); got != tc.want {
					t.Errorf("got  %s\nwant %s", got, tc.want)
				}
				for _, err := range b.nacks {
					if stream.ExitCode(err) != 65 {
						t.Errorf("%v is not poison", err)
					}
				}
			}
		})
	}
}

// What a program reads, and all that an answer can say.
func TestFrameEnvelope(t *testing.T) {
	s, ctx := startFrame(t, Config{Sh: `read -r line; printf '{"id":1,"body64":"%s"}\n{"id":1,"done":true}\n' $(printf %s "$line" | base64 -w0); ` +
		`read -r line; printf '{"id":2,"body64":"%s"}\n' $(printf %s "$line" | base64 -w0); ` +
		`echo '{"id":2,"body":"","key":"k2","header":{"h":"2"},"port":"p"}'; echo '{"id":2}'; echo '{"id":2,"body":"x","done":true}'; cat >/dev/null`})
	rs := batchOf("a\n\"b\u2028<", "\xff\x00")
	rs[1].Attempt, rs[1].Key, rs[1].Header = 2, []byte("k"), map[string]string{"h": "1"}
	b := newFakeBatch(2)
	if err := s.handle(ctx, rs, b); err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for i := range b.emitters {
		for _, o := range b.emitters[i].outs {
			fmt.Fprintf(&got, "%s %s %s %v\n", o.Body, o.Key, o.Port, o.Header)
		}
	}
	want := `{"id":1,"attempt":1,"body":"a\n\"b\u2028<"}   map[]
{"id":2,"attempt":2,"body64":"/wA=","key":"k","header":{"h":"1"}} k  map[h:1]
 k2 p map[h:2]
x k  map[h:1]
`
	if got.String() != want {
		t.Errorf("got\n%swant\n%s", got.String(), want)
	}
}

// Failures of records are of one record, and of the kind that the program says.
func TestFrameFailures(t *testing.T) {
	s, ctx := startFrame(t, Config{Sh: each(`case $line in
		*plain*) echo "{\"id\":$id,\"error\":\"oh\"}";;
		*retry*) echo "{\"id\":$id,\"error\":\"oh\",\"retry\":true}";;
		*poison*) echo "{\"id\":$id,\"error\":\"oh\",\"poison\":true}";;
		*) echo "{\"id\":$id,\"done\":true}";; esac`)})
	b := newFakeBatch(4)
	if err := s.handle(ctx, batchOf("plain", "retry", "none", "poison"), b); err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]int{0: 0, 1: 75, 3: 65} {
		if err := b.nacks[i]; text(err) != "sh: oh" || stream.ExitCode(err) != want {
			t.Errorf("record %d: error %v with code %d, want %d", i, err, stream.ExitCode(err), want)
		}
	}
	if b.nacks[2] != nil {
		t.Errorf("record 2: error %v", b.nacks[2])
	}
}

// What is no answer ends the process, and its records say why: at the start it is the wrong program.
func TestFrameErrors(t *testing.T) {
	t.Parallel()
	const ok = `read -r line; echo '{"id":1,"done":true}'; read -r line; `
	no := func(why, text string) string {
		return `!sh printed a line that is no answer of mode: frame, and was killed: ` + why + ": " + fmt.Sprintf("%q", text) + " "
	}
	for _, tc := range []struct {
		name   string
		sh     string
		config bool
		want   string // the fates; ~: of the second record the same as of the first
	}{
		{"not JSON", ok + "echo hello; sleep 600", false, no("invalid character 'h' looking for beginning of value", "hello")},
		{"an empty line", ok + "echo; sleep 600", false, no("EOF", "")},
		{"a greeting", "echo hello; sleep 600", true, no("invalid character 'h' looking for beginning of value", "hello") + "~"},
		{"an echo", "cat", true, no(`unknown field "attempt"`, `{"id":1,"attempt":1,"body":"a"}`) + "~"},
		{"an unknown id", ok + `echo '{"id":7,"done":true}'; sleep 600`, false, no("no record with id 7 waits for an answer", `{"id":7,"done":true}`)},
		{"an id again", ok + `echo '{"id":1,"done":true}'; sleep 600`, false, no("no record with id 1 waits for an answer", `{"id":1,"done":true}`)},
		{"no id", ok + `echo '{"done":true}'; sleep 600`, false, no("no record with id 0 waits for an answer", `{"done":true}`)},
		{"an unknown key", ok + `echo '{"id":2,"boby":"x"}'; sleep 600`, false, no(`unknown field "boby"`, `{"id":2,"boby":"x"}`)},
		{"two values", ok + `echo '{"id":2}{"id":2}'; sleep 600`, false, no("there is more than one value in the line", `{"id":2}{"id":2}`)},
		{"both bodies", ok + `echo '{"id":2,"body":"","body64":""}'; sleep 600`, false, no("it has body and body64", `{"id":2,"body":"","body64":""}`)},
		{"a port without a body", ok + `echo '{"id":2,"port":"p"}'; sleep 600`, false, no("it has a key, header or port and no body", `{"id":2,"port":"p"}`)},
		{"poison without an error", ok + `echo '{"id":2,"poison":true}'; sleep 600`, false, no("it has retry or poison and no error", `{"id":2,"poison":true}`)},
		{"both kinds", ok + `echo '{"id":2,"error":"","poison":true,"retry":true}'; sleep 600`, false, no("it has retry and poison", `{"id":2,"error":"","poison":true,"retry":true}`)},
		{"NULs", ok + `printf '\000\n'; sleep 600`, false, no(`invalid character '\x00' looking for beginning of value`, "\x00")},
		{"not UTF-8", ok + `printf '{"id":2,"body":"\377"}\n'; sleep 600`, false, no("it is not UTF-8: other bytes go into body64", "{\"id\":2,\"body\":\"\xff\"}")},
		{"a line without end", ok + "tr '\\0' x </dev/zero", false, no("it is longer than 3211267 bytes", strings.Repeat("x", 80))},
		{"dies", ok + "echo oh >&2; exit 4", false, "!sh: exit 4: oh "},
		{"asks for later", ok + "exit 75", false, "!sh: exit 75 "},
		{"is killed", ok + "kill -SEGV $$", false, "!sh: killed by SIGSEGV "},
		{"ends early", ok, false, "!sh: ended with 1 of its records unanswered: in mode: frame it must read until its input ends "},
		{"closes its output", ok + "exec >&-; trap '' TERM; sleep 600; sleep 600", false, "!sh: closed its output, and was killed as it did not end "},
		{"closes its input", ok + "exec <&-; sleep 600", false, "!sh: gave no sign of the record it has had longest for 2s, with 1 unanswered, and was killed: raise deadline if it is slow "},
		{"hangs, ignoring SIGTERM", ok + "trap '' TERM; sleep 600; sleep 600", false, "!sh: gave no sign of the record it has had longest for 2s, with 1 unanswered, and was killed: raise deadline if it is slow "},
		{"leaves a daemon", ok + "sleep 600 & exit 3", false, "!sh: exit 3 "},
		{"not found", "no-such-program", true, "!sh: exit 127, program not found: /bin/sh: 1: no-such-program: not found ~"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newWatch(t)
			s, ctx := startFrame(t, Config{Sh: "exec 3>" + w.path + "; echo up >&3; " + tc.sh, Deadline: 2 * time.Second})
			b := newFakeBatch(2)
			done := make(chan error, 1)
			go func() { done <- s.handle(ctx, batchOf("a", "b"), b) }() // ended by the program's end
			w.line(t)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			w.end(t)
			if tc.config != errors.As(b.nacks[1], new(*stream.ConfigError)) {
				t.Errorf("%v: a ConfigError: %v", b.nacks[1], !tc.config)
			}
			want, both := strings.CutSuffix(tc.want, "~")
			if both {
				want += want
			}
			if got := b.fates(); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if !tc.config {
				return
			}
			b = newFakeBatch(1) // is not kept waiting for a process that will not be
			if err := s.handle(ctx, batchOf("c"), b); err != nil || !errors.As(b.nacks[0], new(*stream.ConfigError)) {
				t.Errorf("the next one: %v, %v", err, b.nacks[0])
			}
		})
	}
}

// Records are answered in any order; those that wait do not hold up others, and one without a sign
// for the deadline ends the process, whatever the others do.
func TestFrameOrder(t *testing.T) {
	t.Parallel()
	s, ctx := startFrame(t, Config{Sh: `read a; read b; read c; echo '{"id":3,"body":"c","done":true}'; echo '{"id":1,"body":"a"}'; ` +
		`echo '{"id":2,"done":true}'; echo '{"id":1,"done":true}'; cat >/dev/null`})
	b := newFakeBatch(3)
	if err := s.handle(ctx, batchOf("a", "b", "c"), b); err != nil {
		t.Fatal(err)
	}
	if got := b.fates(); got != `"a""c"` {
		t.Errorf("got %s", got)
	}
}

// The deadline is of the record that the program has had longest.
func TestFrameDeadline(t *testing.T) {
	t.Parallel()
	const late = `!sh: gave no sign of the record it has had longest for 2s, with 1 unanswered, and was killed: raise deadline if it is slow `
	for _, tc := range []struct{ name, sh, want string }{
		{"one after the other", each(`sleep 0.8; echo "{\"id\":$id,\"body\":\"$id\",\"done\":true}"`), `"1""2""3"`},
		{"slow, with signs", each(`sleep 0.7; echo "{\"id\":$id}"; sleep 0.7; echo "{\"id\":$id}"; sleep 0.7; echo "{\"id\":$id,\"done\":true}"`), ``},
		{"answers all but one", `read -r a; ` + each(`sleep 0.4; echo "{\"id\":$id,\"body\":\"$id\",\"done\":true}"`) + `; sleep 600`, late + `"2""3"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s, ctx := startFrame(t, Config{Sh: tc.sh, Deadline: 2 * time.Second})
			b := newFakeBatch(3)
			if err := s.handle(ctx, batchOf("a", "b", "c"), b); err != nil {
				t.Fatal(err)
			}
			if got := b.fates(); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// A program that forgets one record is found out, though it goes on to answer others.
func TestFrameForgets(t *testing.T) {
	t.Parallel()
	s, ctx := startFrame(t, Config{Sh: `read -r a; ` + each(`sleep 0.3; echo "{\"id\":$id,\"done\":true}"`), Deadline: 2 * time.Second})
	b := newFakeBatch(20)
	if err := s.handle(ctx, batchOf(seq(20)...), b); err != nil {
		t.Fatal(err)
	}
	if n := len(b.nacks); n < 2 || n == 20 || b.nacks[0] == nil {
		t.Errorf("%d of 20 failed, want some, the first of them", n)
	}
}

// slowBatch is a batch whose outputs wait for credit.
type slowBatch struct {
	*fakeBatch
	credit time.Duration
}

type slowEmitter struct {
	stream.Emitter
	credit time.Duration
}

func (b slowBatch) To(i int) stream.Emitter { return slowEmitter{b.fakeBatch.To(i), b.credit} }

func (e slowEmitter) Emit(ctx context.Context, o stream.Out) error {
	select {
	case <-time.After(e.credit):
		return e.Emitter.Emit(ctx, o)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Where nobody takes what a program makes, it is not to blame, however long that lasts.
func TestResidentWaitsForCredit(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func() (*resident, context.Context){
		"line": func() (*resident, context.Context) {
			l, ctx := startLine(t, Config{Exec: []string{"cat"}, Deadline: time.Second})
			l.proven.Store(true)
			return l.resident, ctx
		},
		"frame": func() (*resident, context.Context) {
			return startFrame(t, Config{Sh: each(`echo "{\"id\":$id,\"body\":\"$id\",\"done\":true}"`), Deadline: time.Second})
		},
	} {
		s, ctx := start()
		b := slowBatch{newFakeBatch(3), 1700 * time.Millisecond}
		if err := s.handle(ctx, batchOf("1", "2", "3"), b); err != nil {
			t.Fatal(err)
		}
		if got := b.fates(); got != `"1""2""3"` {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// All that a process held when it died is blamed; next time each is alone, and one is at fault.
func TestFrameSuspects(t *testing.T) {
	t.Parallel()
	s, ctx := startFrame(t, Config{Sh: each(`case $line in *bad*) exit 3;; esac; echo "{\"id\":$id,\"body\":\"$id\",\"done\":true}"`)})
	rs := batchOf("a", "bad", "b", "c")
	b := newFakeBatch(len(rs))
	if err := s.handle(ctx, rs, b); err != nil {
		t.Fatal(err)
	}
	if got := b.fates(); !strings.HasPrefix(got, `"1"!sh: exit 3 `) || len(b.nacks) < 2 {
		t.Fatalf("got %s", got)
	}
	for i := range rs {
		rs[i].Attempt = 2
	}
	b = newFakeBatch(len(rs))
	if err := s.handle(ctx, rs, b); err != nil {
		t.Fatal(err)
	}
	if len(b.nacks) != 1 || b.nacks[1] == nil {
		t.Errorf("again got %s", b.fates())
	}
}

// Many records, large ones among them, go through several processes at once.
func TestFrameFlow(t *testing.T) {
	t.Parallel()
	need(t, "python3")
	const echo = `import sys, json
for l in sys.stdin:
	r = json.loads(l)
	print(json.dumps({"id": r["id"], "body": r["body"], "done": True}), flush=True)`
	s, ctx := startFrame(t, Config{Exec: []string{"python3", "-c", echo}, Procs: 3})
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for n := range 3 {
				var in []string
				for i := range 60 {
					in = append(in, fmt.Sprintf("%d %d %d %s", g, n, i, strings.Repeat("é\n", 10*n*i)))
				}
				if g == 0 && n == 1 {
					in[50] = strings.Repeat("é", stream.RecordBytesMax/2)
				}
				b := newFakeBatch(len(in))
				if err := s.handle(ctx, batchOf(in...), b); err != nil {
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

// What a program that stays writes to stderr goes out with the record it has had longest.
func TestResidentErrPort(t *testing.T) {
	t.Parallel()
	frame, fctx := startFrame(t, Config{Sh: each(`echo "on $id" >&2; sleep 0.3; echo "{\"id\":$id,\"body\":\"$id\",\"done\":true}"`)})
	line, lctx := startLine(t, Config{Sh: `while read x; do echo "on $x" >&2; sleep 0.3; echo "$x"; done`})
	for name, do := range map[string]func(b *fakeBatch) error{
		"frame": func(b *fakeBatch) error { return frame.handle(fctx, batchOf("1", "2"), b) },
		"line":  func(b *fakeBatch) error { return line.handle(lctx, batchOf("1", "2"), b) },
	} {
		b := newFakeBatch(2)
		b.emitters[0].errs, b.emitters[1].errs = true, true
		if err := do(b); err != nil {
			t.Fatal(err)
		}
		got := b.fates() // two pipes: the second may already be heard as the first is answered
		if got != `"1"err"on 1""2"err"on 2"` && got != `"1"err"on 1"err"on 2""2"` {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// A program that ends again and again is started later each time; one that never answered stops.
func TestFrameRestarts(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	s, ctx := startFrame(t, Config{Sh: `read -r line; echo '{"id":1,"done":true}'; exit 3`, Log: lines(&log)})
	begin := time.Now()
	for answered := 0; answered < 4; {
		b := newFakeBatch(1)
		if err := s.handle(ctx, batchOf("a"), b); err != nil {
			t.Fatal(err)
		}
		if len(b.nacks) == 0 {
			answered++
		}
	}
	for s.Waits() == "" && ctx.Err() == nil { // the fourth has just ended, and rests for half a second
		time.Sleep(time.Millisecond)
	}
	if got := s.Waits(); got != "sh: exit 3" {
		t.Errorf("it waits for %q", got)
	}
	if took, least := time.Since(begin), (100+200+400)/2*time.Millisecond; took < least {
		t.Errorf("4 starts took %v, want at least %v", took, least)
	}
	if got := log.String(); !strings.Contains(got, `msg="program ended"`) {
		t.Errorf("the log has %s", got)
	}
}
