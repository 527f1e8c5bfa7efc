package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

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
	if n := c.columns() - 1; len(text) > n {
		text = text[:n] // or it would wrap, and only its last row be wiped
	}
	c.progress = text
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

// progressLine says in one line how far a pipeline is. perSecond is lines read a second.
func progressLine(p api.Pipeline, st api.Status, perSecond float64, took time.Duration) string {
	leader := st.Leader
	if leader == "" {
		leader = "none"
	}
	if p.State == "waiting" {
		return fmt.Sprintf("%s waits: %s", p.Name, p.Reason)
	}
	return fmt.Sprintf("%s  %s lines in  %s out  %s/s  held %s  leader %s  %.0fs", p.Name,
		count(p.LinesIn), count(p.LinesOut), count(uint64(perSecond)), size(heldBytes(st)), leader, took.Seconds())
}

func heldBytes(st api.Status) int64 {
	var sum int64
	for _, n := range st.Nodes {
		sum += n.HeldBytes
	}
	return sum
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
