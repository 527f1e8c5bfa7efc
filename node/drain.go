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
	// drainQuiet is how long it waits without an ack where some role has no node: who restarts is back by
	// then, mostly, and who stops a service waits as long.
	drainQuiet = 10 * time.Second
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
			others := slices.ContainsFunc(s.Roster, func(o topology.Node) bool { return o.ID != n.ID && p.ServedBy(o, r.Name) })
			switch {
			case others || !p.ServedBy(n, r.Name):
			case r.Kind == topology.KindTap:
				notes = append(notes, fmt.Sprintf("no other node serves role %s of pipeline %s: nothing is read until one does", r.Name, p.Name))
			default:
				notes = append(notes, fmt.Sprintf("no other node serves role %s of pipeline %s: its records wait until one does", r.Name, p.Name))
			}
		}
	}
	return notes
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

// leave finishes what is in flight, however long that takes. Only what cannot end, as a role behind it
// has no node, is left to be sent or read again, and all of it where the log does not take our leave
// within leaveTimeout.
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

// withdraw takes this node out of the roster.
func (n *Node) withdraw(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	gone := func(s *consensus.State) bool { _, there := s.Node(n.self.ID); return !there }
	if err := n.insist(ctx, consensus.Evict(true, n.self.ID), gone); err != nil {
		return fmt.Errorf("the log does not take our leave: %w", err)
	}
	return nil
}

// drained waits until all that was read here is acked and no other node sends to this one. It leaves
// the roster, so that they stop, but not while what it reads may come back to a role that only this
// node serves. Out of the roster, it drains the links of each role that is done and gets nothing more:
// the node there may be leaving as well, and waits for that.
func (k *keeper) drained(ctx context.Context) error {
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	acks, heard := uint64(0), time.Now()
	for {
		reads, fed := k.reads(), k.fed()
		putting := k.n.injections.busy()
		if len(reads) == 0 && len(fed) == 0 && !putting {
			return nil
		}
		s := k.n.consensus.State()
		if now := k.acks(); now != acks {
			acks, heard = now, time.Now()
		}
		ends := func(rr *roleRun) bool { return !k.lost(s, rr) }
		if waits := slices.Concat(reads, fed); time.Since(heard) > drainQuiet && !putting && !slices.ContainsFunc(waits, ends) {
			k.n.log.Warn("leave with records that nobody takes", "pipeline", waits[0].key.pipeline, "role", waits[0].key.role)
			return nil
		}
		if _, in := s.Node(k.n.self.ID); !in {
			k.retireDone(ctx)
		} else if len(fed) > 0 && (len(reads) == 0 && !putting || !k.sole(s)) {
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

// reads are the taps whose records are not all acked.
func (k *keeper) reads() []*roleRun {
	return slices.DeleteFunc(k.all(), func(rr *roleRun) bool { return rr.inlet != nil || !rr.busy() })
}

// fed are the roles that other nodes send to.
func (k *keeper) fed() []*roleRun {
	return slices.DeleteFunc(k.all(), func(rr *roleRun) bool { return rr.inlet == nil || !rr.inlet.Fed(k.n.self.ID) })
}

// retireDone drains the links of roles that have nothing and get nothing.
func (k *keeper) retireDone(ctx context.Context) {
	for _, rr := range k.all() {
		if rr.busy() || rr.inlet != nil && rr.inlet.Fed("") {
			continue
		}
		select {
		case k.retire <- rr.key:
		case <-ctx.Done():
			return
		}
	}
}

// acks counts what was acked of all that roles of this node sent.
func (k *keeper) acks() (n uint64) {
	for _, rr := range k.all() {
		if rr.outlet == nil {
			continue
		}
		for _, e := range rr.outlet.Stats() {
			for _, count := range e.Latency {
				n += count
			}
		}
	}
	return n
}

// lost reports whether what a role has may not end, as some role behind it has no node, and does not
// have to end here: others send it again, or read it.
func (k *keeper) lost(s *consensus.State, rr *roleRun) bool {
	if rr.inlet == nil && !replayable(rr.cfg.Tap) {
		return false
	}
	p, _ := s.Pipeline(rr.key.pipeline)
	g := p.Whole().Graph
	behind := []string{rr.key.role}
	for i := 0; i < len(behind); i++ {
		for _, e := range g.Out(behind[i]) {
			if !slices.ContainsFunc(s.Roster, func(n topology.Node) bool { return p.ServedBy(n, e.To) }) {
				return true
			}
			if !slices.Contains(behind, e.To) {
				behind = append(behind, e.To)
			}
		}
	}
	return false
}

// sole reports whether a role that takes records has no node but this one.
func (k *keeper) sole(s *consensus.State) bool {
	return slices.ContainsFunc(k.all(), func(rr *roleRun) bool {
		p, _ := s.Pipeline(rr.key.pipeline)
		return rr.inlet != nil && rr.ctx.Err() == nil && !slices.ContainsFunc(s.Roster, func(n topology.Node) bool {
			return n.ID != k.n.self.ID && p.ServedBy(n, rr.key.role)
		})
	})
}
