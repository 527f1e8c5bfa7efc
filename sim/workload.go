package sim

import (
	"cmp"
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
	strikes  chan strike // for the director

	mu         sync.Mutex
	partitions map[string]*partition // by name, as they are now
	inputs     uint64                // partitions, ever
	end        time.Time             // nothing that is there later is read; zero: not stopped
	last       time.Time             // when a record was read
}

// newWorkload makes the load of a scenario.
func newWorkload(s *Scenario, seed uint64, h *History) *Workload {
	w := &Workload{
		seed: seed, history: h, stopped: make(chan struct{}), strikes: make(chan strike),
		size: s.Size, memory: uint64(cmp.Or(s.Memory, stream.MemoryDefault)),
		pipeline: topology.Pipeline{Name: pipelineName, Graph: s.Graph},
		roles:    make(map[string]Role), partitions: make(map[string]*partition),
	}
	parts, most := 0, 0
	for _, r := range s.Roles {
		most = max(most, r.Nodes)
		w.roles[r.Name] = r
		w.pipeline.Roles = append(w.pipeline.Roles, topology.Role{Name: r.Name, Kind: r.Kind, Send: r.Send, Needs: r.needs(), Shared: r.Shared, Takeover: r.Takeover})
		parts += r.inputs()
	}
	w.gap = time.Second * time.Duration(max(parts, 1)) / time.Duration(max(s.Rate, 1))
	w.every = time.Second * time.Duration(most*readFor) / time.Duration(max(s.Rate, 1))
	w.every = min(max(w.every.Truncate(readEvery), readEvery), readEveryMax)
	return w
}

// Pipeline is what the nodes are to run.
func (w *Workload) Pipeline() topology.Pipeline { return w.pipeline }

// Role makes a role ready to serve on a node, with the disk of its place. The place, its id without
// the count of starts, names what its tap reads.
func (w *Workload) Role(name string, id topology.NodeID, m *mount) (node.Role, error) {
	r := w.roles[name]
	made := node.Role{Name: name, Capacity: r.Capacity, Attempts: attemptsMax, Deadline: r.Deadline}
	switch r.Kind {
	case topology.KindTap:
		made.Tap = &loadTap{w, id, r}
	case topology.KindSink:
		file, err := openStore(storeOf(name, id), m)
		if err != nil {
			return made, err
		}
		made.Sink = &loadSink{fileSink: file, w: w, id: id, role: r}
	default:
		made.Handler = &loadHandler{w: w, id: id, role: r, emits: len(w.pipeline.Graph.Out(name)) > 0}
	}
	return made, nil
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

const (
	// attemptsMax is how often a record may be tried (stream's own; it is no setting yet).
	attemptsMax = 3
	// takeoverMax is how long a shared partition waits for its node where the role does not say (node's
	// own default).
	takeoverMax = 10 * time.Second
	// edgeSlack is what an edge may have in flight beyond the node's memory, in bytes: a batch.
	edgeSlack = 1 << 20
	// sinkCapacity is how many records a sink works on at once: stream gives it as much credit.
	sinkCapacity = creditMax
)

// Settle is how long after the last fault and the last read all must be acked: longer by what
// quarantine takes, and where records hang until their deadlines or partitions wait for their node.
func (w *Workload) Settle() time.Duration {
	all := settleMax
	for _, r := range w.roles {
		if r.Hangs > 0 {
			all += attemptsMax * r.Deadline
		}
		if r.Kind == topology.KindGo { // what a node that died had in hand is handled one by one
			all += time.Duration(cmp.Or(r.Capacity, stream.CapacityDefault)) * 3 * r.Takes / 2
		}
		if r.Shared {
			all += cmp.Or(r.Takeover, takeoverMax)
		}
	}
	return all
}

// Expect is what the load and the product promise of a run.
func (w *Workload) Expect() Expect {
	x := Expect{Outcomes: w.outcomes(), Ill: func(role string, n uint64, path string) ill { return w.ill(w.roles[role], n, path) },
		Capacity: make(map[string]int), Tagged: make(map[string]int), Live: make(map[string]bool), Attempts: attemptsMax, Once: true, Settle: w.Settle()}
	x.Memory = w.memory + edgeSlack*uint64(len(w.pipeline.Graph.Edges))
	for name, r := range w.roles {
		x.Fails += r.Fails
		x.Tagged[name] = r.Tagged
		switch r.Kind {
		case topology.KindTap:
			x.Live[name] = r.Live
		case topology.KindSink:
			x.Capacity[name] = sinkCapacity
		default:
			x.Capacity[name] = cmp.Or(r.Capacity, stream.CapacityDefault)
		}
	}
	return x
}
