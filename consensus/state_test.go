package consensus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"weir/topology"
)

// applied is the state after cmds, each an entry of its own, and the last refusal.
func applied(t testing.TB, cmds ...Command) (*State, error) {
	t.Helper()
	s, refused := &State{}, error(nil)
	for i, c := range cmds {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if s, refused, err = s.apply(&entry{Index: uint64(10 + i), Term: 3, Command: b}); err != nil {
			t.Fatal(err)
		}
	}
	return s, refused
}

func boot(i int, boot uint64) topology.Node {
	n := testNode(i)
	n.Boot = boot
	return n
}

func TestApply(t *testing.T) {
	p := topology.Pipeline{Name: "p", Version: 1}
	q := topology.Pipeline{Name: "p", Version: 2}
	many := make([]Command, pipelinesMax+1)
	for i := range many {
		many[i] = Create(topology.Pipeline{Name: fmt.Sprintf("p%03d", i)})
	}
	crowd := make([]topology.Node, rosterMax+1)
	for i := range crowd {
		crowd[i] = topology.Node{ID: topology.NodeID(fmt.Sprintf("n%05d", i))}
	}
	for _, tt := range []struct {
		name    string
		cmds    []Command
		epoch   uint64
		refused string
		roster  string // id:boot
		extra   func(*State) string
	}{
		{"admit sorts", []Command{Admit(boot(2, 1), boot(1, 1))}, 1, "", "n1:1 n2:1", nil},
		{"admit again changes nothing", []Command{Admit(boot(1, 1)), Admit(boot(1, 1))}, 1, "", "n1:1", nil},
		{"a newer boot counts", []Command{Admit(boot(1, 1)), Admit(boot(1, 2))}, 2, "", "n1:2", nil},
		{"an older does not", []Command{Admit(boot(1, 2)), Admit(boot(1, 1))}, 1, "", "n1:2", nil},
		{"evict", []Command{Admit(boot(1, 1), boot(2, 1)), Evict(false, "n1")}, 2, "", "n2:1", nil},
		{"evict nobody", []Command{Admit(boot(1, 1)), Evict(false, "n9")}, 1, "", "n1:1", nil},
		{"the dead may come back", []Command{Admit(boot(1, 1)), Evict(false, "n1"), Admit(boot(1, 1))}, 3, "", "n1:1", nil},
		{"who left does not", []Command{Admit(boot(1, 1)), Evict(true, "n1"), Admit(boot(1, 1))}, 2, "", "", nil},
		{"but in its next boot", []Command{Admit(boot(1, 1)), Evict(true, "n1"), Admit(boot(1, 2))}, 3, "", "n1:2", nil},
		{"too many nodes", []Command{Admit(crowd...)}, 0, "the cluster has 4096 nodes, the most it holds", "", nil},
		{"create", []Command{Create(p)}, 1, "", "", nil},
		{"the first of a name stays", []Command{Create(p), Create(q)}, 1, "", "", func(s *State) string {
			return fmt.Sprint(s.Pipelines[0].Version == 1)
		}},
		{"too many pipelines", many, pipelinesMax, "the cluster has 64, the most it holds", "", nil},
		{"without a name", []Command{Create(topology.Pipeline{})}, 0, "it has no name", "", nil},
		{"the first failure stays, and is no change of the graph", []Command{Create(p), Fail("p", "a", 65), Fail("p", "b", 1)}, 1, "", "", func(s *State) string {
			return fmt.Sprint(*s.Pipelines[0].Failed == Failure{"a", 65})
		}},
		{"fail what is not there", []Command{Fail("p", "a", 65)}, 0, "the cluster has none of that name", "", nil},
		{"a leader's second entry counts once", []Command{leader("n1", 7), leader("n1", 8)}, 0, "", "", func(s *State) string {
			return fmt.Sprint(s.Elections == 1 && s.LogID == 7 && s.Leader == "n1" && s.Term == 3)
		}},
	} {
		s, refused := applied(t, tt.cmds...)
		var roster []string
		for _, n := range s.Roster {
			roster = append(roster, fmt.Sprintf("%s:%d", n.ID, n.Boot))
		}
		if s.Epoch != tt.epoch || strings.Join(roster, " ") != tt.roster || s.Index != uint64(9+len(tt.cmds)) {
			t.Errorf("%s: epoch %d, roster %v, index %d; want %d, %s", tt.name, s.Epoch, roster, s.Index, tt.epoch, tt.roster)
		}
		if got := fmt.Sprint(refused); refused == nil && tt.refused != "" || refused != nil && (tt.refused == "" || !strings.Contains(got, tt.refused)) {
			t.Errorf("%s: refused: %v, want %q", tt.name, refused, tt.refused)
		}
		if tt.extra != nil && tt.extra(s) != "true" {
			t.Errorf("%s: %+v", tt.name, s)
		}
	}
}

// A published state is read by others while the next is made.
func TestApplyLeavesTheOldStateAlone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := &State{}
		for i := range rapid.IntRange(1, 30).Draw(rt, "entries") {
			n := boot(rapid.IntRange(1, 5).Draw(rt, "node"), uint64(rapid.IntRange(1, 3).Draw(rt, "boot")))
			cmd := rapid.SampledFrom([]Command{
				Admit(n), Evict(true, n.ID), Evict(false, n.ID), leader(n.ID, 1),
				Create(topology.Pipeline{Name: string(n.ID)}), Fail(string(n.ID), "why", i),
			}).Draw(rt, "command")
			b, _ := json.Marshal(cmd)
			before, _ := json.Marshal(s)
			next, _, err := s.apply(&entry{Index: uint64(i + 1), Term: uint64(i), Command: b})
			if err != nil {
				rt.Fatal(err)
			}
			if after, _ := json.Marshal(s); !bytes.Equal(before, after) {
				rt.Fatalf("%s changed %s to %s", b, before, after)
			}
			if !slices.IsSortedFunc(next.Roster, func(a, b topology.Node) int { return compareNode(a, b.ID) }) {
				rt.Fatalf("roster %v", next.Roster)
			}
			s = next
		}
		var restored State
		b, _ := json.Marshal(s)
		if err := json.Unmarshal(b, &restored); err != nil {
			rt.Fatal(err)
		}
		if b2, _ := json.Marshal(restored); !bytes.Equal(b, b2) {
			rt.Fatalf("%s became %s", b, b2)
		}
	})
}

// The state of version 1 as it is written: a change here needs another version.
func TestStateFormat(t *testing.T) {
	s, _ := applied(t, leader("n1", 7), Admit(testNode(1, "tap")), Create(topology.Pipeline{Name: "p", Version: 1}), Fail("p", "why", 65), Evict(true, "n1"))
	s.setServers(&entry{Index: 20, Servers: []Server{"n1/x"}})
	got, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
 "version": 1,
 "index": 14,
 "epoch": 3,
 "log_id": 7,
 "leader": "n1",
 "term": 3,
 "elections": 1,
 "pipelines": [
  {
   "name": "p",
   "version": 1,
   "graph": {
    "edges": null
   },
   "roles": null,
   "failed": {
    "reason": "why",
    "exit_code": 65
   }
  }
 ],
 "roster": null,
 "voters": [
  "n1"
 ],
 "departed": [
  {
   "id": "n1",
   "boot": 1
  }
 ],
 "servers": [
  "n1/x"
 ],
 "config_index": 20
}`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("state (-want +got):\n%s", d)
	}
}

func TestHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h history
		var all []uint64
		index := uint64(rapid.IntRange(0, 5).Draw(rt, "start"))
		start := index
		h.restart(index)
		for range rapid.IntRange(0, 2*historyEntries).Draw(rt, "entries") {
			index += uint64(rapid.IntRange(1, 3).Draw(rt, "gap"))
			h.add(&entry{Index: index})
			all = append(all, index)
		}
		at := uint64(rapid.IntRange(0, int(index)).Draw(rt, "at"))
		got, ok := h.after(at)
		if oldest := max(0, len(all)-historyEntries); oldest > 0 && ok != (at >= all[oldest-1]) || oldest == 0 && ok != (at >= start) {
			rt.Fatalf("after %d of %d..%d: %v", at, start, index, ok)
		}
		if !ok {
			return
		}
		want := slices.DeleteFunc(slices.Clone(all), func(i uint64) bool { return i <= at })
		if len(got) != len(want) || len(got) > 0 && got[0].Index != want[0] {
			rt.Fatalf("after %d: %d entries, want %d", at, len(got), len(want))
		}
	})
	var h history
	for i := range uint64(10) {
		h.add(&entry{Index: i + 1, Command: make([]byte, entryBytesMax)})
	}
	if h.bytes > historyBytes || len(h.entries) != historyBytes/entryBytesMax || h.before != 6 {
		t.Errorf("%d bytes in %d entries after %d", h.bytes, len(h.entries), h.before)
	}
}

func TestReadFrame(t *testing.T) {
	var good bytes.Buffer
	if err := writeFrame(&good, proposal{Command: json.RawMessage(`{"a":1}`)}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, in, want string
	}{
		{"good", good.String(), ""},
		{"nothing", "", "EOF"},
		{"cut head", "\x00\x00", "unexpected EOF"},
		{"cut body", good.String()[:10], "unexpected EOF"},
		{"too long", "\xff\xff\xff\xff", "announces 4294967295 bytes, 100 is the most"},
		{"no JSON", "\x00\x00\x00\x01{", "decode *consensus.proposal"},
	} {
		err := readFrame(strings.NewReader(tt.in), 100, new(proposal))
		if got := fmt.Sprint(err); err == nil && tt.want != "" || err != nil && (tt.want == "" || !strings.Contains(got, tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if err := writeFrame(io.Discard, strings.Repeat("x", frameBytesMax)); err == nil {
		t.Error("a frame of more than the most is written")
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte(`....{"append":{"Entries":[null]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var in request
		if readFrame(bytes.NewReader(b), 1<<16, &in) == nil {
			_ = in.sound()
		}
		var w watchFrame
		if readFrame(bytes.NewReader(b), 1<<16, &w) == nil {
			for _, e := range w.Entries {
				if e != nil {
					_, _, _ = new(State).apply(e)
				}
			}
		}
	})
}
