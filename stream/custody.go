package stream

import (
	"slices"
	"time"

	"weir/stream/wire"
	"weir/topology"
)

// adoptMissesMax is how many nacked records are offered to links in vain before the rest is not
// tried: where no link has credit, an ack must not cost a look at each.
const adoptMissesMax = 16

// orphan is a record whose link died, or that was nacked, until another link takes it. Its
// chunk keeps its bytes, and stays charged.
type orphan struct {
	t       *tree
	c       *chunk
	rec     wire.Record     // its slices are parts of the chunk
	avoid   topology.NodeID // the node that nacked it
	due     time.Time       // not before this; of one that is accused: when its links need not be steady any more
	custody custody
	deaths  *death // while it was in hand alone
}

// charge counts bytes that s pins more, or less.
func (o *Outlet) charge(s *Sender, bytes int64) {
	s.pinned += bytes
	o.pin(bytes)
}

// pin counts bytes that the outlet pins more, or less.
func (o *Outlet) pin(bytes int64) {
	o.pinned += bytes
	o.cfg.Budget.add(bytes)
}

// place appends a record to the pending chunk of s.
func (o *Outlet) place(s *Sender, r *wire.Record, t *tree, need int) {
	if s.pending == nil {
		s.pending = o.cfg.Budget.chunks.get(max(wire.BatchPrefix+need, wire.BatchBytes))
		o.charge(s, int64(cap(s.pending.buf)))
		raise(s.wake)
	}
	bytes := s.pending.append(s.win.next, r)
	s.win.add(slot{t: t, c: s.pending, bytes: uint32(bytes)})
	s.live += int64(bytes)
	s.e.inflight++
	s.e.deliveries++
}

// wrote settles a chunk after its write: acked ones go, small ones move to a small buffer.
func (s *Sender) wrote(c *chunk) {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	c.writing = false
	if c.live > 0 && len(c.buf)*4 <= cap(c.buf) {
		small := s.o.cfg.Budget.chunks.get(len(c.buf))
		s.o.charge(s, int64(cap(small.buf)-cap(c.buf)))
		c.buf, small.buf = append(small.buf[:0], c.buf...), c.buf
		s.o.cfg.Budget.chunks.put(small)
		c.found = 0 // it looked at the other
	}
	s.settle(c)
	s.o.wake()
}

// settle drops a chunk without live records.
func (s *Sender) settle(c *chunk) {
	if c.live == 0 && !c.writing && c != s.pending {
		s.o.charge(s, -int64(cap(c.buf)))
		s.o.cfg.Budget.chunks.put(c)
	}
}

// drop takes records that left the window off their chunk.
func (s *Sender) drop(c *chunk, records, bytes int) {
	if records == 0 {
		return
	}
	s.e.inflight -= records
	s.live -= int64(bytes)
	c.live -= records
	c.liveBytes -= bytes
	s.settle(c)
}

// pack copies what is live out of chunks of which less than a quarter is: one record that
// takes long would otherwise pin a whole batch.
func (s *Sender) pack() {
	for seq := s.win.base; seq < s.win.next; seq++ {
		c := s.win.at(seq).c
		if c == nil || c.writing || c == s.pending || c.liveBytes*4 >= cap(c.buf) ||
			chunkBytes(wire.BatchPrefix+c.liveBytes) >= cap(c.buf) {
			continue
		}
		packed := s.o.cfg.Budget.chunks.get(wire.BatchPrefix + c.liveBytes)
		packed.at = c.at
		c.each(func(seq uint64, r *wire.Record) bool {
			if seq < s.win.base || s.win.at(seq).c != c {
				return true
			}
			sl := s.win.at(seq)
			s.live -= int64(sl.bytes) // it may take more now, coded against another
			sl.c, sl.bytes = packed, uint32(packed.append(seq, r))
			s.live += int64(sl.bytes)
			return true
		})
		s.o.charge(s, int64(cap(packed.buf)-cap(c.buf)))
		s.o.cfg.Budget.chunks.put(c)
	}
	s.packed = s.pinned
}

// disconnect makes orphans of all that s has not had acked; died says that its peer may be dead.
func (o *Outlet) disconnect(s *Sender, died bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s.watch(EventClose, 0, 0)
	e := s.e
	e.senders, e.changed = slices.DeleteFunc(e.senders, func(other *Sender) bool { return other == s }), time.Now()
	if o.closed {
		o.charge(s, -s.pinned)
		return
	}
	j := s.trial(died)
	for seq := s.win.base; seq < s.win.next; seq++ {
		c := s.win.at(seq).c
		if c == nil {
			continue
		}
		c.each(func(seq uint64, r *wire.Record) bool { // all of it at once: it is decoded in order
			if sl, ok := s.win.free(seq); ok {
				j.judge(&orphan{t: sl.t, c: c, rec: *r}, &sl, seq)
				e.inflight--
			}
			return true
		})
	}
	o.adopt(e)
	o.wake()
}

// adopt moves orphans to links, as far as these can take them. One that must avoid a node holds
// up no other.
func (o *Outlet) adopt(e *outEdge) {
	if o.failed || o.closed {
		return
	}
	n := 0
	for n < len(e.orphans) && o.adoptOne(e, &e.orphans[n]) {
		n++
	}
	e.orphans = slices.Delete(e.orphans, 0, n)
	misses := 0
	e.nacked = slices.DeleteFunc(e.nacked, func(or orphan) bool {
		if misses < adoptMissesMax && o.adoptOne(e, &or) {
			return true
		}
		misses++
		return false
	})
	o.admit(e)
}

func (o *Outlet) adoptOne(e *outEdge, or *orphan) bool {
	need := wire.RecordBytes(&or.rec)
	s := o.pick(e, need, wanted{
		avoid: or.avoid,
		lone:  or.custody == alone || or.custody == suspect && e.innocent(),
		open:  or.custody == suspect,
	})
	if s == nil {
		o.cfg.Hooks.sometimes("a record without a link waits for one")
		return false
	}
	o.cfg.Hooks.sometimes("a record goes to another link")
	or.rec.Suspect = or.custody >= suspect
	o.place(s, &or.rec, or.t, need)
	sl := s.win.at(s.win.next - 1)
	sl.again, sl.custody = true, or.custody
	sl.deaths, _, _ = e.deaths(or.deaths)
	if or.custody >= suspect {
		s.suspects++
		s.guarded = s.win.next
		s.reserved = or.custody == alone
		e.lane.sent++
	}
	e.redelivered++
	if or.c.live--; or.c.live == 0 {
		o.pin(-int64(cap(or.c.buf)))
		o.cfg.Budget.chunks.put(or.c)
	}
	return true
}

// copyOut makes an orphan with a chunk of its own, since the rest of its old one stays. The chunk is no
// larger than it must be: thousands may come back, and the least of the pooled ones is 2 KiB.
func (o *Outlet) copyOut(sl slot, seq uint64) (or orphan) {
	sl.c.find(seq, &or.rec)
	or.c = newChunk(wire.BatchPrefix + wire.RecordBytes(&or.rec))
	or.c.append(0, &or.rec)
	o.pin(int64(cap(or.c.buf)))
	or.t = sl.t
	or.c.find(0, &or.rec)
	return or
}
