package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/consensus"
	"weir/node/api"
	"weir/stream"
	"weir/topology"
)

// cluster is real nodes over real UDP on loopback, in this process.
type cluster struct {
	t      *testing.T
	secret []byte
	seed   string
	graph  topology.Pipeline
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
	nodes  []*Node
}

// newCluster makes a cluster for one pipeline; its first node bootstraps.
func newCluster(t *testing.T, graph string, kinds map[string]topology.Kind) *cluster {
	t.Helper()
	g, err := topology.Parse(graph)
	if err != nil {
		t.Fatal(err)
	}
	p := topology.Pipeline{Name: "p", Graph: g}
	for _, role := range g.Roles() {
		p.Roles = append(p.Roles, topology.Role{Name: role, Kind: kinds[role]})
	}
	c := &cluster{t: t, secret: make([]byte, secretBytes), graph: p}
	_, _ = rand.Read(c.secret)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	t.Cleanup(c.stop)
	return c
}

// add starts a node with the role; the returned func stops it alone.
func (c *cluster) add(role Role, edits ...func(*Config)) (n *Node, stop func()) {
	c.t.Helper()
	cfg := Config{Secret: c.secret, Listen: "127.0.0.1:0", Roles: []Role{role}, Pipelines: []topology.Pipeline{c.graph}}
	if os.Getenv("WEIR_TEST_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if c.seed != "" {
		cfg.Join = []string{c.seed}
	}
	for _, edit := range edits {
		edit(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.seed == "" {
		c.seed = n.Addr()
	}
	c.nodes = append(c.nodes, n)
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	c.group.Go(func() {
		defer close(done)
		if err := n.Run(ctx); err != nil {
			c.t.Errorf("node %s: %v", n.ID(), err)
		}
	})
	return n, func() { cancel(); <-done }
}

func (c *cluster) stop() {
	c.cancel()
	c.group.Wait()
}

// until asks for the status until f holds; it fails the test after limit.
func (c *cluster) until(limit time.Duration, what string, f func(api.Status) bool) api.Status {
	c.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		st, err := c.nodes[0].Status(c.ctx)
		if err == nil && f(st) {
			return st
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("not within %v: %s\n%+v", limit, what, st)
		}
	}
}

func finished(st api.Status) bool {
	return len(st.Pipelines) == 1 && st.Pipelines[0].State == "finished"
}

// numbered is a Tap of n records of JSON.
type numbered struct{ n int }

func (t numbered) Partitions(context.Context) ([]string, error) { return []string{"numbers"}, nil }

func (t numbered) Open(context.Context, string, stream.Mark) (stream.Reader, error) {
	return &numberedReader{n: t.n}, nil
}

type numberedReader struct{ n, at int }

func (r *numberedReader) Next(context.Context) (stream.Out, stream.Mark, error) {
	if r.at == r.n {
		return stream.Out{}, nil, io.EOF
	}
	r.at++
	return stream.Out{Body: fmt.Appendf(nil, `{"id":%d}`, r.at-1)}, stream.Mark(fmt.Append(nil, r.at)), nil
}

func (r *numberedReader) Done(stream.Mark, error) {}
func (r *numberedReader) Close() error            { return nil }

// collect is a Sink that counts bodies.
type collect struct {
	mu     sync.Mutex
	bodies map[string]int
	closed bool
}

func newCollect() *collect { return &collect{bodies: make(map[string]int)} }

func (s *collect) Load(context.Context, uint64) ([]byte, error) { return nil, nil }

func (s *collect) Write(_ context.Context, rs []stream.Record, _ stream.Seen) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rs {
		s.bodies[string(r.Body)]++
	}
	return nil
}

func (s *collect) Close() error {
	s.closed = true
	return nil
}

// check fails unless exactly the n records, with suffix, came once each.
func (s *collect) check(t *testing.T, n int, suffix string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range n {
		if body := fmt.Sprintf(`{"id":%d}`, i) + suffix; s.bodies[body] != 1 {
			t.Fatalf("%s came %d times, want once", body, s.bodies[body])
		}
	}
	if len(s.bodies) != n {
		t.Fatalf("%d different records, want %d", len(s.bodies), n)
	}
}

// work is a handler that takes d a record and adds a mark; it counts.
func work(d time.Duration, count *atomic.Int64) stream.Handler {
	return stream.Each(func(ctx context.Context, r stream.Record, e stream.Emitter) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		count.Add(1)
		return e.Emit(ctx, stream.Out{Body: append(append([]byte(nil), r.Body...), '+')})
	})
}

var mapKinds = map[string]topology.Kind{"tap": topology.KindTap, "map": topology.KindGo, "sink": topology.KindSink}

// A3: a map of 1 ms, 10 at once, one node and two: all 20,000 records arrive whole. The seed
// lost up to 95 %.
func TestFlood(t *testing.T) {
	for _, maps := range []int{1, 2} {
		t.Run(fmt.Sprint(maps), func(t *testing.T) {
			const n = 20_000
			c := newCluster(t, "tap -> map -> sink", mapKinds)
			var count atomic.Int64
			sink := newCollect()
			c.add(Role{Name: "tap", Tap: numbered{n}})
			for range maps {
				c.add(Role{Name: "map", Capacity: 10, Handler: work(time.Millisecond, &count)})
			}
			c.add(Role{Name: "sink", Sink: sink})
			st := c.until(60*time.Second, "finished", finished)
			sink.check(t, n, "+")
			if p := st.Pipelines[0]; p.RecordsIn != n || p.RecordsOut != n || p.Duplicates != 0 {
				t.Errorf("status: %+v", p)
			}
			c.stop()
			if !sink.closed {
				t.Error("the sink was not closed")
			}
		})
	}
}

// A4: a slow end, 5 ms and 50 at once: the tap is stopped, what is in flight is within the
// windows, all 20,000 arrive.
func TestSlowEnd(t *testing.T) {
	const n = 20_000
	c := newCluster(t, "tap -> sink", map[string]topology.Kind{"tap": topology.KindTap, "sink": topology.KindGo})
	var count atomic.Int64
	c.add(Role{Name: "tap", Tap: numbered{n}})
	slow := stream.Each(func(ctx context.Context, _ stream.Record, _ stream.Emitter) error {
		timer := time.NewTimer(5 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
			count.Add(1)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	c.add(Role{Name: "sink", Capacity: 50, Handler: slow})
	var most int64
	c.until(60*time.Second, "finished", func(st api.Status) bool {
		for _, e := range st.Edges {
			most = max(most, e.InflightRecords)
		}
		return finished(st)
	})
	if count.Load() != n {
		t.Errorf("%d records arrived, want %d", count.Load(), n)
	}
	if most == 0 || most > 4096 {
		t.Errorf("at most %d records in flight; want some, within the window of 4096", most)
	}
}

// A7: a tap alone loses nothing and holds nothing; when the sink comes, all 1000 arrive.
func TestNoDownstream(t *testing.T) {
	const n = 1000
	c := newCluster(t, "tap -> sink", map[string]topology.Kind{"tap": topology.KindTap, "sink": topology.KindSink})
	tap, _ := c.add(Role{Name: "tap", Tap: numbered{n}})
	st := c.until(10*time.Second, "the tap's first record", func(st api.Status) bool {
		return len(st.Pipelines) == 1 && st.Pipelines[0].RecordsIn > 0
	})
	if p := st.Pipelines[0]; p.State != "waiting" || !strings.Contains(p.Reason, "sink") || p.RecordsIn > 1 {
		t.Errorf("alone: %+v", p)
	}
	if tap.Writable("p/tap") || st.Nodes[0].HeldBytes != 0 {
		t.Errorf("alone: writable %v, %d bytes held", tap.Writable("p/tap"), st.Nodes[0].HeldBytes)
	}
	sink := newCollect()
	c.add(Role{Name: "sink", Sink: sink})
	c.until(20*time.Second, "finished", finished)
	sink.check(t, n, "")
}

// A10: two equal filters get 50 +- 5 % each; the seed gave 75 and 25.
func TestFairness(t *testing.T) {
	const n = 10_000
	c := newCluster(t, "tap -> map -> sink", mapKinds)
	var counts [2]atomic.Int64
	for i := range counts { // before the tap, which would begin with the first that comes
		c.add(Role{Name: "map", Capacity: 10, Handler: work(time.Millisecond, &counts[i])})
	}
	sink := newCollect()
	c.add(Role{Name: "sink", Sink: sink})
	c.until(20*time.Second, "links to the sink", func(st api.Status) bool {
		return len(st.Edges) == 2 && st.Edges[1].Links == 2
	})
	c.add(Role{Name: "tap", Tap: numbered{n}})
	c.until(60*time.Second, "finished", finished)
	sink.check(t, n, "+")
	if a := counts[0].Load(); a < n*45/100 || a > n*55/100 {
		t.Errorf("the filters got %d and %d of %d records", a, counts[1].Load(), n)
	}
}

// A node that is stopped leaves without a redelivery, and its work goes on elsewhere.
func TestLeave(t *testing.T) {
	const n = 5_000
	c := newCluster(t, "tap -> map -> sink", mapKinds)
	sink := newCollect()
	c.add(Role{Name: "tap", Tap: numbered{n}})
	var stay, leave atomic.Int64
	c.add(Role{Name: "map", Capacity: 4, Handler: work(time.Millisecond, &stay)})
	_, stop := c.add(Role{Name: "map", Capacity: 4, Handler: work(time.Millisecond, &leave)})
	c.add(Role{Name: "sink", Sink: sink})
	c.until(30*time.Second, "both at work", func(api.Status) bool { return stay.Load() > 100 && leave.Load() > 100 })
	stop()
	st := c.until(60*time.Second, "finished", finished)
	sink.check(t, n, "+")
	for _, e := range st.Edges {
		if e.RedeliveredTotal != 0 {
			t.Errorf("%s -> %s: %d redelivered by a leave", e.From, e.To, e.RedeliveredTotal)
		}
	}
}

// A record that fails three times stops the run, with its reason, on all nodes.
func TestFailureStopsTheRun(t *testing.T) {
	c := newCluster(t, "tap -> map -> sink", mapKinds)
	c.add(Role{Name: "tap", Tap: numbered{1000}})
	bad := stream.Each(func(ctx context.Context, r stream.Record, e stream.Emitter) error {
		if string(r.Body) == `{"id":500}` {
			return errors.New("no such user")
		}
		return e.Emit(ctx, r.Out)
	})
	c.add(Role{Name: "map", Handler: bad})
	c.add(Role{Name: "sink", Sink: newCollect()})
	st := c.until(20*time.Second, "failed", func(st api.Status) bool {
		return len(st.Pipelines) == 1 && st.Pipelines[0].State == "failed"
	})
	want := `role map failed 3 times on record 500 of its source, "{\"id\":500}": no such user`
	if p := st.Pipelines[0]; p.Reason != want {
		t.Errorf("reason %q, want %q", p.Reason, want)
	}
}

// A tap or sink that is at work for one pipeline is not for another, which says so and starts when
// it may: with its links, which could not be opened before.
func TestBusyRoles(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "tap -> map -> sink", mapKinds)
	first, _ := c.add(Role{Name: "tap", Tap: numbered{1 << 30}})
	c.add(Role{Name: "map", Handler: work(time.Millisecond, new(atomic.Int64))})
	c.add(Role{Name: "sink", Sink: newCollect()})
	q := c.graph
	q.Name, q.Roles = "q", slices.SortedFunc(slices.Values(q.Roles), func(a, b topology.Role) int { return strings.Compare(a.Name, b.Name) })
	second := func(st api.Status) api.Pipeline {
		if len(st.Pipelines) < 2 {
			return api.Pipeline{}
		}
		return st.Pipelines[1]
	}
	c.until(20*time.Second, "running", func(st api.Status) bool { return len(st.Pipelines) == 1 && st.Pipelines[0].RecordsOut > 0 })
	if _, err := first.Apply(c.ctx, api.Revision{Pipeline: q}); err != nil {
		t.Fatal(err)
	}
	st := c.until(10*time.Second, "waiting", func(st api.Status) bool {
		return second(st).State == "waiting" && strings.Count(second(st).Reason, "role ") == 2
	})
	want := "role sink does not run on " + string(c.nodes[2].ID()) + ": it is at work for pipeline p; role tap does not run on " +
		string(first.ID()) + ": it is at work for pipeline p"
	if got := second(st).Reason; got != want {
		t.Errorf("reason %q, want %q", got, want)
	}
	if err := first.consensus.Propose(c.ctx, consensus.Fail("p", "enough", 1)); err != nil {
		t.Fatal(err)
	}
	c.until(10*time.Second, "the second running", func(st api.Status) bool {
		return second(st).State == "running" && second(st).RecordsOut > 100
	})
}

// begun is a Sink of a file.
type begun struct{ *collect }

func (begun) Path() string                      { return "out" }
func (begun) Begin(context.Context, bool) error { return nil }

// A sink that may not open its file says so, where it stood still and nobody was told.
func TestOpeningThatIsRefusedStopsTheRun(t *testing.T) {
	c := newCluster(t, "tap -> sink", mapKinds)
	first, _ := c.add(Role{Name: "tap", Tap: numbered{10}})
	c.until(10*time.Second, "made", func(st api.Status) bool { return len(st.Pipelines) == 1 })
	g, ctx := errgroup.WithContext(c.ctx)
	g.SetLimit(64) // what raft takes at once
	for i, full := uint64(0), false; !full; i++ {
		g.Go(func() error { return first.consensus.Propose(ctx, consensus.Open("p", consensus.Opening{File: i})) })
		p, _ := first.consensus.State().Pipeline("p")
		full = p.MayOpen() != nil || ctx.Err() != nil
	}
	err := g.Wait() // those too many are refused
	if p, _ := first.consensus.State().Pipeline("p"); p.MayOpen() == nil {
		t.Fatalf("not full: %v", err)
	}
	c.add(Role{Name: "sink", Sink: begun{newCollect()}})
	st := c.until(10*time.Second, "failed", func(st api.Status) bool { return st.Pipelines[0].State == "failed" })
	if got := st.Pipelines[0].Reason; !strings.HasPrefix(got, "role sink: the sinks of pipeline p have opened 4096 files") || strings.Contains(got, "\n") {
		t.Errorf("reason %q", got)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for want, cfg := range map[string]Config{
		"config: Join needs the Secret of the cluster":                                   {Join: []string{"127.0.0.1:1"}},
		"config: Secret has 3 bytes, want 32":                                            {Secret: []byte("abc")},
		"config: Voters is 9, want 1 to 5":                                               {Voters: 9},
		"role r: want exactly one of Handler, Tap and Sink, got 0":                       {Roles: []Role{{Name: "r"}}},
		"role r: want exactly one of Handler, Tap and Sink, got 2":                       {Roles: []Role{{Name: "r", Tap: numbered{}, Sink: newCollect()}}},
		"--listen 127.0.0.1:99999: want HOST:PORT or :PORT: address 99999: invalid port": {Listen: "127.0.0.1:99999"},
	} {
		if _, err := New(cfg); err == nil || err.Error() != want {
			t.Errorf("New: %v, want %s", err, want)
		}
	}
}
