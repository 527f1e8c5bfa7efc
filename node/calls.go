package node

import (
	"context"
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

// calls are what this node can be asked to do.
func (n *Node) calls() api.Calls {
	return api.Calls{
		"cluster/init": api.Typed(func(ctx context.Context, _ struct{}) (api.Cluster, error) { return n.Init(ctx) }),
		"plan":         api.Typed(n.plan),
		"apply":        api.Typed(n.apply),
		"pause":        api.Typed(func(ctx context.Context, p api.Pause) (api.Pause, error) { return n.pause(ctx, p, true) }),
		"resume":       api.Typed(func(ctx context.Context, p api.Pause) (api.Pause, error) { return n.pause(ctx, p, false) }),
		"drain":        api.Typed(n.drain),
	}
}

// propose has the leader put a command into the log, wherever it is.
func (n *Node) propose(ctx context.Context, c consensus.Command) error {
	err := n.consensus.Propose(ctx, c)
	if refusal, ok := errors.AsType[consensus.Refusal](err); ok {
		return &api.Error{Status: http.StatusConflict, Exit: 75, Text: string(refusal)}
	}
	if errors.Is(err, consensus.ErrNoLeader) {
		return &api.Error{Status: http.StatusServiceUnavailable, Exit: 75, Text: n.leaderless()}
	}
	return err
}

// leaderless says why nothing can be changed now.
func (n *Node) leaderless() string {
	s := n.consensus.State()
	switch {
	case s.LogID == 0:
		return "this node belongs to no cluster yet: it waits for one of its seeds, or for weir cluster init"
	case n.consensus.Quorum():
		return "there is no leader at this moment: try again"
	}
	alive := 0
	for _, node := range n.nodes(s, nil) {
		if node.Voter && node.State == "alive" {
			alive++
		}
	}
	return fmt.Sprintf("there is no leader: NO QUORUM (%d/%d voters): the data flows on, the graph is frozen; try again", alive, len(s.Voters))
}

// pause stops or lets go on what "pipeline" or "pipeline/role" names.
func (n *Node) pause(ctx context.Context, p api.Pause, on bool) (api.Pause, error) {
	s := n.consensus.State()
	name, role, _ := strings.Cut(p.Name, "/")
	if err := knows(s, p.Name); err != nil {
		return p, err
	}
	pipeline, _ := s.Pipeline(name)
	if r, _ := pipeline.Role(role); !on && pipeline.Paused && r.Kind == topology.KindTap {
		return p, &api.Error{Status: http.StatusConflict, Exit: 1,
			Text: fmt.Sprintf("pipeline %s is paused as a whole, and its taps with it: weir resume %s", name, name)}
	}
	return p, n.propose(ctx, consensus.Pause(name, role, on))
}

// knows says what "pipeline" or "pipeline/role" may have meant when there is none of that name.
func knows(s *consensus.State, name string) error {
	var names []string
	for _, p := range s.Pipelines {
		names = append(names, p.Name)
		for _, r := range p.Roles {
			names = append(names, p.Name+"/"+r.Name)
		}
	}
	if slices.Contains(names, name) {
		return nil
	}
	text := fmt.Sprintf("there is no pipeline %s", name)
	if pipeline, role, has := strings.Cut(name, "/"); has {
		if _, known := s.Pipeline(pipeline); known {
			text = fmt.Sprintf("pipeline %s has no role %s", pipeline, role)
		} else {
			text = fmt.Sprintf("there is no pipeline %s", pipeline)
		}
	}
	as := slices.IndexFunc(names, func(known string) bool { return strings.HasSuffix(known, "/"+name) })
	switch near := spec.Nearest(name, names); {
	case len(names) == 0:
		text += ", nor any other"
	case as >= 0:
		text += ": did you mean " + names[as] + "?"
	case near != "":
		text += ": did you mean " + near + "?"
	}
	return &api.Error{Status: http.StatusNotFound, Exit: 2, Text: text}
}
