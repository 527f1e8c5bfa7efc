package node

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"weir/topology"
)

const (
	// followEvery is how often a look that goes on asks nodes that have come since, and how often
	// one that has nothing to say says so, by which it learns that nobody listens any more.
	followEvery = time.Second
	// followedMax is how many values wait for a client that is slow; more are counted and dropped, so
	// that reading what nodes send never stops: it would hold up their other calls.
	followedMax = 1024
)

// followed gathers what nodes tell until the client takes it.
type followed[T any] struct {
	mu     sync.Mutex
	told   []T
	missed uint64
	some   chan struct{} // a flag
}

func (f *followed[T]) add(v T) {
	f.mu.Lock()
	if len(f.told) < followedMax {
		f.told = append(f.told, v)
	} else {
		f.missed++
	}
	f.mu.Unlock()
	select {
	case f.some <- struct{}{}:
	default:
	}
}

func (f *followed[T]) take() (told []T, missed uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	told, missed = f.told, f.missed
	f.told, f.missed = nil, 0
	return told, missed
}

// follow puts a question to all nodes of the roster and hands on what they tell as it comes, and how
// much was too much. With on it asks those that come later as well, and those that come back, until
// ctx is done; else it returns when all have told what there is.
func follow[T any](ctx context.Context, n *Node, name string, in any, on bool, tell func(told []T, missed uint64) error) error {
	ctx, cancel := context.WithCancel(ctx)
	f := followed[T]{some: make(chan struct{}, 1)}
	asked := make(map[topology.NodeID]bool)
	over := make(chan topology.NodeID) // who has told all
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	ask := func() {
		for _, peer := range n.consensus.State().Roster {
			if asked[peer.ID] {
				continue
			}
			asked[peer.ID] = true
			group.Go(func() { // ended by cancel
				err := n.ask(ctx, peer.ID, name, in, func(b json.RawMessage) error {
					var vs []T
					err := json.Unmarshal(b, &vs)
					for _, v := range vs {
						f.add(v)
					}
					return err
				})
				if err != nil {
					n.log.Debug("node tells no more", "peer", peer.ID, "call", name, "err", err)
				}
				select {
				case over <- peer.ID:
				case <-ctx.Done():
				}
			})
		}
	}
	ask()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for left := len(asked); left > 0 || on; {
		select {
		case <-f.some:
		case id := <-over:
			left--
			if on {
				delete(asked, id)
			}
			continue
		case <-tick.C:
			if on {
				ask()
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := tell(f.take()); err != nil {
			return err
		}
	}
	return tell(f.take())
}
