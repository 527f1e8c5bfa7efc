package bench

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"weir/node"
	"weir/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the tap counts is what reaches the sink and is acked, and only records that carry their
// time are timed.
func TestTapToSink(t *testing.T) {
	tap, sink := NewTap(100), new(Sink)
	graph, err := topology.Parse("tap -> copy -> sink")
	if err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithCancelCause(t.Context())
	n, err := node.New(node.Config{
		Listen: "127.0.0.1:0",
		Roles:  []node.Role{{Name: "tap", Tap: tap}, {Name: "copy", Handler: Copy()}, {Name: "sink", Sink: sink}},
		Pipelines: []topology.Pipeline{{Name: "bench", Version: 1, Graph: graph, Roles: []topology.Role{
			{Name: "copy", Kind: topology.KindGo}, {Name: "sink", Kind: topology.KindSink}, {Name: "tap", Kind: topology.KindTap},
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	defer func() {
		kill(node.ErrKilled)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	soon, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()

	if _, _, err := tap.Run(soon, 0, 0); err != nil { // until the links are there
		t.Fatal(err)
	}
	full, took, err := tap.Run(soon, 100*time.Millisecond, 0)
	if err != nil || full < 100 || took < 100*time.Millisecond {
		t.Fatalf("%d records in %s, %v", full, took, err)
	}
	if lags := sink.Lags(); len(lags) != 0 {
		t.Errorf("%d records of full load were timed", len(lags))
	}
	light, took, err := tap.Run(soon, 100*time.Millisecond, 10*time.Millisecond)
	if err != nil || light < 2 || light > uint64(took/(10*time.Millisecond))+2 {
		t.Errorf("%d records of one per 10 ms in %v, %v", light, took, err)
	}
	lags := sink.Lags()
	if uint64(len(lags)) != light {
		t.Errorf("%d of %d records were timed", len(lags), light)
	}
	for _, lag := range lags {
		if lag <= 0 || lag > time.Second {
			t.Errorf("a record took %s", lag)
		}
	}
	if lags := sink.Lags(); len(lags) != 0 {
		t.Error("latencies were given twice")
	}
	cancel()
	if _, _, err := tap.Run(soon, time.Second, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Run with a context that is over: %v", err)
	}
}

func TestRaw(t *testing.T) {
	raw, err := ListenRaw()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- raw.Run(ctx) }()
	for range 2 { // one stream after the other
		for addr, pour := range map[string]func(context.Context, string, time.Duration) (float64, error){
			raw.QUIC(): PourQUIC, raw.TLS(): PourTLS,
		} {
			if rate, err := pour(ctx, addr, 20*time.Millisecond); err != nil || rate < 1e6 {
				t.Errorf("%s: %.0f bytes a second, %v", addr, rate, err)
			}
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, pour := range []func(context.Context, string, time.Duration) (float64, error){PourQUIC, PourTLS} {
		if _, err := pour(ctx, raw.TLS(), time.Second); err == nil {
			t.Error("poured to nobody")
		}
	}
}
