package stream

import (
	"slices"
	"time"

	"weir/stream/wire"
)

// What a sender does with records that come back: they go to another node, at once or after a pause,
// or are forgotten, or the run stops.

const (
	// backoffMin and backoffMax are the pauses of an edge whose records are to be tried again later:
	// it doubles while that is all that comes back (DESIGN 8, restart backoff).
	backoffMin = 100 * time.Millisecond
	backoffMax = 30 * time.Second
	// retryAfterMax bounds the pause that a handler may ask for.
	retryAfterMax = time.Hour
)

// backoff is how long an edge's records are kept after a Retry. Pure: the caller has the clock.
type backoff struct {
	pause time.Duration // 0: the last record was handled
	until time.Time     // nacks before this are of the same round
}

// next notes a Retry and returns for how long its record is kept.
func (b *backoff) next(now time.Time) time.Duration {
	if b.pause == 0 {
		b.pause = backoffMin
		b.until = now.Add(b.pause)
	} else if !now.Before(b.until) {
		b.pause = min(2*b.pause, backoffMax)
		b.until = now.Add(b.pause)
	}
	return b.pause
}

// handled notes that a record was handled.
func (b *backoff) handled() { b.pause = 0 }

// nacked takes a record back, or has the run stop.
func (s *Sender) nacked(n wire.Nack) {
	if s.giveBack(n) && s.o.cfg.Fail != nil {
		s.o.cfg.Fail(n.Reason, int(n.Exit))
	}
}

// giveBack makes an orphan of a nacked record. It reports whether the run must stop, once.
func (s *Sender) giveBack(n wire.Nack) (stop bool) {
	o := s.o
	o.mu.Lock()
	defer o.mu.Unlock()
	if n.Seq >= s.sent() || o.closed { // then it goes with its link
		return false
	}
	sl, ok := s.win.free(n.Seq)
	if !ok {
		return false
	}
	o.cfg.Hooks.sometimes("a record is nacked")
	if !sl.handled {
		s.acquit(sl.custody)
	}
	if n.Code == wire.CodeFenced {
		s.drop(sl.c, 1, int(sl.bytes))
		sl.t.slab.owner.fence()
		o.adopt(s.e)
		o.wake()
		return false
	}
	or := o.copyOut(sl, n.Seq)
	s.drop(sl.c, 1, int(sl.bytes))
	or.avoid = s.peer
	switch n.Code {
	case wire.CodeStop:
		stop = !o.failed
		o.failed = true
	case wire.CodeRetry:
		o.keep(s.e, &or, time.Duration(min(n.After, uint64(retryAfterMax/time.Millisecond)))*time.Millisecond)
	default:
		or.rec.Attempt++
	}
	if or.due.IsZero() {
		s.e.nacked = append(s.e.nacked, or)
	}
	o.adopt(s.e)
	o.wake()
	return stop
}

// keep has a record wait for so long at least, and for the edge's backoff.
func (o *Outlet) keep(e *outEdge, or *orphan, after time.Duration) {
	o.cfg.Hooks.sometimes("a record is to be tried later")
	now := time.Now()
	or.due = now.Add(max(after, e.backoff.next(now)))
	e.retries = append(e.retries, *or)
	o.alarm(or.due, now)
}

// alarm sets the outlet's timer, unless it rings before.
func (o *Outlet) alarm(due, now time.Time) {
	switch {
	case !o.rings.IsZero() && !due.Before(o.rings):
		return
	case o.timer == nil:
		o.timer = time.AfterFunc(due.Sub(now), o.ring) // it does not wait for anything
	default:
		o.timer.Reset(due.Sub(now))
	}
	o.rings = due
}

// ring gives out the records that are due, and sets the timer for the next.
func (o *Outlet) ring() {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	o.rings = time.Time{}
	for _, e := range o.edges {
		e.retries = slices.DeleteFunc(e.retries, func(or orphan) bool {
			if or.due.After(now) {
				o.alarm(or.due, now)
				return false
			}
			e.nacked = append(e.nacked, or)
			return true
		})
		o.adopt(e)
	}
	o.wake()
}
