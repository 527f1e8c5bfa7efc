package sim

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// Timeline is a run on one time axis: what was done to it, who led, how records flowed.
type Timeline struct {
	End       time.Duration
	Samples   []Sample // by time, sampleEvery apart
	Elections []Election
	Faults    []Span // in the order they began
}

// Sample is how far a run was.
type Sample struct {
	At    time.Duration
	Acked uint64 // records, end to end
	Held  int64  // bytes in the sender windows of all nodes
}

// Election is a node that began to lead.
type Election struct {
	At     time.Duration
	Leader string
	Term   uint64
}

// Span is a fault from its begin to its end; the same: it had no length.
type Span struct {
	Step     string // as the scenario says it
	Text     string // with whom it met
	From, To time.Duration
}

// sampleEvery is how often a run is looked at: what a terminal shows of a minute in a column.
const sampleEvery = 500 * time.Millisecond

const (
	// labelWide is what the words before the axis may take, in letters.
	labelWide = 36
	// axisLeast is the narrowest axis worth drawing, in columns.
	axisLeast = 30
	// faultRowsMax is how many faults are drawn; a chaotic run has more than a screen of them.
	faultRowsMax = 24
)

// Write draws the timeline, at most width letters wide.
func (t *Timeline) Write(w io.Writer, width int) error {
	a := axis{end: max(t.End, time.Second), wide: max(width-labelWide-1, axisLeast)}
	b := new(strings.Builder)
	a.row(b, "", a.scale())
	rates, held := t.columns(a)
	a.row(b, fmt.Sprintf("records/s, at most %.0f", slices.Max(rates)), bars(rates, usualTimes*usual(rates)))
	a.row(b, "held, at most "+sizeText(slices.Max(held)), bars(held, slices.Max(held)))
	a.row(b, fmt.Sprintf("leaders, %d", len(t.Elections)), a.elections(t.Elections))
	for i, s := range t.Faults {
		if i == faultRowsMax {
			fmt.Fprintf(b, "and %d faults more\n", len(t.Faults)-i)
			break
		}
		a.row(b, s.Text, a.bar(s))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// columns are the flow and the held bytes in each column.
func (t *Timeline) columns(a axis) (rates, held []float64) {
	rates, held = make([]float64, a.wide), make([]float64, a.wide)
	times := make([]float64, a.wide)
	var last Sample
	for _, s := range t.Samples {
		i := a.column(s.At)
		rates[i] += float64(s.Acked - min(last.Acked, s.Acked))
		times[i] += (s.At - last.At).Seconds()
		held[i] = max(held[i], float64(s.Held))
		last = s
	}
	for i := range rates {
		switch {
		case times[i] > 0:
			rates[i] /= times[i]
		case i > 0: // between two samples
			rates[i], held[i] = rates[i-1], held[i-1]
		}
	}
	return rates, held
}

// axis maps times to columns.
type axis struct {
	end  time.Duration
	wide int
}

func (a axis) column(at time.Duration) int {
	return min(max(int(int64(at)*int64(a.wide)/int64(a.end)), 0), a.wide-1)
}

func (a axis) row(b *strings.Builder, label, drawing string) {
	if letters := []rune(label); len(letters) > labelWide {
		label = string(letters[:labelWide-1]) + "…"
	}
	fmt.Fprintf(b, "%-*s %s\n", labelWide, label, strings.TrimRight(drawing, " "))
}

// scale writes the time every ten columns or so.
func (a axis) scale() string {
	line := []rune(strings.Repeat(" ", a.wide))
	step := niceStep(a.end / time.Duration(max(a.wide/12, 1)))
	for at := time.Duration(0); at <= a.end; at += step {
		text := []rune(shortTime(at))
		if i := a.column(at); i+len(text) <= a.wide {
			copy(line[i:], text)
		}
	}
	return string(line)
}

// niceStep rounds a time up to one that people count in.
func niceStep(d time.Duration) time.Duration {
	for _, s := range []time.Duration{1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800} {
		if s *= time.Second; d <= s {
			return s
		}
	}
	return d.Round(time.Hour) + time.Hour
}

func (a axis) elections(es []Election) string {
	line := []rune(strings.Repeat("─", a.wide))
	for _, e := range es {
		line[a.column(e.At)] = '▲'
	}
	return string(line)
}

func (a axis) bar(s Span) string {
	from, to := a.column(s.From), a.column(s.To)
	mark := "█"
	if s.To == s.From {
		mark = "▌"
	}
	return strings.Repeat(" ", from) + strings.Repeat(mark, to-from+1)
}

// usualTimes is how many times the usual a full bar of the flow is: what is caught up after an
// outage would make all else look like nothing.
const usualTimes = 2

// usual is the median of what is not nothing.
func usual(xs []float64) float64 {
	some := slices.DeleteFunc(slices.Clone(xs), func(x float64) bool { return x <= 0 })
	if len(some) == 0 {
		return 0
	}
	slices.Sort(some)
	return some[len(some)/2]
}

// bars draws numbers as bars of eight heights, full from most on; only nothing is no bar.
func bars(xs []float64, most float64) string {
	const heights = "▁▂▃▄▅▆▇█"
	out := new(strings.Builder)
	for _, x := range xs {
		if x <= 0 || most <= 0 {
			out.WriteByte(' ')
			continue
		}
		i := min(int(math.Round(x/most*8)), 8)
		out.WriteRune([]rune(heights)[max(i-1, 0)])
	}
	return out.String()
}

func sizeText(bytes float64) string {
	switch {
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", bytes/(1<<20))
	case bytes >= 1<<10:
		return fmt.Sprintf("%.0f KiB", bytes/(1<<10))
	}
	return fmt.Sprintf("%.0f B", bytes)
}
