package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"weir/node/api"
	"weir/stream/mux"
	"weir/topology"
)

// Calls between nodes: one asks another by name, and gets JSON values until there are no more.
//
//	asker    → {"name": "dead/list", "in": {…}}
//	answerer → {"out": {…}}, …  and, where it could not go on, {"error": {…}}, then the stream's end

const (
	// remoteBytesMax bounds a question and each answer, in bytes: the largest there is brings the
	// body of the largest record, 64 MiB, as base64, with its headers and reason.
	remoteBytesMax = topology.RecordBytesCeiling/3*4 + 1<<20
	// remotesMax is how many questions of peers a node works on at once: each of many nodes may ask
	// for a report at once, and those that take long are started by persons.
	remotesMax = 256
	// remoteWait is how long a peer may take to send its question, and to take an answer: the
	// largest over a slow line.
	remoteWait = 30 * time.Second
)

// remote answers the question of a peer. tell sends one answer and blocks while the peer does not
// read; ctx ends with the connection, and when tell fails the peer has gone.
type remote func(ctx context.Context, in json.RawMessage, tell func(any) error) error

// question is what an asker says, answer each of what it is told.
type question struct {
	Name string          `json:"name"`
	In   json.RawMessage `json:"in,omitempty"`
}

type answer struct {
	Out   json.RawMessage `json:"out,omitempty"`
	Error *api.Error      `json:"error,omitempty"` // the last one
}

// remotes are what this node can be asked by its peers.
func (n *Node) remotes() map[string]remote {
	return map[string]remote{
		"status":      n.answerStatus,
		"drain":       n.answerDrain,
		"dead/keep":   answered(n.letters.keep),
		"dead/list":   answered(n.letters.list),
		"dead/get":    answered(n.letters.get),
		"dead/drop":   answered(n.letters.drop),
		"dead/replay": n.letters.answerReplay,
		"peek":        n.answerPeek,
		"logs":        n.answerLogs,
	}
}

// answered makes a remote of a function that has one answer.
func answered[In, Out any](f func(context.Context, In) (Out, error)) remote {
	return func(ctx context.Context, in json.RawMessage, tell func(any) error) error {
		var v In
		if err := json.Unmarshal(in, &v); err != nil {
			return &api.Error{Exit: 2, Text: fmt.Sprintf("the question is not what this call takes: %v", err)}
		}
		out, err := f(ctx, v)
		if err != nil {
			return err
		}
		return tell(out)
	}
}

// handleCalls answers questions of peers, by name.
func (n *Node) handleCalls(remotes map[string]remote) func(context.Context, mux.Peer, net.Conn) {
	slots := make(chan struct{}, remotesMax)
	return func(ctx context.Context, p mux.Peer, c net.Conn) {
		tell := func(a answer) error {
			if err := c.SetDeadline(time.Now().Add(remoteWait)); err != nil {
				return err
			}
			return json.NewEncoder(c).Encode(a)
		}
		var q question
		err := c.SetDeadline(time.Now().Add(remoteWait))
		if err == nil {
			err = json.NewDecoder(io.LimitReader(c, remoteBytesMax)).Decode(&q)
		}
		if err != nil {
			n.log.Debug("no question came", "peer", p.ID, "err", err)
			return
		}
		f, known := remotes[q.Name]
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			f, known = nil, true
		}
		switch {
		case !known: // it runs a later version of this program
			err = &api.Error{Exit: 1, Text: fmt.Sprintf("node %s knows no call %.40q", n.self.ID, q.Name)}
		case f == nil:
			err = &api.Error{Exit: 75, Text: fmt.Sprintf("node %s is asked too much at once: try again", n.self.ID)}
		default:
			err = f(ctx, q.In, func(out any) error {
				b, err := json.Marshal(out)
				if err != nil {
					return err
				}
				return tell(answer{Out: b})
			})
		}
		if err == nil {
			return
		}
		failure, ok := errors.AsType[*api.Error](err)
		if !ok {
			failure = &api.Error{Exit: 1, Text: err.Error()}
		}
		if err := tell(answer{Error: failure}); err != nil {
			n.log.Debug("answer not sent", "peer", p.ID, "call", q.Name, "err", err)
		}
	}
}

// ask asks a node, by its name or this one by its own, and hands on each answer until there are no
// more. Its error is an *api.Error where the node could not do what was asked; else nobody knows
// whether it did. Bound its time by ctx.
func (n *Node) ask(ctx context.Context, to topology.NodeID, name string, in any, each func(json.RawMessage) error) error {
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("ask %s: %w", name, err)
	}
	c, err := n.mux.Open(ctx, to, n.addrOf(to), mux.KindCall)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })() // its calls fail from then on
	lost := func(err error) error {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("ask %s of %s: %w", name, to, err)
	}
	if err := json.NewEncoder(c).Encode(question{name, b}); err != nil {
		return lost(err)
	}
	limited := &io.LimitedReader{R: c}
	dec := json.NewDecoder(limited)
	for {
		var a answer
		limited.N = remoteBytesMax
		switch err := dec.Decode(&a); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return lost(err)
		case a.Error != nil:
			a.Error.Status = http.StatusBadGateway
			return a.Error
		}
		if err := each(a.Out); err != nil {
			return err
		}
	}
}

// askOne is ask for a call that has one answer.
func askOne[Out any](ctx context.Context, n *Node, to topology.NodeID, name string, in any) (out Out, err error) {
	told := false
	err = n.ask(ctx, to, name, in, func(b json.RawMessage) error {
		told = true
		return json.Unmarshal(b, &out)
	})
	if err == nil && !told {
		err = fmt.Errorf("ask %s of %s: there is no answer", name, to)
	}
	return out, err
}

// askAll asks all nodes of the roster at once, each for one answer, and returns by node what they
// said and, sorted, who said nothing within wait or could not.
func askAll[Out any](ctx context.Context, n *Node, name string, in any, wait time.Duration) (outs map[topology.NodeID]Out, silent []topology.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	outs = make(map[topology.NodeID]Out)
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, peer := range n.consensus.State().Roster {
		group.Go(func() { // ended by wait
			out, err := askOne[Out](ctx, n, peer.ID, name, in)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				n.log.Debug("node does not answer", "peer", peer.ID, "call", name, "err", err)
				silent = append(silent, peer.ID)
				return
			}
			outs[peer.ID] = out
		})
	}
	group.Wait()
	slices.Sort(silent)
	return outs, silent
}
