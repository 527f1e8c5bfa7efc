package sim

import "time"

const (
	// againShareMax is the most of the traffic that may be sent again while nothing disturbs the
	// run (FAULTS I16).
	againShareMax = 0.10
	// againLeast is how many records must have been sent meanwhile to judge it.
	againLeast = 1000
	// steadyAfter is how long after a fault traffic is steady.
	steadyAfter = 10 * time.Second
)

// trafficRules judges I8 (memory) and I16 (what is sent again).
type trafficRules struct {
	c           *check
	quiet       *quiet
	sent, again uint64 // while nothing disturbs
}

func newTrafficRules(c *check, q *quiet) *trafficRules { return &trafficRules{c: c, quiet: q} }

func (r *trafficRules) see(e *Event) {
	switch e.Kind {
	case EventHeld:
		if most := r.c.x.Memory; most > 0 && e.N > most {
			r.c.violated("I8", e.At, aboutNode(e), "%s holds %d bytes of records, %d is the most", e.Node, e.N, most)
		}
	case EventSent:
		if r.quiet.lasts(max(steadyAfter, r.c.x.Settle), e.At) { // until then what came back is on its way again
			r.sent += e.M - e.N
			r.again += uint64(e.Again)
		}
	}
}

func (r *trafficRules) end(at time.Duration) {
	if r.sent < againLeast {
		return
	}
	if share := float64(r.again) / float64(r.sent); share > againShareMax+r.c.x.Fails {
		r.c.violated("I16", at, subject{}, "while nothing disturbed the run %d of %d records were sent again", r.again, r.sent)
	}
}
