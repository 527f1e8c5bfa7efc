package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"weir/node"
	"weir/node/bench"
	"weir/topology"
)

const (
	// benchCapacity is the capacity of copying roles: two full hand-overs, since a copy is
	// done in less than a microsecond.
	benchCapacity = 512
	// benchWait is how long an order may take beyond its time: a cluster comes up first.
	benchWait = 10 * time.Second
)

// benchSeat is the first thing that a process of a bench reads: what it is.
type benchSeat struct {
	Index  int // 0: the tap; Hops: the sink; else a copying role
	Hops   int
	Size   int
	Secret []byte
	Join   string // "": it is the first
}

// role is the name of the seat's role.
func (s benchSeat) role() string {
	switch s.Index {
	case 0:
		return "tap"
	case s.Hops:
		return "sink"
	}
	return fmt.Sprintf("copy%d", s.Index)
}

// The orders, read one after the other until stdin ends; each is answered.
const (
	benchCPU     = "cpu"
	benchRecords = "records" // of the tap
	benchLags    = "lags"    // of the sink
	benchQUIC    = "quic"    // pour to Addr
	benchTLS     = "tls"
)

type benchOrder struct {
	Do    string
	For   time.Duration
	Every time.Duration // between records; 0 = none
	Addr  string
}

// benchAnswer is what an order gave, or, the first, where the process listens.
type benchAnswer struct {
	Error          string        `json:",omitempty"`
	Addr           string        `json:",omitempty"`
	QUIC           string        `json:",omitempty"`
	TLS            string        `json:",omitempty"`
	CPU            time.Duration `json:",omitempty"`
	Records        uint64        `json:",omitempty"`
	Took           time.Duration `json:",omitempty"`
	BytesPerSecond float64       `json:",omitempty"`
	P50            time.Duration `json:",omitempty"`
	P99            time.Duration `json:",omitempty"`
}

// newBenchNode is one process of `bench`, for which it is.
func newBenchNode() *cobra.Command {
	cmd := &cobra.Command{Use: "bench-node", Hidden: true, Args: cobra.NoArgs}
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		in, out := json.NewDecoder(cmd.InOrStdin()), json.NewEncoder(cmd.OutOrStdout())
		var seat benchSeat
		if err := in.Decode(&seat); err != nil {
			return &exitError{exitUsage, errors.New("bench-node is what bench starts: use weir bench")}
		}
		err := seat.run(cmd.Context(), in, out)
		if err != nil {
			_ = out.Encode(benchAnswer{Error: err.Error()}) // whoever started us says it, or has gone
		}
		return nil
	})
	return cmd
}

// benchNode is a process of a bench at work.
type benchNode struct {
	tap  *bench.Tap  // used at the first seat
	sink *bench.Sink // used at the last
}

// run runs a node until the orders end.
func (s benchSeat) run(ctx context.Context, in *json.Decoder, out *json.Encoder) error {
	b := benchNode{tap: bench.NewTap(s.Size), sink: new(bench.Sink)}
	n, err := node.New(s.config(b))
	if err != nil {
		return err
	}
	raw, err := bench.ListenRaw()
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.Run(ctx) })
	g.Go(func() error { return raw.Run(ctx) })
	err = out.Encode(benchAnswer{Addr: n.Addr(), QUIC: raw.QUIC(), TLS: raw.TLS()})
	for err == nil {
		var o benchOrder
		if err = in.Decode(&o); err == nil {
			err = out.Encode(b.do(ctx, o))
		}
	}
	stop(node.ErrKilled) // all others end as well: nothing to leave in good order
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, g.Wait())
}

// config is the node of a seat.
func (s benchSeat) config(b benchNode) node.Config {
	me := node.Role{Name: s.role()}
	switch s.Index {
	case 0:
		me.Tap = b.tap
	case s.Hops:
		me.Sink = b.sink
	default:
		me.Handler, me.Capacity = bench.Copy(), benchCapacity
	}
	c := node.Config{
		ID: topology.NodeID(s.role()), Roles: []node.Role{me}, Secret: s.Secret, Listen: "127.0.0.1:0",
		Pipelines: []topology.Pipeline{benchPipeline(s)}, Voters: 1,
	}
	if s.Join != "" {
		c.Join, c.Pipelines = []string{s.Join}, nil
	}
	return c
}

// benchPipeline is tap -> copy1 -> ... -> sink.
func benchPipeline(s benchSeat) topology.Pipeline {
	p := topology.Pipeline{Name: "bench", Version: 1}
	for i := range s.Hops + 1 {
		s.Index = i
		r := topology.Role{Name: s.role(), Kind: topology.KindGo}
		switch i {
		case 0:
			r.Kind = topology.KindTap
		case s.Hops:
			r.Kind = topology.KindSink
		}
		if i > 0 {
			p.Graph.Edges = append(p.Graph.Edges, topology.Edge{From: p.Roles[i-1].Name, To: r.Name})
		}
		p.Roles = append(p.Roles, r)
	}
	slices.SortFunc(p.Roles, func(a, b topology.Role) int { return strings.Compare(a.Name, b.Name) })
	return p
}

// do carries out an order.
func (b benchNode) do(ctx context.Context, o benchOrder) (a benchAnswer) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.For+benchWait, errBenchLate)
	defer cancel()
	var err error
	switch o.Do {
	case benchCPU:
		a.CPU, err = cpuTime()
	case benchRecords:
		a.Records, a.Took, err = b.tap.Run(ctx, o.For, o.Every)
	case benchLags:
		if lags := b.sink.Lags(); len(lags) > 0 {
			a.P50, a.P99 = lags[len(lags)/2], lags[len(lags)*99/100]
		}
	case benchQUIC:
		a.BytesPerSecond, err = bench.PourQUIC(ctx, o.Addr, o.For)
	case benchTLS:
		a.BytesPerSecond, err = bench.PourTLS(ctx, o.Addr, o.For)
	default:
		err = fmt.Errorf("unknown order %q", o.Do)
	}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

// errBenchLate says that an order took too long.
var errBenchLate = fmt.Errorf("not done after %s: another process of the bench has ended, or the machine is too busy", benchWait)

// cpuTime is the processor time that this process has used.
func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("ask for the processor time used: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
