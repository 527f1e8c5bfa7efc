package stream

import (
	"slices"
	"time"
)

// Quarantine: a record may be why a node died. Those that it may have been are suspects: the ones that
// the node's handlers had, as far as the sender knows. They go on through a lane, one at a time, beside
// the ordinary records. One that is handled, whatever comes of it, is a suspect no more. One that was
// the only suspect on as many nodes that died as its role has attempts is condemned: the next receiver
// makes it a dead letter, unseen by a handler. A link may break though its peer lives: who is linked
// again has not died. These deaths are not counted with a handler's failures:
// one that nearly failed too often would be condemned because a node died by chance.

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
)

// custody says what is known of a record that is sent: zero for most.
type custody uint8

const (
	ordinary custody = iota
	survivor         // its link died once before, when nobody had it in hand as far as was known
	suspect
	alone // a suspect that has a node to itself
)

// death is what may have been one: the end of a link to a start of a role, the latest of a list.
type death struct {
	life   uint64
	before *death
}

// and is the list with another; one life ends once.
func (d *death) and(life uint64) *death {
	for at := d; at != nil; at = at.before {
		if at.life == life {
			return d
		}
	}
	return &death{life, d}
}

// deaths counts those of a list that are not linked again.
func (e *outEdge) deaths(d *death) (n uint64) {
	for ; d != nil; d = d.before {
		if !slices.ContainsFunc(e.senders, func(s *Sender) bool { return s.life == d.life }) {
			n++
		}
	}
	return n
}

// lane is the quarantine of an edge. The outlet's mu guards it.
type lane struct {
	suspects []orphan
	sent     int       // suspects on their way, not handled
	last     time.Time // when the last of these went
}

// admit lets the next suspects of an edge go.
func (o *Outlet) admit(e *outEdge) {
	l := &e.lane
	if len(l.suspects) == 0 {
		return
	}
	now := time.Now()
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
	case !j.died || seq >= j.sent: // as it was
	case or.custody >= suspect:
		or.custody = alone
		if j.single {
			or.deaths = or.deaths.and(j.s.life)
		}
		if j.s.e.deaths(or.deaths) >= max(j.s.attempts, 1) {
			j.s.o.cfg.Hooks.sometimes("a record is condemned")
			or.rec.Attempt = j.s.attempts + 1
		}
	case seq < j.s.taken || or.custody == survivor || j.more > 0:
		or.custody = suspect
		j.more -= min(j.more, 1)
	default:
		or.custody = survivor
	}
	if e := j.s.e; or.custody >= suspect {
		e.lane.suspects = append(e.lane.suspects, *or)
	} else {
		e.orphans = append(e.orphans, *or)
	}
}
