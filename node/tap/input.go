package tap

import (
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// input is a file that is read: its text, where it is packed.
type input struct {
	*os.File
	info    os.FileInfo // when it was opened
	packed  *unpacker   // nil: it is text
	regular bool        // it is no pipe, terminal or device: reading it does not wait for others
	size    int64       // of text, when it was opened; 0: not known
	ahead   []byte      // text that was read to look at it, and comes next
	failed  error       // what comes behind it
}

// openInput opens the file at path for reading from its start.
func openInput(path string) (*input, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the input: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", f.Name())
	}
	in := &input{File: f, info: info, packed: newUnpacker(f)}
	if err == nil {
		in.regular = info.Mode().IsRegular()
		if in.packed != nil && !in.regular {
			err = fmt.Errorf("%s is no regular file: have it unpacked before it comes here", f.Name())
		}
		if in.regular && in.packed == nil {
			in.size = info.Size()
		}
	}
	if err != nil {
		in.close()
		return nil, fmt.Errorf("read the input: %w", err)
	}
	return in, nil
}

// begin is the head of the text, which begins here, at first.
func (in *input) begin(table *crc32.Table, first int64) head {
	if !in.regular {
		return head{}
	}
	in.ahead = in.look(headMax)
	if len(in.ahead) == 0 {
		return head{}
	}
	return head{first + int64(len(in.ahead)), crc32.Checksum(in.ahead, table)}
}

// look reads n bytes, or less where there are no more.
func (in *input) look(n int64) []byte {
	text := make([]byte, n)
	has, err := io.ReadFull(in, text)
	if err != io.EOF && err != io.ErrUnexpectedEOF { // the end may be another by then
		in.failed = err
	}
	return text[:has]
}

// resume goes to the place at, of a text that is read from first, and compares what is before it, and
// its head. The error is a reset where that is another text.
func (in *input) resume(table *crc32.Table, at place, first int64) error {
	if at.offset == 0 {
		return nil
	}
	if !in.regular {
		return reset("%s is no regular file: what was read of it cannot be read again", in.Name())
	}
	if at.head.end > at.offset {
		return in.resumeInHead(table, at, first)
	}
	from := sumFrom(at.offset, first)
	var has int64
	var err error
	if in.packed != nil {
		has, err = io.CopyN(io.Discard, in.packed, from)
	} else {
		has, err = in.Seek(from, io.SeekStart)
	}
	text := make([]byte, at.offset-from)
	if err == nil {
		var n int
		n, err = io.ReadFull(in, text)
		has += int64(n)
	}
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return in.shorter(has, at.offset)
	case err != nil:
		return fmt.Errorf("read the input: %w", err)
	}
	var s sum
	if s.add(table, text, from); s != at.sum {
		return in.another(at)
	}
	return nil
}

// resumeInHead is resume for a place in the head, so that what is before it is a part of what is compared.
func (in *input) resumeInHead(table *crc32.Table, at place, first int64) error {
	n := at.head.end - first
	if n > headMax || at.offset < first {
		return in.another(at)
	}
	if in.packed == nil {
		if _, err := in.Seek(first, io.SeekStart); err != nil {
			return fmt.Errorf("read the input: %w", err)
		}
	}
	text := in.look(n)
	if in.failed != nil {
		return fmt.Errorf("read the input: %w", in.failed)
	}
	if int64(len(text)) < n || crc32.Checksum(text, table) != at.head.sum {
		return in.another(at)
	}
	in.ahead = text[at.offset-first:]
	return nil
}

// another is the error of a file that has other text than was read of it before, or was to be read next.
func (in *input) another(at place) error {
	return reset("%s is another file than the one of which %d bytes were read before", in.Name(), at.offset)
}

// shorter is the error of a file that has less than was read of it before.
func (in *input) shorter(size, offset int64) error {
	if in.packed == nil {
		size = in.size
	}
	return reset("%s has %d bytes, and %d were read before: it is another file now", in.Name(), size, offset)
}

// Read reads text.
func (in *input) Read(p []byte) (int, error) {
	if len(in.ahead) > 0 {
		n := copy(p, in.ahead)
		in.ahead = in.ahead[n:]
		return n, nil
	}
	in.ahead = nil
	if in.failed != nil {
		return 0, in.failed
	}
	if in.packed != nil {
		return in.packed.Read(p)
	}
	return in.File.Read(p)
}

// Seek goes to a place in a file that is not packed.
func (in *input) Seek(offset int64, whence int) (int64, error) {
	in.ahead, in.failed = nil, nil
	return in.File.Seek(offset, whence)
}

func (in *input) close() {
	if in.packed != nil {
		in.packed.free()
	}
	_ = in.Close() // nothing was written
}
