package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"weir/node/api"
)

func TestConsole(t *testing.T) {
	var b bytes.Buffer
	c := &console{w: &b, terminal: true, names: 6}
	c.log("in-1", "hello")
	c.show("one")
	c.show(strings.Repeat("µ", 200))
	c.line("news")
	c.show("")
	x := strings.Repeat("µ", 79)
	const wipe = "\r\x1b[K"
	want := "in-1   | hello\n" + "one" + wipe + x + wipe + "news\n" + x + wipe
	if b.String() != want {
		t.Errorf("terminal got\n%q\nwant\n%q", b.String(), want)
	}
	b.Reset()
	c = newConsole(&b)
	c.show("progress")
	c.line("news")
	if b.String() != "news\n" {
		t.Errorf("no terminal, got %q", b.String())
	}
}

func TestProgressLine(t *testing.T) {
	st := sampleStatus()
	runs := progress{Pipeline: pipelineOf(st, "gosrc"), Status: st, Nodes: 8, PerSecond: 310_400.7, Took: 4200 * time.Millisecond}
	waits := progress{Pipeline: pipelineOf(st, "other"), Nodes: 8, Took: time.Second}
	stuck, idle, headless := waits, waits, runs
	stuck.RecordsIn, idle.State, headless.Status = 1, "running", api.Status{}
	begins := progress{Pipeline: api.Pipeline{Name: "p"}, Nodes: 1}
	for _, tt := range []struct {
		p     progress
		width int
		want  string
	}{
		{runs, 90, "gosrc  2,853,112 lines in  223,980 out  4s  310,400/s  held 8.3 MiB  leader names-2"},
		{runs, 79, "gosrc  2,853,112 lines in  223,980 out  4s  310,400/s  held 8.3 MiB"},
		{runs, 45, "gosrc  2,853,112 lines in  223,980 out  4s"},
		{runs, 10, "gosrc"},
		{headless, 90, "gosrc  2,853,112 lines in  223,980 out  4s  310,400/s  held 0 B  leader none"},
		{begins, 79, "p  starting 1 node  0s"},
		{waits, 79, "other  starting 8 nodes  1s"},
		{idle, 79, "other  nothing read yet on 8 nodes  1s"},
		{stuck, 79, "other waits: nobody serves role b"},
	} {
		if got := tt.p.line(tt.width); got != tt.want {
			t.Errorf("in %d characters got %s\nwant %s", tt.width, got, tt.want)
		}
	}
}

func TestUnits(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 12345: "12,345", 1234567: "1,234,567"} {
		if got := count(n); got != want {
			t.Errorf("count(%d) = %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 5 << 20: "5 MiB", 3 << 30: "3 GiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
	for us, want := range map[int64]string{0: "-", 7: "7 µs", 1_200: "1.2 ms", 85_300: "85.3 ms", 1_250_000: "1.25 s"} {
		if got := micros(us); got != want {
			t.Errorf("micros(%d) = %s, want %s", us, got, want)
		}
	}
}
