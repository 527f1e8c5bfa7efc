package sim

import (
	"fmt"
	"slices"
	"testing"

	"weir/node"
	"weir/stream"
)

// planted are bugs that are built into the product to see that the checker notices. Each has a
// scenario in which it shows, and the rule that must say so.
var planted = []struct {
	bug      stream.Bug
	rule     string
	scenario string
}{
	{stream.BugAckEarly, "I1", ""},
	{stream.BugCounter, "I1", "graph source -> left, right -> sink\nrole left takes 1ms fails 20%\nrole right takes 50ms"},
	{stream.BugMarkGap, "I3", ""},
	{stream.BugLostCredit, "I7", ""},
	{stream.BugUnfenced, "I5", "length 20s\nat 2s loss 80% on work -> sink"},
	{stream.BugCustody, "I6", ""},
	{stream.BugDeadDrop, "I1", "disks\nrole work poisons 1%"},
	{stream.BugLRU, "I2", "every 2s from 2s cut sink -> work for 1900ms"},
	{stream.BugNoMarks, "I15", ""},
	{BugNoSync, "I1", "every 1s from 2s crash random sink for 300ms"},
	{node.BugEpochGen, "I1", "disks\nrole source live 1\nat 3s restart source"},
	{node.BugDeaf, "F3", "at 4s kill work-1"},
	{node.BugTwoLeaders, "I11", "delay 20ms\nevery 1s from 3s freeze leader for 700ms"},
}

// plantedSeeds is within how many seeds a planted bug must be caught (FAULTS I18).
const plantedSeeds = 200

func TestPlanted(t *testing.T) {
	long(t)
	for _, p := range planted {
		t.Run(string(p.bug), func(t *testing.T) {
			s := plantedScenario(t, p.scenario)
			for seed := uint64(1); seed <= plantedSeeds; seed++ {
				r := Run(Config{Scenario: s, Seed: seed, bug: p.bug})
				i := slices.IndexFunc(r.Violations, func(v Violation) bool { return v.Rule == p.rule })
				if i >= 0 {
					t.Logf("seed %d\n%s", seed, r.History.Story(&r.Violations[i]))
					return
				}
			}
			t.Errorf("not noticed with %d seeds", plantedSeeds)
		})
	}
}

// The same runs without a bug keep all promises: what the checker says there is of the bug.
func TestNothingPlanted(t *testing.T) {
	long(t)
	for _, p := range planted {
		t.Run(p.rule+" "+string(p.bug), func(t *testing.T) {
			s := plantedScenario(t, p.scenario)
			promised(t, Run(Config{Scenario: s, Seed: 1}))
		})
	}
}

// plantedScenario is a small cluster with its own trouble.
func plantedScenario(t *testing.T, trouble string) Scenario {
	t.Helper()
	text := fmt.Sprintf("length 6s\nrate 200\n%s\n", trouble)
	s, err := ParseScenario("planted", text, Shape{Nodes: 9})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
