package stream

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/stream/wire"
)

// The rows of the delivery review (FAULTS 3.2 to 3.4) that are this package's, and what tests them:
//
//	L1  TestLinkDies                       K4  TestProgressIsNoHang
//	L2  TestSinkWritesOnce                 K5  TestMemory
//	L3  TestMarkStopsAtAGap                K7  TestCredit
//	L7  TestBranchWithoutConsumerBlocks    K9  TestBackpressure
//	L8  TestLetterWaits                    K10 TestRecordBeyondTheWindow
//	L9  TestRevise                         K11 TestDrain
//	L10 TestCustodyUntilTheChainAcks       K12 TestAcksAreReadWhileWritesBlock
//	L11 TestSinkWritesOnce                 D1  TestSinkWritesOnce
//
// L4, D2 and D4 are the sinks' (node/sink), L5 the workers', L6 and D3 are said in the README, D5 is that
// paths are made of names (childPath), K1 is the graph's, K6 the mux's; K3 and K8 wait for merges and order.

// L3: a mark never passes a record that is not acked, whatever was acked behind it.
func TestMarkStopsAtAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		release := make(chan struct{})
		in := r.inlet(InletConfig{Role: "map", Budget: b, Handler: Each(func(ctx context.Context, rec Record, _ Emitter) error {
			if rec.ID.Seq == 10 {
				hang(ctx, release)
			}
			return nil
		})})
		r.link(tap, "tap", "map", in, "n1")
		var mark atomic.Uint64
		s := NewSource(SourceConfig{ID: 1, Gen: 1, Partition: "test", Reader: &numbers{n: 5000}, Outlet: tap, Budget: b,
			OnMark: func(m wire.Mark) { mark.Store(m.Next) }})
		done := make(chan error, 1)
		r.group.Go(func() { done <- s.Run(r.ctx, r.ctx) })
		time.Sleep(time.Minute)
		if st := s.Stats(); st.Acked != 4999 || mark.Load() != 10 {
			t.Errorf("%d of 5000 acked, all but the tenth, and the mark is %d", st.Acked, mark.Load())
		}
		close(release)
		if err := <-done; err != nil || mark.Load() != 5000 {
			t.Errorf("%v, at the end the mark is %d", err, mark.Load())
		}
		r.stop()
	})
}

// huge is a Reader of n records of size bytes.
type huge struct{ n, size int }

func (r *huge) Next(context.Context) (Out, Mark, error) {
	if r.n == 0 {
		return Out{}, nil, io.EOF
	}
	r.n--
	return Out{Body: bytes.Repeat([]byte{byte(r.n)}, r.size)}, nil, nil
}

func (r *huge) Done(Mark, error) {}
func (r *huge) Close() error     { return nil }

// K10: records larger than a link's window, and than the node's memory, go one at a time.
func TestRecordBeyondTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = windowBytes + 1<<20
		r := newRig(t)
		b := NewBudget(1 << 20)
		tap := r.outlet("tap", b, "", "map")
		tap.cfg.RecordMax = 2 * windowBytes
		var got atomic.Int64
		in := r.inlet(InletConfig{Role: "map", Budget: b, RecordMax: 2 * windowBytes, Handler: Each(func(_ context.Context, rec Record, _ Emitter) error {
			got.Add(int64(len(rec.Body)))
			if held := b.Held(); held > size+wire.RecordOverheadMax {
				t.Errorf("%d bytes held, want one record of %d", held, size)
			}
			return nil
		})})
		r.link(tap, "tap", "map", in, "n1")
		_, done := r.source(tap, b, &huge{n: 5, size: size})
		if err := <-done; err != nil || got.Load() != 5*size {
			t.Errorf("%v, %d bytes of %d arrived", err, got.Load(), 5*size)
		}
		r.stop()
	})
}

// L7, L8: of a fan-out with a branch that nobody serves, nothing is acked, and the tap stops in bounds.
func TestBranchWithoutConsumerBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "here", "nowhere")
		r.link(tap, "tap", "here", r.inlet(InletConfig{Role: "here", Handler: drop, Budget: b}), "n1")
		s, done := r.source(tap, b, &numbers{n: 100_000})
		time.Sleep(time.Hour)
		if st := s.Stats(); st.Acked != 0 || st.Read > 2 {
			t.Errorf("without a consumer of one branch: %+v", st)
		}
		m := newMemory()
		in, _ := r.sink("nowhere", m)
		r.link(tap, "tap", "nowhere", in, "n2")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		m.check(t, 100_000, same)
		r.stop()
	})
}

// L10: a sender keeps a record until the chain has acked it: not when it was written, not when a handler
// had it. The node between dies with all that it was told.
func TestCustodyUntilTheChainAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		stalled := newMemory()
		stalled.stalled = make(chan struct{})
		blocked, _ := r.sink("sink", stalled)
		first := r.outlet("map", b, "", "sink")
		r.linkFrom("n1", first, "map", "sink", blocked, "n8")
		l := r.link(tap, "tap", "map", r.inlet(InletConfig{Role: "map", Handler: copier, Outlet: first, Budget: b}), "n1")
		s, done := r.source(tap, b, &numbers{n: 500})
		time.Sleep(time.Minute)
		if st := s.Stats(); st.Read != 500 || st.Acked != 0 {
			t.Errorf("before the sink has anything: %+v", st)
		}
		l.cut()
		<-l.drained
		if st := tap.Stats()[0]; st.Inflight != 500 || st.Suspects != 0 {
			t.Errorf("after the death of a node that had handled all: %+v, want all 500 kept, none suspected", st)
		}
		m := newMemory()
		sink, _ := r.sink("sink", m)
		second := r.outlet("map", b, "", "sink")
		r.linkFrom("n2", second, "map", "sink", sink, "n9")
		r.link(tap, "tap", "map", r.inlet(InletConfig{Role: "map", Handler: copier, Outlet: second, Budget: b}), "n2")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		m.check(t, 500, same)
		r.stop()
	})
}

// K12: acks are read while nothing can be written: a receiver that takes nothing more acks what it has.
func TestAcksAreReadWhileWritesBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		release, all := make(chan struct{}), make(chan struct{})
		in := r.inlet(InletConfig{Role: "map", Budget: b, Capacity: 4, Handler: Each(func(ctx context.Context, rec Record, _ Emitter) error {
			if rec.ID.Seq < 4 {
				hang(ctx, release)
			} else {
				hang(ctx, all)
			}
			return nil
		})})
		r.link(tap, "tap", "map", in, "n1")
		s, done := r.source(tap, b, &numbers{n: 50_000})
		time.Sleep(time.Second)
		close(release)
		time.Sleep(time.Second)
		if st := s.Stats(); st.Acked != 4 {
			t.Errorf("%d acked while the role is busy, want the 4 that it has handled", st.Acked)
		}
		close(all)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.stop()
	})
}
