package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"weir/consensus"
	"weir/node/api"
	"weir/node/spec"
	"weir/topology"
)

const (
	// drainEvery is how often a node that leaves looks whether it may go.
	drainEvery = 20 * time.Millisecond
	// drainQuiet is how long it waits, without an ack, for what a role has that can go no further: who
	// restarts is back by then, mostly, and who is given 10 s, as by docker stop, leaves in good order.
	drainQuiet = 8 * time.Second
)

// Drain has a node of the cluster finish what is in flight and leave. It returns when that node
// has begun.
func (n *Node) Drain(ctx context.Context, d api.Drain) (api.Drain, error) {
	s := n.consensus.State()
	if d.Node == "" {
		d.Node = string(n.self.ID)
	}
	id := topology.NodeID(d.Node)
	peer, known := s.Node(id)
	if !known && id != n.self.ID {
		return d, unknownNode(s, d.Node)
	}
	d.Notes = alone(s, peer)
	if d.Self = id == n.self.ID; d.Self {
		n.beginDrain()
		return d, nil
	}
	if err := n.askToDrain(ctx, id); err != nil {
		return d, &api.Error{Status: http.StatusBadGateway, Exit: 69, Text: fmt.Sprintf("node %s does not answer: %v", id, err)}
	}
	return d, nil
}

// beginDrain lets Run leave, as the end of its context does.
func (n *Node) beginDrain() {
	if !n.draining.Swap(true) {
		close(n.drained)
	}
}

// unknownNode says which nodes there are.
func unknownNode(s *consensus.State, name string) error {
	var names []string
	for _, node := range s.Roster {
		names = append(names, string(node.ID))
	}
	text := fmt.Sprintf("there is no node %s", name)
	switch near := spec.Nearest(name, names); {
	case s.HasLeft(topology.NodeID(name), 0):
		text = fmt.Sprintf("node %s has left, or does so now", name)
	case near != "":
		text += ": did you mean " + near + "?"
	default:
		text += "; these are: " + strings.Join(names, ", ")
	}
	return &api.Error{Status: http.StatusNotFound, Exit: 2, Text: text}
}

// alone says for which roles a node has no other beside it.
func alone(s *consensus.State, n topology.Node) (notes []string) {
	for _, p := range s.Pipelines {
		for _, r := range p.Roles {
			switch {
			case served(s, p.Whole(), r.Name, n.ID) || !p.ServedBy(n, r.Name):
			case r.Kind == topology.KindTap:
				notes = append(notes, fmt.Sprintf("no other node serves role %s of pipeline %s: nothing is read until one does", r.Name, p.Name))
			default:
				notes = append(notes, fmt.Sprintf("no other node serves role %s of pipeline %s: its records wait until one does", r.Name, p.Name))
			}
		}
	}
	return notes
}

// served reports whether a node of the roster, but the one named, serves a role.
func served(s *consensus.State, p topology.Pipeline, role string, but topology.NodeID) bool {
	return slices.ContainsFunc(s.Roster, func(n topology.Node) bool { return n.ID != but && p.ServedBy(n, role) })
}

// askToDrain has a peer begin to drain.
func (n *Node) askToDrain(ctx context.Context, peer topology.NodeID) error {
	r, err := n.askReport(ctx, peer, "drain")
	if err == nil && !r.Draining {
		err = errors.New("it does not drain")
	}
	return err
}

// answerDrain begins to drain at a peer's word, and answers as to a question for our status.
func (n *Node) answerDrain(ctx context.Context, in json.RawMessage, tell func(any) error) error {
	n.log.Info("told to drain by a peer")
	n.beginDrain()
	return n.answerStatus(ctx, in, tell)
}

// leave finishes what is in flight, however long that takes. Only what can go no further is left to be
// sent or read again, and all of it where the log does not take our leave within leaveTimeout.
func (n *Node) leave(ctx context.Context) {
	n.draining.Store(true)
	defer n.handOver(ctx)
	n.keeper.stopReading()
	if err := n.keeper.drained(ctx); err != nil {
		n.log.Warn("leave with records in flight", "err", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	n.marks.settle(ctx)
}

// withdraw takes this node out of the roster, if it is there.
func (n *Node) withdraw(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	gone := func(s *consensus.State) bool { _, there := s.Node(n.self.ID); return !there }
	if err := n.insist(ctx, consensus.Evict(true, n.self.ID), gone); err != nil {
		return fmt.Errorf("the log does not take our leave: %w", err)
	}
	return nil
}

// drained waits until all that was read here is acked and no other node sends to this one, but not for
// roles that are given up. It leaves the roster, so that others send no more; while it reads, only if
// others can read on and have a node for each role of this one, since what it reads may come back here.
// Out of the roster, it drains the links of each role that is done and gets nothing more: the node there
// may be leaving as well, and waits for that.
func (k *keeper) drained(ctx context.Context) error {
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	signs := make(map[*roleRun]sign)
	for {
		s := k.n.consensus.State()
		var reads, fed, done []*roleRun
		for _, rr := range k.all() {
			switch {
			case k.givesUp(s, rr, signs):
				done = append(done, rr)
			case rr.inlet == nil && rr.busy():
				reads = append(reads, rr)
			case rr.inlet != nil && rr.inlet.Fed(k.n.self.ID):
				fed = append(fed, rr)
			case !rr.busy() && (rr.inlet == nil || !rr.inlet.Fed("")):
				done = append(done, rr)
			}
		}
		putting := k.n.injections.busy()
		if len(reads) == 0 && len(fed) == 0 && !putting {
			return nil
		}
		if _, in := s.Node(k.n.self.ID); !in {
			k.drainLinks(ctx, done)
		} else if len(fed) > 0 && !putting && (len(reads) == 0 || k.handsOver(s, reads)) {
			if err := k.n.withdraw(ctx); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// drainLinks drains the links that start at roles.
func (k *keeper) drainLinks(ctx context.Context, roles []*roleRun) {
	for _, rr := range roles {
		select {
		case k.retire <- rr.key:
		case <-ctx.Done():
			return
		}
	}
}

// handsOver reports whether others read on all that is read here, and serve all roles of this node.
func (k *keeper) handsOver(s *consensus.State, reads []*roleRun) bool {
	return !slices.ContainsFunc(reads, func(rr *roleRun) bool { return !shared(rr.cfg.Tap) }) &&
		!slices.ContainsFunc(k.all(), func(rr *roleRun) bool {
			p, _ := s.Pipeline(rr.key.pipeline)
			return rr.ctx.Err() == nil && !served(s, p.Whole(), rr.key.role, k.n.self.ID)
		})
}

// sign is when a role was last seen to go on, and what it had acked.
type sign struct {
	at    time.Time
	acked uint64
}

// givesUp reports whether what a role has could go no further, and nothing was acked, for drainQuiet.
func (k *keeper) givesUp(s *consensus.State, rr *roleRun, signs map[*roleRun]sign) bool {
	last, known := signs[rr]
	if acked := rr.acked(); !known || acked != last.acked || !k.stuck(s, rr) {
		last = sign{time.Now(), acked}
		signs[rr] = last
	}
	return time.Since(last.at) > drainQuiet
}

// stuck reports whether what a role has goes no further at an edge of its own or, it seems, one behind
// it, and does not have to end here: others send it again, or read it. Who leaves is in no roster, but its
// own links stay. The edges of ports dead are for few records, and mostly none.
func (k *keeper) stuck(s *consensus.State, rr *roleRun) bool {
	if rr.inlet == nil && !replayable(rr.cfg.Tap) {
		return false
	}
	p, _ := s.Pipeline(rr.key.pipeline)
	whole := p.Whole()
	nodes := func(role string) bool { return served(s, whole, role, "") }
	behind := []string{rr.key.role}
	for i := 0; i < len(behind); i++ {
		here := k.get(roleKey{p.Name, behind[i]})
		if here != nil && here.outlet != nil && slices.ContainsFunc(here.outlet.Stats(), cutOff) {
			return true
		}
		for _, e := range whole.Graph.Out(behind[i]) {
			to := k.get(roleKey{p.Name, e.To})
			goes := i == 0 || e.Port == topology.PortDead || nodes(e.To) || here != nil && to != nil && !nodes(e.From)
			if !goes {
				return true
			}
			if !slices.Contains(behind, e.To) {
				behind = append(behind, e.To)
			}
		}
	}
	return false
}
