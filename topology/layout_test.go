package topology_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"weir/topology"
)

const (
	meshMax = 256 // DESIGN.md 2
	picks   = 8
)

// nodes returns n nodes that serve roles.
func nodes(prefix string, n int, roles ...string) []topology.Node {
	ns := make([]topology.Node, n)
	for i := range ns {
		ns[i] = topology.Node{ID: topology.NodeID(fmt.Sprintf("%s%d", prefix, i)), Roles: roles}
	}
	return ns
}

func pipeline(t rapid.TB, name, graph string) topology.Pipeline {
	t.Helper()
	g, err := topology.Parse(graph)
	if err != nil {
		t.Fatal(err)
	}
	return topology.Pipeline{Name: name, Graph: g}
}

// computeAll is the links of the whole cluster. It fails if a node has a link that its other end
// does not have, or one that is not its own.
func computeAll(t rapid.TB, ps []topology.Pipeline, roster []topology.Node) map[topology.Link]bool {
	t.Helper()
	ends := make(map[topology.Link]int)
	for _, n := range roster {
		layout := topology.ComputeFor(ps, roster, n.ID)
		if !slices.IsSortedFunc(layout.Links, topology.Link.Compare) {
			t.Fatalf("links of %s are not sorted", n.ID)
		}
		for i, l := range layout.Links {
			if i > 0 && l == layout.Links[i-1] {
				t.Fatalf("%s has %v twice", n.ID, l)
			}
			if l.From != n.ID && l.To != n.ID {
				t.Fatalf("%s has the link %v of others", n.ID, l)
			}
			ends[l]++
		}
	}
	all := make(map[topology.Link]bool)
	for l, n := range ends {
		if want := 2; n != want && (l.From != l.To || n != 1) {
			t.Fatalf("%v is known at %d ends, not %d", l, n, want)
		}
		all[l] = true
	}
	return all
}

// A25: a role that needs a tag has links only with nodes that have it.
func TestComputeForTags(t *testing.T) {
	p := pipeline(t, "p", "in -> encode -> out")
	p.Roles = []topology.Role{{Name: "encode", Needs: []string{"gpu", "pipe-29"}}, {Name: "in"}, {Name: "out"}}
	roster := []topology.Node{
		{ID: "n1", Roles: []string{"in"}},
		{ID: "n2", Roles: []string{"encode"}},
		{ID: "n3", Roles: []string{"encode"}, Tags: []string{"gpu"}},
		{ID: "n4", Roles: []string{"encode"}, Tags: []string{"big", "pipe-29", "gpu"}},
		{ID: "n5", Roles: []string{"out"}},
		{ID: "n6", Roles: []string{"p/encode"}, Tags: []string{"gpu", "pipe-29"}},
	}
	all := computeAll(t, []topology.Pipeline{p}, roster)
	want := map[topology.Link]bool{}
	for _, e := range p.Graph.Edges {
		for _, id := range []topology.NodeID{"n4", "n6"} {
			l := topology.Link{Pipeline: "p", Edge: e, From: "n1", To: id}
			if e.From == "encode" {
				l.From, l.To = id, "n5"
			}
			want[l] = true
		}
	}
	if !maps.Equal(all, want) {
		t.Errorf("links %v, want %v", all, want)
	}
	encode := p.Roles[0]
	if a, b := encode.Lacks(roster[1]), encode.Lacks(roster[2]); a != "gpu" || b != "pipe-29" {
		t.Errorf("n2 lacks %q and n3 %q, want gpu and pipe-29", a, b)
	}
}

func TestComputeForSmall(t *testing.T) {
	ps := []topology.Pipeline{pipeline(t, "p", "in -> work -> out\nwork.err -> log"), pipeline(t, "q", "in -> out")}
	roster := []topology.Node{
		{ID: "n1", Roles: []string{"in", "p/log"}},
		{ID: "n2", Roles: []string{"work"}},
		{ID: "n3", Roles: []string{"work", "q/out"}},
		{ID: "n4", Roles: []string{"p/out"}},
		{ID: "n5"},
	}
	var got string
	for _, id := range []topology.NodeID{"n1", "n2", "n3", "n4", "n5", "stranger"} {
		got += string(id) + ":"
		for _, l := range topology.ComputeFor(ps, roster, id).Links {
			got += fmt.Sprintf(" %s[%s]%s-%s", l.Pipeline, l.Edge.Source(), l.From, l.To)
		}
		got += "\n"
	}
	want := `n1: p[in]n1-n2 p[in]n1-n3 p[work.err]n2-n1 p[work.err]n3-n1 q[in]n1-n3
n2: p[in]n1-n2 p[work]n2-n4 p[work.err]n2-n1
n3: p[in]n1-n3 p[work]n3-n4 p[work.err]n3-n1 q[in]n1-n3
n4: p[work]n2-n4 p[work]n3-n4
n5:
stranger:
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestComputeForStable fails if another build, process or machine would compute other links.
func TestComputeForStable(t *testing.T) {
	roster := append(nodes("a", 20, "a"), nodes("b", 20, "b")...)
	var got []topology.NodeID
	for _, l := range topology.ComputeFor([]topology.Pipeline{pipeline(t, "p", "a -> b")}, roster, "a7").Links {
		got = append(got, l.To)
	}
	want := "[b0 b10 b11 b14 b15 b18 b2 b3 b6 b7 b8 b9]"
	if fmt.Sprint(got) != want {
		t.Errorf("the links of a7 lead to %v, want %s: raise LayoutVersion", got, want)
	}
}

func TestComputeForSelfLink(t *testing.T) {
	ps := []topology.Pipeline{pipeline(t, "p", "a -> b")}
	for _, n := range []int{1, 3, 17, 40} {
		all := computeAll(t, ps, nodes("n", n, "a", "b"))
		if n*n <= meshMax && len(all) != n*n {
			t.Errorf("%d nodes of both roles: %d links", n, len(all))
		}
		if n*n > meshMax && len(all) > 2*picks*n {
			t.Errorf("%d nodes of both roles: %d links", n, len(all))
		}
	}
}

// 256 pairs of nodes are still all joined; one node more and each picks.
func TestMeshLimit(t *testing.T) {
	ps := []topology.Pipeline{pipeline(t, "p", "a -> b")}
	for _, c := range []struct{ a, b, most int }{{16, 16, 256}, {1, 256, 256}, {1, 257, 257}, {16, 17, 16*17 - 1}} {
		all := computeAll(t, ps, append(nodes("a", c.a, "a"), nodes("b", c.b, "b")...))
		if len(all) > c.most || c.a*c.b <= meshMax && len(all) != c.a*c.b {
			t.Errorf("%d x %d nodes have %d links, want at most %d", c.a, c.b, len(all), c.most)
		}
	}
}

// rosters draws two sides of an edge a -> b, now and then with nodes of both.
func rosters(t *rapid.T) []topology.Node {
	roster := nodes("a", rapid.IntRange(0, 40).Draw(t, "a"), "a")
	roster = append(roster, nodes("b", rapid.IntRange(0, 40).Draw(t, "b"), "b")...)
	roster = append(roster, nodes("ab", rapid.IntRange(0, 3).Draw(t, "ab"), "a", "b")...)
	return rapid.Permutation(roster).Draw(t, "roster")
}

// sides returns the nodes of either role.
func sides(roster []topology.Node) (a, b []topology.NodeID) {
	for _, n := range roster {
		if n.Serves("p", "a") {
			a = append(a, n.ID)
		}
		if n.Serves("p", "b") {
			b = append(b, n.ID)
		}
	}
	return a, b
}

func TestComputeForProperties(t *testing.T) {
	ps := []topology.Pipeline{pipeline(t, "p", "a -> b")}
	rapid.Check(t, func(t *rapid.T) {
		roster := rosters(t)
		all := computeAll(t, ps, roster)
		a, b := sides(roster)
		if len(a)*len(b) <= meshMax && len(all) != len(a)*len(b) {
			t.Fatalf("%d x %d nodes have %d links", len(a), len(b), len(all))
		}
		if len(all) > max(meshMax, picks*(len(a)+len(b))) {
			t.Fatalf("%d x %d nodes have %d links", len(a), len(b), len(all))
		}
		downstream, upstream := make(map[topology.NodeID]int), make(map[topology.NodeID]int)
		for l := range all {
			downstream[l.From]++
			upstream[l.To]++
		}
		for _, id := range a {
			if downstream[id] < min(picks, len(b)) {
				t.Fatalf("%s has %d of %d nodes downstream", id, downstream[id], len(b))
			}
		}
		for _, id := range b {
			if upstream[id] < min(picks, len(a)) {
				t.Fatalf("%s has %d of %d nodes upstream", id, upstream[id], len(a))
			}
		}
		shuffled := rapid.Permutation(roster).Draw(t, "shuffled")
		if !maps.Equal(all, computeAll(t, ps, shuffled)) {
			t.Fatal("another order of the roster gives other links")
		}
	})
}

// A leave takes the links of the node that left and adds at most one per node that had it; a
// join, read backwards, is the same. Only where the edge crosses 256 may all of it change.
func TestLeaveIsMinimal(t *testing.T) {
	ps := []topology.Pipeline{pipeline(t, "p", "a -> b")}
	rapid.Check(t, func(t *rapid.T) {
		roster := rosters(t)
		if len(roster) == 0 {
			return
		}
		gone := rapid.SampledFrom(roster).Draw(t, "gone").ID
		left := slices.DeleteFunc(slices.Clone(roster), func(n topology.Node) bool { return n.ID == gone })
		a, b := sides(roster)
		a2, b2 := sides(left)
		if len(a)*len(b) > meshMax && len(a2)*len(b2) <= meshMax {
			return
		}
		before, after := computeAll(t, ps, roster), computeAll(t, ps, left)
		peers := make(map[topology.NodeID]bool)
		for l := range before {
			if l.From == gone || l.To == gone {
				peers[l.From], peers[l.To] = true, true
			} else if !after[l] {
				t.Fatalf("%v is gone, though %s left", l, gone)
			}
		}
		added := 0
		for l := range after {
			if before[l] {
				continue
			}
			added++
			if !peers[l.From] && !peers[l.To] {
				t.Fatalf("%v is new, but neither end had a link with %s", l, gone)
			}
		}
		delete(peers, gone)
		lost := len(peers)
		if slices.Contains(a, gone) && slices.Contains(b, gone) {
			lost *= 2 // once on either side
		}
		if added > lost {
			t.Fatalf("%d links are new, %d nodes had a link with %s", added, len(peers), gone)
		}
	})
}

// TestPicksSpread looks at how even the hashing is: nobody is picked by far more than others.
func TestPicksSpread(t *testing.T) {
	ps := []topology.Pipeline{pipeline(t, "p", "a -> b")}
	roster := append(nodes("worker-", 100, "a"), nodes("10.0.0.1:74", 100, "b")...)
	count := make(map[topology.NodeID]int)
	for l := range computeAll(t, ps, roster) {
		count[l.From]++
		count[l.To]++
	}
	most := slices.MaxFunc(slices.Collect(maps.Keys(count)), func(a, b topology.NodeID) int { return cmp.Compare(count[a], count[b]) })
	if count[most] > 4*picks {
		t.Errorf("%s has %d links, the mean is below %d", most, count[most], 2*picks)
	}
}

func TestDiff(t *testing.T) {
	ps := []topology.Pipeline{pipeline(t, "p", "a -> b -> c")}
	rapid.Check(t, func(t *rapid.T) {
		old := topology.ComputeFor(ps, append(rosters(t), nodes("c", 2, "c")...), "ab0")
		now := topology.ComputeFor(ps, append(rosters(t), nodes("c", 3, "c")...), "ab0")
		open, drain := topology.Diff(old, now)
		have := make(map[topology.Link]bool)
		for _, l := range old.Links {
			have[l] = true
		}
		for _, l := range drain {
			if !have[l] {
				t.Fatalf("%v drains but was not there", l)
			}
			delete(have, l)
		}
		for _, l := range open {
			if have[l] {
				t.Fatalf("%v opens but was there", l)
			}
			have[l] = true
		}
		want := make(map[topology.Link]bool)
		for _, l := range now.Links {
			want[l] = true
		}
		if !maps.Equal(have, want) {
			t.Fatalf("old, opened and drained: %d links, want %d", len(have), len(want))
		}
	})
}

func BenchmarkComputeFor(b *testing.B) {
	roster := append(nodes("a", 250, "a"), nodes("b", 250, "b")...)
	ps := []topology.Pipeline{pipeline(b, "p", "a -> b")}
	b.ReportAllocs()
	for b.Loop() {
		topology.ComputeFor(ps, roster, "a7")
	}
}
