package sim

import (
	"slices"
	"time"

	"weir/topology"
)

// recordRules judges what becomes of records: I1, I2, I13, and who works on them: A25.
type recordRules struct {
	c      *check
	quiet  *quiet
	parts  []*partSeen                // by index
	stores map[topology.NodeID]uint32 // files of sinks, numbered
	gens   map[opener]uint64          // of the sources that read
}

// partSeen is one partition of a tap.
type partSeen struct {
	name     string
	opened   *Event // last
	opens    uint64
	readAll  bool // since it was opened last
	outcome  outcome
	records  []recordSeen
	lastRead time.Duration
}

// recordSeen is one root.
type recordSeen struct {
	leaves  []uint64 // different ones, as sinks wrote them, and dead letters
	kept    []kept   // what sinks' files hold at the end
	gens    []uint64 // generations of sources that read it
	readAt  time.Duration
	readIn  uint64 // the last opening that read it; 0: none
	ackedIn uint64 // the last opening that was told of its ack; 0: none
}

// kept is a record in a file.
type kept struct {
	leaf  uint64
	store uint32
}

func newRecordRules(c *check, q *quiet) *recordRules {
	return &recordRules{c: c, quiet: q, stores: make(map[topology.NodeID]uint32), gens: make(map[opener]uint64)}
}

func (r *recordRules) see(e *Event) {
	switch e.Kind {
	case EventOpened:
		r.opened(e)
	case EventRead:
		p, rec := r.find(e)
		rec.readAt, rec.readIn, p.lastRead = e.At, max(rec.readIn, e.N), e.At
		if gen := r.gens[opener{e.Node, e.Text}]; !slices.Contains(rec.gens, gen) {
			rec.gens = append(rec.gens, gen)
		}
	case EventSource:
		r.gens[opener{e.Node, e.Text}] = e.N
	case EventReadAll:
		p, _ := r.find(e)
		p.readAll = p.readAll || e.N == p.opens
	case EventHandled:
		if tagged := r.c.x.Tagged[e.Text]; tagged > 0 && numberOf(placeOf(e.Node)) > tagged {
			r.c.violated("A25", e.At, aboutRecord(e.Record), "%s works on record %s for %s and has not the tag", e.Node, recordName(e.Record), e.Text)
		}
	case EventSunk, EventLetter:
		r.sunk(e)
	case EventAcked:
		r.acked(e)
	case EventStored:
		r.stored(e)
	case EventBroken:
		r.c.violated("I2", e.At, subject{}, "%s", e.Text)
	case EventOver:
		r.over(e)
	}
}

func (r *recordRules) opened(e *Event) {
	i := int(e.Record >> recordBits)
	for len(r.parts) <= i {
		r.parts = append(r.parts, &partSeen{})
	}
	p := r.parts[i]
	for _, before := range r.parts {
		if before != p && before.name == e.Text {
			before.opened = nil // another input has come in its place: what was not acked of it is gone
		}
	}
	p.name, p.opened = e.Text, e
	p.opens = e.N
	p.readAll = false
	p.outcome = r.c.x.Outcomes[tapOf(e.Text)]
	if r.c.x.Live[tapOf(e.Text)] {
		return
	}
	first := int(e.Record & (1<<recordBits - 1))
	for n := range min(first, len(p.records)) {
		if p.records[n].ackedIn == 0 {
			number := e.Record - uint64(first-n)
			r.c.violated("I3", e.At, aboutRecord(number), "%s reads %s on behind record %s, which is not acked", e.Node, e.Text, recordName(number))
			break
		}
	}
}

// find returns the record that an event names. Its partition was opened, or a body was made up
// whose sum is right: then it is one that was never read.
func (r *recordRules) find(e *Event) (*partSeen, *recordSeen) {
	i, n := int(e.Record>>recordBits), int(e.Record&(1<<recordBits-1))
	if i >= len(r.parts) {
		return &partSeen{}, &recordSeen{}
	}
	p := r.parts[i]
	for len(p.records) <= n {
		p.records = append(p.records, recordSeen{})
	}
	return p, &p.records[n]
}

func (r *recordRules) sunk(e *Event) {
	p, rec := r.find(e)
	if slices.Contains(rec.leaves, e.Leaf) {
		return // what is promised is judged by what is kept
	}
	rec.leaves = append(rec.leaves, e.Leaf)
	switch {
	case rec.readIn == 0:
		r.c.violated("I2", e.At, aboutRecord(e.Record), "%s has record %s, which no tap has read", e.Node, recordName(e.Record))
	case p.outcome.find(e.Leaf) == nil:
		r.c.violated("I2", e.At, aboutRecord(e.Record), "%s has record %s by a way that the graph does not have", e.Node, recordName(e.Record))
	}
}

func (r *recordRules) acked(e *Event) {
	p, rec := r.find(e)
	rec.ackedIn = max(rec.ackedIn, e.N)
	if rec.readIn == 0 {
		r.c.violated("I1", e.At, aboutRecord(e.Record), "record %s was acked and never read", recordName(e.Record))
		return
	}
	if path := p.outcome.missing(e.Record, rec.leaves); path != "" {
		r.c.violated("I1", e.At, aboutRecord(e.Record), "record %s was acked to its tap before it was durable as %s", recordName(e.Record), path)
	}
}

// stored asks that a file has a record once, of each generation in which it was read: de-duplication
// is exact within one store.
func (r *recordRules) stored(e *Event) {
	p, rec := r.find(e)
	if r.stores[e.Node] == 0 {
		r.stores[e.Node] = uint32(len(r.stores) + 1)
	}
	rec.kept = append(rec.kept, kept{e.Leaf, r.stores[e.Node]})
	n := 0
	for _, k := range rec.kept {
		if k == rec.kept[len(rec.kept)-1] {
			n++
		}
	}
	if most := max(len(rec.gens), 1); r.c.x.Once && n > most && !p.outcome.unsteady(e.Record, e.Leaf) {
		r.c.violated("I2", e.At, aboutRecord(e.Record), "the file of %s has record %s %d times, and it was read in %d generations",
			e.Node, recordName(e.Record), n, most)
	}
}

// over asks that all that was ever acked is in the files of sinks, or a dead letter.
func (r *recordRules) over(e *Event) {
	if len(r.stores) == 0 {
		return // the files were not looked at
	}
	for i, p := range r.parts {
		for n := range p.records {
			rec := &p.records[n]
			if rec.ackedIn == 0 {
				continue
			}
			var got []uint64
			for _, k := range rec.kept {
				got = append(got, k.leaf)
			}
			for _, leaf := range rec.leaves {
				if o := p.outcome.find(leaf); o != nil && o.letter == leaf {
					got = append(got, leaf)
				}
			}
			number := uint64(i)<<recordBits | uint64(n)
			if path := p.outcome.missing(number, got); path != "" {
				r.c.violated("I1", e.At, aboutRecord(number), "record %s was acked and is in no sink's file as %s", recordName(number), path)
			}
		}
	}
}

// end asks that all is read, and acked, some time after the last trouble, where its tap lives, and each
// role has a node.
func (r *recordRules) end(at time.Duration) {
	for role := range r.c.x.Capacity {
		if !r.quiet.serves(role, r.c.x.Tagged[role]) {
			return
		}
	}
	for _, p := range r.parts {
		since := max(p.lastRead, r.quiet.last)
		if r.c.x.Settle == 0 || r.quiet.disturbed() || at-since < r.c.x.Settle || p.opened == nil || r.quiet.down[p.opened.Node] {
			continue
		}
		first, n := -1, 0
		for i := range p.records {
			if rec := &p.records[i]; rec.readIn == p.opens && rec.ackedIn != p.opens {
				if n++; first < 0 {
					first = i
				}
			}
		}
		if !p.readAll {
			r.c.violated("I13", at, aboutNode(p.opened), "%s has not read all of %s and reads nothing, %v after the last fault and read", p.opened.Node, p.name, at-since)
		}
		if n > 0 {
			number := p.opened.Record&^(1<<recordBits-1) | uint64(first)
			r.c.violated("I13", at, aboutRecord(number), "%d records of %s are not acked %v after the last fault and read; the first is %s",
				n, p.name, at-since, recordName(number))
		}
	}
}

func aboutRecord(n uint64) subject { return subject{record: &n} }
