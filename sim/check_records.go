package sim

import "time"

// recordRules judges what becomes of records: I1, I2, I9, I13, and who works on them: A25.
type recordRules struct {
	c     *check
	quiet *quiet
	parts []*partSeen // by index
}

// partSeen is one partition of a tap.
type partSeen struct {
	name     string
	opened   *Event // last
	opens    uint32
	readAll  bool // since it was opened last
	outcome  outcome
	records  []recordSeen
	lastRead time.Duration
}

// recordSeen is one root.
type recordSeen struct {
	leaves  []uint64 // different ones, as sinks wrote them
	readAt  time.Duration
	readIn  uint32 // the opening that read it last; 0: none
	ackedIn uint32 // the opening that was told of its ack last; 0: none
}

func newRecordRules(c *check, q *quiet) *recordRules { return &recordRules{c: c, quiet: q} }

func (r *recordRules) see(e *Event) {
	switch e.Kind {
	case EventOpened:
		r.opened(e)
	case EventRead:
		p, rec := r.find(e)
		rec.readAt, rec.readIn, p.lastRead = e.At, p.opens, e.At
	case EventReadAll:
		p, _ := r.find(e)
		p.readAll = true
	case EventHandled:
		r.attempts(e)
		if tagged := r.c.x.Tagged[e.Text]; tagged > 0 && numberOf(placeOf(e.Node)) > tagged {
			r.c.violated("A25", e.At, aboutRecord(e.Record), "%s works on record %s for %s and has not the tag", e.Node, recordName(e.Record), e.Text)
		}
	case EventSunk:
		r.attempts(e)
		r.sunk(e)
	case EventAcked:
		r.acked(e)
	case EventBroken:
		r.c.violated("I2", e.At, subject{}, "%s", e.Text)
	}
}

func (r *recordRules) opened(e *Event) {
	i := int(e.Record >> recordBits)
	for len(r.parts) <= i {
		r.parts = append(r.parts, &partSeen{})
	}
	p := r.parts[i]
	p.name, p.opened = e.Text, e
	p.opens++
	p.readAll = false
	p.outcome = r.c.x.Outcomes[tapOf(e.Text)]
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

func (r *recordRules) attempts(e *Event) {
	if most := r.c.x.Attempts; most > 0 && e.N > most {
		r.c.violated("I9", e.At, aboutRecord(e.Record), "record %s is at attempt %d, %d is the most", recordName(e.Record), e.N, most)
	}
}

func (r *recordRules) sunk(e *Event) {
	p, rec := r.find(e)
	for _, leaf := range rec.leaves {
		if leaf == e.Leaf {
			return // at least once is what is promised
		}
	}
	rec.leaves = append(rec.leaves, e.Leaf)
	switch {
	case rec.readIn == 0:
		r.c.violated("I2", e.At, aboutRecord(e.Record), "sink %s wrote record %s, which no tap has read", e.Node, recordName(e.Record))
	case !p.outcome.has(e.Leaf):
		r.c.violated("I2", e.At, aboutRecord(e.Record), "sink %s wrote record %s by a way that the graph does not have", e.Node, recordName(e.Record))
	}
}

func (r *recordRules) acked(e *Event) {
	p, rec := r.find(e)
	rec.ackedIn = p.opens
	if rec.readIn == 0 {
		r.c.violated("I1", e.At, aboutRecord(e.Record), "record %s was acked and never read", recordName(e.Record))
		return
	}
	if path := p.outcome.missing(rec.leaves); path != "" {
		r.c.violated("I1", e.At, aboutRecord(e.Record), "record %s was acked to its tap before it was durable as %s", recordName(e.Record), path)
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
