package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"weir/consensus"
	"weir/node/api"
	"weir/node/spec"
	"weir/topology"
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
