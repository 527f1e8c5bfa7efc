package stream

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/stream/wire"
	"weir/topology"
)

// A hop costs no allocation per record in steady state: tap, link, handler, link, sink. A busy machine
// starts another hand in mid-run, which makes its buffers once; what each record cost would be in each
// stretch of them, so the cheapest one counts.
func TestAllocations(t *testing.T) {
	const stretch, stretches, bound = 50_000, 20, 0.25 // records, how many, and allocations: one more for each record would be 1
	r := newRig(t)
	defer r.stop()
	b := NewBudget(0)
	tap := r.outlet("tap", b, "", "map")
	mid := r.outlet("map", b, "", "sink")
	in := r.inlet(InletConfig{Role: "map", Handler: copier, Outlet: mid, Budget: b, Capacity: 512})
	end := r.inlet(InletConfig{Role: "sink", Handler: drop, Budget: b, Capacity: 512})
	r.link(tap, "tap", "map", in, "n1")
	r.link(mid, "map", "sink", end, "n2")
	reader := &bodies{body: make([]byte, 128)}
	s, done := r.source(tap, b, reader)
	at := func(n uint64) (acked, mallocs uint64) { // when n records or more are acked
		for s.Stats().Acked < n {
			time.Sleep(time.Millisecond) // between two looks: one without a pause takes the source's lock from those measured
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return s.Stats().Acked, m.Mallocs
	}
	least := math.Inf(1)
	acked, before := at(stretch)
	for i := 0; i < stretches && least > bound; i++ {
		n, after := at(acked + stretch)
		least = min(least, float64(after-before)/float64(n-acked))
		acked, before = n, after
	}
	reader.stop.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("%.4f allocations a record", least)
	if least > bound {
		t.Errorf("%.3f allocations a record over two hops, want none but those per batch", least)
	}
}

// blobs is a Reader of n records of random sizes.
type blobs struct {
	n, max, at int
	done       atomic.Int64
}

func (r *blobs) Next(context.Context) (Out, Mark, error) {
	if r.at == r.n {
		return Out{}, nil, io.EOF
	}
	r.at++
	body := make([]byte, 1+rand.IntN(r.max))
	copy(body, fmt.Sprint(r.at))
	return Out{Body: body}, nil, nil
}

func (r *blobs) Done(Mark, error) { r.done.Add(1) }
func (r *blobs) Close() error     { return nil }

// What the windows pin stays within --memory and one record per edge, whatever the sizes, and
// two roles of one path on a node do not block each other when it is spent.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const memory, size, n = 2 << 20, 700 << 10, 300
		r := newRig(t)
		b := NewBudget(memory)
		tap := r.outlet("tap", b, "", "map")
		tap.cfg.Share = memory / 2
		mid := r.outlet("map", b, "", "sink")
		in := r.inlet(InletConfig{Role: "map", Handler: copier, Outlet: mid, Budget: b})
		slow := r.inlet(InletConfig{Role: "sink", Budget: b, Capacity: 1, Handler: Each(func(context.Context, Record, Emitter) error {
			time.Sleep(time.Millisecond)
			if held := b.Held(); held > memory+2*(size+wire.RecordOverheadMax) {
				t.Errorf("%d bytes held, the memory is %d and two edges have a record of %d each", held, memory, size)
			}
			return nil
		})})
		r.link(tap, "tap", "map", in, "n1")
		r.link(mid, "map", "sink", slow, "n2")
		reader := &blobs{n: n, max: size}
		_, done := r.source(tap, b, reader)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := reader.done.Load(); got != n {
			t.Errorf("%d records done, want %d", got, n)
		}
		if b.Held() != 0 {
			t.Errorf("%d bytes still pinned", b.Held())
		}
		r.stop()
	})
}

// Records that come back one by one, to be tried later, pin what they take: not a buffer of the least
// size each, which is sixteen times that.
func TestWhatComesBackPinsLittle(t *testing.T) {
	for _, size := range []int{100, 2051} {
		synctest.Test(t, func(t *testing.T) {
			const memory = 2 << 20
			r := newRig(t)
			b := NewBudget(memory)
			tap := r.outlet("tap", b, "", "sink")
			tap.cfg.Share = memory / 2
			var well atomic.Bool
			for i := range 2 {
				in := r.inlet(InletConfig{Role: "sink", Budget: NewBudget(0), Capacity: 4096, Handler: Each(func(context.Context, Record, Emitter) error {
					if !well.Load() {
						return Retry(0, errors.New("away"))
					}
					return nil
				})})
				r.link(tap, "tap", "sink", in, topology.NodeID(fmt.Sprint("n", i)))
			}
			reader := &blobs{n: 6000, max: size}
			_, done := r.source(tap, b, reader)
			most, back := int64(0), 0
			for range 300 {
				time.Sleep(time.Millisecond)
				most, back = max(most, b.Held()), max(back, tap.Stats()[0].Retries)
			}
			if most > memory || back < 300 { // to be found apart costs a small record as much again
				t.Errorf("%d bytes were held, %d records waited: want at most %d", most, back, memory)
			}
			well.Store(true)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if b.Held() != 0 {
				t.Errorf("%d bytes still pinned", b.Held())
			}
			r.stop()
		})
	}
}

// One record that takes long does not pin its whole batch when bytes are short.
func TestStuckRecordsArePacked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const memory, n = 1 << 20, 20_000
		r := newRig(t)
		b := NewBudget(memory)
		tap := r.outlet("tap", b, "", "sink")
		release := make(chan struct{})
		var stuck atomic.Int64
		in := r.inlet(InletConfig{Role: "sink", Budget: b, Capacity: 64, Handler: Each(func(ctx context.Context, rec Record, _ Emitter) error {
			if rec.ID.Seq%1000 == 0 { // one in each batch
				stuck.Add(1)
				select {
				case <-release:
				case <-ctx.Done():
				}
			}
			return nil
		})})
		r.link(tap, "tap", "sink", in, "n1")
		reader := &bodies{body: make([]byte, 500)}
		s, done := r.source(tap, b, reader)
		for s.Stats().Read < n {
			time.Sleep(time.Millisecond)
		}
		if stuck.Load() < 10 {
			t.Fatalf("%d records are stuck, the test wants more", stuck.Load())
		}
		if s.Stats().Read-s.Stats().Acked > windowRecords {
			t.Errorf("%d records un-acked", s.Stats().Read-s.Stats().Acked)
		}
		close(release)
		reader.stop.Store(true)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if b.Held() != 0 {
			t.Errorf("%d bytes still pinned", b.Held())
		}
		r.stop()
	})
}

// Bad inputs 28 to 31 of FAULTS 4, from a receiver: the link ends with an error, the records
// go to another one.
func TestHostileReceiver(t *testing.T) {
	ack := func(a wire.Ack) []byte { return a.Append(nil) }
	for name, frame := range map[string][]byte{
		"an ack of what was never sent": ack(wire.Ack{Acked: []wire.Range{{Lo: 5000, Hi: 6000}}}),
		"more taken than sent":          ack(wire.Ack{Taken: 1 << 40, Limit: 1 << 40}),
		"credit without bound":          ack(wire.Ack{Limit: 1 << 62}),
		"a frame that is no ack":        {byte(wire.TypeAck), 0, 0, 0, 2, 1, 0xff},
		"a frame of an unknown type":    {0x40, 0, 0, 0, 0},
		"a frame above its limit":       {byte(wire.TypeAck), 0xff, 0xff, 0xff, 0xff},
		"a batch on the ack direction":  {byte(wire.TypeBatch), 0, 0, 0, 0},
		"half a frame and then the end": {byte(wire.TypeNack), 0, 0, 0, 9, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				b := NewBudget(0)
				tap := r.outlet("tap", b, "", "sink")
				ours, theirs := net.Pipe()
				ended := make(chan error, 1)
				r.group.Go(func() {
					ended <- tap.Serve(r.ctx, ours, Hello{Link: topology.Link{Pipeline: "p", Edge: topology.Edge{From: "tap", To: "sink"}, To: "bad"}}, nil)
				})
				r.group.Go(func() {
					l, err := Accept(theirs)
					if err != nil {
						return
					}
					_, _ = theirs.Write(wire.HelloOK{Version: wire.Version, Limit: 10}.Append(nil))
					buf := make([]byte, wire.BatchBytes)
					_, _ = l.r.Read(buf) // a batch
					_, _ = theirs.Write(frame)
					if strings.HasPrefix(name, "half") {
						theirs.Close()
					}
				})
				_, done := r.source(tap, b, &numbers{n: 100})
				if err := <-ended; err == nil || errors.Is(err, context.Canceled) {
					t.Fatalf("the link ended with %v", err)
				}
				m := newMemory()
				in, _ := r.sink("sink", m)
				r.link(tap, "tap", "sink", in, "good")
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				m.check(t, 100, same)
				if b.Held() != 0 {
					t.Errorf("%d bytes still pinned", b.Held())
				}
				theirs.Close()
				r.stop()
			})
		})
	}
}

// Bad inputs from a sender: the link ends, the inlet goes on.
func TestHostileSender(t *testing.T) {
	hello := wire.Hello{Min: wire.Version, Max: wire.Version, Pipeline: "p", From: "tap", To: "sink", Boot: 1, Generation: 1}
	batch := func(first uint64, n int) []byte {
		c := &chunk{buf: make([]byte, wire.BatchPrefix)}
		for i := range n {
			c.append(first+uint64(i), &wire.Record{Seq: uint64(i), Attempt: 1, Body: []byte("x")})
		}
		c.finish(false)
		return c.buf
	}
	broken := batch(0, 3)
	broken[len(broken)-2] = 0xff // the last record's length
	for name, frame := range map[string][]byte{
		"a batch that skips seqs":        batch(7, 1),
		"more records than the credit":   batch(0, 4000),
		"a batch of nothing":             {byte(wire.TypeBatch), 0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"a batch of 2 GiB":               {byte(wire.TypeBatch), 0x80, 0, 0, 0},
		"a record longer than its batch": broken,
		"a frame of an unknown type":     {0x41, 0, 0, 0, 0},
		"a clear of what was not taken":  wire.Clear{Below: 1}.Append(nil),
		"a second hello":                 hello.Append(nil),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				in := r.inlet(InletConfig{Role: "sink", Handler: drop})
				ours, theirs := net.Pipe()
				ended := make(chan error, 1)
				r.group.Go(func() {
					l, err := Accept(ours)
					if err != nil {
						ended <- err
						return
					}
					ended <- in.Serve(r.ctx, l, "bad")
				})
				if _, err := theirs.Write(hello.Append(nil)); err != nil {
					t.Fatal(err)
				}
				if typ, _, err := readFrame(bufio.NewReader(theirs), nil, 0); typ != wire.TypeHelloOK || err != nil {
					t.Fatalf("answer %v %v", typ, err)
				}
				r.group.Go(func() { _, _ = io.Copy(io.Discard, theirs) }) // acks
				_, _ = theirs.Write(frame)                                // it may be refused half way
				if err := <-ended; err == nil || errors.Is(err, context.Canceled) {
					t.Errorf("the link ended with %v", err)
				}
				theirs.Close()
				if n := len(in.links); n != 0 {
					t.Errorf("%d links left", n)
				}
				r.stop()
			})
		})
	}
}

// A peer that opens a link and says nothing is let go.
func TestSilentSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		start := time.Now()
		if _, err := Accept(ours); err == nil || time.Since(start) != helloTimeout {
			t.Errorf("accept: %v after %v", err, time.Since(start))
		}
	})
}

// stamped is a Reader of n records that say when they were read.
type stamped struct{ n int }

func (r *stamped) Next(context.Context) (Out, Mark, error) {
	if r.n--; r.n < 0 {
		return Out{}, nil, io.EOF
	}
	return Out{Body: binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))}, nil, nil
}

func (r *stamped) Done(Mark, error) {}
func (r *stamped) Close() error     { return nil }

// One of four workers ten times slower (50 ms against 5 ms) costs no more than its own share:
// the rate stays at 95 % of what the four can do, and the p99 of the others, from reading to
// the handler's end, within twice of what it was (STACK 7).
func TestSlowWorker(t *testing.T) {
	run := func(slow time.Duration) (perSecond float64, p99 uint64) {
		synctest.Test(t, func(t *testing.T) {
			const workers, capacity, n = 4, 8, 20_000
			r := newRig(t)
			b := NewBudget(0)
			tap := r.outlet("tap", b, "", "map")
			var mu sync.Mutex
			var others histogram
			for i := range workers {
				d := 5 * time.Millisecond
				if i == 0 {
					d = slow
				}
				in := r.inlet(InletConfig{Role: "map", Budget: b, Capacity: capacity, Handler: Each(func(_ context.Context, rec Record, _ Emitter) error {
					time.Sleep(d)
					if i > 0 {
						mu.Lock()
						defer mu.Unlock()
						others.add(time.Since(time.Unix(0, int64(binary.BigEndian.Uint64(rec.Body)))))
					}
					return nil
				})})
				r.link(tap, "tap", "map", in, topology.NodeID(fmt.Sprint("n", i)))
			}
			s, done := r.source(tap, b, &stamped{n: n})
			start := time.Now()
			time.Sleep(2 * time.Second) // virtual; the rate without the tail
			perSecond = float64(s.Stats().Acked) / time.Since(start).Seconds()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			p99 = Quantile(&others.counts, 0.99)
			r.stop()
		})
		return perSecond, p99
	}
	equal, before := run(5 * time.Millisecond)
	one, after := run(50 * time.Millisecond)
	ceiling := equal * (3 + 0.1) / 4
	t.Logf("four equal: %.0f/s, p99 of three of them %d us; one slow: %.0f/s of %.0f/s, p99 of the others %d us", equal, before, one, ceiling, after)
	if one < 0.95*ceiling {
		t.Errorf("one of four 10 times slower: %.0f/s, want 95 %% of %.0f/s", one, ceiling)
	}
	if after > 2*before {
		t.Errorf("the others' p99 rose from %d to %d us", before, after)
	}
}
