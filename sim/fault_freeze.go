package sim

import "net/netip"

// heldBytesMax is how much a frozen node may be about to send, in bytes; the rest is lost, as it
// never would have been sent.
const heldBytesMax = 256 << 10

type heldPacket struct {
	b  []byte
	to netip.AddrPort
}

// freeze stops a node as SIGSTOP does, as far as others see: it sends and receives nothing, what
// comes waits in its socket. Its own timers go on: a goroutine cannot be stopped from outside.
func (p *port) freeze() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	p.frozen = true
}

// thaw lets it go on: it receives what waits, and what it wanted to send leaves.
func (p *port) thaw() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	p.frozen = false
	for _, h := range p.held {
		p.net.send(p, h.b, h.to)
	}
	p.held = nil
	raise(p.ready)
}

// hold keeps a packet that a frozen node is about to send.
func (p *port) hold(b []byte, to netip.AddrPort) {
	total := len(b)
	for _, h := range p.held {
		total += len(h.b)
	}
	if total <= heldBytesMax {
		p.held = append(p.held, heldPacket{append([]byte(nil), b...), to})
	}
}
