package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"weir/stream"
)

var packings = []struct{ ext, unpack string }{{".gz", "gzip"}, {".zst", "zstd"}}

// unpack is what the program of that packing makes of a file; where it is not there, our library.
func unpack(t *testing.T, program, path string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		out, err := exec.Command(program, "-dc", path).Output()
		return string(out), err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r io.Reader
	if program == "gzip" {
		r, err = gzip.NewReader(bytes.NewReader(text))
	} else {
		r, err = zstd.NewReader(bytes.NewReader(text), zstd.WithDecoderConcurrency(1))
	}
	if err != nil {
		return "", err
	}
	out, err := io.ReadAll(r)
	return string(out), err
}

func writeRun(t *testing.T, path string, keep, fresh bool, writes ...[]stream.Record) {
	t.Helper()
	s, err := OpenFile(FileConfig{Path: path, Append: keep})
	if err != nil {
		t.Fatal(err)
	}
	if err := begin(t, s, fresh); err != nil {
		t.Fatal(err)
	}
	for _, rs := range writes {
		if err := s.Write(t.Context(), rs, stream.Seen{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// What was acked can be unpacked, of a file without records too, and by others.
func TestPacked(t *testing.T) {
	large := strings.Repeat("x y z", gatherBytes/5)
	for _, p := range packings {
		path := filepath.Join(t.TempDir(), "out"+p.ext)
		want := ""
		for _, run := range []struct {
			keep, fresh bool
			writes      [][]stream.Record
			want        string // behind what was there, or instead of it
		}{
			{false, true, nil, ""},
			{false, true, [][]stream.Record{records("a", "b"), records("c")}, "a\nb\nc\n"},
			{false, false, [][]stream.Record{records("d")}, "d\n"},
			{false, true, [][]stream.Record{records("e")}, "e\n"},
			{true, true, [][]stream.Record{records(large, "f"), records(large, large)}, large + "\nf\n" + large + "\n" + large + "\n"},
			{true, false, nil, ""},
		} {
			writeRun(t, path, run.keep, run.fresh, run.writes...)
			if run.fresh && !run.keep {
				want = ""
			}
			want += run.want
			if got, err := unpack(t, p.unpack, path); err != nil || got != want {
				t.Errorf("%s: unpacked %d bytes %.40q, error %v; want %d %.40q", p.ext, len(got), got, err, len(want), want)
			}
		}
	}
}

// Wherever a file is torn, the run goes on behind the last part that is all there.
func TestPackedGoesOnAfterTearing(t *testing.T) {
	for _, p := range packings {
		dir := t.TempDir()
		path := filepath.Join(dir, "out"+p.ext)
		ends := []int64{0} // of the file after each write
		texts := []string{""}
		s, err := OpenFile(FileConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(1, 2))
		for i := range 6 {
			noise := make([]byte, 300*i*i) // does not pack: raw blocks
			for j := range noise {
				noise[j] = byte('a' + rng.IntN(26))
			}
			body := fmt.Sprintf("%d %s %s", i, noise, strings.Repeat("y", 100*i))
			if err := s.Write(t.Context(), records(body), stream.Seen{}); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			ends, texts = append(ends, info.Size()), append(texts, texts[i]+body+"\n")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		all, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		empty := int64(len(packingOf(path).pack(nil, nil)))
		for cut := empty; cut <= int64(len(all)); cut += 1 + cut/10 {
			torn := filepath.Join(dir, "torn"+p.ext)
			if err := os.WriteFile(torn, all[:cut], 0o644); err != nil {
				t.Fatal(err)
			}
			want := ""
			for i, end := range ends {
				if end <= cut {
					want = texts[i]
				}
			}
			forget(t, torn)
			writeRun(t, torn, false, false, records("again"))
			if got, err := unpack(t, p.unpack, torn); err != nil || got != want+"again\n" {
				t.Fatalf("%s cut at %d: unpacked %d bytes, error %v; want %d", p.ext, cut, len(got), err, len(want)+6)
			}
		}
	}
}

// forget takes the journal away: the file is then as one that another program made.
func forget(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(journalOf(nil, path).path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// What cannot have been written by a run is not cut away: it is named.
func TestPackedDamaged(t *testing.T) {
	gz := string(gzipPacking().pack(nil, []byte("a\n")))
	zst := string(packingOf(".zst").pack(nil, []byte("a line\n")))
	for _, tc := range []struct{ name, file, was, want string }{
		{"text", "out.gz", "hello, this is no gzip file", "PATH cannot be gone on with: from byte 0 on it is damaged (gzip: invalid header): move it away, or cut it there by truncate -s 0"},
		{"text", "out.zst", "hello, this is no zstd file", "PATH cannot be gone on with: from byte 0 on it is damaged (invalid input: magic number mismatch): move it away, or cut it there by truncate -s 0"},
		{"zeros", "out.gz", gz + strings.Repeat("\x00", 50), fmt.Sprintf("PATH cannot be gone on with: from byte %d on it is damaged (gzip: invalid header): move it away, or cut it there by truncate -s %[1]d", len(gz))},
		{"a flipped bit", "out.gz", gz + gz[:len(gz)-5] + "\xff" + gz[len(gz)-4:], fmt.Sprintf("PATH cannot be gone on with: from byte %d on it is damaged (gzip: invalid checksum): move it away, or cut it there by truncate -s %[1]d", len(gz))},
		{"a flipped bit", "out.zst", zst + zst[:len(zst)-6] + "\xff" + zst[len(zst)-5:], fmt.Sprintf("PATH cannot be gone on with: from byte %d on it is damaged (CRC check failed): move it away, or cut it there by truncate -s %[1]d", len(zst))},
		{"one part, torn", "out.gz", gz[:len(gz)-1], "PATH cannot be gone on with: from byte 0 on it is damaged (it ends in its first part): move it away, or cut it there by truncate -s 0"},
		{"a reserved block", "out.zst", "\x28\xb5\x2f\xfd\x20\x00\x07\x00\x00", "PATH cannot be gone on with: from byte 0 on it is damaged (invalid input: reserved block type encountered): move it away, or cut it there by truncate -s 0"},
	} {
		path := filepath.Join(t.TempDir(), tc.file)
		if err := os.WriteFile(path, []byte(tc.was), 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := OpenFile(FileConfig{Path: path, Append: true})
		if err != nil {
			t.Fatal(err)
		}
		err = begin(t, s, true)
		var damaged *DamagedError
		if want := strings.ReplaceAll(tc.want, "PATH", path); !errors.As(err, &damaged) || err.Error() != want || damaged.ExitCode() != 65 {
			t.Errorf("%s: error %v, want %s", tc.name, err, want)
		}
		if got, _ := os.ReadFile(path); string(got) != tc.was {
			t.Errorf("%s: it was changed", tc.name)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// endsLater is a context that is done from its second look on.
type endsLater struct {
	context.Context
	looks int
}

func (c *endsLater) Err() error {
	if c.looks++; c.looks < 2 {
		return nil
	}
	return context.Canceled
}

// Unpacking what a large file holds ends with the role.
func TestPackedBeginCancelled(t *testing.T) {
	for _, p := range packings {
		path := filepath.Join(t.TempDir(), "out"+p.ext)
		writeRun(t, path, false, true, records("a"))
		forget(t, path)
		s, err := OpenFile(FileConfig{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the node leaves")
		cancel(why)
		if err := s.(*file).Begin(&endsLater{Context: ctx}, false); !errors.Is(err, why) {
			t.Errorf("%s: error %v, want %v", p.ext, err, why)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A file that another program packed is gone on with too.
func TestPackedForeign(t *testing.T) {
	for _, p := range packings {
		if _, err := exec.LookPath(p.unpack); err != nil {
			t.Skipf("%s is not here to pack a file: %v", p.unpack, err)
		}
		path := filepath.Join(t.TempDir(), "out"+p.ext)
		long := strings.Repeat("a line of another program\n", 40_000)
		pack := exec.Command(p.unpack, "-c")
		pack.Stdin = strings.NewReader(long)
		packed, err := pack.Output()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, packed, 0o644); err != nil {
			t.Fatal(err)
		}
		writeRun(t, path, true, true, records("ours"))
		if got, err := unpack(t, p.unpack, path); err != nil || got != long+"ours\n" {
			t.Errorf("%s: unpacked %d bytes, error %v", p.ext, len(got), err)
		}
	}
}

// BenchmarkPack is what a write of so many bytes of a log costs, and what it leaves of them.
func BenchmarkPack(b *testing.B) {
	var text bytes.Buffer
	rng := rand.New(rand.NewPCG(1, 2))
	for text.Len() < 8<<20 {
		fmt.Fprintf(&text, "2026-07-01T12:%02d:%02d.%06dZ INFO node=n%d link=%d record %d acked after %d us\n",
			rng.IntN(60), rng.IntN(60), rng.IntN(1e6), rng.IntN(9), rng.IntN(99), rng.IntN(1e9), rng.IntN(5000))
	}
	for _, p := range packings {
		for _, size := range []int{100, 1 << 10, 4 << 10, 32 << 10, 128 << 10, 512 << 10, 8 << 20} {
			b.Run(fmt.Sprintf("%s/%d", p.ext, size), func(b *testing.B) {
				packing := packingOf(p.ext)
				b.SetBytes(int64(size))
				var out []byte
				in, packed := 0, 0
				for b.Loop() {
					at := in % (text.Len() - size + 1)
					out = packing.pack(out[:0], text.Bytes()[at:at+size])
					in += size
					packed += len(out)
				}
				b.ReportMetric(float64(in)/float64(packed), "ratio")
			})
		}
	}
}
