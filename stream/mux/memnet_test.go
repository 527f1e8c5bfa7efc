package mux

import (
	"net"
	"os"
	"sync"
	"time"
)

// memnet is a network in memory, for synctest bubbles: every packet takes latency, unless cut
// says that it is lost.
type memnet struct {
	latency time.Duration

	mu    sync.Mutex
	ports map[string]*memport
	cut   func(from, to string, b []byte) bool
}

func newMemnet() *memnet {
	return &memnet{latency: 5 * time.Millisecond, ports: make(map[string]*memport)}
}

// setCut replaces the rule by which packets are lost; nil loses none.
func (n *memnet) setCut(cut func(from, to string, b []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
}

// listen binds an address; an older socket of that address hears nothing more.
func (n *memnet) listen(addr string) *memport {
	a, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		panic(err)
	}
	p := &memport{net: n, addr: a, in: make(chan mempacket, 4096), closed: make(chan struct{}), moved: make(chan struct{}, 1)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[addr] = p
	return p
}

type mempacket struct {
	b    []byte
	from net.Addr
}

// memport is one socket.
type memport struct {
	net    *memnet
	addr   *net.UDPAddr
	in     chan mempacket // a socket buffer: full, it drops
	closed chan struct{}
	once   sync.Once
	moved  chan struct{} // a flag: the deadline has moved

	mu       sync.Mutex
	deadline time.Time
}

func (p *memport) WriteTo(b []byte, to net.Addr) (int, error) {
	n := p.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ports[p.addr.String()] != p || n.cut != nil && n.cut(p.addr.String(), to.String(), b) {
		return len(b), nil
	}
	sent := mempacket{append([]byte(nil), b...), p.addr}
	time.AfterFunc(n.latency, func() {
		n.mu.Lock()
		dst := n.ports[to.String()]
		n.mu.Unlock()
		if dst == nil {
			return
		}
		select {
		case dst.in <- sent:
		default:
		}
	})
	return len(b), nil
}

func (p *memport) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		p.mu.Lock()
		deadline := p.deadline
		p.mu.Unlock()
		var late <-chan time.Time
		if !deadline.IsZero() {
			if !time.Now().Before(deadline) {
				return 0, nil, os.ErrDeadlineExceeded
			}
			late = time.After(time.Until(deadline))
		}
		select {
		case r := <-p.in:
			return copy(b, r.b), r.from, nil
		case <-p.closed:
			return 0, nil, net.ErrClosed
		case <-late:
		case <-p.moved:
		}
	}
}

func (p *memport) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *memport) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	p.deadline = t
	p.mu.Unlock()
	flag(p.moved)
	return nil
}

func (p *memport) LocalAddr() net.Addr              { return p.addr }
func (p *memport) SetDeadline(t time.Time) error    { return p.SetReadDeadline(t) }
func (p *memport) SetWriteDeadline(time.Time) error { return nil }
func (p *memport) SetReadBuffer(int) error          { return nil }
func (p *memport) SetWriteBuffer(int) error         { return nil }
