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
	c.show(strings.Repeat("x", 200))
	c.line("news")
	c.show("")
	x := strings.Repeat("x", 79)
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
	got := progressLine(pipelineOf(st, "gosrc"), st, 310_400.7, 4200*time.Millisecond)
	want := "gosrc  2,853,112 lines in  223,980 out  310,400/s  held 8.3 MiB  leader names-2  4s"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := progressLine(pipelineOf(st, "other"), st, 0, 0); got != "other waits: nobody serves role b" {
		t.Errorf("got %s", got)
	}
	if got := progressLine(api.Pipeline{Name: "p"}, api.Status{}, 0, 0); !strings.Contains(got, "leader none") {
		t.Errorf("got %s", got)
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
