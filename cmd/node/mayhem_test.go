package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"weir/node/api"
)

var (
	mayhem     = flag.Duration("mayhem", 10*time.Second, "how long TestMayhem kills processes")
	mayhemSeed = flag.Uint64("mayhem-seed", rand.Uint64(), "what fixes whom it kills")
)

// TestMayhem kills -9 taps, workers, sinks and whoever leads, one of them every 2 s, under 20,000
// lines a second, and starts each again: every line is at the sink once, and none is a dead letter.
func TestMayhem(t *testing.T) {
	const (
		rate   = 20_000
		every  = 2 * time.Second
		rssMax = 200 << 20 // bytes; FAULTS 2.2, asserted of every node
		window = 4096      // records that a link may have un-acked
	)
	lines := rate * int(*mayhem/time.Second)
	h := newHand(t, fmt.Sprintf(`
pipeline: mayhem
graph: in -> work -> pass -> out
roles:
  in:   {tap: {generate: {records: %d, size: 60, rate: %d}}, records: line}
  work: {sh: 'exec sed -u "s/$/ x/"', mode: line, nodes: 2}
  pass: {exec: [cat], mode: line, nodes: 2}
  out:  {sink: {file: out.txt}}
`, lines, rate), "v1", "v2", "v3", "in=in", "w1=work", "w2=work", "p1=pass", "p2=pass", "out=out")
	for _, n := range h.nodes {
		n.start()
	}
	t.Logf("-mayhem %v -mayhem-seed %d", *mayhem, *mayhemSeed)
	random := rand.New(rand.NewPCG(*mayhemSeed, 0))
	h.flowing(20 * time.Second)
	h.until("three voters", 20*time.Second, votes(3))

	victims := []string{"in", "w1", "w2", "p1", "p2", "out", "leader"}
	killed := make(map[string]int)
	var again, read, kills, rss uint64
	for end := time.Now().Add(*mayhem); time.Now().Before(end); kills++ {
		next := time.Now().Add(every)
		st := h.until("a leader", 10*time.Second, func(st api.Status) bool {
			return st.Quorum && st.Leader != "" && len(st.Pipelines) == 1
		})
		what := victims[random.IntN(len(victims))]
		name := what
		if what == "leader" {
			name = st.Leader
		}
		victim := h.place(name)
		if victim.cmd == nil {
			continue // who is away still leads for those who have not noticed
		}
		killed[what]++
		switch victim.name {
		case "in":
			read += victim.read() // of this life of the tap
		case "out":
			again += st.Pipelines[0].Duplicates // of this life of the sink
		}
		rss = max(rss, victim.rss())
		h.kill(victim)
		time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond) // away for a short time or a long one
		victim.start()
		time.Sleep(time.Until(next)) // the pace of the kills
	}
	st := h.finish(lines, 2*time.Minute)
	again += st.Pipelines[0].Duplicates
	read += h.place("in").read()
	for _, n := range h.nodes {
		rss = max(rss, n.rss())
	}
	// A tap goes on at the oldest record that was not acked. Where records of a dead worker are still on their way,
	// one by one, that is older than a window; what one costs that dies alone is TestTapKilledAgainAndAgain's.
	reread := read - min(read, uint64(lines))
	t.Logf("killed %v; the sink was given %d records that it had, the tap had read %d again; at most %d MiB a node", killed, again, reread, rss>>20)
	if most := kills*window + reread; again > most {
		t.Errorf("%d records came again after %d kills: at most %d", again, kills, most)
	}
	if rss > rssMax {
		t.Errorf("a node held %d MiB, at most %d", rss>>20, rssMax>>20)
	}
	letters, err := exec.Command("weir", "dead", "list", "--json", "--addr", "unix:"+filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "v1")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(letters), `"role"`) {
		t.Errorf("dead letters of innocent records:\n%s", letters)
	}
}

// rss is the most memory that the process has had, in bytes.
func (n *started) rss() uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		n.hand.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmHWM:")
	kib, err := strconv.ParseUint(strings.Fields(after)[0], 10, 64)
	if err != nil {
		n.hand.t.Fatal(err)
	}
	return kib << 10
}
