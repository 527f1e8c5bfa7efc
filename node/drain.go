package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"weir/consensus"
	"weir/node/api"
	"weir/node/spec"
	"weir/stream/mux"
	"weir/topology"
)

// drainTimeout is how long a node may take to say that it drains, in which it does nothing else.
const drainTimeout = time.Second

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
	if err := n.askToDrain(ctx, peer); err != nil {
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
func (n *Node) askToDrain(ctx context.Context, peer topology.Node) error {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	c, err := n.mux.Open(ctx, peer.ID, peer.Addr, mux.KindDrain)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(drainTimeout)); err != nil {
		return err
	}
	var r report
	if err := json.NewDecoder(io.LimitReader(c, reportBytesMax)).Decode(&r); err != nil {
		return err
	}
	if !r.Draining || r.ID != peer.ID {
		return fmt.Errorf("node %s answers as %s, draining %v", peer.ID, r.ID, r.Draining)
	}
	return nil
}

// handleDrain begins to drain at a peer's word, and answers as to a question for our status.
func (n *Node) handleDrain(ctx context.Context, p mux.Peer, c net.Conn) {
	n.log.Info("told to drain", "peer", p.ID)
	n.beginDrain()
	n.handleStatus(ctx, p, c)
}
