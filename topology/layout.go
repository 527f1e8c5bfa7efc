package topology

// Pure: pipelines and a roster to links. Every node computes its own links, and both ends of a
// link come to the same one.

import (
	"cmp"
	"hash/fnv"
	"slices"
)

// LayoutVersion numbers the algorithm of ComputeFor: nodes of one cluster must use the same.
const LayoutVersion = 1

const (
	// meshLinksMax is how many links an edge may have and still join every node of one role to
	// every node of the other: 16 x 16. A link costs a stream and two goroutines at either end,
	// and a data connection carries 64 (DESIGN.md 2 and 3).
	meshLinksMax = 256
	// picksMax is how many nodes each node picks above that: enough that the death of some moves
	// little load to the rest (DESIGN.md 2).
	picksMax = 8
)

// ComputeFor returns the links that have self at either end, for pipelines that are valid and a
// roster that names each node once. It has no memory: the same input gives the same links,
// whatever was before.
//
// An edge of at most 256 pairs of nodes has a link for each. Above that every node picks 8 of the
// other role by rendezvous hashing, and a link is there if either end picked the other: so a node
// that leaves takes its own links with it and adds at most one per node that had picked it.
func ComputeFor(pipelines []Pipeline, roster []Node, self NodeID) Layout {
	nodes := make([]hashed, len(roster))
	for i, n := range roster {
		nodes[i] = hashed{n, hashString(string(n.ID))}
	}
	i := slices.IndexFunc(nodes, func(n hashed) bool { return n.ID == self })
	if i < 0 {
		return Layout{}
	}
	var links []Link
	for _, p := range pipelines {
		c := computation{p, nodes, make(map[string][]hashed)}
		for _, e := range p.Graph.Edges {
			links = c.appendLinks(links, e, nodes[i])
		}
	}
	slices.SortFunc(links, Link.Compare)
	// A node of both roles of an edge has a link to itself, found from both ends.
	return Layout{slices.Compact(links)}
}

// Compare orders links by pipeline, edge and nodes.
func (l Link) Compare(m Link) int {
	return cmp.Or(
		cmp.Compare(l.Pipeline, m.Pipeline),
		cmp.Compare(l.Edge.From, m.Edge.From),
		cmp.Compare(l.Edge.Port, m.Edge.Port),
		cmp.Compare(l.Edge.To, m.Edge.To),
		cmp.Compare(l.Edge.By, m.Edge.By),
		cmp.Compare(l.From, m.From),
		cmp.Compare(l.To, m.To),
	)
}

// Diff returns the links that are only in the new layout and those that are only in the old one.
func Diff(old, new Layout) (open, drain []Link) {
	a, b := old.Links, new.Links
	for len(a) > 0 && len(b) > 0 {
		switch c := a[0].Compare(b[0]); {
		case c < 0:
			drain, a = append(drain, a[0]), a[1:]
		case c > 0:
			open, b = append(open, b[0]), b[1:]
		default:
			a, b = a[1:], b[1:]
		}
	}
	return append(open, b...), append(drain, a...)
}

// hashed is a node with the hash of its ID.
type hashed struct {
	Node
	hash uint64
}

// computation is ComputeFor's look at one pipeline.
type computation struct {
	pipeline Pipeline
	nodes    []hashed
	serving  map[string][]hashed // by role, filled when asked for
}

func (c computation) serve(role string) []hashed {
	ns, ok := c.serving[role]
	if !ok {
		for _, n := range c.nodes {
			if c.pipeline.ServedBy(n.Node, role) {
				ns = append(ns, n)
			}
		}
		c.serving[role] = ns
	}
	return ns
}

// appendLinks adds the links of edge e that have me at either end.
func (c computation) appendLinks(links []Link, e Edge, me hashed) []Link {
	sends, receives := c.pipeline.ServedBy(me.Node, e.From), c.pipeline.ServedBy(me.Node, e.To)
	if !sends && !receives {
		return links
	}
	from, to := c.serve(e.From), c.serve(e.To)
	edge := hashString(c.pipeline.Name + "\x00" + e.String())
	if sends {
		for _, t := range peers(edge, me, from, to) {
			links = append(links, Link{c.pipeline.Name, e, me.ID, t})
		}
	}
	if receives {
		for _, f := range peers(edge, me, to, from) {
			links = append(links, Link{c.pipeline.Name, e, f, me.ID})
		}
	}
	return links
}

// peers returns the nodes of the other side of an edge that me, of mine, has a link with.
func peers(edge uint64, me hashed, mine, other []hashed) []NodeID {
	mesh := len(mine)*len(other) <= meshLinksMax
	var ids []NodeID
	for _, o := range other {
		if mesh || picks(edge, me, o, other) || picks(edge, o, me, mine) {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// picks reports whether b is one of the picksMax nodes that score highest with a.
func picks(edge uint64, a, b hashed, among []hashed) bool {
	score := mix(edge + a.hash + b.hash) // the same from either end
	better := 0
	for _, n := range among {
		s := mix(edge + a.hash + n.hash)
		if s > score || s == score && n.ID < b.ID {
			better++
		}
		if better == picksMax {
			return false
		}
	}
	return true
}

// hashString is FNV-1a, spread over all bits: equal in every process, on every machine.
func hashString(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return mix(h.Sum64())
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
// Generators, 2014): each bit of x moves half of the bits of the result.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
