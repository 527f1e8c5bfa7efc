package node

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"weir/consensus"
)

// marksEvery is how often the marks of a node go to the log, at most (DESIGN 6).
const marksEvery = time.Second

// marks is how far the taps of this node are, on the way to the log: of each partition the newest
// mark that is not there yet. Without a leader they wait, and what they say grows old.
type marks struct {
	log     *slog.Logger
	propose func(context.Context, consensus.Command) error

	there chan struct{}      // a flag: there is a mark
	now   chan struct{}      // a flag: one of them is the last of its partition
	flush chan chan struct{} // run closes what it gets when all that is there was proposed

	mu     sync.Mutex
	newest map[markKey]consensus.Mark // at most partitionsMax of each role
}

type markKey struct{ pipeline, role, partition string }

func newMarks(propose func(context.Context, consensus.Command) error, log *slog.Logger) *marks {
	return &marks{
		log: log, propose: propose, there: make(chan struct{}, 1), now: make(chan struct{}, 1), flush: make(chan chan struct{}),
		newest: make(map[markKey]consensus.Mark),
	}
}

func markOf(key roleKey, c consensus.Claim, next uint64, position []byte) consensus.Mark {
	return consensus.Mark{
		Pipeline: key.pipeline, Role: key.role, Partition: c.Partition, Claim: c.Number, Gen: c.Gen, Next: next, Position: position,
	}
}

// put takes a mark; it does not block.
func (m *marks) put(x consensus.Mark) {
	m.mu.Lock()
	m.newest[markKey{x.Pipeline, x.Role, x.Partition}] = m.merged(x)
	m.mu.Unlock()
	raise(m.there)
	if x.Done {
		raise(m.now)
	}
}

// merged is x with what is there of the same claim and generation, under mu.
func (m *marks) merged(x consensus.Mark) consensus.Mark {
	old, ok := m.newest[markKey{x.Pipeline, x.Role, x.Partition}]
	if !ok || old.Claim != x.Claim || old.Gen != x.Gen {
		return x
	}
	if old.Next > x.Next {
		x.Next, x.Position = old.Next, old.Position
	}
	x.Done = x.Done || old.Done
	return x
}

// giveBack keeps marks that did not come to the log, but those whose partition has a newer one.
func (m *marks) giveBack(batch []consensus.Mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, x := range batch {
		key := markKey{x.Pipeline, x.Role, x.Partition}
		if newer, ok := m.newest[key]; !ok || newer.Claim == x.Claim && newer.Gen == x.Gen {
			m.newest[key] = m.merged(x)
		}
	}
	raise(m.there)
}

// raise sets a flag, a channel of length 1.
func raise(flag chan struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}

// run proposes what is there until ctx is done, at most once in marksEvery.
func (m *marks) run(ctx context.Context) error {
	for {
		var flushed chan struct{}
		select {
		case <-m.there:
		case flushed = <-m.flush:
		case <-ctx.Done():
			return nil
		}
		m.send(ctx)
		if flushed != nil {
			close(flushed)
			continue
		}
		pause := time.NewTimer(marksEvery)
		select {
		case <-pause.C:
		case <-m.now:
		case flushed = <-m.flush:
			m.send(ctx)
			close(flushed)
		case <-ctx.Done():
		}
		pause.Stop()
	}
}

// send proposes all marks that are there, as few commands. Those that find no leader stay.
func (m *marks) send(ctx context.Context) {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.newest))
	clear(m.newest)
	m.mu.Unlock()
	for batch := range slices.Chunk(all, consensus.MarksMax) {
		if err := m.propose(ctx, consensus.Marks(batch...)); err != nil && ctx.Err() == nil {
			m.log.Debug("marks go to the log later", "err", err)
			m.giveBack(batch)
		}
	}
}

// settle waits until what is there has been proposed once more, or ctx is done.
func (m *marks) settle(ctx context.Context) {
	flushed := make(chan struct{})
	select {
	case m.flush <- flushed:
		select {
		case <-flushed:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
}
