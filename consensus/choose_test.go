package consensus

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weir/topology"
)

// enrich is a pipeline with a tap, a role, a role and a sink.
var enrich = Pipeline{Pipeline: topology.Pipeline{Name: "enrich", Roles: []topology.Role{
	{Name: "tap", Kind: topology.KindTap}, {Name: "fb", Kind: topology.KindEach},
	{Name: "tw", Kind: topology.KindEach}, {Name: "db", Kind: topology.KindSink},
}}}

// parseNodes reads "a=tap b=fb" as a roster, sorted by id.
func parseNodes(text string) (roster []topology.Node) {
	for f := range strings.FieldsSeq(text) {
		id, roles, _ := strings.Cut(f, "=")
		n := topology.Node{ID: topology.NodeID(id)}
		if roles != "" {
			n.Roles = strings.Split(roles, ",")
		}
		roster = append(roster, n)
	}
	slices.SortFunc(roster, func(a, b topology.Node) int { return compareNode(a, b.ID) })
	return roster
}

func ids(text string) (list []topology.NodeID) {
	for f := range strings.FieldsSeq(text) {
		list = append(list, topology.NodeID(f))
	}
	return list
}

func set(list []topology.NodeID) map[topology.NodeID]bool {
	m := make(map[topology.NodeID]bool)
	for _, id := range list {
		m[id] = true
	}
	return m
}

func TestChooseVoters(t *testing.T) {
	for _, tt := range []struct {
		name, roster, voters, dead, left string
		self                             topology.NodeID
		want                             Change
	}{
		{"nobody admitted yet", "", "t", "", "", "t", Change{}},
		{"all have left", "", "t x y", "", "t x y", "t", Change{}},
		{"alone", "t=tap", "t", "", "", "t", Change{}},
		{"two nodes: the first keeps its vote", "t=tap a", "t", "", "", "t", Change{}},
		{"three nodes: all vote", "t=tap a d=db", "t", "", "", "t", Change{Add: ids("a d")}},
		{"three nodes: the sink too", "t=tap a d=db", "a t", "", "", "t", Change{Add: ids("d")}},
		{"role-less ones first", "t=tap b=fb c=tw d=db x y z", "t", "", "", "t", Change{Add: ids("x y z")}},
		{"promote before demoting", "t=tap b=fb c=tw d=db x y z", "t x y", "", "", "t", Change{Add: ids("z")}},
		{"then the tap hands on", "t=tap b=fb c=tw d=db x y z", "t x y z", "", "", "t", Change{Transfer: ids("x y z")}},
		{"and loses its vote", "t=tap b=fb c=tw d=db x y z", "t x y z", "", "", "x", Change{Remove: "t"}},
		{"done", "t=tap b=fb c=tw d=db x y z", "x y z", "", "", "x", Change{}},
		{"with a fellow in the role is as good", "t=tap b=fb c=fb d=tw e=tw z=db", "b c d", "", "", "b", Change{}},
		{"the only one of a role is better than a tap", "t=tap b=fb c=tw d=db x", "t x b", "", "", "x", Change{Add: ids("c")}},
		{"pipeline/role counts as the role", "b=enrich/fb c=fb t=enrich/tap d=db x", "b c t", "", "", "b", Change{Add: ids("x")}},
		{"a dead voter stays while nobody replaces it", "a b c", "a b c", "c", "", "a", Change{}},
		{"a dead voter is replaced first", "a b c d", "a b c", "c", "", "a", Change{Add: ids("d")}},
		{"and loses its vote then", "a b c d", "a b c d", "c", "", "a", Change{Remove: "c"}},
		{"dead before alive", "a b c d e", "a b c t", "c", "", "a", Change{Remove: "c"}},
		{"an evicted voter is a dead one", "a b d", "a b c d", "", "", "a", Change{Remove: "c"}},
		{"those who left make room", "a b c", "a b c", "", "c", "a", Change{Remove: "c"}},
		{"down to one", "a b", "a b", "", "", "a", Change{Remove: "b"}},
		{"too many", "a b c d e", "a b c d e", "", "", "a", Change{Remove: "e"}},
		{"the worst first", "t=tap a b c d e", "a d e t", "", "", "a", Change{Remove: "t"}},
		{"the leader goes last", "a b c d e", "a b c d e", "", "", "e", Change{Remove: "d"}},
	} {
		s := &State{Roster: parseNodes(tt.roster), Voters: ids(tt.voters), Pipelines: []Pipeline{enrich}}
		left := set(ids(tt.left))
		alive := make(map[topology.NodeID]bool)
		for _, n := range s.Roster {
			alive[n.ID] = !left[n.ID] && !slices.Contains(ids(tt.dead), n.ID)
		}
		if got := ChooseVoters(s, tt.self, alive, left, 3); fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// Whatever the start, the changes end, in an odd number of voters if nobody died, and never does
// a change take the quorum away.
func TestChooseVotersSettles(t *testing.T) {
	roles := []string{"", "tap", "fb", "tw", "db"}
	rapid.Check(t, func(t *rapid.T) {
		s := &State{Pipelines: []Pipeline{enrich}}
		alive := make(map[topology.NodeID]bool)
		n := rapid.IntRange(1, 12).Draw(t, "nodes")
		for i := range n {
			id := topology.NodeID(fmt.Sprintf("n%02d", i))
			s.Roster = append(s.Roster, topology.Node{ID: id, Roles: []string{rapid.SampledFrom(roles).Draw(t, "role")}})
			alive[id] = i == 0 || rapid.IntRange(0, 4).Draw(t, "dies") > 0
			if i == 0 || alive[id] && rapid.Bool().Draw(t, "votes") && len(s.Voters) < VotersMax {
				s.Voters = append(s.Voters, id)
			}
		}
		self := s.Voters[0]
		target := rapid.SampledFrom([]int{1, 3, 5}).Draw(t, "target")
		for range 4 * VotersMax {
			c := ChooseVoters(s, self, alive, nil, target)
			switch {
			case len(c.Add) > 0:
				s.Voters = append(s.Voters, c.Add...)
			case c.Remove != "":
				if c.Remove == self {
					t.Fatalf("the leader %s removes itself", self)
				}
				s.Voters = slices.DeleteFunc(s.Voters, func(id topology.NodeID) bool { return id == c.Remove })
			case len(c.Transfer) > 0:
				self = rapid.SampledFrom(c.Transfer).Draw(t, "next")
			default:
				if len(s.Voters)%2 == 0 || len(s.Voters) > max(target, 1) {
					t.Fatalf("%d voters of %d nodes, target %d", len(s.Voters), n, target)
				}
				return
			}
			slices.Sort(s.Voters)
			if len(s.Voters) > VotersMax+1 {
				t.Fatalf("%d voters", len(s.Voters))
			}
		}
		t.Fatalf("the changes do not end: voters %v", s.Voters)
	})
}
