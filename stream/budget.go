package stream

import "sync/atomic"

// MemoryDefault is what the windows of a node pin at most, in bytes, unless told otherwise.
const MemoryDefault = 64 << 20

// Budget bounds the bytes that all windows of a node pin together, and keeps their dropped
// buffers for the next. One per node; safe for concurrent use.
type Budget struct {
	max  int64
	held atomic.Int64

	chunks chunks
	slabs  slabs
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
