package worker

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
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

// BenchmarkLine is a resident program's cost for a batch of 50 lines of 100 bytes, and for a block.
func BenchmarkLine(b *testing.B) {
	short := string(block()[:100])
	for _, tc := range []struct {
		name string
		body string
		n    int
	}{
		{"100B", strings.TrimSpace(strings.ReplaceAll(short, "\n", " ")), 50},
		{"512KiB", strings.TrimSuffix(string(block()), "\n"), 1},
	} {
		b.Run(tc.name, func(b *testing.B) {
			p, err := newProgram(Config{Exec: []string{"cat"}})
			if err != nil {
				b.Fatal(err)
			}
			l := newLine(p, Config{Exec: []string{"cat"}, Procs: 1})
			ctx, cancel := context.WithCancel(b.Context())
			ran := make(chan struct{})
			go func() { defer close(ran); _ = l.Run(ctx) }()
			rs := make([]stream.Record, tc.n)
			for i := range rs {
				rs[i] = record(tc.body)
			}
			b.SetBytes(int64(tc.n * len(tc.body)))
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := l.handle(ctx, rs, discards{}); err != nil {
						b.Fatal(err)
					}
				}
			})
			cancel()
			<-ran
		})
	}
}

// discards is a batch that keeps nothing.
type discards struct{}

func (discards) To(int) stream.Emitter { return discard{} }

func (discards) Nack(int, error) {}

// BenchmarkFrame is a resident program's cost for a batch of 50 records of 100 bytes that sed answers.
func BenchmarkFrame(b *testing.B) {
	cfg := Config{Exec: []string{"sed", "-u", `s/"attempt":1,//; s/}$/,"done":true}/`}, Frame: true, Procs: 1}
	p, err := newProgram(cfg)
	if err != nil {
		b.Fatal(err)
	}
	s := newFrame(p)
	ctx, cancel := context.WithCancel(b.Context())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = s.Run(ctx) }() // ended by cancel
	rs := make([]stream.Record, 50)
	for i := range rs {
		rs[i] = record(string(block()[:100]))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := s.handle(ctx, rs, discards{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	cancel()
	<-ran
}

// BenchmarkHTTP is the cost of a record of 100 bytes that an endpoint of this process echoes.
func BenchmarkHTTP(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer server.Close()
	h, err := newPoster(HTTPConfig{URL: server.URL})
	if err != nil {
		b.Fatal(err)
	}
	defer h.transport.CloseIdleConnections()
	r := record(string(block()[:100]))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := h.handle(b.Context(), r, discard{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
