package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"weir/consensus"
	"weir/node/api"
	"weir/node/spec"
	"weir/topology"
)

// showWait is how long a call waits for this node to see what the leader has done: many round trips.
const showWait = time.Second

// calls are what this node can be asked to do.
func (n *Node) calls() api.Calls {
	calls := api.Calls{
		"cluster/init": api.Typed(func(ctx context.Context, _ struct{}) (api.Cluster, error) { return n.Init(ctx) }),
		"plan":         api.Typed(n.Plan),
		"apply":        api.Typed(n.Apply),
		"pause":        api.Typed(func(ctx context.Context, p api.Pause) (api.Pause, error) { return p, n.Pause(ctx, p.Name, true) }),
		"resume":       api.Typed(func(ctx context.Context, p api.Pause) (api.Pause, error) { return p, n.Pause(ctx, p.Name, false) }),
		"drain":        api.Typed(n.Drain),
	}
	maps.Copy(calls, n.deadCalls())
	return calls
}

// propose has the leader put a command into the log, wherever it is, and waits a moment until this
// node shows it too: who asks next sees what was done.
func (n *Node) propose(ctx context.Context, c consensus.Command, shown func(*consensus.State) bool) error {
	err := n.consensus.Propose(ctx, c)
	if refusal, ok := errors.AsType[consensus.Refusal](err); ok {
		return &api.Error{Status: http.StatusConflict, Exit: 75, Text: string(refusal)}
	}
	if errors.Is(err, consensus.ErrNoLeader) {
		return &api.Error{Status: http.StatusServiceUnavailable, Exit: 75, Text: n.leaderless()}
	}
	timer := time.NewTimer(showWait)
	defer timer.Stop()
	for err == nil {
		changed := n.consensus.Changed()
		if shown(n.consensus.State()) {
			break
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil // it is done, and will be seen
		case <-ctx.Done():
			return nil
		}
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

// Pause stops what "pipeline" or "pipeline/role" names, or lets it go on: the taps of a pipeline
// read nothing, a role takes nothing. It holds for the whole cluster, whoever dies.
func (n *Node) Pause(ctx context.Context, what string, on bool) error {
	s := n.consensus.State()
	if err := knows(s, what); err != nil {
		return err
	}
	name, role, _ := strings.Cut(what, "/")
	pipeline, _ := s.Pipeline(name)
	if r, _ := pipeline.Role(role); !on && pipeline.Paused && r.Kind == topology.KindTap {
		return &api.Error{Status: http.StatusConflict, Exit: 1,
			Text: fmt.Sprintf("pipeline %s is paused as a whole, and its taps with it: weir resume %s", name, name)}
	}
	return n.propose(ctx, consensus.Pause(name, role, on, s.Index), func(s *consensus.State) bool {
		p, _ := s.Pipeline(name)
		if role == "" {
			return p.Paused == on
		}
		return slices.Contains(p.PausedRoles, role) == on
	})
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
