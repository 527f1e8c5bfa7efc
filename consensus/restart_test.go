package consensus

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"weir/topology"
)

// onDisk gives the first n nodes a store.
func (f *fabric) onDisk(n int) {
	dir := f.t.TempDir()
	for i := 1; i <= n; i++ {
		id := testNode(i).ID
		f.stores[id] = filepath.Join(dir, string(id))
	}
}

// crash kills nodes at once and waits until they are gone.
func (f *fabric) crash(ms ...*member) {
	f.t.Helper()
	for _, m := range ms {
		f.isolate(m, true)
	}
	var group sync.WaitGroup
	for _, m := range ms {
		group.Go(func() {
			if err := m.stop(); err != nil {
				f.t.Error(err)
			}
		})
	}
	group.Wait()
}

// restart starts a node again, reachable by all.
func (f *fabric) restart(i int) *member {
	m := f.start(i)
	f.isolate(m, false)
	return m
}

func TestAllRestartInAnyOrder(t *testing.T) {
	for _, order := range [][]int{{1, 2, 3, 4}, {4, 3, 2, 1}, {2, 4, 1, 3}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			bubble(t, func(t *testing.T, net *fabric) {
				net.onDisk(4)
				ms := net.cluster(4, 3)
				if err := ms[0].Propose(ms[0].ctx, Create(topology.Pipeline{Name: "p"})); err != nil {
					t.Fatal(err)
				}
				before := ms[3].State() // what they keep is a second old
				net.crash(ms...)
				var again []*member
				for _, i := range order {
					m := net.restart(i)
					if s := m.State(); s.LogID != before.LogID {
						t.Errorf("%s begins with %+v", m.node.ID, s)
					}
					again = append(again, m)
					time.Sleep(3 * time.Second)
				}
				leader := awaitLeader(t, time.Second, again...)
				if err := leader.Propose(leader.ctx, Create(topology.Pipeline{Name: "q"})); err != nil {
					t.Fatal(err)
				}
				for _, m := range again {
					s := await(t, m, 2*time.Second, "up to date", func(s *State) bool { return len(s.Pipelines) == 2 })
					if s.LogID != before.LogID || !slices.Equal(s.Servers, before.Servers) || s.Term <= before.Term {
						t.Errorf("%s has log %x, servers %v, term %d, before %x, %v, %d", m.node.ID,
							s.LogID, s.Servers, s.Term, before.LogID, before.Servers, before.Term)
					}
				}
			})
		})
	}
}

// A node that made its cluster and was killed at any moment of that makes no second one.
func TestFounderKilledAtOnce(t *testing.T) {
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, time.Second} {
		bubble(t, func(t *testing.T, net *fabric) {
			net.onDisk(1)
			m := net.start(1)
			time.Sleep(after)
			var log uint64
			if s := m.State(); s != nil {
				log = s.LogID
			}
			net.crash(m)
			m = awaitLeader(t, 2*time.Second, net.restart(1))
			if got := m.State().LogID; log != 0 && got != log {
				t.Errorf("killed after %v: log %x became %x", after, log, got)
			}
		})
	}
}

// One that was killed between the two writes that make its cluster makes it when it starts again.
func TestFounderKilledHalfWay(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		net.onDisk(1)
		s := openTest(t, net.stores[testNode(1).ID])
		if err := errors.Join(s.setServer("n1/abc"), s.SetUint64(keyTerm, 1), s.Close()); err != nil {
			t.Fatal(err)
		}
		m := awaitLeader(t, 2*time.Second, net.start(1))
		if id, err := m.store.server(); id != "n1/abc" || err != nil {
			t.Errorf("it votes as %s, %v", id, err)
		}
	})
}

// One that lost its vote while it was away gives it up, and may get another.
func TestVoterReplacedWhileAway(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		net.onDisk(4)
		ms := net.cluster(4, 3)
		lead, away := ms[0], ms[2]
		old, _ := lead.State().server(away.node.ID)
		net.crash(away)
		net.addVoter(lead, ms[3])
		if err := lead.RemoveVoter(lead.ctx, away.node.ID, lead.State().ConfigIndex); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // raft's last word to a server that was removed is lost
		away = net.restart(3)
		time.Sleep(2 * time.Second)
		if id, err := away.store.server(); id != "" || err != nil {
			t.Errorf("its store still holds the vote of %s, %v", id, err)
		}
		net.addVoter(lead, away)
		if s, ok := lead.State().server(away.node.ID); !ok || s == old {
			t.Errorf("it votes as %s, before as %s", s, old)
		}
	})
}

// A voter whose disk fails ends, and does not say that it voted.
func TestVoterEndsWithItsDisk(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		net.onDisk(3)
		ms := net.cluster(3, 3)
		bad := ms[1]
		_ = bad.store.fail("test", fmt.Errorf("no space"))
		if err := bad.store.Set([]byte("LastVoteTerm"), nil); err == nil {
			t.Error("a vote was written to a store that failed")
		}
		time.Sleep(time.Second)
		if err := bad.stop(); err == nil {
			t.Error("the node ended without an error")
		}
		delete(net.members, bad.node.ID)
		leader := awaitLeader(t, 2*time.Second, ms[0], ms[2])
		if err := leader.Propose(leader.ctx, Create(topology.Pipeline{Name: "p"})); err != nil {
			t.Error(err)
		}
	})
}

// The log stays short, and what is cut from it comes back from the snapshot.
func TestRestartFromASnapshot(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		net.onDisk(1)
		m := awaitLeader(t, 2*time.Second, net.start(1))
		for i := range snapshotEvery + 100 {
			n := testNode(2)
			n.Boot = uint64(i + 1)
			if err := m.Propose(m.ctx, Admit(n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.vote().raft.Snapshot().Error(); err != nil && err != raft.ErrNothingNewToSnapshot {
			t.Fatal(err)
		}
		before := m.State()
		first, _ := m.store.FirstIndex()
		if first == 1 {
			t.Error("the log was not shortened")
		}
		net.crash(m)
		m = awaitLeader(t, 2*time.Second, net.restart(1))
		if d := cmp.Diff(before.Roster, m.State().Roster); d != "" {
			t.Error(d)
		}
	})
}
