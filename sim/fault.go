package sim

import (
	"slices"
	"time"
)

// fate is what becomes of one packet. The faults in force change it in turn, the oldest first.
type fate struct {
	// given
	from, to string // names of ports
	bytes    int    // with IP and UDP headers
	now      time.Duration
	key      uint64 // hash of the seed, the pair and the packet's number: all draws follow from it

	// decided
	lost      string        // why it never arrives; "" = it does
	delay     time.Duration // until it arrives
	overtakes bool          // it need not wait for packets sent before it
	copies    int           // how often it arrives
	apart     time.Duration // time between copies
}

// draw is the packet's own number from [0, 1) for one decision about it.
func (f *fate) draw(decision string) float64 { return unit(mix(f.key, hash(decision))) }

// unit maps a hash to [0, 1): its 53 highest bits, all that a float64 holds.
func unit(x uint64) float64 { return float64(x>>11) / (1 << 53) }

// fault is one thing that a network does to packets. apply is called under the network's lock,
// for one packet after the other.
type fault interface {
	apply(*fate)
}

// scope says whose packets a fault is about; a nil list means all ports.
type scope struct {
	from, to []string
	both     bool // and the other direction
}

func (s scope) speaksOf(from, to string) bool {
	return s.has(from, to) || s.both && s.has(to, from)
}

func (s scope) has(from, to string) bool {
	return (s.from == nil || slices.Contains(s.from, from)) && (s.to == nil || slices.Contains(s.to, to))
}

// faultInForce is a fault that packets meet now.
type faultInForce struct {
	fault
	scope
}

// impose puts a fault in force; the returned func lifts it.
func (n *network) impose(f fault, s scope) (lift func()) {
	x := &faultInForce{f, s}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = append(n.faults, x)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.faults = slices.DeleteFunc(n.faults, func(y *faultInForce) bool { return y == x })
	}
}
