package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"weir/stream"
)

const (
	// lanDelay and lanJitter are the network's own: a room of machines on one switch.
	lanDelay  = 300 * time.Microsecond
	lanJitter = 100 * time.Microsecond
	// settleMax is how long after the last fault and the last read all must be acked (FAULTS I13), where
	// nothing of the scenario takes longer: see Workload.Settle.
	// A run goes on for overtime more, so that the checker sees that it is over.
	settleMax = 10 * time.Second
	overtime  = time.Second
	// settleEvery is how often a run looks whether it is.
	settleEvery = 50 * time.Millisecond
	// lingerMax is the longest that libraries keep timers after their Close, and then some: quic-go
	// keeps closed connections for a few round trips, memberlist a push/pull of 10 s (STACK 2).
	lingerMax = 60 * time.Second
	// standstill is how long, in real time, virtual time may stand still before the run is given
	// up: some goroutine then waits for what is outside of the bubble, or holds a lock meanwhile.
	standstill = 60 * time.Second
)

// Config says what to run. Scenario is needed.
type Config struct {
	Scenario Scenario
	Seed     uint64
	Realtime bool         // without virtual time
	Log      *slog.Logger // of the nodes; nil = discard

	bug stream.Bug // built into the nodes, to see that the checks notice
}

// Result is what a run showed.
type Result struct {
	Seed          uint64
	Violations    []Violation
	Records       uint64 // read by the taps
	Acked         uint64
	Lost          uint64
	Duplicates    uint64
	Letters       uint64 // dead letters
	LeaderChanges int
	Nodes         int
	Packets       uint64 // sent, of any node
	Virtual, Real time.Duration
	Timeline      Timeline
	History       *History
	Err           error // the run itself broke: a panic, a deadlock, a node that ended by itself
}

// Held reports whether all that is promised was kept.
func (r *Result) Held() bool { return r.Err == nil && len(r.Violations) == 0 }

// Run runs a scenario once.
func Run(cfg Config) *Result {
	r := &run{cfg: cfg, result: &Result{Seed: cfg.Seed}}
	start := time.Now()
	if cfg.Realtime {
		r.result.Err = guarded(r.run)
	} else {
		r.virtual()
	}
	r.result.Real = time.Since(start)
	return r.result
}

// run is one run of a scenario.
type run struct {
	cfg    Config
	result *Result
	alive  atomic.Int64 // virtual time, for who watches from outside
}

// virtual runs in virtual time and watches, in real time, that it does not stand still.
func (r *run) virtual() {
	ended := make(chan error, 1)
	go func() { ended <- virtually(r.run) }() // joined below, unless virtual time stands still
	watch := time.NewTicker(standstill)
	defer watch.Stop()
	for last := int64(-1); ; {
		select {
		case r.result.Err = <-ended:
			return
		case <-watch.C:
			at := r.alive.Load()
			if at == last {
				stuck := &Result{Seed: r.cfg.Seed} // the other is still being written
				stuck.Err = fmt.Errorf("virtual time stands still at %v:\n%s", time.Duration(at), bubbled(stacks()))
				r.result = stuck
				return
			}
			last = at
		}
	}
}

// run is the whole of it, inside the bubble.
func (r *run) run() error {
	ctx, cancel := context.WithCancel(context.Background())
	s := &r.cfg.Scenario
	net := newNetwork(r.cfg.Seed)
	net.impose(delayFault{lanDelay, lanJitter}, scope{})
	history := NewHistory()
	load := newWorkload(s, r.cfg.Seed, history)
	c := newCluster(s, r.cfg, net, load, history)
	if s.Disks {
		dir, err := os.MkdirTemp("", "weir-sim-")
		if err != nil {
			cancel()
			return fmt.Errorf("make disks: %w", err)
		}
		defer os.RemoveAll(dir) // all nodes have ended
		c.disks = dir
	}
	d := &director{s: s, c: c, net: net, wishes: make(map[string]*wish), timeline: &r.result.Timeline}
	var carrier sync.WaitGroup
	carrier.Go(func() { _ = net.run(ctx) }) // ended by cancel
	d.prepare()
	r.look(d, load)
	d.plan(s.Length, func() error { load.Stop(); return r.settle(d, load) })
	err := d.run(ctx)
	err = errors.Join(err, c.stored())
	r.conclude(d, load, history)
	c.close()
	cancel()
	carrier.Wait()
	if !r.cfg.Realtime {
		time.Sleep(lingerMax)
	}
	return errors.Join(append(c.broken.all(), err)...)
}

// look samples the run, again and again until it is over.
func (r *run) look(d *director, load *Workload) {
	t := &r.result.Timeline
	var sample func() error
	sample = func() error {
		at := d.net.now()
		r.alive.Store(int64(at))
		one := Sample{At: at, Acked: load.Acked()}
		for _, m := range d.c.up() {
			v := m.life.node.View()
			one.Held += v.Held
			if n := len(t.Elections); v.Leads && (n == 0 || t.Elections[n-1].Term < v.Term) {
				t.Elections = append(t.Elections, Election{at, m.name, v.Term})
			}
		}
		t.Samples = append(t.Samples, one)
		t.End = at
		if !d.over {
			d.plan(at+sampleEvery, sample)
		}
		return nil
	}
	d.plan(0, sample)
}

// settle waits until all has been acked for a while, in which links fall idle and can be judged,
// or time is up.
func (r *run) settle(d *director, load *Workload) error {
	at := d.net.now()
	if d.acked == 0 || !load.Settled() {
		d.acked = at
	}
	last := max(d.healed, d.s.Length, load.LastRead().Sub(d.net.start)) // taps may have much to catch up with
	if at-d.acked > deliveryMax || at >= last+load.Settle()+overtime {
		d.over = true
		return nil
	}
	d.plan(at+settleEvery, func() error { return r.settle(d, load) })
	return nil
}

// conclude judges the run by its history.
func (r *run) conclude(d *director, load *Workload, h *History) {
	res := r.result
	res.Virtual = d.net.now()
	res.Nodes, res.Packets = len(d.c.members), d.net.packets()
	res.History = h
	n := count(h, load)
	res.Records, res.Acked, res.Lost, res.Duplicates, res.Letters = n.read, n.acked, n.lost, n.duplicates, n.letters
	res.LeaderChanges = max(len(res.Timeline.Elections)-1, 0)
	res.Timeline.End = res.Virtual
	for i := range res.Timeline.Faults {
		if f := &res.Timeline.Faults[i]; f.To < f.From {
			f.To = res.Virtual
		}
	}
	h.Add(Event{Kind: EventOver})
	res.Violations = Check(h, load.Expect())
}
