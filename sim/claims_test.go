package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/node"
	"weir/node/api"
	"weir/stream"
	"weir/topology"
)

// pool is partitions of so many numbers each, one a millisecond, that several taps read.
type pool struct {
	partitions []string
	each       int
	shared     bool
	once       bool // it cannot be read again
	reset      bool // what was read before is not there any more

	mu     sync.Mutex
	read   map[string]int // by tap
	opened []uint64       // where each reading began
}

// tap is one of them.
func (p *pool) tap(name string) node.Role {
	return node.Role{Name: "tap", Tap: &poolTap{p, name}}
}

func (p *pool) readBy(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.read[name]
}

type poolTap struct {
	*pool
	name string
}

func (t *poolTap) Shared() bool     { return t.shared }
func (t *poolTap) Replayable() bool { return !t.once }

func (t *poolTap) Partitions(context.Context) ([]string, error) { return t.partitions, nil }

func (t *poolTap) Open(_ context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &poolReader{poolTap: t}
	for i, p := range t.partitions {
		if p == partition {
			r.first = i * t.each
		}
	}
	if len(at) > 0 {
		if t.reset {
			return nil, fmt.Errorf("the pool was emptied: %w", stream.ErrReset)
		}
		r.next = int(binary.BigEndian.Uint64(at))
	}
	t.opened = append(t.opened, uint64(r.next))
	return r, nil
}

type poolReader struct {
	*poolTap
	first, next int
}

func (r *poolReader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	if r.next == r.each {
		return stream.Out{}, nil, io.EOF
	}
	if r.next%10 == 0 {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return stream.Out{}, nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.read == nil {
		r.read = make(map[string]int)
	}
	r.read[r.name]++
	r.next++
	return stream.Out{Body: fmt.Append(nil, r.first+r.next-1)}, binary.BigEndian.AppendUint64(nil, uint64(r.next)), nil
}

func (r *poolReader) Done(stream.Mark, error) {}
func (r *poolReader) Close() error            { return nil }

// readers is who reads how many partitions that are not done.
func readers(st api.Status) map[string]int {
	by := make(map[string]int)
	if len(st.Pipelines) == 0 {
		return by
	}
	for _, tap := range st.Pipelines[0].Taps {
		if !tap.Done {
			by[tap.Node]++
		}
	}
	return by
}

// marksKnown is when the log has what a tap knows, which tells its status first: marks go there once a second.
const marksKnown = 2 * time.Second

// A tap whose node is killed and starts again goes on from its mark, in the same numbering: what was
// un-acked comes again, and the sink drops it.
func TestKilledTapGoesOn(t *testing.T) {
	long(t)
	inLab(t, "tap -> a -> sink", func(l *lab) {
		l.disks = t.TempDir()
		const n = 15_000
		sink, numbers := newArrivals(), &pool{partitions: []string{"x", "y"}, each: n}
		l.start("n1")
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		for kills := range 4 {
			l.start("t1", numbers.tap("t1"))
			l.until("n1", "more records", func(api.Status) bool { return sink.by("a") > 5500*(kills+1) })
			if kills < 3 {
				l.kill("t1")
			}
		}
		l.until("n1", "finished", finished)
		sink.check(t, 2*n, false)
		t.Logf("opened at %v", numbers.opened)
		if again, most := numbers.readBy("t1")-2*n, 3*2*200; again < 0 || again > most { // a1 knows more than the log
			t.Errorf("%d records were read again, want some and at most %d; opened at %v", again, most, numbers.opened)
		}
		if len(numbers.opened) != 8 {
			t.Errorf("opened at %v, want 8 times", numbers.opened)
		}
		time.Sleep(marksKnown)
		l.kill("t1")
		l.start("t1", numbers.tap("t1"))
		time.Sleep(5 * time.Second)
		if len(numbers.opened) != 8 {
			t.Errorf("what was done is read again: opened at %v", numbers.opened)
		}
	})
}

// What only its node sees is read by each node of the role, and a run ends when all have.
func TestTapsOfTheirOwn(t *testing.T) {
	inLab(t, "tap -> a -> sink", func(l *lab) {
		l.disks = t.TempDir()
		sink := newArrivals()
		l.start("n1")
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.start("t1", (&pool{partitions: []string{"x"}, each: 1000}).tap("t1"))
		l.start("t2", (&pool{partitions: []string{"x"}, each: 3000}).tap("t2"))
		l.until("n1", "the first has ended", func(st api.Status) bool { return sink.by("a") > 2000 && len(readers(st)) == 1 })
		l.kill("t2")
		st := l.until("n1", "what waits for a node that is gone", func(st api.Status) bool { return st.Pipelines[0].Reason != "" })
		if p := st.Pipelines[0]; p.State != "waiting" || !strings.Contains(p.Reason, "t2") {
			t.Errorf("%s: %s", p.State, p.Reason)
		}
		l.start("t2", (&pool{partitions: []string{"x"}, each: 3000}).tap("t2"))
		l.until("n1", "finished", finished)
		if n := sink.by("a"); n != 4000 {
			t.Errorf("%d records came, want 1000 and 3000", n)
		}
	})
}

// What is not there any more is read from its start as another generation: no sink takes that for
// what it had.
func TestTapBeginsAgain(t *testing.T) {
	for _, bug := range []stream.Bug{"", node.BugEpochGen} {
		t.Run(string(bug), func(t *testing.T) {
			inLab(t, "tap -> a -> sink", func(l *lab) {
				l.disks, l.bug = t.TempDir(), bug
				const n = 5000
				sink, numbers := newArrivals(), &pool{partitions: []string{"x"}, each: n}
				l.start("n1")
				l.start("s1", node.Role{Name: "sink", Sink: sink})
				l.start("a1", node.Role{Name: "a", Handler: via("a")})
				l.start("t1", numbers.tap("t1"))
				l.until("n1", "records", func(api.Status) bool { return sink.by("a") > 2500 })
				l.kill("t1")
				numbers.reset = true
				time.Sleep(time.Second) // all that is in flight arrives
				before := sink.by("a")
				l.start("t1", numbers.tap("t1"))
				l.until("n1", "finished", finished)
				if came := sink.by("a") - before; (came == n) != (bug == "") {
					t.Errorf("of %d records that are there now %d came, bug %q", n, came, bug)
				}
			})
		})
	}
}

// silent is a sink that knows after a restart what it has, and acks nothing while it hangs: so it knows
// more than any mark.
type silent struct {
	*arrivals
	hangs bool

	kept map[uint64][]byte // by source: what goes with its records
}

func (s *silent) Load(_ context.Context, source uint64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[source], nil
}

func (s *silent) Write(ctx context.Context, rs []stream.Record, seen stream.Seen) error {
	if err := s.arrivals.Write(ctx, rs, seen); err != nil {
		return err
	}
	s.mu.Lock()
	if seen.Whole {
		s.kept[seen.Source] = nil
	}
	s.kept[seen.Source] = append(s.kept[seen.Source], seen.Bytes...)
	hangs := s.hangs
	s.mu.Unlock()
	if hangs {
		<-ctx.Done()
	}
	return nil
}

// All nodes die before any mark is in the log, and a sink has records on its disk. If the input is the same,
// none of them comes twice; if another has its place, all of it comes.
func TestNewInputBeforeTheFirstMark(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		t.Run(fmt.Sprint("replaced ", replaced), func(t *testing.T) {
			inLab(t, "tap -> a -> sink", func(l *lab) {
				l.disks = t.TempDir()
				const n = 500
				sink, numbers := &silent{newArrivals(), true, make(map[uint64][]byte)}, &pool{partitions: []string{"x"}, each: n}
				start := func() {
					l.start("s1", node.Role{Name: "sink", Sink: sink})
					l.start("a1", node.Role{Name: "a", Handler: via("a")})
					l.start("t1", numbers.tap("t1"))
				}
				l.start("n1")
				start()
				l.until("n1", "a record", func(api.Status) bool { return sink.by("a") > 0 })
				for _, id := range []string{"t1", "a1", "s1"} {
					l.kill(id)
				}
				before := sink.by("a")
				sink.mu.Lock()
				sink.hangs, numbers.reset = false, replaced
				sink.mu.Unlock()
				start()
				l.until("n1", "finished", finished)
				want := n - before
				if replaced {
					want = n
				}
				if came := sink.by("a") - before; came != want {
					t.Errorf("%d records came after %d, want %d; opened at %v", came, before, want, numbers.opened)
				}
			})
		})
	}
}

// What cannot be read again begins anew with its node, and the log knows nothing of it.
func TestTapThatReadsOnce(t *testing.T) {
	inLab(t, "tap -> a -> sink", func(l *lab) {
		l.disks = t.TempDir()
		sink, numbers := newArrivals(), &pool{partitions: []string{"x"}, each: 2000, once: true}
		l.start("n1")
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.start("t1", numbers.tap("t1"))
		l.until("n1", "records", func(api.Status) bool { return sink.by("a") > 1500 })
		l.kill("t1")
		l.start("t1", numbers.tap("t1"))
		st := l.until("n1", "finished", finished)
		sink.check(t, 2000, true)
		if at := numbers.opened; len(at) != 2 || at[1] != 0 || st.Pipelines[0].Taps[0].Claim != 0 {
			t.Errorf("opened at %v, status %+v", at, st.Pipelines[0].Taps)
		}
	})
}

// Shared partitions are spread over the nodes of the role. They go to others at once when a node
// leaves, and after the takeover when it dies.
func TestSharedTap(t *testing.T) {
	long(t)
	inLab(t, "tap -> a -> sink", func(l *lab) {
		l.shared(0)
		const n = 30_000
		sink, numbers := newArrivals(), &pool{partitions: []string{"w", "x", "y", "z"}, each: n, shared: true}
		l.start("n1")
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.start("t1", numbers.tap("t1"))
		l.until("n1", "all with the only one", func(st api.Status) bool { return readers(st)["t1"] == 4 && sink.by("a") > 0 })
		l.start("t2", numbers.tap("t2"))
		l.until("n1", "half with the second", func(st api.Status) bool { return readers(st)["t1"] == 2 && readers(st)["t2"] == 2 })
		l.until("n1", "records of both", func(api.Status) bool { return numbers.readBy("t2") > 1000 })

		left := time.Now()
		l.nodes["t1"].stop(nil) // it drains
		l.until("n1", "all with the second", func(st api.Status) bool { return readers(st)["t2"] == 4 })
		if took := time.Since(left); took > 3*time.Second {
			t.Errorf("partitions of a node that left were given out after %v", took)
		}
		<-l.nodes["t1"].done
		delete(l.nodes, "t1")

		l.start("t3", numbers.tap("t3"))
		l.until("n1", "half with the third", func(st api.Status) bool { return readers(st)["t3"] == 2 })
		l.until("n1", "its records", func(api.Status) bool { return numbers.readBy("t3") > 1000 })
		died := time.Now()
		l.kill("t3")
		l.until("n1", "all with the second again", func(st api.Status) bool { return readers(st)["t2"] == 4 })
		if took := time.Since(died); took < 10*time.Second || took > 16*time.Second {
			t.Errorf("partitions of a node that died were given out after %v, want 10 s and what it takes to miss it", took)
		}
		l.until("n1", "finished", finished)
		sink.check(t, 4*n, false)
	})
}

// sized is a tap whose partitions follow from what its node sees of the pool.
type sized struct {
	*poolTap
	sees []string
}

func (t sized) Partitions(context.Context) ([]string, error) { return t.sees, nil }
func (t sized) Keep(known []string) []string                 { return known }

// Where nodes see a shared tap in different parts, those that one said first stand.
func TestPartitionsThatTheFirstNamed(t *testing.T) {
	inLab(t, "tap -> a -> sink", func(l *lab) {
		l.shared(0)
		const n = 2000
		sink, numbers := newArrivals(), &pool{partitions: []string{"w", "x", "y", "z"}, each: n, shared: true}
		l.start("n1")
		l.start("s1", node.Role{Name: "sink", Sink: sink})
		l.start("a1", node.Role{Name: "a", Handler: via("a")})
		l.start("t1", node.Role{Name: "tap", Tap: sized{&poolTap{numbers, "t1"}, []string{"w", "x"}}})
		l.start("t2", node.Role{Name: "tap", Tap: sized{&poolTap{numbers, "t2"}, []string{"y", "z"}}})
		st := l.until("n1", "finished", finished)
		sink.check(t, 2*n, false)
		if taps := st.Pipelines[0].Taps; len(taps) != 2 {
			t.Errorf("partitions %+v, want two", taps)
		}
	})
}

// Without a leader a node stops reading what another could have by then, and nothing else.
func TestLease(t *testing.T) {
	long(t)
	for _, tt := range []struct {
		name   string
		taps   []string
		never  bool
		pauses bool
	}{
		{"two nodes", []string{"t1", "t2"}, false, true},
		{"one node", []string{"t1"}, false, false},
		{"takeover: never", []string{"t1", "t2"}, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLab(t, "tap -> a -> sink", func(l *lab) {
				l.shared(0)
				if tt.never {
					l.shared(topology.TakeoverNever)
				}
				sink, numbers := newArrivals(), &pool{partitions: []string{"x", "y"}, each: 100_000, shared: true}
				for _, voter := range []string{"n1", "n2", "n3"} {
					l.start(voter)
				}
				l.until("n1", "three voters", func(st api.Status) bool { return len(st.Voters) == 3 })
				l.start("s1", node.Role{Name: "sink", Sink: sink})
				l.start("a1", node.Role{Name: "a", Handler: via("a")})
				for _, tap := range tt.taps {
					l.start(tap, numbers.tap(tap))
				}
				l.until("n1", "records of all", func(st api.Status) bool {
					return readers(st)["t1"] == 2/len(tt.taps) && numbers.readBy("t1") > 1000
				})
				l.kill("n2")
				l.kill("n3")
				read := func() int { return numbers.readBy("t1") }
				time.Sleep(5 * time.Second)
				at5 := read()
				time.Sleep(3 * time.Second)
				at8 := read()
				time.Sleep(10 * time.Second)
				at18 := read()
				if at8 == at5 {
					t.Error("it did not read for 6 s")
				}
				if pauses := at18 == at8; pauses != tt.pauses {
					t.Errorf("read %d records 8 s after the quorum was lost, %d after 18 s", at8, at18)
				}
			})
		})
	}
}
