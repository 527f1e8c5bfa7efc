package sim

import (
	"hash/maphash"
	"sync"
	"time"

	"weir/topology"
)

// EventKind says what happened, and what the other fields of an Event mean.
type EventKind uint8

// The kinds of events. A field that a kind does not name is zero.
const (
	_ EventKind = iota

	// Records, from the workload. Record is the number of the root; Leaf is the path it came by:
	// in EventSunk and EventStored with the role, in EventLetter what letterOf makes of that.
	EventOpened  // a tap opened partition Text for the Nth time, to read from Record on
	EventRead    // a tap that opened partition Text as the Nth handed out Record
	EventAcked   // it was told that Record is acked end to end
	EventHandled // role Text was given Record; N = attempt
	EventLate    // the handling of Record by role Text was ended: it took too long, or its node ends
	EventStruck  // Record ends the node
	EventSunk    // role Text wrote Record durably
	EventLetter  // Record is a durable dead letter of role Text; N = attempt
	EventStored  // at the run's end Record is in the file of Node's role Text
	EventReadAll // a tap that opened a partition as the Nth has read all there will be, up to Record
	EventBroken  // a body came that nobody sent: Text

	// Links, seen by the sender: Life says which life of which link.
	EventLinkOpen  // the receiver accepted it; M = limit
	EventLinkClose // its un-acked records have gone back
	EventSent      // link seqs [N, M) were placed on it; Again = how many of them were sent before
	EventGranted   // the receiver has taken N and lets M be sent
	EventFreed     // link seqs [N, M) are out of custody: acked

	// Links, seen by the receiver.
	EventLinkAccept // it reads this life from now on; M = limit
	EventLinkEnd    // it reads this life no more
	EventTaken      // handlers were given all below N, M may be sent
	EventDone       // link seqs [N, M) are acked to the sender

	EventSource  // source Record begins, or goes on with, generation N of partition Text, numbering from M
	EventClaimed // the node takes records of source Record with claim N, right from the tap
	EventMark    // source Record is acked below M in generation N
	EventSeen    // the node's sink remembers Roots roots of source Record in generation N, all below M
	EventHeld    // the node's windows hold N bytes, more than ever before

	// Control, from the nodes.
	EventElected // the node leads in term N
	EventState   // the node holds State for agreed, of index N
	EventLayout  // the node follows the links of State.Layout, of epoch N

	// Faults, from the scenario.
	EventStarted    // a node runs, N = its boot counted by the scenario
	EventKilled     // it runs no more and has told nobody
	EventStopped    // it left in good order
	EventFrozen     // it stands still
	EventThawed     // it goes on
	EventPauseAsked // the cluster is asked to pause role Text; "": the whole pipeline
	EventPaused     // it says that this is done
	EventResumed    // it is asked to let Text go on
	EventFaultBegin // Text = the fault's line in the scenario; no Node: the network's
	EventFaultEnd   // Text = the same
	EventOver       // the run ends and is judged
)

// Event is one thing that happened at one place.
type Event struct {
	At     time.Duration // since the run began, in virtual time
	Node   topology.NodeID
	Kind   EventKind
	Again  uint32
	Life   LifeID
	Roots  uint32
	Record uint64
	Leaf   uint64
	N, M   uint64
	Text   string
	State  *StateSeen
}

// LifeID numbers the lives of links in a History, from 1; 0 is none.
type LifeID uint32

// Life is one life of a link: all between a HELLO and the end.
type Life struct {
	Link             topology.Link
	Boot, Generation uint64 // of the sender
}

// StateSeen is what a node holds for agreed.
type StateSeen struct {
	Index, Epoch, LogID, Term uint64
	Hash                      uint64     // of the whole state
	Layout                    []LinkSeen // EventLayout: what the node follows
}

// LinkSeen is a link in brief: equal links of one history have equal hashes.
type LinkSeen struct {
	Hash     uint64
	From, To topology.NodeID
}

// eventsChunk is how many events of a history are allocated together: 10 ms of a busy run.
const eventsChunk = 4096

// History is what happened in one run, in an order that agrees with cause and effect: who adds
// an event does so before it tells anyone. It is safe for concurrent use; Add blocks nobody for
// longer than it takes to note an event, so hooks may call it under locks.
type History struct {
	now    func() time.Duration // nil: events come with their times
	hashes maphash.Seed         // of links
	marks  marks

	mu     sync.Mutex
	chunks []*[eventsChunk]Event
	count  int
	lives  []Life
	lifeOf map[Life]LifeID
}

// NewHistory makes a history that begins now; it stamps its events.
func NewHistory() *History {
	start := time.Now()
	return &History{now: func() time.Duration { return time.Since(start) }, hashes: maphash.MakeSeed()}
}

// Add notes an event.
func (h *History) Add(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now != nil {
		e.At = h.now()
	}
	if h.count == len(h.chunks)*eventsChunk {
		h.chunks = append(h.chunks, new([eventsChunk]Event))
	}
	h.chunks[h.count/eventsChunk][h.count%eventsChunk] = e
	h.count++
}

// LifeID numbers a life of a link; the same one has the same number at both ends.
func (h *History) LifeID(l Life) LifeID {
	h.mu.Lock()
	defer h.mu.Unlock()
	if id := h.lifeOf[l]; id != 0 {
		return id
	}
	if h.lifeOf == nil {
		h.lifeOf = make(map[Life]LifeID)
	}
	h.lives = append(h.lives, l)
	h.lifeOf[l] = LifeID(len(h.lives))
	return h.lifeOf[l]
}

// Life returns the life of a number.
func (h *History) Life(id LifeID) Life {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lives[id-1]
}

// Len is the number of events so far.
func (h *History) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

// All ranges over the events that are there now, in order.
func (h *History) All(yield func(int, *Event) bool) {
	h.mu.Lock()
	count, chunks := h.count, h.chunks
	h.mu.Unlock()
	for i := range count {
		if !yield(i, &chunks[i/eventsChunk][i%eventsChunk]) {
			return
		}
	}
}
