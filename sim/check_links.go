package sim

import (
	"maps"
	"time"

	"weir/topology"
)

// linkRules judges both ends of each life of a link: I4 (nothing beyond the limit, no gap), I6
// (custody ends with an ack of the receiver) and I7 (no credit is lost).
type linkRules struct {
	c     *check
	quiet *quiet
	lives []lifeSeen                // by LifeID
	roles map[receiverKey]*roleSeen // of receivers
}

// lifeSeen is one life of a link: what the sender and what the receiver did.
type lifeSeen struct {
	sent, limit               uint64 // sender: next link seq, and what it may send below
	accepted                  bool
	taken, granted            uint64 // receiver
	done                      bitset // receiver: acked
	senderEnded, receiverOver bool
	since, last               time.Duration // when it was accepted, and its last event
}

// receiverKey is a role on a node.
type receiverKey struct {
	node topology.NodeID
	role string
}

// roleSeen is what a role on a node grants over all its links.
type roleSeen struct{ links, unused uint64 }

// creditMax is the most that a role on a node grants; unused shares of links that fell silent may
// come on top, up to as much again (stream/credit.go).
const creditMax = 4096

// deliveryMax is how long what one end says may be on its way to the other while nothing
// disturbs them.
const deliveryMax = time.Second

// repeatMax is the same on a young link, one of that age or less, of what was said before the last disturbance
// ended. A connection that was made while packets were lost measures its round trip by a handshake that came
// late: of 8,300 in 60 seeds of high 31 would have repeated a lost packet after more than 1 s and up to 7,
// though the last round trip had taken some ms (RFC 9002, 5.3 and 6.2.1). The idle timeout is 10 s (stream/mux).
const repeatMax = 10 * time.Second

func newLinkRules(c *check, q *quiet) *linkRules {
	return &linkRules{c: c, quiet: q, roles: make(map[receiverKey]*roleSeen)}
}

func (r *linkRules) see(e *Event) {
	if e.Kind == EventStarted {
		r.forget(e.Node)
	}
	if e.Life == 0 {
		return
	}
	for len(r.lives) <= int(e.Life) {
		r.lives = append(r.lives, lifeSeen{})
	}
	l := &r.lives[e.Life]
	l.last = e.At
	switch e.Kind {
	case EventLinkAccept:
		l.accepted, l.granted, l.since = true, e.M, e.At
		role := r.role(e)
		role.links++
		role.unused += e.M
	case EventLinkEnd:
		l.receiverOver = true
		role := r.role(e)
		role.links--
		role.unused -= l.granted - l.taken
	case EventLinkOpen:
		r.raise(e, l)
	case EventLinkClose:
		l.senderEnded = true
	case EventSent:
		r.sent(e, l)
	case EventGranted:
		r.raise(e, l)
	case EventFreed:
		r.freed(e, l)
	case EventTaken:
		r.taken(e, l)
	case EventDone:
		r.done(e, l)
	}
}

// forget ends what a node had before it started anew.
func (r *linkRules) forget(id topology.NodeID) {
	for i := range r.lives {
		if i == 0 {
			continue
		}
		link := r.c.h.Life(LifeID(i)).Link
		r.lives[i].senderEnded = r.lives[i].senderEnded || link.From == id
		r.lives[i].receiverOver = r.lives[i].receiverOver || link.To == id
	}
	maps.DeleteFunc(r.roles, func(k receiverKey, _ *roleSeen) bool { return k.node == id })
}

// role is the receiving role that an event is about.
func (r *linkRules) role(e *Event) *roleSeen {
	key := receiverKey{e.Node, r.c.h.Life(e.Life).Link.Edge.To}
	if r.roles[key] == nil {
		r.roles[key] = new(roleSeen)
	}
	return r.roles[key]
}

// raise is the sender's hearing of a limit.
func (r *linkRules) raise(e *Event, l *lifeSeen) {
	switch {
	case e.M < l.limit:
		r.violated("I4", e, "the limit of %s fell from %d to %d", l.limit, e.M)
	case e.M > l.granted:
		r.violated("I4", e, "%s was granted %d records and counts %d", l.granted, e.M)
	}
	l.limit = e.M
}

func (r *linkRules) sent(e *Event, l *lifeSeen) {
	switch {
	case e.N != l.sent:
		r.violated("I4", e, "%s sends link seq %d where %d is the next", e.N, l.sent)
	case e.M > l.limit:
		r.violated("I4", e, "%s sends up to link seq %d and may send below %d", e.M-1, l.limit)
	}
	l.sent = e.M
}

func (r *linkRules) taken(e *Event, l *lifeSeen) {
	switch {
	case e.N > l.sent:
		r.violated("I4", e, "the receiver of %s has taken %d records, and %d were sent", e.N, l.sent)
	case e.M < l.granted:
		r.violated("I4", e, "the receiver of %s takes its limit back from %d to %d", l.granted, e.M)
	}
	role := r.role(e)
	role.unused += e.M - e.N - (l.granted - l.taken)
	l.taken, l.granted = e.N, e.M
	least := min(2*uint64(r.c.x.Capacity[r.c.h.Life(e.Life).Link.Edge.To]), creditMax)
	switch most := 2*creditMax + role.links; {
	case e.N == 0, l.receiverOver: // it has sent nothing yet, or is not to send any more
	case role.unused < least:
		r.violated("I7", e, "the receiver of %s lets %d records be sent over all its links: it has place for %d", role.unused, least)
	case role.unused > most:
		r.violated("I7", e, "the receiver of %s lets %d records be sent over all its links: %d are the most", role.unused, most)
	}
}

func (r *linkRules) done(e *Event, l *lifeSeen) {
	if e.M > l.taken {
		r.violated("I6", e, "the receiver of %s acks link seq %d and has taken what is below %d", e.M-1, l.taken)
	}
	for seq := e.N; seq < e.M; seq++ {
		l.done.set(seq)
	}
}

func (r *linkRules) freed(e *Event, l *lifeSeen) {
	for seq := e.N; seq < e.M; seq++ {
		if !l.done.has(seq) {
			r.violated("I6", e, "the sender of %s let link seq %d go, which the receiver has not acked (of those up to %d)", seq, e.M-1)
			return
		}
	}
}

// violated names the link in the first %s of the text.
func (r *linkRules) violated(rule string, e *Event, format string, a, b uint64) {
	r.c.violated(rule, e.At, subject{lives: []LifeID{e.Life}}, format, r.c.h.lifeName(e.Life), a, b)
}

// end asks of all links that nobody has disturbed for a while that both ends agree.
func (r *linkRules) end(at time.Duration) {
	for i := range r.lives {
		l := &r.lives[i]
		wait := deliveryMax
		if over := r.quiet.last; l.last <= over && over-l.since <= repeatMax {
			wait = repeatMax
		}
		if i == 0 || !l.accepted || l.senderEnded || l.receiverOver || at-l.last < wait || !r.quiet.lasts(wait, at) {
			continue
		}
		life := r.c.h.Life(LifeID(i))
		if r.quiet.down[life.Link.From] || r.quiet.down[life.Link.To] {
			continue
		}
		e := &Event{At: at, Life: LifeID(i)}
		switch {
		case l.sent != l.taken:
			r.violated("I7", e, "%s is idle, %d records were sent and %d taken", l.sent, l.taken)
		case l.limit != l.granted:
			r.violated("I7", e, "%s is idle, its receiver grants %d and its sender has heard of %d", l.granted, l.limit)
		}
	}
}
