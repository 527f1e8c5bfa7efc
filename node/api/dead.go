package api

import "weir/node/dead"

// Pick says which dead letters are meant: those whose ids begin as one of IDs does, each of which must
// fit exactly one, or else all of Name, a PIPELINE or PIPELINE/ROLE, "" being all there are.
type Pick struct {
	IDs   []string `json:"ids,omitempty"`
	Name  string   `json:"name,omitempty"`
	Limit int      `json:"limit,omitempty"` // of a list: how many at most
}

// Letters is the answer to dead/list: the newest first.
type Letters struct {
	Letters []dead.Letter `json:"letters"`
	More    int           `json:"more"`             // there are, beyond the limit
	Silent  []string      `json:"silent,omitempty"` // nodes that did not answer: what they keep is not in the list
}

// Letter is the answer to dead/show.
type Letter struct {
	dead.Letter
	Body []byte `json:"body"`
}

// Dropped is the answer to dead/drop.
type Dropped struct {
	Letters int      `json:"letters"`          // that are gone
	Busy    int      `json:"busy,omitempty"`   // are being replayed, and stay
	Silent  []string `json:"silent,omitempty"` // nodes that did not answer
}

// Replayed is each answer to dead/replay, the last one final.
type Replayed struct {
	Letters int      `json:"letters"`          // acked end to end, and gone
	Again   int      `json:"again"`            // of these, that are dead letters once more
	Of      int      `json:"of"`               // letters
	Notes   []string `json:"notes,omitempty"`  // why some stay
	Silent  []string `json:"silent,omitempty"` // nodes that did not answer
}

// Put is each answer to put, the last one final.
type Put struct {
	Read    uint64 `json:"read"` // records
	Acked   uint64 `json:"acked"`
	Lines   uint64 `json:"lines"`    // in those that are acked
	ReadL   uint64 `json:"lines_in"` // in those that were read
	Letters int    `json:"letters"`  // dead letters that came of them; known at the end
	Name    string `json:"name"`     // PIPELINE/ROLE that they went to
}
