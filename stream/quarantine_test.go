package stream

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/topology"
)

// mortal is a role on nodes that die, and start again.
type mortal struct {
	r       *rig
	tap     *Outlet
	sink    *Inlet
	budget  *Budget
	handler func(node topology.NodeID, kill func()) Handler
	letters graves
	delay   time.Duration // from a death to the next life

	mu     sync.Mutex
	deaths int
	kills  map[topology.NodeID]func()
}

// live runs a node until it is killed, over and over.
func (m *mortal) live(node topology.NodeID) {
	for m.r.ctx.Err() == nil {
		ctx, die := context.WithCancel(m.r.ctx)
		mid := m.r.outlet("map", m.budget, "", "sink")
		down := m.r.linkFrom(node, mid, "map", "sink", m.sink, "n9")
		var up *liveLink
		kill := func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if ctx.Err() == nil {
				m.deaths++
				up.cut() // first: nothing that it says is heard any more
				down.cut()
				die()
			}
		}
		in := NewInlet(InletConfig{
			Role: "map", Handler: m.handler(node, kill), Outlet: mid, Budget: m.budget, Capacity: 50,
			Dead: m.letters.Dead, Log: slog.New(slog.DiscardHandler),
		})
		m.mu.Lock()
		up = m.r.link(m.tap, "tap", "map", in, node)
		m.kills[node] = kill
		m.mu.Unlock()
		_ = in.Run(ctx)
		die()
		time.Sleep(m.delay)
	}
}

func newMortal(t *testing.T, nodes int, handler func(topology.NodeID, func()) Handler) (*mortal, *memory) {
	m := &mortal{r: newRig(t), budget: NewBudget(0), handler: handler, delay: 500 * time.Millisecond, kills: make(map[topology.NodeID]func())}
	m.tap = m.r.outlet("tap", m.budget, "", "map")
	store := newMemory()
	m.sink, _ = m.r.sink("sink", store)
	for i := range nodes {
		m.r.group.Go(func() { m.live(topology.NodeID(fmt.Sprint("n", i))) })
	}
	synctest.Wait()
	return m, store
}

// F24, I9: records that kill each node that takes them, before it can say that it did, are dead letters
// after three deaths in which they were alone, and two before at most; all others arrive.
func TestKillersAreCondemned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		killer := func(body string) bool { return strings.HasSuffix(body, "777") }
		var mu sync.Mutex
		killed := map[string]int{}
		m, store := newMortal(t, 4, func(_ topology.NodeID, kill func()) Handler {
			return Each(func(ctx context.Context, rec Record, e Emitter) error {
				time.Sleep(time.Millisecond)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if killer(string(rec.Body)) {
					mu.Lock()
					killed[string(rec.Body)]++
					mu.Unlock()
					kill()
					return nil
				}
				return e.Emit(ctx, rec.Out)
			})
		})
		const n = 5000
		_, done := m.r.source(m.tap, m.budget, &numbers{n: n})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(m.letters.letters) < 5 || len(store.bodies) != n-5 {
			t.Errorf("%d letters and %d records of %d, of which 5 kill: %q", len(m.letters.letters), len(store.bodies), n, m.letters.all())
		}
		for _, l := range m.letters.letters {
			if !killer(string(l.Record.Body)) || l.Record.Attempt != 4 {
				t.Errorf("%s is a letter, at attempt %d: %s", l.Record.Body, l.Record.Attempt, l.Reason)
			}
		}
		for body, times := range killed {
			if times > 5 {
				t.Errorf("%s killed %d nodes, want 5 at most", body, times)
			}
		}
		if st := m.tap.Stats()[0]; st.Suspects != 0 || st.Inflight != 0 {
			t.Errorf("at the end %+v", st)
		}
		m.r.stop()
	})
}

// A record that ends nodes for good is a dead letter as soon as it is sure that these do not come back.
func TestKillerOfNodesThatStayAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, store := newMortal(t, 6, func(_ topology.NodeID, kill func()) Handler {
			return Each(func(ctx context.Context, rec Record, e Emitter) error {
				if strings.HasSuffix(string(rec.Body), " 7") {
					kill()
					return nil
				}
				return e.Emit(ctx, rec.Out)
			})
		})
		m.delay = 24 * time.Hour
		start := time.Now()
		_, done := m.r.source(m.tap, m.budget, &numbers{n: 100})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); m.deaths > 5 || took > steadyFor+time.Second {
			t.Errorf("%d nodes died, and the end came after %v", m.deaths, took)
		}
		if len(m.letters.letters) != 1 || len(store.bodies) != 99 {
			t.Errorf("%d letters and %d records of 100, of which one kills", len(m.letters.letters), len(store.bodies))
		}
		m.r.stop()
	})
}

// Nodes that die blame no innocent, however often; and what is not suspected does not wait for what is. A chance
// remains where one dies every four times as long as a handler takes: DESIGN.md has it.
func TestInnocentsAreSpared(t *testing.T) {
	for slow, every := range map[time.Duration]time.Duration{time.Millisecond: 50 * time.Millisecond, 30 * time.Millisecond: 2 * time.Second, 500 * time.Millisecond: 8 * time.Second} {
		t.Run(slow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, store := newMortal(t, 4, func(_ topology.NodeID, _ func()) Handler {
					return Each(func(ctx context.Context, rec Record, e Emitter) error {
						time.Sleep(slow)
						return e.Emit(ctx, rec.Out)
					})
				})
				m.delay = every / 4
				n := int(15 * every * 4 * 50 / slow / 2) // 15 deaths at half speed
				s, done := m.r.source(m.tap, m.budget, &numbers{n: n})
				rng := rand.New(rand.NewPCG(1, 2))
				most := 0
				for ended := false; !ended; {
					select {
					case err := <-done:
						if err != nil {
							t.Fatal(err)
						}
						ended = true
					case <-time.After(every):
						m.mu.Lock()
						kill := m.kills[topology.NodeID(fmt.Sprint("n", rng.IntN(4)))]
						m.mu.Unlock()
						kill()
						most = max(most, m.tap.Stats()[0].Suspects)
					}
				}
				if len(m.letters.letters) > 0 || m.deaths < 4 || most == 0 {
					t.Errorf("%d deaths, %d suspects at once, letters %q; want none", m.deaths, most, m.letters.all())
				}
				t.Logf("%d records, %d deaths, at most %d suspects", s.Stats().Read, m.deaths, most)
				store.check(t, n, same)
				m.r.stop()
			})
		})
	}
}

// Links that break while a record is in hand alone condemn it never: one after the other, of nodes that live,
// or all at about the same time, since the tap is cut off.
func TestBrokenLinksCondemnNobody(t *testing.T) {
	for name, at := range map[string]struct{ apart, away time.Duration }{
		"one by one": {apart: time.Second, away: time.Second}, "all": {apart: 30 * time.Millisecond, away: 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				b := NewBudget(0)
				tap, mid := r.outlet("tap", b, "", "map"), r.outlet("map", b, "", "sink")
				store := newMemory()
				sink, _ := r.sink("sink", store)
				r.link(mid, "map", "sink", sink, "n9")
				slow := Each(func(ctx context.Context, rec Record, e Emitter) error {
					select {
					case <-time.After(10 * time.Second):
					case <-ctx.Done():
						return ctx.Err()
					}
					return e.Emit(ctx, rec.Out)
				})
				var letters graves
				var ins []*Inlet
				for range 5 {
					ins = append(ins, r.inlet(InletConfig{Role: "map", Handler: slow, Outlet: mid, Budget: b, Dead: letters.Dead, Log: slog.New(slog.DiscardHandler)}))
				}
				_, done := r.source(tap, b, &numbers{n: 1})
				again := func(i int) {
					node := topology.NodeID(fmt.Sprint("n", i))
					l := r.link(tap, "tap", "map", ins[i], node)
					for round := range 4 {
						time.Sleep(at.away + time.Duration(i)*at.apart)
						l.cut()
						<-l.drained
						time.Sleep(at.away + time.Duration(len(ins)-i)*at.apart*time.Duration(min(round, 1)))
						l = r.link(tap, "tap", "map", ins[i], node)
					}
				}
				for i := range ins {
					r.group.Go(func() { again(i) })
				}
				if err := <-done; err != nil {
					t.Error(err)
				}
				if all := letters.all(); len(all) > 0 {
					t.Errorf("letters %q", all)
				}
				store.check(t, 1, same)
				r.stop()
			})
		})
	}
}

// A link that its peer ends itself is no death: what it had goes on at once.
func TestEndedLinkBlamesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		release := make(chan struct{})
		stuck := Each(func(ctx context.Context, _ Record, _ Emitter) error { hang(ctx, release); return nil })
		ctx, end := context.WithCancel(r.ctx)
		in := NewInlet(InletConfig{Role: "map", Handler: stuck, Budget: b, Capacity: 10, Log: slog.New(slog.DiscardHandler)})
		r.group.Go(func() { _ = in.Run(ctx) })
		l := r.linkServed(ctx, "n0", tap, topology.Edge{From: "tap", To: "map"}, in, "n1")
		_, done := r.source(tap, b, &numbers{n: 100})
		time.Sleep(time.Second)
		end()
		<-l.drained
		if st := tap.Stats()[0]; st.Suspects != 0 || st.Inflight == 0 {
			t.Errorf("after a link that its peer ended: %+v, want no suspects", st)
		}
		close(release)
		r.link(tap, "tap", "map", r.inlet(InletConfig{Role: "map", Handler: stuck, Budget: b}), "n2")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.stop()
	})
}

// A sink's thousands of suspects do not take an fsync each.
func TestLongLaneIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "sink")
		m := newMemory()
		var links []*liveLink
		for i := range 2 {
			h := NewSinkHandler(SinkHandlerConfig{Sink: m})
			slow := whole(func(ctx context.Context, b *Batch) error {
				time.Sleep(5 * time.Millisecond) // an fsync
				return h.Handle(ctx, b)
			})
			in := r.inlet(InletConfig{Role: "sink", Handler: slow, Serial: true, OnMark: h.Mark, Budget: b})
			links = append(links, r.link(tap, "tap", "sink", in, topology.NodeID(fmt.Sprint("n", i))))
		}
		_, done := r.source(tap, b, &numbers{n: 100_000})
		for inHand := uint64(0); inHand < 1000; time.Sleep(time.Millisecond) {
			tap.mu.Lock()
			inHand = 0
			for _, s := range tap.edges[0].senders {
				if s.peer == "n0" {
					inHand = s.taken - s.win.base
				}
			}
			tap.mu.Unlock()
		}
		links[0].cut()
		<-links[0].drained
		suspects := tap.Stats()[0].Suspects
		start := time.Now()
		for tap.Stats()[0].Suspects > 0 {
			time.Sleep(time.Millisecond)
		}
		// A hundred rounds, each of one Write, or of two where it comes during one; alone they take 20 s.
		if took := time.Since(start); suspects < 1000 || took > 2*time.Second {
			t.Errorf("%d suspects took %v, want two seconds at most", suspects, took)
		} else {
			t.Logf("%d suspects took %v", suspects, took)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		m.check(t, 100_000, same)
		r.stop()
	})
}

// Suspects that go alone have a node each, as many at once as there are nodes: a tap that is cut off from
// all of them for a moment, and again while its suspects are on their way, goes on soon.
func TestAloneIsAloneOnItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes, takes = 3, time.Second
		r := newRig(t)
		b := NewBudget(0)
		tap := r.outlet("tap", b, "", "map")
		slow := Each(func(context.Context, Record, Emitter) error { time.Sleep(takes); return nil })
		var ins [nodes]*Inlet
		var links [nodes]*liveLink
		for i := range ins {
			ins[i] = r.inlet(InletConfig{Role: "map", Handler: slow, Budget: b, Capacity: 60}) // for enough that go alone
			links[i] = r.link(tap, "tap", "map", ins[i], topology.NodeID(fmt.Sprint("n", i)))
		}
		_, done := r.source(tap, b, &numbers{n: 500})
		for range 2 {
			time.Sleep(takes * 3 / 2)
			for _, l := range links {
				l.cut()
			}
			for i := range links {
				<-links[i].drained
				links[i] = r.link(tap, "tap", "map", ins[i], topology.NodeID(fmt.Sprint("n", i)))
			}
		}
		lonely, start := 0, time.Now()
		for tap.Stats()[0].Suspects > 0 {
			tap.mu.Lock()
			waiting := 0
			for _, or := range tap.edges[0].lane.suspects {
				if or.custody == alone {
					waiting++
				}
			}
			lonely = max(lonely, waiting)
			for _, s := range tap.edges[0].senders {
				for seq := s.win.base; seq < s.win.next; seq++ {
					if sl := s.win.at(seq); sl.custody == alone && !sl.handled && s.suspects > 1 {
						t.Errorf("at %v one that goes alone is on %s with %d others", time.Since(start), s.peer, s.suspects-1)
					}
				}
			}
			tap.mu.Unlock()
			time.Sleep(time.Millisecond)
		}
		// Before and after those that go alone are the others: laneAlone of these have probationBeside each.
		if took, most := time.Since(start), 30*time.Second+time.Duration(lonely)*takes/nodes; lonely < 50 || took > most {
			t.Errorf("with %d that go alone it took %v, want %v at most", lonely, took, most)
		} else {
			t.Logf("with %d that go alone it took %v", lonely, took)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		r.stop()
	})
}

// What becomes of a record of a link that has ended, by what is known of it.
func TestTrial(t *testing.T) {
	others := &death{"b", 8, &death{peer: "a", life: 7}}
	for _, c := range []struct {
		name     string
		ended    bool // by the peer
		suspects int  // on the link
		sent     uint64
		taken    uint64
		cleared  uint64
		slot     slot
		custody  custody
		deaths   *death
		accused  bool
	}{
		{name: "taken", sent: 1, taken: 1, custody: suspect},
		{name: "taken, the peer lives", ended: true, sent: 1, taken: 1},
		{name: "handled", sent: 1, taken: 1, slot: slot{handled: true}},
		{name: "handled, suspected before", sent: 1, taken: 1, slot: slot{handled: true, custody: suspect, deaths: others}},
		{name: "not written"},
		{name: "not written, a suspect", suspects: 1, slot: slot{custody: suspect, deaths: others}, custody: suspect, deaths: others},
		{name: "not taken", sent: 1, custody: survivor},
		{name: "not taken, twice", sent: 1, slot: slot{custody: survivor}, custody: suspect},
		{name: "a suspect that nobody handles yet", suspects: 1, sent: 1, taken: 1, slot: slot{custody: suspect, deaths: others}, custody: suspect, deaths: others},
		{name: "the only suspect", suspects: 1, sent: 1, taken: 1, cleared: 1, slot: slot{custody: suspect}, custody: alone, deaths: &death{peer: "c", life: 9}},
		{name: "the only suspect, the peer lives", ended: true, suspects: 1, sent: 1, taken: 1, slot: slot{custody: suspect, deaths: others}, custody: suspect, deaths: others},
		{name: "one of two suspects", suspects: 2, sent: 1, taken: 1, cleared: 1, slot: slot{custody: suspect}, custody: alone},
		{name: "alone, the third time", suspects: 1, sent: 1, taken: 1, cleared: 1, slot: slot{custody: alone, deaths: others}, custody: alone, deaths: &death{"c", 9, others}, accused: true},
		{name: "alone, again in the same life", suspects: 1, sent: 1, taken: 1, cleared: 1, slot: slot{custody: alone, deaths: &death{"c", 9, &death{peer: "a", life: 7}}}, custody: alone, deaths: &death{"c", 9, &death{peer: "a", life: 7}}},
	} {
		s := &Sender{o: &Outlet{}, e: &outEdge{attempts: 3}, suspects: c.suspects, taken: c.taken, cleared: c.cleared, peer: "c", life: 9}
		s.e.lane.sent = c.suspects
		s.win.next = c.sent
		j := s.trial(!c.ended)
		or := &orphan{}
		j.judge(or, &c.slot, 0)
		if or.custody != c.custody || !reflect.DeepEqual(or.deaths, c.deaths) || (len(s.e.lane.accused) == 1) != c.accused {
			t.Errorf("%s: %d, deaths %v, accused %v; want %d, %v, %v", c.name, or.custody, or.deaths, s.e.lane.accused, c.custody, c.deaths, c.accused)
		}
		if lane := len(s.e.lane.suspects)+len(s.e.lane.accused) == 1; lane != (c.custody >= suspect) || lane == (len(s.e.orphans) == 1) {
			t.Errorf("%s: %d in the lane, %d not", c.name, len(s.e.lane.suspects), len(s.e.orphans))
		}
	}
	s := &Sender{o: &Outlet{}, e: &outEdge{attempts: 3}, capacity: 2}
	s.win.next = 5
	j := s.trial(true)
	for seq := range uint64(5) {
		j.judge(&orphan{}, &slot{handled: seq == 1}, seq)
	}
	if n := len(s.e.lane.suspects); n != 2 {
		t.Errorf("%d of five records are suspects that nobody is known to have taken, want the capacity, 2", n)
	}
}

// What becomes of the accused, by who is linked.
func TestSentence(t *testing.T) {
	const waits, goesOn, condemned = "waits", "goes on", "is condemned"
	link := func(peer topology.NodeID, life uint64) *Sender { return &Sender{peer: peer, life: life} }
	now := time.Now()
	for _, c := range []struct {
		name   string
		steady time.Duration
		waited time.Duration
		links  []*Sender
		want   string
	}{
		{"nobody is linked", time.Hour, time.Hour, nil, waits},
		{"others are, not for long", time.Second, 0, []*Sender{link("d", 1)}, waits},
		{"others are", steadyFor, 0, []*Sender{link("d", 1)}, condemned},
		{"one flaps", time.Second, steadyMax - 1, []*Sender{link("d", 1)}, waits},
		{"one flaps for long", time.Second, steadyMax, []*Sender{link("d", 1), {peer: "e", life: 2, since: now}}, condemned},
		{"all flap for long", time.Second, time.Hour, []*Sender{{peer: "d", life: 1, since: now.Add(1 - steadyMax)}, {peer: "e", life: 2, since: now}}, waits},
		{"one is back", 0, time.Hour, []*Sender{link("a", 7)}, goesOn},
		{"all are back", time.Hour, 0, []*Sender{link("c", 9), link("b", 8), link("a", 7)}, goesOn},
		{"one has begun anew", time.Second, 0, []*Sender{link("a", 71)}, waits},
		{"all have begun anew", 0, 0, []*Sender{link("a", 71), link("b", 81), link("c", 91)}, condemned},
		{"one drains, and its next life is there", 0, 0, []*Sender{link("a", 7), link("a", 71), link("b", 81), link("c", 91)}, goesOn},
	} {
		o := &Outlet{rings: now} // its timer is set
		e := &outEdge{attempts: 3, senders: c.links, changed: now.Add(-c.steady)}
		or := orphan{custody: alone, due: now.Add(steadyMax - c.waited), deaths: &death{"c", 9, &death{"b", 8, &death{peer: "a", life: 7}}}}
		or.rec.Attempt = 1
		e.lane.accused = []orphan{or}
		o.sentence(e, now)
		got := waits
		if len(e.lane.suspects) == 1 {
			got = map[uint64]string{1: goesOn, 4: condemned}[e.lane.suspects[0].rec.Attempt]
		}
		if got != c.want {
			t.Errorf("%s: it %s, want: it %s", c.name, got, c.want)
		}
	}
}

// Who was linked again in the same life did not die with the record, whatever becomes of it later.
func TestWhoCameBackIsBlamedNoMore(t *testing.T) {
	back := &Sender{peer: "c", life: 9}
	e := &outEdge{attempts: 3, senders: []*Sender{back}}
	e.lane.accused = []orphan{{custody: alone, deaths: &death{"c", 9, &death{"b", 8, &death{peer: "a", life: 7}}}}}
	new(Outlet).sentence(e, time.Now())
	if len(e.lane.suspects) != 1 {
		t.Fatal("it does not go on")
	}
	e.senders = nil // it leaves, in good order, with nothing in hand
	next := &Sender{o: &Outlet{}, e: e, suspects: 1, taken: 1, cleared: 1, peer: "d", life: 10}
	next.win.next = 1
	j := next.trial(false)
	j.judge(&orphan{}, &slot{custody: alone, deaths: e.lane.suspects[0].deaths}, 0)
	if len(e.lane.accused) > 0 {
		t.Error("a node that came back, and left, is taken for dead of it")
	}
}
