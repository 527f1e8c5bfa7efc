package sim

import "time"

// delayFault makes packets take time: at least base, and up to jitter more.
type delayFault struct {
	base, jitter time.Duration
}

func (d delayFault) apply(f *fate) {
	f.delay += d.base + time.Duration(f.draw("jitter")*float64(d.jitter))
}
