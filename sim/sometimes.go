package sim

import (
	"maps"
	"slices"
	"sync"
)

// branches are the rare branches of the product that say when they are taken: a run, or a
// night of them, that never reached one has not tested it. A test keeps the list equal to the
// calls in the product.
var branches = []string{
	"a batch comes on a link that was replaced",
	"a broken link leaves the layout",
	"a handler misses its deadline",
	"a heartbeat finds a peer dead",
	"a heartbeat finds that a peer has started anew",
	"a later start of a peer connects",
	"a leader proposes its first entry again",
	"a link ends before its suspect is cleared",
	"a link has no credit",
	"a link is drained",
	"a link is refused because our state is behind",
	"a link waits for our state to catch up",
	"a nacked record goes back to the only node",
	"a newer generation replaces a link",
	"a partition begins again",
	"a partition is read on",
	"a peer dies before its first heartbeat",
	"a proposal waits for a leader",
	"a record goes to another link",
	"a record is condemned",
	"a record is nacked",
	"a record is to be tried later",
	"a record of an older claim is refused",
	"a record without a link waits for one",
	"a shared partition is not read without a leader",
	"a sink drops what it had",
	"a sink looks for the record that it refuses",
	"a sink waits for its store",
	"a suspect goes through quarantine",
	"a vote is given up",
	"a watched node has not heard of a leader",
	"a watched node is behind",
	"a watcher is sent a whole state",
	"a window has no room for another chunk",
	"an older generation of a link is refused",
	"an output comes again with another body",
	"chunks are packed",
	"credit doubles",
	"heartbeats go on over another stream",
	"two nodes dial each other at once",
}

// marks counts the branches that were reached. It is safe for concurrent use; its zero value is
// empty.
type marks struct {
	mu    sync.Mutex
	count map[string]uint64
}

func (m *marks) reach(branch string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.count == nil {
		m.count = make(map[string]uint64)
	}
	m.count[branch]++
}

// Reached is how often each rare branch of the product was taken so far.
func (h *History) Reached() map[string]uint64 {
	h.marks.mu.Lock()
	defer h.marks.mu.Unlock()
	return maps.Clone(h.marks.count)
}

// Unreached lists the rare branches of the product that no run reached, given what each did.
func Unreached(runs ...map[string]uint64) (never []string) {
	for _, b := range branches {
		if !slices.ContainsFunc(runs, func(r map[string]uint64) bool { return r[b] > 0 }) {
			never = append(never, b)
		}
	}
	return never
}
