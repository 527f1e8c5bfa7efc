package sim

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// regressions are the runs in which the simulator found a bug of the product, with the seed that
// showed it. The seed does not fix the order of goroutines, so each bug has a test of its own,
// named here, that fails without the fix every time.
var regressions = []struct {
	test string
	text string
	file string // instead of text: what chaos drew from that seed then
	seed uint64
}{
	{test: "stream.TestLateGeneration", text: "length 20s\nrate 200\nat 2s loss 95% on work -> sink", seed: 13},
	{test: "mux.TestBeatOfYoungLink", file: "regress-medium-5.txt", seed: 5},
	{test: "mux.TestLaterStartEndsLinks", file: "regress-medium-204.txt", seed: 204},
	{test: "gossip.TestNodeComesBackAtAnotherAddress", text: "disks\nlength 15s\nrate 20\nbare 3\nrole work nodes 1\nat 8s move work-1", seed: 1},
	{test: "consensus.TestCallOfAThawedNode", text: "length 25s\nrate 50\nbare 3\nat 10s freeze bare-2 for 4.5s\nat 10.1s pause for 2s", seed: 6},
}

func TestRegressions(t *testing.T) {
	long(t)
	for _, r := range regressions {
		t.Run(r.test, func(t *testing.T) {
			text := r.text
			if r.file != "" {
				b, err := os.ReadFile(filepath.Join("testdata", r.file))
				if err != nil {
					t.Fatal(err)
				}
				text = string(b)
			}
			s, err := ParseScenario(r.test, text, Shape{Nodes: 9})
			if err != nil {
				t.Fatal(err)
			}
			promised(t, Run(Config{Scenario: s, Seed: r.seed}))
		})
	}
}

// Whoever comes to a dead node's address is not dialled ten times a second by all who had links with
// the dead one: a worker that crashes all the time and comes back under another name costs its peers
// little. Each try was a handshake of some twenty packets.
func TestCrashLoopIsCheap(t *testing.T) {
	long(t)
	s, err := ParseScenario("crash loop", "length 15s\nrate 20\nrole work nodes 3\nbare 3\nevery 400ms from 5s until 12s restart work-1", Shape{})
	if err != nil {
		t.Fatal(err)
	}
	r := Run(Config{Scenario: s, Seed: 1})
	promised(t, r)
	t.Log(r.Packets, "packets")
	if most := uint64(23_000); r.Packets > most {
		t.Errorf("%d packets, want at most %d", r.Packets, most)
	}
}

// A node with a disk comes back as who it was; without one it has a new name.
func TestRestartKeepsTheName(t *testing.T) {
	for _, test := range []struct{ text, second string }{
		{"disks\n", "work-1"},
		{"", "work-1.2"},
	} {
		s, err := ParseScenario("restart", test.text+"length 15s\nrate 20\nnodes 7\nat 8s move work-1", Shape{})
		if err != nil {
			t.Fatal(err)
		}
		r := Run(Config{Scenario: s, Seed: 1})
		promised(t, r)
		var starts []string
		for _, e := range r.History.All {
			if e.Kind == EventStarted && servedBy(e.Node) == "work" && (e.N > 1 || e.Node == "work-1") {
				starts = append(starts, string(e.Node))
			}
		}
		if len(starts) != 2 || starts[1] != test.second {
			t.Errorf("%qwork-1 starts as %q, want it to come back as %s", test.text, starts, test.second)
		}
	}
}

// A worker that joins while nobody leads works once somebody does, and records flow meanwhile (A8).
func TestJoinWithoutLeader(t *testing.T) {
	long(t)
	text, err := FindBuiltin("join-without-leader")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseScenario("join", text, Shape{})
	if err != nil {
		t.Fatal(err)
	}
	r := Run(Config{Scenario: s, Seed: 1})
	promised(t, r)
	joined := nodeName("work", len(s.nodeNames("work"))+1)
	var killed, led, worked time.Duration
	acked := 0 // while nobody leads
	for _, e := range r.History.All {
		switch {
		case e.Kind == EventKilled && killed == 0:
			killed = e.At
		case e.Kind == EventElected && killed > 0 && led == 0:
			led = e.At
		case e.Kind == EventHandled && string(e.Node) == joined && worked == 0:
			worked = e.At
		case e.Kind == EventAcked && killed > 0 && led == 0:
			acked++
		}
	}
	t.Logf("killed %v, led %v, worked %v, %d acked meanwhile", killed, led, worked, acked)
	if led-killed > 2*time.Second || acked == 0 || worked == 0 || worked-led > 2*time.Second {
		t.Errorf("killed %v, led %v, worked %v, %d acked meanwhile", killed, led, worked, acked)
	}
}

// promised fails unless a run kept all promises.
func promised(t *testing.T, r *Result) {
	t.Helper()
	if r.Err != nil {
		t.Errorf("seed %d: %v", r.Seed, r.Err)
	}
	for i := range r.Violations {
		t.Errorf("seed %d: %s", r.Seed, r.History.Story(&r.Violations[i]))
	}
}
