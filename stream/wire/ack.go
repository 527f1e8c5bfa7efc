package wire

import "encoding/binary"

// Range is the link seqs from Lo up to, not including, Hi.
type Range struct{ Lo, Hi uint64 }

// Ack is what a receiver tells its sender. Taken and Limit are absolute within a link
// generation, so a lost or repeated frame does no harm.
type Ack struct {
	Taken   uint64  // records a handler has taken so far
	Limit   uint64  // records with a link seq below it may be sent
	Handled []Range // the handler returned, outputs not yet all acked
	Acked   []Range // done with, here and downstream
}

// RangesMax is the most ranges an ACK may carry, Handled and Acked together.
const RangesMax = rangesMax

// Append appends the frame. Ranges ascend and do not touch.
func (a *Ack) Append(b []byte) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, 0)
	b = binary.AppendUvarint(b, a.Taken)
	b = binary.AppendUvarint(b, a.Limit)
	b = appendRanges(b, a.Handled)
	b = appendRanges(b, a.Acked)
	PutHeader(b[at:], TypeAck, len(b)-at-HeaderBytes)
	return b
}

// Parse reads the body of an ACK into a, reusing its slices.
func (a *Ack) Parse(body []byte) error {
	d := decoder{b: body}
	a.Taken, a.Limit = d.uvarint(), d.uvarint()
	a.Handled = d.ranges(a.Handled[:0])
	a.Acked = d.ranges(a.Acked[:0])
	return d.end()
}

// appendRanges codes each range as the gap before it and its length.
func appendRanges(b []byte, rs []Range) []byte {
	b = binary.AppendUvarint(b, uint64(len(rs)))
	var at uint64
	for _, r := range rs {
		b = binary.AppendUvarint(b, r.Lo-at)
		b = binary.AppendUvarint(b, r.Hi-r.Lo)
		at = r.Hi
	}
	return b
}

func (d *decoder) ranges(rs []Range) []Range {
	n := d.uvarint()
	if n > rangesMax {
		d.fail(ErrLarge)
		return rs
	}
	var at uint64
	for range n {
		lo := at + d.uvarint()
		hi := lo + d.uvarint()
		if d.err != nil {
			return rs
		}
		if lo < at || hi <= lo {
			d.fail(ErrBad)
			return rs
		}
		rs = append(rs, Range{lo, hi})
		at = hi
	}
	return rs
}
