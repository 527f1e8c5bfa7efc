package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"weir/consensus"
	"weir/stream"
	"weir/stream/wire"
	"weir/topology"
)

const (
	// partitionsMax is how many partitions a tap may have on a node (DESIGN 6).
	partitionsMax = 64
	// leaseFor is how long a shared partition is read after a leader was last heard of: less than
	// the shortest takeover, by more than a clock drifts or a look is late. leaseLook is how often
	// that is looked at.
	leaseFor  = 6 * time.Second
	leaseLook = 250 * time.Millisecond
	// knownWait is how long a partition that was read before waits for the links that may know more of
	// it than the log (DESIGN 6: at most 1 s), knownLook how often it looks for them; knownLinks is how
	// many are enough: what a node has where it has not all (topology).
	knownWait  = time.Second
	knownLook  = 10 * time.Millisecond
	knownLinks = 8
)

// Why a partition is not read on.
var (
	errNotOurs = errors.New("the partition is another node's")
	errRenewed = errors.New("the partition begins again")
)

// keepsPartitions is a tap whose partitions follow from what is there when it is asked: it is told of
// those that the log has, and returns those that stand.
type keepsPartitions interface {
	Keep(known []string) []string
}

// readsAgain is a tap that has its own way of going back before its first record (stream.Tap).
type readsAgain interface {
	Again(ctx context.Context, partition string, first stream.Mark) (stream.Reader, error)
}

// again opens a partition from its start, where the mark behind its first record is that one.
func again(ctx context.Context, tap stream.Tap, partition string, first stream.Mark) (stream.Reader, error) {
	if t, ok := tap.(readsAgain); ok {
		return t.Again(ctx, partition, first)
	}
	r, err := tap.Open(ctx, partition, nil) // it has the input: what is put in its place from here on is found below, or never read
	if err != nil {
		return nil, err
	}
	there, err := tap.Open(ctx, partition, first)
	if err == nil {
		err = there.Close()
	}
	if err != nil {
		_ = r.Close() // it has read nothing
		return nil, err
	}
	return r, nil
}

// reading is a tap at work: one loop that follows the State, and a goroutine for each partition that
// is this node's to read, ended when it is no more.
//
// What only this node sees is its own from the start of the role: it claims that in the log once, and
// then needs no leader. Shared partitions are the leader's to give, and are not read on when none was
// heard of for leaseFor, if another node could have them by then. Where a restart finds nothing
// again, without a data dir or in a tap that cannot go back, the log is not asked at all.
type reading struct {
	rr     *roleRun
	shared bool
	logged bool
	keeper keepsPartitions // nil: the tap has the same ones at each start
	kept   bool            // the partitions are those of the log

	group  sync.WaitGroup
	ended  chan *sourceRun
	asked  chan error // the answer to the claim in flight
	asking bool       // one is in flight, or was a moment ago
}

func newReading(rr *roleRun) *reading {
	t := &reading{rr: rr, ended: make(chan *sourceRun), asked: make(chan error)}
	t.shared = shared(rr.cfg.Tap)
	t.keeper, _ = rr.cfg.Tap.(keepsPartitions)
	t.logged = replayable(rr.cfg.Tap) && (t.shared || rr.n.cfg.DataDir != "")
	return t
}

// shared reports whether all nodes see the same partitions of a tap.
func shared(tap stream.Tap) bool {
	t, ok := tap.(interface{ Shared() bool })
	return ok && t.Shared()
}

// replayable reports whether a tap can read again what it has read.
func replayable(tap stream.Tap) bool {
	t, ok := tap.(interface{ Replayable() bool })
	return !ok || t.Replayable()
}

// run reads until ctx ends or a partition cannot be read.
func (t *reading) run(ctx context.Context) error {
	defer t.group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := t.list(ctx); err != nil {
		return err
	}
	var lease <-chan time.Time
	if t.shared {
		tick := time.NewTicker(leaseLook)
		defer tick.Stop()
		lease = tick.C
	}
	again := time.NewTimer(retryMax)
	again.Stop() // until a claim was answered
	defer again.Stop()
	pause, stopped := retryMin, t.rr.reading.Done()
	for {
		changed := t.rr.n.consensus.Changed()
		t.follow(ctx)
		select {
		case <-changed:
		case <-again.C:
			t.asking = false
		case <-lease:
		case <-stopped:
			stopped = nil
		case err := <-t.asked:
			if t.answer(err); err == nil {
				pause = retryMin // the State shows it by then, or it was overtaken
			}
			again.Reset(pause)
			pause = min(2*pause, retryMax)
		case run := <-t.ended:
			if err := t.end(ctx, run); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// list asks the tap for its partitions.
func (t *reading) list(ctx context.Context) error {
	names, err := t.rr.cfg.Tap.Partitions(ctx)
	if err == nil && len(names) > partitionsMax {
		err = fmt.Errorf("the tap has %d partitions, at most %d are read", len(names), partitionsMax)
	}
	if err != nil {
		t.rr.failed(ctx, err)
		return err
	}
	t.rr.mu.Lock()
	defer t.rr.mu.Unlock()
	t.set(names)
	t.rr.listed = true
	return nil
}

// adopt takes the partitions that the log has for those of a tap that asks for that: they follow from
// what was there when they were named. Until then none is read.
func (t *reading) adopt(p consensus.Pipeline) {
	if t.keeper == nil || t.kept {
		return
	}
	if names := t.keeper.Keep(p.Partitions(t.rr.key.role)); len(names) > 0 {
		t.set(names)
		t.kept = true
	}
}

// set makes these the partitions, under the role's mu.
func (t *reading) set(names []string) {
	t.rr.partitions = nil
	for _, here := range names {
		p := &partition{name: here, here: here}
		if own := string(t.rr.n.self.ID) + ":"; !t.shared && !strings.HasPrefix(here, own) {
			p.name = own + here
		}
		t.rr.partitions = append(t.rr.partitions, p)
	}
}

// follow makes what is read here agree with the State: it claims, begins and ends.
func (t *reading) follow(ctx context.Context) {
	rr := t.rr
	s := rr.n.consensus.State()
	p, _ := s.Pipeline(rr.key.pipeline)
	lapsed := t.lapsed(s, p)
	var want []consensus.Claim
	rr.mu.Lock()
	t.adopt(p)
	for _, part := range rr.partitions {
		c, known := t.claim(p, part)
		ours := known && c.Holder == rr.n.self.ID && c.Boot == rr.n.self.Boot
		switch run := part.run; {
		case run != nil:
			if t.logged && c.Number != run.claim.Number {
				run.cancel(errNotOurs)
			}
		case part.done, rr.reading.Err() != nil:
		case known && c.Done:
			part.done = true
		case ours && c.Number > part.lost, !t.logged:
			part.run = t.begin(ctx, part, c)
		case known && (ours || t.shared):
		case t.shared:
			c.Holder, c.Boot = "", 0
			want = append(want, c)
		default:
			c.Holder, c.Boot = rr.n.self.ID, rr.n.self.Boot
			want = append(want, c)
		}
	}
	changed := rr.lapsed != lapsed
	rr.lapsed = lapsed
	rr.hold()
	rr.mu.Unlock()
	if changed && lapsed {
		rr.n.cfg.Hooks.sometimes("a shared partition is not read without a leader")
		rr.n.log.Warn("no leader is heard: shared partitions are not read, another node may have them", "role", rr.key.role)
	}
	if len(want) == 0 || t.asking {
		return
	}
	t.asking = true
	t.group.Go(func() { // ended by the proposal's own limit, or ctx
		err := rr.n.consensus.Propose(ctx, consensus.Claims(rr.key.pipeline, want...))
		select {
		case t.asked <- err:
		case <-ctx.Done():
		}
	})
}

// answer takes note of what became of a claim. One that is refused is shown, and tried again.
func (t *reading) answer(err error) {
	rr, why := t.rr, ""
	if refusal, ok := errors.AsType[consensus.Refusal](err); ok {
		why = string(refusal)
	}
	rr.mu.Lock()
	before := rr.refused
	rr.refused = why
	rr.mu.Unlock()
	switch {
	case why != "" && why != before:
		rr.n.log.Warn("the log refuses a claim, tried again", "role", rr.key.role, "err", err)
	case err != nil:
		rr.n.log.Debug("claim again later", "role", rr.key.role, "err", err)
	}
}

// claim is the claim on a partition, or what one would be.
func (t *reading) claim(p consensus.Pipeline, part *partition) (c consensus.Claim, known bool) {
	if c, known = p.Claim(t.rr.key.role, part.name); known {
		return c, true
	}
	return consensus.Claim{Role: t.rr.key.role, Partition: part.name, Shared: t.shared, Gen: t.rr.n.generation(p), All: t.keeper != nil}, false
}

// lapsed reports whether what is shared may be another's by now, for all that this node knows.
func (t *reading) lapsed(s *consensus.State, p consensus.Pipeline) bool {
	r, _ := p.Whole().Role(t.rr.key.role)
	if !t.shared || r.Takeover == topology.TakeoverNever {
		return false
	}
	age := t.rr.n.consensus.Age()
	return (age < 0 || age > leaseFor) && slices.ContainsFunc(s.Roster, func(n topology.Node) bool {
		return n.ID != t.rr.n.self.ID && p.Whole().ServedBy(n, r.Name)
	})
}

// begin reads a partition under a claim.
func (t *reading) begin(ctx context.Context, part *partition, c consensus.Claim) *sourceRun {
	run := &sourceRun{part: part, claim: c}
	run.ctx, run.cancel = context.WithCancelCause(ctx)
	t.group.Go(func() { // ended by its end, by cancel, or by ctx
		defer run.cancel(nil)
		run.err = t.read(run)
		select {
		case t.ended <- run:
		case <-ctx.Done():
		}
	})
	return run
}

// read reads a partition from its mark on.
func (t *reading) read(run *sourceRun) error {
	rr, c := t.rr, run.claim
	id := stream.SourceID(rr.key.pipeline, rr.key.role, run.part.name)
	cfg := stream.SourceConfig{
		ID: id, Gen: c.Gen, Partition: run.part.here, Outlet: rr.outlet, Budget: rr.n.budget,
		Claim: c.Number, Next: c.Next, Position: c.Position,
	}
	if t.logged {
		cfg.OnMark = func(m wire.Mark) { rr.n.marks.put(markOf(rr.key, c, m.Next, m.Position)) }
	}
	if m, ok := t.known(run.ctx, c, id); ok && m.Gen == c.Gen && m.Next > c.Next && len(m.Position) > 0 {
		cfg.Next, cfg.Position = m.Next, m.Position
	}
	if run.ctx.Err() != nil {
		return context.Cause(run.ctx) // the claim went while the links came: what another reads is not opened
	}
	var err error
	switch at := cfg.Position; {
	case cfg.Next > 0 || at == nil:
		if cfg.Reader, err = rr.cfg.Tap.Open(run.ctx, run.part.here, at); t.logged && cfg.Next == 0 {
			cfg.OnFirst = func(ctx context.Context, first stream.Mark) error { return t.first(ctx, c, first) }
		}
	default:
		cfg.Reader, err = again(run.ctx, rr.cfg.Tap, run.part.here, at)
	}
	if errors.Is(err, stream.ErrReset) && cfg.Position != nil {
		if gen := t.generation(); gen != c.Gen {
			return t.renew(run, gen, err)
		}
		cfg.Next, cfg.Position = 0, nil // a planted bug
		cfg.Reader, err = rr.cfg.Tap.Open(run.ctx, run.part.here, nil)
	}
	if err != nil {
		return err
	}
	if cfg.Next == 0 {
		cfg.Position = nil // it is behind the first record
	} else {
		rr.n.cfg.Hooks.sometimes("a partition is read on")
		rr.n.log.Info("a partition is read on", "role", rr.key.role, "partition", run.part.name, "next", cfg.Next)
	}
	s := stream.NewSource(cfg)
	rr.mu.Lock()
	s.Pause(rr.paused || rr.lapsed)
	run.source = s
	rr.mu.Unlock()
	err = errors.Join(s.Run(run.ctx, rr.reading), cfg.Reader.Close())
	if errors.Is(err, stream.ErrReset) && t.logged {
		return t.renew(run, t.generation(), err)
	}
	return err
}

// first has the log know by the mark behind its first record what a generation is of: the sinks may know more of
// it than the log when all nodes die, and would take the first records of another input for those.
func (t *reading) first(ctx context.Context, c consensus.Claim, mark stream.Mark) error {
	if len(mark) == 0 {
		return nil // a tap that knows no places
	}
	rr := t.rr
	c.Position = bytes.Clone(mark)
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		err := rr.n.consensus.Propose(ctx, consensus.Begin(rr.key.pipeline, c))
		if err == nil {
			break
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		if _, ok := errors.AsType[consensus.Refusal](err); ok {
			return errRenewed // the State says what became of the claim
		}
		rr.n.log.Debug("say again later what a partition begins with", "err", err)
	}
	p, _ := rr.n.consensus.State().Pipeline(rr.key.pipeline)
	now, _ := p.Claim(c.Role, c.Partition)
	if now.Number == c.Number && now.Gen == c.Gen && now.Next == 0 && len(now.Position) > 0 && !bytes.Equal(now.Position, mark) {
		return fmt.Errorf("%w: it began with another record", stream.ErrReset) // of a reading before, and came late
	}
	return nil
}

// known is the highest mark that the nodes downstream know of a source, if another claim has read it.
// It waits for the links to them, as long as they may take.
func (t *reading) known(ctx context.Context, c consensus.Claim, source uint64) (m wire.Mark, ok bool) {
	if c.Before == 0 {
		return m, false
	}
	tick := time.NewTicker(knownLook)
	defer tick.Stop()
	for range int(knownWait / knownLook) {
		if t.linked() {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return m, false
		}
	}
	return t.rr.outlet.Known(source)
}

// linked reports whether each edge has links to all nodes downstream, or to enough of them.
func (t *reading) linked() bool {
	s := t.rr.n.consensus.State()
	p, _ := s.Pipeline(t.rr.key.pipeline)
	return !slices.ContainsFunc(t.rr.outlet.Stats(), func(e stream.EdgeStats) bool {
		there := 0
		for _, n := range s.Roster {
			if p.Whole().ServedBy(n, e.Edge.To) {
				there++
			}
		}
		return e.Links < min(there, knownLinks)
	})
}

// generation names another life of a partition's numbering.
func (t *reading) generation() uint64 {
	p, _ := t.rr.n.consensus.State().Pipeline(t.rr.key.pipeline)
	return t.rr.n.generation(p)
}

// renew has the log say that a partition begins again, because of why.
func (t *reading) renew(run *sourceRun, gen uint64, why error) error {
	rr, c := t.rr, run.claim
	rr.n.cfg.Hooks.sometimes("a partition begins again")
	rr.n.log.Warn("a partition is read from its start, as a new generation: what is in it is not what was read before",
		"role", rr.key.role, "partition", run.part.name, "read", c.Next, "err", why)
	ctx, cancel := context.WithCancel(run.ctx)
	defer cancel()
	defer context.AfterFunc(rr.reading, cancel)()
	err := rr.n.insist(ctx, consensus.Reset(rr.key.pipeline, c, gen), func(s *consensus.State) bool {
		p, _ := s.Pipeline(rr.key.pipeline)
		now, _ := p.Claim(c.Role, c.Partition)
		return now.Number != c.Number || now.Gen == gen
	})
	if err == nil {
		err = errRenewed
	}
	return err
}

// end takes note of the end of a reading. Its error ends all of them.
func (t *reading) end(ctx context.Context, run *sourceRun) error {
	rr, part := t.rr, run.part
	rr.mu.Lock()
	done := run.err == nil && run.source != nil && run.source.Stats().Done
	part.past = part.stats()
	part.run = nil
	lost := context.Cause(run.ctx) == errNotOurs || errors.Is(run.err, stream.ErrFenced)
	switch {
	case lost:
		part.lost = run.claim.Number
	case done:
		part.done = true
	}
	failed := run.err != nil && !lost && !errors.Is(run.err, errRenewed) &&
		!(rr.reading.Err() != nil && errors.Is(run.err, context.Canceled))
	rr.broken = rr.broken || failed
	rr.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case lost:
		rr.n.log.Info("a partition is read by another node, or again", "role", rr.key.role, "partition", part.name, "claim", run.claim.Number)
	case done && t.logged:
		m := markOf(rr.key, run.claim, 0, nil)
		m.Done = true
		rr.n.marks.put(m)
	case failed:
		rr.failed(ctx, run.err)
		return run.err
	}
	return nil
}
