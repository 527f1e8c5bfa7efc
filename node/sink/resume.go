package sink

import (
	"bufio"
	"context"
	"hash/crc32"
	"io"
)

// resume is where a run goes on to write: behind the last bytes that the journal knows to be whole,
// or behind what others have written there since. An entry whose bytes are not there as they were
// written does not count, so its records may come again: none is taken for one that is there.
func (s *file) resume(ctx context.Context) (int64, error) {
	length, err := s.f.Size()
	if err != nil {
		return 0, err
	}
	boot, last, known, err := s.journal.replay()
	if err != nil {
		return 0, err
	}
	if last == nil { // there is none
		if length > 0 {
			s.cfg.Log.Warn("what the output holds is not known: what comes again is there twice", "file", s.cfg.Path, "gone", s.journal.path)
		}
		return s.end(ctx, false)
	}
	counts, err := s.holds(last, length)
	if err != nil {
		return 0, err
	}
	if counts {
		known = last.end
		s.journal.keep(last)
	}
	// Without a power cut all that we wrote is there in order, and what is more is of others.
	cut := s.cfg.boot == "" || s.cfg.boot != boot
	switch {
	case length < known:
		s.changed(length, known)
		return s.end(ctx, true)
	case length == known:
	case !cut && (counts || length >= last.end):
		s.changed(length, known)
		return s.end(ctx, true)
	default:
		s.cfg.Log.Warn("cut off what was not acked: it comes again", "file", s.cfg.Path, "bytes", length-known)
	}
	return known, nil
}

// holds reports whether what an entry is about is in the file's length bytes.
func (s *file) holds(e *entry, length int64) (bool, error) {
	if e.bytes == 0 {
		return true, nil // that was looked at before it was written
	}
	if length < e.end {
		return false, nil
	}
	h := crc32.New(castagnoli())
	_, err := io.Copy(h, bufio.NewReaderSize(io.NewSectionReader(s.f, e.end-e.bytes, e.bytes), tailBytes))
	return h.Sum32() == e.sum, err
}
