package consensus

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// electionTimeout is how long a voter waits for its leader, and a leader for its voters.
	// Measured (FAULTS 2.1): a new leader commits after 0.64 s in the mean, 0.70 s at most; with
	// half of it leaders flap when the machine is busy, raft's default of 1 s takes 2.3 s.
	electionTimeout = 300 * time.Millisecond
	// appendMax is how many entries one call carries: a frame holds that many of the longest.
	appendMax = 8
	// snapshotEvery is how many entries a voter keeps before it makes a snapshot, and
	// snapshotTrail how many it keeps after one, for voters that are a little behind.
	snapshotEvery = 1024
	snapshotTrail = 256
)

// voter is this node's vote: raft with its stores. It belongs to Run's goroutine.
type voter struct {
	id    raft.ServerID
	raft  *raft.Raft
	logs  raft.LogStore
	trans *transport
	since time.Time

	listed       bool      // it has been among the voters
	proposed     time.Time // when it last proposed the first entry of a leader,
	proposedTerm uint64    // and in which term
}

// newVoter starts raft: with what the store holds of it, or as a cluster of one, or waiting until
// a leader sends it entries.
func (c *Consensus) newVoter(ctx context.Context, alone bool) (*voter, error) {
	k, err := c.keeping()
	if err != nil {
		return nil, err
	}
	if alone {
		if err := c.store.undoHalf(); err != nil {
			return nil, err
		}
	}
	old, err := raft.HasExistingState(k.logs, k.stable, k.snaps)
	if err != nil {
		return nil, fmt.Errorf("start raft as %s: %w", k.id, err)
	}
	alone = alone && !old
	conf, trans := raftConfig(k.id, c.log), newTransport(ctx, c.net, k.id)
	if alone {
		servers := raft.Configuration{Servers: []raft.Server{{ID: k.id, Address: trans.LocalAddr()}}}
		if err := raft.BootstrapCluster(conf, k.logs, k.stable, k.snaps, trans, servers); err != nil {
			return nil, fmt.Errorf("make a cluster of one: %w", err)
		}
	}
	f := &fsm{state: &State{Version: stateVersion}, publish: c.publish, broken: c.stop}
	r, err := raft.NewRaft(conf, f, k.logs, c.hooks.stable(k.stable), k.snaps, trans)
	if err != nil {
		return nil, fmt.Errorf("start raft as %s: %w", k.id, err)
	}
	if alone { // there is nobody to wait for: the word that hands leadership on makes it stand at once
		trans.calls <- raft.RPC{
			Command:  trans.standNow(),
			RespChan: make(chan raft.RPCResponse, 1), // nobody reads the answer
		}
	}
	v := &voter{id: k.id, raft: r, logs: k.logs, trans: trans, since: time.Now()}
	v.listed = old && v.votes()
	return v, nil
}

// keeping is where a vote keeps what it must not forget, under the id that goes with it.
type keeping struct {
	id     raft.ServerID
	logs   raft.LogStore
	stable raft.StableStore
	snaps  *snapshots
}

// keeping returns the vote in the store, or a new one, there or in memory.
func (c *Consensus) keeping() (keeping, error) {
	id, err := c.store.server()
	if err != nil {
		return keeping{}, err
	}
	known := id != ""
	if !known {
		id = raft.ServerID(string(c.id) + "/" + strings.ToLower(rand.Text()[:8]))
	}
	if c.store == nil {
		memory := raft.NewInmemStore()
		return keeping{id, memory, memory, new(snapshots)}, nil
	}
	if !known {
		if err := c.store.setServer(id); err != nil {
			return keeping{}, err
		}
	}
	latest, err := c.store.snapshot()
	return keeping{id, c.store, c.store, &snapshots{store: c.store, latest: latest}}, err
}

// close hands leadership on if there is somebody to take it, and waits for raft to end. The
// transport goes first: raft waits for its calls to dead peers.
func (v *voter) close() error {
	if v.raft.State() == raft.Leader {
		v.raft.LeadershipTransfer().Error() // nobody to hand it to: they elect one
	}
	v.trans.Close()
	if err := v.raft.Shutdown().Error(); err != nil {
		return fmt.Errorf("stop raft as %s: %w", v.id, err)
	}
	return nil
}

// elected reports whether raft elected this voter.
func (v *voter) elected() bool { return v.raft.State() == raft.Leader }

// serve carries out a call of another voter, but does not say that it has the entry that takes its vote. The leader,
// which writes that before it counts by it (raft.go appendConfigurationEntry), might count us once more,
// take the entry for kept for good with one voter too few, and forgive would be wrong.
func (v *voter) serve(in request, data io.Reader) response {
	had := in.Append != nil && len(in.Append.Entries) > 0 && v.votes()
	out := v.trans.serve(v.forgive(v.anonymous(in)), data)
	if had && !v.votes() {
		return response{Err: errNoVote.Error()}
	}
	return out
}

// anonymous takes the name from a call for votes.
//
// raft refuses a vote to those that its own last list of voters lacks (raft.go requestVote). The
// voters that outlive a leader may have two lists, one without a voter whose vote the others
// need: they would never elect one. A vote counts by the list of the candidate, and who grants
// it must not ask (Ongaro, Consensus: bridging theory and practice, 2014, section 4.1). That
// nobody unlisted disturbs a leader, pre-vote sees to (section 4.2.3).
func (v *voter) anonymous(in request) request {
	switch {
	case in.Vote != nil:
		in.Vote.ID = nil // raft then does not look
	case in.PreVote != nil:
		in.PreVote.ID = nil // here it looks nevertheless
		if f := v.raft.GetConfiguration(); f.Error() == nil {
			for _, s := range f.Configuration().Servers {
				if s.Suffrage == raft.Voter {
					in.PreVote.ID = []byte(s.ID)
				}
			}
		}
	}
	return in
}

// forgive gives a candidate that lacks nothing but the loss of our vote, and what came after, a log as long
// as ours.
//
// The leader that takes a vote sends that entry to who loses it too. Where the leader dies before
// anybody else has it, the others need that one's vote, whose log is longer, and who does not stand
// itself, being no voter any more: nobody would ever lead. What it has from that entry on was never
// counted on it: DESIGN.md says why its vote is safe.
func (v *voter) forgive(in request) request {
	switch {
	case in.Vote != nil:
		in.Vote.LastLogIndex = v.forgiven(in.Vote.LastLogTerm, in.Vote.LastLogIndex)
	case in.PreVote != nil:
		in.PreVote.LastLogIndex = v.forgiven(in.PreVote.LastLogTerm, in.PreVote.LastLogIndex)
	}
	return in
}

// forgiven is the index of our last entry if those after index took our vote, all in that term, else index.
func (v *voter) forgiven(term, index uint64) uint64 {
	last, err := v.logs.LastIndex()
	if err != nil {
		return index
	}
	for i := index; i <= last; i++ {
		var l raft.Log
		if err := v.logs.GetLog(i, &l); err != nil || l.Term != term {
			return index
		}
		switch {
		case i == index:
		case l.Type == raft.LogConfiguration:
			if hasVote(raft.DecodeConfiguration(l.Data), v.id) {
				return index
			}
		case i == index+1:
			return index
		}
	}
	return max(index, last)
}

// votes reports whether raft here knows this server among the voters, committed or not.
func (v *voter) votes() bool {
	f := v.raft.GetConfiguration()
	return f.Error() == nil && hasVote(f.Configuration(), v.id)
}

func hasVote(c raft.Configuration, id raft.ServerID) bool {
	return slices.ContainsFunc(c.Servers, func(s raft.Server) bool { return s.ID == id && s.Suffrage == raft.Voter })
}

// idle is for how long raft has been of no use here.
func (v *voter) idle(now time.Time) time.Duration {
	if last := v.raft.LastContact(); last.After(v.since) {
		return now.Sub(last)
	}
	return now.Sub(v.since)
}

func raftConfig(id raft.ServerID, log *slog.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = id
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = electionTimeout, electionTimeout, electionTimeout
	c.MaxAppendEntries = appendMax
	c.SnapshotThreshold, c.TrailingLogs = snapshotEvery, snapshotTrail
	c.SnapshotInterval = 30 * time.Second
	c.ShutdownOnRemove = false // Run stops it
	c.NoLegacyTelemetry = true
	c.LogOutput, c.LogLevel = raftLog{log}, "DEBUG"
	return c
}

// raftLog passes raft's lines on, all at Debug: what matters of them we say ourselves.
type raftLog struct{ log *slog.Logger }

var _ io.Writer = raftLog{}

func (l raftLog) Write(p []byte) (int, error) {
	_, line, ok := strings.Cut(string(p), " raft: ") // a time and a level come before
	if !ok {
		line = string(p)
	}
	l.log.Debug("raft", "says", strings.TrimSpace(line))
	return len(p), nil
}
