package topology

// Pure: edges from names, for Go and for Parse.

import (
	"errors"
	"fmt"
	"strings"
)

// Builder makes a Graph in Go:
//
//	New().From("parser").To("facebook", "twitter").To("merger").To("db").Graph()
//
// A name may have a port: From("parser.err").
type Builder struct {
	graph Graph
	seen  map[Edge]bool
	from  []source // what the next To leads from
	err   error    // the first one
}

// source is where edges start.
type source struct{ role, port string }

// New returns a Builder of an empty graph.
func New() *Builder { return &Builder{seen: make(map[Edge]bool)} }

// From says where the next To leads from.
func (b *Builder) From(names ...string) *Builder {
	b.from = nil
	if len(names) == 0 {
		b.fail(errors.New("From needs a role"))
	}
	for _, n := range names {
		s, err := parseSource(n)
		b.fail(err)
		b.from = append(b.from, s)
	}
	return b
}

// To adds an edge from each role named last to each role named here.
func (b *Builder) To(names ...string) *Builder {
	if len(b.from) == 0 || len(names) == 0 {
		b.fail(errors.New("To needs a From before it and a role"))
	}
	var to []source
	for _, n := range names {
		b.fail(CheckName(n))
		to = append(to, source{role: n})
	}
	for _, f := range b.from {
		for _, t := range to {
			b.fail(b.link(f, t.role))
		}
	}
	b.from = to
	return b
}

// Graph returns what was built, or the first thing that was wrong with it.
func (b *Builder) Graph() (Graph, error) {
	if len(b.graph.Edges) == 0 {
		b.fail(errors.New("the graph is empty"))
	}
	if b.err == nil {
		b.fail(b.graph.Check())
	}
	if b.err != nil {
		return Graph{}, b.err
	}
	return b.graph, nil
}

func (b *Builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// link adds one edge.
func (b *Builder) link(from source, to string) error {
	e := Edge{From: from.role, Port: from.port, To: to}
	if b.seen[e] {
		return fmt.Errorf("the edge %s is there twice", e)
	}
	if len(b.graph.Edges) == edgesMax {
		return fmt.Errorf("the graph has more than %d edges", edgesMax)
	}
	b.seen[e] = true
	b.graph.Edges = append(b.graph.Edges, e)
	return nil
}

// parseSource reads "role" or "role.port".
func parseSource(name string) (source, error) {
	role, port, ported := strings.Cut(name, ".")
	if err := CheckName(role); err != nil {
		return source{}, err
	}
	if ported {
		if err := CheckName(port); err != nil {
			return source{}, fmt.Errorf("port of %s: %w", role, err)
		}
	}
	return source{role, port}, nil
}
