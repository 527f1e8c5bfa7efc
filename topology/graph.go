package topology

// Pure: what a Graph says about itself.

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of a graph, so that what a stranger declares stays small enough for one log entry and
// for ComputeFor (FAULTS.md, limits table).
const (
	rolesMax  = 1000   // roles of a graph
	edgesMax  = 10_000 // edges of a graph
	depthMax  = 64     // roles on the longest path
	nameBytes = 64     // of a role's or pipeline's name
)

// Roles returns the names in the edges, in the order of their first appearance.
func (g Graph) Roles() []string {
	seen := make(map[string]bool)
	var roles []string
	for _, e := range g.Edges {
		for _, r := range [2]string{e.From, e.To} {
			if !seen[r] {
				seen[r] = true
				roles = append(roles, r)
			}
		}
	}
	return roles
}

// Starters returns the roles without an input, in the order of Roles.
func (g Graph) Starters() []string {
	fed := make(map[string]bool)
	for _, e := range g.Edges {
		fed[e.To] = true
	}
	return slices.DeleteFunc(g.Roles(), func(r string) bool { return fed[r] })
}

// Ends returns the roles without an output, in the order of Roles.
func (g Graph) Ends() []string {
	feeding := make(map[string]bool)
	for _, e := range g.Edges {
		feeding[e.From] = true
	}
	return slices.DeleteFunc(g.Roles(), func(r string) bool { return feeding[r] })
}

// In returns the edges that lead to role, in the order of the graph.
func (g Graph) In(role string) []Edge {
	return g.edges(func(e Edge) bool { return e.To == role })
}

// Out returns the edges that lead from role, from any of its ports, in the order of the graph.
func (g Graph) Out(role string) []Edge {
	return g.edges(func(e Edge) bool { return e.From == role })
}

func (g Graph) edges(keep func(Edge) bool) []Edge {
	var es []Edge
	for _, e := range g.Edges {
		if keep(e) {
			es = append(es, e)
		}
	}
	return es
}

// Source is the role an edge starts at, with its port if it has one: "a" or "a.err".
func (e Edge) Source() string {
	if e.Port == "" {
		return e.From
	}
	return e.From + "." + e.Port
}

// String is the edge as Parse reads it: "a.err -> b".
func (e Edge) String() string { return e.Source() + " -> " + e.To }

// String is the graph as Parse reads it, as few lines as keep the order of its edges.
func (g Graph) String() string {
	var b strings.Builder
	for rest := g.Edges; len(rest) > 0; {
		to, n := fanOut(rest)
		fmt.Fprintf(&b, "%s -> %s", rest[0].Source(), strings.Join(to, ", "))
		rest = rest[n:]
		for len(to) > 0 {
			to, n = product(rest, to)
			if n > 0 {
				fmt.Fprintf(&b, " -> %s", strings.Join(to, ", "))
			}
			rest = rest[n:]
		}
		b.WriteByte('\n')
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// fanOut returns the targets of the edges that start where the first one does, and how many
// there are without a gap.
func fanOut(es []Edge) (to []string, n int) {
	for n < len(es) && es[n].Source() == es[0].Source() {
		to = append(to, es[n].To)
		n++
	}
	return to, n
}

// product returns the targets that every role of from leads to next, and how many edges that
// takes; none if es does not begin with from x targets.
func product(es []Edge, from []string) (to []string, n int) {
	if len(es) == 0 || es[0].Source() != from[0] {
		return nil, 0
	}
	to, _ = fanOut(es)
	for _, f := range from {
		for _, t := range to {
			if n == len(es) || es[n].Source() != f || es[n].To != t {
				return nil, 0
			}
			n++
		}
	}
	return to, n
}

// cycle returns the roles of one cycle, the first one again at the end; nil if there is none.
func (g Graph) cycle() []string {
	out := make(map[string][]string)
	for _, e := range g.Edges {
		out[e.From] = append(out[e.From], e.To)
	}
	done := make(map[string]bool)
	var path []string // from a root to the role being looked at
	var visit func(string) []string
	visit = func(role string) []string {
		if i := slices.Index(path, role); i >= 0 {
			return append(path[i:], role)
		}
		if done[role] {
			return nil
		}
		path = append(path, role)
		for _, to := range out[role] {
			if c := visit(to); c != nil {
				return c
			}
		}
		path = path[:len(path)-1]
		done[role] = true
		return nil
	}
	for _, r := range g.Roles() {
		if c := visit(r); c != nil {
			return c
		}
	}
	return nil
}

// longest returns the roles of a longest path. The graph must have no cycle.
func (g Graph) longest() []string {
	out := make(map[string][]string)
	for _, e := range g.Edges {
		out[e.From] = append(out[e.From], e.To)
	}
	memo := make(map[string][]string) // role -> a longest path that starts there, last role first
	var from func(string) []string
	from = func(role string) []string {
		if p, ok := memo[role]; ok {
			return p
		}
		var best []string
		for _, to := range out[role] {
			if p := from(to); len(p) > len(best) {
				best = p
			}
		}
		memo[role] = append(slices.Clone(best), role)
		return memo[role]
	}
	var best []string
	for _, r := range g.Starters() {
		if p := from(r); len(p) > len(best) {
			best = p
		}
	}
	slices.Reverse(best)
	return best
}

// Check says why the graph is none: over a limit, or with a cycle.
func (g Graph) Check() error {
	if n := len(g.Edges); n > edgesMax {
		return fmt.Errorf("the graph has %d edges, at most %d are allowed", n, edgesMax)
	}
	if n := len(g.Roles()); n > rolesMax {
		return fmt.Errorf("the graph has %d roles, at most %d are allowed", n, rolesMax)
	}
	if c := g.cycle(); c != nil {
		return &cycleError{c}
	}
	if p := g.longest(); len(p) > depthMax {
		return fmt.Errorf("the path from %s to %s is %d roles long, at most %d are allowed",
			p[0], p[len(p)-1], len(p), depthMax)
	}
	return nil
}

// cycleError names the roles of a cycle, the first one again at the end.
type cycleError struct{ roles []string }

func (e *cycleError) Error() string {
	return "the graph has a cycle: " + strings.Join(e.roles, " -> ")
}

// CheckName says why name cannot name a role, a port or a pipeline.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("a name is empty")
	case len(name) > nameBytes:
		return fmt.Errorf("the name %.16q… is %d bytes long, at most %d are allowed", name, len(name), nameBytes)
	}
	for _, r := range name {
		if !isNameRune(r) {
			return fmt.Errorf("the name %q has %q in it: letters a-z and A-Z, digits, - and _ are allowed", name, r)
		}
	}
	if name[0] == '-' || name[len(name)-1] == '-' {
		return fmt.Errorf("the name %q begins or ends with a dash", name)
	}
	return nil
}

func isNameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_' || r == '-'
}
