package mux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"weir/topology"
)

// Heartbeats: some bytes there and back on the control connection. A dead peer is noticed after 1.0
// to 1.2 s; a false alarm costs a redelivery, so a loop that ran late itself starts anew.
//
// Of two nodes that beat each other one asks, the one with the lower id: its beats say which of its
// own was answered last, so that the other, too, sees the way there and back. Where such beats stay
// away, or their count stands still, the other asks for itself at its next look.
const (
	beatEvery     = 200 * time.Millisecond
	beatMissesMax = 5
	beatLate      = 2 * beatEvery // between two looks: we slept, not the peer
)

// beatBytes is the size of a beat. A node that started anew answers what it does not know with a
// stateless reset, but only packets of more than 42 bytes (quic-go protocol.MinStatelessResetSize):
// a beat must be one of these, so that a restart is noticed by the next beat.
const beatBytes = 32

// beat is what is asked and, the same, answered; what is left of its bytes is zero.
type beat [beatBytes]byte

func newBeat(number, answered uint64) (b beat) {
	binary.BigEndian.PutUint64(b[:8], number)
	binary.BigEndian.PutUint64(b[8:], answered)
	return b
}

// number is that of the beat on its stream, from 1.
func (b *beat) number() uint64 { return binary.BigEndian.Uint64(b[:8]) }

// answered is the number of the last beat whose answer the asker had when it asked; 0: none.
func (b *beat) answered() uint64 { return binary.BigEndian.Uint64(b[8:]) }

// pulse judges heartbeats. It is pure.
type pulse struct {
	last   time.Time // of the last look
	misses int
}

// look takes whether the peer was heard since the last look, and says whether it is dead.
func (p *pulse) look(now time.Time, heard bool) bool {
	late := now.Sub(p.last) >= beatLate
	p.last = now
	p.misses++
	if heard || late { // late: answers may lie unread in our own socket
		p.misses = 0
	}
	return p.misses >= beatMissesMax
}

// Beat exchanges heartbeats with a node and blocks while it answers: ErrDead after 5 misses of
// 200 ms, at once if it said that it stops or is found to have started anew. It then closes our
// connections to that start of the node, so that streams that wait for it fail now and not after
// the idle timeout. nil when ctx is done.
func (m *Mux) Beat(ctx context.Context, id topology.NodeID, addr string) error {
	if id == m.cfg.ID {
		<-ctx.Done()
		return nil
	}
	s, err := m.open(ctx, id, addr, KindBeat)
	if ctx.Err() != nil {
		return nil
	}
	if errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrNotPeer) { // else a link waits for the idle timeout
		m.sometimes("a peer dies before its first heartbeat")
		m.bury(id, 0)
	}
	if err != nil {
		return fmt.Errorf("beat %s: %w: %w", subject(id, addr), ErrDead, err)
	}
	boot := s.c.peer.Boot
	err = m.beatOn(ctx, s)
	if err == nil || errors.Is(err, ErrClosed) {
		return err
	}
	m.bury(id, boot)
	return fmt.Errorf("beat %s: %w", subject(id, addr), err)
}

// bury closes our connections to a start of a node that is dead, 0: to any.
func (m *Mux) bury(id topology.NodeID, boot uint64) {
	for _, c := range m.table.of(id, boot) {
		c.close(codeDead, "heartbeats were missed")
	}
}

// beatOn looks at the pulse of the peer of s until it is dead or ctx is done.
func (m *Mux) beatOn(ctx context.Context, s *stream) error {
	b := beater{m: m, s: s, ask: make(chan struct{}, 1), heard: make(chan struct{}, 1), lost: make(chan error, 1)}
	inner, cancel := context.WithCancel(ctx)
	var joined sync.WaitGroup
	joined.Go(func() { b.run(inner) }) // ends with inner
	defer joined.Wait()
	defer cancel()
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	p := pulse{last: time.Now()}
	for {
		flag(b.ask)
		select {
		case <-tick.C:
		case err := <-b.lost:
			return err
		case <-m.done:
			return ErrClosed
		case <-ctx.Done():
			return nil
		}
		heard := false
		select {
		case <-b.heard:
			heard = true
		default:
		}
		if p.look(time.Now(), heard) {
			return fmt.Errorf("%w: %d heartbeats without an answer", ErrDead, beatMissesMax)
		}
	}
}

// beater sends a beat when asked, unless the peer's own make it needless, and flags what it hears. It
// goes on over another stream if its own breaks, because a connection may lose its place while the
// peer lives.
type beater struct {
	m          *Mux
	s          *stream
	ask, heard chan struct{} // flags
	lost       chan error    // the peer is dead; at most one
}

func (b *beater) run(ctx context.Context) {
	boot := b.s.c.peer.Boot
	for {
		err := b.exchange(ctx)
		if ctx.Err() != nil {
			return
		}
		if left(err) {
			b.lost <- fmt.Errorf("%w: it stopped", ErrDead)
			return
		}
		b.m.sometimes("heartbeats go on over another stream")
		if !b.reopen(ctx) {
			return
		}
		if b.s.c.peer.Boot != boot {
			b.m.sometimes("a heartbeat finds that a peer has started anew")
			_ = b.s.Close()
			b.lost <- fmt.Errorf("%w: it has started anew", ErrDead)
			return
		}
	}
}

// exchange sends a beat whenever it is asked, answered or not: a new packet finds its way sooner
// than a lost one is repeated. It returns when the stream breaks or ctx is done, with the stream
// closed.
func (b *beater) exchange(ctx context.Context) error {
	stop := context.AfterFunc(ctx, b.s.Reset)
	defer stop()
	broken := make(chan error, 1)
	var answered atomic.Uint64 // the number of the last answer
	var joined sync.WaitGroup
	joined.Go(func() { broken <- b.hear(&answered) }) // ends with the stream
	defer joined.Wait()
	defer b.s.Close()
	follows := b.s.c.peer.ID < b.m.cfg.ID // where both ask, we need not
	beaten := false                       // by the peer, since we were asked last
	for number := uint64(1); ; {
		select {
		case <-b.ask:
		case <-b.s.c.beaten:
			beaten = true
			flag(b.heard)
			continue
		case err := <-broken:
			return err
		case <-ctx.Done():
			return nil
		}
		if beaten && follows {
			beaten = false
			answered.Store(0) // the next beat must not tell of an answer as old as this
			continue
		}
		one := newBeat(number, answered.Load())
		if _, err := b.s.Write(one[:]); err != nil {
			return err
		}
		number++
	}
}

// hear flags every answer until the stream breaks.
func (b *beater) hear(answered *atomic.Uint64) error {
	var one beat
	for {
		if _, err := io.ReadFull(b.s, one[:]); err != nil {
			return err
		}
		answered.Store(one.number())
		flag(b.heard)
	}
}

// reopen opens another stream to the same node, as often as it is asked; false when ctx is done.
func (b *beater) reopen(ctx context.Context) bool {
	for {
		s, err := b.m.open(ctx, b.s.c.peer.ID, b.s.c.peer.Addr, KindBeat)
		if err == nil {
			b.s = s
			return true
		}
		select {
		case <-b.ask:
		case <-ctx.Done():
			return false
		}
	}
}

// sometimes tells that a rare branch was taken.
func (m *Mux) sometimes(branch string) {
	if m.cfg.Reached != nil {
		m.cfg.Reached(branch)
	}
}

// flag raises a flag that may be up already.
func flag(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// echo answers heartbeats, and tells our own Beat of those whose asker has heard us since the last.
func echo(_ context.Context, _ Peer, c net.Conn) {
	s, remote := c.(*stream)
	var one beat
	for last := uint64(0); ; {
		if _, err := io.ReadFull(c, one[:]); err != nil {
			return
		}
		if _, err := c.Write(one[:]); err != nil {
			return
		}
		if remote && one.answered() > last {
			last = one.answered()
			flag(s.c.beaten)
		}
	}
}
