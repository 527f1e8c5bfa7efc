package sink

import (
	"bytes"
	"encoding/binary"

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

// rows calls write with the rows of the records, as many at once as may be. The slice is write's
// until it returns.
func rows(rs []stream.Record, write func([]row) error) error {
	batch := make([]row, 0, min(rowsMax, 2*len(rs)))
	size := 0
	for i := range rs {
		id := appendID(make([]byte, 0, idBytes), rs[i].ID)
		line := int32(0)
		for rest, more := rs[i].Body, true; more; line++ {
			var body []byte
			body, rest, more = bytes.Cut(rest, newline)
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
