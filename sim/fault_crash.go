package sim

// crash takes a port off the network at once: what waits in it is lost, nothing leaves it any
// more, and its node is not told. Listening again at its address is the restart.
func (p *port) crash() {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	p.dead = true
	p.in, p.inBytes, p.held = nil, 0, nil
}
