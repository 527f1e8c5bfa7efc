package sim

import (
	"math"

	"weir/topology"
)

// tally counts records while a history grows. One goroutine uses it.
type tally struct {
	h    *History
	load *Workload
	next int // the first event not yet counted

	acked      map[uint64]bool
	sunk       map[leaf]bool
	read       map[uint64]bool
	duplicates uint64 // leaves written again
}

// leaf is what one record becomes at one sink.
type leaf struct{ record, path uint64 }

func newTally(h *History, load *Workload) *tally {
	return &tally{
		h: h, load: load,
		read: make(map[uint64]bool), acked: make(map[uint64]bool), sunk: make(map[leaf]bool),
	}
}

// count catches up with the history.
func (t *tally) count() {
	t.next = t.h.since(t.next, func(e *Event) {
		switch e.Kind {
		case EventRead:
			t.read[e.Record] = true
		case EventAcked:
			t.acked[e.Record] = true
		case EventSunk:
			one := leaf{e.Record, e.Leaf}
			if t.sunk[one] {
				t.duplicates++
			}
			t.sunk[one] = true
		}
	})
}

// settled reports whether all that there is to read is acked.
func (t *tally) settled() bool {
	t.count()
	return uint64(len(t.acked)) >= t.load.total()
}

// since calls f for the events from i on and returns where the next one will be.
func (h *History) since(i int, f func(*Event)) int {
	h.mu.Lock()
	count, chunks := h.count, h.chunks
	h.mu.Unlock()
	for ; i < count; i++ {
		f(&chunks[i/eventsChunk][i%eventsChunk])
	}
	return i
}

// total is how many records there are to read; more than can be while a tap has not begun.
func (w *Workload) total() (n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	taps := 0
	for _, r := range w.roles {
		if r.Kind == topology.KindTap {
			taps += r.Nodes
		}
	}
	if len(w.partitions) < taps {
		return math.MaxUint64
	}
	for _, p := range w.partitions {
		if left := w.end - p.since.Sub(w.start); left > 0 {
			n += uint64((left + w.gap - 1) / w.gap)
		}
	}
	return n
}
