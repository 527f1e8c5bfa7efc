package main

import (
	"fmt"

	"weir/node/spec"
)

// This file is pure.

// plannedNode is one process that `up` runs.
type plannedNode struct {
	ID   string
	Role string // "" = none: a member that may vote
}

// planNodes lists the nodes of a pipeline on one machine: `nodes` of each role, a tap's first,
// and then as many without a role as it takes until voters of them are good voters. A good
// voter is no tap or sink and its role lives on without it, so losing it loses no role.
func planNodes(f *spec.File, voters int) []plannedNode {
	var taps, rest []plannedNode
	good := 0
	taken := make(map[string]bool)
	for _, name := range f.Pipeline.Graph.Roles() {
		role := f.Roles[name]
		if role.Tap != nil && role.Tap.Put {
			continue // any node is asked
		}
		n := max(role.Nodes, 1)
		for i := range n {
			node := plannedNode{ID: fmt.Sprintf("%s-%d", name, i+1), Role: name}
			taken[node.ID] = true
			if role.Tap != nil {
				taps = append(taps, node)
			} else {
				rest = append(rest, node)
			}
		}
		if role.Tap == nil && role.Sink == nil && n > 1 {
			good += n
		}
	}
	nodes := append(taps, rest...)
	for i := 1; good < voters; i++ {
		if id := fmt.Sprintf("voter-%d", i); !taken[id] {
			nodes = append(nodes, plannedNode{ID: id})
			good++
		}
	}
	return nodes
}
