package stream

import (
	"slices"
	"sync"
	"sync/atomic"
)

// MemoryDefault is what the windows of a node pin at most, in bytes, unless told otherwise.
const MemoryDefault = 64 << 20

// Budget bounds the bytes that all windows of a node pin together, and keeps their dropped
// buffers for the next. One per node; safe for concurrent use.
type Budget struct {
	max  int64
	held atomic.Int64

	chunks chunks
	slabs  slabs

	mu      sync.Mutex
	frees   uint64          // how often bytes were given back
	waiters []chan struct{} // flags of emitters that wait for the next time
}

// NewBudget makes a budget of so many bytes; 0 means MemoryDefault.
func NewBudget(bytes int64) *Budget {
	if bytes <= 0 {
		bytes = MemoryDefault
	}
	return &Budget{max: bytes}
}

// Held is the bytes pinned now.
func (b *Budget) Held() int64 { return b.held.Load() }

// Max is the bound.
func (b *Budget) Max() int64 { return b.max }

// add counts bytes pinned, or given back, which all who wait are told.
func (b *Budget) add(bytes int64) {
	b.held.Add(bytes)
	if bytes >= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frees++
	for _, ready := range b.waiters {
		raise(ready)
	}
	b.waiters = b.waiters[:0]
}

// freed is how often bytes were given back so far.
func (b *Budget) freed() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.frees
}

// await raises ready when bytes are given back, if size more would be too many; at once if
// some were given back since freed was asked.
func (b *Budget) await(ready chan struct{}, size int64, freed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.frees != freed:
		raise(ready)
	case b.held.Load()+size > b.max:
		b.waiters = append(b.waiters, ready)
	}
}

// forget takes a flag back.
func (b *Budget) forget(ready chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiters = slices.DeleteFunc(b.waiters, func(c chan struct{}) bool { return c == ready })
}
