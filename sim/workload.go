package sim

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/node"
	"weir/stream"
	"weir/topology"
)

// pipelineName is what a simulated pipeline is called.
const pipelineName = "sim"

// recordBits is how many bits of a record's number count within its partition: 2^40 are a year
// of a million records a second.
const recordBits = 40

const (
	// readEvery is how often a tap finds new records, at least, as one that reads blocks of a file
	// does. Virtual time costs by the packet: records one by one cost ten times as much. A larger
	// cluster reads less often, readEveryMax at most, so that readFor records come for each node of
	// the largest role: it is what a packet to that node carries.
	readEvery    = 200 * time.Millisecond
	readEveryMax = time.Second
	readFor      = 10
	// takesGrains is how many service times there are from half to one and a half of the mean:
	// what ends together is acked together.
	takesGrains = 2
	// takesMixed is of how many blocks one has records with service times of their own, which end
	// out of order; those of any other take all the same.
	takesMixed = 4
)

// Workload is what the nodes of a run work on: numbered records from taps that read at a rate,
// handlers that take their time and fail now and then, sinks that check every byte. All draws
// follow from the seed and the record, never from the order of things. Everything that matters
// goes into the history.
//
// A body is "number path sum": the root's number, the roles it came through, and a sum of these
// with the seed, so that a body that was mixed up, cut or made up is seen. Points fill it up.
type Workload struct {
	seed     uint64
	pipeline topology.Pipeline
	roles    map[string]Role
	size     int    // of a body, at least
	memory   uint64 // that a node's windows may hold
	history  *History
	gap      time.Duration // between records of one partition
	every    time.Duration // a tap finds new ones so often
	stopped  chan struct{}

	mu         sync.Mutex
	partitions map[string]*partition
	end        time.Time // nothing that is there later is read; zero: not stopped
	last       time.Time // when a record was read
}

// partition is what one tap reads; it outlives the tap. The workload's mu guards it.
type partition struct {
	name  string
	index uint64
	since time.Time // when it was first opened: record n is there n gaps later
	opens uint64
	ended bool   // all there is was read
	acked bitset // records, by any opening
	again bitset // records, by the last opening
	first uint64 // record that the last opening began with
	read  uint64 // one more than the last record read
}

// newWorkload makes the load of a scenario.
func newWorkload(s *Scenario, seed uint64, h *History) *Workload {
	w := &Workload{
		seed: seed, history: h, stopped: make(chan struct{}),
		size: s.Size, memory: uint64(cmp.Or(s.Memory, stream.MemoryDefault)),
		pipeline: topology.Pipeline{Name: pipelineName, Graph: s.Graph},
		roles:    make(map[string]Role), partitions: make(map[string]*partition),
	}
	taps, most := 0, 0
	for _, r := range s.Roles {
		most = max(most, r.Nodes)
		w.roles[r.Name] = r
		w.pipeline.Roles = append(w.pipeline.Roles, topology.Role{Name: r.Name, Kind: r.Kind, Send: r.Send, Needs: r.needs()})
		if r.Kind == topology.KindTap {
			taps += r.Nodes
		}
	}
	w.gap = time.Second * time.Duration(max(taps, 1)) / time.Duration(max(s.Rate, 1))
	w.every = time.Second * time.Duration(most*readFor) / time.Duration(max(s.Rate, 1))
	w.every = min(max(w.every.Truncate(readEvery), readEvery), readEveryMax)
	return w
}

// Pipeline is what the nodes are to run.
func (w *Workload) Pipeline() topology.Pipeline { return w.pipeline }

// Role makes a role ready to serve on a node. The node's place, its id without the count of
// starts, names what its tap reads.
func (w *Workload) Role(name string, id topology.NodeID) node.Role {
	r := w.roles[name]
	made := node.Role{Name: name, Capacity: r.Capacity}
	switch r.Kind {
	case topology.KindTap:
		made.Tap = &loadTap{w, id, name + "/" + placeOf(id)}
	case topology.KindSink:
		made.Sink = &loadSink{w: w, id: id, role: r}
	default:
		made.Handler = &loadHandler{w: w, id: id, role: r, emits: len(w.pipeline.Graph.Out(name)) > 0}
	}
	return made
}

// Stop lets no tap read what comes from now on.
func (w *Workload) Stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end.IsZero() {
		w.end = time.Now()
		close(w.stopped)
	}
}

// Acked is how many different records were acked end to end.
func (w *Workload) Acked() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := uint64(0)
	for _, p := range w.partitions {
		n += p.acked.count
	}
	return n
}

// LastRead is when a tap handed out a record last.
func (w *Workload) LastRead() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// Settled reports whether all taps have read all there is, since they were last opened, and all
// of it is acked.
func (w *Workload) Settled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.partitions {
		if !p.ended || p.again.count+p.first < p.read {
			return false
		}
	}
	return true
}

// open begins to read a partition once more, from a record on.
func (w *Workload) open(name string, first uint64) *partition {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.partitions[name]
	if p == nil {
		p = &partition{name: name, index: uint64(len(w.partitions)), since: time.Now()}
		w.partitions[name] = p
	}
	p.opens++
	p.ended, p.first, p.read, p.again = false, first, first, bitset{}
	return p
}

const (
	// attemptsMax is how often a record may be tried (stream's own; it is no setting yet).
	attemptsMax = 3
	// edgeSlack is what an edge may have in flight beyond the node's memory, in bytes: a batch.
	edgeSlack = 1 << 20
	// sinkCapacity is how many records a sink works on at once: stream gives it as much credit.
	sinkCapacity = creditMax
)

// Expect is what the load and the product promise of a run.
func (w *Workload) Expect() Expect {
	x := Expect{Outcomes: w.outcomes(), Capacity: make(map[string]int), Tagged: make(map[string]int), Attempts: attemptsMax, Settle: settleMax}
	x.Memory = w.memory + edgeSlack*uint64(len(w.pipeline.Graph.Edges))
	for name, r := range w.roles {
		x.Fails += r.Fails
		x.Tagged[name] = r.Tagged
		switch r.Kind {
		case topology.KindTap:
		case topology.KindSink:
			x.Capacity[name] = sinkCapacity
		default:
			x.Capacity[name] = cmp.Or(r.Capacity, stream.CapacityDefault)
		}
	}
	return x
}

// due waits until record n of a partition is there; false: it never will be.
func (w *Workload) due(ctx context.Context, p *partition, n uint64) (bool, error) {
	at := p.since.Add((time.Duration(n) * w.gap).Truncate(w.every))
	if wait := time.Until(at); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-w.stopped:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.end.IsZero() && at.After(w.end) {
		p.ended = true
		return false, nil
	}
	p.read, w.last = n+1, time.Now()
	return true, nil
}

// ack notes a record of a partition that was opened so often.
func (w *Workload) ack(p *partition, opens, n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.acked.set(n)
	if p.opens == opens {
		p.again.set(n)
	}
}

// bitset is a set of small numbers; its zero value is empty.
type bitset struct {
	words []uint64
	count uint64
}

func (b *bitset) set(n uint64) {
	for n/64 >= uint64(len(b.words)) {
		b.words = append(b.words, make([]uint64, len(b.words)+16)...)
	}
	if !b.has(n) {
		b.words[n/64] |= 1 << (n % 64)
		b.count++
	}
}

func (b *bitset) has(n uint64) bool {
	return n/64 < uint64(len(b.words)) && b.words[n/64]&(1<<(n%64)) != 0
}

// body makes what a record of that number holds after it came by path.
func (w *Workload) body(number uint64, path string) []byte {
	b := strconv.AppendUint(nil, number, 10)
	b = append(append(append(b, ' '), path...), ' ')
	b = strconv.AppendUint(b, mix(w.seed, mix(number, hash(path))), 16)
	return append(b, bytes.Repeat([]byte("."), max(w.size-len(b), 0))...)
}

var errBody = errors.New("the body is not what was sent")

// parse takes a body apart and checks it.
func (w *Workload) parse(body []byte) (number uint64, path string, err error) {
	words := strings.Split(string(body), " ")
	if len(words) != 3 {
		return 0, "", errBody
	}
	number, err = strconv.ParseUint(words[0], 10, 64)
	if err != nil || string(w.body(number, words[1])) != string(body) {
		return 0, "", errBody
	}
	return number, words[1], nil
}

// broken notes a body that nobody sent.
func (w *Workload) broken(id topology.NodeID, role string, body []byte) {
	w.history.Add(Event{Kind: EventBroken, Node: id, Text: fmt.Sprintf("%s was given %.60q", role, body)})
}

// loadTap is a tap with one partition.
type loadTap struct {
	w         *Workload
	id        topology.NodeID
	partition string
}

func (t *loadTap) Partitions(context.Context) ([]string, error) { return []string{t.partition}, nil }

func (t *loadTap) Open(_ context.Context, name string, at stream.Mark) (stream.Reader, error) {
	first := uint64(0)
	if len(at) == 8 {
		first = binary.BigEndian.Uint64(at)
	}
	p := t.w.open(name, first)
	r := &loadReader{loadTap: t, p: p, opens: p.opens, next: first}
	t.w.history.Add(Event{Kind: EventOpened, Node: t.id, Text: name, Record: p.number(r.next), N: p.opens})
	return r, nil
}

// number is the number of the partition's nth record among all.
func (p *partition) number(n uint64) uint64 { return p.index<<recordBits | n }

// loadReader reads a partition: record n is there n gaps after the partition was first opened,
// so that a tap that comes late, or again, finds what it missed.
type loadReader struct {
	*loadTap
	p     *partition
	opens uint64
	next  uint64
}

func (r *loadReader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	there, err := r.w.due(ctx, r.p, r.next)
	if err != nil {
		return stream.Out{}, nil, err
	}
	if !there {
		r.w.history.Add(Event{Kind: EventReadAll, Node: r.id, Record: r.p.number(r.next)})
		return stream.Out{}, nil, io.EOF
	}
	number := r.p.number(r.next)
	r.next++
	r.w.history.Add(Event{Kind: EventRead, Node: r.id, Record: number, Text: r.p.name})
	return stream.Out{Body: r.w.body(number, tapOf(r.p.name))}, binary.BigEndian.AppendUint64(nil, r.next), nil
}

func (r *loadReader) Done(at stream.Mark, _ error) {
	n := binary.BigEndian.Uint64(at) - 1
	r.w.history.Add(Event{Kind: EventAcked, Node: r.id, Record: r.p.number(n), Text: r.p.name})
	r.w.ack(r.p, r.opens, n)
}

func (r *loadReader) Close() error { return nil }

// loadHandler is a worker: one output for each record.
type loadHandler struct {
	w     *Workload
	id    topology.NodeID
	role  Role
	emits bool
}

func (h *loadHandler) Handle(ctx context.Context, b *stream.Batch) error {
	return stream.Each(h.one).Handle(ctx, b)
}

var errPlanned = errors.New("the workload has it fail")

func (h *loadHandler) one(ctx context.Context, r stream.Record, e stream.Emitter) error {
	number, path, err := h.w.parse(r.Body)
	if err != nil {
		h.w.broken(h.id, h.role.Name, r.Body)
		return err
	}
	h.w.history.Add(Event{Kind: EventHandled, Node: h.id, Record: number, Leaf: hash(path), N: uint64(r.Attempt), Text: h.role.Name})
	path += ">" + h.role.Name
	chance := mix(mix(h.w.seed, number), hash(path))
	if err := sleep(ctx, h.w.takes(h.role, number, chance)); err != nil {
		return err
	}
	if r.Attempt == 1 && unit(mix(chance, 1)) < h.role.Fails {
		return errPlanned
	}
	if !h.emits {
		return nil
	}
	return e.Emit(ctx, stream.Out{Body: h.w.body(number, path)})
}

// takes is how long a role works on a record: between half and one and a half times what it takes on
// average, by the block that the tap read, or by the record's own chance.
func (w *Workload) takes(r Role, number, chance uint64) time.Duration {
	p, n := number>>recordBits, number&(1<<recordBits-1)
	block := mix(mix(w.seed, p), mix(hash(r.Name), uint64(time.Duration(n)*w.gap/w.every)))
	if block%takesMixed != 0 {
		chance = block
	}
	return time.Duration((0.5 + unit(chance)) * float64(r.Takes)).Round(max(r.Takes/takesGrains, 1))
}

// loadSink is a sink: what its Write returned for is durable. Role.Takes is what a write takes,
// as an fsync does, whatever the number of records.
type loadSink struct {
	w    *Workload
	id   topology.NodeID
	role Role
}

func (s *loadSink) Load(context.Context, uint64) ([]byte, error) { return nil, nil }

func (s *loadSink) Write(ctx context.Context, rs []stream.Record, _ stream.Seen) error {
	if err := sleep(ctx, s.role.Takes); err != nil {
		return err
	}
	for _, r := range rs {
		number, path, err := s.w.parse(r.Body)
		if err != nil {
			s.w.broken(s.id, s.role.Name, r.Body)
			return err
		}
		s.w.history.Add(Event{
			Kind: EventSunk, Node: s.id, Record: number, Leaf: hash(path + ">" + s.role.Name), N: uint64(r.Attempt), Text: s.role.Name,
		})
	}
	return nil
}

func (s *loadSink) Close() error { return nil }

// outcome is what must become of a record at a role, pure: a leaf at a sink, all or one of
// several outcomes elsewhere.
type outcome struct {
	path string // of a leaf: the roles to it
	leaf uint64 // its hash; 0: not a leaf
	all  []outcome
	one  []outcome // send: split
}

// outcomes maps each tap to what must become of its records.
func (w *Workload) outcomes() map[string]outcome {
	made := make(map[string]outcome)
	for _, r := range w.pipeline.Roles {
		if r.Kind == topology.KindTap {
			made[r.Name] = w.outcome(r, r.Name)
		}
	}
	return made
}

func (w *Workload) outcome(r topology.Role, path string) outcome {
	if r.Kind == topology.KindSink {
		return outcome{path: path, leaf: hash(path)}
	}
	var next []outcome
	for _, e := range w.pipeline.Graph.Out(r.Name) {
		if e.Port != "" {
			continue // nothing of this load leaves by a port
		}
		for _, to := range w.pipeline.Roles {
			if to.Name == e.To {
				next = append(next, w.outcome(to, path+">"+to.Name))
			}
		}
	}
	if r.Send == topology.SendSplit {
		return outcome{one: next}
	}
	return outcome{all: next}
}

// missing returns a leaf that must be among got and is not; "": none.
func (o *outcome) missing(got []uint64) string {
	switch {
	case o.leaf != 0:
		for _, leaf := range got {
			if leaf == o.leaf {
				return ""
			}
		}
		return o.path
	case o.one != nil:
		for i := range o.one {
			if o.one[i].missing(got) == "" {
				return ""
			}
		}
		return o.one[0].missing(got)
	}
	for i := range o.all {
		if m := o.all[i].missing(got); m != "" {
			return m
		}
	}
	return ""
}

// has reports whether a leaf may come of it at all.
func (o *outcome) has(leaf uint64) bool {
	if o.leaf != 0 {
		return o.leaf == leaf
	}
	for _, next := range [][]outcome{o.all, o.one} {
		for i := range next {
			if next[i].has(leaf) {
				return true
			}
		}
	}
	return false
}
