package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/stream/wire"
	"weir/topology"
)

// Each test here failed once: it is named for what it found.

// trickle is a Reader of n records, one every so often.
type trickle struct {
	n, at int
	every time.Duration
}

func (r *trickle) Next(context.Context) (Out, Mark, error) {
	if r.at == r.n {
		return Out{}, nil, io.EOF
	}
	time.Sleep(r.every)
	r.at++
	return Out{Body: fmt.Append(nil, r.at)}, nil, nil
}

func (r *trickle) Done(Mark, error) {}
func (r *trickle) Close() error     { return nil }

// hang waits for release or the end of the run.
func hang(ctx context.Context, release <-chan struct{}) {
	select {
	case <-release:
	case <-ctx.Done():
	}
}

// The low-water mark that says that all is acked was lost when it rose with the source's end.
func TestLastMarkTravels(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			b := NewBudget(0)
			tap := r.outlet("tap", b, "", "sink")
			var last atomic.Uint64
			in := r.inlet(InletConfig{Role: "sink", Handler: drop, Budget: b, OnMark: func(m wire.Mark) { last.Store(m.Next) }})
			r.link(tap, "tap", "sink", in, "n1")
			_, done := r.source(tap, b, &numbers{n: 1000})
			<-done
			time.Sleep(time.Second) // virtual
			if last.Load() != 1000 {
				t.Errorf("the last mark at the sink is %d, want 1000", last.Load())
			}
			r.stop()
		})
	}
}

// Where records usually take microseconds, one that took long held up all that came after it.
func TestSlowRecordHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		release := make(chan struct{})
		var handled atomic.Int64
		in := r.inlet(InletConfig{Role: "sink", Budget: b, Handler: Each(func(ctx context.Context, rec Record, _ Emitter) error {
			time.Sleep(time.Microsecond)
			if rec.ID.Seq == 1000 {
				hang(ctx, release)
			}
			handled.Add(1)
			return nil
		})})
		r.link(tap, "tap", "sink", in, "n1")
		_, done := r.source(tap, b, &trickle{n: 3000, every: 5 * time.Millisecond})
		time.Sleep(time.Minute)
		if n := handled.Load(); n < 2999 {
			t.Errorf("one record of a capacity of 50 takes long: %d of 3000 were handled in a minute", n)
		}
		close(release)
		<-done
		r.stop()
	})
}

// A nacked record that waited for another node held up all records for the node that was free.
func TestNackedRecordHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		release := make(chan struct{})
		hung := r.inlet(InletConfig{Role: "map", Budget: b, Capacity: 1, Handler: Each(func(ctx context.Context, _ Record, _ Emitter) error {
			hang(ctx, release)
			return nil
		})})
		var handled atomic.Int64
		free := r.inlet(InletConfig{Role: "map", Budget: b, Capacity: 4, Handler: Each(func(_ context.Context, rec Record, _ Emitter) error {
			time.Sleep(time.Millisecond)
			handled.Add(1)
			if rec.Attempt == 1 && rec.ID.Seq%300 == 299 {
				return errors.New("once")
			}
			return nil
		})})
		r.link(tap, "tap", "map", free, "n1")
		r.link(tap, "tap", "map", hung, "n2")
		_, done := r.source(tap, b, &trickle{n: 3000, every: time.Millisecond})
		time.Sleep(time.Minute)
		if n := handled.Load(); n < 2900 {
			t.Errorf("the node that is free got %d of 3000 records", n)
		}
		close(release)
		<-done
		r.stop()
	})
}

// A handler that used its header map again changed the output before.
func TestHeadersAreCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		mid := r.outlet("map", b, "", "sink")
		in := r.inlet(InletConfig{Role: "map", Budget: b, Outlet: mid, Handler: Each(func(ctx context.Context, _ Record, e Emitter) error {
			h := make(map[string]string)
			for i := range 3 {
				h["i"] = fmt.Sprint(i)
				if err := e.Emit(ctx, Out{Body: fmt.Append(nil, i), Header: h}); err != nil {
					return err
				}
			}
			return nil
		})})
		end := r.inlet(InletConfig{Role: "sink", Budget: b, Handler: Each(func(_ context.Context, rec Record, _ Emitter) error {
			if rec.Header["i"] != string(rec.Body) {
				t.Errorf("output %s has the header %v", rec.Body, rec.Header)
			}
			return nil
		})})
		r.link(tap, "tap", "map", in, "n1")
		r.link(mid, "map", "sink", end, "n2")
		_, done := r.source(tap, b, &numbers{n: 1})
		<-done
		r.stop()
	})
}

// An Emit that failed lost the output before it; when the handler tried again and returned nil,
// the record was acked without that.
func TestFailedEmitIsTheRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		mid := r.outlet("map", b, "", "sink")
		m := newMemory()
		sink, _ := r.sink("sink", m)
		in := r.inlet(InletConfig{Role: "map", Budget: b, Outlet: mid, Handler: Each(func(ctx context.Context, _ Record, e Emitter) error {
			if err := e.Emit(ctx, Out{Body: []byte("one")}); err != nil {
				return err
			}
			for { // until the second goes
				short, cancel := context.WithTimeout(ctx, time.Second)
				err := e.Emit(short, Out{Body: []byte("two")})
				cancel()
				if err == nil || ctx.Err() != nil {
					return err
				}
			}
		})})
		r.link(tap, "tap", "map", in, "n1")
		_, done := r.source(tap, b, &numbers{n: 1})
		time.Sleep(1500 * time.Millisecond) // the first try has failed
		r.link(mid, "map", "sink", sink, "n2")
		<-done
		if m.bodies["one"] == 0 || m.bodies["two"] == 0 {
			t.Errorf("acked end to end, and at the sink is %v", m.bodies)
		}
		r.stop()
	})
}

// Memory that one role freed woke only its own emitters; another role waited on.
func TestFreedMemoryWakesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(300 << 10)
		one := r.outlet("one", b, "", "full")
		two := r.outlet("two", b, "", "free")
		m := newMemory()
		m.stalled = make(chan struct{})
		full, _ := r.sink("full", m)
		release := make(chan struct{})
		var got atomic.Int64
		free := r.inlet(InletConfig{Role: "free", Budget: b, Capacity: 8, Handler: Each(func(ctx context.Context, _ Record, _ Emitter) error {
			if got.Add(1) == 1 {
				hang(ctx, release) // so that no ack of its own comes
			}
			return nil
		})})
		r.link(one, "one", "full", full, "n1")
		r.link(two, "two", "free", free, "n2")
		r.source(one, b, &blobs{n: 40, max: 40 << 10})
		synctest.Wait() // the memory is spent
		_, done := r.source(two, b, &blobs{n: 100, max: 40 << 10})
		time.Sleep(time.Second)
		close(m.stalled)
		time.Sleep(time.Minute)
		if n := got.Load(); n < 10 {
			t.Errorf("the memory has been free for a minute (%d bytes held), and the role got %d records", b.Held(), n)
		}
		close(release)
		<-done
		r.stop()
	})
}

// A first batch that spent its credit and could not be decoded made the inlet divide by zero.
func TestBrokenFirstBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		in := r.inlet(InletConfig{Role: "sink", Handler: drop, Capacity: 4})
		ours, theirs := net.Pipe()
		ended := make(chan error, 1)
		r.group.Go(func() {
			l, err := Accept(ours)
			if err == nil {
				err = in.Serve(r.ctx, l, "bad")
			}
			ended <- err
		})
		hello := wire.Hello{Min: wire.Version, Max: wire.Version, Pipeline: "p", From: "tap", To: "sink", Boot: 1, Generation: 1}
		_, _ = theirs.Write(hello.Append(nil))
		_, _, _ = readFrame(bufio.NewReader(theirs), nil, 0)
		r.group.Go(func() { _, _ = io.Copy(io.Discard, theirs) })
		c := &chunk{buf: make([]byte, wire.BatchPrefix)}
		c.append(0, &wire.Record{Seq: 1, Attempt: 1, Body: []byte("xyz")})
		c.finish(true)
		c.buf[wire.BatchPrefix] = 0xff // flags that nobody knows
		_, _ = theirs.Write(c.buf)
		if err := <-ended; !errors.Is(err, wire.ErrBad) {
			t.Errorf("the link ended with %v", err)
		}
		theirs.Close()
		r.stop()
	})
}

// narrow is a connection of 10 MB/s.
type narrow struct{ net.Conn }

func (c narrow) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * time.Microsecond / 10)
	return c.Conn.Write(p)
}

// A link that was never idle did not see that it should drain.
func TestBusyLinkDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		in := r.inlet(InletConfig{Role: "sink", Handler: drop, Budget: b, Capacity: 2048})
		ours, theirs := net.Pipe()
		drain, drained := make(chan struct{}), make(chan error, 1)
		h := Hello{Link: topology.Link{Pipeline: "p", Edge: topology.Edge{From: "tap", To: "sink"}, From: "n0", To: "n1"}, Boot: 1, Generation: 1}
		r.group.Go(func() { drained <- tap.Serve(r.ctx, narrow{ours}, h, drain) })
		r.group.Go(func() {
			if l, err := Accept(theirs); err == nil {
				_ = in.Serve(r.ctx, l, "n0")
			}
		})
		r.source(tap, b, &bodies{body: make([]byte, 1000)})
		time.Sleep(time.Second)
		close(drain)
		select {
		case err := <-drained:
			if !errors.Is(err, ErrDrained) {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("not drained within a minute")
		}
		r.stop()
	})
}

// roomy is a connection that takes some megabytes before its reader reads, as a stream does.
type roomy struct {
	net.Conn
	kept chan []byte
}

// newRoomy is the end of c that is written to; run carries what it took until ctx is done.
func newRoomy(ctx context.Context, c net.Conn) (r *roomy, run func()) {
	r = &roomy{c, make(chan []byte, 4096)} // frames
	return r, func() {
		for {
			select {
			case p := <-r.kept:
				if _, err := r.Conn.Write(p); err != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (r *roomy) Write(p []byte) (int, error) {
	r.kept <- slices.Clone(p)
	return len(p), nil
}

// slowSink takes 0.1 s for a Write.
type slowSink struct {
	*memory
	writes int
}

func (s *slowSink) Write(ctx context.Context, rs []Record, seen Seen) error {
	s.writes++
	time.Sleep(100 * time.Millisecond)
	return s.memory.Write(ctx, rs, seen)
}

// What came during one Write of a sink was given to it in as many Writes as there were batches on
// the wire, of a record or a few each where they come steadily.
func TestSinkGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		s := &slowSink{memory: newMemory()}
		in, _ := r.sink("sink", s)
		near, far := net.Pipe()
		wide, carry := newRoomy(r.ctx, near)
		r.group.Go(carry)
		h := Hello{Link: topology.Link{Pipeline: "p", Edge: topology.Edge{From: "tap", To: "sink"}, From: "n0", To: "n1"}, Boot: 1, Generation: 1}
		r.group.Go(func() { _ = tap.Serve(r.ctx, wide, h, nil) })
		r.group.Go(func() {
			if inc, err := Accept(far); err == nil {
				_ = in.Serve(r.ctx, inc, "n0")
			}
		})
		const n = 1000
		_, done := r.source(tap, b, &trickle{n: n, every: time.Millisecond})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if s.writes > 20 {
			t.Errorf("%d records in a second took %d Writes of 0.1 s, want 16 or so", n, s.writes)
		}
		r.stop()
	})
}
