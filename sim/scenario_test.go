package sim

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/topology"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestParseScenario(t *testing.T) {
	s, err := ParseScenario("t", `
about what it shows          # and a comment
graph in -> work -> sink, log
role work nodes 3 capacity 8 takes 5ms fails 1% tagged 2
nodes 10
rate 200
length 40s
size 16KiB
disks
memory 2MiB

at 10s kill leader for 5s
every 5s from 12s until 25s restart random worker
loss 5% bursts 20 on work -> sink-1
at 20s partition work-1 sink-1 | rest for 10s
at 30s pause log for 3s
at 34s pause sink for 1s
at 36s pause
`, Shape{})
	if err != nil {
		t.Fatal(err)
	}
	if s.About != "what it shows" || s.Rate != 200 || s.Length != 40*time.Second || s.Size != 16<<10 || !s.Disks || s.Memory != 2<<20 {
		t.Errorf("header: %q %d %v %d %d", s.About, s.Rate, s.Length, s.Size, s.Memory)
	}
	names := strings.Join(s.allNames(), " ")
	if want := "in-1 work-1 work-2 work-3 sink-1 sink-2 log-1 log-2 bare-1 bare-2"; names != want {
		t.Errorf("nodes %s, want %s", names, want)
	}
	if w := s.Roles[1]; w != (Role{Name: "work", Kind: topology.KindGo, Nodes: 3, Capacity: 8, Takes: 5 * time.Millisecond, Fails: 0.01, Tagged: 2}) {
		t.Errorf("role %+v", w)
	}
	var steps, paused []string
	for _, st := range s.steps {
		steps = append(steps, fmt.Sprintf("%v %s", st.at, st.text))
		if st.act.verb == verbPause {
			paused = append(paused, strings.Join(st.act.roles, " "))
		}
	}
	if want := []string{"log", "sink", ""}; !slices.Equal(paused, want) {
		t.Errorf("paused: %q, want %q", paused, want)
	}
	want := []string{
		"0s loss 5% bursts 20 on work -> sink-1", "10s kill leader for 5s", "12s restart random worker",
		"17s restart random worker", "20s partition work-1 sink-1 | rest for 10s", "22s restart random worker",
		"30s pause log for 3s", "34s pause sink for 1s", "36s pause",
	}
	if !slices.Equal(steps, want) {
		t.Errorf("steps:\n%s\nwant:\n%s", strings.Join(steps, "\n"), strings.Join(want, "\n"))
	}
}

// A mistake is one sentence with its line.
func TestScenarioMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"at 5s kil work-1":                 "line 1: unknown word kil: did you mean kill?",
		"at 5s kill work-99":               "line 1: unknown node work-99: did you mean work-1?",
		"at 5s kill nobody-at-all":         "line 1: unknown node nobody-at-all: there are source-1, work-1, work-2, work-3, work-4, work-5, work-6, sink-1, sink-2, bare-1, bare-2, bare-3, source, work, sink, all, rest, leader, follower, voter, worker, tap, sink, bare",
		"at 5s kill random":                "line 1: random what? want a role or a class of nodes",
		"at 5s kill":                       "line 1: who? a side names no node",
		"at 5s":                            "line 1: what happens then? want kill, drain, restart, crash, move, freeze, pause, stall, slow, replace, busy, full, add, partition, cut, loss, duplicate, reorder, delay, bandwidth, mtu",
		"at soon kill leader":              `line 1: "soon" is no time as 90s or 20ms`,
		"at 61s kill leader":               "line 1: 1m1s is after the scenario's end, length 1m0s",
		"every 1ms restart work-1":         "line 1: every 1ms: at least 10ms",
		"loss 100%":                        `line 1: "100%" is no share from 0% to below 100%`,
		"loss 5":                           `line 1: "5" is no share from 0% to below 100%`,
		"loss 5% burst 20":                 "line 1: unknown word burst: did you mean bursts?",
		"loss 5% bursts 0":                 `line 1: "0" is no number from 1 to 10000`,
		"duplicate 5% bursts 2":            `line 1: "bursts" says nothing here`,
		"mtu 100":                          "line 1: mtu 100: at least 576 bytes",
		"bandwidth 5":                      "line 1: bandwidth 5: at least 10KiB a second",
		"slow work-1 1x":                   `line 1: "1x" is no factor as 10x, above 1 and at most 1000`,
		"partition work-1 sink-1":          "line 1: want 2 sides with | between them",
		"partition work-1 | work":          "line 1: work-1 is on two sides at once",
		"cut work-1 -> sink-1 -> source-1": "line 1: a cut has two sides",
		"loss 5%\nat 10s loss 10% for 5s":  "line 2: loss 10% for 5s at 10s contradicts loss 5% of line 1",
		"at 5s kill work-1\nat 9s freeze work-1 for 2s": "line 2: freeze work-1 for 2s at 9s: work-1 is away since 5s (line 1)",
		"at 5s kill sink":                                `line 1: kill sink leaves role sink without a node for good: say for how long, as in "kill sink for 10s"`,
		"at 5s kill sink-1\nat 6s drain sink-2":          `line 2: drain sink-2 leaves role sink without a node for good: say for how long, as in "drain sink-2 for 10s"`,
		"at 5s stall sink for 0s":                        "line 1: for 0s: nothing happens in no time",
		"nodes 3":                                        "nodes 3: the graph needs at least 4",
		"nodes 0":                                        `line 1: "0" is no number from 1 to 1000`,
		"nodes 100000":                                   `line 1: "100000" is no number from 1 to 1000`,
		"rate 1e9":                                       `line 1: "1e9" is no number from 1 to 100000`,
		"length 48h":                                     "line 1: length 48h: at most 24h0m0s",
		"disks on":                                       `line 1: disks: "on" says nothing here`,
		"size 1MiB":                                      "line 1: size 1MiB: at most 512KiB",
		"memory 1000KiB":                                 "line 1: memory 1000KiB: at least 1MiB",
		"role work nodes":                                "line 1: want: role NAME, and pairs of a word and its value: nodes, capacity, takes, fails, tagged, deadline, poisons, hangs, kills, pairs, partitions, shared, live, takeover",
		"role work kills 1%":                             `role work: dead letters need disks: say "disks"`,
		"disks\nrole work hangs 1%":                      "role work: hangs needs a deadline, as deadline 2s",
		"disks\nrole work kills 60% fails 50%":           "role work: more records fail than there are",
		"disks\nrole sink kills 1%":                      "role sink: of a sink only poisons can be said: handlers fail, hang, kill, make pairs and have a deadline",
		"role work shared 3":                             "role work: only a tap has partitions",
		"role source takeover 3s":                        "role source: takeover is of shared partitions, as shared 3",
		"at 5s replace work":                             "line 1: replace work: only a tap reads an input",
		"role source pairs 1%":                           "role source: it is given no records, it reads them",
		"role work node 3":                               "line 1: unknown word node: did you mean nodes?",
		"role work nodes 2 tagged 3":                     "role work: 3 nodes tagged, and it has 2",
		"role wrok nodes 3":                              "role wrok is not in the graph: it has source, work, sink",
		"role work nodes 3\nrole work nodes 2":           "line 2: role work is described twice",
		"graph a -> bare -> c":                           "a role may not be called bare, as nodes without a role are",
		"at 5s add 3 nothing":                            "line 1: unknown role nothing: there are source, work, sink, bare",
		"at 5s add 3 source":                             "line 1: add source: a tap reads on one set of nodes",
		"at 5s pause sinc for 3s":                        "line 1: unknown role sinc: did you mean sink?",
		"at 5s pause nothing-like-it":                    "line 1: unknown role nothing-like-it: there are source, work, sink",
		"at 5s pause work-1 for 3s":                      "line 1: pause work-1: want one role, or none for the whole pipeline; nodes stand still by freeze",
		"at 5s pause random worker for 3s":               "line 1: pause random worker: want one role, or none for the whole pipeline; nodes stand still by freeze",
		"at 5s pause sink for 5s\nat 9s pause":           "line 2: pause at 9s contradicts pause sink for 5s of line 1",
		"at 5s pause worker\nat 9s pause work":           "line 2: pause work at 9s contradicts pause worker of line 1",
		"at 5s add work":                                 "line 1: want: add COUNT ROLE",
		"# " + strings.Repeat("x", scenarioBytesMax):     fmt.Sprintf("the text has %d bytes, at most %d", scenarioBytesMax+2, scenarioBytesMax),
		"length 24h\nevery 10ms from 1s restart work-1":  "line 2: more than 10000 steps",
		"every 5s kill work-1 for 10s":                   "line 1: kill work-1 for 10s at 10s: work-1 is away since 5s (line 1)",
		"at 5s add 3 work\nat 9s kill work-9 for 1s\n??": "line 3: unknown word ??: there are kill, drain, restart, crash, move, freeze, pause, stall, slow, replace, busy, full, add, partition, cut, loss, duplicate, reorder, delay, bandwidth, mtu, about, graph, role, nodes, bare, rate, length, size, memory, disks",
	} {
		_, err := ParseScenario("t", text, Shape{})
		var at *ScenarioError
		if !errors.As(err, &at) || !strings.HasPrefix(err.Error(), "scenario t") {
			t.Errorf("%.60q: %v", text, err)
			continue
		}
		got := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "scenario t, "), "scenario t: ")
		if got != want {
			t.Errorf("%.60q:\n  %s\nwant\n  %s", text, got, want)
		}
	}
}

// What may look contradictory and is not.
func TestScenarioMay(t *testing.T) {
	for _, text := range []string{
		"at 5s kill sink for 10s",
		"at 5s kill work-1 for 2s\nat 9s kill work-1",
		"at 5s loss 5% for 5s\nat 10s loss 10%",
		"loss 5% on work-1\nloss 10% on work-2",
		"at 5s add 3 work\nat 9s kill work-9",
		"at 5s kill leader\nat 9s kill leader",
		"at 5s kill all for 9s\nat 9s stall sink\nat 9.5s kill all for 1s",
		"graph in -> out\nnodes 3",
		"at 5s pause sink for 4s\nat 6s pause work\nat 9s pause sink",
		"at 5s kill all for 9s\nat 6s pause for 1s",
	} {
		if _, err := ParseScenario("t", text, Shape{}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A shape replaces the cluster and leaves the steps.
func TestShape(t *testing.T) {
	g, err := topology.Parse("a -> b, c -> d")
	if err != nil {
		t.Fatal(err)
	}
	shape := Shape{Nodes: 9, Graph: g, Roles: []Role{
		{Name: "a", Kind: topology.KindTap, Nodes: 1}, {Name: "b", Kind: topology.KindGo, Nodes: 2},
		{Name: "c", Kind: topology.KindGo, Nodes: 1}, {Name: "d", Kind: topology.KindSink, Nodes: 1},
	}}
	s, err := ParseScenario("t", "graph x -> y\nnodes 50\nat 5s kill random worker", shape)
	if err != nil {
		t.Fatal(err)
	}
	if names := strings.Join(s.allNames(), " "); names != "a-1 b-1 b-2 c-1 d-1 bare-1 bare-2 bare-3 bare-4" {
		t.Errorf("nodes %s", names)
	}
	if got := s.meant(target{word: "worker"}); strings.Join(got, " ") != "b-1 b-2 c-1" {
		t.Errorf("workers %v", got)
	}
}

// Every scenario that comes with the program parses, says what it shows, and is of the catalogue;
// each fault of the catalogue is there or listed as not yet.
func TestBuiltins(t *testing.T) {
	faults := make(map[string]bool)
	all := Builtins()
	if all[0].Name != DefaultScenario {
		t.Errorf("the first is %s, want %s", all[0].Name, DefaultScenario)
	}
	for _, b := range all {
		f, _, _ := strings.Cut(b.Name, "-")
		if faults[f] {
			t.Errorf("%s is there twice", f)
		}
		faults[f] = true
		if b.Lacks != "" {
			if _, err := FindBuiltin(b.Name); err == nil || !strings.Contains(err.Error(), b.Lacks) {
				t.Errorf("%s, which is not there yet: %v", b.Name, err)
			}
			continue
		}
		s, err := ParseScenario(b.Name, b.Text, Shape{})
		if err != nil {
			t.Error(err)
		}
		if s.About == "" || len(s.steps) == 0 {
			t.Errorf("%s: about %q, %d steps", b.Name, s.About, len(s.steps))
		}
	}
	for f := 1; f <= 35; f++ {
		if !faults[fmt.Sprintf("f%d", f)] {
			t.Errorf("fault F%d has no scenario and no reason", f)
		}
	}
	if _, err := FindBuiltin("tuor"); err == nil || err.Error() != "unknown scenario tuor: did you mean tour?" {
		t.Errorf("an unknown scenario: %v", err)
	}
}

// Chaos of a seed is the same every time, parses, and is another for another seed and level.
func TestChaos(t *testing.T) {
	for _, level := range []Level{LevelLow, LevelMedium, LevelHigh} {
		texts := make(map[string]uint64)
		for seed := range uint64(200) {
			text, err := Chaos(level, seed)
			if err != nil {
				t.Fatal(err)
			}
			if again, _ := Chaos(level, seed); again != text {
				t.Fatalf("%s, seed %d: drawn twice, two texts", level, seed)
			}
			_, body, _ := strings.Cut(text, "\n")
			if other, twice := texts[body]; twice {
				t.Errorf("%s: seeds %d and %d draw the same", level, seed, other)
			}
			texts[body] = seed
			for _, nodes := range []int{0, 5, 9, 50} {
				if _, err := ParseScenario("chaos", text, Shape{Nodes: nodes}); err != nil {
					t.Fatalf("%s, seed %d, %d nodes: %v\n%s", level, seed, nodes, err, text)
				}
			}
		}
	}
	if _, err := Chaos("medum", 1); err == nil || err.Error() != "unknown chaos level medum: did you mean medium?" {
		t.Errorf("an unknown level: %v", err)
	}
}

func FuzzScenario(f *testing.F) {
	for _, b := range Builtins() {
		f.Add(b.Text)
	}
	f.Add("every 5s from 12s until 25s restart random worker\nslow work 10x\nadd 3 bare")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseScenario("f", text, Shape{})
		if err != nil {
			if strings.Contains(err.Error(), "\n") && !strings.Contains(text, "\r") {
				t.Errorf("more than a sentence: %q", err)
			}
			return
		}
		if n := len(s.allNames()); n == 0 || n > 2*nodesMax || len(s.steps) > stepsMax {
			t.Errorf("%d nodes, %d steps", n, len(s.steps))
		}
		for _, st := range s.steps {
			if st.at < 0 || st.at >= s.Length {
				t.Errorf("a step at %v of %v", st.at, s.Length)
			}
		}
	})
}

// The timeline as people see it; -update writes the file anew.
func TestTimeline(t *testing.T) {
	tl := Timeline{End: 60 * time.Second}
	for i := range 121 {
		at := time.Duration(i) * sampleEvery
		s := Sample{At: at, Acked: uint64(500 * i), Held: 20 << 10}
		if at > 30*time.Second && at < 40*time.Second {
			s.Acked, s.Held = 30_000, 900<<10
		}
		tl.Samples = append(tl.Samples, s)
	}
	tl.Elections = []Election{{time.Second, "bare-1", 2}, {12 * time.Second, "work-1", 4}}
	tl.Faults = []Span{
		{Text: "loss 5%", To: 60 * time.Second},
		{Text: "kill leader (bare-1)", From: 10 * time.Second, To: 10 * time.Second},
		{Text: "stall sink, whose name is too long to show", From: 30 * time.Second, To: 40 * time.Second},
	}
	b := new(strings.Builder)
	if err := tl.Write(b, 100); err != nil {
		t.Fatal(err)
	}
	const file = "testdata/timeline.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("the timeline is\n%s\nwant\n%s", b, want)
	}
	for _, width := range []int{0, 1, 40, 500} { // and no width breaks it, nor an empty run
		if err := new(Timeline).Write(new(strings.Builder), width); err != nil {
			t.Error(err)
		}
	}
}
