package worker

import (
	"bytes"
	"context"
	"os/exec"
	"testing"

	"weir/stream"
)

// block is about what a tap cuts of a large file.
func block() []byte {
	return bytes.Repeat([]byte("one line of a log, not very long, with a number 1234567890 in it\n"), 512<<10/60)[:512<<10]
}

// discard is an emitter that keeps nothing.
type discard struct{ stream.Emitter }

func (discard) Emit(context.Context, stream.Out) error { return nil }

// BenchmarkCat is a worker's cost for a block: compare with BenchmarkBare.
func BenchmarkCat(b *testing.B) {
	for _, tc := range []struct {
		name string
		cfg  Config
		size int
	}{
		{"exec/512KiB", Config{Exec: []string{"cat"}}, 512 << 10},
		{"sh/512KiB", Config{Sh: "cat"}, 512 << 10},
		{"exec/100B", Config{Exec: []string{"cat"}}, 100},
	} {
		b.Run(tc.name, func(b *testing.B) {
			p, err := newProgram(tc.cfg)
			if err != nil {
				b.Fatal(err)
			}
			body := bytes.TrimSuffix(block()[:tc.size], newline)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := p.handle(context.Background(), stream.Record{Attempt: 1, Out: stream.Out{Body: body}}, discard{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBare is the same block through `sh -c cat` with nothing of ours around it.
func BenchmarkBare(b *testing.B) {
	body := block()
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		cmd := exec.Command("/bin/sh", "-c", "cat")
		cmd.Stdin = bytes.NewReader(body)
		if _, err := cmd.Output(); err != nil {
			b.Fatal(err)
		}
	}
}
