package stream

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"weir/topology"
)

// What changes on a role at work: its edges, and whether it is paused.

// Revise makes edges, which start at the outlet's role, those that records are handed on to. Of
// the others, what is on its way goes on, and to other nodes of the same edge where it must.
func (o *Outlet) Revise(edges []topology.Edge, send topology.Send) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.edges {
		e.closed = true
	}
	ms := make(marks)
	if len(o.edges) > 0 {
		ms = o.edges[0].marks // the same for all
	}
	var ports []string
	for _, edge := range edges {
		e := o.find(edge)
		if e == nil {
			e = &outEdge{edge: edge, marks: maps.Clone(ms)}
			o.edges = append(o.edges, e)
		}
		e.closed = false
		if !slices.Contains(ports, edge.Port) {
			ports = append(ports, edge.Port)
		}
	}
	o.send = send
	o.ports.Store(&ports)
	o.wake()
}

// Close gives back the memory of all that is not acked: who keeps what comes before sends it again. It
// is for an outlet to which nobody emits any more; what its links have goes with them.
func (o *Outlet) Close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	if o.timer != nil {
		o.timer.Stop()
	}
	ofLinks := int64(0)
	for _, e := range o.edges {
		e.inflight += len(e.orphans) + e.kept() // as it was in the end
		e.orphans, e.nacked, e.retries, e.lane.suspects, e.lane.accused = nil, nil, nil, nil, nil
		for _, s := range e.senders {
			ofLinks += s.pinned
		}
	}
	o.pin(ofLinks - o.pinned)
}

// Pause stops the handlers' taking, or lets it go on: what they have goes its way, and the links
// fill until the senders wait.
func (in *Inlet) Pause(on bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.paused = on
	in.more.Signal() // it wakes who handles
}

// Pause stops the reading, or lets it go on; what was read goes its way.
func (s *Source) Pause(on bool) { s.gate.shut(on) }

// gate holds up whoever passes while it is shut. The zero value is open.
type gate struct {
	closed atomic.Bool // so that passing an open one costs next to nothing

	mu   sync.Mutex
	open chan struct{} // closed when it opens
}

func (g *gate) shut(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch was := g.closed.Swap(on); {
	case on && !was:
		g.open = make(chan struct{})
	case was && !on:
		close(g.open)
	}
}

// pass waits until the gate is open, or reading ends, after which what was read may still go on.
func (g *gate) pass(ctx, reading context.Context) error {
	for g.closed.Load() && reading.Err() == nil {
		g.mu.Lock()
		open := g.open
		g.mu.Unlock()
		select {
		case <-open:
		case <-reading.Done():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
