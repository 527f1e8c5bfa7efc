package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"weir/consensus"
	"weir/node/api"
	"weir/stream"
	"weir/topology"
)

// peekEvery is how often a node tells what a peek saw: 64 records each time, 1,280 a second at most.
const peekEvery = 50 * time.Millisecond

// peekAt is the edge that a peek looks at.
type peekAt struct {
	Pipeline string        `json:"pipeline"`
	Edge     topology.Edge `json:"edge"`
}

// answerPeek tells what goes out on an edge here until the asker has gone, or the role has.
func (n *Node) answerPeek(ctx context.Context, in json.RawMessage, tell func(any) error) error {
	var at peekAt
	if err := json.Unmarshal(in, &at); err != nil {
		return err
	}
	rr := n.keeper.get(roleKey{at.Pipeline, at.Edge.From})
	if rr == nil || rr.outlet == nil || rr.ctx.Err() != nil {
		return nil
	}
	p, err := rr.outlet.Peek(at.Edge)
	if errors.Is(err, stream.ErrNoEdge) {
		return nil // this node has not followed the State yet; it is asked again
	}
	if err != nil {
		return err
	}
	defer p.Close()
	tick := time.NewTicker(peekEvery)
	defer tick.Stop()
	for said := time.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		case <-rr.ctx.Done():
			return nil
		}
		seen, missed := p.Take()
		if len(seen) == 0 && missed == 0 && time.Since(said) < followEvery {
			continue
		}
		said = time.Now()
		told := make([]api.Peeked, 0, len(seen)+1)
		for _, r := range seen {
			told = append(told, api.Peeked{
				Node: string(n.self.ID), ID: fmt.Sprintf("%016x-%016x-%x-%016x", r.ID.Source, r.ID.Gen, r.ID.Seq, r.ID.Path),
				Key: r.Key, Header: r.Header, Body: r.Body, Bytes: r.Bytes,
			})
		}
		if missed > 0 {
			told = append(told, api.Peeked{Node: string(n.self.ID), Missed: missed})
		}
		if err := tell(told); err != nil {
			return err
		}
	}
}

// peek tells what goes by on an edge, at all nodes that it starts at, until the asker goes.
func (n *Node) peek(ctx context.Context, q url.Values, _ api.Body, tell func(any) error) error {
	at, err := edgeNamed(n.consensus.State(), q.Get("from"), q.Get("to"))
	if err != nil {
		return err
	}
	return follow(ctx, n, "peek", at, true, func(told []api.Peeked, missed uint64) error {
		if missed > 0 {
			told = append(told, api.Peeked{Node: string(n.self.ID), Missed: missed})
		}
		return tell(told)
	})
}

// edgeNamed finds the edge from one role to another, named as in a graph, with a port where it has
// one, and with the pipeline before it where several have such an edge.
func edgeNamed(s *consensus.State, from, to string) (peekAt, error) {
	pipeline, source, named := strings.Cut(from, "/")
	if !named {
		pipeline, source = "", from
	}
	to = strings.TrimPrefix(to, pipeline+"/")
	var found []peekAt
	var all []string
	for _, p := range s.Pipelines {
		if named && p.Name != pipeline {
			continue
		}
		for _, e := range p.Whole().Graph.Edges {
			all = append(all, p.Name+"/"+e.String())
			if r, _ := p.Role(e.From); e.Source() == source && e.To == to {
				if r.Put {
					return peekAt{}, &api.Error{Status: http.StatusConflict, Exit: 2, Text: fmt.Sprintf("role %s runs nowhere, it takes what weir put brings: peek at an edge behind it", e.From)}
				}
				found = append(found, peekAt{p.Name, e})
			}
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return peekAt{}, &api.Error{Status: http.StatusConflict, Exit: 2, Text: fmt.Sprintf("several pipelines have an edge %s -> %s: say PIPELINE/%s", from, to, from)}
	case len(all) == 0:
		return peekAt{}, &api.Error{Status: http.StatusNotFound, Exit: 2, Text: fmt.Sprintf("there is no edge %s -> %s, nor any other", from, to)}
	}
	const most = 12
	rest := ""
	if len(all) > most {
		all, rest = all[:most], ", …"
	}
	return peekAt{}, &api.Error{Status: http.StatusNotFound, Exit: 2, Text: fmt.Sprintf("there is no edge %s -> %s; these are: %s%s", from, to, strings.Join(all, ", "), rest)}
}
