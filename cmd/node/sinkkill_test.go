package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/node/api"
)

// sinkKills is how often TestSinkKilledAgainAndAgain kills.
var sinkKills = flag.Int("sink-kills", 3, "how often the sink is killed")

// TestSinkKilledAgainAndAgain kills -9 the node that writes a file, and starts it again with its data
// dir: each line is there once (FAULTS F5).
func TestSinkKilledAgainAndAgain(t *testing.T) {
	lines := 10_000 * *sinkKills
	h := newHand(t, copied, "v1", "in=in", "work=work", "out=out")
	writeNumbers(t, h.path("in.txt"), lines)
	for _, n := range h.nodes {
		n.start()
	}
	h.flowing(20 * time.Second)
	sink := h.place("out")
	for range *sinkKills {
		time.Sleep(700 * time.Millisecond) // of work between two kills
		h.kill(sink)
		sink.start()
	}
	st := h.finish(lines, 120*time.Second)
	t.Logf("%d records came to the sink again since its last start", st.Pipelines[0].Duplicates)
}

const narrow = `
pipeline: narrow
graph: in -> work -> out
roles:
  in:   {tap: {generate: {records: 4000, size: 100, rate: 1000}}, records: line}
  work: {exec: [cat], nodes: 2}
  out:  {sink: {file: DISK/out.txt}}
`

// TestDiskFull fills the disk of a sink: the run waits, says for what, and goes on within two seconds
// of there being space; each line is there once (FAULTS F14).
func TestDiskFull(t *testing.T) {
	runtimeDir(t)
	if os.Getuid() != 0 {
		t.Skip("it mounts a file system of its own: root alone may")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("no file system of its own:", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	r, _ := upWhile(t, strings.Replace(narrow, "DISK", disk, 1))
	r.until("records at the sink", 20*time.Second, allServed)
	stuffing := filepath.Join(disk, "stuffing")
	if err := os.WriteFile(stuffing, make([]byte, 2<<20), 0o600); err == nil {
		t.Fatal("a disk of 1 MiB took 2")
	}
	st := r.until("the sink waits for space", 20*time.Second, func(st api.Status) bool {
		return st.Pipelines[0].State == "waiting"
	})
	file, _ := strings.CutPrefix(st.Pipelines[0].Reason, "role out on out-1 tries again: write "+disk+"/")
	if file, ok := strings.CutSuffix(file, ": no space left on device"); !ok || file != "out.txt" && file != ".out.txt.seen.new" {
		t.Errorf("it waits for %q, want for space for its file, or for what it remembers of it", st.Pipelines[0].Reason)
	}
	time.Sleep(2 * time.Second) // so that the pauses are as long as they get
	st = r.until("a status", time.Second, func(api.Status) bool { return true })
	if err := os.Remove(stuffing); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	before := st.Pipelines[0].RecordsOut
	r.until("more records at the sink", 10*time.Second, func(st api.Status) bool { return st.Pipelines[0].RecordsOut > before })
	took := time.Since(start)
	f := r.end()
	counts := numbersIn(t, filepath.Join(disk, "out.txt"))
	repeated := 0
	for _, n := range counts {
		repeated += n - 1
	}
	t.Logf("it went on %v after there was space; %d lines, %d twice", took, len(counts), repeated)
	if len(counts) != 4000 || repeated > 0 || f.LinesOut != 4000 {
		t.Errorf("%d lines arrived, %d twice; %+v", len(counts), repeated, f)
	}
	if !raceEnabled && took > 2*time.Second {
		t.Errorf("it went on %v after there was space, want 2 s", took)
	}
}
