package sim

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/node"
	"weir/node/api"
	"weir/stream"
	"weir/topology"
)

// lab is real nodes on a simulated network, in virtual time, whose pipeline changes.
type lab struct {
	t       *testing.T
	net     *network
	first   topology.Pipeline
	secret  []byte
	seeds   []string
	group   sync.WaitGroup
	carrier sync.WaitGroup
	cancel  context.CancelFunc // of the network
	nodes   map[string]*labNode
	disks   string     // where nodes have data dirs; "" = they have none
	bug     stream.Bug // "" = none
}

type labNode struct {
	*node.Node
	port *port
	stop context.CancelCauseFunc
	done chan error // its end
}

// inLab runs f in a bubble with an empty lab, and ends what is left in it.
func inLab(t *testing.T, graph string, f func(l *lab)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		l := &lab{t: t, net: newNetwork(1), secret: make([]byte, 32), cancel: cancel, nodes: make(map[string]*labNode)}
		l.first = l.pipeline(graph)
		l.net.impose(delayFault{lanDelay, lanJitter}, scope{})
		l.carrier.Go(func() { _ = l.net.run(ctx) })
		defer func() { // also where f gives up
			for _, n := range l.nodes {
				n.stop(node.ErrKilled)
			}
			l.group.Wait()
			cancel()
			l.carrier.Wait()
			time.Sleep(lingerMax)
		}()
		f(l)
	})
}

// pipeline is p with that graph: tap and sink by name, all others handlers.
func (l *lab) pipeline(graph string) topology.Pipeline {
	l.t.Helper()
	g, err := topology.Parse(graph)
	if err != nil {
		l.t.Fatal(err)
	}
	p := topology.Pipeline{Name: "p", Graph: g}
	kinds := map[string]topology.Kind{"tap": topology.KindTap, "sink": topology.KindSink, "log": topology.KindSink}
	for _, name := range []string{"a", "b", "c", "log", "sink", "tap"} { // sorted
		if len(g.In(name))+len(g.Out(name)) > 0 {
			kind := kinds[name]
			if kind == "" {
				kind = topology.KindGo
			}
			p.Roles = append(p.Roles, topology.Role{Name: name, Kind: kind})
		}
	}
	return p
}

// start starts a node; the first makes the cluster.
func (l *lab) start(id string, roles ...node.Role) *labNode {
	l.t.Helper()
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(len(l.seeds) + 1)}), simPort)
	n := &labNode{port: l.net.listen(id, addr), done: make(chan error, 1)}
	cfg := node.Config{ID: topology.NodeID(id), Secret: l.secret, Join: l.seeds, Roles: roles, Pipelines: []topology.Pipeline{l.first}, Conn: n.port}
	if os.Getenv("WEIR_TEST_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if l.disks != "" {
		cfg.DataDir = filepath.Join(l.disks, id)
		cfg.Hooks = NewHistory().hooks(cfg.ID, l.bug)
		cfg.Hooks.Letter = func(stream.Letter) {}
	}
	var err error
	if n.Node, err = node.New(cfg); err != nil {
		l.t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(context.Background())
	n.stop = stop
	l.group.Go(func() { n.done <- n.Run(ctx) })
	l.nodes[id] = n
	l.seeds = append(l.seeds, addr.String())
	return n
}

// shared makes the pipeline's tap one that all its nodes see; takeover as topology.Role has it.
func (l *lab) shared(takeover time.Duration) {
	for i := range l.first.Roles {
		if r := &l.first.Roles[i]; r.Kind == topology.KindTap {
			r.Shared, r.Takeover = true, takeover
		}
	}
}

// kill ends a node without a word to anyone, and waits until its disk is free.
func (l *lab) kill(id string) {
	l.nodes[id].port.crash()
	l.nodes[id].stop(node.ErrKilled)
	<-l.nodes[id].done
	delete(l.nodes, id)
}

// until asks a node for the status until f holds, a minute at most.
func (l *lab) until(at, what string, f func(api.Status) bool) api.Status {
	l.t.Helper()
	for range 600 {
		st, err := l.nodes[at].Status(context.Background())
		if err == nil && f(st) {
			return st
		}
		time.Sleep(100 * time.Millisecond)
	}
	st, err := l.nodes[at].Status(context.Background())
	l.t.Fatalf("it did not come: %s\n%+v, %v", what, st, err)
	panic("not reached")
}

// apply changes the pipeline's graph through a node, and waits until n1 has seen it.
func (l *lab) apply(at, graph string) {
	l.t.Helper()
	st, err := l.nodes[at].Status(context.Background())
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.nodes[at].Apply(context.Background(), api.Revision{Pipeline: l.pipeline(graph), Version: st.Pipelines[0].Version}); err != nil {
		l.t.Fatal(err)
	}
	l.until("n1", "the new version", func(now api.Status) bool { return now.Pipelines[0].Version > st.Pipelines[0].Version })
}

func settled(st api.Status) bool { return len(st.Pipelines[0].Ending) == 0 }

// counted is a tap of numbers, one a millisecond, until it has read n.
type counted struct{ n int }

func (c counted) Partitions(context.Context) ([]string, error) { return []string{"numbers"}, nil }
func (c counted) Open(context.Context, string, stream.Mark) (stream.Reader, error) {
	return &countedReader{n: c.n}, nil
}

type countedReader struct{ n, at int }

func (r *countedReader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	if r.at == r.n {
		return stream.Out{}, nil, io.EOF
	}
	if r.at%10 == 0 {
		if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return stream.Out{}, nil, err
		}
	}
	r.at++
	return stream.Out{Body: fmt.Append(nil, r.at-1)}, stream.Mark(fmt.Append(nil, r.at)), nil
}

func (r *countedReader) Done(stream.Mark, error) {}
func (r *countedReader) Close() error            { return nil }

// via is a handler that takes its time and adds its name to a record.
func via(name string) stream.Handler {
	return stream.Each(func(ctx context.Context, r stream.Record, e stream.Emitter) error {
		if err := sleep(ctx, 2*time.Millisecond); err != nil {
			return err
		}
		return e.Emit(ctx, stream.Out{Body: append(append([]byte(nil), r.Body...), name...)})
	})
}

// arrivals is a sink that counts what came, by number and by the way that it came.
type arrivals struct {
	mu    sync.Mutex
	ways  map[string]map[string]int // by number, by way
	times map[string]int            // by way

	closed bool
}

func newArrivals() *arrivals {
	return &arrivals{ways: make(map[string]map[string]int), times: make(map[string]int)}
}

func (s *arrivals) Load(context.Context, uint64) ([]byte, error) { return nil, nil }
func (s *arrivals) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *arrivals) Write(_ context.Context, rs []stream.Record, _ stream.Seen) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rs {
		body := string(r.Body)
		i := strings.IndexFunc(body+"-", func(c rune) bool { return c < '0' || c > '9' })
		if s.ways[body[:i]] == nil {
			s.ways[body[:i]] = make(map[string]int)
		}
		s.ways[body[:i]][body[i:]]++
		s.times[body[i:]]++
	}
	return nil
}

func (s *arrivals) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *arrivals) by(way string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.times[way]
}

// check fails unless every number came, twice by one way only where that is allowed.
func (s *arrivals) check(t *testing.T, n int, twice bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ways) != n {
		t.Errorf("%d of %d records came", len(s.ways), n)
	}
	for number, ways := range s.ways {
		for way, times := range ways {
			if times > 1 && !twice {
				t.Errorf("record %s came %d times by %q", number, times, way)
			}
		}
	}
}

func finished(st api.Status) bool {
	return len(st.Pipelines) == 1 && st.Pipelines[0].State == "finished"
}

// long skips a test of many runs, or a long one, where time is short, as under the race detector: it takes ten
// times as long.
func long(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
}
