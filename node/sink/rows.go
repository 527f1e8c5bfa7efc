package sink

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"weir/stream"
)

// row is one line of a record, as tables have it: a block of lines is as many rows, which share the
// record's ID.
type row struct {
	id   []byte // idBytes: of the record
	line int32  // of the record, from 0
	body []byte
}

// idBytes is the size of an ID as stores have it, in bytes.
const idBytes = 40

// appendID appends the ID in a form that sorts as the records of a source do.
func appendID(b []byte, id stream.ID) []byte {
	for _, part := range [...]uint64{id.Source, id.Gen, id.Seq, id.Path, id.Sum} {
		b = binary.BigEndian.AppendUint64(b, part)
	}
	return b
}

// Rows that are given to a store at once: at most so many, and no further one once there are so
// many bytes. The arrays of a statement are held twice, by us and by the driver.
const (
	rowsMax      = 8192
	rowBytesFull = gatherBytes
)

// rows calls write with the rows of the records whose lines are from lo to below hi, as many at once as
// may be. The slice is write's until it returns.
func rows(rs []stream.Record, lo, hi int32, write func([]row) error) error {
	batch := make([]row, 0, min(rowsMax, 2*len(rs)))
	size := 0
	for i := range rs {
		id := appendID(make([]byte, 0, idBytes), rs[i].ID)
		line := int32(0)
		for rest, more := rs[i].Body, true; more; line++ {
			var body []byte
			if body, rest, more = bytes.Cut(rest, newline); line < lo || line >= hi {
				continue
			}
			batch = append(batch, row{id, line, body})
			if size += len(body); len(batch) < rowsMax && size < rowBytesFull {
				continue
			}
			if err := write(batch); err != nil {
				return err
			}
			batch, size = batch[:0], 0
		}
	}
	if len(batch) == 0 {
		return nil
	}
	return write(batch)
}

var newline = []byte{'\n'}

// lookAgain tries once more what failed for the table's sake, if the sink knew it from before: it may have
// been dropped since, or made another. The second try finds out, and makes it where it is not there.
func lookAgain(known bool, try func() error) error {
	err := try()
	if _, config := errors.AsType[*stream.ConfigError](err); config && known {
		err = try()
	}
	return err
}

// splitsMax is how often the lines of one block are halved to find those that a table refuses; then
// what it refuses stays together. One line among n takes 2 log2 n tries.
const splitsMax = 128

// writeTable writes records by try, which makes rows of their lines from lo to below hi, all or none.
// Of a block that is refused alone all lines are written but those to blame.
func writeTable(rs []stream.Record, try func(lo, hi int32) error) error {
	err := try(0, math.MaxInt32)
	if len(rs) != 1 || !stream.IsPoison(err) {
		return err
	}
	lines := bytes.Split(rs[0].Body, newline)
	if len(lines) == 1 {
		return err
	}
	b := bisection{try: try, lines: lines}
	if err := b.halve(0, len(lines), err); err != nil {
		return err
	}
	return stream.PoisonLines(fmt.Errorf("line %s of it: %w", b.numbers[0], b.why), bytes.Join(b.bad, newline), strings.Join(b.numbers, ","))
}

// bisection finds the lines of a block that a table refuses.
type bisection struct {
	try    func(lo, hi int32) error
	lines  [][]byte
	splits int

	bad     [][]byte
	numbers []string // of the bad lines, from 1, as 7 or 7-9
	why     error    // of the first
}

// halve writes what it can of lines that were refused together, with why.
func (b *bisection) halve(lo, hi int, why error) error {
	if hi-lo == 1 || b.splits == splitsMax {
		number := strconv.Itoa(lo + 1)
		if hi-lo > 1 {
			number += "-" + strconv.Itoa(hi)
		}
		b.bad, b.numbers = append(b.bad, b.lines[lo:hi]...), append(b.numbers, number)
		b.why = cmp.Or(b.why, why)
		return nil
	}
	b.splits++
	mid := (lo + hi) / 2
	for _, half := range [2][2]int{{lo, mid}, {mid, hi}} {
		err := b.try(int32(half[0]), int32(half[1])) // lines of a record of 64 MiB at most
		if stream.IsPoison(err) {
			err = b.halve(half[0], half[1], err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
