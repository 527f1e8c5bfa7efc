package sim

import (
	"embed"
	"fmt"
	"slices"
	"strings"
)

// This file is pure: the scenarios that come with the program.

//go:embed scenarios/*.txt
var builtinFiles embed.FS

// DefaultScenario is what runs when nobody says what.
const DefaultScenario = "tour"

// Builtin is a scenario that comes with the program, or a fault of the catalogue (FAULTS 2.2)
// that cannot be simulated yet.
type Builtin struct {
	Name  string
	About string
	Text  string
	Lacks string // why it is not here yet; "" = it is
}

// notYet are the faults of the catalogue that the product, or the simulator, cannot meet so far.
var notYet = []Builtin{
	{Name: "f12-leader-disk-hang", Lacks: "simulated disks do not hang: see the tests of package consensus"},
	{Name: "f13-clock-jump", Lacks: "virtual time has one clock for all nodes"},
	{Name: "f15-torn-log", Lacks: "only the disks of sinks tear: see the tests of package consensus"},
	{Name: "f16-out-of-memory", Lacks: "all nodes share one process here: see real processes"},
	{Name: "f19-foreign-cluster", Lacks: "one cluster a run so far"},
	{Name: "f20-two-clusters", Lacks: "one cluster a run so far"},
	{Name: "f21-mixed-versions", Lacks: "there is one version so far"},
	{Name: "f22-graph-change-in-failover", Lacks: "a scenario cannot change its graph: see the tests of package sim"},
	{Name: "f35-out-of-files", Lacks: "simulated nodes open no files"},
}

// Builtins lists the scenarios that come with the program and the faults that do not yet, by
// name, the default first.
func Builtins() []Builtin {
	all := slices.Clone(notYet)
	files, err := builtinFiles.ReadDir("scenarios")
	if err != nil {
		panic(fmt.Sprintf("sim: list scenarios: %v", err)) // they are part of the program
	}
	for _, f := range files {
		text, err := builtinFiles.ReadFile("scenarios/" + f.Name())
		if err != nil {
			panic(fmt.Sprintf("sim: read scenario: %v", err))
		}
		b := Builtin{Name: strings.TrimSuffix(f.Name(), ".txt"), Text: string(text)}
		for line := range strings.Lines(b.Text) {
			if about, ok := strings.CutPrefix(line, "about "); ok {
				b.About = strings.TrimSpace(about)
			}
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b Builtin) int {
		switch {
		case a.Name == DefaultScenario:
			return -1
		case b.Name == DefaultScenario:
			return 1
		}
		return compareNames(a.Name, b.Name)
	})
	return all
}

// compareNames orders f2 before f10.
func compareNames(a, b string) int {
	pad := func(s string) string {
		head, tail, _ := strings.Cut(s, "-")
		return fmt.Sprintf("%4s-%s", head, tail)
	}
	return strings.Compare(pad(a), pad(b))
}

// FindBuiltin returns the text of a scenario that comes with the program.
func FindBuiltin(name string) (string, error) {
	var names []string
	for _, b := range Builtins() {
		if b.Name == name && b.Lacks != "" {
			return "", fmt.Errorf("scenario %s cannot run yet: %s", name, b.Lacks)
		}
		if b.Name == name {
			return b.Text, nil
		}
		if b.Lacks == "" {
			names = append(names, b.Name)
		}
	}
	return "", unknown("scenario", name, names...)
}
