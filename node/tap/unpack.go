package tap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// windowMax is the most a .zst may have a reader remember, in bytes: what every reader should allow
// (RFC 8878 section 3.1.1.1.2), and what `zstd -19` needs. Only --long and --ultra ask for more.
const windowMax = 8 << 20

// unpacker reads the text of a packed file. What it holds of it is a window of at most windowMax
// and a buffer, whatever the file unpacks to.
type unpacker struct {
	file   *os.File
	kind   string // gzip or zstd
	packed *bufio.Reader
	read   int64     // bytes of file
	text   io.Reader // nil until the first Read
	free   func()    // of text
}

// packing is how a file is packed, going by its name; "": not at all.
func packing(name string) string {
	switch {
	case strings.HasSuffix(name, ".gz"):
		return "gzip"
	case strings.HasSuffix(name, ".zst"):
		return "zstd"
	}
	return ""
}

// newUnpacker returns nil for a file that is not packed.
func newUnpacker(f *os.File) *unpacker {
	kind := packing(f.Name())
	if kind == "" {
		return nil
	}
	u := &unpacker{file: f, kind: kind, free: func() {}}
	u.packed = bufio.NewReaderSize(counting{u}, readMin)
	return u
}

// counting reads the file and counts.
type counting struct{ u *unpacker }

func (c counting) Read(p []byte) (int, error) {
	n, err := c.u.file.Read(p)
	c.u.read += int64(n)
	return n, err
}

func (u *unpacker) Read(p []byte) (int, error) {
	if err := u.begin(); err != nil {
		return 0, u.damaged(err)
	}
	n, err := u.text.Read(p)
	if err != nil && err != io.EOF {
		err = u.damaged(err)
	}
	return n, err
}

// begin reads the head of the file.
func (u *unpacker) begin() error {
	if u.text != nil {
		return nil
	}
	if _, err := u.packed.Peek(1); err == io.EOF {
		return io.ErrUnexpectedEOF // a file of nothing holds something; no file does not
	}
	if u.kind == "gzip" {
		if magic, _ := u.packed.Peek(2); len(magic) == 2 && string(magic) != "\x1f\x8b" {
			return gzip.ErrHeader // which a file shorter than a head would not be told
		}
		z, err := gzip.NewReader(u.packed) // goes on over all members
		if err == nil {
			u.text = z
		}
		return err
	}
	// Without goroutines of its own.
	z, err := zstd.NewReader(u.packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(windowMax), zstd.WithDecoderLowmem(true))
	if err == nil {
		u.text, u.free = z, z.Close
	}
	return err
}

func (u *unpacker) damaged(err error) error {
	return &DamagedError{File: u.file.Name(), Kind: u.kind, Offset: u.read - int64(u.packed.Buffered()), Err: err}
}

// DamagedError says that a packed file cannot be unpacked any further; all whole lines before were
// read. Reading again does not help (exit 65).
type DamagedError struct {
	File   string
	Kind   string // gzip or zstd
	Offset int64  // in the file, in bytes; what is wrong is here or just before
	Err    error
}

func (e *DamagedError) Error() string {
	switch {
	case errors.Is(e.Err, io.ErrUnexpectedEOF):
		return fmt.Sprintf("%s: the %s data ends in the middle, at byte %d: the file was cut short", e.File, e.Kind, e.Offset)
	case errors.Is(e.Err, zstd.ErrWindowSizeExceeded):
		return fmt.Sprintf("%s: the part at byte %d needs a window above %d MiB: pack it again, without --long and --ultra", e.File, e.Offset, windowMax>>20)
	}
	return fmt.Sprintf("%s: this is no %s data, or damaged, at byte %d: %v", e.File, e.Kind, e.Offset, e.Err)
}
func (e *DamagedError) Unwrap() error { return e.Err }

// ExitCode is EX_DATAERR of sysexits.h.
func (e *DamagedError) ExitCode() int { return 65 }
