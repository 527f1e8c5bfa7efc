package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// scenario parses a built-in scenario, or text.
func scenario(t testing.TB, name string, shape Shape) Scenario {
	t.Helper()
	text, err := FindBuiltin(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseScenario(name, text, shape)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTmp(t *testing.T) {
	name := os.Getenv("SC")
	if name == "" {
		t.Skip()
	}
	seed, _ := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	nodes, _ := strconv.Atoi(os.Getenv("NODES"))
	for _, b := range Builtins() {
		if name != "all" && name != b.Name || b.Lacks != "" {
			continue
		}
		r := Run(Config{Scenario: scenario(t, b.Name, Shape{Nodes: nodes}), Seed: seed})
		if name != "all" {
			r.Timeline.Write(os.Stdout, 140)
		}
		fmt.Println(b.Name, r.Err, r.Records, r.Acked, "lost", r.Lost, "dup", r.Duplicates, "lead", r.LeaderChanges, r.Virtual, r.Real)
		for i, v := range r.Violations {
			if i < 5 {
				fmt.Println("   ", v.String())
			}
		}
		if os.Getenv("STORY") != "" && len(r.Violations) > 0 {
			fmt.Println(r.History.Story(&r.Violations[0]))
		}
	}
}

func TestTmpChaos(t *testing.T) {
	level := os.Getenv("CHAOS")
	if level == "" {
		t.Skip()
	}
	from, _ := strconv.ParseUint(os.Getenv("FROM"), 10, 64)
	to, _ := strconv.ParseUint(os.Getenv("TO"), 10, 64)
	for seed := from; seed <= to; seed++ {
		text, err := Chaos(Level(level), seed)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseScenario("chaos", text, Shape{Nodes: 9})
		if err != nil {
			t.Fatal(err, text)
		}
		r := Run(Config{Scenario: s, Seed: seed})
		fmt.Println(seed, r.Err, r.Records, r.Acked, "lost", r.Lost, "dup", r.Duplicates, "lead", r.LeaderChanges, r.Virtual, r.Real)
		for i, v := range r.Violations {
			if i < 5 {
				fmt.Println("   ", v.String())
			}
		}
		if os.Getenv("STORY") != "" {
			r.Timeline.Write(os.Stdout, 160)
			if len(r.Violations) > 0 {
				fmt.Println(r.History.Story(&r.Violations[0]))
			}
		}
	}
}
