package sim

import (
	"sort"
	"time"
)

// seenPage is how many seqs a sink forgets at once (stream/seen.go).
const seenPage = 64

// seenRules judges I15: of a generation of a source a sink remembers no more roots than were un-acked
// when the newest of them was read. A mark goes before what is read after it, on every link, so this
// holds under faults too. It is asked of the newest generation: where another has begun, the marks of
// the older one are not passed on any more.
type seenRules struct {
	c        *check
	reading  map[opener]*reading // the last
	readings map[numbering][]*reading
	newest   map[uint64]uint64 // generation, by source
}

// numbering is a generation of a source.
type numbering struct{ source, gen uint64 }

// reading is one Run of a source: of one numbering there may be several, and of one root.
type reading struct {
	partition string
	next      uint64 // all from the first mark's on and below it are read
	marks     []markSent
}

// markSent is a low-water mark, and what was to be read next when it was sent.
type markSent struct{ next, low uint64 }

func newSeenRules(c *check) *seenRules {
	return &seenRules{
		c: c, reading: make(map[opener]*reading), readings: make(map[numbering][]*reading), newest: make(map[uint64]uint64),
	}
}

func (r *seenRules) see(e *Event) {
	of, from := numbering{e.Record, e.N}, opener{e.Node, e.Text}
	switch e.Kind {
	case EventSource:
		rd := &reading{partition: e.Text, next: e.M, marks: []markSent{{e.M, 0}}} // nobody was told of a mark
		r.reading[from] = rd
		r.readings[of] = append(r.readings[of], rd)
		r.newest[e.Record] = e.N
	case EventRead:
		if rd := r.reading[from]; rd != nil {
			rd.next++
		}
	case EventMark:
		if rd := r.reading[from]; rd != nil {
			rd.marks = append(rd.marks, markSent{rd.next, e.M})
		}
	case EventSeen:
		if r.newest[e.Record] == e.N {
			r.seen(e, r.readings[of])
		}
	}
}

// seen asks the reading with the lowest mark: a sink may have the newest root of any.
func (r *seenRules) seen(e *Event, of []*reading) {
	low, partition := e.M, ""
	for _, rd := range of {
		if e.M > rd.next || e.M <= rd.marks[0].next {
			continue // it did not read that root
		}
		if l := rd.low(e.M - 1); l < low {
			low, partition = l, rd.partition
		}
	}
	if most := e.M - low + seenPage - 1; partition != "" && uint64(e.Roots) > most {
		r.c.violated("I15", e.At, aboutNode(e), "%s remembers %d roots of %s: %d were not acked when it read the newest of them",
			e.Node, e.Roots, partition, e.M-low)
	}
}

// low is the mark that all had been told of when the root was read: the last may not have left.
func (rd *reading) low(root uint64) uint64 {
	n := sort.Search(len(rd.marks), func(i int) bool { return rd.marks[i].next > root })
	return rd.marks[max(n-2, 0)].low
}

func (r *seenRules) end(time.Duration) {}
