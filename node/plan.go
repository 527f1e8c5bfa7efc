package node

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/consensus"
	"weir/node/api"
	"weir/stream"
	"weir/topology"
)

// Plan says what a revision changes and what nodes do not have that it needs.
func (n *Node) Plan(ctx context.Context, r api.Revision) (api.Plan, error) {
	if err := r.Pipeline.Validate(); err != nil {
		return api.Plan{}, &api.Error{Status: http.StatusUnprocessableEntity, Exit: 78, Text: err.Error()}
	}
	s := n.consensus.State()
	if s.LogID == 0 {
		return api.Plan{}, &api.Error{Status: http.StatusServiceUnavailable, Exit: 75, Text: n.leaderless()}
	}
	old, _ := s.Pipeline(r.Pipeline.Name)
	plan := api.Plan{Pipeline: r.Pipeline.Name, Version: old.Version, Changes: changes(old, r.Pipeline), Lacks: []string{}}
	next, err := s.Revise(r.Pipeline)
	if err != nil {
		plan.Next, plan.Refused = old.Version+1, err.Error()
		return plan, nil
	}
	plan.Next = next.Version
	plan.Lacks = append(plan.Lacks, lacks(s, r, n.gather(ctx, s.Roster))...)
	return plan, ctx.Err()
}

// Apply makes the cluster's pipeline what the revision says, if it still is at the version that
// was planned against.
func (n *Node) Apply(ctx context.Context, r api.Revision) (api.Plan, error) {
	plan, err := n.Plan(ctx, r)
	switch {
	case err != nil:
		return plan, err
	case plan.Refused != "":
		return plan, &api.Error{Status: http.StatusConflict, Exit: 1, Text: plan.Refused}
	}
	return plan, n.propose(ctx, consensus.Apply(r.Pipeline, r.Version), func(s *consensus.State) bool {
		p, _ := s.Pipeline(r.Pipeline.Name)
		return p.Version >= plan.Next
	})
}

// changes lists what differs between the cluster's pipeline and p: what comes, what goes, what
// turns.
func changes(old consensus.Pipeline, p topology.Pipeline) []string {
	list := []string{}
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for _, r := range p.Roles {
		was, known := old.Role(r.Name)
		if !known {
			add("+ role %s (%s)", r.Name, r.Kind)
			continue
		}
		for _, field := range []struct{ name, from, to string }{
			{"kind", string(was.Kind), string(r.Kind)},
			{"records", cmp.Or(was.Records, "default"), cmp.Or(r.Records, "default")},
			{"send", string(cmp.Or(was.Send, topology.SendCopy)), string(cmp.Or(r.Send, topology.SendCopy))},
			{"needs", cmp.Or(strings.Join(was.Needs, " "), "nothing"), cmp.Or(strings.Join(r.Needs, " "), "nothing")},
			{"shared", strconv.FormatBool(was.Shared), strconv.FormatBool(r.Shared)},
			{"takeover", takeover(was.Takeover), takeover(r.Takeover)},
		} {
			if field.from != field.to {
				add("~ role %s: %s %s -> %s", r.Name, field.name, field.from, field.to)
			}
		}
	}
	for _, e := range p.Graph.Edges {
		if !slices.Contains(old.Graph.Edges, e) {
			add("+ edge %s", e)
		}
	}
	for _, e := range old.Graph.Edges {
		if !slices.Contains(p.Graph.Edges, e) {
			add("- edge %s", e)
		}
	}
	for _, r := range old.Roles {
		if _, stays := p.Role(r.Name); !stays {
			add("- role %s", r.Name)
		}
	}
	if old.Version > 0 && old.RecordMax != p.RecordMax {
		add("~ record-max: %d -> %d bytes", cmp.Or(old.RecordMax, stream.RecordBytesMax), cmp.Or(p.RecordMax, stream.RecordBytesMax))
	}
	if old.Failed != nil {
		add("~ it failed, and starts again: %s", old.Failed.Reason)
	}
	return list
}

// takeover is how a file says it.
func takeover(t time.Duration) string {
	switch t {
	case 0:
		return "default"
	case topology.TakeoverNever:
		return "never"
	}
	return t.String()
}

// lacks lists what nodes do not have that the revision needs.
func lacks(s *consensus.State, r api.Revision, all map[topology.NodeID]report) (list []string) {
	p := r.Pipeline
	for _, role := range p.Roles {
		for _, n := range s.Roster {
			if !n.Serves(p.Name, role.Name) {
				continue
			}
			if tag := role.Lacks(n); tag != "" {
				list = append(list, fmt.Sprintf("%s: role %s needs %s, which the node has not: start it with --tag %s", n.ID, role.Name, tag, tag))
				continue
			}
			programs := all[n.ID].Programs
			runs := programs[p.Name+"/"+role.Name]
			if runs == "" {
				runs = programs[role.Name]
			}
			if want := r.Programs[role.Name]; runs != "" && want != "" && runs != want {
				list = append(list, fmt.Sprintf("%s: role %s runs another program than this file: start the node again with it", n.ID, role.Name))
			}
		}
	}
	for _, role := range unserved(s, p) {
		list = append(list, fmt.Sprintf("no node serves %s yet", role))
	}
	return list
}
