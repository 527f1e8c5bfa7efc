package consensus

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weir/topology"
)

// pipelineOf is a pipeline named p of a graph whose roles have the kinds given; the others are
// programs.
func pipelineOf(t *testing.T, graph string, kinds map[string]topology.Kind) topology.Pipeline {
	t.Helper()
	g, err := topology.Parse(graph)
	if err != nil {
		t.Fatal(err)
	}
	p := topology.Pipeline{Name: "p", Graph: g}
	for _, name := range g.Roles() {
		kind := kinds[name]
		if kind == "" {
			kind = topology.KindEach
		}
		p.Roles = append(p.Roles, topology.Role{Name: name, Kind: kind})
	}
	p.Roles = sortedRoles(p.Roles)
	return p
}

func sortedRoles(rs []topology.Role) []topology.Role {
	return Pipeline{Leaving: Leaving{Roles: rs}}.Whole().Roles
}

var tapAndSink = map[string]topology.Kind{"tap": topology.KindTap, "sink": topology.KindSink}

// do applies a command as entry n of the log; the text is its refusal.
func do(t *testing.T, s *State, c Command) (*State, string) {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	next, refused, err := s.apply(&entry{Index: s.Index + 1, Term: 1, Command: b})
	if err != nil {
		t.Fatal(err)
	}
	if refused != nil {
		return next, refused.Error()
	}
	return next, ""
}

func must(t *testing.T, s *State, c Command) *State {
	t.Helper()
	next, refused := do(t, s, c)
	if refused != "" {
		t.Fatal(refused)
	}
	return next
}

// whole writes what is laid out: the graph, and after a slash what leaves of it.
func whole(p Pipeline) string {
	text := p.Graph.String()
	for _, e := range p.Leaving.Edges {
		text += " / " + e.String()
	}
	for _, r := range p.Leaving.Roles {
		text += " / " + r.Name
	}
	return strings.ReplaceAll(text, "\n", "; ")
}

func TestRevise(t *testing.T) {
	before := must(t, &State{}, Admit(topology.Node{ID: "n1", Boot: 1, Roles: []string{"tap", "a"}}))
	before = must(t, before, Apply(pipelineOf(t, "tap -> a -> sink", tapAndSink), 0))
	turned := map[string]topology.Kind{"tap": topology.KindTap, "sink": topology.KindSink, "a": topology.KindSink}
	large := pipelineOf(t, "tap -> a -> sink", tapAndSink)
	large.RecordMax = 4 << 20
	for name, tt := range map[string]struct {
		p       topology.Pipeline
		at      uint64
		version uint64
		want    string
		refused string
	}{
		"the same":           {pipelineOf(t, "tap -> a -> sink", tapAndSink), 1, 1, "tap -> a -> sink", ""},
		"the same, later":    {pipelineOf(t, "tap -> a -> sink", tapAndSink), 0, 1, "tap -> a -> sink", ""},
		"in another order":   {pipelineOf(t, "a -> sink\ntap -> a", tapAndSink), 1, 1, "tap -> a -> sink", ""},
		"a role more":        {pipelineOf(t, "tap -> a -> sink\ntap -> b -> sink", tapAndSink), 1, 2, "tap -> a -> sink; tap -> b -> sink", ""},
		"another role":       {pipelineOf(t, "tap -> b -> sink", tapAndSink), 1, 2, "tap -> b -> sink / tap -> a / a -> sink / a", ""},
		"an edge less":       {pipelineOf(t, "tap -> sink", tapAndSink), 1, 2, "tap -> sink / tap -> a / a -> sink / a", ""},
		"changed meanwhile":  {pipelineOf(t, "tap -> sink", tapAndSink), 7, 1, "tap -> a -> sink", "pipeline p was changed meanwhile: it is at version 1, not 7 as planned; look at it again with weir plan"},
		"a role turned":      {pipelineOf(t, "tap -> a, sink", turned), 1, 1, "tap -> a -> sink", "pipeline p: role a cannot turn from each to sink while it runs: give it another name, or stop the nodes that serve the pipeline, apply, and start them again"},
		"larger records":     {large, 1, 1, "tap -> a -> sink", "pipeline p: record-max cannot change while it runs: stop the nodes that serve the pipeline, apply, and start them again"},
		"only in the middle": {pipelineOf(t, "tap -> b -> a -> sink", tapAndSink), 1, 2, "tap -> b -> a -> sink / tap -> a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s, refused := do(t, before, Apply(tt.p, tt.at))
			p, _ := s.Pipeline("p")
			if refused != tt.refused {
				t.Errorf("refused with %q, want %q", refused, tt.refused)
			}
			if got := whole(p); got != tt.want || p.Version != tt.version {
				t.Errorf("version %d: %s\nwant %d: %s", p.Version, got, tt.version, tt.want)
			}
			if changed := p.Version > 1; (s.Epoch > before.Epoch) != changed {
				t.Errorf("epoch %d after %d", s.Epoch, before.Epoch)
			}
			again, refused := do(t, s, Apply(tt.p, tt.at))
			if refused != tt.refused || !cmp.Equal(again.Pipelines, s.Pipelines) {
				t.Errorf("applied twice: %q, %s", refused, cmp.Diff(s.Pipelines, again.Pipelines))
			}
		})
	}
	if p, _ := before.Pipeline("p"); p.Version != 1 || whole(p) != "tap -> a -> sink" {
		t.Errorf("a published state has changed: version %d, %s", p.Version, whole(p))
	}
}

// What leaves a graph and what is new must not make a loop: its records would wait for each other.
func TestReviseLoop(t *testing.T) {
	s := must(t, &State{}, Admit(topology.Node{ID: "n1", Boot: 1, Roles: []string{"tap"}}))
	s = must(t, s, Apply(pipelineOf(t, "tap -> a -> b -> sink", tapAndSink), 0))
	turned := pipelineOf(t, "tap -> b -> a -> sink", tapAndSink)
	_, refused := do(t, s, Apply(turned, 1))
	if !strings.Contains(refused, "apply a file without the new ones first (the graph has a cycle: ") {
		t.Errorf("refused with %q", refused)
	}
	s = must(t, s, Apply(pipelineOf(t, "tap -> a -> sink\ntap -> b -> sink", tapAndSink), 1))
	s = must(t, s, Settle("p", 1)) // of a version before: nothing
	if _, refused = do(t, s, Apply(turned, 2)); refused == "" {
		t.Error("the loop is allowed while the first change leaves")
	}
	s = must(t, s, Settle("p", 2))
	s = must(t, s, Apply(turned, 2))
	if p, _ := s.Pipeline("p"); p.Version != 3 || whole(p) != "tap -> b -> a -> sink / tap -> a / b -> sink" {
		t.Errorf("version %d: %s", p.Version, whole(p))
	}
}

// An edge that comes back while it leaves is open again; Settle ends what left.
func TestLeaving(t *testing.T) {
	s := must(t, &State{}, Admit(topology.Node{ID: "n1", Boot: 1, Roles: []string{"p/tap"}}))
	both := pipelineOf(t, "tap -> a, b -> sink", tapAndSink)
	s = must(t, s, Create(both))
	s = must(t, s, Apply(pipelineOf(t, "tap -> a -> sink", tapAndSink), 1))
	p, _ := s.Pipeline("p")
	in, out := topology.Edge{From: "tap", To: "b"}, topology.Edge{From: "b", To: "sink"}
	if !p.Leaves("b") || !p.Closed(in) || p.Closed(out) || p.Leaves("a") {
		t.Errorf("role b leaves %v, closed %v and %v: it hands on what it has", p.Leaves("b"), p.Closed(in), p.Closed(out))
	}
	back := must(t, s, Apply(both, 2))
	if p, _ := back.Pipeline("p"); !p.Leaving.IsZero() || p.Version != 3 {
		t.Errorf("back again: version %d, %s", p.Version, whole(p))
	}
	settled := must(t, s, Settle("p", 2))
	if p, _ := settled.Pipeline("p"); !p.Leaving.IsZero() || settled.Epoch != s.Epoch+1 || len(p.Whole().Roles) != 3 {
		t.Errorf("settled: %s, epoch %d after %d", whole(p), settled.Epoch, s.Epoch)
	}
	alone := must(t, s, Evict(true, "n1"))
	alone = must(t, alone, Apply(pipelineOf(t, "tap -> sink", tapAndSink), 2))
	if p, _ := alone.Pipeline("p"); !p.Leaving.IsZero() {
		t.Errorf("nobody serves it, and yet %s", whole(p))
	}
}

func TestPause(t *testing.T) {
	s := must(t, &State{}, Create(pipelineOf(t, "tap -> a, b -> sink", tapAndSink)))
	epoch := s.Epoch
	paused := func(s *State) (names string) {
		p, _ := s.Pipeline("p")
		for _, r := range p.Roles {
			if p.Pauses(r) {
				names += r.Name + " "
			}
		}
		return names
	}
	for _, tt := range []struct {
		role string
		on   bool
		want string
	}{
		{"sink", true, "sink "},
		{"a", true, "a sink "},
		{"a", true, "a sink "},
		{"", true, "a sink tap "},
		{"sink", false, "a tap "},
		{"", false, ""},
		{"", false, ""},
	} {
		s = must(t, s, Pause("p", tt.role, tt.on, s.Index))
		if got := paused(s); got != tt.want {
			t.Errorf("pause %q %v: %q, want %q", tt.role, tt.on, got, tt.want)
		}
	}
	if s.Epoch != epoch {
		t.Error("a pause is no change of graph or roster")
	}
	for _, c := range []Command{Pause("q", "", true, s.Index), Pause("p", "c", true, s.Index)} {
		if _, refused := do(t, s, c); refused == "" {
			t.Errorf("%s/%s was paused", c.Name, c.Role)
		}
	}
	s = must(t, s, Pause("p", "b", true, s.Index))
	s = must(t, s, Pause("p", "a", true, s.Index))
	s = must(t, s, Apply(pipelineOf(t, "tap -> a -> sink", tapAndSink), 1))
	if got := paused(s); got != "a " {
		t.Errorf("after a new version %q is paused, want what stays of it", got)
	}
}

// What was asked for before the last pause or resume comes too late to change anything.
func TestLatePause(t *testing.T) {
	asked := must(t, &State{}, Create(pipelineOf(t, "tap -> a -> sink", tapAndSink)))
	s := must(t, asked, Pause("p", "", false, asked.Index)) // it was not paused: this counts all the same
	for _, c := range []Command{Pause("p", "", true, asked.Index), Pause("p", "a", true, asked.Index)} {
		if _, refused := do(t, s, c); !strings.Contains(refused, "pipeline p was paused or resumed meanwhile") {
			t.Errorf("a late pause: %q", refused)
		}
	}
	s = must(t, s, Pause("p", "a", true, s.Index))
	again := must(t, s, Pause("p", "a", true, asked.Index)) // the second try of one whose answer was lost
	if _, refused := do(t, again, Pause("p", "", false, s.Index)); refused != "" {
		t.Errorf("after a second try: %s", refused)
	}
	s = must(t, s, Apply(pipelineOf(t, "tap -> a, b -> sink", tapAndSink), 1))
	if _, refused := do(t, s, Pause("p", "a", false, asked.Index)); refused == "" {
		t.Error("a new version forgets when it was paused")
	}
	if _, refused := do(t, s, Pause("p", "a", false, 0)); refused != "" {
		t.Errorf("an entry of an earlier program: %s", refused)
	}
}

// A pipeline that failed runs again once a version of it is applied, be it the same.
func TestApplyAfterFailure(t *testing.T) {
	s := must(t, &State{}, Create(pipelineOf(t, "tap -> sink", tapAndSink)))
	s = must(t, s, Fail("p", "a bug", 65))
	s = must(t, s, Apply(pipelineOf(t, "tap -> sink", tapAndSink), 1))
	if p, _ := s.Pipeline("p"); p.Failed != nil || p.Version != 2 {
		t.Errorf("version %d, failed %v", p.Version, p.Failed)
	}
}
