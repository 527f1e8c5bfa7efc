package consensus

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

const (
	// entryBytesMax is the most one command may hold, in bytes; FAULTS limits table, raft entry.
	entryBytesMax = 1 << 20
	// frameBytesMax is the most one message between nodes may hold, in bytes: appendMax entries
	// of entryBytesMax in base64, or a state.
	frameBytesMax = 16 << 20
)

// writeFrame writes v as JSON behind its length, in one write.
func writeFrame(w io.Writer, v any) error {
	b := bytes.NewBuffer(make([]byte, 4))
	if err := json.NewEncoder(b).Encode(v); err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	if b.Len()-4 > frameBytesMax {
		return fmt.Errorf("%T holds %d bytes, %d is the most", v, b.Len()-4, frameBytesMax)
	}
	binary.BigEndian.PutUint32(b.Bytes(), uint32(b.Len()-4))
	_, err := w.Write(b.Bytes())
	return err
}

// readFrame reads what writeFrame wrote, if it is not longer than limit. Memory is taken as the
// bytes arrive, not as they are announced.
func readFrame(r io.Reader, limit int, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > limit {
		return fmt.Errorf("a message announces %d bytes, %d is the most", n, limit)
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if err := json.Unmarshal(b.Bytes(), v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}
