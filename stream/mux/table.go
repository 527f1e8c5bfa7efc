package mux

import (
	"fmt"
	"sync"

	"weir/topology"
)

// place is where a connection belongs: the index-th of a class to a node. One connection has it,
// whoever dialled.
type place struct {
	id    topology.NodeID
	class class
	index uint32
}

// target is what is dialled: a place whose node may be unknown, at an address.
type target struct {
	id    topology.NodeID // "": any node of the cluster
	addr  string          // host:port
	class class
	index uint32
}

// dial is one under way; c and err are set before done is closed.
type dial struct {
	done chan struct{}
	c    *conn
	err  error
}

// table holds the connections that are up, and the dials under way.
type table struct {
	self topology.NodeID

	mu     sync.Mutex
	live   map[place]*conn    // those that new streams use
	all    map[*conn]struct{} // live, and those that drain
	dials  map[target]*dial
	closed bool
}

func newTable(self topology.NodeID) *table {
	return &table{
		self:  self,
		live:  make(map[place]*conn),
		all:   make(map[*conn]struct{}),
		dials: make(map[target]*dial),
	}
}

// find returns the live connection for a target, or nil.
func (t *table) find(to target) *conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.findLocked(to)
}

func (t *table) findLocked(to target) *conn {
	if to.id != "" {
		if c := t.live[place{to.id, to.class, to.index}]; c != nil && !c.gone() {
			return c
		}
		return nil
	}
	for p, c := range t.live {
		if p.class == to.class && p.index == to.index && (c.peer.Addr == to.addr || c.dialled == to.addr) && !c.gone() {
			return c
		}
	}
	return nil
}

// begin returns a live connection, or the dial to wait for and whether the caller must carry it out.
func (t *table) begin(to target) (c *conn, d *dial, mine bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.findLocked(to); c != nil {
		return c, nil, false
	}
	if d := t.dials[to]; d != nil {
		return nil, d, false
	}
	d = &dial{done: make(chan struct{})}
	t.dials[to] = d
	return nil, d, true
}

// end tells those who wait how a dial went.
func (t *table) end(to target, d *dial, c *conn, err error) {
	t.mu.Lock()
	delete(t.dials, to)
	t.mu.Unlock()
	d.c, d.err = c, err
	close(d.done)
}

// add gives c its place. The connections to earlier starts of its node are to be closed at once,
// whatever their places: nobody is there any more. The one that lost the place to c, or c itself, is
// to be drained.
func (t *table) add(c *conn) (closing []*conn, draining *conn, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, ErrClosed
	}
	if n := len(t.ofLocked(c.peer.ID, c.peer.Boot)); n >= connsMax {
		return nil, nil, fmt.Errorf("%w: %d connections to one node", ErrProtocol, n+1)
	}
	for other := range t.all {
		switch {
		case other.peer.ID != c.peer.ID || other.gone():
		case other.peer.Boot > c.peer.Boot:
			return nil, nil, ErrOldBoot
		case other.peer.Boot < c.peer.Boot:
			closing = append(closing, other)
		}
	}
	old := t.live[c.place]
	if old == nil || old.gone() {
		t.live[c.place], t.all[c] = c, struct{}{}
		return closing, nil, nil
	}
	switch judge(t.self < c.place.id, old.origin(), c.origin()) {
	case supersede:
		t.live[c.place], t.all[c] = c, struct{}{}
		return closing, nil, nil
	case replace:
		t.live[c.place], t.all[c] = c, struct{}{}
		return nil, old, nil
	case retire:
		t.all[c] = struct{}{}
		return nil, c, nil
	}
	return nil, nil, ErrOldBoot
}

// remove forgets a connection that is gone.
func (t *table) remove(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, c)
	if t.live[c.place] == c {
		delete(t.live, c.place)
	}
}

// of returns every connection to a node's start, 0: to any start, drained ones too.
func (t *table) of(id topology.NodeID, boot uint64) []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ofLocked(id, boot)
}

func (t *table) ofLocked(id topology.NodeID, boot uint64) []*conn {
	var cs []*conn
	for c := range t.all {
		if c.peer.ID == id && (c.peer.Boot == boot || boot == 0) {
			cs = append(cs, c)
		}
	}
	return cs
}

func (t *table) peers() []Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	byID := make(map[topology.NodeID]Peer)
	for _, c := range t.live {
		if p, seen := byID[c.peer.ID]; !c.gone() && (!seen || p.Epoch < c.peer.Epoch) {
			byID[c.peer.ID] = c.peer
		}
	}
	peers := make([]Peer, 0, len(byID))
	for _, p := range byID {
		peers = append(peers, p)
	}
	return peers
}

// close takes no more connections; those that are there end with Run.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// origin is what decides between two connections of one place.
type origin struct {
	boot   uint64 // of the peer
	ours   bool   // dialled by us
	serial uint64 // of the dial, counted by the dialler
}

// verdict is what becomes of a connection whose place is taken.
type verdict int

const (
	supersede verdict = iota // the new one stays, the old peer is no more
	replace                  // the new one stays, the old one drains
	retire                   // the old one stays, the new one drains
	refuse                   // the new one is of a peer that is no more
)

// judge decides between two connections of one place, pure, and so that both ends come to one
// verdict whatever the order in which they saw them: a later start of the peer wins; of a
// connection dialled from each side the one dialled by the lower node id; of two dialled from one
// side the later. weAreLower says that our id is the lower one.
func judge(weAreLower bool, old, new origin) verdict {
	switch {
	case new.boot > old.boot:
		return supersede
	case new.boot < old.boot:
		return refuse
	case new.ours != old.ours && new.ours == weAreLower:
		return replace
	case new.ours != old.ours:
		return retire
	case new.serial > old.serial:
		return replace
	}
	return retire
}
