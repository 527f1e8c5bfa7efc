package sim

// lossFault loses a share of all packets, each alone.
type lossFault struct {
	share float64 // 0 to 1
}

func (l lossFault) apply(f *fate) {
	if f.draw("loss") < l.share {
		f.lost = "loss"
	}
}

// burstFault loses the same share in runs of burst packets in the mean: a path is good or bad,
// and a bad one loses all (Gilbert's model; Gilbert, Capacity of a Burst-Noise Channel, 1960).
type burstFault struct {
	share float64
	burst float64 // packets
	bad   map[pair]bool
}

func newBurstFault(share, burst float64) *burstFault {
	return &burstFault{share: share, burst: burst, bad: make(map[pair]bool)}
}

func (b *burstFault) apply(f *fate) {
	way := pair{f.from, f.to}
	turn := 1 / b.burst // the chance that a bad path gets well
	if !b.bad[way] {    // and that a good one falls ill, so that share of all packets meet a bad one
		turn *= b.share / (1 - b.share)
	}
	if f.draw("burst") < turn {
		b.bad[way] = !b.bad[way]
	}
	if b.bad[way] {
		f.lost = "loss"
	}
}
