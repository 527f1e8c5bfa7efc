package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/consensus"
	"weir/gossip"
	"weir/topology"
)

// bench is what an orchestrator works on, without a network: commands take effect at once.
type bench struct {
	mu      sync.Mutex
	state   consensus.State
	members []gossip.Member
	leads   bool
	answers map[topology.NodeID]bool
	said    []string // what the orchestrator did
}

func (b *bench) note(format string, args ...any) {
	b.said = append(b.said, fmt.Sprintf(format, args...))
}

func (b *bench) Members() []gossip.Member {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.members)
}

func (b *bench) State() *consensus.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.state
	return &s
}

// Changed never comes: the ticks do.
func (b *bench) Changed() <-chan struct{} { return nil }

func (b *bench) IsLeader() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leads
}

func (b *bench) Propose(_ context.Context, c consensus.Command) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Roster = append(slices.Clone(b.state.Roster), c.Nodes...)
	for _, id := range c.IDs {
		b.state.Roster = slices.DeleteFunc(b.state.Roster, func(n topology.Node) bool { return n.ID == id })
	}
	slices.SortFunc(b.state.Roster, func(a, b topology.Node) int { return strings.Compare(string(a.ID), string(b.ID)) })
	b.state.Epoch++
	switch {
	case len(c.Nodes) > 0:
		b.note("admit %s", idsOf(c.Nodes))
	case c.Left:
		b.note("left %s", c.IDs)
	default:
		b.note("dead %s", c.IDs)
	}
	return nil
}

func (b *bench) Probe(ctx context.Context, id topology.NodeID) error {
	b.mu.Lock()
	ok := b.answers[id]
	b.mu.Unlock()
	if ok {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (b *bench) AddVoters(_ context.Context, nodes []topology.NodeID, _ uint64) (topology.NodeID, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, id := range nodes {
		if strings.HasPrefix(string(id), "bad") {
			b.note("cannot add %s", id)
			return id, errors.New("it does not stand")
		}
	}
	b.state.Voters = slices.Concat(b.state.Voters, nodes)
	b.note("add %s", nodes)
	return "", nil
}

func (b *bench) RemoveVoter(_ context.Context, id topology.NodeID, _ uint64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state.Voters = slices.DeleteFunc(slices.Clone(b.state.Voters), func(v topology.NodeID) bool { return v == id })
	b.note("remove %s", id)
	return nil
}

func (b *bench) TransferLeadership(_ context.Context, to topology.NodeID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note("transfer %s", to)
	b.leads = false
	return nil
}

func (b *bench) set(ms ...gossip.Member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range ms {
		b.members = append(slices.DeleteFunc(b.members, func(o gossip.Member) bool { return o.ID == m.ID }), m)
	}
}

// lead makes this node the leader or another.
func (b *bench) lead(yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leads = yes
}

// answer says whether a node answers probes.
func (b *bench) answer(id topology.NodeID, yes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers[id] = yes
}

// expect checks what was done since the last time.
func (b *bench) expect(t *testing.T, want ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.said, want) {
		t.Errorf("the orchestrator did %q, want %q", b.said, want)
	}
	b.said = nil
}

func up(id string, roles ...string) gossip.Member {
	return gossip.Member{ID: topology.NodeID(id), Boot: 1, Addr: id + ":1", LogID: 7, Roles: roles, State: gossip.StateAlive}
}

func gone(m gossip.Member, s gossip.State) gossip.Member {
	m.State = s
	return m
}

// onBench runs an orchestrator of node a in virtual time.
func onBench(t *testing.T, f func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{leads: true, answers: make(map[topology.NodeID]bool)}
		b.state.LogID, b.state.Voters = 7, []topology.NodeID{"a"}
		o := &orchestrator{self: "a", members: b, ledger: b, voters: b, log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- o.run(ctx) }()
		f(t, b)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func TestRosterFollowsMembers(t *testing.T) {
	onBench(t, func(t *testing.T, b *bench) {
		stranger := up("x")
		stranger.LogID = 8
		b.set(up("a"), up("b"), stranger)
		time.Sleep(300 * time.Millisecond)
		b.expect(t, "admit [a]") // itself; the other was seen once
		time.Sleep(300 * time.Millisecond)
		b.expect(t, "admit [b]")

		b.lead(false)
		b.set(up("c"))
		time.Sleep(5 * time.Second)
		b.expect(t) // another leads
		b.lead(true)
		time.Sleep(600 * time.Millisecond)
		b.expect(t, "admit [c]")

		b.set(gone(up("b"), gossip.StateLeft))
		time.Sleep(300 * time.Millisecond)
		b.expect(t, "left [b]")

		b.answer("c", true)
		b.set(gone(up("c"), gossip.StateDead))
		time.Sleep(20 * time.Second)
		b.expect(t) // it answers
		b.answer("c", false)
		time.Sleep(probeAgain + 2*probeWait)
		b.expect(t, "dead [c]")

		again := up("c")
		again.Boot, again.Addr = 2, "c:2"
		b.set(again)
		time.Sleep(time.Second)
		b.expect(t, "admit [c]")
	})
}

func TestVotersChangeOnceNodesHaveSettled(t *testing.T) {
	onBench(t, func(t *testing.T, b *bench) {
		p := consensus.Pipeline{Pipeline: topology.Pipeline{Name: "p", Roles: []topology.Role{{Name: "tap", Kind: topology.KindTap}}}}
		b.mu.Lock()
		b.state.Pipelines = []consensus.Pipeline{p}
		b.mu.Unlock()
		b.set(up("a", "tap"))
		for _, id := range []string{"bad", "b", "c", "d"} {
			time.Sleep(400 * time.Millisecond)
			b.set(up(id))
		}
		time.Sleep(390 * time.Millisecond) // the last one is admitted with the next look
		b.mu.Lock()
		for _, did := range b.said {
			if !strings.HasPrefix(did, "admit") {
				t.Errorf("%s before the nodes have settled", did)
			}
		}
		b.said = nil
		b.mu.Unlock()
		time.Sleep(4 * time.Second)
		b.expect(t, "admit [d]", "cannot add bad", "add [b c d]", "transfer b")
	})
	onBench(t, func(t *testing.T, b *bench) {
		b.set(up("a"), up("bad"), up("good"), up("ok"))
		time.Sleep(4 * time.Second)
		b.expect(t, "admit [a]", "admit [bad good ok]", "cannot add bad", "add [good ok]")
	})
}

func TestToEvictWaitsForGossip(t *testing.T) {
	s := &consensus.State{Roster: []topology.Node{{ID: "a", Boot: 1}, {ID: "b", Boot: 2}, {ID: "c", Boot: 1}}}
	members := map[topology.NodeID]member{
		"b": {topology.Node{ID: "b", Boot: 1}, gossip.StateLeft}, // its former start
	}
	for unseen, want := range map[bool]string{false: "[]", true: "[c]"} {
		left, lost := toEvict(s, members, "a", unseen)
		if got := fmt.Sprint(lost); got != want || len(left) > 0 {
			t.Errorf("unseen %v: lost %s, left %s, want %s and none", unseen, got, left, want)
		}
	}
}

func awaitState(t *testing.T, n *wired, limit time.Duration, what string, ok func(*consensus.State) bool) *consensus.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for s := n.log.State(); ; {
		if ok(s) {
			return s
		}
		next, err := n.log.Wait(ctx, s.Index)
		if err != nil {
			t.Fatalf("%s: not %s after %v: %+v", n.node.ID, what, limit, s)
		}
		s = next
	}
}

// The issue: the tap's node makes the cluster and gives up its vote once three better ones are
// there; a voter that dies is replaced.
func TestTapGivesUpItsVoteAndTheDeadAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCable()
		b := new(bench)
		p := topology.Pipeline{Name: "p", Roles: []topology.Role{
			{Name: "fb", Kind: topology.KindEach}, {Name: "sink", Kind: topology.KindSink}, {Name: "tap", Kind: topology.KindTap}}}
		nodes := []*wired{w.start(t, b, 1, "tap")}
		for i, role := range []string{"fb", "fb", "sink", "", "", "", ""} {
			if role == "" {
				nodes = append(nodes, w.start(t, b, i+2))
			} else {
				nodes = append(nodes, w.start(t, b, i+2, role))
			}
		}
		tap := nodes[0]
		if err := tap.log.Propose(tap.ctx, consensus.Create(p)); err != nil {
			t.Fatal(err)
		}
		better := []topology.NodeID{"n02", "n03", "n05"}
		s := awaitState(t, tap, 20*time.Second, "without a vote", func(s *consensus.State) bool { return slices.Equal(s.Voters, better) })
		awaitState(t, tap, 5*time.Second, "led by another", func(s *consensus.State) bool { return slices.Contains(better, s.Leader) })
		if len(s.Roster) != len(nodes) {
			t.Errorf("%d nodes in the roster, want %d", len(s.Roster), len(nodes))
		}

		i := slices.IndexFunc(nodes, func(n *wired) bool { return n.node.ID == tap.log.State().Leader })
		dead := nodes[i]
		term, killed := tap.log.State().Term, time.Now()
		dead.kill()
		awaitState(t, tap, 5*time.Second, "under a new leader", func(s *consensus.State) bool { return s.Term > term })
		if took := time.Since(killed); took > 2*time.Second {
			t.Errorf("the tap sees a new leader after %v", took)
		}
		b.set(gossip.Member{ID: dead.node.ID, Boot: 1, Addr: dead.node.Addr, Roles: dead.node.Roles, State: gossip.StateDead})
		s = awaitState(t, tap, 15*time.Second, "with three living voters", func(s *consensus.State) bool {
			_, there := s.Node(dead.node.ID)
			return !there && len(s.Voters) == 3 && !s.Votes(dead.node.ID)
		})
		t.Logf("voters %v after %v", s.Voters, time.Since(killed))
		w.stop()
	})
}

// The voters of a cluster that restarts come one by one: the first to lead takes no vote of one
// that it has not heard of yet.
func TestVotersThatAreNotBackYetKeepTheirPlace(t *testing.T) {
	onBench(t, func(t *testing.T, b *bench) {
		b.state.Voters = []topology.NodeID{"a", "x", "y"}
		for _, id := range b.state.Voters {
			b.state.Roster = append(b.state.Roster, topology.Node{ID: id, Boot: 1, Addr: string(id) + ":1"})
		}
		b.set(up("a"), up("b"), up("c"), up("x"))
		time.Sleep(unseenMax - time.Second)
		b.expect(t, "admit [b c]")
		time.Sleep(5 * time.Second)
		b.expect(t, "add [b]", "remove y", "dead [y]")
	})
}

// Of many that are lost the first answers before the last is asked: with -race, this is a test of
// who may look at the answers meanwhile.
func TestProbeMany(t *testing.T) {
	b := &bench{answers: make(map[topology.NodeID]bool)}
	o := &orchestrator{ledger: b, answered: make(map[topology.NodeID]time.Time)}
	var lost []topology.NodeID
	for i := range 100 {
		id := topology.NodeID(fmt.Sprintf("n%02d", i))
		lost = append(lost, id)
		b.answers[id] = true
	}
	if dead := o.probe(t.Context(), lost, time.Now()); len(dead) > 0 || len(o.answered) != len(lost) {
		t.Errorf("dead %v, %d of %d answered", dead, len(o.answered), len(lost))
	}
}
