package tap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"weir/stream"
)

// pack is text as the content of a file of that name; parts after the first are members or frames
// of their own.
func pack(t *testing.T, name string, parts ...string) string {
	t.Helper()
	var out bytes.Buffer
	for _, part := range parts {
		var w io.WriteCloser
		switch filepath.Ext(name) {
		case ".gz":
			w = gzip.NewWriter(&out)
		case ".zst":
			var err error
			if w, err = zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1), zstd.WithZeroFrames(true)); err != nil {
				t.Fatal(err)
			}
		default:
			out.WriteString(part)
			continue
		}
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// A packed file gives what its text does, with the same records and marks, from any mark on.
func TestUnpack(t *testing.T) {
	var b strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&b, "line %d %s\n", i, strings.Repeat("x", i%70))
	}
	long := b.String()
	parts := []string{long[:1], long[1:70_001], "", long[70_001:], "no newline"}
	const skippable = "\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"
	for _, block := range []bool{false, true} {
		var want [][]byte
		var marks []stream.Mark
		for _, ext := range []string{"", ".gz", ".zst"} {
			dir := t.TempDir()
			first := pack(t, "a"+ext, parts...)
			if ext == ".zst" {
				first = skippable + first + skippable
			}
			write(t, dir, "a"+ext, first)
			write(t, dir, "b"+ext, pack(t, "b"+ext, ""))
			write(t, dir, "c", "of text\n")
			write(t, dir, "d"+ext, pack(t, "d"+ext, "the end"))
			tp, err := Glob([]string{dir + "/*"}, Config{Block: block})
			if err != nil {
				t.Fatal(err)
			}
			r, err := open(t, tp, nil)
			if err != nil {
				t.Fatal(err)
			}
			bodies, ms, err := readAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if ext == "" {
				want, marks = bodies, ms
				if got := string(joined(bodies)); got != strings.Join(parts, "")+"of text\nthe end\n" {
					t.Fatalf("%d bytes of text", len(got))
				}
				continue
			}
			if !bytes.Equal(joined(bodies), joined(want)) || len(ms) != len(marks) {
				t.Fatalf("%s, block=%v: %d records, the text has %d", ext, block, len(bodies), len(want))
			}
			for i := 0; i < len(ms); i += 1 + len(ms)/20 {
				if !sameText(t, ms[i], marks[i]) {
					t.Fatalf("%s: mark %d is %x, of the text %x", ext, i, ms[i], marks[i])
				}
				r, err := open(t, tp, ms[i])
				if err != nil {
					t.Fatal(err)
				}
				rest, _, err := readAll(r)
				if err != nil || !bytes.Equal(joined(rest), joined(want[i+1:])) {
					t.Fatalf("%s: from mark %d on, %d records, error %v; want %d", ext, i, len(rest), err, len(want)-i-1)
				}
			}
		}
	}
}

// sameText reports whether two marks have the same text before them, cut by the same rule.
func sameText(t *testing.T, a, b stream.Mark) bool {
	p, err := parseMark(a)
	q, err2 := parseMark(b)
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	return p.how == q.how && p.before == q.before
}

func TestUnpackErrors(t *testing.T) {
	dir := t.TempDir()
	lines := strings.Repeat("a line, and another\n", 1000)
	gz, zst := pack(t, ".gz", lines), pack(t, ".zst", lines)
	flip := func(s string, i int) string { return s[:i] + string(s[i]^1) + s[i+1:] }
	var wide bytes.Buffer
	w, err := zstd.NewWriter(&wide, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(16<<20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 17<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo.gz")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, file, content string
		at                  stream.Mark
		err                 string // FILE stands for the path
	}{
		{"empty", "empty.gz", "", nil, "FILE: the gzip data ends in the middle, at byte 0: the file was cut short"},
		{"empty", "empty.zst", "", nil, "FILE: the zstd data ends in the middle, at byte 0: the file was cut short"},
		{"in the head", "head.gz", gz[:5], nil, "FILE: the gzip data ends in the middle, at byte 5: the file was cut short"},
		{"in the head", "head.zst", zst[:3], nil, "FILE: the zstd data ends in the middle, at byte 3: the file was cut short"},
		{"in the middle", "mid.gz", gz[:len(gz)/2], nil, fmt.Sprintf("FILE: the gzip data ends in the middle, at byte %d: the file was cut short", len(gz)/2)},
		{"in the middle", "mid.zst", zst[:len(zst)/2], nil, fmt.Sprintf("FILE: the zstd data ends in the middle, at byte %d: the file was cut short", len(zst)/2)},
		{"in the second", "second.gz", gz + gz[:len(gz)-1], nil, fmt.Sprintf("FILE: the gzip data ends in the middle, at byte %d: the file was cut short", 2*len(gz)-1)},
		{"in the second", "second.zst", zst + zst[:len(zst)-1], nil, fmt.Sprintf("FILE: the zstd data ends in the middle, at byte %d: the file was cut short", 2*len(zst)-1)},
		{"text", "text.gz", lines, nil, "FILE: this is no gzip data, or damaged, at byte 0: gzip: invalid header"},
		{"a short text", "short.gz", "abc", nil, "FILE: this is no gzip data, or damaged, at byte 0: gzip: invalid header"},
		{"text", "text.zst", lines, nil, "FILE: this is no zstd data, or damaged, at byte 4: invalid input: magic number mismatch"},
		{"flipped", "sum.gz", flip(gz, len(gz)-6), nil, fmt.Sprintf("FILE: this is no gzip data, or damaged, at byte %d: gzip: invalid checksum", len(gz))},
		{"flipped", "sum.zst", flip(zst, len(zst)-2), nil, fmt.Sprintf("FILE: this is no zstd data, or damaged, at byte %d: CRC check failed", len(zst))},
		{"wide", "wide.zst", wide.String(), nil, "FILE: the part at byte 6 needs a window above 8 MiB: pack it again, without --long and --ultra"},
		{"short for the mark", "short.gz", gz, markAt(1 << 20), fmt.Sprintf("FILE has %d bytes, and 1048576 were read before: it is another file now", len(lines))},
		{"bad before the mark", "bad.gz", gz[:len(gz)/2], markAt(int64(len(lines)) - 5), fmt.Sprintf("read the input: FILE: the gzip data ends in the middle, at byte %d: the file was cut short", len(gz)/2)},
		{"a pipe", "fifo.gz", "", nil, "read the input: FILE is no regular file: have it unpacked before it comes here"},
	} {
		path := filepath.Join(dir, tc.file)
		if path == fifo {
			// Opening it waits for a writer.
			f, err := os.OpenFile(fifo, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
		} else {
			write(t, dir, tc.file, tc.content)
		}
		tp, err := File(path, Config{})
		if err != nil {
			t.Fatal(err)
		}
		var bodies [][]byte
		r, err := open(t, tp, tc.at)
		if err == nil {
			bodies, _, err = readAll(r)
		}
		if want := strings.ReplaceAll(tc.err, "FILE", path); text(err) != want {
			t.Errorf("%s: error %q, want %q", tc.name, text(err), want)
		}
		var damaged *DamagedError
		if errors.As(err, &damaged) && stream.ExitCode(err) != 65 {
			t.Errorf("%s: exit code %d", tc.name, stream.ExitCode(err))
		}
		for _, b := range bodies {
			if string(b)+"\n" != lines[:len(b)+1] && !strings.Contains(tc.file, "wide") {
				t.Errorf("%s: a record %.40q", tc.name, b)
			}
		}
	}
}

// What a file unpacks to is bounded by a record, and what is remembered by a window.
func TestUnpackBombs(t *testing.T) {
	dir := t.TempDir()
	const size = 128 << 20
	for _, ext := range []string{".gz", ".zst"} {
		for _, tc := range []struct{ name, line, err string }{
			{"a line", "\x00", "PATH: the line at byte 0 is longer than 1048576 bytes: raise record-max"},
			{"lines", "\n", ""},
		} {
			path := write(t, dir, "bomb"+ext, pack(t, ext, strings.Repeat(tc.line, size)))
			tp, err := File(path, Config{Block: true})
			if err != nil {
				t.Fatal(err)
			}
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			r, err := open(t, tp, nil)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for err == nil {
				var o stream.Out
				if o, _, err = r.Next(t.Context()); err == nil {
					n += len(o.Body) + 1
				}
			}
			runtime.ReadMemStats(&after)
			if errors.Is(err, io.EOF) && n == size {
				err = nil
			}
			if want := strings.ReplaceAll(tc.err, "PATH", path); text(err) != want {
				t.Errorf("%s of %s: error %q after %d bytes, want %q", tc.name, ext, text(err), n, want)
			}
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
				t.Errorf("%s of %s: %d MiB were allocated", tc.name, ext, grown>>20)
			}
		}
	}
}

// Whatever a file holds, it is read or refused.
func FuzzUnpack(f *testing.F) {
	for _, ext := range []string{".gz", ".zst"} {
		var out bytes.Buffer
		if ext == ".gz" {
			w := gzip.NewWriter(&out)
			_, _ = w.Write([]byte("a\nb\n"))
			_ = w.Close()
		} else {
			w, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
			if err != nil {
				f.Fatal(err)
			}
			_, _ = w.Write([]byte("a\nb\n"))
			_ = w.Close()
		}
		f.Add(out.Bytes(), ext == ".zst")
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte, isZstd bool) {
		path := filepath.Join(dir, "f.gz")
		if isZstd {
			path = filepath.Join(dir, "f.zst")
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		tp, err := File(path, Config{RecordMax: 1000})
		if err != nil {
			t.Fatal(err)
		}
		r, err := open(t, tp, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err = readAll(r); err != nil && stream.ExitCode(err) != 65 {
			t.Errorf("error %v", err)
		}
	})
}

// The first mark of a packed file knows its head, however the text is packed.
func TestPackedHead(t *testing.T) {
	for _, name := range []string{"a.gz", "a.zst"} {
		dir := t.TempDir()
		tp, err := File(write(t, dir, name, pack(t, name, "id\n1\n2\n")), Config{})
		if err != nil {
			t.Fatal(err)
		}
		at := afterRecords(t, tp, 1)
		for text, want := range map[string]string{"id\n1|\n2\n": "1 2", "id\n1\n2\n|3\n": "1 2 3", "id\n1\n3\n": "reset", "id\n1\n": "reset"} {
			write(t, dir, name, pack(t, name, strings.Split(text, "|")...))
			got := "reset"
			if r, err := open(t, tp, at); err == nil {
				bodies, _, err := readAll(r)
				if err != nil {
					t.Error(err)
				}
				got = strings.Join(strings.Fields(string(joined(bodies))), " ")
			} else if !errors.Is(err, stream.ErrReset) {
				t.Error(err)
			}
			if got != want {
				t.Errorf("%s of %q: %s, want %s", name, text, got, want)
			}
		}
	}
}
