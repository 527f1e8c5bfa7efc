// Package api shows a node to people and programs over HTTP, and takes their calls: a Unix socket
// for the user of the machine, loopback TCP, only to look, when asked. It reads a Source, passes
// Calls on and owns no state and, but for the server's, no goroutine.
package api

import "context"

// Source is what the API shows; a node implements it.
type Source interface {
	// Status gathers the state of the whole cluster, asking every node that is alive; a node
	// that does not answer within a second is shown as last seen.
	Status(ctx context.Context) (Status, error)
}

// Status is the cluster as one node sees it. The field names are stable.
type Status struct {
	Cluster   string     `json:"cluster"`
	Epoch     uint64     `json:"epoch"`
	Leader    string     `json:"leader"`
	Term      uint64     `json:"term"`
	Quorum    bool       `json:"quorum"`
	Voters    []string   `json:"voters"`
	Elections []Election `json:"elections"`
	Nodes     []Node     `json:"nodes"`
	Edges     []Edge     `json:"edges"`
	Pipelines []Pipeline `json:"pipelines"`
}

// Election is a change of leader as the answering node applied it.
type Election struct {
	Term        uint64 `json:"term"`
	Leader      string `json:"leader"`
	CommittedMS int64  `json:"committed_ms"` // Unix milliseconds of the leader's first committed entry
}

// Node is one node of the roster.
type Node struct {
	ID          string   `json:"id"`
	Addr        string   `json:"addr"`
	PID         int      `json:"pid"`
	Roles       []string `json:"roles"`
	Tags        []string `json:"tags,omitempty"`
	State       string   `json:"state"` // alive, draining, suspect, dead, left
	Voter       bool     `json:"voter"`
	Leader      bool     `json:"leader"`
	RSSBytes    int64    `json:"rss_bytes"`
	HeldBytes   int64    `json:"held_bytes"`   // pinned by sender windows
	MemoryBytes int64    `json:"memory_bytes"` // the bound of the former
}

// Edge is one edge of a pipeline, summed over its links. Totals are counted by the sending
// side; those of a node that died are its last answer.
type Edge struct {
	Pipeline         string `json:"pipeline"`
	From             string `json:"from"` // role, or role.port
	To               string `json:"to"`
	Links            int    `json:"links"`
	InflightRecords  int64  `json:"inflight_records"` // sent and not acked
	CreditUsed       int64  `json:"credit_used"`      // sent and not taken
	CreditLimit      int64  `json:"credit_limit"`
	RecordsTotal     uint64 `json:"records_total"` // distinct records handed to the edge
	DeliveriesTotal  uint64 `json:"deliveries_total"`
	RedeliveredTotal uint64 `json:"redelivered_total"`
	// SuspectRecords may be why a node died: they go on one at a time. RetryRecords came back to be tried
	// again later.
	SuspectRecords int64 `json:"suspect_records,omitempty"`
	RetryRecords   int64 `json:"retry_records,omitempty"`
	// FirstRedeliveredMS is when the first redelivered record was acked, Unix milliseconds; 0: none.
	FirstRedeliveredMS int64 `json:"first_redelivered_ms,omitempty"`
	P99US              int64 `json:"p99_us"` // from written to handled, microseconds
}

// Pipeline is a pipeline's progress.
type Pipeline struct {
	Name       string   `json:"name"`
	Version    uint64   `json:"version"`
	Graph      string   `json:"graph"` // as a pipeline file has it
	Roles      []string `json:"roles"`
	State      string   `json:"state"`            // waiting, running, paused, finished, failed
	Reason     string   `json:"reason,omitempty"` // why it waits or failed, or how it goes on
	ExitCode   int      `json:"exit_code,omitempty"`
	Paused     []string `json:"paused,omitempty"` // what resume lets go on: the pipeline, or pipeline/role
	Ending     []string `json:"ending,omitempty"` // edges and roles that earlier versions had, until nothing is in flight there
	LinesIn    uint64   `json:"lines_in"`
	LinesOut   uint64   `json:"lines_out"`
	RecordsIn  uint64   `json:"records_in"`
	RecordsOut uint64   `json:"records_out"`
	Duplicates uint64   `json:"duplicates"` // records that a sink had, and dropped
	// Nondeterministic is records written whose place a sink had with another body: a handler made
	// something else of the same record at another attempt.
	Nondeterministic uint64        `json:"nondeterministic,omitempty"`
	Dead             []DeadLetters `json:"dead,omitempty"`
	Taps             []Tap         `json:"taps"`
}

// DeadLetters is how many dead letters of a role the nodes keep that answer.
type DeadLetters struct {
	Role    string `json:"role"`
	Letters int    `json:"letters"`
}

// Tap is one partition of a tap, summed over the nodes that have read it.
type Tap struct {
	Role      string `json:"role"`
	Partition string `json:"partition"`
	Node      string `json:"node"`            // who reads it, "" = nobody yet
	Claim     uint64 `json:"claim,omitempty"` // the number of that node's claim; 0: the log knows nothing of it
	Read      uint64 `json:"read"`            // since the nodes started
	Acked     uint64 `json:"acked"`
	Done      bool   `json:"done"`
}
