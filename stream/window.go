package stream

// Limits of a link's window.
const (
	// windowRecords is the most un-acked records of a link (FAULTS 4, limits table).
	windowRecords = 4096
	// windowBytes is the most bytes its un-acked records pin; one larger record may be alone.
	windowBytes = 8 << 20
	// windowSpan is the most link seqs from the oldest un-acked record to the newest, so that
	// one slow record stops its link only after 16 windows.
	windowSpan = 16 * windowRecords
)

// slot is one un-acked record: the input that it came from and the chunk that keeps it.
type slot struct {
	t       *tree
	c       *chunk
	bytes   uint32
	handled bool // its latency was counted
	again   bool // it was sent before, on another link or to be nacked
	custody custody
	deaths  *death // while it was in hand alone
}

// window is the un-acked records of a link, by link seq. Pure; misuse panics. Its ring grows
// with the span in use and holds at most windowSpan slots.
type window struct {
	base, next uint64 // un-acked records are within [base, next)
	records    int
	ring       []slot
}

func (w *window) at(seq uint64) *slot { return &w.ring[seq&uint64(len(w.ring)-1)] }

// full reports whether no record may be added.
func (w *window) full() bool {
	return w.records >= windowRecords || w.next-w.base >= windowSpan
}

// add gives a record the next link seq.
func (w *window) add(s slot) (seq uint64) {
	if w.full() {
		panic("stream: window overrun")
	}
	if w.next-w.base == uint64(len(w.ring)) {
		w.grow()
	}
	seq = w.next
	*w.at(seq) = s
	w.next++
	w.records++
	return seq
}

func (w *window) grow() {
	ring := make([]slot, max(64, 2*len(w.ring)))
	for seq := w.base; seq < w.next; seq++ {
		ring[seq&uint64(len(ring)-1)] = *w.at(seq)
	}
	w.ring = ring
}

// free takes a record out and returns its slot; false when it is not there (any more).
func (w *window) free(seq uint64) (slot, bool) {
	if seq < w.base || seq >= w.next {
		return slot{}, false
	}
	s := *w.at(seq)
	if s.t == nil {
		return slot{}, false
	}
	*w.at(seq) = slot{}
	w.records--
	for w.base < w.next && w.at(w.base).t == nil {
		w.base++
	}
	return s, true
}
