package tap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"weir/stream"
)

// readAll reads every record of a reader, and its marks.
func readAll(r stream.Reader) (bodies [][]byte, marks []stream.Mark, err error) {
	for {
		o, m, err := r.Next(context.Background())
		if errors.Is(err, io.EOF) {
			return bodies, marks, nil
		}
		if err != nil {
			return bodies, marks, err
		}
		bodies = append(bodies, bytes.Clone(o.Body))
		marks = append(marks, bytes.Clone(m))
	}
}

// joined is what a sink of text writes of the bodies.
func joined(bodies [][]byte) []byte {
	var b bytes.Buffer
	for _, body := range bodies {
		b.Write(body)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// withNewline is text with its last newline.
func withNewline(text []byte) []byte {
	if len(text) == 0 || bytes.HasSuffix(text, newline) {
		return text
	}
	return append(bytes.Clone(text), '\n')
}

func cutAll(r rule, in io.Reader) ([][]byte, error) {
	bodies, _, err := readAll(&reader{src: &stdin{r: in}, rule: r})
	return bodies, err
}

func TestCut(t *testing.T) {
	for _, tc := range []struct {
		name string
		rule rule
		in   string
		want string // the bodies, quoted
		err  string
	}{
		{"nothing", rule{cutLine, 8, 0}, "", "", ""},
		{"lines", rule{cutLine, 8, 0}, "a\nbc\n", `"a""bc"`, ""},
		{"no final newline", rule{cutLine, 8, 0}, "a\nbc", `"a""bc"`, ""},
		{"empty lines", rule{cutLine, 8, 0}, "\n\na\n\n", `"""""a"""`, ""},
		{"CR and NUL stay", rule{cutLine, 8, 0}, "a\r\n\x00\n", `"a\r""\x00"`, ""},
		{"a line at the limit", rule{cutLine, 4, 0}, "1234\n1234", `"1234""1234"`, ""},
		{"a line above it", rule{cutLine, 4, 0}, "a\n12345\n", `"a"`, "stdin: the line at byte 2 is longer than 4 bytes: raise record-max"},
		{"a last line above it", rule{cutLine, 4, 0}, "a\n12345", `"a"`, "stdin: the line at byte 2 is longer than 4 bytes: raise record-max"},
		{"a block", rule{cutBlock, 8 << 10, 0}, "a\nb\n", `"a\nb"`, ""},
		{"a block of nothing", rule{cutBlock, 8 << 10, 0}, "\n", `""`, ""},
		{"a block that ends empty", rule{cutBlock, 8 << 10, 0}, "a\n\n", `"a\n"`, ""},
		{"to the end of the line", rule{cutFixed, 99, 3}, "a\nbcd\ne\nf\n", `"a\nbcd""e\nf"`, ""},
		{"exactly the target", rule{cutFixed, 99, 4}, "a\nb\nc\nd\n", `"a\nb""c\nd"`, ""},
		{"a block at the limit", rule{cutFixed, 4, 3}, "ab\ncd\n", `"ab""cd"`, ""},
		{"its last line goes to the next", rule{cutFixed, 6, 4}, "ab\ncde\nfgh\n", `"ab\ncde""fgh"`, ""},
		{"a target above the limit", rule{cutFixed, 4, 99}, "ab\ncd\nefg\nh", `"ab""cd""efg""h"`, ""},
		{"a block's line above it", rule{cutFixed, 4, 2}, "abcd\nefghi\n", `"abcd"`, "stdin: the line at byte 5 is longer than 4 bytes: raise record-max"},
		{"what is there", rule{cutRead, 99, 0}, "a\nb\nc", `"a\nb""c"`, ""},
		{"what is there, at the limit", rule{cutRead, 4, 0}, "a\nb\ncd\nefgh", `"a\nb""cd""efgh"`, ""},
		{"what is there, above it", rule{cutRead, 4, 0}, "a\nefghi", `"a"`, "stdin: the line at byte 2 is longer than 4 bytes: raise record-max"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, in := range []io.Reader{
				strings.NewReader(tc.in),
				iotest.DataErrReader(strings.NewReader(tc.in)),
				iotest.OneByteReader(strings.NewReader(tc.in)),
			} {
				if _, one := in.(*strings.Reader); !one && tc.rule.cut == cutRead {
					continue // its cuts are those of the reads
				}
				bodies, err := cutAll(tc.rule, in)
				got := ""
				for _, b := range bodies {
					got += fmt.Sprintf("%q", b)
				}
				if got != tc.want || text(err) != tc.err {
					t.Errorf("by %T: got %s, %q; want %s, %q", in, got, text(err), tc.want, tc.err)
				}
				var de *DataError
				if err != nil && (!errors.As(err, &de) || de.ExitCode() != 65) {
					t.Errorf("%v is no DataError of exit code 65", err)
				}
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTarget(t *testing.T) {
	for _, tc := range []struct {
		before int64
		want   int
	}{
		{0, 4 << 10},
		{64 * 4 << 10, 4 << 10},
		{1 << 20, 16 << 10},
		{32<<20 - 64, 512<<10 - 1},
		{1 << 40, 512 << 10},
	} {
		if got := (rule{cut: cutBlock, recordMax: 1 << 20}).target(tc.before); got != tc.want {
			t.Errorf("after %d bytes the target is %d, want %d", tc.before, got, tc.want)
		}
	}
}

// How the bytes come must not matter, and nothing may be lost, for any text and limit.
func FuzzCut(f *testing.F) {
	f.Add([]byte("a\nb\n\nlonger line\n"), uint8(0), uint8(20), uint8(5), uint8(3))
	f.Add([]byte("\n\n\nxxxxxxxxxxxxxxx"), uint8(2), uint8(7), uint8(4), uint8(1))
	f.Add([]byte("one\ntwo\nthree"), uint8(3), uint8(5), uint8(4), uint8(200))
	f.Fuzz(func(t *testing.T, in []byte, kind, limit, block, chunk uint8) {
		r := rule{cut: cut(kind % 4), recordMax: int(limit) + 1, block: int(block)}
		whole, err := cutAll(r, bytes.NewReader(in))
		parts, errParts := cutAll(r, &chunks{in: in, size: int(chunk) + 1})
		if (err == nil) != (errParts == nil) {
			t.Fatalf("whole: %v, in parts: %v", err, errParts)
		}
		if r.cut != cutRead && fmt.Sprintf("%q", whole) != fmt.Sprintf("%q", parts) {
			t.Fatalf("whole: %q, in parts: %q", whole, parts)
		}
		for _, bodies := range [][][]byte{whole, parts} {
			got := joined(bodies)
			if err == nil && !bytes.Equal(got, withNewline(in)) {
				t.Fatalf("%q came out as %q", in, got)
			}
			if !bytes.HasPrefix(withNewline(in), got) {
				t.Fatalf("%q came out as %q", in, got)
			}
			for _, b := range bodies {
				if len(b) > r.recordMax {
					t.Fatalf("%q is longer than %d", b, r.recordMax)
				}
			}
		}
		tooLong := false
		for line := range bytes.SplitSeq(in, newline) {
			tooLong = tooLong || len(line) > r.recordMax
		}
		if tooLong != (err != nil) {
			t.Fatalf("a line is too long: %v; error: %v", tooLong, err)
		}
	})
}

// chunks is a reader of so many bytes at once.
type chunks struct {
	in   []byte
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.size)], c.in)
	c.in = c.in[n:]
	return n, nil
}

// A record goes on from any mark as it did the first time.
func TestReadFromAnyMark(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir := writeTree(t)
		cfg := Config{Block: rapid.Bool().Draw(t, "block"), RecordMax: 64 << 10}
		tp, err := Glob([]string{dir + "/**"}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		open := func(at stream.Mark) ([][]byte, []stream.Mark) {
			r, err := tp.Open(context.Background(), dir+"/**", at)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			bodies, marks, err := readAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return bodies, marks
		}
		bodies, marks := open(nil)
		if len(bodies) == 0 {
			return
		}
		i := rapid.IntRange(0, len(bodies)-1).Draw(t, "from")
		again, _ := open(marks[i])
		if got, want := fmt.Sprintf("%q", again), fmt.Sprintf("%q", append([][]byte{}, bodies[i+1:]...)); got != want {
			t.Fatalf("from mark %d: got %.200s, want %.200s", i, got, want)
		}
	})
}
