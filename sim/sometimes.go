package sim

import (
	"maps"
	"slices"
	"sync"
)

// branches are the rare branches of the product that say when they are taken: a run, or a
// night of them, that never reached one has not tested it. A test keeps the list equal to the
// calls in the product.
var branches = []string{}

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
