package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"weir/stream/wire"
	"weir/topology"
)

// CapacityDefault is the records that a role works on at once unless told otherwise: the
// number that a seed of ours, missinglink/pipeline, had (SEEDS 1.7).
const CapacityDefault = 50

const (
	// batchRecordsMax is the most records of one hand-over to a handler.
	batchRecordsMax = 256
	// sinkRecordsMax and sinkBytesMax bound one Write of a sink: enough to pay for its fsync.
	sinkRecordsMax = 4096
	sinkBytesMax   = 4 << 20
	// sinkAheadBytes is how much of a link waits for a sink before the rest stays in the stream, in
	// bytes of buffers: what comes steadily comes in blocks of a few records, and one a Write would
	// be an fsync for each. Full blocks are read one at a time, as for others.
	sinkAheadBytes = wire.BatchBytes
	// patience is how long records may wait while another handling goroutine could take them:
	// long for a handler of microseconds, short for a person.
	patience = time.Millisecond
)

// InletConfig says who handles a role's records. Handler and Budget are needed.
type InletConfig struct {
	Role      string
	Handler   Handler
	Capacity  int     // 0 = CapacityDefault
	Outlet    *Outlet // nil: a sink
	Budget    *Budget
	RecordMax int // bytes of a body; 0 = RecordBytesMax
	// Serial gives the handler one batch at a time, of one source and as large as there is:
	// for sinks.
	Serial bool
	// OnMark is told of each newer low-water mark; it must not block.
	OnMark func(wire.Mark)
	// Attempts is how often a record may fail before it is a dead letter; 0 = AttemptsDefault.
	Attempts int
	// Deadline is how long a handler may be without progress, 0 = for ever: an output emitted or
	// acked, a record nacked, a call of Batch.Progress. Then its context ends, and what it has not
	// handled has failed.
	Deadline time.Duration
	// Dead keeps a dead letter: it returns nil when the letter is durable, an error when it is to be
	// tried again, and may block as long as ctx allows. Several may be called at once. nil: a record
	// that cannot be handled stops the run, unless an edge starts at the role's port dead.
	Dead func(context.Context, Letter) error
	// Claim returns the claim of a source that is known to be the newest, 0 = none: records that
	// come right from a tap with a lower one are refused. It must not block. nil: none is known.
	Claim func(source uint64) uint64
	Log   *slog.Logger
	Hooks *Hooks // nil but in the simulator

	dropAcks bool // test hook: only credit is sent
}

// Inlet is all links to one role on one node, and the goroutines that handle their records.
// Serve may be called concurrently.
type Inlet struct {
	cfg     InletConfig
	letters chan struct{} // a semaphore: its length is how many dead letters wait
	dead    atomic.Uint64 // letters made
	life    uint64        // tells this inlet from every other, whatever node it is on

	mu       sync.Mutex
	work     sync.Cond // for handling goroutines: the queue grew, busy fell, or closed
	more     sync.Cond // for Run: there is something to oversee, or closed
	cleared  sync.Cond // for who has suspects: some of a link are, or it ended, or closed
	queue    []*block  // at most one of each link
	links    map[linkKey]*Receiver
	fences   fences
	claims   map[uint64]uint64 // the newest seen of each source
	credit   credit
	busy     int  // records that handlers have
	idle     int  // handling goroutines that have no records
	hands    int  // handling goroutines, but those that are stuck
	stuck    int  // handling goroutines whose handler made no progress for too long
	overseen bool // Run looks at the queue by itself
	paused   bool // nothing is taken
	closed   bool
	worked   bool          // a handler has handled a record
	service  time.Duration // smoothed time of a handler per record
	last     time.Duration // of the last batch
	waits    waits
	marks    marks
	group    sync.WaitGroup
}

// linkKey is what generations of a link share.
type linkKey struct {
	edge topology.Edge
	from topology.NodeID
}

// NewInlet makes an inlet without links.
func NewInlet(cfg InletConfig) *Inlet {
	if cfg.Capacity <= 0 {
		cfg.Capacity = CapacityDefault
	}
	if cfg.RecordMax == 0 {
		cfg.RecordMax = RecordBytesMax
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = AttemptsDefault
	}
	in := &Inlet{
		cfg:     cfg,
		links:   make(map[linkKey]*Receiver),
		fences:  make(fences),
		claims:  make(map[uint64]uint64),
		marks:   make(marks),
		credit:  newCredit(cfg.Capacity),
		letters: make(chan struct{}, lettersMax),
		life:    rand.Uint64()>>2 | 1<<62, // as long as any other in a frame
	}
	if cfg.Serial {
		in.credit = newCredit(sinkRecordsMax)
	}
	in.work.L, in.more.L, in.cleared.L = &in.mu, &in.mu, &in.mu
	return in
}

// Run handles records until ctx is done; it returns when no handler runs any more.
func (in *Inlet) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		in.closed = true
		in.work.Broadcast()
		in.more.Broadcast()
		in.cleared.Broadcast()
	})
	defer stop()
	in.mu.Lock()
	for !in.closed {
		in.oversee(ctx)
	}
	in.mu.Unlock()
	in.group.Wait()
	return context.Cause(ctx)
}

// most is how many handling goroutines there may be, besides as many that are stuck.
func (in *Inlet) most() int {
	if in.cfg.Serial {
		return 1
	}
	return in.cfg.Capacity
}

// oversee sees once, under mu, to what waits in the queue: when it is worth another handling
// goroutine, or has waited for patience because those that there are take long, it wakes or
// makes one. Then it waits for the next occasion.
func (in *Inlet) oversee(ctx context.Context) {
	most := in.most()
	in.overseen = !in.paused && len(in.queue) > 0 && (in.idle > 0 || in.hands < most && in.hands+in.stuck < 2*most)
	if !in.overseen {
		in.more.Wait()
		return
	}
	wait := patience - time.Since(in.queue[0].at)
	if wait <= 0 || in.long() {
		wait = patience
		if in.idle > 0 {
			in.work.Signal()
		} else {
			in.hands++
			in.idle++
			in.group.Add(1)
			go in.hand(ctx) // ended by closed
		}
	}
	timer := time.AfterFunc(wait, in.more.Signal)
	in.more.Wait()
	timer.Stop()
}

// long reports whether the queue is worth another goroutine.
func (in *Inlet) long() bool {
	left := 0
	for _, bl := range in.queue {
		left += bl.left
	}
	return left > 0 && (in.hands == 0 || in.last == 0 || time.Duration(left)*in.service > handleTarget)
}

// hand takes records and gives them to the handler, over and over.
func (in *Inlet) hand(ctx context.Context) {
	stuck := false
	defer func() {
		if !stuck { // else it counts no more
			in.group.Done()
		}
	}()
	b := &Batch{in: in, outlet: in.cfg.Outlet}
	for in.take(b) {
		if b.Len() == 0 {
			b.release()
			continue // what came was broken, or of an older claim
		}
		for i := range b.Records {
			r := &b.Records[i]
			r.ID.Sum = xxh3.Hash(r.Body)
		}
		if first := &b.Records[0]; first.Attempt > in.cfg.Attempts { // then it is alone
			in.finish(ctx, b, Poison(errCondemned), 0)
			continue
		}
		if b.suspects && !in.await(b) {
			continue
		}
		start := time.Now()
		err, ok := in.watched(ctx, b)
		if stuck = !ok; stuck {
			in.returned(b)
			return
		}
		took := time.Since(start)
		if err == nil {
			err = b.flush(ctx) // its wait for credit is not the handler's work
		}
		in.finish(ctx, b, err, took)
	}
}

// handle calls the handler; a panic is its error.
func (in *Inlet) handle(ctx context.Context, b *Batch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			in.cfg.Log.Error("handler panicked", "role", in.cfg.Role, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the handler panicked: %v", p)
		}
	}()
	return in.cfg.Handler.Handle(ctx, b)
}

// take waits for records and puts up to a hand-over's worth into b; false when closed.
func (in *Inlet) take(b *Batch) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	b.reset()
	for !in.closed && (in.paused || len(in.queue) == 0 || in.busy >= in.cfg.Capacity && !in.cfg.Serial) {
		if !in.paused && len(in.queue) == 0 && in.busy == 0 {
			in.starved()
		}
		in.work.Wait()
	}
	if in.closed {
		return false
	}
	now := time.Now()
	records, bytes := in.portion()
	for len(in.queue) > 0 && len(b.Records) < records && b.bytes < bytes {
		if !in.takeFrom(in.queue[0], b, records, bytes, now) {
			break
		}
	}
	if len(b.Records) > 0 {
		in.idle--
		in.busy += len(b.Records)
	}
	switch {
	case !in.long():
	case in.idle > 0:
		in.work.Signal()
	default:
		in.more.Signal()
	}
	return true
}

// portion is how much one hand-over may take: what a handler does in handleTarget.
func (in *Inlet) portion() (records, bytes int) {
	if in.cfg.Serial {
		return sinkRecordsMax, sinkBytesMax
	}
	n := batchRecordsMax
	if in.service > 0 {
		n = int(handleTarget / in.service)
	} else if in.last == 0 {
		n = 1 // nothing is known yet
	}
	return min(max(n, 1), batchRecordsMax, in.cfg.Capacity-in.busy), sinkBytesMax
}

// takeFrom moves records of a block into b; false when the rest of the block is for another
// batch.
func (in *Inlet) takeFrom(bl *block, b *Batch, records, bytes int, now time.Time) bool {
	taken := uint64(0)
	more := true
	once := in.cfg.Attempts == 1 && !in.cfg.Serial // then none may fail for another
	for bl.left > 0 && len(b.Records) < records && b.bytes < bytes {
		if err := bl.peek(); err != nil {
			bl.r.fail(err)
			bl.left = 0
			break
		}
		if bl.rec.Claim != 0 && !in.current(bl) {
			in.bar(bl)
			taken++
			continue
		}
		lone := bl.rec.Attempt > 1 || once
		if len(b.Records) > 0 && (lone || b.lone || bl.rec.Suspect != b.suspects || b.suspects && len(b.blocks) > 0 ||
			in.cfg.Serial && bl.rec.Source != b.Records[0].ID.Source) {
			more = false
			break
		}
		b.lone, b.suspects = lone, bl.rec.Suspect
		b.add(bl)
		taken++
	}
	r := bl.r
	if taken > 0 {
		if in.cfg.Hooks.has(BugLostCredit) {
			in.credit.total = max(in.credit.total, 1) - 1
		}
		r.limit = in.credit.take(r.taken, r.limit, taken)
		r.taken += taken
		in.watch(EventTaken, r)
		r.grant()
		b.blocks = append(b.blocks, bl)
		bl.refs.Add(1)
		in.credit.waited(now.Sub(bl.at), in.last, now)
	}
	if bl.left == 0 {
		r.spent = r.spent || taken > 0 && bl.batch.Spent
		in.queue = append(in.queue[:0], in.queue[1:]...)
		r.ahead -= cap(bl.c.buf)
		bl.release(in.cfg.Budget) // its buffer may be another's from here on
		raise(r.room)
	}
	return more
}

// starved grants more when a sender spent its credit and there is nothing at all to do here:
// what one idle hand of several waits for is no more than a round trip.
func (in *Inlet) starved() {
	for _, r := range in.links {
		if !r.spent {
			continue
		}
		r.spent = false
		if !in.credit.starved(in.ahead()) {
			return
		}
		in.cfg.Hooks.sometimes("credit doubles")
		for _, r := range in.links {
			if r.taken == 0 {
				continue // it keeps the one it has
			}
			r.limit = in.credit.grant(r.taken, r.limit)
			in.watch(EventTaken, r)
			r.grant()
		}
		return
	}
}

// ahead is how many records the handlers work off in creditAhead, none until they have worked: refusals are
// no work. Of a sink it cannot be told, since that takes all there is at once.
func (in *Inlet) ahead() uint64 {
	switch {
	case in.cfg.Serial:
		return creditMax
	case !in.worked:
		return 0
	}
	return uint64(in.cfg.Capacity) * uint64(creditAhead) / uint64(max(in.service, 1))
}

// Serve runs a link that a sender opened with hello: it accepts it, unless a newer generation
// is there, and reads until ctx is done or the link ends. It closes conn.
func (in *Inlet) Serve(ctx context.Context, l *Incoming, from topology.NodeID) error {
	defer l.conn.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r := newReceiver(in, l, from, stop)
	older, err := in.open(r)
	if err != nil {
		return errors.Join(err, l.Refuse(wire.CodeRefused, err.Error()))
	}
	defer in.close(r)
	if older != nil {
		older.fail(errors.New("a newer generation of the link is here"))
	}
	return r.run(ctx)
}

func (in *Inlet) open(r *Receiver) (older *Receiver, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	ours := generation{r.hello.Boot, r.hello.Generation}
	newest, ok := in.fences.pass(r.key, ours, func(k linkKey) bool { return in.links[k] != nil })
	unfenced := in.cfg.Hooks.has(BugUnfenced)
	if !ok && !unfenced {
		in.cfg.Hooks.sometimes("an older generation of a link is refused")
		return nil, fmt.Errorf("generation %d.%d of the link is not above %d.%d", ours.boot, ours.count, newest.boot, newest.count)
	}
	if older = in.links[r.key]; unfenced {
		older = nil
	}
	if older != nil {
		in.cfg.Hooks.sometimes("a newer generation replaces a link")
		in.forget(older)
	}
	in.links[r.key] = r
	r.limit = in.credit.open()
	in.watch(EventAccept, r)
	return older, nil
}

// forget takes a link out of the credit; its records in hand go on, their acks go nowhere.
func (in *Inlet) forget(r *Receiver) {
	if r.gone {
		return
	}
	r.gone = true
	in.cleared.Broadcast()
	in.watch(EventEnd, r)
	in.credit.close(r.taken, r.limit)
	in.queue = slices.DeleteFunc(in.queue, func(bl *block) bool {
		if bl.r == r {
			bl.release(in.cfg.Budget)
		}
		return bl.r == r
	})
	if in.links[r.key] == r {
		delete(in.links, r.key)
	}
}

func (in *Inlet) close(r *Receiver) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.forget(r)
}

// enqueue offers a block to the handlers; false when its link was forgotten.
func (in *Inlet) enqueue(bl *block) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if bl.r.gone {
		return false
	}
	bl.r.next += uint64(bl.left)
	bl.r.ahead += cap(bl.c.buf)
	bl.r.passed = passed{} // the State may know a newer claim by now
	in.queue = append(in.queue, bl)
	if in.idle > 0 {
		in.work.Signal()
	}
	if !in.overseen {
		in.more.Signal()
	}
	return true
}

// mayRead reports whether a link may read its next block: when all of the last one is taken, or, for
// a sink, while there is little, since what comes during one Write is the next.
func (in *Inlet) mayRead(r *Receiver) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return r.ahead == 0 || in.cfg.Serial && r.ahead < sinkAheadBytes
}

// Fed reports whether a node other than self has a link to the role. The links of one that is
// paused do not count once its handlers are done: what they bring is for others.
func (in *Inlet) Fed(self topology.NodeID) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.paused && in.busy == 0 {
		return false
	}
	for key := range in.links {
		if key.from != self {
			return true
		}
	}
	return false
}
