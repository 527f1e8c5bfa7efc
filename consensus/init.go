package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// initSeedWait is how long a seed may take to say to which log it belongs, before a new one is
// made: a handshake, a greeting and a frame on a bad path. One that is silent has no word.
const initSeedWait = time.Second

// ErrInitialised says that there is a log already.
var ErrInitialised = errors.New("there is a cluster already")

// Init makes a cluster of this node, which others then join: of nodes that wait for each other it
// is the one to be told. It is refused where this node, or a seed that answers, belongs to a log.
// Two nodes that do not see each other can both be told; they refuse each other from then on.
func (c *Consensus) Init(ctx context.Context) (logID uint64, err error) {
	if err := c.uninitialised(); err != nil {
		return 0, err
	}
	group, asking := errgroup.WithContext(ctx)
	for _, seed := range c.seeds {
		group.Go(func() error { // ended by initSeedWait
			asking, cancel := context.WithTimeout(asking, initSeedWait)
			defer cancel()
			if f, err := c.hear(asking, peer{addr: seed}); err == nil && f.LogID != 0 {
				return fmt.Errorf("%w: the node at %s belongs to log %016x, and this one is about to join it", ErrInitialised, seed, f.LogID)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	made := make(chan error, 1)
	select {
	case c.inits <- made:
		err = <-made // Run answers at once
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return 0, err
	}
	for {
		changed := c.Changed()
		if s := c.State(); s.LogID != 0 {
			return s.LogID, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// initHere is Init's part on Run's goroutine.
func (c *Consensus) initHere(ctx context.Context) error {
	if err := c.uninitialised(); err != nil {
		return err
	}
	if c.vote() != nil {
		return fmt.Errorf("%w: this node is being made one of its voters", ErrInitialised)
	}
	return c.stand(ctx, true)
}

func (c *Consensus) uninitialised() error {
	if s := c.State(); s.LogID != 0 {
		return fmt.Errorf("%w: this node belongs to log %016x", ErrInitialised, s.LogID)
	}
	return nil
}
