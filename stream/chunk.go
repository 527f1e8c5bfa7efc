package stream

import (
	"sync"
	"time"

	"weir/stream/wire"
)

// chunk is a batch of one link: the buffer that is filled, then written, then kept until all
// of its records are acked. The written buffer is the retained copy.
type chunk struct {
	buf   []byte // a whole BATCH frame once finished; its capacity is what it pins
	coder wire.Coder
	seqs  []uint64 // link seqs of its records, ascending
	at    time.Time

	live      int // records not acked
	liveBytes int
	writing   bool // the writer has it: neither freed nor packed

	found  int // records that finder has read, 0: it is to begin
	finder wire.Batch
}

// chunkSizes are the capacities of pooled buffers, in bytes: steps of four up to a full batch,
// and a full block of text (512 KiB to the end of its line). Larger ones are made to size.
var chunkSizes = [...]int{2 << 10, 8 << 10, 32 << 10, wire.BatchBytes, 640 << 10}

// chunks keeps dropped chunks by size.
type chunks [len(chunkSizes)]sync.Pool

// chunkBytes is what a chunk for n bytes pins.
func chunkBytes(n int) int {
	for _, size := range chunkSizes {
		if n <= size {
			return size
		}
	}
	return n
}

func (p *chunks) get(n int) *chunk {
	for i, size := range chunkSizes {
		if n <= size {
			if c, _ := p[i].Get().(*chunk); c != nil {
				return c
			}
			n = size
			break
		}
	}
	return newChunk(n)
}

// newChunk makes a chunk for n bytes, of no pool.
func newChunk(n int) *chunk { return &chunk{buf: make([]byte, wire.BatchPrefix, n)} }

func (p *chunks) put(c *chunk) {
	for i, size := range chunkSizes {
		if cap(c.buf) == size {
			*c = chunk{buf: c.buf[:wire.BatchPrefix], seqs: c.seqs[:0]}
			p[i].Put(c)
			return
		}
	}
}

// append adds a record under a link seq.
func (c *chunk) append(seq uint64, r *wire.Record) (bytes int) {
	before := len(c.buf)
	c.buf = c.coder.Append(c.buf, r)
	c.seqs = append(c.seqs, seq)
	bytes = len(c.buf) - before
	c.live++
	c.liveBytes += bytes
	return bytes
}

// finish makes the buffer a frame; spent says that the link has no credit left after it.
func (c *chunk) finish(spent bool) { wire.FinishBatch(c.buf, c.seqs[0], len(c.seqs), spent) }

// find decodes the record with a link seq into r; its slices are parts of the buffer. To look for
// records in their order reads each once.
func (c *chunk) find(seq uint64, r *wire.Record) {
	if c.found == 0 || c.seqs[c.found-1] >= seq {
		c.found, c.finder = 0, wire.Records(c.buf[wire.BatchPrefix:], len(c.seqs))
	}
	for c.found == 0 || c.seqs[c.found-1] < seq {
		if err := c.finder.Next(r); err != nil {
			panic("stream: a chunk that we wrote has a broken record: " + err.Error())
		}
		c.found++
	}
}

// each calls f for every record in order, until f returns false. The record's slices are
// parts of the buffer.
func (c *chunk) each(f func(seq uint64, r *wire.Record) bool) {
	b := wire.Records(c.buf[wire.BatchPrefix:], len(c.seqs))
	var r wire.Record
	for _, seq := range c.seqs {
		if err := b.Next(&r); err != nil {
			panic("stream: a chunk that we wrote has a broken record: " + err.Error())
		}
		if !f(seq, &r) {
			return
		}
	}
}
