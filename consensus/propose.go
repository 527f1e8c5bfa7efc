package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"weir/topology"
)

const (
	// proposeWait is how long Propose looks for a leader: several elections.
	proposeWait = 3 * time.Second
	// proposeAgain is the pause between two rounds of looking.
	proposeAgain = 50 * time.Millisecond
	// proposeOpen is how long a node may take to answer at all: a leader that died is passed over
	// before the others have elected one. A handshake and a greeting at 100 ms there and back.
	proposeOpen = 500 * time.Millisecond
	// proposeCall is the longest one node is asked to carry a proposal out.
	proposeCall = time.Second
)

// proposal is a command sent to the leader.
type proposal struct {
	Command json.RawMessage `json:"command"`
}

// verdict is what became of it; all empty: it is in the log, and applied at the leader.
type verdict struct {
	NotLeader bool   `json:"not_leader,omitempty"`
	Refused   string `json:"refused,omitempty"`
}

// Refusal is why the State, as the leader has it, does not take a command.
type Refusal string

func (r Refusal) Error() string { return string(r) }

// Propose puts a command into the log, through the leader wherever it is. It returns nil when
// the leader has applied it, a Refusal when that refused it, ErrNoLeader when it finds none within 3 s or until ctx is done: the
// command may be in the log all the same. All commands may be proposed twice. It may outlast
// ctx by an election.
func (c *Consensus) Propose(ctx context.Context, cmd Command) error {
	b, err := json.Marshal(cmd)
	if err != nil {
		return fmt.Errorf("propose %s: %w", cmd.Kind, err)
	}
	if len(b) > entryBytesMax {
		return fmt.Errorf("propose %s: it holds %d bytes, %d is the most", cmd.Kind, len(b), entryBytesMax)
	}
	ctx, cancel := context.WithTimeout(ctx, proposeWait)
	defer cancel()
	for {
		err := c.proposeOnce(ctx, b)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrNoLeader) {
			return fmt.Errorf("propose %s: %w", cmd.Kind, err)
		}
		c.hooks.sometimes("a proposal waits for a leader")
		select {
		case <-ctx.Done():
			return fmt.Errorf("propose %s: %w", cmd.Kind, err)
		case <-time.After(proposeAgain):
		}
	}
}

// proposeOnce tries this node, the last leader, then the other voters.
func (c *Consensus) proposeOnce(ctx context.Context, b []byte) error {
	err := c.proposeHere(b)
	if !errors.Is(err, ErrNotLeader) {
		return err
	}
	s := c.State()
	last := ErrNoLeader
	for _, server := range leaderFirst(s) {
		if server.Node() == c.id {
			continue
		}
		v, err := c.proposeAt(ctx, server, b)
		switch {
		case err != nil:
			last = fmt.Errorf("%w (%s: %v)", ErrNoLeader, server.Node(), err)
		case v.Refused != "":
			return Refusal(v.Refused)
		case !v.NotLeader:
			return nil
		}
	}
	return last
}

func leaderFirst(s *State) []Server {
	var list []Server
	for _, server := range s.Servers {
		if server.Node() == s.Leader {
			list = append([]Server{server}, list...)
		} else {
			list = append(list, server)
		}
	}
	return list
}

func (c *Consensus) proposeAt(ctx context.Context, s Server, b []byte) (verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeCall)
	defer cancel()
	openCtx, opened := context.WithTimeout(ctx, proposeOpen)
	conn, err := c.net.Open(openCtx, s.Node(), "", StreamPropose)
	opened()
	if err != nil {
		return verdict{}, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := writeFrame(conn, proposal{b}); err != nil {
		return verdict{}, err
	}
	var v verdict
	err = readFrame(conn, frameBytesMax, &v)
	return v, err
}

// proposeHere puts b into the log if this node leads, else it returns ErrNotLeader.
func (c *Consensus) proposeHere(b []byte) error {
	v := c.vote()
	if v == nil || !c.IsLeader() {
		return ErrNotLeader
	}
	f := v.raft.Apply(b, callWait)
	switch err := f.Error(); {
	case err == nil:
		if refused, _ := f.Response().(error); refused != nil {
			return Refusal(refused.Error())
		}
		return nil
	case errors.Is(err, raft.ErrNotLeader):
		return ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w (%v)", ErrNoLeader, err)
	default:
		return err
	}
}

// HandlePropose carries out one proposal of another node if this one leads, and closes the stream.
func (c *Consensus) HandlePropose(ctx context.Context, from topology.NodeID, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(proposeWait)); err != nil {
		return // it is closed
	}
	var p proposal
	if err := readFrame(conn, 2*entryBytesMax, &p); err != nil {
		c.log.Debug("proposal is not read", "peer", from, "err", err)
		return
	}
	var v verdict
	switch err := c.proposeFor(p.Command); {
	case errors.Is(err, ErrNotLeader), errors.Is(err, ErrNoLeader):
		v.NotLeader = true
	case err != nil:
		v.Refused = err.Error()
	}
	if err := writeFrame(conn, v); err != nil {
		c.log.Debug("proposal is not answered", "peer", from, "err", err)
	}
}

// proposeFor checks what a peer sent before it reaches the log, where it would stop every node.
func (c *Consensus) proposeFor(b []byte) error {
	var cmd Command
	if err := json.Unmarshal(b, &cmd); err != nil {
		return fmt.Errorf("decode proposal: %w", err)
	}
	switch {
	case len(b) > entryBytesMax:
		return fmt.Errorf("the proposal holds %d bytes, %d is the most", len(b), entryBytesMax)
	case cmd.Version != commandVersion:
		return fmt.Errorf("the leader knows commands of version %d, not %d: run a newer program there", commandVersion, cmd.Version)
	}
	switch cmd.Kind {
	case kindAdmit, kindEvict, kindCreate, kindApply, kindSettle, kindPause, kindFail, kindOpen, kindClaim, kindBegin, kindMarks, kindReset:
		return c.proposeHere(b)
	default:
		return fmt.Errorf("the leader takes no %q from others", cmd.Kind)
	}
}
