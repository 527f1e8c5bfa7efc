package stream

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"weir/stream/wire"
)

const (
	// sinkRetryMin and sinkRetryMax bound the pauses between two attempts at one Write: a disk
	// that has space again is noticed within a second.
	sinkRetryMin = 100 * time.Millisecond
	sinkRetryMax = time.Second
	// sinkRetryAfterMax is the longest pause that a sink may ask for by its Retry.
	sinkRetryAfterMax = time.Minute
)

// SinkHandlerConfig says where an inlet's records end. Sink is needed.
type SinkHandlerConfig struct {
	Sink  Sink
	Log   *slog.Logger // nil = discard
	Hooks *Hooks       // nil but in the simulator
}

// SinkHandler gives the records of an inlet (Serial, OnMark = Mark) to a sink, each once: it drops
// those that the sink has had (seen.go), also before the last start of the sink where this keeps
// what it has seen. A Write that is to be tried again holds up all that follow.
type SinkHandler struct {
	cfg SinkHandlerConfig

	// Handle's alone.
	at     []int    // indices of a batch's records
	some   []Record // those of them that are new, where some are not
	code   []byte   // of what was seen
	recent []ID     // of BugLRU

	mu      sync.Mutex
	sources map[uint64]*seen // at most sourcesMax
	batches uint64           // that came
	pages   pages            // of all sources
	stats   SinkStats
}

// NewSinkHandler wraps a sink.
func NewSinkHandler(cfg SinkHandlerConfig) *SinkHandler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &SinkHandler{cfg: cfg, sources: make(map[uint64]*seen)}
}

// Handle writes what is new of a batch, which is of one source. A record that the sink refuses is
// nacked alone; an error is not of the records.
func (h *SinkHandler) Handle(ctx context.Context, b *Batch) error {
	source := b.Records[0].ID.Source
	if err := h.load(ctx, source); err != nil {
		return err
	}
	h.at = h.at[:0]
	for i := range b.Records {
		h.at = append(h.at, i)
	}
	h.settle(ctx, b, h.at)
	return nil
}

// load has the sink tell what it has seen of a source when its first record comes.
func (h *SinkHandler) load(ctx context.Context, source uint64) error {
	h.mu.Lock()
	s := h.source(source)
	h.batches++
	s.used = h.batches
	loaded := s.loaded
	h.mu.Unlock()
	if loaded {
		return nil
	}
	var kept []byte
	err := h.Insist(ctx, func() (err error) {
		kept, err = h.cfg.Sink.Load(ctx, source)
		return err
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := s.load(kept); err != nil {
		return &keptError{&ConfigError{fmt.Errorf("what the sink has seen cannot be read: %w", err)}}
	}
	return nil
}

// keptError is a ConfigError, so that the run stops at once; its exit code is that of bad data.
type keptError struct{ error }

func (e *keptError) Unwrap() error { return e.error }

// ExitCode is EX_DATAERR of sysexits.h.
func (e *keptError) ExitCode() int { return 65 }

// source returns what was seen of a source. Where there are too many, the one goes that was not
// used for longest; a sink that keeps what it has seen tells it again.
func (h *SinkHandler) source(source uint64) *seen {
	s := h.sources[source]
	if s != nil {
		return s
	}
	if len(h.sources) == sourcesMax {
		oldest, at := uint64(0), ^uint64(0)
		for id, other := range h.sources {
			if other.used < at {
				oldest, at = id, other.used
			}
		}
		delete(h.sources, oldest)
	}
	s = &seen{pool: &h.pages}
	h.sources[source] = s
	return s
}

// settle writes those of the records with these indices that are new, and nacks those that the
// sink refuses. Where the same record is there twice, the second waits for what becomes of the
// first: to ack it before that is durable might lose it.
func (h *SinkHandler) settle(ctx context.Context, b *Batch, at []int) {
	for len(at) > 0 {
		fresh, twins, seen := h.sort(b, at)
		err := h.write(ctx, h.records(b, fresh), seen)
		switch {
		case err == nil:
			h.written(b, fresh)
		case len(fresh) > 1 && IsPoison(err):
			h.cfg.Hooks.sometimes("a sink looks for the record that it refuses")
			h.undo(seen.Source)
			h.settle(ctx, b, fresh[:len(fresh)/2])
			h.settle(ctx, b, fresh[len(fresh)/2:])
		default:
			h.undo(seen.Source)
			for _, i := range fresh {
				b.Nack(i, err)
			}
		}
		at = twins
	}
}

// sort parts the records with these indices: fresh ones, which are pending then, with what is to be
// kept of them, and twins of these. Others it counts; they are had. It uses at for fresh.
func (h *SinkHandler) sort(b *Batch, at []int) (fresh, twins []int, code Seen) {
	h.mu.Lock()
	defer h.mu.Unlock()
	code.Source = b.Records[at[0]].ID.Source
	s := h.source(code.Source)
	fresh = at[:0]
	for _, i := range at {
		switch s.add(&b.Records[i].ID) {
		case had:
			h.stats.Duplicates++
			h.cfg.Hooks.sometimes("a sink drops what it had")
		case twin:
			twins = append(twins, i)
		default:
			fresh = append(fresh, i)
		}
	}
	if len(fresh) > 0 {
		h.code, code.Whole = s.append(h.code[:0])
		code.Bytes = h.code
	}
	return fresh, twins, code
}

// records are those of a batch with these indices, which ascend.
func (h *SinkHandler) records(b *Batch, at []int) []Record {
	n := len(at)
	if n == 0 {
		return nil
	}
	if at[n-1]-at[0] == n-1 {
		return b.Records[at[0] : at[0]+n]
	}
	clear(h.some[:cap(h.some)]) // it pins no buffers longer than it must
	h.some = h.some[:0]
	for _, i := range at {
		h.some = append(h.some, b.Records[i])
	}
	return h.some
}

// written keeps that records are durable, and counts them.
func (h *SinkHandler) written(b *Batch, at []int) {
	lines := uint64(0)
	for _, i := range at {
		lines += Lines(b.Records[i].Body)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.source(b.Records[0].ID.Source)
	others := s.commit()
	if others > 0 {
		h.cfg.Hooks.sometimes("an output comes again with another body")
	}
	h.stats.Nondeterministic += uint64(others)
	h.stats.Records += uint64(len(at))
	h.stats.Lines += lines
	h.watch(s.last, b.Records[0].ID.Source)
	if h.cfg.Hooks.has(BugLRU) {
		h.forget(s, b, at)
	}
}

// forget is BugLRU: nothing but the last few IDs is kept.
func (h *SinkHandler) forget(s *seen, b *Batch, at []int) {
	for _, i := range at {
		h.recent = append(h.recent, b.Records[i].ID)
	}
	clear(s.lives)
	s.lives, s.last = s.lives[:0], nil
	h.recent = h.recent[max(0, len(h.recent)-lruBug):]
	for i := range h.recent {
		if h.recent[i].Source == b.Records[0].ID.Source {
			s.add(&h.recent[i])
		}
	}
	s.commit()
}

// undo forgets what was pending of a source.
func (h *SinkHandler) undo(source uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.source(source).undo()
}

// write tries a Write until it is taken, or refused for the records' sake.
func (h *SinkHandler) write(ctx context.Context, rs []Record, seen Seen) error {
	if len(rs) == 0 {
		return nil
	}
	return h.Insist(ctx, func() error { return h.cfg.Sink.Write(ctx, rs, seen) })
}

// Insist calls do until its error is no Retry, or ctx is done. The stats say why it waits.
func (h *SinkHandler) Insist(ctx context.Context, do func() error) error {
	for pause, tries := sinkRetryMin, 0; ; pause, tries = min(2*pause, sinkRetryMax), tries+1 {
		err := do()
		after, ok := RetryAfter(err)
		if !ok {
			if tries > 0 {
				h.waits("")
				h.cfg.Log.Info("sink goes on", "err", err)
			}
			return err
		}
		if tries == 0 {
			h.cfg.Hooks.sometimes("a sink waits for its store")
			h.cfg.Log.Warn("sink waits", "err", err)
		}
		h.waits(err.Error())
		timer := time.NewTimer(max(pause, min(after, sinkRetryAfterMax)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			h.waits("")
			return context.Cause(ctx)
		}
	}
}

func (h *SinkHandler) waits(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Waits = why
}

// Mark forgets what is below a low-water mark.
func (h *SinkHandler) Mark(m wire.Mark) {
	if h.cfg.Hooks.has(BugNoMarks) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sources[m.Source] == nil && len(h.sources) == sourcesMax {
		return
	}
	h.source(m.Source).mark(m.Gen, m.Next)
}

// SinkStats is what a sink counts, and why it waits.
type SinkStats struct {
	Records, Lines   uint64 // written
	Duplicates       uint64 // records that it had, and dropped
	Nondeterministic uint64 // records written whose place it had with another body
	Held             int    // IDs that it remembers above the low-water marks
	Waits            string // why a Write is tried again; empty: it is not
}

// Stats returns the counts.
func (h *SinkHandler) Stats() SinkStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.stats
	for _, s := range h.sources {
		st.Held += s.held()
	}
	return st
}
