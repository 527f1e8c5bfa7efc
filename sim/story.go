package sim

import (
	"fmt"
	"strings"

	"weir/topology"
)

// Story is a violation with the part of the history that shows it, a line an event.
func (h *History) Story(v *Violation) string {
	b := new(strings.Builder)
	fmt.Fprintln(b, v)
	for i := range v.Part {
		fmt.Fprintln(b, "  "+h.line(&v.Part[i]))
	}
	return b.String()
}

// line says what an event was.
func (h *History) line(e *Event) string {
	what := fmt.Sprintf(verbsOf[e.Kind], h.values(e)...)
	if e.Node == "" {
		return fmt.Sprintf("%10.4fs  %s", e.At.Seconds(), what)
	}
	return fmt.Sprintf("%10.4fs  %s %s", e.At.Seconds(), e.Node, what)
}

// verbsOf says what each kind of event means, with the places for its values.
var verbsOf = map[EventKind]string{
	EventOpened: "opens %s for the %dth time", EventRead: "reads record %s", EventAcked: "is told that record %s is acked",
	EventHandled: "(%s) is given record %s, attempt %d", EventStruck: "is ended by record %s",
	EventLetter: "(%s) has record %s for a dead letter, attempt %d", EventStored: "(%s) has kept record %s", EventLate: "(%s) is stopped with record %s", EventSunk: "(%s) writes record %s, attempt %d", EventReadAll: "has read all before record %s", EventBroken: "finds: %s",
	EventLinkOpen: "opens %s, limit %d", EventLinkClose: "ends %s: what is un-acked goes back", EventSent: "sends on %s link seqs %d to %d, %d of them again",
	EventGranted: "hears on %s: taken %d, limit %d", EventFreed: "lets go on %s link seqs %d to %d",
	EventLinkAccept: "accepts %s, limit %d", EventLinkEnd: "ends %s", EventTaken: "takes on %s all below %d, limit %d", EventDone: "acks on %s link seqs %d to %d",
	EventSource: "begins generation %x of %s", EventMark: "marks %s below %d", EventClaimed: "takes records of source %x with claim %d",
	EventSeen: "remembers %d roots of source %x below %d", EventHeld: "holds %d bytes",
	EventElected: "leads in term %d", EventState: "holds the state of index %d, epoch %d, hash %x", EventLayout: "follows %d links of epoch %d",
	EventStarted: "starts", EventKilled: "is killed", EventStopped: "has left", EventFrozen: "is frozen", EventThawed: "thaws",
	EventPauseAsked: "the cluster is asked to pause %q", EventPaused: "paused is %q", EventResumed: "the cluster is asked to let go on %q",
	EventFaultBegin: "begins: %s", EventFaultEnd: "ends: %s", EventOver: "the run is over",
}

func (h *History) values(e *Event) []any {
	switch e.Kind {
	case EventOpened:
		return []any{e.Text, e.N}
	case EventRead, EventAcked, EventReadAll, EventStruck:
		return []any{recordName(e.Record)}
	case EventStored, EventLate:
		return []any{e.Text, recordName(e.Record)}
	case EventHandled, EventSunk, EventLetter:
		return []any{e.Text, recordName(e.Record), e.N}
	case EventLinkOpen, EventLinkAccept:
		return []any{h.lifeName(e.Life), e.M}
	case EventLinkClose, EventLinkEnd:
		return []any{h.lifeName(e.Life)}
	case EventSent:
		return []any{h.lifeName(e.Life), e.N, e.M - 1, e.Again}
	case EventFreed, EventDone:
		return []any{h.lifeName(e.Life), e.N, e.M - 1}
	case EventGranted, EventTaken:
		return []any{h.lifeName(e.Life), e.N, e.M}
	case EventSource:
		return []any{e.N, e.Text}
	case EventMark:
		return []any{e.Text, e.M}
	case EventClaimed:
		return []any{e.Record, e.N}
	case EventSeen:
		return []any{e.Roots, e.Record, e.M}
	case EventHeld, EventElected:
		return []any{e.N}
	case EventState:
		return []any{e.N, e.State.Epoch, e.State.Hash}
	case EventLayout:
		return []any{len(e.State.Layout), e.N}
	case EventBroken, EventPauseAsked, EventPaused, EventResumed, EventFaultBegin, EventFaultEnd:
		return []any{e.Text}
	}
	return nil
}

// lifeName names a life of a link: "the link work-1 -> sink-2 (generation 1.3)".
func (h *History) lifeName(id LifeID) string {
	l := h.Life(id)
	const tries = 1 << 32 // of one opening of a link: node/links.go counts so
	return fmt.Sprintf("the link %s -> %s (generation %d.%d)", l.Link.From, l.Link.To, l.Generation/tries, l.Generation%tries)
}

// recordName names a record: partition, colon, its number there.
func recordName(n uint64) string { return fmt.Sprintf("%d:%d", n>>recordBits, n&(1<<recordBits-1)) }

// tapOf is the tap of a partition.
func tapOf(partition string) string {
	tap, _, _ := strings.Cut(partition, "/")
	return tap
}

func aboutNode(e *Event) subject {
	return subject{nodes: []topology.NodeID{e.Node}, kinds: []EventKind{e.Kind}}
}
