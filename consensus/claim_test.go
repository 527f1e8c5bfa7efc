package consensus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/topology"
)

// tapped is a pipeline with two taps.
func tapped(roles ...string) Command {
	p := topology.Pipeline{Name: "p", Version: 1}
	for _, r := range roles {
		p.Roles = append(p.Roles, topology.Role{Name: r, Kind: topology.KindTap})
		p.Graph.Edges = append(p.Graph.Edges, topology.Edge{From: r, To: "z"})
	}
	p.Roles = append(p.Roles, topology.Role{Name: "z", Kind: topology.KindSink})
	return Apply(p, 0)
}

func claims(cs ...Claim) Command { return Claims("p", cs...) }

func mark(claim, gen, next uint64, position string) Mark {
	return Mark{Pipeline: "p", Role: "a", Partition: "x", Claim: claim, Gen: gen, Next: next, Position: []byte(position)}
}

func begin(claim, gen uint64, position string) Command {
	return Begin("p", Claim{Role: "a", Partition: "x", Number: claim, Gen: gen, Position: []byte(position)})
}

// Entries are numbered from 10 on: a claim made by the second is number 11.
func TestClaims(t *testing.T) {
	first := claims(Claim{Role: "a", Partition: "x", Holder: "n1", Boot: 1, Gen: 7})
	second := claims(Claim{Role: "a", Partition: "x", Number: 11, Holder: "n2", Boot: 3, Gen: 8})
	done := mark(11, 7, 0, "")
	done.Done = true
	crowd := make([]Claim, claimsMax+1)
	for i := range crowd {
		crowd[i] = Claim{Role: "a", Partition: fmt.Sprintf("%04d", i)}
	}
	again := topology.Pipeline{Name: "p", Graph: topology.Graph{Edges: []topology.Edge{{From: "b", To: "z"}}},
		Roles: []topology.Role{{Name: "b", Kind: topology.KindTap}, {Name: "z", Kind: topology.KindSink}}}
	for _, tt := range []struct {
		name    string
		cmds    []Command
		refused string
		want    string // role/partition holder:boot number<before gen next position
	}{
		{"a partition nobody had", []Command{first}, "", "a/x n1:1 11<0 7 0"},
		{"the second try changes nothing", []Command{first, first}, "", "a/x n1:1 11<0 7 0"},
		{"another holder, the same generation", []Command{first, second}, "", "a/x n2:3 12<11 7 0"},
		{"who comes late with the old number", []Command{first, second, second}, "", "a/x n2:3 12<11 7 0"},
		{"one that is not there any more", []Command{second}, "", ""},
		{"of two in one, what is not so any more stays", []Command{first, claims(Claim{Role: "a", Partition: "x", Number: 9, Holder: "n3"}, Claim{Role: "b", Partition: "y", Gen: 1, Shared: true})},
			"", "a/x n1:1 11<0 7 0; b/y shared :0 12<0 1 0"},
		{"the leader gives out what is shared", []Command{claims(Claim{Role: "b", Partition: "y", Gen: 1, Shared: true}), claims(Claim{Role: "b", Partition: "y", Number: 11, Holder: "n1", Boot: 1})},
			"", "b/y shared n1:1 12<0 1 0"},
		{"all that there are", []Command{claims(Claim{Role: "b", Partition: "y", Gen: 1, All: true}, Claim{Role: "b", Partition: "z", Gen: 1, All: true})},
			"", "b/y :0 11<0 1 0; b/z :0 11<0 1 0"},
		{"where another saw others", []Command{claims(Claim{Role: "b", Partition: "x", Gen: 1}), claims(Claim{Role: "b", Partition: "y", Gen: 1, All: true})}, "", "b/x :0 11<0 1 0"},
		{"nobody is no holder", []Command{first, claims(Claim{Role: "a", Partition: "x", Number: 11})}, "", "a/x n1:1 11<0 7 0"},
		{"of a role that is no tap", []Command{claims(Claim{Role: "z", Partition: "x"})}, "pipeline p has no tap z", ""},
		{"of another pipeline", []Command{Claims("q", Claim{Role: "a"})}, "the cluster runs none of that name", ""},
		{"too many", []Command{claims(crowd[:claimsMax]...), claims(crowd[claimsMax])}, "4096 partitions, the most that are remembered", "many"},

		{"a mark", []Command{first, Marks(mark(11, 7, 5, "five"))}, "", "a/x n1:1 11<0 7 5 five"},
		{"never falls", []Command{first, Marks(mark(11, 7, 5, "five")), Marks(mark(11, 7, 4, "four"))}, "", "a/x n1:1 11<0 7 5 five"},
		{"of the claim before", []Command{first, second, Marks(mark(11, 7, 5, "five"))}, "", "a/x n2:3 12<11 7 0"},
		{"of another generation", []Command{first, Marks(mark(11, 8, 5, "five"))}, "", "a/x n1:1 11<0 7 0"},
		{"of what is not there", []Command{Marks(mark(11, 7, 5, "five"))}, "", ""},
		{"one refused, one not", []Command{first, Marks(mark(9, 7, 9, ""), mark(11, 7, 5, "five"))}, "", "a/x n1:1 11<0 7 5 five"},
		{"stays with another holder", []Command{first, Marks(mark(11, 7, 5, "five")), second}, "", "a/x n2:3 13<11 7 5 five"},
		{"done", []Command{first, Marks(mark(11, 7, 5, "five")), Marks(done)}, "", "a/x n1:1 11<0 7 5 five done"},
		{"begun", []Command{first, begin(11, 7, "one")}, "", "a/x n1:1 11<0 7 0 one"},
		{"begun twice", []Command{first, begin(11, 7, "one"), begin(11, 7, "uno")}, "", "a/x n1:1 11<0 7 0 one"},
		{"begun by the holder before", []Command{first, second, begin(11, 7, "one")}, "another claim or generation", "a/x n2:3 12<11 7 0"},
		{"begun in another generation", []Command{first, begin(11, 8, "one")}, "another claim or generation", "a/x n1:1 11<0 7 0"},
		{"begun stays with another holder", []Command{first, begin(11, 7, "one"), second}, "", "a/x n2:3 13<11 7 0 one"},
		{"begun after a mark", []Command{first, Marks(mark(11, 7, 5, "five")), begin(11, 7, "one")}, "", "a/x n1:1 11<0 7 5 five"},
		{"a mark after it has begun", []Command{first, begin(11, 7, "one"), Marks(mark(11, 7, 5, "five"))}, "", "a/x n1:1 11<0 7 5 five"},
		{"reset after it has begun", []Command{first, begin(11, 7, "one"), Reset("p", Claim{Role: "a", Partition: "x", Number: 11, Gen: 7}, 9)}, "", "a/x n1:1 11<0 9 0"},
		{"reset", []Command{first, Marks(mark(11, 7, 5, "five")), Reset("p", Claim{Role: "a", Partition: "x", Number: 11, Gen: 7}, 9)}, "", "a/x n1:1 11<0 9 0"},
		{"reset by the holder before", []Command{first, second, Reset("p", Claim{Role: "a", Partition: "x", Number: 11, Gen: 7}, 9)}, "another claim or generation", "a/x n2:3 12<11 7 0"},
		{"reset twice", []Command{first, Reset("p", Claim{Role: "a", Partition: "x", Number: 11, Gen: 7}, 9), Reset("p", Claim{Role: "a", Partition: "x", Number: 11, Gen: 7}, 10)}, "another claim or generation", "a/x n1:1 11<0 9 0"},

		{"a failed pipeline has nothing to claim", []Command{Fail("p", "why", 1), first}, "the cluster runs none of that name", ""},
		{"applied again it begins anew", []Command{first, Fail("p", "why", 1), tapped("a", "b")}, "", ""},
		{"a tap that is gone", []Command{first, Apply(again, 1)}, "", ""},
		{"a tap that is going keeps what it has", []Command{first, Admit(testNode(1, "a")), Apply(again, 1)}, "", "a/x n1:1 11<0 7 0"},
		{"until it has gone", []Command{first, Admit(testNode(1, "a")), Apply(again, 1), Settle("p", 2)}, "", ""},
	} {
		if strings.HasPrefix(tt.name, "applied again") {
			tt.cmds[2].At = 1
		}
		s, refused := applied(t, append([]Command{tapped("a", "b")}, tt.cmds...)...)
		if got := fmt.Sprint(refused); refused == nil && tt.refused != "" || refused != nil && (tt.refused == "" || !strings.Contains(got, tt.refused)) {
			t.Errorf("%s: refused: %v, want %q", tt.name, refused, tt.refused)
		}
		if got := claimsText(s); got != tt.want && tt.want != "many" {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func claimsText(s *State) string {
	var all []string
	for _, c := range s.Pipelines[0].Claims {
		text := c.Role + "/" + c.Partition
		if c.Shared {
			text += " shared"
		}
		text = strings.TrimSpace(fmt.Sprintf("%s %s:%d %d<%d %d %d %s", text, c.Holder, c.Boot, c.Number, c.Before, c.Gen, c.Next, c.Position))
		if c.Done {
			text += " done"
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// Positions may not fill a State beyond a frame.
func TestPositionsAreBounded(t *testing.T) {
	const each = 4 << 10
	cmds := []Command{tapped("a")}
	for k := range 2*positionsMax/each/MarksMax + 1 { // two partitions of three find no room
		var cs []Claim
		var ms []Mark
		for i := range MarksMax {
			name := fmt.Sprintf("%d-%d", k, i)
			cs = append(cs, Claim{Role: "a", Partition: name, Holder: "n1", Gen: 1})
			ms = append(ms, Mark{Pipeline: "p", Role: "a", Partition: name, Claim: uint64(10 + len(cmds)), Gen: 1, Next: 1, Position: make([]byte, each)})
		}
		cmds = append(cmds, claims(cs...), Marks(ms...))
	}
	s, refused := applied(t, cmds...)
	total := 0
	for _, c := range s.Pipelines[0].Claims {
		total += len(c.Position)
	}
	b, err := json.Marshal(s)
	if err != nil || refused != nil {
		t.Fatal(err, refused)
	}
	if total != positionsMax || len(b) > frameBytesMax {
		t.Errorf("positions hold %d bytes of %d, the state %d of %d", total, positionsMax, len(b), frameBytesMax)
	}
}

func TestMarksLeaveTheOldStateAlone(t *testing.T) {
	s, _ := applied(t, tapped("a"), claims(Claim{Role: "a", Partition: "x", Holder: "n1", Gen: 7}))
	for i, c := range []Command{
		Marks(mark(11, 7, 5, "five")), claims(Claim{Role: "a", Partition: "x", Number: 11, Holder: "n2"}),
		Reset("p", Claim{Role: "a", Partition: "x", Number: 13, Gen: 7}, 9),
	} {
		before, _ := json.Marshal(s)
		b, _ := json.Marshal(c)
		next, refused, err := s.apply(&entry{Index: uint64(12 + i), Command: b})
		if err != nil || refused != nil {
			t.Fatal(err, refused)
		}
		if after, _ := json.Marshal(s); !bytes.Equal(before, after) {
			t.Errorf("%s changed %s to %s", b, before, after)
		}
		s = next
	}
}

// Marks wake nobody and are not sent to those who watch; who is given a claim learns its mark.
func TestMarksAreQuiet(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(5, 3)
		ctx, voter, watcher := ms[0].ctx, ms[1], ms[4]
		for _, c := range []Command{tapped("a"), claims(Claim{Role: "a", Partition: "x", Holder: "n9", Gen: 7})} {
			if err := watcher.Propose(ctx, c); err != nil {
				t.Fatal(err)
			}
		}
		held := func(by topology.NodeID) func(*State) bool {
			return func(s *State) bool {
				p, _ := s.Pipeline("p")
				c, _ := p.Claim("a", "x")
				return c.Holder == by
			}
		}
		at := func(m *member) Claim { return m.State().Pipelines[0].Claims[0] }
		await(t, watcher, time.Second, "told of the claim", held("n9"))
		await(t, voter, time.Second, "told of the claim", held("n9"))
		number := at(watcher).Number

		changed, watched := voter.Changed(), watcher.State().Index
		for next := range uint64(2000) { // more than the voters remember for watchers
			if err := watcher.Propose(ctx, Marks(mark(number, 7, next+1, "there"))); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		select {
		case <-changed:
			t.Error("a mark woke who waits for a change")
		default:
		}
		if c := at(voter); c.Next != 2000 || string(c.Position) != "there" {
			t.Errorf("a voter has the mark %d %q, want 2000 there", c.Next, c.Position)
		}
		if s := watcher.State(); s.Index != watched || at(watcher).Next != 0 {
			t.Errorf("a watcher was sent marks: index %d, then %d, next %d", watched, s.Index, at(watcher).Next)
		}

		if err := watcher.Propose(ctx, claims(Claim{Role: "a", Partition: "x", Number: number, Holder: "n5"})); err != nil {
			t.Fatal(err)
		}
		await(t, watcher, time.Second, "told of the next claim", held("n5"))
		if c := at(watcher); c.Next != 2000 || string(c.Position) != "there" || c.Before != number {
			t.Errorf("the watcher was given %+v, want the mark with it", c)
		}
		done := mark(at(watcher).Number, 7, 0, "")
		done.Done = true
		if err := watcher.Propose(ctx, Marks(done)); err != nil {
			t.Fatal(err)
		}
		await(t, watcher, time.Second, "told of the end", func(s *State) bool { return s.Pipelines[0].Claims[0].Done })
	})
}

// A State that was kept by a version without claims is taken up.
func TestStateWithoutClaims(t *testing.T) {
	const old = `{"version":1,"index":40,"epoch":3,"log_id":7,"leader":"n1","term":2,"elections":1,"pipelines":[{"name":"p","version":1,
		"graph":{"edges":[{"from":"a","to":"z"}]},"roles":[{"name":"a","kind":"tap"},{"name":"z","kind":"sink"}],"opened":[{"file":1,"by":2}]}],
		"roster":[],"voters":["n1"],"servers":["n1/x"],"config_index":1}`
	var s State
	if err := json.Unmarshal([]byte(old), &s); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(claims(Claim{Role: "a", Partition: "x", Holder: "n1", Boot: 1, Gen: 7}))
	if err != nil {
		t.Fatal(err)
	}
	next, refused, err := s.apply(&entry{Index: 41, Command: b})
	if err != nil || refused != nil {
		t.Fatal(err, refused)
	}
	if got := claimsText(next); got != "a/x n1:1 41<0 7 0" || len(next.Pipelines[0].Opened) != 1 {
		t.Errorf("%s, opened %v", got, next.Pipelines[0].Opened)
	}
}
