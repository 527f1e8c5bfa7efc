package sim

import "time"

// duplicateApart is how long after a packet its copy arrives: time enough to be no neighbour.
const duplicateApart = 3 * time.Millisecond

// duplicateFault delivers a share of all packets twice.
type duplicateFault struct {
	share float64
}

func (d duplicateFault) apply(f *fate) {
	if f.draw("duplicate") < d.share {
		f.copies, f.apart = 2, duplicateApart
	}
}
