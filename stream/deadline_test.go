package stream

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// F26: a handler that hangs, and heeds nobody, has failed at its deadline: three times, then its record
// is a dead letter. The role goes on, its end waits for nobody, and late outputs go nowhere.
func TestHungHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		mid := r.outlet("map", b, "", "sink")
		m := newMemory()
		sink, _ := r.sink("sink", m)
		var g graves
		release := make(chan struct{})
		var late, told atomic.Int64
		in := r.inlet(InletConfig{Role: "map", Outlet: mid, Budget: b, Capacity: 4, Dead: g.Dead, Deadline: 10 * time.Second,
			Handler: Each(func(ctx context.Context, rec Record, e Emitter) error {
				if strings.HasSuffix(string(rec.Body), "77") {
					body := string(rec.Body)
					<-release
					if err := e.Emit(ctx, rec.Out); errors.Is(err, ErrClosed) {
						late.Add(1)
					}
					if strings.HasPrefix(context.Cause(ctx).Error(), "no progress for 10s") {
						told.Add(1)
					}
					if string(rec.Body) != body {
						t.Errorf("the record of a hung handler became %q", rec.Body)
					}
					return nil
				}
				return e.Emit(ctx, rec.Out)
			})})
		r.linkFrom("n1", mid, "map", "sink", sink, "n9")
		r.link(tap, "tap", "map", in, "n1")
		start := time.Now()
		_, done := r.source(tap, b, &numbers{n: 200})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := []string{"record 177/3: no progress for 10s", "record 77/3: no progress for 10s"}
		if got := g.all(); !slices.Equal(got, want) || len(m.bodies) != 198 {
			t.Errorf("letters %q, want %q; %d records", got, want, len(m.bodies))
		}
		if took := time.Since(start); took > 80*time.Second {
			t.Errorf("took %v, want three deadlines and a second each, and as much for those beside it", took)
		}
		if st := in.Stats(); st.Stuck < 6 {
			t.Errorf("%d handlers hang, want 6 at least", st.Stuck)
		}
		r.stop() // though they hang
		close(release)
		synctest.Wait()
		if n := int64(in.Stats().Stuck); n != 0 || late.Load() != told.Load() || late.Load() < 6 {
			t.Errorf("%d hang, %d outputs were late, %d handlers were told why", n, late.Load(), told.Load())
		}
	})
}

// Where as many handlers hang as the role has, it takes nothing more and says so; its end waits for
// those that have not missed their deadline, no longer.
func TestAllHandlersHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		release := make(chan struct{})
		var taken atomic.Int64
		in := r.inlet(InletConfig{Role: "map", Budget: b, Capacity: 3, Deadline: time.Second, Attempts: 100,
			Handler: Each(func(context.Context, Record, Emitter) error { taken.Add(1); <-release; return nil })})
		r.link(tap, "tap", "map", in, "n1")
		_, done := r.source(tap, b, &numbers{n: 1000})
		time.Sleep(time.Minute)
		if n := taken.Load(); n != 6 || in.Stats().Stuck != 6 {
			t.Errorf("%d records were taken, %d handlers hang; want twice the capacity", n, in.Stats().Stuck)
		}
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.stop()
	})
}

// K4: a deadline is one of progress. None is missed by outputs, by nacks, by many records one after
// the other, by a word of the handler's, or while an output waits for a sink that stands still.
func TestProgressIsNoHang(t *testing.T) {
	slowly := func(f func(int, *Batch) error) Handler {
		return whole(func(_ context.Context, b *Batch) error {
			for k := range 20 {
				time.Sleep(8 * time.Second)
				if err := f(k, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	handlers := map[string]Handler{
		"outputs": slowly(func(k int, b *Batch) error { return b.To(0).Emit(context.Background(), Out{Body: []byte{byte(k)}}) }),
		"waits": Each(func(ctx context.Context, _ Record, e Emitter) error {
			for range 20_000 {
				if err := e.Emit(ctx, Out{Body: []byte("x")}); err != nil {
					return err
				}
			}
			return nil
		}),
		"word": slowly(func(_ int, b *Batch) error { b.Progress(); return nil }),
		"records": Each(func(_ context.Context, rec Record, _ Emitter) error {
			if rec.ID.Seq >= 100 { // by then they come many at once
				time.Sleep(8 * time.Second)
			}
			return nil
		}),
	}
	for name, h := range handlers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				b := NewBudget(0)
				tap := r.outlet("tap", b, "", "map")
				mid := r.outlet("map", b, "", "sink")
				m := newMemory()
				if name == "waits" {
					m.stalled = make(chan struct{})
					time.AfterFunc(10*time.Minute, func() { close(m.stalled) })
				}
				sink, _ := r.sink("sink", m)
				n := 200
				if name != "records" {
					n = 5
				}
				in := r.inlet(InletConfig{Role: "map", Outlet: mid, Budget: b, Handler: h, Deadline: 10 * time.Second})
				r.linkFrom("n1", mid, "map", "sink", sink, "n9")
				r.link(tap, "tap", "map", in, "n1")
				_, done := r.source(tap, b, &numbers{n: n})
				select {
				case err := <-done:
					if err != nil || tap.Stats()[0].Redelivered > 0 {
						t.Errorf("%d records came back, %v", tap.Stats()[0].Redelivered, err)
					}
				case reason := <-r.failed:
					t.Error(reason)
				}
				r.stop()
			})
		})
	}
}
