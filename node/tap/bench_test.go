package tap

import (
	"bytes"
	"io"
	"testing"
)

// BenchmarkFile reads lines of 128 bytes.
func BenchmarkFile(b *testing.B) {
	const lines = 64 << 10
	tp, err := File(write(b, b.TempDir(), "f", string(bytes.Repeat(append(bytes.Repeat([]byte("x"), 127), '\n'), lines))), Config{})
	if err != nil {
		b.Fatal(err)
	}
	parts, _ := tp.Partitions(b.Context())
	b.SetBytes(128)
	b.ReportAllocs()
	r, err := tp.Open(b.Context(), parts[0], nil)
	for b.Loop() {
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err = r.Next(b.Context()); err == io.EOF {
			_ = r.Close()
			r, err = tp.Open(b.Context(), parts[0], nil)
		}
	}
}
