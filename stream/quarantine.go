package stream

import (
	"fmt"
	"slices"
	"time"

	"weir/stream/wire"
	"weir/topology"
)

// Quarantine: a record may be why a node died. Those that it may have been are suspects: the ones that
// the node's handlers had, as far as the sender knows. They go on through a lane, one at a time, beside
// the ordinary records. One that is handled, whatever comes of it, is a suspect no more. One that was
// the only suspect on as many nodes that died as its role has attempts is condemned: the next receiver
// makes it a dead letter, unseen by a handler. What counts is who died with it in hand, so its receiver
// keeps it from the handler until the sender knows that it was taken, and has said so (CLEAR). A link may
// break though its peer lives, so who is linked again has not died, and before the sentence there is time
// for that. These deaths are not counted with a handler's failures: one that nearly failed too often would
// be condemned because a node died by chance.

const (
	// probation is how long a lane waits for a suspect to be handled before the next one goes to another
	// node, and probationBeside before it goes to one that has a suspect already, if each has: longer
	// than most of what kills needs, so that it is alone then, and short where handlers take seconds.
	// Those of several on a node that died have a node each to themselves next, for as long as it takes.
	probation       = 50 * time.Millisecond
	probationBeside = 200 * time.Millisecond
	// laneAlone is how many suspects of an edge wait at most for one after the other; of more, an
	// eighth go together. A handler has as many as its capacity in hand, 50 unless told otherwise; a
	// sink has thousands, and an fsync for each would take seconds: so 4096 are a hundred rounds.
	laneAlone = 64
	// clearMax is how long a hand waits for a suspect to be cleared before it ends the link. Heartbeats end it
	// earlier, but for a link that is not in the layout any more.
	clearMax = 3 * time.Second
	// steadyFor is how long no link of an edge must have come or gone before who has none is taken for dead: as
	// long as it takes gossip to say so.
	steadyFor = 3 * time.Second
	// steadyMax is how long one who is accused waits for that while some link flaps: then it is enough that
	// another has lasted as long, and that none of the dead came back meanwhile.
	steadyMax = 30 * time.Second
)

// custody says what is known of a record that is sent: zero for most.
type custody uint8

const (
	ordinary custody = iota
	survivor         // its link died once before, when nobody had it in hand as far as was known
	suspect
	alone // a suspect that has a node to itself
)

// death is what may have been one: the end of a link to a start of a peer's role, the latest of a list.
type death struct {
	peer   topology.NodeID
	life   uint64
	before *death
}

// and is the list with another; one life ends once.
func (d *death) and(peer topology.NodeID, life uint64) *death {
	for at := d; at != nil; at = at.before {
		if at.life == life {
			return d
		}
	}
	return &death{peer, life, d}
}

// deaths drops those from a list that were none, since the peer is linked in that life, and counts those
// that were some, since it is linked in another, and those that may have been: it has no link.
func (e *outEdge) deaths(d *death) (rest *death, sure, maybe uint64) {
	if d == nil {
		return nil, 0, 0
	}
	rest, sure, maybe = e.deaths(d.before)
	switch {
	case slices.ContainsFunc(e.senders, func(s *Sender) bool { return s.life == d.life }):
		return rest, sure, maybe
	case slices.ContainsFunc(e.senders, func(s *Sender) bool { return s.peer == d.peer }):
		sure++
	default:
		maybe++
	}
	if rest != d.before {
		d = &death{d.peer, d.life, rest}
	}
	return d, sure, maybe
}

// lane is the quarantine of an edge. The outlet's mu guards it.
type lane struct {
	suspects []orphan
	accused  []orphan  // nodes enough may have died of each: they wait until that is known
	sent     int       // suspects on their way, not handled
	last     time.Time // when the last of these went
}

// admit lets the next suspects of an edge go.
func (o *Outlet) admit(e *outEdge) {
	l, now := &e.lane, time.Now()
	if o.sentence(e, now); len(l.suspects) == 0 {
		return
	}
	first, n, k := l.suspects[0].custody, 1, 0
	next := l.last.Add(e.probation())
	switch {
	case first == alone:
		n = len(l.suspects) // as many as there are nodes for
	case l.sent > 0 && now.Before(next):
		o.alarm(next, now)
		return
	case len(l.suspects) > laneAlone:
		n = len(l.suspects) / 8
	}
	for k < n && l.suspects[k].custody == first && o.adoptOne(e, &l.suspects[k]) {
		k++
	}
	if k == 0 {
		return
	}
	o.cfg.Hooks.sometimes("a suspect goes through quarantine")
	l.suspects = slices.Delete(l.suspects, 0, k)
	l.last = now
	if len(l.suspects) > 0 {
		o.alarm(now.Add(e.probation()), now)
	}
}

// sentence condemns the accused of whom it is known that nodes enough died, and has those go on of whom it is not. A
// node that was cut off, as this one may have been from all, is linked again or another life of it is; who
// has no link while the others have had theirs for steadyFor is dead.
func (o *Outlet) sentence(e *outEdge, now time.Time) {
	l := &e.lane
	if len(l.accused) == 0 || len(e.senders) == 0 {
		return
	}
	due := e.changed.Add(steadyFor)
	lasts := slices.ContainsFunc(e.senders, func(s *Sender) bool { return now.Sub(s.since) >= steadyMax })
	l.accused = slices.DeleteFunc(l.accused, func(or orphan) bool {
		rest, sure, maybe := e.deaths(or.deaths)
		known := !now.Before(due) || lasts && !now.Before(or.due)
		switch {
		case sure >= e.attempts || sure+maybe >= e.attempts && known:
			o.cfg.Hooks.sometimes("a record is condemned")
			or.rec.Attempt = e.attempts + 1
		case sure+maybe >= e.attempts:
			return false
		}
		or.deaths = rest
		l.suspects = append(l.suspects, or)
		return true
	})
	if len(l.accused) > 0 {
		o.alarm(due, now)
	}
}

// probation is how long the next suspect waits for the last one.
func (e *outEdge) probation() time.Duration {
	if e.innocent() {
		return probation
	}
	return probationBeside
}

// innocent reports whether there is a link without a suspect.
func (e *outEdge) innocent() bool {
	return slices.ContainsFunc(e.senders, func(s *Sender) bool { return s.suspects == 0 && !s.draining })
}

// acquit notes that a record was handled, or came back.
func (s *Sender) acquit(c custody) {
	if c >= suspect {
		s.suspects--
		s.e.lane.sent--
		s.reserved = false // if it was, then for this one
	}
}

// trial decides what becomes of the records of a link that has ended.
type trial struct {
	s      *Sender
	died   bool   // the link was not ended by its peer, which may be dead
	sent   uint64 // link seqs below it were written
	single bool   // there is one suspect, if any
	more   uint64 // how many of those not taken are suspects too: the word that they were may have died
}

func (s *Sender) trial(died bool) trial {
	return trial{s: s, died: died, sent: s.sent(), single: s.suspects == 1, more: s.capacity}
}

// judge puts an orphan, with the slot that it had, where it waits.
func (j *trial) judge(or *orphan, sl *slot, seq uint64) {
	or.custody, or.deaths = sl.custody, sl.deaths
	if !sl.handled {
		j.s.acquit(sl.custody)
	}
	switch {
	case sl.handled:
		or.custody, or.deaths = ordinary, nil
	case !j.died || seq >= j.sent || or.custody >= suspect && seq >= j.s.cleared: // as it was
	case or.custody >= suspect:
		or.custody = alone
		if j.single {
			or.deaths = or.deaths.and(j.s.peer, j.s.life)
		}
	case seq < j.s.taken || or.custody == survivor || j.more > 0:
		or.custody = suspect
		j.more -= min(j.more, 1)
	default:
		or.custody = survivor
	}
	e := j.s.e
	var sure, maybe uint64
	or.deaths, sure, maybe = e.deaths(or.deaths)
	switch {
	case sure+maybe >= e.attempts:
		or.due = time.Now().Add(steadyMax)
		e.lane.accused = append(e.lane.accused, *or)
	case or.custody >= suspect:
		e.lane.suspects = append(e.lane.suspects, *or)
	default:
		e.orphans = append(e.orphans, *or)
	}
}

// await waits until the sender of suspects knows that they are in hand, so that a death from here on is
// known to be one with them. It reports false where their link ended before: then they are another node's.
func (in *Inlet) await(b *Batch) bool {
	last := b.trees[len(b.trees)-1]
	r := last.slab.owner.(*Receiver)
	late := time.AfterFunc(clearMax, func() { r.fail(fmt.Errorf("suspects were not cleared for %v", clearMax)) })
	defer late.Stop()
	in.mu.Lock()
	defer in.mu.Unlock()
	for r.cleared <= last.seq && !r.gone && !in.closed {
		in.cleared.Wait()
	}
	if r.cleared > last.seq {
		return true
	}
	in.cfg.Hooks.sometimes("a link ends before its suspect is cleared")
	b.release()
	in.busy -= len(b.Records)
	in.idle++
	in.work.Signal()
	return false
}

// clear notes that a link's sender knows of all below a link seq that they are taken.
func (in *Inlet) clear(r *Receiver, below uint64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if below > r.taken {
		return fmt.Errorf("clear of records below %d where %d were taken: %w", below, r.taken, wire.ErrBad)
	}
	r.cleared = max(r.cleared, below)
	in.cleared.Broadcast()
	return nil
}
