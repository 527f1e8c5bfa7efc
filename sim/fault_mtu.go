package sim

// mtuFault loses packets above a size, without a word to their sender: a black hole.
type mtuFault struct {
	bytes int // with IP and UDP headers
}

func (m mtuFault) apply(f *fate) {
	if f.bytes > m.bytes {
		f.lost = "mtu"
	}
}
