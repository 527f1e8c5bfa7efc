package sink

import (
	"fmt"
	"path/filepath"
	"testing"

	"weir/node/servertest"
	"weir/stream"
)

// BenchmarkStores writes lines of 100 bytes to real servers, durable settings on.
func BenchmarkStores(b *testing.B) {
	postgres, redis := servertest.Postgres(b), servertest.Redis(b)
	for name, open := range map[string]func() (stream.Sink, error){
		"postgres": func() (stream.Sink, error) { return Postgres(postgres.URL(), "lines") },
		"redis":    func() (stream.Sink, error) { return Redis(RedisConfig{URL: redis.URL(), Stream: "lines"}) },
		"sqlite":   func() (stream.Sink, error) { return SQLite(filepath.Join(b.TempDir(), "x.db"), "lines"), nil },
		"file":     func() (stream.Sink, error) { return OpenFile(FileConfig{Path: filepath.Join(b.TempDir(), "x")}) },
	} {
		for _, n := range []int{1, 64, 4096} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				s, err := open()
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				seq := uint64(0)
				rs := numbered(0, n)
				for i := range rs {
					rs[i].Body = fmt.Appendf(nil, "%0100d", i)
				}
				b.ReportAllocs()
				for b.Loop() {
					for i := range rs {
						rs[i].ID.Seq, seq = seq, seq+1
					}
					if err := s.Write(b.Context(), rs, stream.Seen{Source: 7, Bytes: rs[0].Body[:16]}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "lines/s")
			})
		}
	}
}
