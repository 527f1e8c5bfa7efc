// Package topology holds the nouns of weir and the one pure function that turns a declared
// graph and a roster of nodes into links.
//
// It does no I/O, starts no goroutine and keeps no state: every node computes the same links
// from the same input, so links are never sent to anyone.
//
//	Graph + roster ── ComputeFor ──> Layout ── Diff ──> links to open, links to drain
package topology

import (
	"slices"
	"time"
)

// NodeID names a node for as long as its data dir lives, or for one run without one.
type NodeID string

// Node is an admitted node as the log holds it: what ComputeFor takes.
type Node struct {
	ID   NodeID `json:"id"`
	Boot uint64 `json:"boot"` // counts the node's starts, from 1
	Addr string `json:"addr"` // host:port of its one UDP port

	// Roles it serves: "role" serves that role wherever a pipeline names it,
	// "pipeline/role" only there.
	Roles []string `json:"roles,omitempty"`

	// Tags say what the node has that a role may need: "gpu".
	Tags []string `json:"tags,omitempty"`
}

// Serves reports whether the node names role of pipeline among its roles; Pipeline.ServedBy asks
// whether it has what the role needs, too.
func (n Node) Serves(pipeline, role string) bool {
	for _, r := range n.Roles {
		if r == role || r == pipeline+"/"+role {
			return true
		}
	}
	return false
}

// Kind is what a role does, as far as the log knows it.
type Kind string

// The kinds of role.
const (
	KindTap   Kind = "tap"
	KindSink  Kind = "sink"
	KindEach  Kind = "each"  // a program run once per record
	KindLine  Kind = "line"  // a resident program, a line in, a line out
	KindFrame Kind = "frame" // a resident program, envelopes
	KindHTTP  Kind = "http"
	KindGo    Kind = "go"
	KindMerge Kind = "merge"
)

// Send says which downstream roles get a role's output.
type Send string

// The ways to send; the zero value means SendCopy.
const (
	SendCopy  Send = "copy"  // every downstream role
	SendSplit Send = "split" // one of them
)

// By says which node of a downstream role gets a record.
type By string

// ByAny is the only choice so far, and the zero value's meaning: the node with the fewest
// records not yet taken.
const ByAny By = "any"

// Role is what the log holds of a role of a pipeline. Programs, taps and sinks themselves
// stay in the file of each node.
type Role struct {
	Name    string `json:"name"`
	Kind    Kind   `json:"kind"`
	Records string `json:"records,omitempty"` // line, block or file; "" = chosen by the consumers
	Send    Send   `json:"send,omitempty"`

	// Needs are the tags that a node must have to serve the role.
	Needs []string `json:"needs,omitempty"`

	// Shared says that all nodes of a tap's role see the same partitions; else each has its own.
	Shared bool `json:"shared,omitempty"`

	// Takeover is how long the others wait for the node that reads a partition of a shared tap before
	// one of them reads on; 0 = 10 s, TakeoverNever = for ever.
	Takeover time.Duration `json:"takeover,omitempty"`

	// Put says that a tap's records are brought by `weir put`: no node serves the role.
	Put bool `json:"put,omitempty"`
}

// TakeoverNever has a partition wait for its node.
const TakeoverNever time.Duration = -1

// Lacks returns the first tag that the role needs and n does not have; "" = it has all.
func (r Role) Lacks(n Node) string {
	for _, tag := range r.Needs {
		if !slices.Contains(n.Tags, tag) {
			return tag
		}
	}
	return ""
}

// Edge leads from a port of one role to another role.
type Edge struct {
	From string `json:"from"`
	Port string `json:"port,omitempty"` // "" = ordinary output
	To   string `json:"to"`
	By   By     `json:"by,omitempty"`
}

// Graph is what the user declares: its edges in the order of the text.
type Graph struct {
	Edges []Edge `json:"edges"`
}

// Pipeline is a named graph with its roles, as applied to a cluster.
type Pipeline struct {
	Name      string `json:"name"`
	Version   uint64 `json:"version"` // rises with each apply, from 1
	Graph     Graph  `json:"graph"`
	Roles     []Role `json:"roles"`                // sorted by name
	RecordMax int    `json:"record_max,omitempty"` // bytes of a body; 0 = 1 MiB
}

// Link is a planned pair of nodes on an edge. It is a value: comparable, a map key.
type Link struct {
	Pipeline string
	Edge     Edge
	From, To NodeID
}

// Layout is the links that follow from pipelines and a roster, sorted.
type Layout struct {
	Links []Link
}
