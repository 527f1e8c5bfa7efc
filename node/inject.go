package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"weir/consensus"
	"weir/node/api"
	"weir/stream"
	"weir/topology"
)

const (
	// injectionsMax is how many injections into one role a node runs at once: each is a person or a
	// script that waits. They are numbered, so that sources and links of many, one after the other,
	// are few to those who remember them.
	injectionsMax = 16
	// injectionLinksMax is how many nodes of a role one injection has links to.
	injectionLinksMax = 8
	// injectionEnd is how long the last mark of an injection may take to its links, once all is acked.
	injectionEnd = time.Second
)

// injection brings records into a pipeline that none of its nodes' taps read: what weir put is
// given, and dead letters that are replayed. Its links start at no role that a node serves.
type injection struct {
	pipeline string
	tap      string // whose edges the records go out by; "": they enter at role
	role     string
	reader   stream.Reader

	port   string // of its edges: what tells its links from those of others at the same time
	id     stream.ID
	outlet *stream.Outlet // nil: not yet; the mu of injections guards it and source, for report
	source *stream.Source
}

// injections are those of a node.
type injections struct {
	n    *Node
	link atomic.Uint64 // generation of the next link

	mu      sync.Mutex
	slots   map[string]bool // taken: pipeline/role#number
	running map[*injection]context.CancelFunc
	ended   bool                   // the node leaves
	past    map[roleKey]roleReport // totals of those into put taps that ended
}

func newInjections(n *Node) *injections {
	return &injections{n: n, slots: make(map[string]bool), running: make(map[*injection]context.CancelFunc), past: make(map[roleKey]roleReport)}
}

// stop ends the reading of all; what they read goes on.
func (is *injections) stop() {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.ended = true
	for _, stop := range is.running {
		stop()
	}
}

// busy reports whether one still runs.
func (is *injections) busy() bool {
	is.mu.Lock()
	defer is.mu.Unlock()
	return len(is.running) > 0
}

// begin takes a number for an injection; end gives it back.
func (is *injections) begin(in *injection, stop context.CancelFunc) (end func(), err error) {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.ended {
		return nil, &api.Error{Status: http.StatusServiceUnavailable, Exit: 75, Text: "this node is about to leave: ask another"}
	}
	what := cmp.Or(in.tap, in.role)
	for i := range injectionsMax {
		name := fmt.Sprintf("put-%d", i+1)
		slot := in.pipeline + "/" + what + "#" + name
		if is.slots[slot] {
			continue
		}
		is.slots[slot], is.running[in] = true, stop
		in.port = name
		in.id = stream.ID{Source: stream.SourceID(in.pipeline, what, string(is.n.self.ID)+"#"+name), Gen: newGeneration()}
		return func() {
			is.mu.Lock()
			defer is.mu.Unlock()
			delete(is.slots, slot)
			delete(is.running, in)
		}, nil
	}
	return nil, &api.Error{Status: http.StatusTooManyRequests, Exit: 75,
		Text: fmt.Sprintf("this node brings records to %s/%s for %d others already: try again, or ask another node", in.pipeline, what, injectionsMax)}
}

// edges are those that the injection goes out by, as the graph has them.
func (in *injection) edges(p consensus.Pipeline) (es []topology.Edge) {
	if in.tap == "" {
		return []topology.Edge{{Port: in.port, To: in.role}}
	}
	for _, e := range p.Whole().Graph.Out(in.tap) {
		if !p.Closed(e) {
			es = append(es, topology.Edge{From: in.tap, Port: in.port, To: e.To})
		}
	}
	return es
}

// fits says why the pipeline takes nothing from the injection, as it is now.
func (in *injection) fits(p consensus.Pipeline, known bool) error {
	what := cmp.Or(in.tap, in.role)
	r, has := p.Role(what)
	switch {
	case !known:
		return &api.Error{Status: http.StatusNotFound, Exit: 2, Text: fmt.Sprintf("there is no pipeline %s", in.pipeline)}
	case p.Failed != nil:
		return &api.Error{Status: http.StatusConflict, Exit: 75, Text: fmt.Sprintf("pipeline %s failed: %s: mend that and apply it again first", in.pipeline, p.Failed.Reason)}
	case !has, (r.Kind == topology.KindTap) != (in.tap != ""), in.tap != "" && !r.Put:
		return &api.Error{Status: http.StatusNotFound, Exit: 2, Text: fmt.Sprintf("pipeline %s has no role %s any more that takes these records", in.pipeline, what)}
	}
	return nil
}

// runStopped is why the run of a pipeline must stop.
type runStopped struct {
	reason string
	exit   int
}

func (e *runStopped) Error() string { return e.reason }

// ExitCode is that of the run.
func (e *runStopped) ExitCode() int { return e.exit }

// run reads and hands on until the reader ends, or the node leaves, and returns nil when all that
// was read is acked. It waits where the pipeline is paused or no node takes its records.
func (is *injections) run(ctx context.Context, in *injection) error {
	n := is.n
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	reading, stopReading := context.WithCancel(work)
	defer stopReading()
	p, known := n.consensus.State().Pipeline(in.pipeline)
	if err := in.fits(p, known); err != nil {
		return err
	}
	end, err := is.begin(in, stopReading)
	if err != nil {
		return err
	}
	defer end()
	from, _ := p.Role(in.tap)
	outlet := stream.NewOutlet(stream.OutletConfig{
		Pipeline: in.pipeline, Role: in.tap, Edges: in.edges(p), Send: from.Send, Budget: n.budget,
		Share: n.budget.Max() / int64(len(n.cfg.Roles)+1), RecordMax: p.RecordMax, Hooks: n.cfg.Hooks.ofStream(),
		Fail: func(reason string, exit int) { cancel(&runStopped{reason, exit}) },
	})
	source := stream.NewSource(stream.SourceConfig{
		ID: in.id.Source, Gen: in.id.Gen, Partition: in.port, Reader: in.reader, Outlet: outlet, Budget: n.budget,
	})
	is.show(in, outlet, source)
	defer is.count(in)
	links := injectionLinks{n: n, in: in, links: make(map[topology.Link]*linkRun), beats: make(map[topology.NodeID]context.CancelFunc)}
	following, stopFollowing := context.WithCancel(work)
	followed := make(chan struct{})
	links.group.Go(func() { // ended by stopFollowing
		defer close(followed)
		if err := links.follow(work, following, source); err != nil {
			cancel(err)
		}
	})
	err = source.Run(work, reading)
	stopFollowing()
	<-followed
	if err == nil {
		links.settle(work)
	}
	if work.Err() != nil {
		err = context.Cause(work)
	}
	cancel(nil)
	links.group.Wait()
	outlet.Close()
	if stopped, ok := errors.AsType[*runStopped](err); ok {
		_ = n.insist(ctx, consensus.Fail(in.pipeline, stopped.reason, stopped.exit), func(s *consensus.State) bool {
			p, ok := s.Pipeline(in.pipeline)
			return !ok || p.Failed != nil
		})
	}
	return err
}

// injectionLinks are the links of one injection: they follow the State as a keeper's do. Only one
// goroutine at a time uses them.
type injectionLinks struct {
	n     *Node
	in    *injection
	group sync.WaitGroup
	links map[topology.Link]*linkRun
	beats map[topology.NodeID]context.CancelFunc
}

// follow opens and drains links, which live until ctx is done, as long as following lasts or the
// pipeline takes what comes.
func (il *injectionLinks) follow(ctx, following context.Context, source *stream.Source) error {
	var version uint64
	for {
		changed := il.n.consensus.Changed()
		s := il.n.consensus.State()
		p, known := s.Pipeline(il.in.pipeline)
		if err := il.in.fits(p, known); err != nil {
			return err
		}
		if p.Version != version {
			from, _ := p.Role(il.in.tap)
			il.in.outlet.Revise(il.in.edges(p), from.Send)
			version = p.Version
		}
		source.Pause(p.Paused || slices.Contains(p.PausedRoles, il.in.tap))
		il.open(ctx, il.targets(s, p))
		select {
		case <-changed:
		case <-following.Done():
			return nil
		}
	}
}

// targets are the links wanted: of each edge to all nodes of the role, or to some of many.
func (il *injectionLinks) targets(s *consensus.State, p consensus.Pipeline) map[topology.Link]bool {
	whole := p.Whole()
	want := make(map[topology.Link]bool)
	for _, e := range il.in.edges(p) {
		var ids []topology.NodeID
		for _, node := range s.Roster {
			if whole.ServedBy(node, e.To) {
				ids = append(ids, node.ID)
			}
		}
		score := func(id topology.NodeID) uint64 { return xxh3.HashString(string(il.n.self.ID) + " " + string(id)) }
		slices.SortFunc(ids, func(a, b topology.NodeID) int { return cmp.Compare(score(a), score(b)) })
		for _, id := range ids[:min(len(ids), injectionLinksMax)] {
			want[topology.Link{Pipeline: p.Name, Edge: e, From: il.n.self.ID, To: id}] = true
		}
	}
	return want
}

// open opens the links that are wanted and drains the others.
func (il *injectionLinks) open(ctx context.Context, want map[topology.Link]bool) {
	peers := make(map[topology.NodeID]bool)
	for l, lr := range il.links {
		if !want[l] {
			close(lr.drain)
			delete(il.links, l)
		}
	}
	for l := range want {
		peers[l.To] = true
		if il.links[l] != nil {
			continue
		}
		lr := &linkRun{drain: make(chan struct{}), ended: make(chan struct{})}
		il.links[l] = lr
		il.group.Go(func() { // ended by drain or ctx
			defer close(lr.ended)
			il.n.keeper.runLink(ctx, il.in.outlet, l, lr, func() uint64 { return il.n.injections.link.Add(1) })
		})
	}
	for id, stop := range il.beats {
		if !peers[id] {
			stop()
			delete(il.beats, id)
		}
	}
	for id := range peers {
		if il.beats[id] == nil && id != il.n.self.ID { // a dead peer's links break
			ctx, stop := context.WithCancel(ctx)
			il.beats[id] = stop
			il.group.Go(func() { il.n.beatOn(ctx, id) }) // ended by stop or ctx
		}
	}
}

// settle drains the links, all of whose records are acked, so that they bring the last mark.
func (il *injectionLinks) settle(ctx context.Context) {
	timer := time.NewTimer(injectionEnd)
	defer timer.Stop()
	for _, lr := range il.links {
		close(lr.drain)
	}
	for _, lr := range il.links {
		select {
		case <-lr.ended:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// injects reports whether a link that starts at the role is one of an injection.
func injects(p topology.Pipeline, from string) bool {
	tap, _ := p.Role(from)
	return from == "" || tap.Put
}

// judgeInjected says why the link of an injection is refused. The peer is of the cluster, or it could
// not have connected; it must be in the roster.
func judgeInjected(s *consensus.State, p topology.Pipeline, edge topology.Edge, from topology.NodeID) error {
	to, has := p.Role(edge.To)
	_, admitted := s.Node(from)
	switch {
	case !has || to.Kind == topology.KindTap:
		return fmt.Errorf("pipeline %s has no role %s that takes records", p.Name, edge.To)
	case edge.From != "" && !slices.ContainsFunc(p.Graph.Out(edge.From), func(e topology.Edge) bool { return e.To == edge.To }):
		return fmt.Errorf("pipeline %s has no edge %s -> %s", p.Name, edge.From, edge.To)
	case !admitted:
		return errors.New("the node that brings records is not in the roster")
	}
	return nil
}
