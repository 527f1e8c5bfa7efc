package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"weir/stream"
	"weir/stream/mux"
	"weir/topology"
)

const (
	// retryMin and retryMax are the pauses between tries of a link or a proposal
	// (DESIGN 6: backoff 100 ms to 5 s).
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
	// beatRetryMax is the longest pause between tries to beat with a peer: a link that came up
	// meanwhile is watched over as soon.
	beatRetryMax = time.Second
)

// linkRun is a link that starts here, as long as the layout has it and then until it is
// drained.
type linkRun struct {
	drain chan struct{} // closed when the link leaves the layout
	ended chan struct{}
}

// openLink reports whether the link can be opened: the role that it starts at runs here.
func (k *keeper) openLink(l topology.Link) bool {
	rr := k.get(roleKey{l.Pipeline, l.Edge.From})
	if rr == nil || rr.outlet == nil {
		return false // start has said why
	}
	before := k.links[l]
	lr := &linkRun{drain: make(chan struct{}), ended: make(chan struct{})}
	k.links[l] = lr
	k.nextID += 1 << 32 // room for as many tries of each
	generation := k.nextID
	k.group.Go(func() { // ended by drain or the role's end
		defer close(lr.ended)
		if before != nil {
			<-before.ended // a newer generation would reset what still drains
		}
		k.runLink(rr.ctx, rr.outlet, l, lr, func() uint64 { generation++; return generation })
	})
	return true
}

// runLink opens the link, again whenever it breaks, each time in the next generation.
func (k *keeper) runLink(ctx context.Context, o *stream.Outlet, l topology.Link, lr *linkRun, next func() uint64) {
	n := k.n
	pause := retryMin
	for ctx.Err() == nil {
		start := time.Now()
		err := n.serveLink(ctx, o, l, lr, next())
		if errors.Is(err, stream.ErrDrained) {
			n.cfg.Hooks.sometimes("a link is drained")
			n.log.Debug("link drained", "link", l.Edge, "peer", l.To)
			return
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > retryMax {
			pause = retryMin
		}
		n.log.Info("link broken, trying again", "link", l.Edge, "peer", l.To, "after", pause, "err", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-lr.drain:
			n.cfg.Hooks.sometimes("a broken link leaves the layout")
			timer.Stop()
			return // nothing of it is un-acked here: the outlet has it back
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, retryMax)
	}
}

func (n *Node) serveLink(ctx context.Context, o *stream.Outlet, l topology.Link, lr *linkRun, generation uint64) error {
	s := n.consensus.State()
	if _, ok := s.Node(l.To); !ok {
		return errors.New("the peer is not in the roster")
	}
	conn, err := n.mux.Open(ctx, l.To, n.addrOf(l.To), mux.KindLink)
	if err != nil {
		return err
	}
	var beats sync.WaitGroup
	defer beats.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beats.Go(func() { // ended by cancel
		select {
		case <-lr.drain:
			// The keeper beats with the peers of the layout, and the layout has this link no more.
			_ = n.mux.Beat(ctx, l.To, n.addrOf(l.To)) // a dead peer's link breaks
		case <-ctx.Done():
		}
	})
	return o.Serve(ctx, conn, stream.Hello{Link: l, Boot: n.self.Boot, Generation: generation, Epoch: s.Epoch}, lr.drain)
}

// beat exchanges heartbeats with every peer of the layout. A dead peer's connections are
// closed by the mux, so its links break and their records go elsewhere.
func (k *keeper) beat(ctx context.Context, layout topology.Layout) {
	want := make(map[topology.NodeID]bool)
	for _, l := range layout.Links {
		for _, id := range []topology.NodeID{l.From, l.To} {
			want[id] = id != k.n.self.ID
		}
	}
	for id, stop := range k.beats {
		if !want[id] {
			stop()
			delete(k.beats, id)
		}
	}
	for id, wanted := range want {
		if !wanted || k.beats[id] != nil {
			continue
		}
		ctx, stop := context.WithCancel(ctx)
		k.beats[id] = stop
		k.group.Go(func() { k.n.beatOn(ctx, id) }) // ended by stop
	}
}

// beatOn beats for as long as the layout has links with the peer. One that is gone is tried again
// less and less often: where another node has come to its address, each try is a whole handshake.
func (n *Node) beatOn(ctx context.Context, id topology.NodeID) {
	n.cfg.Hooks.deaf(ctx)
	pause := retryMin
	for ctx.Err() == nil {
		start := time.Now()
		if _, ok := n.consensus.State().Node(id); ok {
			err := n.mux.Beat(ctx, id, n.addrOf(id))
			if time.Since(start) > retryMax {
				pause = retryMin
			}
			if err != nil && pause == retryMin {
				n.cfg.Hooks.sometimes("a heartbeat finds a peer dead")
				n.log.Info("peer is gone, its records go to others", "peer", id, "err", err)
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, beatRetryMax)
	}
}
