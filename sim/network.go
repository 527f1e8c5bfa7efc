package sim

import (
	"cmp"
	"context"
	"hash/fnv"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

const (
	// grain is the network's clock tick: packets due within one are delivered in one go, which
	// halves the cost of virtual time and is far below the latency of any link.
	grain = 50 * time.Microsecond
	// receiveBytes is a socket's receive buffer: more is lost. quic-go asks the kernel for 7 MiB,
	// and Linux grants 4 MiB where an administrator followed its advice (quic-go wiki, "UDP
	// Buffer Sizes").
	receiveBytes = 4 << 20
	// ipBytes is what IPv4 and UDP put before each packet, in bytes.
	ipBytes = 28
)

// network carries packets between the ports of one simulated network. What becomes of a packet
// is decided when it is sent, by the faults in force, from nothing but the seed, the pair and how
// many packets went before it: fate of the k-th packet a -> b = hash(seed, a, b, k).
//
// One goroutine, run, delivers what is due. Ports may be used concurrently, and closed while
// somebody sends.
type network struct {
	seed  uint64
	start time.Time
	wake  chan struct{} // a flag: the next packet is due earlier than run thinks

	mu     sync.Mutex
	ports  map[netip.AddrPort]*port
	paths  map[pair]*path
	faults []*faultInForce
	queue  []*packet // a heap by due, to, from, k
	next   time.Duration
	spare  []*packet // delivered, to be used again
	count  counts
}

// counts is what became of all packets.
type counts struct {
	sent, delivered uint64
	dropped         map[string]uint64 // by why
}

// packets is how many were sent so far.
func (n *network) packets() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.count.sent
}

// pair is a direction between two ports, by their names.
type pair struct{ from, to string }

// path is what the network remembers of a pair.
type path struct {
	key    uint64        // hash of seed, from and to
	sent   uint64        // the k of the next packet
	newest time.Duration // when the last packet in order is due
}

type packet struct {
	due      time.Duration
	from, to *port
	k        uint64
	b        []byte
}

// newNetwork makes a network without faults; its clock starts now.
func newNetwork(seed uint64) *network {
	return &network{
		seed: seed, start: time.Now(), wake: make(chan struct{}, 1),
		ports: make(map[netip.AddrPort]*port), paths: make(map[pair]*path),
		next: math.MaxInt64, count: counts{dropped: make(map[string]uint64)},
	}
}

// now is the time on the network's clock.
func (n *network) now() time.Duration { return time.Since(n.start) }

// run delivers packets until ctx is done.
func (n *network) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-n.wake:
		case <-ctx.Done():
			return nil
		}
		timer.Reset(n.deliver() - n.now())
	}
}

// deliver hands over what is due and returns when the next packet is.
func (n *network) deliver() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	for len(n.queue) > 0 && n.queue[0].due <= now {
		p := n.pop()
		n.arrive(p)
	}
	n.next = math.MaxInt64
	if len(n.queue) > 0 {
		n.next = n.queue[0].due
	}
	return n.next
}

// arrive puts a packet into its port's receive buffer.
func (n *network) arrive(p *packet) {
	to := n.ports[p.to.at] // who listens there now
	switch {
	case to.dead:
		n.drop("nobody there", p)
	case to.inBytes+len(p.b) > receiveBytes:
		n.drop("receive buffer full", p)
	default:
		n.count.delivered++
		to.in = append(to.in, p)
		to.inBytes += len(p.b)
		if !to.frozen {
			raise(to.ready)
		}
	}
}

// drop counts a packet that is lost on its way and keeps its memory.
func (n *network) drop(why string, p *packet) {
	n.count.dropped[why]++
	n.spare = append(n.spare, p)
}

// send decides what becomes of a packet.
func (n *network) send(from *port, b []byte, addr netip.AddrPort) {
	n.count.sent++
	to := n.ports[addr]
	if to == nil {
		n.count.dropped["nobody there"]++
		return
	}
	way := n.path(from.name, to.name)
	f := fate{
		from: from.name, to: to.name, bytes: len(b) + ipBytes, now: n.now(),
		key: mix(way.key, way.sent), copies: 1,
	}
	k := way.sent
	way.sent++
	for _, x := range n.faults {
		if x.speaksOf(from.name, to.name) {
			x.apply(&f)
		}
		if f.lost != "" {
			n.count.dropped[f.lost]++
			return
		}
	}
	due := f.now + f.delay
	if !f.overtakes { // a path keeps the order of its packets, whatever its jitter
		due = max(due, way.newest)
		way.newest = due
	}
	for i := range f.copies {
		n.push(n.packet(due+time.Duration(i)*f.apart, from, to, k, b))
	}
}

func (n *network) path(from, to string) *path {
	way := n.paths[pair{from, to}]
	if way == nil {
		way = &path{key: mix(mix(n.seed, hash(from)), hash(to))}
		n.paths[pair{from, to}] = way
	}
	return way
}

// packet copies b: its sender uses it again.
func (n *network) packet(due time.Duration, from, to *port, k uint64, b []byte) *packet {
	var p *packet
	if last := len(n.spare) - 1; last >= 0 {
		p, n.spare = n.spare[last], n.spare[:last]
	} else {
		p = &packet{b: make([]byte, 0, 1500)} // bytes: an Ethernet frame
	}
	due = (due + grain - 1).Truncate(grain)
	p.due, p.from, p.to, p.k, p.b = due, from, to, k, append(p.b[:0], b...)
	return p
}

// before orders packets that are due at one instant the same in every run.
func (p *packet) before(q *packet) bool {
	return cmp.Or(cmp.Compare(p.due, q.due), cmp.Compare(p.to.name, q.to.name),
		cmp.Compare(p.from.name, q.from.name), cmp.Compare(p.k, q.k)) < 0
}

func (n *network) push(p *packet) {
	n.queue = append(n.queue, p)
	for i := len(n.queue) - 1; i > 0; {
		up := (i - 1) / 2
		if !n.queue[i].before(n.queue[up]) {
			break
		}
		n.queue[i], n.queue[up] = n.queue[up], n.queue[i]
		i = up
	}
	if p.due < n.next {
		n.next = p.due
		raise(n.wake)
	}
}

func (n *network) pop() *packet {
	q := n.queue
	top, last := q[0], len(q)-1
	q[0], q[last] = q[last], nil
	q = q[:last]
	for i := 0; 2*i+1 < len(q); {
		down := 2*i + 1
		if down+1 < len(q) && q[down+1].before(q[down]) {
			down++
		}
		if !q[down].before(q[i]) {
			break
		}
		q[i], q[down] = q[down], q[i]
		i = down
	}
	n.queue = q
	return top
}

// listen binds addr for the node of that name; an older port of the address is dead from then on.
func (n *network) listen(name string, addr netip.AddrPort) *port {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.ports[addr]; old != nil {
		old.dead = true
	}
	p := &port{
		net: n, name: name, at: addr, addr: net.UDPAddrFromAddrPort(addr),
		ready: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	n.ports[addr] = p
	return p
}

// port is one node's socket.
type port struct {
	net    *network
	name   string
	at     netip.AddrPort
	addr   *net.UDPAddr  // the same
	ready  chan struct{} // a flag: in, frozen or deadline changed
	closed chan struct{}
	once   sync.Once

	// guarded by net.mu
	in       []*packet // the receive buffer
	inBytes  int
	deadline time.Time
	dead     bool
	frozen   bool
	held     []heldPacket // sent while frozen
}

var _ net.PacketConn = (*port)(nil)

// WriteTo sends b. Like UDP it promises nothing.
func (p *port) WriteTo(b []byte, to net.Addr) (int, error) {
	udp, ok := to.(*net.UDPAddr)
	if !ok {
		return 0, &net.AddrError{Err: "not a UDP address", Addr: to.String()}
	}
	addr := udp.AddrPort()
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	select {
	case <-p.closed:
		return 0, net.ErrClosed
	default:
	}
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	switch {
	case p.dead:
	case p.frozen:
		p.hold(b, addr)
	default:
		p.net.send(p, b, addr)
	}
	return len(b), nil
}

// ReadFrom waits for a packet.
func (p *port) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		got, deadline := p.take()
		if got != nil {
			size, from := copy(b, got.b), got.from.addr
			p.net.mu.Lock()
			p.net.spare = append(p.net.spare, got)
			p.net.mu.Unlock()
			return size, from, nil
		}
		var late <-chan time.Time
		if !deadline.IsZero() {
			late = time.After(time.Until(deadline))
		}
		select {
		case <-p.closed:
			return 0, nil, net.ErrClosed
		default:
		}
		select {
		case <-p.ready: // or the deadline moved
		case <-late:
			return 0, nil, os.ErrDeadlineExceeded
		case <-p.closed:
			return 0, nil, net.ErrClosed
		}
	}
}

// take returns the oldest packet received; nil: none.
func (p *port) take() (*packet, time.Time) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	if len(p.in) == 0 || p.frozen || p.dead {
		return nil, p.deadline
	}
	got := p.in[0]
	p.in[0], p.in = nil, p.in[1:]
	p.inBytes -= len(got.b)
	return got, p.deadline
}

// Close makes ReadFrom and WriteTo fail.
func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	p.dead = true
	return nil
}

// SetReadDeadline ends a ReadFrom at t; zero: never.
func (p *port) SetReadDeadline(t time.Time) error {
	p.net.mu.Lock()
	p.deadline = t
	p.net.mu.Unlock()
	raise(p.ready)
	return nil
}

func (p *port) LocalAddr() net.Addr              { return p.addr }
func (p *port) SetDeadline(t time.Time) error    { return p.SetReadDeadline(t) }
func (p *port) SetWriteDeadline(time.Time) error { return nil } // it never waits
func (p *port) SetReadBuffer(int) error          { return nil } // quic-go asks; receiveBytes it is
func (p *port) SetWriteBuffer(int) error         { return nil }

// raise raises a flag that somebody waits for, or will.
func raise(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// mix makes one number of two, each bit of both in each bit of it (the finalizer of SplitMix64;
// Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
func mix(a, b uint64) uint64 {
	x := a + 0x9e3779b97f4a7c15*(b+1)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hash is a number for a name.
func hash(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails (hash.Hash)
	return h.Sum64()
}
