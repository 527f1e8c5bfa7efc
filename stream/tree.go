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
	left   int32 // atomic once shared
	nacked bool  // set by who settles its batch, before the handler's own done: never acked
	seq    uint64
	slab   *slab
}

// outstanding is how many of its outputs are not acked, and one if its handler has not returned.
func (t *tree) outstanding() int32 { return atomic.LoadInt32(&t.left) }

// owner is told of inputs whose outputs are all acked.
type owner interface {
	// ack may be called by any goroutine, with no lock of stream held.
	ack(lo, hi uint64)
	// fence is told that a newer claim reads the source; the caller may have locks.
	fence()
}

// slab holds the trees of one batch, so that they are made and dropped together.
type slab struct {
	owner owner // of all of them
	trees []tree
	live  atomic.Int32 // trees not yet finished
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
	s.owner = o
	s.live.Store(int32(n))
	for i := range s.trees[:n] {
		s.trees[i] = tree{left: 1, seq: first + uint64(i), slab: s}
	}
	return s
}

func (p *slabs) put(s *slab) { p[bits.Len(uint(len(s.trees)-1))].Put(s) }

// ackBatch gathers finished inputs of a slab into ranges, so that their owner is told of many at
// once. Flush it when done.
type ackBatch struct {
	slab   *slab  // nil: none yet
	trees  int32  // of slab, finished
	lo, hi uint64 // not told yet
	slabs  *slabs
}

// done takes one from t; at nothing left t is finished and must not be touched again. It
// reports whether t was finished.
func (a *ackBatch) done(t *tree) bool {
	if atomic.AddInt32(&t.left, -1) != 0 {
		return false
	}
	if t.slab != a.slab {
		a.flush()
		a.slab = t.slab
	}
	a.trees++
	if t.nacked {
		return true
	}
	if t.seq != a.hi {
		a.tell()
		a.lo, a.hi = t.seq, t.seq
	}
	a.hi++
	return true
}

// tell tells the owner of the range.
func (a *ackBatch) tell() {
	if a.lo < a.hi {
		a.slab.owner.ack(a.lo, a.hi)
		a.lo = a.hi
	}
}

// flush tells the owner of all and lets go of the slab.
func (a *ackBatch) flush() {
	if a.slab == nil {
		return
	}
	a.tell()
	if a.slab.live.Add(-a.trees) == 0 {
		a.slabs.put(a.slab)
	}
	a.slab, a.trees = nil, 0
}
