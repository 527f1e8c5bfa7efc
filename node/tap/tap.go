// Package tap holds the places where records come from, one file each. Files, globs, standard input, a
// program's output and a generator are streams of bytes that are cut into records of text:
//
//	source ──bytes──> cut ──> Out{Body: a line, or a block of lines}, Mark{file, offset}
//
// A record's body carries no final newline. What the records of a tap hold, each followed by
// a newline, is what `cat` prints of its files; only a missing last newline is added. Files named
// .gz and .zst are unpacked first, as by `zcat`. Requests by HTTP and entries of a stream of Redis are a
// record each.
//
// DESIGN.md says what a mark knows, and what may change under it. The package never writes, parses no
// line and reads nothing ahead of Next but one buffer. Goroutines: one waits for a program's process, an
// HTTP tap has its server's, a Redis tap its client's; Close of the reader waits for the first two and
// ends the third.
package tap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"weir/stream"
)

// Config says how a tap cuts records, and who sees what it reads. The zero value cuts lines.
type Config struct {
	Block     bool         // blocks of whole lines; false: a record for each line
	RecordMax int          // bytes of a record's body; 0 = stream.RecordBytesMax
	Shared    bool         // all nodes of the role see the same files
	Log       *slog.Logger // nil = discard
}

// Validate returns the first error, with the field's name.
func (c Config) Validate() error {
	if c.RecordMax < 0 {
		return fmt.Errorf("RecordMax: %d is negative", c.RecordMax)
	}
	return nil
}

// recordMax is the most a body may hold, in bytes.
func (c Config) recordMax() int {
	if c.RecordMax == 0 {
		return stream.RecordBytesMax
	}
	return c.RecordMax
}

func (c Config) log() *slog.Logger {
	if c.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Log
}

// scope is what a tap says of its partitions beside their names: who sees them, and whether they can
// be read again. Taps embed it.
type scope struct{ shared, replayable bool }

// Shared reports whether all nodes of the role see the same partitions; else they are this node's.
func (s scope) Shared() bool { return s.shared }

// Replayable reports whether Open reads again from a mark: else each start is a new generation, and
// marks are of no use.
func (s scope) Replayable() bool { return s.replayable }

// rule is how the tap cuts: lines, or else blocks in the given way.
func (c Config) rule(blocks cut) rule {
	r := rule{recordMax: c.recordMax()}
	if c.Block {
		r.cut = blocks
	}
	return r
}

// DataError says that the input holds what no record can hold; reading again does not help
// (exit 65).
type DataError struct {
	File      string // or what else is read
	Offset    int64  // of the line's first byte, in bytes
	RecordMax int    // bytes
}

func (e *DataError) Error() string {
	return fmt.Sprintf("%s: the line at byte %d is longer than %d bytes: raise record-max", e.File, e.Offset, e.RecordMax)
}

// ExitCode is EX_DATAERR of sysexits.h.
func (e *DataError) ExitCode() int { return 65 }

var newline = []byte{'\n'}

// source is a stream of bytes that a reader cuts.
type source interface {
	// read reads some bytes into p, at least one unless it returns an error; io.EOF ends it, errTurn
	// only the file, errAgain only what is pending.
	read(ctx context.Context, p []byte) (int, error)
	// take is told the bytes of the next record and returns the mark behind them, which is the
	// source's until the next call.
	take(p []byte) stream.Mark
	// at names the byte behind all that was taken: its file, as a person calls it, and where in it.
	at() (name string, offset int64)
	close() error
}

// reader is the stream.Reader of all taps of text. Its buffer holds what is read and not yet
// returned, and, until the next call, what was returned last.
type reader struct {
	src  source
	rule rule

	buf    []byte // [head:] is pending
	head   int
	before int64 // bytes of the partition before buf[head]
	ended  bool  // the source has
	turn   bool  // what is pending is the rest of a file, and another follows
}

// Next returns the next record. Body and mark are the caller's until the next call.
func (r *reader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	for {
		pending := r.buf[r.head:]
		n, ok := r.rule.next(pending, r.before, r.ended || r.turn)
		switch {
		case !ok:
			name, offset := r.src.at()
			return stream.Out{}, nil, &DataError{File: name, Offset: offset, RecordMax: r.rule.recordMax}
		case n > 0:
			r.head += n
			r.before += int64(n)
			mark := r.src.take(pending[:n])
			return stream.Out{Body: bytes.TrimSuffix(pending[:n], newline)}, mark, nil
		case r.ended:
			return stream.Out{}, nil, io.EOF
		}
		r.turn = false
		if err := r.fill(ctx); err != nil {
			return stream.Out{}, nil, err
		}
	}
}

// readMin is the least room that a read is offered, in bytes: what a pipe holds (pipe(7)).
const readMin = 64 << 10

// fill reads once.
func (r *reader) fill(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	pending := r.buf[r.head:]
	room := r.rule.room(len(pending), r.before)
	if cap(pending)-len(pending) < room {
		to := r.buf[:0]
		if cap(to) < len(pending)+room {
			to = make([]byte, 0, len(pending)+room)
		}
		r.buf, r.head = append(to, pending...), 0
	}
	end := len(r.buf)
	n, err := r.src.read(ctx, r.buf[end:end+room])
	r.buf = r.buf[:end+n]
	switch {
	case errors.Is(err, io.EOF):
		r.ended = true
	case errors.Is(err, errTurn):
		r.turn = true
	case errors.Is(err, errAgain):
		r.buf = r.buf[:r.head]
	default:
		return err
	}
	return nil
}

// Done has nothing to do: a mark says all there is to know.
func (r *reader) Done(stream.Mark, error) {}

// Close ends the reading.
func (r *reader) Close() error { return r.src.close() }
