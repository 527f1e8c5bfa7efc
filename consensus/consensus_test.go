package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/topology"
)

// bubble runs f on a network in virtual time, and fails if anything is left running.
func bubble(t *testing.T, f func(t *testing.T, net *fabric)) {
	synctest.Test(t, func(t *testing.T) {
		net := newFabric(t)
		defer net.stopAll()
		f(t, net)
	})
}

// await waits until ok holds for the member's state.
func await(t *testing.T, m *member, limit time.Duration, what string, ok func(*State) bool) *State {
	t.Helper()
	deadline := time.After(limit)
	for {
		changed := m.Changed()
		if s := m.State(); ok(s) {
			return s
		}
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond): // leadership changes without a new state
		case <-deadline:
			t.Fatalf("%s: not %s after %v: %+v", m.node.ID, what, limit, m.State())
		}
	}
}

func awaitLeader(t *testing.T, limit time.Duration, ms ...*member) *member {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		for _, m := range ms {
			if m.IsLeader() {
				return m
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no leader among %d after %v", len(ms), limit)
		}
	}
}

// cluster starts n nodes, admits all and makes the first voters of them voters.
func (f *fabric) cluster(n, voters int) []*member {
	f.t.Helper()
	var ms []*member
	for i := 1; i <= n; i++ {
		ms = append(ms, f.start(i))
	}
	first := awaitLeader(f.t, 5*time.Second, ms[0])
	var nodes []topology.Node
	for _, m := range ms {
		nodes = append(nodes, m.node)
	}
	if err := first.Propose(first.ctx, Admit(nodes...)); err != nil {
		f.t.Fatal(err)
	}
	for _, m := range ms[1:voters] {
		f.addVoter(first, m)
	}
	for _, m := range ms {
		await(f.t, m, 5*time.Second, fmt.Sprintf("%d voters", voters), func(s *State) bool { return len(s.Voters) == voters })
	}
	return ms
}

func (f *fabric) addVoter(leader, m *member) {
	f.t.Helper()
	await(f.t, m, 5*time.Second, "watching", func(s *State) bool { return s.Votes(leader.node.ID) })
	if _, err := leader.AddVoters(leader.ctx, []topology.NodeID{m.node.ID}, leader.State().ConfigIndex); err != nil {
		f.t.Fatal(err)
	}
	await(f.t, leader, 5*time.Second, "with another voter", func(s *State) bool { return s.Votes(m.node.ID) })
}

func TestClusterOfOne(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		start := time.Now()
		m := net.start(1)
		awaitLeader(t, 2*time.Second, m)
		t.Logf("leads after %v", time.Since(start))
		s := m.State()
		if s.LogID == 0 || s.Leader != "n1" || s.Elections != 1 || !slices.Equal(s.Voters, []topology.NodeID{"n1"}) || len(s.Recent) != 1 {
			t.Errorf("state %+v, want log, leader, one election, one voter", s)
		}
		if err := m.Propose(m.ctx, Admit(testNode(1, "tap"))); err != nil {
			t.Fatal(err)
		}
		if s := m.State(); s.Epoch != 1 || len(s.Roster) != 1 {
			t.Errorf("state %+v, want one node in epoch 1", s)
		}
		if ok, age := m.Quorum(), m.Age(); !ok || age != 0 {
			t.Errorf("quorum %v, %v, want true, 0", ok, age)
		}
	})
}

func TestEveryNodeHasTheSameStateAndMayPropose(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(10, 3)
		for i, m := range ms {
			if err := m.Propose(m.ctx, Create(topology.Pipeline{Name: fmt.Sprintf("p%d", i)})); err != nil {
				t.Fatalf("%s: %v", m.node.ID, err)
			}
		}
		if err := ms[9].Propose(ms[9].ctx, Fail("none", "", 1)); err == nil || !strings.Contains(err.Error(), "the cluster has none of that name") {
			t.Errorf("refused at the leader: %v", err)
		}
		time.Sleep(time.Second)
		want := ms[0].State()
		if len(want.Pipelines) != 10 || len(want.Roster) != 10 || want.Epoch != 11 {
			t.Errorf("%d pipelines, %d nodes, epoch %d, want 10, 10, 11", len(want.Pipelines), len(want.Roster), want.Epoch)
		}
		for _, m := range ms {
			got := *m.State()
			got.Recent = want.Recent
			if d := cmp.Diff(want, &got); d != "" {
				t.Errorf("%s differs (-leader +it):\n%s", m.node.ID, d)
			}
			if ok, age := m.Quorum(), m.Age(); !ok || age > 2*time.Second {
				t.Errorf("%s: quorum %v, age %v", m.node.ID, ok, age)
			}
		}
	})
}

// The goal is a commit by the new leader within 1.0 s of a kill -9, median of ten.
func TestNewLeaderCommitsWithinASecondOfAKill(t *testing.T) {
	const kills = 10
	var took []time.Duration
	for range kills {
		bubble(t, func(t *testing.T, net *fabric) {
			ms := net.cluster(5, 3)
			// Once every voter has the last change of voters: before, one of the two that remain
			// refuses the other, which it does not know (raft.go requestVote).
			time.Sleep(time.Second)
			old := awaitLeader(t, time.Second, ms...)
			term := old.State().Term
			killed := time.Now()
			net.kill(old)
			s := await(t, ms[4], 5*time.Second, "under a new leader", func(s *State) bool { return s.Term > term })
			if s.Leader == old.node.ID {
				t.Errorf("the dead node leads")
			}
			if last := s.Recent[len(s.Recent)-1]; last.Term != s.Term || last.Leader != s.Leader {
				t.Errorf("last election %+v, want that of term %d", last, s.Term)
			}
			took = append(took, time.UnixMilli(s.Recent[len(s.Recent)-1].CommittedMS).Sub(killed))
		})
	}
	slices.Sort(took)
	t.Logf("a watcher sees the new leader's entry after %v", took)
	if took[kills/2] > time.Second {
		t.Errorf("median %v, want at most 1 s", took[kills/2])
	}
}

// A node stops as SIGSTOP stops it, with a pause half sent. Its caller asks another node, and later for the
// opposite; then it goes on, and what it was about to send arrives.
func TestCallOfAThawedNode(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(4, 3)
		leader, frozen := ms[0], ms[3]
		if err := leader.Propose(leader.ctx, Create(pipelineOf(t, "tap -> sink", tapAndSink))); err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			await(t, m, time.Second, "the pipeline", func(s *State) bool { return len(s.Pipelines) == 1 })
		}
		stream, err := frozen.Open(frozen.ctx, leader.node.ID, "", StreamPropose)
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		net.sever(frozen, leader, true)
		b, err := json.Marshal(Pause("p", "", true, frozen.State().Index))
		if err == nil {
			err = writeFrame(stream, proposal{b})
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, on := range []bool{true, false} {
			if err := ms[1].Propose(ms[1].ctx, Pause("p", "", on, ms[1].State().Index)); err != nil {
				t.Fatal(err)
			}
			await(t, ms[1], time.Second, "told", func(s *State) bool { return s.Pipelines[0].Paused == on })
		}
		net.sever(frozen, leader, false)
		var v verdict
		if err := readFrame(stream, frameBytesMax, &v); err != nil {
			t.Fatal(err)
		}
		if p := leader.State().Pipelines[0]; p.Paused || !strings.Contains(v.Refused, "meanwhile") {
			t.Errorf("the late pause: %+v, paused %v", v, p.Paused)
		}
	})
}

func TestWatcherGoesOnElsewhere(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(4, 3)
		w := ms[3]
		if w.vote() != nil {
			t.Fatal("a node without a vote runs raft")
		}
		// Every voter but one becomes unreachable for the watcher, one after the other.
		for i := range 3 {
			for j := range 3 {
				net.sever(ms[j], w, j != i)
				net.sever(w, ms[j], j != i)
			}
			start := time.Now()
			name := fmt.Sprintf("p%d", i)
			if err := ms[0].Propose(ms[0].ctx, Create(topology.Pipeline{Name: name})); err != nil {
				t.Fatal(err)
			}
			await(t, w, 5*time.Second, "with "+name, func(s *State) bool { _, ok := s.Pipeline(name); return ok })
			t.Logf("with one voter left to watch: after %v", time.Since(start))
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.history.before > 2 {
			t.Errorf("the watcher's history starts after entry %d: it got a whole state again", w.history.before)
		}
	})
}

// A node that was found by its address is tried last when it is gone, under the name that it has.
func TestPeersEndsWithTheOneThatWasLeft(t *testing.T) {
	c := &Consensus{id: "n4", seeds: []string{testNode(1).Addr, "10.0.0.9:7411"}}
	s := &State{Roster: []topology.Node{testNode(1), testNode(2), testNode(3)}, Servers: []Server{"n1/a", "n2/b", "n3/c"}, Voters: []topology.NodeID{"n1", "n2", "n3"}}
	for range 20 { // the voters are shuffled
		list := c.peers(s, peer{addr: testNode(1).Addr})
		if len(list) != 4 || list[2] != (peer{addr: "10.0.0.9:7411"}) || list[3] != (peer{id: "n1"}) {
			t.Fatalf("peers %v, want n1 at the end, after the other seed", list)
		}
	}
}

// Without pre-vote the follower that hears nobody would raise the term again and again (FAULTS T8).
func TestOneWayCutRaisesNoTerm(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(3, 3)
		old := awaitLeader(t, time.Second, ms...)
		i := slices.Index(ms, old)
		deaf := ms[(i+1)%3]
		term := old.State().Term
		net.sever(old, deaf, true)
		time.Sleep(6 * time.Second)
		if got := old.vote().raft.CurrentTerm(); got != term || !old.IsLeader() {
			t.Errorf("term %d, leads %v; want term %d and the same leader", got, old.IsLeader(), term)
		}
		net.sever(old, deaf, false)
		if err := old.Propose(old.ctx, Create(topology.Pipeline{Name: "after"})); err != nil {
			t.Fatal(err)
		}
		await(t, deaf, 3*time.Second, "caught up", func(s *State) bool { _, ok := s.Pipeline("after"); return ok })
		if got := old.vote().raft.CurrentTerm(); got != term {
			t.Errorf("term %d after the cut is mended, want %d", got, term)
		}
	})
}

func TestVoteIsTakenAndGivenAgain(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(4, 3)
		lead, m := ms[0], ms[2]
		stale := lead.State().ConfigIndex - 1
		if err := lead.RemoveVoter(lead.ctx, m.node.ID, stale); err == nil {
			t.Error("a decision on an old configuration was carried out")
		}
		first := m.vote().id
		if err := lead.RemoveVoter(lead.ctx, m.node.ID, lead.State().ConfigIndex); err != nil {
			t.Fatal(err)
		}
		await(t, m, 5*time.Second, "without a vote", func(s *State) bool { return !s.Votes(m.node.ID) && m.vote() == nil })
		if err := lead.Propose(lead.ctx, Create(topology.Pipeline{Name: "p"})); err != nil {
			t.Fatal(err)
		}
		await(t, m, 3*time.Second, "watching", func(s *State) bool { _, ok := s.Pipeline("p"); return ok })
		net.addVoter(lead, m)
		if id := m.vote().id; id == first {
			t.Errorf("the lost store's id %s votes again", id)
		}

		if err := lead.TransferLeadership(lead.ctx, m.node.ID); err != nil {
			t.Fatal(err)
		}
		awaitLeader(t, 2*time.Second, m)
		if _, err := lead.AddVoters(lead.ctx, []topology.NodeID{ms[3].node.ID}, lead.State().ConfigIndex); !errors.Is(err, ErrNotLeader) {
			t.Errorf("add voter at the former leader: %v, want %v", err, ErrNotLeader)
		}
	})
}

// A voter whose vote was taken while it heard nothing learns so by watching.
func TestVoteTakenBehindItsBack(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(4, 3)
		lead, m := ms[0], ms[2]
		net.isolate(m, true)
		time.Sleep(2 * time.Second)
		if err := lead.RemoveVoter(lead.ctx, m.node.ID, lead.State().ConfigIndex); err != nil {
			t.Fatal(err)
		}
		term := lead.State().Term
		time.Sleep(5 * time.Second)
		if m.vote() == nil || m.Quorum() {
			t.Error("an isolated voter knows what it cannot know")
		}
		net.isolate(m, false)
		await(t, m, 5*time.Second, "without a vote", func(s *State) bool { return m.vote() == nil && !s.Votes(m.node.ID) && m.Quorum() })
		if got := lead.vote().raft.CurrentTerm(); got != term {
			t.Errorf("its return raised the term from %d to %d", term, got)
		}
	})
}

func TestProbe(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(3, 1)
		ctx, cancel := context.WithTimeout(ms[0].ctx, time.Second)
		defer cancel()
		if err := ms[0].Probe(ctx, ms[1].node.ID); err != nil {
			t.Errorf("probe of a living node: %v", err)
		}
		net.sever(ms[2], ms[0], true)
		if err := ms[0].Probe(ctx, ms[2].node.ID); err == nil {
			t.Error("probe of a node that cannot answer: no error")
		}
	})
}

func TestNoQuorum(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(5, 3)
		net.kill(ms[0])
		net.kill(ms[1])
		time.Sleep(quorumAge + 2*time.Second)
		for _, m := range ms[2:] {
			if ok, age := m.Quorum(), m.Age(); ok || age < quorumAge {
				t.Errorf("%s: quorum %v, age %v; want none", m.node.ID, ok, age)
			}
			start := time.Now()
			err := m.Propose(m.ctx, Evict(false, "n1"))
			if took := time.Since(start); !errors.Is(err, ErrNoLeader) || took > proposeWait+2*proposeCall {
				t.Errorf("%s: propose: %v after %v, want %v", m.node.ID, err, took, ErrNoLeader)
			}
		}
		if m := ms[4]; m.State().Epoch != 1 || m.vote() != nil {
			t.Errorf("the watcher changed: %+v", m.State())
		}
	})
}

func TestLateNodesGetSnapshots(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		lead := awaitLeader(t, 5*time.Second, net.start(1))
		for boot := range uint64(snapshotEvery + 2*snapshotTrail) {
			n := testNode(1)
			n.Boot = boot
			if err := lead.Propose(lead.ctx, Admit(n)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Minute)
		late := net.start(2)
		net.addVoter(lead, late)
		time.Sleep(time.Second)
		got := late.vote().raft.Stats()
		if got["last_snapshot_index"] == "0" || late.vote().raft.AppliedIndex() != lead.vote().raft.AppliedIndex() {
			t.Errorf("late voter: %v, want a snapshot and all entries", got)
		}
		if d := cmp.Diff(lead.State().Roster, late.State().Roster); d != "" {
			t.Errorf("late voter differs: %s", d)
		}
	})
}

func TestEntryOfANewerProgramStopsTheNode(t *testing.T) {
	for _, command := range []string{`{"version":1,"kind":"shuffle"}`, `{"version":2,"kind":"admit"}`, `what`} {
		bubble(t, func(t *testing.T, net *fabric) {
			ms := net.cluster(3, 2)
			if err := ms[0].proposeFor([]byte(command)); err == nil {
				t.Errorf("%s is taken from a peer", command)
			}
			before := ms[2].State().Index
			ms[0].vote().raft.Apply([]byte(command), time.Second)
			time.Sleep(time.Second)
			if err := ms[0].stop(); !errors.Is(err, errCannotApply) {
				t.Errorf("run after %s: %v, want %v", command, err, errCannotApply)
			}
			net.mu.Lock()
			delete(net.members, ms[0].node.ID) // it has ended, as it should
			net.mu.Unlock()
			if s := ms[2].State(); s.Index != before {
				t.Errorf("a watcher went on to %+v", s)
			}
			if err := ms[2].stop(); err != nil {
				t.Error(err)
			}
			if err := ms[2].take(&watchFrame{LogID: ms[2].State().LogID, Entries: []*entry{{Index: before + 1, Command: []byte(command)}}}, time.Now()); !errors.Is(err, errCannotApply) {
				t.Errorf("watched %s: %v, want %v", command, err, errCannotApply)
			}
			if err := <-ms[2].lost; !errors.Is(err, errCannotApply) {
				t.Errorf("lost: %v", err)
			}
		})
	}
}

func TestAnotherLogIsNotWatched(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		a := awaitLeader(t, 5*time.Second, net.start(1))
		b := net.start(2)
		await(t, b, 5*time.Second, "watching", func(s *State) bool { return s.LogID != 0 })
		log := b.State().LogID
		if err := a.stop(); err != nil {
			t.Fatal(err)
		}
		awaitLeader(t, 5*time.Second, net.start(1)) // the same address, another cluster
		time.Sleep(10 * time.Second)
		if got := b.State().LogID; got != log {
			t.Errorf("log %x became %x", log, got)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	good := Config{ID: "n1", Net: &member{}, Bootstrap: true}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(*Config){
		"ID is missing":   func(c *Config) { c.ID = "" },
		"Net is missing":  func(c *Config) { c.Net = nil },
		"either":          func(c *Config) { c.Bootstrap = false },
		"Bootstrap or Se": func(c *Config) { c.Seeds = []string{"a:1"} },
	} {
		c := good
		edit(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v, want %q", err, want)
		}
	}
}
