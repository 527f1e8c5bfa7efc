package stream

import (
	"context"
	"sync"

	"weir/stream/wire"
)

// SinkHandler gives the records of an inlet (Serial, OnMark = Mark) to a sink and counts
// those whose ID it had before. It still writes them: de-duplication is to come.
type SinkHandler struct {
	sink Sink

	mu      sync.Mutex
	seen    map[uint64]*seen // by source
	records uint64
	lines   uint64
	dups    uint64
}

// seen is the IDs of one generation of a source from its low-water mark on: for each path the
// seqs, as ranges. Below the mark nothing is ever sent again. Bodies are not compared: an
// output that a handler made otherwise the second time counts as repeated.
type seen struct {
	gen   uint64
	low   uint64
	paths map[uint64]*ranges
	last  uint64 // path of the record before, and its ranges
	at    *ranges
}

// NewSinkHandler wraps a sink.
func NewSinkHandler(s Sink) *SinkHandler {
	return &SinkHandler{sink: s, seen: make(map[uint64]*seen)}
}

// Handle writes a batch, which is of one source.
func (h *SinkHandler) Handle(ctx context.Context, b *Batch) error {
	if err := h.sink.Write(ctx, b.Records, Seen{}); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range b.Records {
		r := &b.Records[i]
		h.records++
		h.lines += Lines(r.Body)
		h.dups += h.source(r.ID.Source, r.ID.Gen).add(r.ID)
	}
	return nil
}

func (h *SinkHandler) source(source, gen uint64) *seen {
	s := h.seen[source]
	if s == nil || s.gen != gen {
		s = &seen{gen: gen, paths: make(map[uint64]*ranges)}
		h.seen[source] = s
	}
	return s
}

// add notes an ID and returns 1 when it was there.
func (s *seen) add(id ID) uint64 {
	if id.Seq < s.low {
		return 1 // acked end to end, and here again
	}
	if s.at == nil || s.last != id.Path {
		s.last, s.at = id.Path, s.paths[id.Path]
		if s.at == nil {
			s.at = new(ranges)
			s.paths[id.Path] = s.at
		}
	}
	return s.at.add(id.Seq, id.Seq+1)
}

// Mark forgets what is below a low-water mark.
func (h *SinkHandler) Mark(m wire.Mark) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.source(m.Source, m.Gen)
	s.low = max(s.low, m.Next)
	for path, rs := range s.paths {
		rs.trim(s.low)
		if len(*rs) == 0 {
			delete(s.paths, path)
		}
	}
	s.at = nil
}

// SinkStats is what a sink counts.
type SinkStats struct {
	Records, Lines uint64
	Duplicates     uint64 // records whose ID it had before, written all the same
}

// Stats returns the counts.
func (h *SinkHandler) Stats() SinkStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return SinkStats{h.records, h.lines, h.dups}
}
