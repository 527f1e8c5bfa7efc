package sim

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The list of rare branches is what the product says, no more and no less.
func TestBranchesAreThoseOfTheProduct(t *testing.T) {
	call := regexp.MustCompile(`[sS]ometimes\("([^"]+)"\)`)
	var said []string
	for _, room := range []string{"stream", "gossip", "consensus", "node"} {
		err := filepath.WalkDir(filepath.Join("..", room), func(path string, d fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range call.FindAllStringSubmatch(string(text), -1) {
				said = append(said, m[1])
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(said)
	said = slices.Compact(said)
	for _, b := range said {
		if !slices.Contains(branches, b) {
			t.Errorf("the product says %q, which is not in the list", b)
		}
	}
	for _, b := range branches {
		if !slices.Contains(said, b) {
			t.Errorf("the list has %q, which the product never says", b)
		}
	}
	if len(said) < 20 {
		t.Errorf("found only %d branches: the test would check nothing", len(said))
	}
}

func TestUnreached(t *testing.T) {
	one, other := map[string]uint64{branches[0]: 1}, map[string]uint64{branches[2]: 3, "no branch": 1}
	got := Unreached(one, other)
	want := slices.Concat(branches[1:2], branches[3:])
	if !slices.Equal(got, want) {
		t.Errorf("never reached: %q, want %q", got, want)
	}
}

// Scenarios made for a branch reach it, whatever chance does.
func TestScenariosReachTheirBranches(t *testing.T) {
	long(t)
	for name, wanted := range map[string][]string{
		"full-windows":      {"a window has no room for another chunk", "chunks are packed"},
		"f14-disk-full":     {"a sink waits for its store"},
		"f23-poison-record": {"a sink looks for the record that it refuses"},
		"f24-killer-record": {"a suspect goes through quarantine", "a record is condemned"},
		"f26-hung-worker":   {"a handler misses its deadline"},
		"f27-zombie":        {"a shared partition is not read without a leader", "a sink drops what it had"},
		"f29-source-reset":  {"a partition begins again"},
		"f4-source-dies":    {"a partition is read on"},
		"restarts":          {"a later start of a peer connects", "a heartbeat finds that a peer has started anew"},
	} {
		text, err := FindBuiltin(name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseScenario(name, text, Shape{})
		if err != nil {
			t.Fatal(err)
		}
		r := Run(Config{Scenario: s, Seed: 1})
		promised(t, r)
		for _, b := range wanted {
			if r.History.Reached()[b] == 0 {
				t.Errorf("%s never reached: %s", name, b)
			}
		}
	}
}
