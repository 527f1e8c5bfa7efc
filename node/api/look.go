package api

import "time"

// What peek, logs and events tell, value by value.

// Peeked is a record that went by, or, without ID, how many went by unseen.
type Peeked struct {
	Node   string            `json:"node"`
	ID     string            `json:"id,omitempty"` // source, generation, seq and path, in hex
	Key    []byte            `json:"key,omitempty"`
	Header map[string]string `json:"header,omitempty"`
	Body   []byte            `json:"body,omitempty"`  // the beginning of it, at most 4 KiB
	Bytes  int               `json:"bytes,omitempty"` // of the whole body
	Missed uint64            `json:"missed,omitempty"`
}

// LogLine is a line that a node logged.
type LogLine struct {
	Node   string    `json:"node"`
	Time   time.Time `json:"time"`
	Level  string    `json:"level"`
	Role   string    `json:"role,omitempty"`
	Text   string    `json:"text"`             // with its keys and values
	Missed int       `json:"missed,omitempty"` // lines before it that were not kept or sent
}

// Event is a change in the cluster, as the log has it.
type Event struct {
	Index uint64    `json:"index"` // of the entry of the log
	Time  time.Time `json:"time"`  // when the node that tells of it saw it
	Kind  string    `json:"kind"`  // node, leader, voters, pipeline or claim
	Name  string    `json:"name"`  // of the node, pipeline or pipeline/role
	Text  string    `json:"text"`
}
