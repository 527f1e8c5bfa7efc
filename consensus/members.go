package consensus

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"weir/topology"
)

const (
	// changeWait is how long a change of voters may wait for its turn at raft.
	changeWait = time.Second
	// catchUpWait is how long a new voter may take to get what the others have.
	catchUpWait = 5 * time.Second
	// catchUpAgain is the pause before it is asked again.
	catchUpAgain = 20 * time.Millisecond
)

// AddVoter makes a node a voter: the node starts raft, the voters are told, and the node has
// caught up when AddVoter returns nil. Only the leader can; prev is the ConfigIndex the decision
// was made on, and nothing is changed if it is no longer current.
func (c *Consensus) AddVoter(ctx context.Context, n topology.Node, prev uint64) error {
	v := c.vote()
	if v == nil || !c.IsLeader() {
		return fmt.Errorf("add voter %s: %w", n.ID, ErrNotLeader)
	}
	id, _, err := c.askToStand(ctx, n)
	if err != nil {
		return fmt.Errorf("add voter %s: %w", n.ID, err)
	}
	if nodeOf(id) != n.ID {
		return fmt.Errorf("add voter %s: it stands as %s", n.ID, id)
	}
	f := v.raft.AddVoter(id, raft.ServerAddress(n.Addr), prev, changeWait)
	if err := f.Error(); err != nil {
		return fmt.Errorf("add voter %s: %w", id, err)
	}
	return c.awaitCaughtUp(ctx, n, f.Index())
}

// awaitCaughtUp waits until a new voter has applied index. Until then it only seems to make the
// others dispensable: raft hands it the leadership with an empty log, and nobody leads.
func (c *Consensus) awaitCaughtUp(ctx context.Context, n topology.Node, index uint64) error {
	ctx, cancel := context.WithTimeout(ctx, catchUpWait)
	defer cancel()
	for {
		_, applied, err := c.askToStand(ctx, n)
		if err == nil && applied >= index {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("new voter %s does not catch up: it has applied %d of %d (%v)", n.ID, applied, index, err)
		case <-time.After(catchUpAgain):
		}
	}
}

// RemoveVoter takes a node's vote; prev is as for AddVoter. The leader should not remove itself:
// it hands leadership on before.
func (c *Consensus) RemoveVoter(_ context.Context, id topology.NodeID, prev uint64) error {
	v := c.vote()
	if v == nil || !c.IsLeader() {
		return fmt.Errorf("remove voter %s: %w", id, ErrNotLeader)
	}
	for _, s := range c.State().Servers {
		if s.Node() != id {
			continue
		}
		if err := v.raft.RemoveServer(raft.ServerID(s.ID), prev, changeWait).Error(); err != nil {
			return fmt.Errorf("remove voter %s: %w", s.ID, err)
		}
		return nil
	}
	return fmt.Errorf("remove voter %s: it is none", id)
}

// TransferLeadership makes another voter the leader.
func (c *Consensus) TransferLeadership(_ context.Context, to topology.NodeID) error {
	v := c.vote()
	if v == nil || !c.IsLeader() {
		return fmt.Errorf("transfer leadership to %s: %w", to, ErrNotLeader)
	}
	for _, s := range c.State().Servers {
		if s.Node() != to {
			continue
		}
		if err := v.raft.LeadershipTransferToServer(raft.ServerID(s.ID), raft.ServerAddress(s.Addr)).Error(); err != nil {
			return fmt.Errorf("transfer leadership to %s: %w", s.ID, err)
		}
		return nil
	}
	return fmt.Errorf("transfer leadership to %s: it is no voter", to)
}

// askToStand has a node start raft with an empty store, unless it runs, and returns how far it is.
func (c *Consensus) askToStand(ctx context.Context, n topology.Node) (id raft.ServerID, applied uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	conn, err := c.net.Open(ctx, n.ID, n.Addr, StreamRaft)
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
	return v.trans.serve(in, data)
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
