package consensus

// Pure: the entries a node keeps for those who watch it.

const (
	// historyEntries is how many entries a watcher may be behind and still get entries instead
	// of the whole state: minutes of a busy roster.
	historyEntries = 1024
	// historyBytes bounds what they hold.
	historyBytes = 4 << 20
)

// history holds the last entries in order, and the index that comes before the first.
type history struct {
	before  uint64
	entries []*entry
	bytes   int
}

// restart forgets all: the state at index came from elsewhere.
func (h *history) restart(index uint64) { *h = history{before: index} }

func (h *history) add(e *entry) {
	h.entries = append(h.entries, e)
	h.bytes += e.size()
	for len(h.entries) > historyEntries || h.bytes > historyBytes {
		h.before = h.entries[0].Index
		h.bytes -= h.entries[0].size()
		h.entries[0] = nil
		h.entries = h.entries[1:]
	}
}

// after returns the entries that lead on from the state at index, and whether they are all here.
// The slice must not be written to.
func (h *history) after(index uint64) ([]*entry, bool) {
	if index < h.before {
		return nil, false
	}
	i := len(h.entries)
	for i > 0 && h.entries[i-1].Index > index {
		i--
	}
	return h.entries[i:len(h.entries):len(h.entries)], true
}

// size is about what an entry holds, in bytes.
func (e *entry) size() int {
	n := len(e.Command)
	for _, m := range e.Marks {
		n += len(m.Partition) + len(m.Position)
	}
	return n
}
