package node

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"weir/consensus"
	"weir/gossip"
	"weir/topology"
)

const (
	// sweepDeadAfter is when gossip calls a killed node dead (STACK section 1: 2.4 to 3.9 s).
	sweepDeadAfter = 3 * time.Second
	// sweepCommit is how soon after a kill a command must be in the log: an election takes up to
	// 0.6 s to begin and as much to decide, and two in a row may be split (seen: 1.1 s as a rule,
	// 1.7 s in one sweep of five, 2.0 s in one of twenty).
	sweepCommit = 3 * time.Second
	// sweepLost is how many of the kills may fall between the first new voter's vote and the
	// second's: a few cableDelay wide.
	sweepLost = 2
	// quorumLost is how long after the last commit nobody may say that there is a quorum.
	quorumLost = 5 * time.Second
	// sweepRepair is how soon after a kill there must be three living voters: gossip, a probe,
	// a few looks.
	sweepRepair = 10 * time.Second
)

// startup is a pipeline of four roles that starts as `weir up` starts it: the tap's node makes
// the cluster, the others come one by one.
func startup(t *testing.T, b *bench, w *cable) []*wired {
	p := topology.Pipeline{Name: "p", Roles: []topology.Role{
		{Name: "a", Kind: topology.KindEach}, {Name: "b", Kind: topology.KindEach},
		{Name: "out", Kind: topology.KindSink}, {Name: "in", Kind: topology.KindTap}}}
	first := w.start(t, b, 1, "in")
	w.group.Go(func() { first.log.Propose(first.ctx, consensus.Create(p)) })
	nodes := []*wired{first}
	for i, roles := range [][]string{{"a"}, {"b"}, {"out"}, nil} {
		time.Sleep(73 * time.Millisecond)
		nodes = append(nodes, w.start(t, b, i+2, roles...))
	}
	return nodes
}

// newest is the state furthest on among nodes.
func newest(nodes []*wired) *consensus.State {
	return slices.MaxFunc(nodes, func(a, b *wired) int { return int(a.log.State().Index) - int(b.log.State().Index) }).log.State()
}

func (b *bench) forget(w *wired) { b.set(w.member(gossip.StateDead)) }

// Whatever node dies at whatever moment of the start, those that are left go on within 2 s and
// replace it, or say that they cannot.
func TestAnyNodeMayDieWhileTheClusterStarts(t *testing.T) {
	var moments []time.Duration
	for at := 100 * time.Millisecond; at <= 4*time.Second; at += 100 * time.Millisecond {
		moments = append(moments, at)
	}
	for at := 1505 * time.Millisecond; at < 1800*time.Millisecond; at += 21 * time.Millisecond {
		moments = append(moments, at) // voters change
	}
	lost := make([]int, 5) // how often the death of one node took the majority
	var slowest time.Duration
	for victim := range lost {
		for _, at := range moments {
			t.Run(fmt.Sprintf("n%02d at %v", victim+1, at), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					took, ok := killAtStart(t, victim, at)
					if slowest = max(slowest, took); !ok {
						lost[victim]++
					}
				})
			})
		}
	}
	t.Logf("slowest commit after %v; %d moments; of these the death of a node took the majority %d times", slowest, len(moments), lost)
	if n := lost[1] + lost[2] + lost[3] + lost[4]; n > sweepLost {
		t.Errorf("%d deaths of nodes that did not start the cluster took the majority, at most %d are bad luck", n, sweepLost)
	}
}

// killAtStart returns how long the others took to commit, and whether a majority was left.
func killAtStart(t *testing.T, victim int, at time.Duration) (took time.Duration, ok bool) {
	w, b := newCable(), new(bench)
	defer w.stop()
	start := time.Now()
	nodes := startup(t, b, w)
	time.Sleep(at - time.Since(start))
	dead := nodes[victim]
	voters := newest(nodes).Voters
	dead.kill()
	killed := time.Now()
	nodes = slices.Delete(nodes, victim, victim+1)
	living := len(voters)
	if slices.Contains(voters, dead.node.ID) {
		living--
	}
	time.AfterFunc(sweepDeadAfter, func() { b.forget(dead) })
	if 2*living <= len(voters) {
		time.Sleep(quorumLost)
		for _, n := range nodes {
			if err := n.log.Propose(n.ctx, consensus.Create(topology.Pipeline{Name: string(n.node.ID)})); (err == nil) != n.log.Quorum() {
				t.Errorf("%s says quorum %v, and a command ends with %v; %d of the voters %v live", n.node.ID, n.log.Quorum(), err, living, voters)
			}
		}
		return 0, false
	}
	asker := nodes[len(nodes)-1]
	ctx, cancel := context.WithTimeout(asker.ctx, sweepCommit)
	defer cancel()
	err := asker.log.Propose(ctx, consensus.Create(topology.Pipeline{Name: "after"}))
	if took = time.Since(killed); err != nil || took > sweepCommit {
		t.Fatalf("killed among the voters %v: a command took %v: %v; then %+v", voters, took, err, newest(nodes))
	}
	for s := newest(nodes); s.Votes(dead.node.ID) || len(s.Voters) != 3 || len(s.Roster) != len(nodes); s = newest(nodes) {
		if time.Since(killed) > sweepRepair {
			t.Fatalf("killed among the voters %v, not replaced after %v: %+v", voters, sweepRepair, s)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return took, true
}
