package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/zeebo/xxh3"

	"weir/consensus"
	"weir/stream"
	"weir/topology"
)

// roleRun is one role of one pipeline at work on this node.
type roleRun struct {
	n      *Node
	key    roleKey
	cfg    Role
	outlet *stream.Outlet // nil: a sink
	inlet  *stream.Inlet  // nil: a tap
	sink   *stream.SinkHandler

	ctx    context.Context // of all that it does; the run's, kept so that its links end with it
	cancel context.CancelCauseFunc

	ended chan struct{} // closed when run has returned

	reading     context.Context // of a tap's reading, which ends first when the node leaves
	stopReading context.CancelFunc

	version uint64 // that outlet has the edges of; only the keeper uses it

	mu         sync.Mutex
	partitions []*partition // of a tap
	listed     bool         // the tap has said which there are
	paused     bool
	lapsed     bool   // no leader is heard of: what is shared may be another's
	broken     bool   // a partition cannot be read
	refused    string // why the log takes no claim of a partition; "": it does
}

// newRoleRun makes a role that works until ctx is done, the pipeline fails or a version lacks it.
func newRoleRun(ctx context.Context, n *Node, p consensus.Pipeline, r topology.Role, cfg Role) *roleRun {
	rr := &roleRun{n: n, key: roleKey{p.Name, r.Name}, cfg: cfg, ended: make(chan struct{})}
	rr.ctx, rr.cancel = context.WithCancelCause(ctx)
	rr.reading, rr.stopReading = context.WithCancel(rr.ctx)
	if cfg.Sink == nil {
		rr.outlet = stream.NewOutlet(stream.OutletConfig{
			Pipeline: p.Name, Role: r.Name, Budget: n.budget,
			Share: rr.share(), RecordMax: p.RecordMax, Hooks: n.cfg.Hooks.ofStream(),
			Fail: func(reason string, exit int) { rr.fail(reason, exit) },
		})
	}
	if cfg.Tap != nil {
		rr.revise(p, r)
		return rr
	}
	in := stream.InletConfig{
		Role: r.Name, Handler: cfg.Handler, Capacity: cfg.Capacity, Outlet: rr.outlet,
		Attempts: cfg.Attempts, Deadline: cfg.Deadline, Claim: n.keeper.claim,
		Budget: n.budget, RecordMax: p.RecordMax, Log: n.log, Hooks: n.cfg.Hooks.ofStream(),
	}
	if n.cfg.DeadLetters {
		in.Dead = n.letters.bury
	}
	if cfg.Sink != nil {
		rr.sink = stream.NewSinkHandler(stream.SinkHandlerConfig{Sink: cfg.Sink, Log: n.log.With("role", r.Name), Hooks: in.Hooks})
		in.Handler, in.Serial, in.OnMark = rr.sink, true, rr.sink.Mark
		in.Deadline = 0 // it may wait for its store for as long as that takes
	}
	rr.inlet = stream.NewInlet(in)
	rr.revise(p, r)
	return rr
}

// revise makes the role as this version of its pipeline has it. What is on edges that are gone
// goes its way; a tap that leaves reads no more.
func (rr *roleRun) revise(p consensus.Pipeline, r topology.Role) {
	if rr.outlet != nil && rr.version != p.Version {
		var open []topology.Edge
		for _, e := range p.Whole().Graph.Out(r.Name) {
			if !p.Closed(e) {
				open = append(open, e)
			}
		}
		rr.outlet.Revise(open, r.Send)
		rr.version = p.Version
	}
	if p.Leaves(r.Name) {
		rr.stopReading()
	}
	rr.pause(p.Pauses(r))
}

// pause stops reading or taking, or lets it go on.
func (rr *roleRun) pause(on bool) {
	rr.mu.Lock()
	defer rr.mu.Unlock()
	if rr.paused == on {
		return
	}
	rr.paused = on
	if rr.inlet != nil {
		rr.inlet.Pause(on)
	}
	rr.hold()
}

// hold stops the sources or lets them go on, under mu.
func (rr *roleRun) hold() {
	for _, p := range rr.partitions {
		if p.run != nil && p.run.source != nil {
			p.run.source.Pause(rr.paused || rr.lapsed)
		}
	}
}

// share is the part of the node's memory that a tap may fill: as many parts as the node has
// roles, so that those behind it on the same node always find some.
func (rr *roleRun) share() int64 {
	if rr.cfg.Tap == nil {
		return 0
	}
	return rr.n.budget.Max() / int64(len(rr.n.cfg.Roles))
}

// run works until the role's context ends.
func (rr *roleRun) run() {
	defer close(rr.ended)
	defer rr.cancel(nil)
	var err error
	if rr.inlet != nil {
		if err = rr.begin(); err == nil {
			err = rr.serve()
		}
	} else {
		err = newReading(rr).run(rr.ctx)
		<-rr.ctx.Done() // its links stay: they bring the last marks
	}
	if rr.cfg.Sink != nil {
		err = errors.Join(err, rr.cfg.Sink.Close())
	} else {
		rr.outlet.Close()
	}
	rr.n.log.Debug("role ended", "role", rr.key.role, "err", err)
}

// begin readies a sink that asks to know whether the run of its pipeline is a fresh one.
func (rr *roleRun) begin() error {
	s, ok := rr.cfg.Sink.(interface {
		Path() string
		Begin(ctx context.Context, fresh bool) error
	})
	if !ok {
		return nil
	}
	fresh, err := rr.fresh(s.Path())
	if err == nil {
		err = rr.sink.Insist(rr.ctx, func() error { return s.Begin(rr.ctx, fresh) })
	}
	if err != nil {
		rr.failed(rr.ctx, err)
		<-rr.ctx.Done()
	}
	return err
}

// fresh reports whether no sink of the pipeline has emptied the file yet, in the life of this log,
// and has the log say that this one does. One that is killed before it does finds the file as it
// was: what others left in it stays, what it holds of this run is never lost.
//
// A file is known by role and path: a node that is another after a restart, without a data dir,
// finds its own again. So one path on two machines counts as one file, and only the sink that is
// first empties its own: where machines do not share a disk, the path has {node} in it.
func (rr *roleRun) fresh(path string) (bool, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return false, fmt.Errorf("name the file of role %s: %w", rr.key.role, err)
	}
	ours := consensus.Opening{File: xxh3.HashString(rr.key.role + " " + path), By: newGeneration()}
	var by uint64
	var refused error
	err = rr.n.insist(rr.ctx, consensus.Open(rr.key.pipeline, ours), func(s *consensus.State) bool {
		p, _ := s.Pipeline(rr.key.pipeline)
		var opened bool
		if by, opened = p.OpenedBy(ours.File); !opened {
			refused = p.MayOpen()
		}
		return opened || refused != nil
	})
	return by == ours.By, errors.Join(err, refused)
}

// serve handles records until the role's context ends.
func (rr *roleRun) serve() error {
	var g sync.WaitGroup
	defer g.Wait()
	if h, ok := rr.cfg.Handler.(interface{ Run(context.Context) error }); ok {
		g.Go(func() { _ = h.Run(rr.ctx) }) // its error is why the context ended
	}
	return rr.inlet.Run(rr.ctx)
}

// newGeneration names one life of a source's numbering.
func newGeneration() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// failed stops the run for an error of the tap.
func (rr *roleRun) failed(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	rr.fail(fmt.Sprintf("role %s: %v", rr.key.role, err), max(stream.ExitCode(err), 1))
}

// fail has the log say that the pipeline failed; all nodes then stop it.
func (rr *roleRun) fail(reason string, exit int) {
	rr.n.log.Info("pipeline fails", "pipeline", rr.key.pipeline, "reason", reason)
	rr.n.keeper.group.Go(func() { // ended by the role's end, which the log's word brings
		_ = rr.n.insist(rr.ctx, consensus.Fail(rr.key.pipeline, reason, exit), func(s *consensus.State) bool {
			p, ok := s.Pipeline(rr.key.pipeline)
			return ok && p.Failed != nil
		})
	})
}

// busy reports whether records went out and are un-acked, or a tap has not ended; those of a run that
// failed stay so.
func (rr *roleRun) busy() bool {
	if rr.outlet == nil || rr.ctx.Err() != nil {
		return false
	}
	edges := rr.outlet.Stats()
	if slices.ContainsFunc(edges, func(e stream.EdgeStats) bool { return e.Inflight > 0 }) {
		return true
	}
	// One that was read may wait for a link, for ever where no node serves the role there. It goes
	// nowhere, so that whoever reads here next reads it.
	waits := replayable(rr.cfg.Tap) && slices.ContainsFunc(edges, cutOff)
	rr.mu.Lock()
	defer rr.mu.Unlock()
	return slices.ContainsFunc(rr.partitions, func(p *partition) bool {
		if p.run == nil || p.run.source == nil {
			return false
		}
		st := p.run.source.Stats()
		return st.Read-st.Acked != 1 || !waits
	})
}

// cutOff reports whether records wait for a link of an edge that has none.
func cutOff(e stream.EdgeStats) bool { return e.Links == 0 && (e.Inflight > 0 || e.Waiting > 0) }

// acked is how many records that went out are acked.
func (rr *roleRun) acked() (n uint64) {
	if rr.outlet != nil {
		for _, e := range rr.outlet.Stats() {
			n += e.Records - uint64(e.Inflight)
		}
	}
	return n
}

// done reports whether the tap's partitions, as far as this node sees them, are read to their ends,
// here or elsewhere, and are all acked.
func (rr *roleRun) done() bool {
	rr.mu.Lock()
	defer rr.mu.Unlock()
	return rr.listed && !slices.ContainsFunc(rr.partitions, func(p *partition) bool { return !p.done })
}

// over reports whether nothing is read here any more, or ever, and all that was is acked.
func (rr *roleRun) over() bool {
	rr.mu.Lock()
	defer rr.mu.Unlock()
	return !rr.broken && rr.listed && !slices.ContainsFunc(rr.partitions, func(p *partition) bool {
		return p.run != nil || !p.done && rr.reading.Err() == nil
	})
}
