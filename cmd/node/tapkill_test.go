package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"weir/node/api"
)

// tapKills is how often TestTapKilledAgainAndAgain kills: 20 for the figure in node/DESIGN.md.
var tapKills = flag.Int("tap-kills", 3, "how often the tap is killed")

// replayMax is how many records of a link may be sent again after a death: its window (DESIGN 7).
const replayMax = 4096

const copied = `
pipeline: copied
graph: in -> work -> out
roles:
  in:   {tap: {file: in.txt}, records: line}
  work: {exec: [perl, -ne, '$| = 1; select(undef, undef, undef, 0.0003); print'], mode: line, procs: 2}
  out:  {sink: {file: out.txt}}
`

// TestTapKilledAgainAndAgain kills -9 the node that reads a file, and starts it again with its data
// dir: it goes on from its mark within a second (FAULTS F4).
func TestTapKilledAgainAndAgain(t *testing.T) {
	lines := 10_000 * *tapKills
	h := newHand(t, copied, "v1", "in=in", "work=work", "out=out")
	writeNumbers(t, h.path("in.txt"), lines)
	for _, n := range h.nodes {
		n.start()
	}
	h.flowing(20 * time.Second)
	tap := h.place("in")
	var took []time.Duration
	for range *tapKills {
		time.Sleep(1200 * time.Millisecond) // so that some marks are in the log
		h.kill(tap)
		start := time.Now()
		tap.start()
		for tap.read() == 0 {
			if time.Since(start) > 10*time.Second {
				t.Fatalf("it does not read on:\n%s", tap.log())
			}
			time.Sleep(5 * time.Millisecond) // between two looks
		}
		took = append(took, time.Since(start))
	}
	h.finish(lines, 120*time.Second)
	slices.Sort(took)
	t.Logf("start to first record read, %d times: p50 %v, most %v", len(took), took[len(took)/2], took[len(took)-1])
	if most := took[len(took)-1]; !raceEnabled && most > 2*time.Second {
		t.Errorf("the slowest took %v", most)
	}
	checkOnce(t, h)
	again := h.until("the counts of the sink", time.Second, func(st api.Status) bool { return len(st.Pipelines) == 1 }).Pipelines[0].Duplicates
	t.Logf("%d records came to the sink again, %d a kill", again, again/uint64(*tapKills))
	if most := uint64(*tapKills * replayMax); again > most {
		t.Errorf("%d records came again, at most %d in all windows", again, most)
	}
}

// checkOnce fails if a line is there twice.
func checkOnce(t *testing.T, h *hand) {
	t.Helper()
	twice := 0
	for _, c := range numbersIn(t, h.path("out.txt")) {
		twice += c - 1
	}
	if twice > 0 {
		t.Errorf("%d lines came twice", twice)
	}
}

// read is how many records the node's tap has read since it started, 0 if it does not answer.
func (n *started) read() (records uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := api.Get(ctx, "unix:"+filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), n.name))
	if err != nil || len(st.Pipelines) == 0 {
		return 0
	}
	return st.Pipelines[0].RecordsIn
}

// writeNumbers writes a file of numbered lines.
func writeNumbers(t *testing.T, path string, n int) {
	t.Helper()
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "%d of a file that is read once\n", i)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
