package tap

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"weir/stream"
)

// This file is pure: places in files, and what is kept of the text before one.

// place is where in a partition a record ends: what a mark says.
type place struct {
	how    uint32 // how records are cut: cut otherwise, the same bytes are other records
	before int64  // bytes of the partition before it
	offset int64  // in its file's text, bytes
	sum    sum    // of that text before it
	head   head   // of the text, in the first mark alone
	listed int64  // when the newest of several files had changed as they were listed, or a followed one when it was opened; ns since 1970
	inode  uint64 // of a file that is followed
	name   string // of one of several files
}

// add moves the place behind b, of its file.
func (p *place) add(table *crc32.Table, b []byte) {
	if p.before > 0 {
		p.head = head{}
	}
	p.sum.add(table, b, p.offset)
	p.offset += int64(len(b))
	p.before += int64(len(b))
}

// markVersion begins each mark. A mark that begins otherwise is not ours.
const markVersion = 3

// append writes the place as a mark behind b.
func (p *place) append(b []byte) []byte {
	b = append(b, markVersion)
	b = binary.LittleEndian.AppendUint32(b, p.how)
	b = binary.LittleEndian.AppendUint32(b, p.sum.last)
	b = binary.LittleEndian.AppendUint32(b, p.sum.now)
	b = binary.LittleEndian.AppendUint32(b, p.head.sum)
	b = binary.AppendUvarint(b, uint64(p.before))
	b = binary.AppendUvarint(b, uint64(p.offset))
	b = binary.AppendUvarint(b, uint64(p.listed))
	b = binary.AppendUvarint(b, uint64(p.head.end))
	b = binary.AppendUvarint(b, p.inode)
	return append(b, p.name...)
}

// parseMark reads what place.append wrote.
func parseMark(m stream.Mark) (place, error) {
	const fixed = 1 + 4*4
	if len(m) < fixed || m[0] != markVersion {
		return place{}, fmt.Errorf("mark %x: of another tap or version", []byte(m))
	}
	p := place{
		how:  binary.LittleEndian.Uint32(m[1:]),
		sum:  sum{binary.LittleEndian.Uint32(m[5:]), binary.LittleEndian.Uint32(m[9:])},
		head: head{sum: binary.LittleEndian.Uint32(m[13:])},
	}
	rest := []byte(m[fixed:])
	var v [5]uint64
	for i := range v {
		n := 0
		if v[i], n = binary.Uvarint(rest); n <= 0 || i < 4 && v[i] > 1<<62 {
			return place{}, fmt.Errorf("mark %x: cut short or damaged", []byte(m))
		}
		rest = rest[n:]
	}
	p.before, p.offset, p.listed, p.head.end, p.inode, p.name = int64(v[0]), int64(v[1]), int64(v[2]), int64(v[3]), v[4], string(rest)
	return p, nil
}

// resume is where to go on from a mark; none is the start.
func (r rule) resume(at stream.Mark, more ...any) (place, error) {
	how := r.how(more...)
	if len(at) == 0 {
		return place{how: how}, nil
	}
	p, err := parseMark(at)
	switch {
	case err != nil:
		return p, reset("%v", err)
	case p.how != how:
		return p, reset("records are cut otherwise than before")
	}
	return p, nil
}

// sumWindow is how much of a file one checksum is of, in bytes. A mark has that of the last whole
// window before it and that of what came since: 4 to 8 KiB, or all there is (DESIGN 6: a hash before
// the mark).
const sumWindow = 4 << 10

// sum is CRC-32C of the text before a place: it grows with each record and costs less than a
// nanosecond for 8 bytes.
type sum struct {
	last uint32 // of the last whole window
	now  uint32 // since then
}

// add counts p in, which begins at offset.
func (s *sum) add(table *crc32.Table, p []byte, offset int64) {
	for len(p) > 0 {
		n := min(len(p), sumWindow-int(offset%sumWindow))
		s.now = crc32.Update(s.now, table, p[:n])
		if offset += int64(n); offset%sumWindow == 0 {
			s.last, s.now = s.now, 0
		}
		p = p[n:]
	}
}

// headMax is the most that a head is of, in bytes: what a first read asks for.
const headMax = readMin

// head is what a text began with when reading it began.
type head struct {
	end int64  // where it ends; 0: there is none
	sum uint32 // CRC-32C
}

// sumFrom is where the text begins that the sum of a place at offset is of, in a file that is read
// from first.
func sumFrom(offset, first int64) int64 {
	return max(first, offset-offset%sumWindow-sumWindow)
}

// castagnoli is the table that the processor has instructions for.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// resetError is a stream.ErrReset that says why.
type resetError struct{ reason string }

func (e *resetError) Error() string { return e.reason }
func (e *resetError) Unwrap() error { return stream.ErrReset }

// reset makes one.
func reset(format string, args ...any) error { return &resetError{fmt.Sprintf(format, args...)} }
