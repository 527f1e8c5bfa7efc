package consensus

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"weir/topology"
)

const (
	// changeWait is how long a change of voters may wait for its turn at raft.
	changeWait = time.Second
	// catchUpWait is how long a new voter may take to get what the others have. One that needs
	// longer goes on without a vote, and is asked again later.
	catchUpWait = 2 * time.Second
	// catchUpAgain is the pause before it is asked again.
	catchUpAgain = 20 * time.Millisecond
	// handOverWait is how long the next leader may take to get what we have, and then to be
	// elected: as long as the voters wait for a leader that died.
	handOverWait = electionTimeout
)

// AddVoters makes nodes voters, one after the other, or says which of them did not come along:
// each starts raft and gets the log without a vote, and only when all have it they get their
// votes, within a few round trips. So a node that dies on the way takes no quorum with it, not
// even the single voter's of a cluster that starts. Only the leader can; prev is the ConfigIndex
// the decision was made on, and nothing is changed if it is no longer current. When it returns
// nil, State lists the voters.
func (c *Consensus) AddVoters(ctx context.Context, nodes []topology.NodeID, prev uint64) (lags topology.NodeID, err error) {
	v := c.vote()
	if v == nil || !c.IsLeader() {
		return "", fmt.Errorf("add voters: %w", ErrNotLeader)
	}
	ids := make([]raft.ServerID, len(nodes))
	for i, n := range nodes {
		if ids[i], _, err = c.askToStand(ctx, n); err != nil {
			return n, fmt.Errorf("add voter %s: %w", n, err)
		}
		if nodeOf(ids[i]) != n {
			return n, fmt.Errorf("add voter %s: it stands as %s", n, ids[i])
		}
	}
	if prev, err = c.dropLearners(ctx, v, ids, prev); err != nil {
		return "", fmt.Errorf("add voters: %w", err)
	}
	for _, id := range ids {
		if prev, err = c.await(ctx, v.raft.AddNonvoter(id, raft.ServerAddress(id), prev, changeWait)); err != nil {
			return "", fmt.Errorf("add voter %s: teach it: %w", id, err)
		}
	}
	for i, n := range nodes {
		if err := c.awaitCaughtUp(ctx, n, ids[i], prev, catchUpWait); err != nil {
			return n, fmt.Errorf("add voter %s: %w", ids[i], err)
		}
	}
	for _, id := range ids {
		if prev, err = c.await(ctx, v.raft.AddVoter(id, raft.ServerAddress(id), prev, changeWait)); err != nil {
			return "", fmt.Errorf("add voter %s: %w", id, err)
		}
	}
	return "", nil
}

// dropLearners forgets the servers that once were to be voters and did not get that far, but
// keep. It returns the ConfigIndex after that.
func (c *Consensus) dropLearners(ctx context.Context, v *voter, keep []raft.ServerID, prev uint64) (uint64, error) {
	f := v.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return 0, err
	}
	for _, s := range f.Configuration().Servers {
		if s.Suffrage == raft.Voter || slices.Contains(keep, s.ID) {
			continue
		}
		var err error
		if prev, err = c.await(ctx, v.raft.RemoveServer(s.ID, prev, changeWait)); err != nil {
			return 0, fmt.Errorf("forget %s, which did not catch up: %w", s.ID, err)
		}
	}
	return prev, nil
}

// await waits for a change of servers, until State has it too, and returns its index.
func (c *Consensus) await(ctx context.Context, f raft.IndexFuture) (uint64, error) {
	if err := f.Error(); err != nil {
		return 0, err
	}
	_, err := c.Wait(ctx, f.Index()-1)
	return f.Index(), err
}

// awaitCaughtUp waits until a server has applied index. A voter that lags only seems to make the
// others dispensable: raft hands it the leadership with an empty log, and nobody leads.
func (c *Consensus) awaitCaughtUp(ctx context.Context, n topology.NodeID, id raft.ServerID, index uint64, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		stands, applied, err := c.askToStand(ctx, n)
		switch {
		case err == nil && stands != id:
			return fmt.Errorf("it stands anew, as %s", stands)
		case err == nil && applied >= index:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it does not catch up within %v: it has applied %d of %d (%v)", wait, applied, index, err)
		case <-time.After(catchUpAgain):
		}
	}
}

// RemoveVoter takes a node's vote; prev is as for AddVoters. The leader should not remove itself:
// it hands leadership on before.
func (c *Consensus) RemoveVoter(ctx context.Context, id topology.NodeID, prev uint64) error {
	v := c.vote()
	if v == nil || !c.IsLeader() {
		return fmt.Errorf("remove voter %s: %w", id, ErrNotLeader)
	}
	s, ok := c.State().server(id)
	if !ok {
		return fmt.Errorf("remove voter %s: it is none", id)
	}
	if _, err := c.await(ctx, v.raft.RemoveServer(raft.ServerID(s), prev, changeWait)); err != nil {
		return fmt.Errorf("remove voter %s: %w", s, err)
	}
	return nil
}

// TransferLeadership makes another voter the leader, within two election timeouts or not at all.
//
// It is not raft's own transfer, which refuses every entry until its last call to the next
// leader has ended, replication's backoff included: up to 14 s where that one had died. We see that the voter lives and
// has our log, tell it to stand at once, and lead on if it does not. An entry that comes between
// makes it lose that election, no more.
func (c *Consensus) TransferLeadership(ctx context.Context, to topology.NodeID) error {
	v := c.vote()
	if v == nil || !c.IsLeader() {
		return fmt.Errorf("transfer leadership to %s: %w", to, ErrNotLeader)
	}
	s, ok := c.State().server(to)
	if !ok {
		return fmt.Errorf("transfer leadership to %s: it is no voter", to)
	}
	id := raft.ServerID(s)
	if err := c.awaitCaughtUp(ctx, to, id, v.raft.LastIndex(), handOverWait); err != nil {
		return fmt.Errorf("transfer leadership to %s: %w", id, err)
	}
	if err := v.trans.TimeoutNow(id, raft.ServerAddress(s), v.trans.standNow(), &raft.TimeoutNowResponse{}); err != nil {
		return fmt.Errorf("transfer leadership to %s: %w", id, err)
	}
	for until := time.Now().Add(handOverWait); v.elected(); {
		if time.Now().After(until) {
			return fmt.Errorf("transfer leadership to %s: it is not elected within %v", id, handOverWait)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("transfer leadership to %s: %w", id, ctx.Err())
		case <-time.After(catchUpAgain):
		}
	}
	return nil
}

// askToStand has a node start raft, unless it runs, and returns how far it is.
func (c *Consensus) askToStand(ctx context.Context, n topology.NodeID) (id raft.ServerID, applied uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	conn, err := c.net.Open(ctx, n, "", StreamRaft)
	if err != nil {
		return "", 0, fmt.Errorf("open: %w", err)
	}
	defer conn.Close()
	out, err := exchange(conn, callWait, request{Stand: true}, nil)
	switch {
	case err != nil:
		return "", 0, fmt.Errorf("ask it to stand: %w", err)
	case out.Err != "":
		return "", 0, fmt.Errorf("ask it to stand: %s", out.Err)
	}
	return out.Stood, out.Applied, nil
}

// HandleRaft serves the calls of another voter, one after the other, until the stream ends, and
// closes it.
func (c *Consensus) HandleRaft(ctx context.Context, from topology.NodeID, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for {
		var in request
		if err := readFrame(conn, frameBytesMax, &in); err != nil {
			if err != io.EOF && ctx.Err() == nil {
				c.log.Debug("raft stream ends", "peer", from, "err", err)
			}
			return
		}
		data := io.LimitReader(conn, 0)
		if in.Snapshot != nil {
			if in.Snapshot.Size < 0 || in.Snapshot.Size > snapshotBytesMax {
				c.log.Warn("snapshot refused", "peer", from, "bytes", in.Snapshot.Size, "most", snapshotBytesMax)
				return
			}
			data = io.LimitReader(conn, in.Snapshot.Size)
		}
		out := c.serveRaft(ctx, from, in, data)
		if err := conn.SetWriteDeadline(time.Now().Add(appendWait)); err != nil {
			return
		}
		if err := writeFrame(conn, out); err != nil {
			return
		}
		if in.Snapshot != nil {
			return // raft need not have read it all
		}
	}
}

func (c *Consensus) serveRaft(ctx context.Context, from topology.NodeID, in request, data io.Reader) response {
	if in.Stand {
		return c.standFor(ctx, from)
	}
	if nodeOf(raft.ServerID(in.sender())) != from {
		return response{Err: fmt.Sprintf("node %s calls as server %s", from, in.sender())}
	}
	if err := in.sound(); err != nil {
		return response{Err: err.Error()}
	}
	v := c.vote()
	if v == nil {
		return response{Err: errNoVote.Error()}
	}
	return v.serve(in, data)
}

// standFor starts raft here because a voter asks for it.
func (c *Consensus) standFor(ctx context.Context, from topology.NodeID) response {
	if !c.State().Votes(from) {
		return response{Err: fmt.Sprintf("%s is no voter as far as this node knows", from)}
	}
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	reply := make(chan response, 1)
	select {
	case c.stands <- reply:
		return <-reply // Run answers at once
	case <-ctx.Done():
		return response{Err: "this node is busy or stopped"}
	}
}
