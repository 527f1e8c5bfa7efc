package stream

import (
	"encoding/binary"

	"github.com/zeebo/xxh3"
)

func hashString(s string) uint64 { return xxh3.HashString(s) }

// SourceID names the source that a partition of a tap is.
func SourceID(pipeline, role, partition string) uint64 {
	return hashString(pipeline + "\x00" + role + "\x00" + partition)
}

// rolePath is the hash of a role, for the paths of its outputs.
func rolePath(pipeline, role string) uint64 { return hashString(pipeline + "/" + role) }

// rootPath is the path of what the tap role reads: a root is its parent's only output.
func rootPath(pipeline, role string) uint64 { return rolePath(pipeline, role) | 1 }

// childPath is the path of the ordinal-th output that role makes of a record with the parent
// path. The lowest bit says that it is the last one.
func childPath(parent, role uint64, ordinal int, last bool) uint64 {
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], parent)
	binary.LittleEndian.PutUint64(b[8:], role)
	binary.LittleEndian.PutUint64(b[16:], uint64(ordinal))
	h := xxh3.Hash(b[:]) &^ 1
	if last {
		h |= 1
	}
	return h
}
