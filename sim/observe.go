package sim

import (
	"hash/maphash"
	"sync/atomic"

	"weir/node"
	"weir/stream"
	"weir/topology"
)

// kinds maps what a stream's hooks tell to what the history calls it.
var kinds = [...]EventKind{
	stream.EventOpen: EventLinkOpen, stream.EventClose: EventLinkClose,
	stream.EventSent: EventSent, stream.EventGrant: EventGranted, stream.EventFreed: EventFreed,
	stream.EventAccept: EventLinkAccept, stream.EventEnd: EventLinkEnd,
	stream.EventTaken: EventTaken, stream.EventDone: EventDone,
}

// Hooks is what a node is given to tell the history what it does. The bug is built into it: ""
// but in the tests of the checker.
func (w *Workload) Hooks(id topology.NodeID, bug stream.Bug) *node.Hooks {
	hooks := w.history.hooks(id, bug)
	hooks.Letter = func(l stream.Letter) {
		number, path, err := w.parse(l.Record.Body)
		if err != nil {
			w.broken(id, l.Role, l.Record.Body)
			return
		}
		w.history.Add(Event{
			Kind: EventLetter, Node: id, Record: number, Leaf: letterOf(path + ">" + l.Role), N: uint64(l.Record.Attempt), Text: l.Role,
		})
	}
	return hooks
}

// hooks are those that need not know the records.
func (h *History) hooks(id topology.NodeID, bug stream.Bug) *node.Hooks {
	var held atomic.Int64 // the most so far
	return &node.Hooks{
		Hooks: stream.Hooks{
			Watch:   func(e stream.Event) { h.stream(id, &held, &e) },
			Reached: h.marks.reach,
			Bug:     bug,
		},
		NoSync:  true,
		Elected: func(term uint64) { h.Add(Event{Kind: EventElected, Node: id, N: term}) },
		State: func(s node.StateSeen) {
			h.Add(Event{Kind: EventState, Node: id, N: s.Index, State: &StateSeen{
				Index: s.Index, Epoch: s.Epoch, LogID: s.LogID, Term: s.Term, Hash: s.Hash,
			}})
		},
		Layout: func(epoch uint64, links []topology.Link) {
			s := &StateSeen{Epoch: epoch}
			for _, l := range links {
				s.Layout = append(s.Layout, LinkSeen{h.linkHash(l), l.From, l.To})
			}
			h.Add(Event{Kind: EventLayout, Node: id, N: epoch, State: s})
		},
	}
}

// stream notes what a node's links and sources do. Of what its windows hold each new most is
// noted.
func (h *History) stream(id topology.NodeID, held *atomic.Int64, e *stream.Event) {
	switch e.Kind {
	case stream.EventSource:
		h.Add(Event{Kind: EventSource, Node: id, Record: e.Lo, N: e.Generation, M: e.Hi, Text: e.Text})
		return
	case stream.EventClaimed:
		h.Add(Event{Kind: EventClaimed, Node: id, Record: e.Lo, N: e.Hi})
		return
	case stream.EventMark:
		h.Add(Event{Kind: EventMark, Node: id, Record: e.Lo, N: e.Generation, M: e.Hi, Text: e.Text})
		return
	case stream.EventSeen:
		h.Add(Event{Kind: EventSeen, Node: id, Record: e.Lo, N: e.Generation, M: e.Hi, Roots: uint32(e.Held)})
		return
	}
	l := e.Link
	l.Edge.By = "" // the receiver does not hear of it
	if l.To == "" {
		l.To = id
	}
	life := h.LifeID(Life{l, e.Boot, e.Generation})
	h.Add(Event{Kind: kinds[e.Kind], Node: id, Life: life, N: e.Lo, M: e.Hi, Again: uint32(e.Again)})
	for most := held.Load(); e.Kind == stream.EventSent && e.Held > most; most = held.Load() {
		if held.CompareAndSwap(most, e.Held) {
			h.Add(Event{Kind: EventHeld, Node: id, N: uint64(e.Held)})
		}
	}
}

// linkHash is a number for a link, the same within one history.
func (h *History) linkHash(l topology.Link) uint64 { return maphash.Comparable(h.hashes, l) }
