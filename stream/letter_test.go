package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/topology"
)

// graves keeps dead letters.
type graves struct {
	mu      sync.Mutex
	letters []Letter
	gate    chan struct{} // not nil: nothing is kept before it is closed
}

func (g *graves) Dead(ctx context.Context, l Letter) error {
	if g.gate != nil {
		hang(ctx, g.gate)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.letters = append(g.letters, l)
	return nil
}

// all lists the letters as body/attempt: reason.
func (g *graves) all() (all []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range g.letters {
		all = append(all, fmt.Sprintf("%s/%d: %s", l.Record.Body, l.Record.Attempt, l.Reason))
	}
	slices.Sort(all)
	return all
}

// failing runs n numbered records of a tap through two nodes with a handler and a place for letters,
// and returns when all are acked.
func failing(t *testing.T, n int, g *graves, hooks *Hooks, h Handler, ports ...string) (*rig, *memory) {
	r := newRig(t)
	b := NewBudget(0)
	tap := r.outlet("tap", b, "", "map")
	m := newMemory()
	sink, _ := r.sink("sink", m)
	for i := range 2 {
		node := topology.NodeID(fmt.Sprint("n", i))
		mid := r.outlet("map", b, "", "sink")
		edges := []topology.Edge{{From: "map", To: "sink"}}
		for _, port := range ports {
			edges = append(edges, topology.Edge{From: "map", Port: port, To: "sink"})
		}
		mid.Revise(edges, "")
		in := r.inlet(InletConfig{Role: "map", Handler: h, Outlet: mid, Budget: b, Dead: g.Dead, Hooks: hooks})
		for _, e := range edges {
			r.linkOf(node, mid, e, sink, "n9")
		}
		r.link(tap, "tap", "map", in, node)
	}
	synctest.Wait()
	_, done := r.source(tap, b, &numbers{n: n})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return r, m
}

// F23, I9: a record that fails each time is a dead letter after three attempts, one that is poison
// after the first; all others arrive, and what was acked is in one place or the other.
func TestDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g graves
		r, m := failing(t, 1000, &g, nil, Each(func(ctx context.Context, rec Record, e Emitter) error {
			switch string(rec.Body) {
			case "record 7":
				return errors.New("cannot parse")
			case "record 9":
				return fmt.Errorf("line 1: %w", Poison(errors.New("not JSON")))
			case "record 11":
				panic("at the disco")
			}
			return e.Emit(ctx, rec.Out)
		}))
		want := []string{"record 11/3: the handler panicked: at the disco", "record 7/3: cannot parse", "record 9/1: line 1: not JSON"}
		if got := g.all(); !slices.Equal(got, want) {
			t.Errorf("letters %q, want %q", got, want)
		}
		if len(m.bodies) != 997 || m.bodies["record 7"]+m.bodies["record 9"] > 0 {
			t.Errorf("%d records arrived, want 997 others", len(m.bodies))
		}
		if l := g.letters[0]; l.Pipeline != "p" || l.Role != "map" || l.Record.ID.Gen != 1 || l.Record.ID.Sum == 0 {
			t.Errorf("the letter %+v does not say whose it is", l)
		}
		r.stop()
	})
}

// Of a block of which some lines are poison the letter has these alone, and says which they are.
func TestLetterOfLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g graves
		r, _ := failing(t, 1, &g, nil, Each(func(_ context.Context, rec Record, _ Emitter) error {
			return PoisonLines(errors.New("line 3 of it: no JSON"), []byte("third\nninth"), "3,9")
		}))
		if got, want := g.all(), []string{"third\nninth/1: line 3 of it: no JSON"}; !slices.Equal(got, want) {
			t.Errorf("letters %q, want %q", got, want)
		}
		if l := g.letters[0].Record; l.Header[HeaderLine] != "3,9" {
			t.Errorf("the letter has the header %v", l.Header)
		}
		r.stop()
	})
}

// A handler's error for a whole batch blames each record once, and then only the one whose it is.
func TestBatchErrorSparesInnocents(t *testing.T) {
	for _, err := range []error{errors.New("one of them is bad"), Poison(errors.New("one of them is bad"))} {
		synctest.Test(t, func(t *testing.T) {
			var g graves
			var most atomic.Int64
			r, m := failing(t, 5000, &g, nil, whole(func(ctx context.Context, b *Batch) error {
				time.Sleep(time.Microsecond) // so batches grow
				most.Store(max(most.Load(), int64(b.Len())))
				if slices.ContainsFunc(b.Records, func(r Record) bool { return string(r.Body) == "record 4321" }) {
					return err
				}
				for i, rec := range b.Records {
					if err := b.To(i).Emit(ctx, rec.Out); err != nil {
						return err
					}
				}
				return nil
			}))
			if got := g.all(); len(got) != 1 || !strings.HasPrefix(got[0], "record 4321/") || len(m.bodies) != 4999 || most.Load() < 20 {
				t.Errorf("letters %q and %d records, want only record 4321 and all others; batches of %d", got, len(m.bodies), most.Load())
			}
			r.stop()
		})
	}
}

type whole func(context.Context, *Batch) error

func (f whole) Handle(ctx context.Context, b *Batch) error { return f(ctx, b) }

// L8: while a letter has no place its record is not acked, and others go on.
func TestLetterWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		g := graves{gate: make(chan struct{})}
		in := r.inlet(InletConfig{Role: "map", Budget: b, Dead: g.Dead, Handler: Each(func(_ context.Context, rec Record, _ Emitter) error {
			if rec.ID.Seq%1000 == 0 {
				return Poison(errors.New("bad"))
			}
			return nil
		})})
		r.link(tap, "tap", "map", in, "n1")
		s, done := r.source(tap, b, &numbers{n: 10_000})
		time.Sleep(time.Hour)
		if st := s.Stats(); st.Acked != 9990 || in.Stats().DeadWaiting != 10 {
			t.Errorf("%d acked, %d letters wait, want 9990 and 10", st.Acked, in.Stats().DeadWaiting)
		}
		close(g.gate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if st := in.Stats(); st.Dead != 10 || st.DeadWaiting != 0 || len(g.letters) != 10 {
			t.Errorf("%+v, %d letters, want 10", st, len(g.letters))
		}
		r.stop()
	})
}

// An edge at port dead takes what fails, with why in its headers; an output for a port without an
// edge is a letter when its record is handled, and once only.
func TestPortDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g graves
		r, m := failing(t, 100, &g, nil, Each(func(ctx context.Context, rec Record, e Emitter) error {
			switch {
			case rec.ID.Seq == 5:
				return errors.New(strings.Repeat("long ", 10_000))
			case rec.ID.Seq == 6:
				if err := e.Emit(ctx, Out{Body: []byte("line 3"), Port: "odd", Header: map[string]string{HeaderReason: "not a number"}}); err != nil {
					return err
				}
				if err := e.Emit(ctx, Out{Body: []byte("warning"), Port: PortErr}); !errors.Is(err, ErrNoEdge) {
					return Poison(fmt.Errorf("what a program says is kept: %v", err))
				}
				if rec.Attempt == 1 {
					return errors.New("try again")
				}
			}
			return e.Emit(ctx, rec.Out)
		}), PortDead)
		if len(m.bodies) != 100 {
			t.Errorf("%d records arrived, want all: one of them by port dead", len(m.bodies))
		}
		h := m.headers["record 5"]
		if h[HeaderRole] != "map" || h[HeaderAttempts] != "3" || !strings.HasPrefix(h[HeaderReason], "long long") {
			t.Errorf("headers of what failed: %.80q", fmt.Sprint(h))
		}
		if got, want := g.all(), []string{"line 3/2: not a number"}; !slices.Equal(got, want) {
			t.Errorf("letters %q, want %q", got, want)
		}
		r.stop()
	})
}

// Headers that leave no room are cut, never refused.
func TestLetterHeader(t *testing.T) {
	own := map[string]string{}
	for i := range 32 {
		own[strconv.Itoa(i)] = "x"
	}
	for _, l := range []Letter{
		{Role: "r", Reason: strings.Repeat("y", 9000), Record: Record{Out: Out{Header: map[string]string{"big": strings.Repeat("z", 4000)}}}},
		{Role: "r", Reason: "why", Record: Record{Out: Out{Header: own}}},
	} {
		h := (&letter{Letter: l}).header()
		if h[HeaderRole] != "r" || len(h[HeaderReason]) == 0 {
			t.Errorf("headers %.100q", fmt.Sprint(h))
		}
	}
}

// The planted bug loses what could not be handled: a test that counts must see it.
func TestBugDeadDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g graves
		hooks := &Hooks{Bug: BugDeadDrop, Watch: func(Event) {}, Reached: func(string) {}}
		r, m := failing(t, 10, &g, hooks, Each(func(ctx context.Context, rec Record, e Emitter) error {
			if rec.ID.Seq == 3 {
				return Poison(errors.New("bad"))
			}
			return e.Emit(ctx, rec.Out)
		}))
		if len(m.bodies)+len(g.letters) != 9 {
			t.Errorf("%d records and %d letters, want one lost", len(m.bodies), len(g.letters))
		}
		r.stop()
	})
}

// A Retry blames nobody: the record comes again, after the pause asked for and a backoff that
// doubles, on another node where there is one, and others do not wait for it.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g graves
		var mu sync.Mutex
		var at []time.Duration
		start := time.Now()
		r, m := failing(t, 200, &g, nil, Each(func(ctx context.Context, rec Record, e Emitter) error {
			if rec.ID.Seq == 50 {
				mu.Lock()
				defer mu.Unlock()
				if at = append(at, time.Since(start)); rec.Attempt != 1 {
					t.Errorf("attempt %d after a Retry, want 1", rec.Attempt)
				}
				if len(at) < 12 {
					return Retry(0, errors.New("busy"))
				}
			}
			return e.Emit(ctx, rec.Out)
		}))
		want := backoffMin
		for i := 1; i < len(at); i++ {
			if pause := at[i] - at[i-1]; pause < want || pause > want+10*time.Millisecond {
				t.Errorf("pause %d is %v, want %v", i, pause, want)
			}
			if i > 1 { // by then all others are handled
				want = min(2*want, backoffMax)
			}
		}
		if len(at) != 12 || len(m.bodies) != 200 || len(g.letters) != 0 {
			t.Errorf("%d deliveries, %d records, %d letters; want 12, 200, 0", len(at), len(m.bodies), len(g.letters))
		}
		r.stop()
	})
}

// What a handler refuses at once is no reason to hand it more at a time when it works again, nor to grant more
// than it does in a second: all of that would wait here, with other nodes free. Nor is it where it never worked.
func TestRefusalsAreNoWork(t *testing.T) {
	for _, works := range []time.Duration{300 * time.Millisecond, 0} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			b := NewBudget(0)
			tap := r.outlet("tap", b, "", "map")
			from := time.Now().Add(works)
			var refused, most atomic.Int64
			in := r.inlet(InletConfig{Role: "map", Capacity: 20, Budget: b, Handler: whole(func(_ context.Context, b *Batch) error {
				if away := time.Since(from); away >= 0 && away < time.Second {
					refused.Add(int64(b.Len()))
					return Retry(0, errors.New("the service is away"))
				}
				most.Store(max(most.Load(), int64(b.Len())))
				time.Sleep(time.Duration(b.Len()) * 100 * time.Millisecond)
				return nil
			})})
			r.link(tap, "tap", "map", in, "n1")
			_, done := r.source(tap, b, &numbers{n: 4000})
			time.Sleep(works + time.Second)
			in.mu.Lock()
			if total := in.credit.total; total > 200 {
				t.Errorf("it grants %d records, and does 200 a second", total)
			}
			in.mu.Unlock()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if most.Load() > 1 || refused.Load() < 100 {
				t.Errorf("after %d refusals a hand was given %d records of 100 ms", refused.Load(), most.Load())
			}
			r.stop()
		})
	}
}

// A service that refuses everything for a while holds up the tap in bounds and loses nothing. A round of
// refusals doubles the pause once, so all is there soon after the service is.
func TestRetryStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, long = 20_000, 2 * time.Second
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		away := time.Now().Add(long)
		var refused atomic.Int64
		var log bytes.Buffer // the handler of slog locks it
		in := r.inlet(InletConfig{Role: "map", Budget: b, Log: slog.New(slog.NewTextHandler(&log, nil)), Handler: Each(func(context.Context, Record, Emitter) error {
			if time.Now().Before(away) {
				refused.Add(1)
				return Retry(0, errors.New("the service is away"))
			}
			return nil
		})})
		r.link(tap, "tap", "map", in, "n1")
		s, done := r.source(tap, b, &numbers{n: n})
		time.Sleep(long / 2)
		if st := tap.Stats()[0]; st.Retries < 1000 || st.Inflight > 2*windowRecords {
			t.Errorf("while the service is away: %+v, want a window at most that waits and one in flight", st)
		}
		if why := in.Stats().Waits; why != "the service is away" {
			t.Errorf("the role waits for %q", why)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(away); took > 2*long || s.Stats().Acked != n {
			t.Errorf("%d acked, %v after the service was back", s.Stats().Acked, took)
		}
		if why := in.Stats().Waits; why != "" {
			t.Errorf("the role waits for %q in the end", why)
		}
		if most := int64(2 * windowRecords * 6); refused.Load() > most {
			t.Errorf("%d calls in vain in %v, want at most %d", refused.Load(), long, most)
		}
		r.stop()
		if n := strings.Count(log.String(), `msg="role tries again" role=map err="the service is away"`); n != 1 {
			t.Errorf("it is said %d times:\n%.500s", n, &log)
		}
	})
}
