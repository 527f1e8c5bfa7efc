package sim

import (
	"slices"
	"strings"
)

// This file is pure.

// tally is what became of the records of a run.
type tally struct {
	read, acked uint64
	lost        uint64 // acked, and not at every sink where they belong
	duplicates  uint64 // written to a sink again
}

// count counts the records of a history.
func count(h *History, load *Workload) (t tally) {
	tapOf := make(map[uint64]string) // by record
	sunk := make(map[uint64][]uint64)
	acked := make(map[uint64]bool)
	for _, e := range h.All {
		switch e.Kind {
		case EventRead:
			tapOf[e.Record], _, _ = strings.Cut(e.Text, "/")
		case EventAcked:
			acked[e.Record] = true
		case EventSunk:
			if slices.Contains(sunk[e.Record], e.Leaf) {
				t.duplicates++
			} else {
				sunk[e.Record] = append(sunk[e.Record], e.Leaf)
			}
		}
	}
	outcomes := load.outcomes()
	for record := range acked {
		if o := outcomes[tapOf[record]]; o.missing(sunk[record]) != "" {
			t.lost++
		}
	}
	t.read, t.acked = uint64(len(tapOf)), uint64(len(acked))
	return t
}
