package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// This file is pure.

// Level is how hard chaos is.
type Level string

// The levels.
const (
	LevelLow    Level = "low"    // one fault at a time, a good network
	LevelMedium Level = "medium" // faults that overlap, a bad network
	LevelHigh   Level = "high"   // several at a time, a network that nobody would accept
)

// hardness is what a level means.
type hardness struct {
	every      time.Duration // between the begins of two faults, in the mean
	lasts      time.Duration // the longest fault
	loss       float64       // percent, all the time, at most
	jitter     time.Duration // at most
	duplicated float64       // percent, at most
	reordered  float64       // percent, at most
	pauses     bool          // one seed in chaosPauses pauses a role, or all
	severe     bool          // taps are restarted too
	ills       float64       // how many records ail, of what a level of 1 has
	torn       bool          // power cuts and full disks of sinks, and inputs that are replaced
}

var hardnesses = map[Level]hardness{
	LevelLow:    {every: 8 * time.Second, lasts: 4 * time.Second, loss: 0.5, jitter: time.Millisecond, reordered: 1},
	LevelMedium: {every: 3 * time.Second, lasts: 8 * time.Second, loss: 3, jitter: 5 * time.Millisecond, duplicated: 2, reordered: 10, pauses: true, ills: 0.3},
	LevelHigh:   {every: time.Second, lasts: 10 * time.Second, loss: 10, jitter: 40 * time.Millisecond, duplicated: 10, reordered: 25, pauses: true, severe: true, ills: 1, torn: true},
}

const (
	// chaosLength is how long a chaotic run is: some ten faults of the medium level.
	chaosLength = 40 * time.Second
	// chaosRate is records a second: a third of what the fewest and slowest workers do.
	chaosRate = 250
	// chaosLarge is of how many seeds one has records so large, and nodes with so little memory,
	// that a stalled sink fills the windows within some seconds.
	chaosLarge = 8
	// chaosDisks is of how many seeds one has nodes without disks, which come back as others. Dead
	// letters need disks.
	chaosDisks = 3
	// chaosPauses is of how many seeds one has a pause, only one: it stops what other faults would meet.
	chaosPauses = 4
	// chaosStart leaves a cluster the time to form, chaosQuiet some to see the last fault's end.
	chaosStart = 6 * time.Second
	chaosQuiet = 2 * time.Second
)

// Chaos draws the text of a scenario from a seed: the same for the same seed and level. Who is
// met is drawn when a fault comes, and never costs the cluster a second vote before it has
// replaced the first.
func Chaos(level Level, seed uint64) (string, error) {
	h, ok := hardnesses[level]
	if !ok {
		return "", unknown("chaos level", string(level), string(LevelLow), string(LevelMedium), string(LevelHigh))
	}
	r := rand.New(rand.NewPCG(seed, hash(string(level))))
	b := new(strings.Builder)
	fmt.Fprintf(b, "about chaos %s, drawn from seed %d\n", level, seed)
	fmt.Fprintf(b, "length %v\n", chaosLength)
	fmt.Fprintf(b, "rate %d\n", chaosRate)
	if mix(seed, hash("large"))%chaosLarge == 0 {
		b.WriteString("size 2KiB\nmemory 1MiB\n")
	}
	disks := mix(seed, hash("disks"))%chaosDisks != 0
	fmt.Fprintf(b, "role work takes %v capacity %d fails %.1f%%", millis(r, 20, 150), 24+r.IntN(41), r.Float64())
	if disks && h.ills > 0 {
		for _, ill := range chaosIlls {
			fmt.Fprintf(b, " %s %.3f%%", ill.word, ill.percent*h.ills*r.Float64())
		}
		fmt.Fprintf(b, " deadline %v\nrole sink poisons %.3f%%", millis(r, 2000, 4000), 0.1*h.ills*r.Float64())
	}
	fmt.Fprintf(b, "\n%s", chaosTaps[r.IntN(len(chaosTaps))])
	fmt.Fprintf(b, "delay %v jitter %v\n", micros(r, 2*time.Millisecond), micros(r, h.jitter))
	for _, bad := range []struct {
		what string
		most float64
	}{{"loss", h.loss}, {"duplicate", h.duplicated}, {"reorder", h.reordered}} {
		if bad.most > 0 && r.IntN(3) > 0 {
			fmt.Fprintf(b, "%s %.2f%%\n", bad.what, r.Float64()*bad.most)
		}
	}
	faults := slices.Clone(drawable)
	if h.severe {
		faults = append(faults, "restart random tap")
	}
	if disks {
		b.WriteString("disks\n")
		faults = append(faults, drawableWithDisks...)
	}
	if h.torn {
		faults = append(faults, drawableOfDisks...)
	}
	for at := chaosStart; at < chaosLength-chaosQuiet; at += time.Duration(r.ExpFloat64() * float64(h.every)).Round(time.Millisecond) {
		lasts := millis(r, 500, int(h.lasts/time.Millisecond))
		fmt.Fprintf(b, "at %v %s\n", at, fill(r, faults[r.IntN(len(faults))], lasts))
	}
	if h.pauses && mix(seed, hash("pause"))%chaosPauses == 0 {
		at := chaosStart + time.Duration(r.Int64N(int64(chaosLength-chaosQuiet-chaosStart))).Round(time.Millisecond)
		fmt.Fprintf(b, "at %v pause%s for %v\n", at, []string{"", " tap", " worker", " sink"}[r.IntN(4)], millis(r, 500, int(h.lasts/time.Millisecond)))
	}
	return b.String(), nil
}

// chaosIlls are what ails records at most, in percent of them: some ten of each of the first, one or two
// of the others, which each stop a node three times or more.
var chaosIlls = []struct {
	word    string
	percent float64
}{{"poisons", 0.2}, {"hangs", 0.02}, {"kills", 0.02}, {"pairs", 10}}

// chaosTaps are what reads.
var chaosTaps = []string{"", "", "role source nodes 2 partitions 2\n", "role source nodes 2 shared 3\n", "role source live 1\n"}

// drawable are the faults that chaos draws from; LASTS, PERCENT and TIMES are drawn too.
var drawable = []string{
	"kill random worker for LASTS",
	"kill random sink for LASTS",
	"kill random leader for LASTS",
	"kill random bare for LASTS",
	"restart random worker",
	"restart random sink",
	"drain random worker for LASTS",
	"freeze random worker for LASTS",
	"freeze random sink for LASTS",
	"freeze random voter for LASTS",
	"freeze random tap for LASTS",
	"partition random worker random sink | rest for LASTS",
	"partition random voter | rest for LASTS",
	"partition random tap | rest for LASTS",
	"cut random worker -> rest for LASTS",
	"cut rest -> random worker for LASTS",
	"cut random worker <-> random sink for LASTS",
	"cut random tap -> random worker for LASTS",
	"cut random sink -> random worker for LASTS",
	"cut leader -> random follower for LASTS",
	"loss PERCENT on random worker for LASTS",
	"loss PERCENT bursts 20 on random sink for LASTS",
	"loss PERCENT on random voter for LASTS",
	"reorder PERCENT on random worker for LASTS",
	"duplicate PERCENT on random worker for LASTS",
	"bandwidth 256KiB on random worker for LASTS",
	"delay 50ms jitter 50ms on random worker for LASTS",
	"slow random worker TIMES for LASTS",
	"stall random worker for LASTS",
	"stall random sink for LASTS",
	"stall sink for LASTS",
	"busy random worker for LASTS",
	"busy random sink for LASTS",
}

// drawableOfDisks are those of the disks of sinks, and of what taps read.
var drawableOfDisks = []string{
	"crash random sink for LASTS",
	"crash random sink for LASTS",
	"full random sink for LASTS",
	"full sink for LASTS",
	"busy work for LASTS",
	"replace random tap",
	"replace tap",
}

// drawableWithDisks are those that a cluster in memory does not survive, or does not notice.
var drawableWithDisks = []string{
	"kill all for LASTS",
	"kill voter for LASTS",
	"kill random tap for LASTS",
	"restart leader",
	"restart random voter",
	"restart random voter",
	"move random voter",
	"move random worker",
	"move random sink",
}

// fill draws what a fault leaves open.
func fill(r *rand.Rand, fault string, lasts time.Duration) string {
	return strings.NewReplacer(
		"LASTS", shortTime(lasts),
		"PERCENT", fmt.Sprintf("%d%%", 5+r.IntN(45)),
		"TIMES", fmt.Sprintf("%dx", 2+r.IntN(30)),
	).Replace(fault)
}

// millis draws a whole number of milliseconds.
func millis(r *rand.Rand, least, most int) time.Duration {
	return time.Duration(least+r.IntN(most-least+1)) * time.Millisecond
}

// micros draws a whole number of microseconds up to most.
func micros(r *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(r.IntN(int(most/time.Microsecond)+1)) * time.Microsecond
}
