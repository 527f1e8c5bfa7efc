package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// seen is what a sink has had of one source, for each generation of its numbering. Pure.
//
// What is given to a Write that has not returned is pending: undo takes it back, commit keeps it.
type seen struct {
	lives   []*life // in the order they were first met, at most livesMax
	last    *life   // of the record before
	touched []touch // pages that have something pending
	pool    *pages  // nil: none is used again

	loaded bool   // what the sink kept of it is here
	used   uint64 // when a record of it came, counted in batches
	since  int    // bytes coded since the last Whole
	whole  int    // bytes of that
}

// life is one generation: all below its low-water mark was had, since nobody acks a root before it
// is durable wherever it went; and of what is above it, a set.
type life struct {
	gen    uint64
	low    uint64
	trails map[uint64]*trail // by path
	recent [16]*trail        // some of them, by four bits of the path
}

// trail is the seqs of one path, from the low-water mark on: pages in ascending order.
type trail struct {
	path  uint64
	pages []*page
}

// page is pageSeqs seqs of one path, each with 32 bits of the sum of its body: that another body
// is taken for the same happens to one of 4 billion that are made otherwise.
type page struct {
	first   uint64 // a multiple of pageSeqs
	has     uint64 // a bit for each seq
	pending uint64 // likewise
	touched bool   // something may be pending
	sums    [pageSeqs]uint32
	more    []other // further bodies of one seq, at most othersMax
}

// other is a body that a handler made otherwise at another attempt.
type other struct {
	at      uint8
	pending bool
	sum     uint32
}

// pages are those that are to be used again, at most pagesKeepMax.
type pages struct{ free []*page }

func (ps *pages) get() *page {
	if ps == nil || len(ps.free) == 0 {
		return new(page)
	}
	p := ps.free[len(ps.free)-1]
	ps.free = ps.free[:len(ps.free)-1]
	p.has, p.more = 0, nil // nothing of it is pending
	return p
}

func (ps *pages) put(p *page) {
	if ps != nil && len(ps.free) < pagesKeepMax {
		ps.free = append(ps.free, p)
	}
}

type touch struct {
	l *life
	t *trail
	p *page
}

const (
	// pageSeqs is a word of bits. One record alone on its page costs 300 bytes, 64 cost 5 each.
	pageSeqs = 64
	// othersMax bounds the bodies made otherwise that one page remembers; a further one is
	// written as often as it comes.
	othersMax = 64
	// livesMax is how many generations of a source are told apart. Records of an old one may be
	// on their way while a tap starts again, which takes it a second.
	livesMax = 8
	// pagesKeepMax is how many pages a sink keeps for use again: 1 MiB.
	pagesKeepMax = 4096
)

// verdict is what a sink knows of an ID.
type verdict uint8

const (
	unseen    verdict = iota
	had               // it is durable, or was acked end to end
	twin              // it is pending: the same is in the same Write
	otherwise         // its place was had with another body
)

// life returns what is known of a generation, from now on if nothing is.
func (s *seen) life(gen uint64) *life {
	if s.last != nil && s.last.gen == gen {
		return s.last
	}
	i := slices.IndexFunc(s.lives, func(l *life) bool { return l.gen == gen })
	if i < 0 {
		if i = len(s.lives); i == livesMax {
			i--
			s.lives = slices.Delete(s.lives, 0, 1)
		}
		s.lives = append(s.lives, &life{gen: gen, trails: make(map[uint64]*trail)})
	}
	s.last = s.lives[i]
	return s.last
}

// add notes an ID as pending unless it was had.
func (s *seen) add(id *ID) verdict {
	l := s.life(id.Gen)
	if id.Seq < l.low {
		return had
	}
	t := l.recent[id.Path>>1&15] // the lowest bit is not of the hash
	if t == nil || t.path != id.Path {
		if t = l.trails[id.Path]; t == nil {
			t = &trail{path: id.Path}
			l.trails[id.Path] = t
		}
		l.recent[id.Path>>1&15] = t
	}
	p := s.page(t, id.Seq)
	v := p.add(id.Seq, uint32(id.Sum))
	if !p.touched && (v == unseen || v == otherwise) {
		p.touched = true
		s.touched = append(s.touched, touch{l, t, p})
	}
	return v
}

// page returns the page of a seq, a new one if there is none. The last is the usual one.
func (s *seen) page(t *trail, seq uint64) *page {
	first := seq &^ (pageSeqs - 1)
	i := len(t.pages)
	if i > 0 && first <= t.pages[i-1].first {
		if first == t.pages[i-1].first {
			return t.pages[i-1]
		}
		var ok bool
		i, ok = slices.BinarySearchFunc(t.pages, first, func(p *page, first uint64) int {
			switch {
			case p.first < first:
				return -1
			case p.first > first:
				return 1
			}
			return 0
		})
		if ok {
			return t.pages[i]
		}
	}
	p := s.pool.get()
	p.first = first
	t.pages = slices.Insert(t.pages, i, p)
	return p
}

func (p *page) add(seq uint64, sum uint32) verdict {
	at := seq - p.first
	bit := uint64(1) << at
	switch {
	case (p.has|p.pending)&bit == 0:
		p.pending |= bit
		p.sums[at] = sum
		return unseen
	case p.sums[at] == sum && p.has&bit != 0:
		return had
	case p.sums[at] == sum:
		return twin
	}
	for _, o := range p.more {
		switch {
		case uint64(o.at) != at || o.sum != sum:
		case o.pending:
			return twin
		default:
			return had
		}
	}
	if len(p.more) < othersMax {
		p.more = append(p.more, other{uint8(at), true, sum})
	}
	return otherwise
}

// commit keeps what is pending, and returns how many of these are bodies made otherwise.
func (s *seen) commit() (others int) {
	for _, t := range s.touched {
		t.p.has, t.p.pending, t.p.touched = t.p.has|t.p.pending, 0, false
		for i := range t.p.more {
			if o := &t.p.more[i]; o.pending {
				o.pending = false
				others++
			}
		}
	}
	s.touched = s.touched[:0]
	return others
}

// undo forgets what is pending.
func (s *seen) undo() {
	for _, t := range s.touched {
		t.p.pending, t.p.touched = 0, false
		t.p.more = slices.DeleteFunc(t.p.more, func(o other) bool { return o.pending })
	}
	s.touched = s.touched[:0]
}

// mark raises the low-water mark of a generation, and forgets what is below. What is pending may
// be forgotten as well: then its root was acked.
func (s *seen) mark(gen, low uint64) {
	l := s.life(gen)
	if low <= l.low {
		return
	}
	l.low = low
	clear(l.recent[:])
	for path, t := range l.trails {
		n := 0
		for n < len(t.pages) && t.pages[n].first+pageSeqs <= low {
			if !t.pages[n].touched {
				s.pool.put(t.pages[n])
			}
			n++
		}
		if t.pages = slices.Delete(t.pages, 0, n); len(t.pages) == 0 {
			delete(l.trails, path)
		}
	}
}

// held is how many IDs above the marks are remembered.
func (s *seen) held() (n int) {
	for _, l := range s.lives {
		for _, t := range l.trails {
			for _, p := range t.pages {
				n += bits.OnesCount64(l.above(p, p.has))
				for _, o := range p.more {
					n += bits.OnesCount64(l.above(p, 1<<o.at))
				}
			}
		}
	}
	return n
}

// size is how many seqs are remembered of the path that has most; past is above all.
func (l *life) size() (most int, past uint64) {
	for _, t := range l.trails {
		n := 0
		for _, p := range t.pages {
			n += bits.OnesCount64(p.has)
			past = max(past, p.first+uint64(bits.Len64(p.has)))
		}
		most = max(most, n)
	}
	return most, past
}

// above is those bits of a page that are not below the low-water mark.
func (l *life) above(p *page, has uint64) uint64 {
	if l.low > p.first {
		has &= ^uint64(0) << (l.low - p.first)
	}
	return has
}

// What a sink keeps: parts, one behind the other, each
//
//	version (1 byte), bytes that follow (4), then for each generation
//	generation (8), low-water mark (varint), pages (varint), each
//	path (8), pages above the low-water mark (varint), bits (8), for each bit that is set 4 of the sum
//
// A seq that was had with several bodies is on a further page for each. Fixed widths are big endian.
const (
	seenVersion = 1
	seenHead    = 1 + 4
)

// append codes what is pending, or all there is, and reports whether it is all: that is when as
// many bytes as all then took have come since.
func (s *seen) append(b []byte) (_ []byte, whole bool) {
	from := len(b)
	b = append(b, seenVersion, 0, 0, 0, 0)
	if whole = s.since > s.whole; whole {
		b = s.appendAll(b)
		s.whole, s.since = len(b)-from, 0
	} else {
		for ts := s.touched; len(ts) > 0; {
			l := ts[0].l
			n := slices.IndexFunc(ts, func(t touch) bool { return t.l != l })
			if n < 0 {
				n = len(ts)
			}
			b = l.append(b, ts[:n], false)
			ts = ts[n:]
		}
		s.since += len(b) - from
	}
	binary.BigEndian.PutUint32(b[from+1:], uint32(len(b)-from-seenHead))
	return b, whole
}

func (s *seen) appendAll(b []byte) []byte {
	var all []touch
	for _, l := range s.lives {
		all = all[:0]
		for _, t := range l.trails {
			for _, p := range t.pages {
				all = append(all, touch{l, t, p})
			}
		}
		b = l.append(b, all, true)
	}
	return b
}

// append codes pages of a generation: all of them that is above the mark, or what is pending.
func (l *life) append(b []byte, ts []touch, all bool) []byte {
	pages := len(ts)
	for _, t := range ts {
		for _, o := range t.p.more {
			if l.coded(t.p, o, all) {
				pages++
			}
		}
	}
	b = binary.BigEndian.AppendUint64(b, l.gen)
	b = binary.AppendUvarint(b, l.low)
	b = binary.AppendUvarint(b, uint64(pages))
	for _, t := range ts {
		has := t.p.pending
		if all {
			has |= t.p.has
		}
		has = l.above(t.p, has)
		b = l.appendPage(b, t, has)
		for ; has != 0; has &= has - 1 {
			b = binary.BigEndian.AppendUint32(b, t.p.sums[bits.TrailingZeros64(has)])
		}
		for _, o := range t.p.more {
			if l.coded(t.p, o, all) {
				b = l.appendPage(b, t, 1<<o.at)
				b = binary.BigEndian.AppendUint32(b, o.sum)
			}
		}
	}
	return b
}

// coded reports whether a body made otherwise is to be kept.
func (l *life) coded(p *page, o other, all bool) bool {
	return (all || o.pending) && l.above(p, 1<<o.at) != 0
}

func (l *life) appendPage(b []byte, t touch, has uint64) []byte {
	b = binary.BigEndian.AppendUint64(b, t.t.path)
	b = binary.AppendUvarint(b, (t.p.first-l.low&^(pageSeqs-1))/pageSeqs)
	return binary.BigEndian.AppendUint64(b, has)
}

// Errors of reading what a sink kept.
var (
	errSeenVersion = errors.New("it was written by another version of weir")
	errSeenBad     = errors.New("it is damaged")
)

// load adds what a sink kept of the source.
func (s *seen) load(b []byte) error {
	for len(b) > 0 {
		if b[0] != seenVersion {
			return errSeenVersion
		}
		if len(b) < seenHead || uint64(len(b)-seenHead) < uint64(binary.BigEndian.Uint32(b[1:])) {
			return errSeenBad
		}
		part := b[seenHead : seenHead+int(binary.BigEndian.Uint32(b[1:]))]
		b = b[seenHead+len(part):]
		for len(part) > 0 {
			var err error
			if part, err = s.loadLife(part); err != nil {
				return fmt.Errorf("%w, %d bytes before its end", err, len(b)+len(part))
			}
			s.commit()
		}
	}
	s.loaded = true
	return nil
}

// loadLife reads one generation off b.
func (s *seen) loadLife(b []byte) ([]byte, error) {
	if len(b) < 8 {
		return b, errSeenBad
	}
	gen := binary.BigEndian.Uint64(b)
	low, n := binary.Uvarint(b[8:])
	pages, m := binary.Uvarint(b[8+max(n, 0):])
	if n <= 0 || m <= 0 {
		return b, errSeenBad
	}
	b = b[8+n+m:]
	s.mark(gen, low)
	for range pages {
		if len(b) < 8 {
			return b, errSeenBad
		}
		path := binary.BigEndian.Uint64(b)
		up, n := binary.Uvarint(b[8:])
		if n <= 0 || up > ^uint64(0)/pageSeqs || len(b) < 8+n+8 {
			return b, errSeenBad
		}
		first := low&^(pageSeqs-1) + up*pageSeqs
		has := binary.BigEndian.Uint64(b[8+n:])
		b = b[8+n+8:]
		if first < low&^(pageSeqs-1) || len(b) < 4*bits.OnesCount64(has) {
			return b, errSeenBad
		}
		for ; has != 0; has &= has - 1 {
			seq := first + uint64(bits.TrailingZeros64(has))
			s.add(&ID{Gen: gen, Seq: seq, Path: path, Sum: uint64(binary.BigEndian.Uint32(b))})
			b = b[4:]
		}
	}
	return b, nil
}
