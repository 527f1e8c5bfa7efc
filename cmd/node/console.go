package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"weir/node/api"
)

// console is stderr of `up`: log lines, and below them, on a terminal only, one line of progress
// that is rewritten in place. One goroutine uses it.
type console struct {
	w        io.Writer
	terminal bool
	names    int // width of the widest node name
	progress string
}

func newConsole(w io.Writer) *console {
	return &console{w: w, terminal: isTerminal(w)}
}

// isTerminal reports whether w is a terminal that moves its cursor when told to.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// columns is the width of the terminal, 80 where it does not say.
func (c *console) columns() int {
	if f, ok := c.w.(*os.File); ok {
		if ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && ws.Col > 0 {
			return int(ws.Col)
		}
	}
	return 80
}

// log writes a line of a node's log.
func (c *console) log(node, text string) {
	c.line(fmt.Sprintf("%-*s | %s", c.names, node, text))
}

// line writes a line of our own.
func (c *console) line(text string) {
	c.wipe()
	fmt.Fprintln(c.w, text)
	c.draw()
}

// show replaces the progress line; "" takes it away.
func (c *console) show(text string) {
	if !c.terminal {
		return
	}
	c.wipe()
	c.progress = cut(text, c.columns()-1) // or it would wrap, and only its last row be wiped
	c.draw()
}

func (c *console) wipe() {
	if c.progress != "" {
		fmt.Fprint(c.w, "\r\x1b[K")
	}
}

func (c *console) draw() {
	if c.progress != "" {
		fmt.Fprint(c.w, c.progress)
	}
}

// printable is text with all but tabs and ends of lines that cannot be printed replaced: what a program or an
// endpoint said must not tell a terminal what to do.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) || r == '\t' || r == '\n' {
			return r
		}
		return '?'
	}, text)
}

// cut is the first n characters of text.
func cut(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n])
	}
	return text
}

// progress is what a progress line tells.
type progress struct {
	api.Pipeline
	Status    api.Status
	Nodes     int // started
	PerSecond float64
	Took      time.Duration
}

// line says how far a pipeline is, in at most width characters where that can be: what matters
// less is left out first.
func (p progress) line(width int) string {
	took := fmt.Sprintf("%.0fs", p.Took.Seconds())
	switch {
	case p.RecordsIn == 0 && p.State == "running":
		return fmt.Sprintf("%s  nothing read yet on %s  %s", p.Name, plural(uint64(p.Nodes), "node"), took)
	case p.RecordsIn == 0: // a role without a node will soon have one
		return fmt.Sprintf("%s  starting %s  %s", p.Name, plural(uint64(p.Nodes), "node"), took)
	case p.State == "waiting":
		return fmt.Sprintf("%s waits: %s", p.Name, p.Reason)
	}
	leader := p.Status.Leader
	if leader == "" {
		leader = "none"
	}
	parts := []string{
		p.Name, plural(p.LinesIn, "line") + " in", count(p.LinesOut) + " out", took,
		count(uint64(p.PerSecond)) + "/s", "held " + size(heldBytes(p.Status)), "leader " + leader,
	}
	line := strings.Join(parts, "  ")
	for len(parts) > 1 && utf8.RuneCountInString(line) > width {
		parts = parts[:len(parts)-1]
		line = strings.Join(parts, "  ")
	}
	return line
}

func heldBytes(st api.Status) int64 {
	var sum int64
	for _, n := range st.Nodes {
		sum += n.HeldBytes
	}
	return sum
}

// plural counts things: "1 line", "2 lines".
func plural(n uint64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return count(n) + " " + thing + "s"
}

// count writes a number with a comma between thousands.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// size writes bytes in the largest unit that leaves a digit before the point.
func size(bytes int64) string {
	f, unit := float64(bytes), "B"
	for _, larger := range []string{"KiB", "MiB", "GiB"} {
		if f < 1024 {
			break
		}
		f, unit = f/1024, larger
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + " " + unit
}

// micros writes microseconds in the unit a reader expects.
func micros(us int64) string {
	switch d := time.Duration(us) * time.Microsecond; {
	case us <= 0:
		return "-"
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", us)
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(us)/1e3)
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}
