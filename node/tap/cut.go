package tap

import (
	"bytes"
	"fmt"
	"hash/crc32"
)

// This file is pure: it decides where records end.

// Sizes of a block, in bytes (DESIGN 6: a small input still spreads over workers, a large one
// costs few processes).
const (
	blockMin = 4 << 10
	blockMax = 512 << 10
	// blockShare is the part of the bytes before a block that it may hold: 64 workers have
	// each had a block of this size before it grows to the next.
	blockShare = 64
)

// rule says where a record ends.
type rule struct {
	cut       cut
	recordMax int // bytes of a body
	block     int // bytes, with cutFixed
}

type cut int

const (
	cutLine  cut = iota // at each newline
	cutBlock            // at the first newline after a part of what came before
	cutFixed            // at the first newline after so many bytes
	cutRead             // at the last newline there is: for what cannot be read again
)

// how names the rule, and what else the records follow from, for a mark.
func (r rule) how(more ...any) uint32 {
	return crc32.Checksum(fmt.Append(nil, r.cut, r.recordMax, r.block, more), castagnoli())
}

// target is how many bytes, the newline included, a block has before it looks for its end. It
// follows from the bytes before it alone, so that a replay cuts the same blocks.
func (r rule) target(before int64) int {
	n := 1
	switch r.cut {
	case cutBlock:
		n = int(min(max(before/blockShare, blockMin), blockMax))
	case cutFixed:
		n = r.block
	}
	return max(1, min(n, r.recordMax+1))
}

// room is how many bytes to ask the source for, when so many are pending and that is not
// enough: what is missing and some of the line that ends the record. For a line that goes on
// and on it doubles, so that a long one is not searched and copied again and again.
func (r rule) room(pending int, before int64) int {
	if r.cut == cutRead {
		return max(blockMax, pending)
	}
	missing := r.target(before) - pending
	return readMin + max(missing, -missing)
}

// next returns how many of the pending bytes the next record takes, its newline included; 0:
// more are needed, or, when the input has ended, there are no more records. Not ok: the line
// they begin with is too long.
func (r rule) next(pending []byte, before int64, ended bool) (n int, ok bool) {
	window := pending[:min(len(pending), r.recordMax+1)]
	if r.cut == cutRead {
		n = bytes.LastIndexByte(window, '\n') + 1
	} else if target := r.target(before); len(window) >= target {
		if i := bytes.IndexByte(window[target-1:], '\n'); i >= 0 {
			n = target + i
		}
	}
	switch {
	case n > 0:
		return n, true
	case len(window) > r.recordMax:
		// The line that would end the record makes it too large, so it begins the next.
		n = bytes.LastIndexByte(window, '\n') + 1
		return n, n > 0
	case ended:
		return len(pending), true
	}
	return 0, true
}
