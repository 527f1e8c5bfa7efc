package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	benchSizeDefault   byteSize = 128 // what DESIGN 7 measures with
	benchSizeMax       byteSize = 1 << 20
	benchHopsMax                = 8
	benchRoundsDefault          = 10
	benchRoundsMax              = 100
)

// The parts of a round, and what comes before the first. A round is short, so that what else the
// machine does meets all parts alike; a part is long against its start.
const (
	benchQUICTime    = 400 * time.Millisecond
	benchRecordsTime = 600 * time.Millisecond
	benchTLSTime     = 200 * time.Millisecond
	benchLightTime   = 300 * time.Millisecond
	benchWarmTime    = 500 * time.Millisecond // links come up; credit and congestion windows grow

	// Light load is a record each benchLightEvery, and at most this part of what goes at full.
	benchLightEvery = time.Millisecond
	benchLightPart  = 10
)

// benchConfig is what `bench` was asked to do.
type benchConfig struct {
	Hops   int
	Size   byteSize
	Rounds int
	JSON   bool
}

func newBench() *cobra.Command {
	cfg := benchConfig{Size: benchSizeDefault}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure records per second between processes, beside raw QUIC and TLS",
		Long: `bench starts a tap, copying roles and a sink, each a node in a process of its own, on
loopback UDP, and measures in rounds; it prints medians. A round is

  raw QUIC   one stream of quic-go with its own defaults on a plain UDP socket, mutual TLS, between
             the tap's and the sink's process, written 128 KiB at a time
  weir       records from tap to sink, as many as go, until all are acked end to end
  raw TLS    one TLS 1.3 connection over TCP, written likewise
  light      a record every millisecond, or a tenth of what went before if that is less: how long
             each took from tap to sink

CPU is that of all processes together, both ends of all hops, while records went as fast as they
could. With several hops, compare with --hops 1 of the same minute: a machine has only so many cores.`,
		Example: "  weir bench\n  weir bench --hops 3 --size 1KiB --json",
		Args:    cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.IntVar(&cfg.Hops, "hops", 1, fmt.Sprintf("`NUMBER` of links that a record goes over, 1 to %d", benchHopsMax))
	flags.Var(&cfg.Size, "size", "bytes of a record's body, up to 1MiB")
	flags.IntVar(&cfg.Rounds, "rounds", benchRoundsDefault, fmt.Sprintf("`NUMBER` of rounds of 1.5 s each, 1 to %d", benchRoundsMax))
	flags.BoolVar(&cfg.JSON, "json", false, "print the figures as one JSON object")
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		f, err := runBench(cfg, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		return f.write(cmd.OutOrStdout(), cfg.JSON)
	})
	return cmd
}

// validate refuses what cannot be measured.
func (c benchConfig) validate() error {
	switch {
	case c.Hops < 1 || c.Hops > benchHopsMax:
		return &exitError{exitUsage, fmt.Errorf("--hops %d: choose 1 to %d", c.Hops, benchHopsMax)}
	case c.Size > benchSizeMax:
		return &exitError{exitUsage, fmt.Errorf("--size %s: a record holds at most %s", c.Size, benchSizeMax)}
	case c.Rounds < 1 || c.Rounds > benchRoundsMax:
		return &exitError{exitUsage, fmt.Errorf("--rounds %d: choose 1 to %d", c.Rounds, benchRoundsMax)}
	}
	return nil
}

// benchFigures are what `bench --json` prints: medians of the rounds.
type benchFigures struct {
	Hops               int     `json:"hops"`
	Size               int     `json:"size"`
	Seconds            float64 `json:"seconds"` // that records went, in all rounds
	RecordsPerSecond   float64 `json:"records_per_s"`
	BytesPerSecond     float64 `json:"bytes_per_s"`       // of bodies
	CPUMicros          float64 `json:"cpu_us_per_record"` // all processes together
	P50Micros          float64 `json:"p50_us"`            // tap to sink, at light load
	P99Micros          float64 `json:"p99_us"`
	QUICBytesPerSecond float64 `json:"raw_quic_bytes_per_s"`
	TLSBytesPerSecond  float64 `json:"tls_bytes_per_s"`
}

// benchRounds is what the rounds gave, one entry each.
type benchRounds struct {
	quic, tls, records, cpu []float64 // bytes, bytes and records a second; microseconds a record
	seconds                 float64
}

// figures are the medians.
func (r benchRounds) figures(cfg benchConfig) benchFigures {
	rate := median(r.records)
	return benchFigures{
		Hops: cfg.Hops, Size: int(cfg.Size), Seconds: rounded(r.seconds, 1000),
		RecordsPerSecond: rounded(rate, 1), BytesPerSecond: rounded(rate*float64(cfg.Size), 1),
		CPUMicros:          rounded(median(r.cpu), 1000),
		QUICBytesPerSecond: rounded(median(r.quic), 1), TLSBytesPerSecond: rounded(median(r.tls), 1),
	}
}

// median of at least one; the upper one of two.
func median(xs []float64) float64 {
	return slices.Sorted(slices.Values(xs))[len(xs)/2]
}

// rounded is x as a multiple of 1/parts.
func rounded(x, parts float64) float64 { return math.Round(x*parts) / parts }

// write prints the figures for a program or for people.
func (f benchFigures) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(f)
	}
	b := new(strings.Builder)
	fmt.Fprintf(b, "%s a second of %s over %s between %d processes\n", plural(uint64(f.RecordsPerSecond), "record"),
		plural(uint64(f.Size), "byte"), plural(uint64(f.Hops), "hop"), f.Hops+1)
	t := newTable("", ">MB/s", "")
	for _, row := range []struct {
		name  string
		bytes float64
		note  string
	}{
		{"weir", f.BytesPerSecond, fmt.Sprintf("%.2f µs of CPU a record", f.CPUMicros)},
		{"raw QUIC", f.QUICBytesPerSecond, fmt.Sprintf("weir has %.2f of it", f.BytesPerSecond/f.QUICBytesPerSecond)},
		{"raw TLS", f.TLSBytesPerSecond, fmt.Sprintf("weir has %.2f of it", f.BytesPerSecond/f.TLSBytesPerSecond)},
	} {
		t.add(row.name, fmt.Sprintf("%.1f", row.bytes/1e6), row.note)
	}
	t.writeTo(b, "  ")
	fmt.Fprintf(b, "at light load from tap to sink: p50 %.0f µs, p99 %.0f µs\n", f.P50Micros, f.P99Micros)
	_, err := io.WriteString(w, b.String())
	return err
}
