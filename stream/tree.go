package stream

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// tree is one un-acked input: a record that a handler was given, or a root that a tap read.
// Its outputs are the slots of the senders that point to it, so they are a set keyed by link
// and link seq: a slot is cleared once, whoever acks it and however often, and an output that
// moves to another link moves its slot. left counts those slots and, until it returns, the
// handler.
type tree struct {
	left   atomic.Int32
	nacked bool // set by the handler's goroutine before its own done: never acked
	seq    uint64
	owner  owner
	slab   *slab
}

// owner is told of inputs whose outputs are all acked.
type owner interface {
	// ack may be called by any goroutine, with no lock of stream held.
	ack(lo, hi uint64)
}

// slab holds the trees of one batch, so that they are made and dropped together.
type slab struct {
	trees []tree
	live  atomic.Int32 // trees not yet done
}

// slabClasses bounds how many trees share a slab, as a power of two: a batch may have as many
// records as the credit, 4096 at most.
const slabClasses = 13

// slabs keeps slabs by the logarithm of their size.
type slabs [slabClasses]sync.Pool

func (p *slabs) get(n int, o owner, first uint64) *slab {
	class := bits.Len(uint(n - 1))
	s, _ := p[class].Get().(*slab)
	if s == nil {
		s = &slab{trees: make([]tree, 1<<class)}
	}
	s.live.Store(int32(n))
	for i := range s.trees[:n] {
		t := &s.trees[i]
		t.left.Store(1)
		t.nacked, t.seq, t.owner, t.slab = false, first+uint64(i), o, s
	}
	return s
}

func (p *slabs) put(s *slab) { p[bits.Len(uint(len(s.trees)-1))].Put(s) }

// ackBatch gathers finished inputs into ranges, so that their owners are told of many at once.
type ackBatch struct {
	owner  owner
	lo, hi uint64
	slabs  *slabs
}

// done takes one from t; at nothing left t is finished and must not be touched again. It
// reports whether t was finished.
func (a *ackBatch) done(t *tree) bool {
	if t.left.Add(-1) != 0 {
		return false
	}
	if !t.nacked {
		a.add(t.owner, t.seq)
	}
	if s := t.slab; s.live.Add(-1) == 0 {
		a.slabs.put(s)
	}
	return true
}

func (a *ackBatch) add(o owner, seq uint64) {
	if a.owner == o && seq == a.hi {
		a.hi++
		return
	}
	a.flush()
	a.owner, a.lo, a.hi = o, seq, seq+1
}

// flush tells the last owner.
func (a *ackBatch) flush() {
	if a.owner != nil {
		a.owner.ack(a.lo, a.hi)
		a.owner = nil
	}
}
