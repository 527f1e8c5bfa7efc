package stream

import "weir/topology"

// Hooks let the simulator watch a node's links, and break them on purpose to see whether its
// checks notice. No flag and no file reaches them: in production the pointer is nil, and each
// place costs one comparison.
type Hooks struct {
	// Watch is told of each Event before anyone is told of what it says. Some come under locks:
	// it must return at once and call nothing of this package.
	Watch func(Event)
	// Reached is told the name of each rare branch that is taken; as Watch.
	Reached func(branch string)
	// Bug is built in.
	Bug Bug
}

// Event is what a link or a source did.
type Event struct {
	Kind EventKind
	Hello
	Lo, Hi uint64
	Again  int // EventSent: how many of the records were sent before
	Held   int64
	Text   string
}

// EventKind says what happened, and what Lo and Hi of an Event mean. Those of a receiver do not
// have Link.To: it is the node.
type EventKind uint8

// The kinds of events.
const (
	_            EventKind = iota
	EventOpen              // sender: the link may send below Hi
	EventClose             // sender: its un-acked records go elsewhere
	EventSent              // sender: link seqs [Lo, Hi) are on their way; the node's windows hold Held bytes
	EventGrant             // sender: all below Lo were taken, those below Hi may be sent
	EventFreed             // sender: link seqs [Lo, Hi) are out of custody
	EventAccept            // receiver: this generation is read from now on; it may send below Hi
	EventEnd               // receiver: this generation is read no more
	EventTaken             // receiver: all below Lo were taken for handlers, those below Hi may be sent
	EventDone              // receiver: link seqs [Lo, Hi) are acked
	EventSource            // source Lo begins generation Generation of its partition Text
	EventClaimed           // receiver: records of source Lo with claim Hi are taken right from its tap
	EventMark              // source Lo is acked below Hi in generation Generation
	EventSeen              // sink: of generation Generation of source Lo it remembers Held roots by one path, all below Hi
)

// Bug is the name of a bug that can be built in. They are those of FAULTS 3.5, I18.
type Bug string

// The bugs of this package.
const (
	BugAckEarly   Bug = "ack early"                      // an input is acked when its handler returned
	BugCounter    Bug = "counter instead of set"         // the acks of both deliveries of an output count
	BugMarkGap    Bug = "mark over a gap"                // a mark is the newest acked record
	BugLostCredit Bug = "lost credit"                    // a taken record's credit sometimes does not come back
	BugUnfenced   Bug = "generation not fenced"          // any generation of a link is read
	BugDeadDrop   Bug = "dead letter dropped"            // a dead letter is acked and kept nowhere
	BugCustody    Bug = "custody freed on transport ack" // a record is let go when it was written
	BugLRU        Bug = "LRU de-duplication"             // a sink remembers the last lruBug IDs
	BugNoMarks    Bug = "a sink without marks"           // a sink forgets nothing
)

// lruBug is FAULTS 3.5's.
const lruBug = 10

// sometimes tells that a rare branch was taken.
func (h *Hooks) sometimes(branch string) {
	if h != nil {
		h.Reached(branch)
	}
}

// has reports whether a bug is built in.
func (h *Hooks) has(b Bug) bool { return h != nil && h.Bug == b }

// hello is what the receiver of a link knows of it.
func (r *Receiver) helloOf() Hello {
	return Hello{
		Link:       topology.Link{Pipeline: r.hello.Pipeline, Edge: r.key.edge, From: r.key.from},
		Boot:       r.hello.Boot,
		Generation: r.hello.Generation,
		Epoch:      r.hello.Epoch,
	}
}

// watch tells the hooks of a link that starts here; the caller has the outlet's mu.
func (s *Sender) watch(kind EventKind, lo, hi uint64) {
	if h := s.o.cfg.Hooks; h != nil {
		h.Watch(Event{Kind: kind, Hello: s.self, Lo: lo, Hi: hi})
	}
}

// watchSent tells the hooks of a chunk that is about to be written; the caller has the outlet's mu.
func (s *Sender) watchSent(c *chunk) {
	h := s.o.cfg.Hooks
	if h == nil {
		return
	}
	e := Event{Kind: EventSent, Hello: s.self, Lo: c.seqs[0], Hi: c.seqs[0] + uint64(len(c.seqs)), Held: s.o.cfg.Budget.Held()}
	for _, seq := range c.seqs {
		if s.win.at(seq).again {
			e.Again++
		}
	}
	h.Watch(e)
}

// watch tells the hooks how far a link is; the caller has mu.
func (in *Inlet) watch(kind EventKind, r *Receiver) {
	if h := in.cfg.Hooks; h != nil {
		h.Watch(Event{Kind: kind, Hello: r.helloOf(), Lo: r.taken, Hi: r.limit})
	}
}

// watchDone tells the hooks of records that are about to be acked.
func (r *Receiver) watchDone(lo, hi uint64) {
	if h := r.in.cfg.Hooks; h != nil {
		h.Watch(Event{Kind: EventDone, Hello: r.helloOf(), Lo: lo, Hi: hi})
	}
}

// watch tells the hooks of the source and its low-water mark.
func (s *Source) watch(kind EventKind, low uint64) {
	if h := s.cfg.Outlet.cfg.Hooks; h != nil {
		h.Watch(Event{Kind: kind, Hello: Hello{Generation: s.cfg.Gen}, Lo: s.cfg.ID, Hi: low, Text: s.cfg.Partition})
	}
}

// watch tells the hooks how much of a generation is remembered; the caller has mu.
func (h *SinkHandler) watch(l *life, source uint64) {
	if w := h.cfg.Hooks; w != nil {
		most, past := l.size()
		w.Watch(Event{Kind: EventSeen, Hello: Hello{Generation: l.gen}, Lo: source, Hi: past, Held: int64(most)})
	}
}
