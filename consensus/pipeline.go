package consensus

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"weir/topology"
)

// Pure: what the log holds of a pipeline, and how it changes while records flow.

// Pipeline is a pipeline of the cluster.
type Pipeline struct {
	topology.Pipeline

	// Failed says why it runs no more.
	Failed *Failure `json:"failed,omitempty"`

	// Paused: its taps read nothing. PausedRoles, sorted, read or take nothing.
	Paused      bool     `json:"paused,omitempty"`
	PausedRoles []string `json:"paused_roles,omitempty"`

	// PausedAt is the entry that last paused something of it, or let it go on.
	PausedAt uint64 `json:"paused_at,omitempty"`

	// Leaving is what earlier versions had and this one has not. It stays until nothing is in
	// flight there.
	Leaving Leaving `json:"leaving,omitzero"`

	// Opened is what its sinks have emptied since it was made, or failed and was made again.
	Opened []Opening `json:"opened,omitempty"`

	// Claims are the partitions of its taps that nodes know by the log, since it was made, or
	// failed and was made again; sorted by role and partition.
	Claims []Claim `json:"claims,omitempty"`
}

// Leaving is a part of a graph that ends: its edges get no new records from roles that stay, its
// taps read no more.
type Leaving struct {
	Edges []topology.Edge `json:"edges,omitempty"`
	Roles []topology.Role `json:"roles,omitempty"` // sorted by name
}

// IsZero reports whether nothing leaves.
func (l Leaving) IsZero() bool { return len(l.Edges) == 0 && len(l.Roles) == 0 }

// Failure is why a pipeline stopped for good.
type Failure struct {
	Reason   string `json:"reason"`
	ExitCode int    `json:"exit_code"`
}

// Whole is the pipeline with what is leaving it: what nodes serve and lay out links for.
func (p Pipeline) Whole() topology.Pipeline {
	whole := p.Pipeline
	if p.Leaving.IsZero() {
		return whole
	}
	whole.Graph.Edges = slices.Concat(p.Graph.Edges, p.Leaving.Edges)
	whole.Roles = slices.Concat(p.Roles, p.Leaving.Roles)
	slices.SortFunc(whole.Roles, func(a, b topology.Role) int { return cmp.Compare(a.Name, b.Name) })
	return whole
}

// Leaves reports whether a role ends when nothing is in flight there.
func (p Pipeline) Leaves(role string) bool {
	return slices.ContainsFunc(p.Leaving.Roles, func(r topology.Role) bool { return r.Name == role })
}

// Closed reports whether an edge gets no new records: it leaves, and the role it starts at stays.
func (p Pipeline) Closed(e topology.Edge) bool {
	return !p.Leaves(e.From) && slices.ContainsFunc(p.Leaving.Edges, func(x topology.Edge) bool { return sameEdge(x, e) })
}

// Pauses reports whether the role reads or takes nothing.
func (p Pipeline) Pauses(r topology.Role) bool {
	return p.Paused && r.Kind == topology.KindTap || slices.Contains(p.PausedRoles, r.Name)
}

// Revise returns what Apply makes of the cluster's pipeline of p's name: the same, its Version
// included, if p changes nothing. Its error is a change that cannot be made while nodes serve the
// pipeline, and says what can.
func (s *State) Revise(p topology.Pipeline) (Pipeline, error) {
	old, known := s.Pipeline(p.Name)
	p.Version = 1
	if !known {
		return Pipeline{Pipeline: p}, nil
	}
	if old.Failed == nil && samePipeline(old.Pipeline, p) {
		return old, nil
	}
	p.Version = old.Version + 1
	next := Pipeline{Pipeline: p, Paused: old.Paused, PausedAt: old.PausedAt}
	if old.Failed == nil {
		next.Opened, next.Claims = old.Opened, old.Claims
	}
	for _, role := range old.PausedRoles {
		if _, stays := p.Role(role); stays {
			next.PausedRoles = append(next.PausedRoles, role)
		}
	}
	before := old.Whole()
	if !slices.ContainsFunc(s.Roster, func(n topology.Node) bool { return servesAny(n, before) }) {
		next.Claims = claimsOf(p, next.Claims)
		return next, nil // nothing of it is in flight anywhere
	}
	if err := fits(before, p); err != nil {
		return Pipeline{}, err
	}
	for _, r := range p.Roles {
		if r.Kind == topology.KindTap && old.Leaves(r.Name) {
			return Pipeline{}, fmt.Errorf("pipeline %s: role %s is still ending: apply again when weir status shows it no more", p.Name, r.Name)
		}
	}
	next.Leaving = leaving(before, p)
	if err := next.Whole().Graph.Check(); err != nil {
		return Pipeline{}, fmt.Errorf("pipeline %s: the new edges and those that end make a loop until nothing is in flight: apply a file without the new ones first (%w)", p.Name, err)
	}
	return next, nil
}

// servesAny reports whether the node serves a role of p.
func servesAny(n topology.Node, p topology.Pipeline) bool {
	return slices.ContainsFunc(p.Roles, func(r topology.Role) bool { return n.Serves(p.Name, r.Name) })
}

// fits refuses what a node that runs the pipeline cannot change.
func fits(old, p topology.Pipeline) error {
	const remedy = "stop the nodes that serve the pipeline, apply, and start them again"
	if old.RecordMax != p.RecordMax {
		return fmt.Errorf("pipeline %s: record-max cannot change while it runs: %s", p.Name, remedy)
	}
	for _, r := range p.Roles {
		was, known := old.Role(r.Name)
		if known && ends(was.Kind) != ends(r.Kind) {
			return fmt.Errorf("pipeline %s: role %s cannot turn from %s to %s while it runs: give it another name, or %s",
				p.Name, r.Name, was.Kind, r.Kind, remedy)
		}
	}
	return nil
}

// ends is what a role is at an end of a graph, "" for one inside it.
func ends(k topology.Kind) topology.Kind {
	if k == topology.KindTap || k == topology.KindSink {
		return k
	}
	return ""
}

// leaving is what old has and p has not.
func leaving(old, p topology.Pipeline) (l Leaving) {
	for _, e := range old.Graph.Edges {
		if !slices.ContainsFunc(p.Graph.Edges, func(x topology.Edge) bool { return sameEdge(x, e) }) {
			l.Edges = append(l.Edges, e)
		}
	}
	for _, r := range old.Roles {
		if _, stays := p.Role(r.Name); !stays {
			l.Roles = append(l.Roles, r)
		}
	}
	return l
}

func sameEdge(a, b topology.Edge) bool { return a.From == b.From && a.Port == b.Port && a.To == b.To }

// samePipeline reports whether nothing but versions and the order of edges differs.
func samePipeline(a, b topology.Pipeline) bool {
	a.Graph.Edges, b.Graph.Edges = sortedEdges(a.Graph), sortedEdges(b.Graph)
	a.Version, b.Version = 0, 0
	return reflect.DeepEqual(a, b)
}

func sortedEdges(g topology.Graph) []topology.Edge {
	return slices.SortedFunc(slices.Values(g.Edges), func(a, b topology.Edge) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Port, b.Port), cmp.Compare(a.To, b.To))
	})
}

// create makes a pipeline, unless there is one of that name.
func (s *State) create(p *topology.Pipeline) error {
	if p == nil || p.Name == "" {
		return errors.New("create pipeline: it has no name")
	}
	if _, known := s.Pipeline(p.Name); known {
		return nil
	}
	return s.revise(p, 0)
}

// revise makes a pipeline what p says, if its version still is at; 0: there is none.
func (s *State) revise(p *topology.Pipeline, at uint64) error {
	if p == nil || p.Name == "" {
		return errors.New("apply pipeline: it has no name")
	}
	next, err := s.Revise(*p)
	if err != nil {
		return err
	}
	i, known := slices.BinarySearchFunc(s.Pipelines, p.Name, comparePipeline)
	switch {
	case known && s.Pipelines[i].Version == next.Version:
		return nil // as it is: perhaps this is the second try
	case known && s.Pipelines[i].Version != at:
		return fmt.Errorf("pipeline %s was changed meanwhile: it is at version %d, not %d as planned; look at it again with weir plan", p.Name, s.Pipelines[i].Version, at)
	case !known && at != 0:
		return fmt.Errorf("pipeline %s is not there any more: look at it again with weir plan", p.Name)
	case !known && len(s.Pipelines) >= pipelinesMax:
		return fmt.Errorf("create pipeline %s: the cluster has %d, the most it holds", p.Name, pipelinesMax)
	}
	s.Pipelines = slices.Clone(s.Pipelines)
	if known {
		s.Pipelines[i] = next
	} else {
		s.Pipelines = slices.Insert(s.Pipelines, i, next)
	}
	s.Epoch++
	return nil
}

// settle ends what leaves a pipeline, if its version still is at.
func (s *State) settle(name string, at uint64) {
	i, known := slices.BinarySearchFunc(s.Pipelines, name, comparePipeline)
	if !known || s.Pipelines[i].Version != at || s.Pipelines[i].Leaving.IsZero() {
		return
	}
	s.Pipelines = slices.Clone(s.Pipelines)
	s.Pipelines[i].Leaving = Leaving{}
	s.Pipelines[i].Claims = claimsOf(s.Pipelines[i].Pipeline, s.Pipelines[i].Claims)
	s.Epoch++
}

// pause stops or lets go on a role, or with role "" the whole pipeline, unless that was changed since
// entry at; 0: one of an earlier program, which does not say.
func (s *State) pause(name, role string, paused bool, at uint64) error {
	i, known := slices.BinarySearchFunc(s.Pipelines, name, comparePipeline)
	if !known {
		return fmt.Errorf("there is no pipeline %s", name)
	}
	old := s.Pipelines[i]
	p := old
	if _, has := p.Role(role); role != "" && !has {
		return fmt.Errorf("pipeline %s has no role %s", name, role)
	}
	switch {
	case role == "":
		if p.Paused = paused; !paused {
			p.PausedRoles = nil
		}
	case !paused:
		p.PausedRoles = slices.DeleteFunc(slices.Clone(p.PausedRoles), func(r string) bool { return r == role })
	case !slices.Contains(p.PausedRoles, role):
		p.PausedRoles = slices.Sorted(slices.Values(append(slices.Clone(p.PausedRoles), role)))
	}
	if at > 0 && at < old.PausedAt {
		if p.Paused == old.Paused && slices.Equal(p.PausedRoles, old.PausedRoles) {
			return nil // as it is: perhaps this is the second try
		}
		return fmt.Errorf("pipeline %s was paused or resumed meanwhile: look at it with weir status, then ask again", name)
	}
	p.PausedAt = s.Index
	s.Pipelines = slices.Clone(s.Pipelines)
	s.Pipelines[i] = p
	return nil
}

// fail stops a pipeline for good; the first reason stays.
func (s *State) fail(name string, f *Failure) error {
	i, known := slices.BinarySearchFunc(s.Pipelines, name, comparePipeline)
	if !known || f == nil {
		return fmt.Errorf("fail pipeline %s: the cluster has none of that name", name)
	}
	if s.Pipelines[i].Failed == nil {
		s.Pipelines = slices.Clone(s.Pipelines)
		s.Pipelines[i].Failed = f
	}
	return nil
}

func comparePipeline(p Pipeline, name string) int { return strings.Compare(p.Name, name) }
