package sim

import "testing"

// regressions are the runs in which the simulator found a bug of the product, with the seed that
// showed it. The seed does not fix the order of goroutines, so each bug has a test of its own,
// named here, that fails without the fix every time.
var regressions = []struct {
	test  string
	text  string
	level Level // instead of text
	seed  uint64
}{
	{test: "stream.TestLateGeneration", text: "length 20s\nrate 200\nat 2s loss 95% on work -> sink", seed: 13},
	{test: "mux.TestBeatOfYoungLink", level: LevelMedium, seed: 5},
}

func TestRegressions(t *testing.T) {
	for _, r := range regressions {
		t.Run(r.test, func(t *testing.T) {
			text := r.text
			if r.level != "" {
				var err error
				if text, err = Chaos(r.level, r.seed); err != nil {
					t.Fatal(err)
				}
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
