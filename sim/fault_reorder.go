package sim

import "time"

// reorderFault holds a share of all packets back, so that later ones overtake them.
type reorderFault struct {
	share float64
	by    time.Duration // at most
}

func (r reorderFault) apply(f *fate) {
	if f.draw("reorder") < r.share {
		f.delay += time.Duration(f.draw("reorder by") * float64(r.by))
		f.overtakes = true // it leaves the line; those behind do not wait for it
	}
}
