package api

import "weir/topology"

// Revision is a pipeline as a file has it: what the calls plan and apply take.
type Revision struct {
	Pipeline topology.Pipeline `json:"pipeline"`
	// Programs says what the file's roles run, a hash by role.
	Programs map[string]string `json:"programs,omitempty"`
	// Version is that of the Plan: apply is refused when the pipeline has changed since.
	Version uint64 `json:"version"`
}

// Plan is what a Revision changes.
type Plan struct {
	Pipeline string   `json:"pipeline"`
	Version  uint64   `json:"version"`           // that the cluster has; 0: none
	Next     uint64   `json:"next"`              // that it has afterwards; the same: nothing changes
	Changes  []string `json:"changes"`           // what comes, goes or turns, as "+ edge a -> b"
	Lacks    []string `json:"lacks"`             // what nodes do not have that it needs
	Refused  string   `json:"refused,omitempty"` // why it cannot be applied, and what can
}

// Pause names what pause and resume are about: "pipeline" or "pipeline/role".
type Pause struct {
	Name string `json:"name"`
}

// Drain names the node that shall leave; "" is the one that is asked. Its answer has the name, and
// what its going means.
type Drain struct {
	Node  string   `json:"node"`
	Self  bool     `json:"self,omitempty"` // it is the one that was asked
	Notes []string `json:"notes,omitempty"`
}
