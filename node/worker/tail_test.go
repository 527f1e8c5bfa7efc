package worker

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// lines is a log that shows the keys we write, a line each.
func lines(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func TestTailLogsLines(t *testing.T) {
	long := strings.Repeat("y", stderrLineMax)
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{"one\n", "msg=stderr line=one\n"},
		{"one\n\ntwo\r\nrest", "msg=stderr line=one\nmsg=stderr line=two\nmsg=stderr line=rest\n"},
		{long + "\n", "msg=stderr line=" + long + "\n"},
		{long + "z\nnext\n", "msg=stderr line=" + long + "\nmsg=stderr line=z\nmsg=stderr line=next\n"},
	} {
		for _, r := range []io.Reader{
			strings.NewReader(tc.in),
			iotest.OneByteReader(strings.NewReader(tc.in)),
			iotest.HalfReader(strings.NewReader(tc.in)),
		} {
			var log bytes.Buffer
			var tl tail
			tl.begin(&limiter{log: lines(&log)}, func([]byte) {})
			if _, err := tl.ReadFrom(r); err != nil {
				t.Fatal(err)
			}
			tl.end()
			if log.String() != tc.want {
				t.Errorf("%.20q by %T: logged %.200q, want %.200q", tc.in, r, log.String(), tc.want)
			}
		}
	}
}

func TestTailKeepsTheLast(t *testing.T) {
	var all bytes.Buffer
	for i := range 20_000 {
		fmt.Fprintf(&all, "line %d\n", i)
	}
	want := strings.TrimSpace(all.String())
	want = want[len(want)-tailShown:]
	var tl tail
	tl.begin(&limiter{log: slog.New(slog.DiscardHandler)}, func([]byte) {})
	if _, err := tl.ReadFrom(iotest.HalfReader(bytes.NewReader(all.Bytes()))); err != nil {
		t.Fatal(err)
	}
	if got := tl.last(); got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
	if cap(tl.buf) > tailKeep {
		t.Errorf("holds %d bytes, limit %d", cap(tl.buf), tailKeep)
	}
	tl.begin(tl.log, tl.hear)
	if got := tl.last(); got != "" {
		t.Errorf("after begin %q is kept", got)
	}
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		l := &limiter{log: lines(&log)}
		full := bytes.Repeat([]byte("x"), stderrRate-1)
		for _, step := range []struct {
			line []byte
			wait time.Duration
			want string
		}{
			{full, 0, "msg=stderr line=" + string(full) + "\n"},
			{[]byte("a"), 0, "msg=stderr line=a\n"},
			{[]byte("over"), 0, "msg=\"stderr was too much for the log\" dropped_bytes=4\n"},
			{[]byte("b"), 0, ""},
			{[]byte("bb"), 900 * time.Millisecond, ""},
			{[]byte("c"), 100 * time.Millisecond, "msg=\"stderr was too much for the log\" dropped_bytes=3\nmsg=stderr line=c\n"},
			{[]byte("d"), time.Second, "msg=stderr line=d\n"},
		} {
			time.Sleep(step.wait)
			log.Reset()
			l.print(step.line)
			if log.String() != step.want {
				t.Errorf("%.20q logged %.100q, want %.100q", step.line, log.String(), step.want)
			}
		}
	})
}

// A program that floods stderr neither stops nor fills the log.
func TestStderrFlood(t *testing.T) {
	var log bytes.Buffer
	p, ctx := start(t, Config{Sh: "yes something is wrong | head -c 20000000 >&2; echo fine", Role: "parser", Log: lines(&log)})
	began := time.Now()
	var em fakeEmitter
	if err := p.handle(ctx, record(""), &em); err != nil {
		t.Fatal(err)
	}
	if got := bodies(&em); got != `"fine"` {
		t.Errorf("emitted %s", got)
	}
	seconds := int(time.Since(began)/time.Second) + 1
	if most := seconds * 4 * stderrRate; log.Len() > most { // 4: a line's frame in the log
		t.Errorf("logged %d bytes in %d s, want at most %d", log.Len(), seconds, most)
	}
	if !strings.HasPrefix(log.String(), `msg=stderr role=parser line="something is wrong"`) {
		t.Errorf("log begins %.100q", log.String())
	}
	if !strings.Contains(log.String(), `msg="stderr was too much for the log" role=parser dropped_bytes=`) {
		t.Error("the log does not say what it left out")
	}
}
