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

// resume goes to the place at, of a text that is read from first, and compares what is before it. The
// error is a reset where that is another text.
func (in *input) resume(table *crc32.Table, at place, first int64) error {
	if at.offset == 0 {
		return nil
	}
	if !in.regular {
		return reset("%s is no regular file: what was read of it cannot be read again", in.Name())
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
		return reset("%s is another file than the one of which %d bytes were read before", in.Name(), at.offset)
	}
	return nil
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
	if in.packed != nil {
		return in.packed.Read(p)
	}
	return in.File.Read(p)
}

func (in *input) close() {
	if in.packed != nil {
		in.packed.free()
	}
	_ = in.Close() // nothing was written
}
