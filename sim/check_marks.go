package sim

import (
	"time"

	"weir/topology"
)

// markRules judges low-water marks, I3: of each generation of a source they rise, and nothing
// below one is un-acked.
type markRules struct {
	c       *check
	openers map[opener]*openingSeen
	sources map[sourceKey]*sourceSeen
	pending []Event // marks: an ack of the same instant may be noted a moment later
}

type opener struct {
	node      topology.NodeID
	partition string
}

// openingSeen is one opening of a partition: its records from the first on.
type openingSeen struct {
	first uint64
	acked bitset
	low   uint64 // all below are acked
}

// sourceKey is a source as one node reads it: of a shared partition two may, for a while.
type sourceKey struct {
	node        topology.NodeID
	source, gen uint64
}

type sourceSeen struct {
	partition string
	opening   *openingSeen
	next      uint64 // where the numbering went on with the first record of the opening
	mark      uint64
}

func newMarkRules(c *check) *markRules {
	return &markRules{c: c, openers: make(map[opener]*openingSeen), sources: make(map[sourceKey]*sourceSeen)}
}

func (r *markRules) see(e *Event) {
	if len(r.pending) > 0 && r.pending[0].At < e.At {
		r.judge()
	}
	switch e.Kind {
	case EventOpened:
		r.openers[opener{e.Node, e.Text}] = &openingSeen{first: e.Record}
	case EventAcked:
		if o := r.openers[opener{e.Node, e.Text}]; o != nil {
			for o.acked.set(e.Record - o.first); o.acked.has(o.low); o.low++ {
			}
		}
	case EventSource:
		r.sources[sourceKey{e.Node, e.Record, e.N}] = &sourceSeen{partition: e.Text, opening: r.openers[opener{e.Node, e.Text}], next: e.M}
	case EventMark:
		r.pending = append(r.pending, *e)
	}
}

func (r *markRules) judge() {
	for i := range r.pending {
		e := &r.pending[i]
		s := r.sources[sourceKey{e.Node, e.Record, e.N}]
		if s == nil || s.opening == nil {
			continue
		}
		number := s.opening.first + s.opening.low
		switch {
		case e.M < s.mark:
			r.c.violated("I3", e.At, subject{}, "the mark of %s fell from %d to %d", s.partition, s.mark, e.M)
		case e.M > s.next+s.opening.low:
			r.c.violated("I3", e.At, aboutRecord(number), "the mark of %s is %d, and record %s is not acked", s.partition, e.M, recordName(number))
		}
		s.mark = e.M
	}
	r.pending = r.pending[:0]
}

func (r *markRules) end(time.Duration) { r.judge() }
