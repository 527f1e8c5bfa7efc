package node

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/consensus"
	"weir/topology"
)

// TestToAssign gives out partitions: "x n1:2" is held by the second boot of n1, "x" by nobody, "x n1:2 done"
// is read to its end, "x n1:2 local" no other node sees.
func TestToAssign(t *testing.T) {
	for _, tt := range []struct {
		name     string
		nodes    string // id:boot of the role's nodes in the roster; -: it does not answer, !: left, lazy: other role
		takeover time.Duration
		away     time.Duration // of those that do not answer
		claims   []string
		want     string // partition>node:boot
	}{
		{"nobody serves the role", "", 0, 0, []string{"x"}, ""},
		{"nobody who lives", "n1:1-", 0, 0, []string{"x"}, ""},
		{"to the only one", "n1:1", 0, 0, []string{"x", "y"}, "x>n1:1 y>n1:1"},
		{"evenly", "n1:1 n2:1 n3:1", 0, 0, []string{"a", "b", "c", "d", "e", "f", "g"}, "a>n1:1 b>n2:1 c>n3:1 d>n1:1 e>n2:1 f>n3:1 g>n1:1"},
		{"to who has least", "n1:1 n2:1", 0, 0, []string{"a n1:1", "b n1:1", "c", "d"}, "c>n2:1 d>n2:1"},
		{"what is held stays", "n1:1 n2:1", 0, 0, []string{"a n1:1", "b n2:1", "c n1:1"}, ""},
		{"a second node gets half", "n1:1 n2:1", 0, 0, []string{"a n1:1", "b n1:1", "c n1:1", "d n1:1"}, "c>n2:1 d>n2:1"},
		{"no more moves than it takes", "n1:1 n2:1", 0, 0, []string{"a n1:1", "b n1:1", "c n1:1"}, "c>n2:1"},
		{"what is done is nobody's business", "n1:1 n2:1", 0, 0, []string{"a n1:1 done", "b n1:1 done", "c n1:1 done", "d"}, "d>n1:1"},
		{"nor what only its node sees", "n1:1 n2:1", 0, time.Hour, []string{"a n9:1 local", "b n1:1 local", "c n1:1 local"}, ""},
		{"its node was started again", "n1:2 n2:1", 0, 0, []string{"a n1:1", "b n2:1"}, "a>n1:2"},
		{"started again, and has too much", "n1:2 n2:1", 0, 0, []string{"a n1:1", "b n1:1", "c n1:1"}, "a>n1:2 b>n1:2 c>n2:1"},
		{"its node left", "n1:1! n2:1", 0, 0, []string{"a n1:1"}, "a>n2:1"},
		{"its node serves the role no more", "n1:1lazy n2:1", 0, 0, []string{"a n1:1"}, "a>n2:1"},
		{"started again for something else", "n1:2lazy n2:1", 0, 0, []string{"a n1:1"}, "a>n2:1"},
		{"its node does not answer", "n1:1- n2:1", 0, 9 * time.Second, []string{"a n1:1"}, ""},
		{"and has not for long", "n1:1- n2:1", 0, 10 * time.Second, []string{"a n1:1"}, "a>n2:1"},
		{"gone from the roster, not for long", "n2:1", 0, 9 * time.Second, []string{"a n1:1"}, ""},
		{"gone from the roster for long", "n2:1", 0, 10 * time.Second, []string{"a n1:1"}, "a>n2:1"},
		{"the role waits longer", "n1:1- n2:1", time.Minute, 59 * time.Second, []string{"a n1:1"}, ""},
		{"the role waits for ever", "n1:1- n2:1", topology.TakeoverNever, time.Hour, []string{"a n1:1"}, ""},
		{"but not for who left", "n1:1! n2:1", topology.TakeoverNever, time.Hour, []string{"a n1:1"}, "a>n2:1"},
	} {
		s := &consensus.State{}
		p := consensus.Pipeline{Pipeline: topology.Pipeline{Name: "p", Roles: []topology.Role{{Name: "tap", Kind: topology.KindTap, Takeover: tt.takeover}}}}
		gone := make(map[topology.NodeID]bool)
		for _, f := range strings.Fields(tt.nodes) {
			n := topology.Node{Roles: []string{"tap"}}
			id, rest, _ := strings.Cut(f, ":")
			n.ID = topology.NodeID(id)
			fmt.Sscan(rest[:1], &n.Boot)
			switch rest[1:] {
			case "-":
				gone[n.ID] = true
			case "lazy":
				n.Roles = []string{"rest"}
			case "!":
				s.Departed = append(s.Departed, consensus.Departure{ID: n.ID, Boot: n.Boot})
				continue
			}
			s.Roster = append(s.Roster, n)
		}
		for _, text := range tt.claims {
			f := append(strings.Fields(text), "", "")
			c := consensus.Claim{Role: "tap", Partition: f[0], Shared: f[2] != "local", Done: f[2] == "done", Number: 5}
			id, boot, _ := strings.Cut(f[1], ":")
			c.Holder = topology.NodeID(id)
			fmt.Sscan(boot, &c.Boot)
			p.Claims = append(p.Claims, c)
		}
		alive := func(id topology.NodeID) bool { _, there := s.Node(id); return there && !gone[id] }
		away := func(id topology.NodeID) time.Duration {
			if alive(id) {
				return 0
			}
			return tt.away
		}
		give := toAssign(s, p, alive, away)
		slices.SortFunc(give, func(a, b consensus.Claim) int { return cmp.Compare(a.Partition, b.Partition) })
		var got []string
		for _, c := range give {
			got = append(got, fmt.Sprintf("%s>%s:%d", c.Partition, c.Holder, c.Boot))
			if c.Number != 5 {
				t.Errorf("%s: %s takes the place of claim %d, want 5", tt.name, c.Partition, c.Number)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		p.Failed = &consensus.Failure{}
		if give := toAssign(s, p, alive, away); len(give) > 0 {
			t.Errorf("%s: of a failed pipeline %v is given out", tt.name, give)
		}
	}
}
