package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"weir/topology"
)

// lan is a network in memory: packets arrive at once or never, streams are pipes.
type lan struct {
	t     *testing.T
	group sync.WaitGroup

	mu    sync.Mutex
	nodes map[string]*lanNode // by address
	cut   map[[2]string]bool  // from, to
}

type lanNode struct {
	*Gossip
	addr string
	stop func()
}

func newLAN(t *testing.T) *lan {
	return &lan{t: t, nodes: make(map[string]*lanNode), cut: make(map[[2]string]bool)}
}

// start runs a node until its stop is called; addresses follow from i.
func (l *lan) start(i int, edit func(*Config)) *lanNode {
	l.t.Helper()
	addr := lanAddr(i)
	c := Config{
		Self:   Member{ID: topology.NodeID(fmt.Sprintf("n%d", i)), Addr: addr, Boot: 1, Roles: []string{fmt.Sprintf("role%d", i)}},
		Net:    &lanPort{l, addr},
		Secret: make([]byte, secretBytes),
	}
	if i > 1 {
		c.Seeds = []string{lanAddr(1)}
	}
	if edit != nil {
		edit(&c)
	}
	g, err := New(c)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &lanNode{Gossip: g, addr: addr}
	done := make(chan struct{})
	n.stop = func() { cancel(); <-done }
	l.mu.Lock()
	l.nodes[addr] = n
	l.mu.Unlock()
	go func() {
		defer close(done)
		if err := g.Run(ctx); err != nil {
			l.t.Errorf("run %s: %v", addr, err)
		}
	}()
	return n
}

func lanAddr(i int) string { return fmt.Sprintf("10.0.%d.%d:7411", i/250, i%250+1) }

// sever cuts or mends both ways between all of as and all of bs.
func (l *lan) sever(cut bool, as, bs []*lanNode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range as {
		for _, b := range bs {
			l.cut[[2]string{a.addr, b.addr}] = cut
			l.cut[[2]string{b.addr, a.addr}] = cut
		}
	}
}

func (l *lan) reach(from, to string) *lanNode {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut[[2]string{from, to}] {
		return nil
	}
	return l.nodes[to]
}

type lanPort struct {
	lan  *lan
	addr string
}

func (p *lanPort) Send(b []byte, addr string) error {
	if len(b) > packetBytesMax {
		p.lan.t.Errorf("packet of %d bytes, want at most %d", len(b), packetBytesMax)
	}
	if n := p.lan.reach(p.addr, addr); n != nil {
		n.HandlePacket(b, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(p.addr)))
	}
	return nil
}

func (p *lanPort) Open(ctx context.Context, _ topology.NodeID, addr string) (net.Conn, error) {
	n := p.lan.reach(p.addr, addr)
	if n == nil {
		<-ctx.Done()
		return nil, errors.New("no answer")
	}
	ours, theirs := net.Pipe()
	p.lan.group.Go(func() {
		n.HandleStream(theirs)
		theirs.Close() // as the mux does
	})
	return ours, nil
}

// within waits for ok on the node's changes, up to limit of virtual time, and returns how long it took.
func within(t *testing.T, limit time.Duration, nodes []*lanNode, what string, ok func(map[topology.NodeID]Member) bool) time.Duration {
	t.Helper()
	start := time.Now()
	for _, n := range nodes {
		for {
			changed := n.Changed()
			ms := make(map[topology.NodeID]Member)
			for _, m := range n.Members() {
				ms[m.ID] = m
			}
			if ok(ms) {
				break
			}
			select {
			case <-changed:
			case <-time.After(limit - time.Since(start)):
				t.Fatalf("%s: not %s after %v: %+v", n.addr, what, limit, n.Members())
			}
		}
	}
	return time.Since(start)
}
