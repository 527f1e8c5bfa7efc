package wire

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Record is a record as it travels. The hash of its body does not: the reader computes it.
type Record struct {
	Source, Gen, Claim uint64
	Seq, Path          uint64
	Attempt            uint64 // from 1
	Suspect            bool   // it waits for a CLEAR before it is handled
	Key, Body          []byte
	Header             map[string]string // nil or up to 32 entries of 4 KiB together
}

// A batch's body is a byte of flags, the link seq of its first record (8 bytes), the number of
// records (4 bytes), and the records. A record is a byte of flags, the fields that these announce,
// and its body with a length. What is not announced is as in the record before it; the seq
// is one more than that one's.
const (
	batchHeaderBytes = 13

	batchSpent = 1 << 0 // the sender's credit ends with this batch; the other bits are for compression

	flagSource  = 1 << 0 // source, generation (8 bytes each) and claim
	flagSeq     = 1 << 1 // a signed difference to what was expected
	flagPath    = 1 << 2 // 8 bytes
	flagAttempt = 1 << 3 // other than 1
	flagKey     = 1 << 4
	flagHeader  = 1 << 5
	flagSuspect = 1 << 6
	flagsKnown  = 1<<7 - 1
)

// BatchPrefix is how many bytes of a batch's buffer come before its first record.
const BatchPrefix = HeaderBytes + batchHeaderBytes

// FinishBatch fills in the prefix of a whole batch in b; spent says that the sender's credit
// ends with it.
func FinishBatch(b []byte, first uint64, count int, spent bool) {
	PutHeader(b, TypeBatch, len(b)-HeaderBytes)
	b[HeaderBytes] = 0
	if spent {
		b[HeaderBytes] = batchSpent
	}
	binary.BigEndian.PutUint64(b[HeaderBytes+1:], first)
	binary.BigEndian.PutUint32(b[HeaderBytes+9:], uint32(count))
}

// Coder remembers the record before, which the next is coded against. Its zero value starts
// a batch; one writer or reader has one.
type Coder struct {
	source, gen, claim, seq, path uint64
}

// RecordBytes is the least upper bound, cheaply found, of what Append adds for r.
func RecordBytes(r *Record) int {
	n := 1 + 16 + 10 + 10 + 8 + 10 + uvarintBytes(uint64(len(r.Body))) + len(r.Body)
	if r.Key != nil {
		n += binary.MaxVarintLen32 + len(r.Key)
	}
	for k, v := range r.Header {
		n += 2*binary.MaxVarintLen32 + len(k) + len(v)
	}
	return n
}

func uvarintBytes(n uint64) int { return (bits.Len64(n|1) + 6) / 7 }

// Check refuses a key or headers above their limits.
func (r *Record) Check() error {
	if len(r.Key) > keyBytesMax {
		return fmt.Errorf("a key of %d bytes: at most %d", len(r.Key), keyBytesMax)
	}
	n := 0
	for k, v := range r.Header {
		n += len(k) + len(v)
	}
	if len(r.Header) > headersMax || n > headerBytesMax {
		return fmt.Errorf("%d headers of %d bytes: at most %d of %d together", len(r.Header), n, headersMax, headerBytesMax)
	}
	return nil
}

// Append appends r to a batch.
func (c *Coder) Append(b []byte, r *Record) []byte {
	at := len(b)
	b = append(b, 0)
	var flags byte
	if r.Source != c.source || r.Gen != c.gen || r.Claim != c.claim {
		flags |= flagSource
		b = binary.BigEndian.AppendUint64(b, r.Source)
		b = binary.BigEndian.AppendUint64(b, r.Gen)
		b = binary.AppendUvarint(b, r.Claim)
	}
	if r.Seq != c.seq+1 {
		flags |= flagSeq
		b = binary.AppendVarint(b, int64(r.Seq-c.seq-1))
	}
	if r.Path != c.path {
		flags |= flagPath
		b = binary.BigEndian.AppendUint64(b, r.Path)
	}
	if r.Attempt != 1 {
		flags |= flagAttempt
		b = binary.AppendUvarint(b, r.Attempt)
	}
	if r.Suspect {
		flags |= flagSuspect
	}
	if r.Key != nil {
		flags |= flagKey
		b = appendBytes(b, r.Key)
	}
	if len(r.Header) > 0 {
		flags |= flagHeader
		b = binary.AppendUvarint(b, uint64(len(r.Header)))
		for k, v := range r.Header {
			b = appendString(appendString(b, k), v)
		}
	}
	*c = Coder{r.Source, r.Gen, r.Claim, r.Seq, r.Path}
	b[at] = flags
	return appendBytes(b, r.Body)
}

// Batch reads the records of a batch's body.
type Batch struct {
	First uint64 // link seq of the first record
	Count int
	Spent bool // the sender's credit ends with it
	left  int
	d     decoder
	c     Coder
}

// ParseBatch reads the header of a batch's body. Every record has two bytes at least, so a
// count that the body cannot hold is refused here.
func ParseBatch(body []byte) (Batch, error) {
	if len(body) < batchHeaderBytes {
		return Batch{}, ErrShort
	}
	if body[0]&^batchSpent != 0 {
		return Batch{}, fmt.Errorf("batch with flags %#x: %w", body[0], ErrBad)
	}
	n := binary.BigEndian.Uint32(body[9:])
	if n == 0 || uint64(n)*2 > uint64(len(body)-batchHeaderBytes) {
		return Batch{}, fmt.Errorf("batch of %d records in %d bytes: %w", n, len(body), ErrBad)
	}
	b := Records(body[batchHeaderBytes:], int(n))
	b.First, b.Spent = binary.BigEndian.Uint64(body[1:]), body[0] != 0
	return b, nil
}

// Records reads n records that follow a prefix, without it.
func Records(b []byte, n int) Batch {
	return Batch{Count: n, left: n, d: decoder{b: b}}
}

// Left is the number of records not yet read.
func (b *Batch) Left() int { return b.left }

// Next reads a record into r; its slices are parts of the batch's body. After the last record
// it checks that nothing follows.
func (b *Batch) Next(r *Record) error {
	d := &b.d
	flags := d.byte()
	if flags&^flagsKnown != 0 {
		return fmt.Errorf("record with flags %#x: %w", flags, ErrBad)
	}
	if flags&flagSource != 0 {
		b.c.source, b.c.gen, b.c.claim = d.uint64(), d.uint64(), d.uvarint()
	}
	b.c.seq++
	if flags&flagSeq != 0 {
		b.c.seq += uint64(d.varint())
	}
	if flags&flagPath != 0 {
		b.c.path = d.uint64()
	}
	*r = Record{Source: b.c.source, Gen: b.c.gen, Claim: b.c.claim, Seq: b.c.seq, Path: b.c.path, Attempt: 1, Suspect: flags&flagSuspect != 0}
	if flags&flagAttempt != 0 {
		r.Attempt = d.uvarint()
	}
	if flags&flagKey != 0 {
		r.Key = d.bytes(keyBytesMax)
	}
	if flags&flagHeader != 0 {
		r.Header = d.header()
	}
	r.Body = d.bytes(len(d.b))
	b.left--
	if b.left == 0 {
		return d.end()
	}
	return d.err
}

func (d *decoder) header() map[string]string {
	n := d.uvarint()
	if n > headersMax {
		d.fail(ErrLarge)
		return nil
	}
	h := make(map[string]string, n)
	left := headerBytesMax
	for range n {
		k := d.string(left)
		v := d.string(left - len(k))
		h[k] = v
		left -= len(k) + len(v)
	}
	return h
}
