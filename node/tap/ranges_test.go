package tap

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weir/stream"
)

func TestSpans(t *testing.T) {
	const m = 64 << 20
	for _, tc := range []struct {
		size int64
		n    int
		last span
	}{
		{0, 1, span{0, -1}}, {m, 1, span{0, -1}}, {2*m - 1, 1, span{0, -1}}, {2 * m, 2, span{m, -1}},
		{64 * m, 64, span{63 * m, -1}}, {65 * m, 32, span{62 * m, -1}}, {1 << 40, 64, span{63 << 34, -1}},
	} {
		all := spans(tc.size, rangeBytesMin)
		if len(all) != tc.n || all[len(all)-1] != tc.last {
			t.Errorf("%d bytes: %d ranges, the last %v; want %d, %v", tc.size, len(all), all[len(all)-1], tc.n, tc.last)
		}
		tp := &rangesTap{path: "/x[1-2)"}
		for _, s := range all {
			if got, ok := tp.span(tp.partition(s)); !ok || got != s {
				t.Errorf("%s is read as %v, %v", tp.partition(s), got, ok)
			}
		}
	}
	tp := &rangesTap{path: "/x"}
	if got := tp.Keep([]string{"/x[0-8)", "/x[8-)", "/x[8-)y", "/x[-8-)", "/y", "/x[08-)", "/x"}); !slices.Equal(got, []string{"/x[0-8)", "/x[8-)", "/x"}) {
		t.Errorf("kept %q", got)
	}
}

// The ranges of any file have each of its lines once, in blocks and from any mark too.
func TestRanges(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var text strings.Builder
		for range rng.IntN(300) {
			n := rng.IntN(20)
			if rng.IntN(20) == 0 {
				n = rng.IntN(300) // longer than a range
			}
			text.WriteString(strings.Repeat("x", n) + "\n")
		}
		text.WriteString(rapid.SampledFrom([]string{"", "no newline"}).Draw(t, "end"))
		path := dir + "/f"
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		cfg := Config{Shared: true, Block: rapid.Bool().Draw(t, "block")}
		tp := &rangesTap{cfg: cfg, path: path, each: rapid.Int64Range(1, 200).Draw(t, "each")}
		parts, err := tp.Partitions(t.Context())
		if err != nil || len(parts) > rangesMax {
			t.Fatal(len(parts), err)
		}
		read := func(part string, at stream.Mark) ([][]byte, []stream.Mark) {
			r, err := tp.Open(t.Context(), part, at)
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
		var all [][]byte
		for _, part := range parts {
			bodies, marks := read(part, nil)
			all = append(all, bodies...)
			if len(marks) > 0 {
				i := rng.IntN(len(marks))
				again, _ := read(part, marks[i])
				if got, want := fmt.Sprintf("%q", again), fmt.Sprintf("%q", append([][]byte{}, bodies[i+1:]...)); got != want {
					t.Fatalf("%s from mark %d: got %s, want %s", part, i, got, want)
				}
			}
		}
		if got, want := joined(all), withNewline([]byte(text.String())); !bytes.Equal(got, want) {
			t.Fatalf("%d ranges have %d bytes, the file %d", len(parts), len(got), len(want))
		}
	})
}

// Files of a shared glob are divided by their names: each is in one partition, whole, and stays there.
func TestSharedGlob(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 100 {
		write(t, dir, fmt.Sprintf("f%02d", i), fmt.Sprintf("a%02d\nb%02d", i, i)) // no newline at the end
		want = append(want, fmt.Sprintf("a%02d", i), fmt.Sprintf("b%02d", i))
	}
	tp, err := Glob([]string{dir + "/*"}, Config{Shared: true})
	if err != nil {
		t.Fatal(err)
	}
	parts, err := tp.Partitions(t.Context())
	if err != nil || len(parts) < 32 || len(parts) > bucketsMax {
		t.Fatalf("%d partitions, %v", len(parts), err)
	}
	var got []string
	for _, part := range parts {
		r, err := tp.Open(t.Context(), part, nil)
		if err != nil {
			t.Fatal(err)
		}
		bodies, marks, err := readAll(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		for _, b := range bodies {
			got = append(got, string(b))
		}
		again, err := tp.Open(t.Context(), part, marks[0])
		if err != nil {
			t.Fatal(err)
		}
		if rest, _, err := readAll(again); err != nil || !bytes.Equal(joined(rest), joined(bodies[1:])) {
			t.Errorf("%s from its first mark: %q, %v; want %q", part, rest, err, bodies[1:])
		}
		_ = again.Close()
	}
	slices.SortFunc(got, func(a, b string) int { return strings.Compare(a[1:]+a, b[1:]+b) })
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// The first mark of a range knows its head, though it begins in the middle of the file.
func TestRangeHead(t *testing.T) {
	path := write(t, t.TempDir(), "f", "0\nhead\n1\n2\n")
	tp := &rangesTap{path: path, each: 4}
	const second = "[4-8)" // head is of the first
	r, err := tp.Open(t.Context(), path+second, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, at, err := r.Next(t.Context())
	if string(out.Body) != "1" || err != nil {
		t.Fatalf("%q, %v", out.Body, err)
	}
	for text, same := range map[string]bool{"0\nhead\n1\n2\n3\n": true, "x\nhead\n1\n2\n": true, "0\nhead\n1\n3\n": false, "0\nhead\n1\n": false} {
		write(t, filepath.Dir(path), "f", text)
		again, err := tp.Open(t.Context(), path+second, at)
		if same && err != nil || !same && !errors.Is(err, stream.ErrReset) {
			t.Errorf("%q: error %v", text, err)
		}
		if err == nil {
			_ = again.Close()
		}
	}
}
