package sim

import (
	"slices"
	"strings"
)

// This file is pure.

// tally is what became of the records of a run.
type tally struct {
	read, acked uint64
	lost        uint64 // acked, and not in the file of every sink where they belong, nor a dead letter
	duplicates  uint64 // in the file of a sink, and in this or another one already
	letters     uint64 // dead letters, each once
}

// count counts the records of a history.
func count(h *History, load *Workload) (t tally) {
	tapOf := make(map[uint64]string) // by record
	there := make(map[uint64][]uint64)
	acked := make(map[uint64]bool)
	for _, e := range h.All {
		switch e.Kind {
		case EventRead:
			tapOf[e.Record], _, _ = strings.Cut(e.Text, "/")
		case EventAcked:
			acked[e.Record] = true
		case EventStored, EventLetter:
			switch {
			case !slices.Contains(there[e.Record], e.Leaf):
				there[e.Record] = append(there[e.Record], e.Leaf)
				if e.Kind == EventLetter {
					t.letters++
				}
			case e.Kind == EventStored:
				t.duplicates++
			}
		}
	}
	outcomes := load.outcomes()
	for record := range acked {
		if o := outcomes[tapOf[record]]; o.missing(record, there[record]) != "" {
			t.lost++
		}
	}
	t.read, t.acked = uint64(len(tapOf)), uint64(len(acked))
	return t
}
