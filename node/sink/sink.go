// Package sink holds the places where records end: a file, standard output, a table of Postgres or
// SQLite, a stream of Redis, an HTTP endpoint, nothing; one file each. (A program as a sink is of
// package worker.) A record of text is written as its body and a newline, or line by line.
//
//	[]Record ──Write──> body \n body \n … ──> fsync ──> nil: the records are acked
//	         ──Write──> rows (id, line, body) ──> commit ──> nil
//
// What the ack means is said at each. A store that is away, full or busy is a stream.Retry, a record
// that it does not take a stream.Poison, anything else wrong a *stream.ConfigError of one sentence.
//
// A file named .gz or .zst is packed, each part by itself.
//
// A file keeps what it has seen in a second one beside it (journal.go), both durable before a Write
// returns; so a record that comes twice is there once, also after a kill -9 or a power cut between.
// A pipe, a terminal or standard output keeps nothing: what was written before the process started
// is written again where it comes again, and so does an HTTP endpoint, under the same key. A table has
// the record's ID as its key. A stream has what was seen beside it.
//
// The package never retries, and starts a goroutine only for a Write, which waits for it; the drivers
// of servers have their own, which end with Close.
package sink

import (
	"context"

	"weir/stream"
)

// Sizes of a sink's buffer, in bytes.
const (
	// gatherBytes is what is gathered for one write(2): two of a tap's largest blocks, so
	// that the cost of the call does not show.
	gatherBytes = 1 << 20
	// bufferKeepMax is the largest buffer that is kept for the next Write: ordinary records
	// grow it to this.
	bufferKeepMax = 4 * gatherBytes
)

// gather writes records as text, as many at once as fit buf, and returns buf for the next time.
func gather(buf []byte, rs []stream.Record, write func([]byte) error) ([]byte, error) {
	buf = buf[:0]
	for i, r := range rs {
		buf = append(append(buf, r.Body...), '\n')
		if len(buf) < gatherBytes && i < len(rs)-1 {
			continue
		}
		if err := write(buf); err != nil {
			return buf, err
		}
		buf = buf[:0]
	}
	if cap(buf) > bufferKeepMax {
		return nil, nil
	}
	return buf, nil
}

// unseen is the part of a sink that does not remember what it has seen.
type unseen struct{}

func (unseen) Load(context.Context, uint64) ([]byte, error) { return nil, nil }

// Discard is a sink that forgets each record.
func Discard() stream.Sink { return discard{} }

type discard struct{ unseen }

func (discard) Write(context.Context, []stream.Record, stream.Seen) error { return nil }

func (discard) Close() error { return nil }
