package consensus

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"weir/topology"
)

// raft's own transfer refused every entry until its last call to the dead voter had ended.
func TestHandOverToADeadVoterStopsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(4, 3)
		lead, dead := ms[0], ms[2]
		net.kill(dead)
		for i := range 5 {
			start, done := time.Now(), make(chan error, 1)
			go func() { done <- lead.TransferLeadership(lead.ctx, dead.node.ID) }()
			time.Sleep(50 * time.Millisecond)
			proposed := time.Now()
			if err := lead.Propose(lead.ctx, Create(topology.Pipeline{Name: string(rune('a' + i))})); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(proposed); took > 100*time.Millisecond {
				t.Errorf("a command takes %v while leadership is handed over", took)
			}
			if err := <-done; err == nil || !strings.Contains(err.Error(), "does not catch up") {
				t.Errorf("hand over to a dead voter: %v", err)
			}
			if took := time.Since(start); took > callWait+handOverWait {
				t.Errorf("the hand-over is given up after %v", took)
			}
		}
		if err := lead.TransferLeadership(lead.ctx, ms[1].node.ID); err != nil {
			t.Fatal(err)
		}
		awaitLeader(t, time.Second, ms[1])
	})
}

// The survivors of a leader that was killed while a voter was added have two lists of voters; the
// older one lacks the vote that the newer one needs.
func TestSurvivorsWithTwoListsOfVotersElectOne(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(3, 2)
		lead, old, added := ms[0], ms[1], ms[2]
		id, _, err := lead.askToStand(lead.ctx, added.node.ID)
		if err != nil {
			t.Fatal(err)
		}
		r, addr := lead.vote().raft, raft.ServerAddress(id)
		if err := r.AddNonvoter(id, addr, 0, changeWait).Error(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		net.sever(lead, old, true)
		if err := r.AddVoter(id, addr, 0, changeWait).Error(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		if old.State().Votes(added.node.ID) || !added.State().Votes(added.node.ID) {
			t.Fatalf("voters %v and %v, want the older list and the newer", old.State().Voters, added.State().Voters)
		}
		net.kill(lead)
		if next := awaitLeader(t, 2*time.Second, old, added); next != added {
			t.Errorf("%s leads, and lacks the last entry", next.node.ID)
		}
	})
}

// The leader dies when only the voter whose vote it takes knows of it. The others need that vote.
func TestWhoLosesItsVoteStillHelpsTheOthers(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(4, 4)
		lead, gone := ms[0], ms[1]
		for _, m := range ms[2:] {
			net.sever(lead, m, true)
		}
		id, _ := lead.State().server(gone.node.ID)
		taken := lead.vote().raft.RemoveServer(raft.ServerID(id), 0, changeWait)
		for until := time.Now().Add(time.Second); gone.vote().votes(); time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatal("it does not hear of its loss")
			}
		}
		net.kill(lead)
		next := awaitLeader(t, 3*time.Second, ms[2:]...)
		if err := taken.Error(); err == nil {
			t.Error("the vote was taken by a leader that reached nobody else")
		}
		if err := next.Propose(next.ctx, Create(topology.Pipeline{Name: "p"})); err != nil {
			t.Fatal(err)
		}
		if !gone.vote().votes() || !next.State().Votes(gone.node.ID) {
			t.Errorf("it has no vote, of %v", next.State().Voters)
		}
	})
}

// A leader must not count it for an entry that it forgives others to lack.
func TestWhoLosesItsVoteDoesNotSaySo(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(3, 3)
		lead, gone := ms[0].vote(), ms[1]
		for _, m := range []*member{ms[0], ms[2]} {
			net.sever(gone, m, true)
		}
		f := lead.raft.GetConfiguration()
		if err := f.Error(); err != nil {
			t.Fatal(err)
		}
		rest := slices.DeleteFunc(slices.Clone(f.Configuration().Servers), func(s raft.Server) bool { return s.ID == gone.vote().id })
		last, term := lead.raft.LastIndex(), lead.raft.CurrentTerm()
		call := func() response {
			return gone.serveRaft(gone.ctx, ms[0].node.ID, request{To: gone.vote().id, Append: &raft.AppendEntriesRequest{
				RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(lead.id), Addr: []byte(lead.id)},
				Term:      term, PrevLogEntry: last, PrevLogTerm: term,
				Entries: []*raft.Log{{Index: last + 1, Term: term, Type: raft.LogConfiguration,
					Data: raft.EncodeConfiguration(raft.Configuration{Servers: rest})}},
			}}, nil)
		}
		if out := call(); out.Err == "" || gone.vote().votes() {
			t.Errorf("it says %+v, and has a vote: %v", out.Append, gone.vote().votes())
		}
		if out := call(); out.Err != "" || !out.Append.Success { // as who learns would
			t.Errorf("asked again: %s, %+v", out.Err, out.Append)
		}
	})
}

// What came after the loss of a vote counts for those that had a part in it.
func TestForgivesOnlyWhatTookItsVote(t *testing.T) {
	const term = 3
	entry := func(term uint64, voters ...raft.ServerID) raft.Log {
		if voters == nil {
			return raft.Log{Term: term, Type: raft.LogCommand}
		}
		var c raft.Configuration
		for _, id := range voters {
			c.Servers = append(c.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
		}
		return raft.Log{Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}
	}
	for _, c := range []struct {
		what string
		log  []raft.Log
		want uint64 // where a candidate's last entry is 2
	}{
		{"its vote taken", []raft.Log{entry(term), entry(term), entry(term, "b")}, 3},
		{"its vote taken, and more", []raft.Log{entry(term), entry(term), entry(term, "b"), entry(term), entry(term, "b", "c")}, 5},
		{"its vote taken, and given again", []raft.Log{entry(term), entry(term), entry(term, "b"), entry(term, "a", "b")}, 2},
		{"another's vote taken", []raft.Log{entry(term), entry(term), entry(term, "a")}, 2},
		{"a command, then its vote taken", []raft.Log{entry(term), entry(term), entry(term), entry(term, "b")}, 2},
		{"its vote taken in a later term", []raft.Log{entry(term), entry(term), entry(term+1, "b")}, 2},
		{"its vote taken after an earlier term", []raft.Log{entry(term - 1), entry(term - 1), entry(term, "b")}, 2},
		{"nothing more", []raft.Log{entry(term), entry(term)}, 2},
		{"less", []raft.Log{entry(term)}, 2},
	} {
		logs := raft.NewInmemStore()
		for i, l := range c.log {
			l.Index = uint64(i + 1)
			if err := logs.StoreLog(&l); err != nil {
				t.Fatal(err)
			}
		}
		v := &voter{id: "a", logs: logs}
		if got := v.forgiven(term, 2); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
}

// A node that dies while it learns takes nothing with it.
func TestANodeThatCannotLearnGetsNoVote(t *testing.T) {
	bubble(t, func(t *testing.T, net *fabric) {
		ms := net.cluster(4, 1)
		lead, dead := ms[0], ms[3]
		await(t, dead, 5*time.Second, "watching", func(s *State) bool { return s.Votes(lead.node.ID) })
		id, _, err := lead.askToStand(lead.ctx, dead.node.ID)
		if err != nil {
			t.Fatal(err)
		}
		net.kill(dead)
		// It stood when it was asked, and died then.
		if err := lead.vote().raft.AddNonvoter(id, raft.ServerAddress(id), 0, changeWait).Error(); err != nil {
			t.Fatal(err)
		}
		await(t, lead, time.Second, "teaching", func(s *State) bool { return s.ConfigIndex > 1 })
		lags, err := lead.AddVoters(lead.ctx, []topology.NodeID{ms[1].node.ID, dead.node.ID}, lead.State().ConfigIndex)
		if err == nil || lags != dead.node.ID {
			t.Errorf("add a dead voter: %v, %v", lags, err)
		}
		if s := lead.State(); len(s.Voters) != 1 || !lead.Quorum() {
			t.Errorf("voters %v, quorum %v after the attempt", s.Voters, lead.Quorum())
		}
		if _, err := lead.AddVoters(lead.ctx, []topology.NodeID{ms[1].node.ID, ms[2].node.ID}, lead.State().ConfigIndex); err != nil {
			t.Fatal(err)
		}
		if f := lead.vote().raft.GetConfiguration(); len(f.Configuration().Servers) != 3 {
			t.Errorf("servers %v, want the three that live", f.Configuration().Servers)
		}
	})
}
