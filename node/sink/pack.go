package sink

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// packing is how a file holds its text: as a chain of gzip members or zstd frames. What is written
// at once is one, so that whatever was acked can be unpacked, and a file whose writer was killed
// can be gone on with behind the last whole one.
//
// A stream that is only flushed would pack small writes better, but its end, once torn, would have
// to be unpacked and mended. Measured with lines of a log of 100 bytes: a write of 8 MiB packs 4.2
// to 1, of 512 KiB 4.2, of 4 KiB 3.8 (zstd 4.2), of 1 KiB 2.9 (zstd 3.1), one line alone not at all.
type packing struct {
	// pack appends text to dst as one member or frame, even where there is no text.
	pack func(dst, text []byte) []byte
	// skip reads one member or frame. io.EOF: there are no more, io.ErrUnexpectedEOF: it is not
	// all there.
	skip func(r *bufio.Reader) error
	// check unpacks what was skipped, where skip did not.
	check func(r io.Reader) error
}

// packingOf is the packing of the file at path: nil for text as it is.
func packingOf(path string) *packing {
	switch {
	case strings.HasSuffix(path, ".gz"):
		return gzipPacking()
	case strings.HasSuffix(path, ".zst"):
		// No goroutine of their own; the options are valid.
		w, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true))
		z, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		return &packing{
			pack: func(dst, text []byte) []byte { return w.EncodeAll(text, dst) },
			skip: skipFrame,
			check: func(r io.Reader) error {
				if err := z.Reset(r); err != nil {
					return err
				}
				_, err := io.Copy(io.Discard, z)
				return err
			},
		}
	}
	return nil
}

func gzipPacking() *packing {
	var w *gzip.Writer
	var z *gzip.Reader
	return &packing{
		pack: func(dst, text []byte) []byte {
			out := bytes.NewBuffer(dst) // it takes all
			if w == nil {
				w = gzip.NewWriter(out)
			}
			w.Reset(out)
			_, _ = w.Write(text)
			_ = w.Close()
			return out.Bytes()
		},
		skip: func(r *bufio.Reader) error {
			if z == nil {
				z = new(gzip.Reader)
			}
			if err := z.Reset(r); err != nil {
				return err
			}
			z.Multistream(false)
			_, err := io.Copy(io.Discard, z)
			return err
		},
		check: func(io.Reader) error { return nil },
	}
}

// skipFrame is packing.skip for zstd: it goes by the sizes of blocks and unpacks none (RFC 8878
// section 3.1.1).
func skipFrame(r *bufio.Reader) error {
	head, err := r.Peek(zstd.HeaderMaxSize)
	if len(head) == 0 {
		return err
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil {
		return err
	}
	if err := pass(r, h.HeaderSize+int(h.SkippableSize)); err != nil || h.Skippable {
		return err
	}
	for {
		var b [3]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return io.ErrUnexpectedEOF
		}
		last, kind, size := b[0]&1 != 0, b[0]>>1&3, int(b[0])>>3|int(b[1])<<5|int(b[2])<<13
		switch kind {
		case 1: // one byte, repeated
			size = 1
		case 3:
			return zstd.ErrReservedBlockType
		}
		if err := pass(r, size); err != nil {
			return err
		}
		if !last {
			continue
		}
		if h.HasCheckSum {
			return pass(r, 4)
		}
		return nil
	}
}

func pass(r *bufio.Reader, n int) error {
	if _, err := r.Discard(n); err != nil {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// whole is how many of the length bytes of f are whole members or frames, before one that is not all there. All
// are unpacked: of what was not acked, a power cut may leave the length and not the bytes.
func (p *packing) whole(ctx context.Context, f io.ReaderAt, length int64) (int64, error) {
	counted := &counter{r: io.NewSectionReader(f, 0, length)}
	br := bufio.NewReaderSize(counted, tailBytes)
	for at := int64(0); ctx.Err() == nil; {
		err := p.skip(br)
		end := counted.n - int64(br.Buffered())
		switch {
		case err == nil:
			err = p.check(io.NewSectionReader(f, at, end-at))
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && at > 0:
			return at, nil
		case errors.Is(err, io.ErrUnexpectedEOF):
			err = errors.New("it ends in its first part")
		}
		if err != nil {
			return at, &DamagedError{Offset: at, Err: err}
		}
		at = end
	}
	return 0, context.Cause(ctx)
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// DamagedError says that a file cannot be gone on with: what it holds is not what its name says.
type DamagedError struct {
	Path   string
	Offset int64 // bytes that are whole
	Err    error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s cannot be gone on with: from byte %d on it is damaged (%v): move it away, or cut it there by truncate -s %d", e.Path, e.Offset, e.Err, e.Offset)
}
func (e *DamagedError) Unwrap() error { return e.Err }

// ExitCode is EX_DATAERR of sysexits.h.
func (e *DamagedError) ExitCode() int { return 65 }
