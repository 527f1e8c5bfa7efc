package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/topology"
)

// rig is one process' worth of a pipeline: roles joined by in-memory links.
type rig struct {
	t      testing.TB
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
	gen    atomic.Uint64
	failed chan string // the first reason that a run must stop
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, failed: make(chan string, 8)} // as many as a test has outlets
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

func (r *rig) stop() {
	r.cancel()
	r.group.Wait()
}

func (r *rig) outlet(role string, b *Budget, send topology.Send, to ...string) *Outlet {
	var edges []topology.Edge
	for _, role2 := range to {
		edges = append(edges, topology.Edge{From: role, To: role2})
	}
	return NewOutlet(OutletConfig{
		Pipeline: "p", Role: role, Edges: edges, Send: send, Budget: b,
		Fail: func(reason string, exit int) { r.failed <- fmt.Sprintf("%s (exit %d)", reason, exit) },
	})
}

func (r *rig) inlet(cfg InletConfig) *Inlet {
	if cfg.Budget == nil {
		cfg.Budget = NewBudget(0)
	}
	cfg.Log = cmp.Or(cfg.Log, slog.New(slog.DiscardHandler))
	in := NewInlet(cfg)
	r.group.Go(func() { _ = in.Run(r.ctx) })
	return in
}

func (r *rig) sink(role string, s Sink) (*Inlet, *SinkHandler) {
	h := NewSinkHandler(SinkHandlerConfig{Sink: s})
	return r.inlet(InletConfig{Role: role, Handler: h, Serial: true, OnMark: h.Mark}), h
}

// liveLink is a link that a test may cut.
type liveLink struct {
	cut     func() // as a broken connection
	drain   chan struct{}
	drained chan error
}

func (r *rig) link(o *Outlet, from, to string, in *Inlet, node topology.NodeID) *liveLink {
	return r.linkFrom("n0", o, from, to, in, node)
}

func (r *rig) linkFrom(self topology.NodeID, o *Outlet, from, to string, in *Inlet, node topology.NodeID) *liveLink {
	return r.linkOf(self, o, topology.Edge{From: from, To: to}, in, node)
}

func (r *rig) linkOf(self topology.NodeID, o *Outlet, edge topology.Edge, in *Inlet, node topology.NodeID) *liveLink {
	return r.linkServed(r.ctx, self, o, edge, in, node)
}

// linkServed is a link whose receiving end is served until ctx is done.
func (r *rig) linkServed(ctx context.Context, self topology.NodeID, o *Outlet, edge topology.Edge, in *Inlet, node topology.NodeID) *liveLink {
	a, b := net.Pipe()
	l := &liveLink{drain: make(chan struct{}), drained: make(chan error, 1)}
	l.cut = func() { a.Close(); b.Close() }
	h := Hello{Link: topology.Link{Pipeline: "p", Edge: edge, From: self, To: node}, Boot: 1, Generation: r.gen.Add(1)}
	r.group.Go(func() { l.drained <- o.Serve(r.ctx, a, h, l.drain) })
	r.group.Go(func() {
		inc, err := Accept(b)
		if err == nil {
			_ = in.Serve(ctx, inc, self)
		}
	})
	return l
}

func (r *rig) source(o *Outlet, b *Budget, reader Reader) (*Source, chan error) {
	s := NewSource(SourceConfig{ID: 1, Gen: 1, Partition: "test", Reader: reader, Outlet: o, Budget: b})
	done := make(chan error, 1)
	r.group.Go(func() { done <- s.Run(r.ctx, r.ctx) })
	return s, done
}

// numbers is a Reader of n numbered records.
type numbers struct {
	n, at int
	buf   []byte

	mu   sync.Mutex
	done int
}

func (r *numbers) Next(context.Context) (Out, Mark, error) {
	if r.at == r.n {
		return Out{}, nil, io.EOF
	}
	r.buf = fmt.Appendf(r.buf[:0], "record %d", r.at)
	r.at++
	return Out{Body: r.buf}, Mark(r.buf), nil
}

func (r *numbers) Done(Mark, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
}

func (r *numbers) Close() error { return nil }

// memory is a Sink that remembers; while stalled is not nil, Write waits for it.
type memory struct {
	mu      sync.Mutex
	bodies  map[string]int
	headers map[string]map[string]string // by body, of those that have any
	stalled chan struct{}
}

func newMemory() *memory {
	return &memory{bodies: make(map[string]int), headers: make(map[string]map[string]string)}
}

func (m *memory) Load(context.Context, uint64) ([]byte, error) { return nil, nil }

func (m *memory) Write(ctx context.Context, rs []Record, _ Seen) error {
	if m.stalled != nil {
		select {
		case <-m.stalled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range rs {
		m.bodies[string(r.Body)]++
		if r.Header != nil {
			m.headers[string(r.Body)] = r.Header
		}
	}
	return nil
}

func (m *memory) Close() error { return nil }

// check fails unless each of n numbered records, changed by f, is there; it returns how many
// came more than once.
func (m *memory) check(t testing.TB, n int, f func(string) string) (repeated int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range n {
		body := f(fmt.Sprintf("record %d", i))
		if m.bodies[body] == 0 {
			t.Fatalf("%q is lost", body)
		}
		repeated += m.bodies[body] - 1
	}
	if len(m.bodies) != n {
		t.Fatalf("%d different records at the sink, want %d", len(m.bodies), n)
	}
	return repeated
}

func same(s string) string { return s }

// shout is a handler that adds a mark to each record.
var shout = Each(func(ctx context.Context, r Record, e Emitter) error {
	return e.Emit(ctx, Out{Body: append(append([]byte(nil), r.Body...), '!')})
})

func shouted(s string) string { return s + "!" }

func TestFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		mid := r.outlet("map", b, "", "sink")
		in := r.inlet(InletConfig{Role: "map", Handler: shout, Outlet: mid, Budget: b})
		m := newMemory()
		sink, h := r.sink("sink", m)
		r.link(tap, "tap", "map", in, "n1")
		r.link(mid, "map", "sink", sink, "n2")
		const n = 20_000
		reader := &numbers{n: n}
		s, done := r.source(tap, b, reader)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if rep := m.check(t, n, shouted); rep != 0 {
			t.Errorf("%d records came twice", rep)
		}
		synctest.Wait() // the last word to the reader may come after
		if st := s.Stats(); st.Read != n || st.Acked != n || !st.Done || reader.done != n || st.Lines != n {
			t.Errorf("source: %+v, reader done %d", st, reader.done)
		}
		if st := h.Stats(); st != (SinkStats{Records: n, Lines: n}) {
			t.Errorf("sink: %+v", st)
		}
		time.Sleep(50 * time.Millisecond) // virtual: the last mark travels
		for _, o := range []*Outlet{tap, mid} {
			if st := o.Stats()[0]; st.Inflight != 0 || st.CreditUsed != 0 || st.Records != n || st.Deliveries != n || st.Redelivered != 0 || st.Pinned != 0 {
				t.Errorf("%s: %+v", o.cfg.Role, st)
			} else if got := sum(st.Latency[:]); got != n {
				t.Errorf("%s: %d latencies, want %d", o.cfg.Role, got, n)
			}
		}
		if b.Held() != 0 {
			t.Errorf("%d bytes still pinned", b.Held())
		}
		r.stop()
	})
}

func sum(ns []uint64) (total uint64) {
	for _, n := range ns {
		total += n
	}
	return total
}

// F3, L1: links die at any moment; what was un-acked goes to others, and nothing is lost.
func TestLinkDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		m := newMemory()
		sink, h := r.sink("sink", m)
		slow := Each(func(ctx context.Context, rec Record, e Emitter) error {
			time.Sleep(time.Millisecond)
			return shout.(each)(ctx, rec, e)
		})
		var links []*liveLink
		var ins []*Inlet
		for i := range 3 {
			mid := r.outlet("map", b, "", "sink")
			in := r.inlet(InletConfig{Role: "map", Handler: slow, Outlet: mid, Budget: b, Capacity: 10})
			r.linkFrom(topology.NodeID(fmt.Sprint("n", i)), mid, "map", "sink", sink, "n9")
			links = append(links, r.link(tap, "tap", "map", in, topology.NodeID(fmt.Sprint("n", i))))
			ins = append(ins, in)
		}
		const n = 5_000
		_, done := r.source(tap, b, &numbers{n: n})
		for i := range 12 {
			time.Sleep(20 * time.Millisecond)
			k := i % 3
			links[k].cut()
			<-links[k].drained
			links[k] = r.link(tap, "tap", "map", ins[k], topology.NodeID(fmt.Sprint("n", k)))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		repeated := m.check(t, n, shouted)
		st := tap.Stats()[0]
		if st.Redelivered == 0 || st.Deliveries != st.Records+st.Redelivered {
			t.Errorf("cut 12 links: %+v", st)
		}
		if dup := h.Stats().Duplicates; repeated != 0 || dup == 0 || dup > st.Redelivered {
			t.Errorf("the sink dropped %d, %d are there twice; %d were redelivered", dup, repeated, st.Redelivered)
		}
		if st.FirstRedelivered.IsZero() {
			t.Error("no time of the first redelivered ack")
		}
		if b.Held() != 0 {
			t.Errorf("%d bytes still pinned", b.Held())
		}
		r.stop()
	})
}

// A stalled sink stops the tap within its window; afterwards all records arrive (F31).
func TestBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		m := newMemory()
		m.stalled = make(chan struct{})
		sink, _ := r.sink("sink", m)
		r.link(tap, "tap", "sink", sink, "n1")
		const n = 50_000
		s, done := r.source(tap, b, &numbers{n: n})
		time.Sleep(60 * time.Second)
		at := s.Stats()
		if at.Read > windowRecords+1 {
			t.Errorf("the tap read %d records before a stalled sink; the window is %d", at.Read, windowRecords)
		}
		time.Sleep(60 * time.Second)
		if later := s.Stats(); later.Read != at.Read {
			t.Errorf("the tap read on while stalled: %d, then %d", at.Read, later.Read)
		}
		close(m.stalled)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		m.check(t, n, same)
		r.stop()
	})
}

// A nacked record goes to another node; the attempts end at three, and deliveries do not count.
func TestNack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		var mu sync.Mutex
		attempts := map[string][]string{}
		for _, node := range []topology.NodeID{"n1", "n2"} {
			in := r.inlet(InletConfig{Role: "map", Budget: b, Handler: Each(func(_ context.Context, rec Record, _ Emitter) error {
				if rec.Attempt == 3 {
					time.Sleep(time.Second) // record 9 comes again before this stops the run
				}
				mu.Lock()
				defer mu.Unlock()
				body := string(rec.Body)
				attempts[body] = append(attempts[body], fmt.Sprintf("%s/%d", node, rec.Attempt))
				if body == "record 7" || body == "record 9" && rec.Attempt == 1 {
					return errors.New("cannot parse")
				}
				return nil
			})})
			r.link(tap, "tap", "map", in, node)
		}
		synctest.Wait() // both links are there
		r.source(tap, b, &numbers{n: 20})
		reason := <-r.failed
		if want := "role map failed 3 times on record 7 of its source, \"record 7\": cannot parse (exit 0)"; reason != want {
			t.Errorf("reason %q, want %q", reason, want)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if a := attempts["record 9"]; len(a) != 2 || a[0][:2] == a[1][:2] {
			t.Errorf("record 9 failed once: attempts %v, want two on two nodes", a)
		}
		if a := attempts["record 7"]; len(a) != 3 || a[2][3:] != "3" {
			t.Errorf("record 7 fails always: attempts %v, want three", a)
		}
		r.stop()
	})
}

// A configuration error stops the run at the first record.
func TestConfigErrorStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		in := r.inlet(InletConfig{Role: "map", Budget: b, Handler: Each(func(context.Context, Record, Emitter) error {
			return &ConfigError{errors.New("nosuch: not found")}
		})})
		r.link(tap, "tap", "map", in, "n1")
		r.source(tap, b, &numbers{n: 1})
		if got, want := <-r.failed, "role map: nosuch: not found (exit 78)"; got != want {
			t.Errorf("reason %q, want %q", got, want)
		}
		r.stop()
	})
}

// copy gives each downstream role a record, split one of them; the ack waits for all copies.
func TestFanOut(t *testing.T) {
	for _, send := range []topology.Send{topology.SendCopy, topology.SendSplit} {
		t.Run(string(send), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				b := NewBudget(0)
				tap := r.outlet("tap", b, send, "a", "b")
				ma, mb := newMemory(), newMemory()
				ia, _ := r.sink("a", ma)
				ib, _ := r.sink("b", mb)
				r.link(tap, "tap", "a", ia, "n1")
				const n = 10_000
				s, done := r.source(tap, b, &numbers{n: n})
				if send == topology.SendCopy {
					time.Sleep(time.Second)
					if st := s.Stats(); st.Acked != 0 {
						t.Errorf("%d records acked while role b has no node (L7)", st.Acked)
					}
				}
				r.link(tap, "tap", "b", ib, "n2")
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if send == topology.SendCopy {
					ma.check(t, n, same)
					mb.check(t, n, same)
				} else if len(ma.bodies)+len(mb.bodies) != n {
					t.Errorf("split: %d + %d records, want %d together", len(ma.bodies), len(mb.bodies), n)
				}
				r.stop()
			})
		})
	}
}

// A link that leaves the layout drains: nothing of it is sent again.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		m := newMemory()
		sink, _ := r.sink("sink", m)
		first := r.link(tap, "tap", "sink", sink, "n1")
		const n = 30_000
		s, done := r.source(tap, b, &numbers{n: n})
		for s.Stats().Acked < 100 {
			time.Sleep(time.Microsecond)
		}
		close(first.drain)
		if err := <-first.drained; !errors.Is(err, ErrDrained) {
			t.Errorf("drained link ended with %v", err)
		}
		r.link(tap, "tap", "sink", sink, "n1")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if rep := m.check(t, n, same); rep != 0 || tap.Stats()[0].Redelivered != 0 {
			t.Errorf("%d repeated, %+v", rep, tap.Stats()[0])
		}
		r.stop()
	})
}

// I5: of two generations of a link the higher one lives, a lower one is refused.
func TestGenerationsFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		m := newMemory()
		m.stalled = make(chan struct{})
		sink, _ := r.sink("sink", m)
		older := r.link(tap, "tap", "sink", sink, "n1")
		_, done := r.source(tap, b, &numbers{n: 100})
		synctest.Wait()
		r.link(tap, "tap", "sink", sink, "n1")
		if err := <-older.drained; err == nil {
			t.Error("the older generation ended without an error")
		}
		synctest.Wait()
		if c := sink.credit; len(sink.links) != 1 || c.links > 1 || c.unused > c.total+1 {
			t.Errorf("with the newer generation: %d links, credit %+v", len(sink.links), c)
		}
		r.gen.Add(^uint64(1)) // as one that was delayed
		late := r.link(tap, "tap", "sink", sink, "n1")
		var refused *Refused
		if err := <-late.drained; !errors.As(err, &refused) {
			t.Errorf("an older generation: %v, want a refusal", err)
		}
		close(m.stalled)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		m.check(t, 100, same)
		r.stop()
	})
}
