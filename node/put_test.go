package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/node/api"
	"weir/stream"
	"weir/topology"
)

// putCluster is one whose tap is put, with two nodes that work and a sink.
func putCluster(t *testing.T) (c *cluster, asked *Node, got *collect) {
	t.Helper()
	c = newCluster(t, "in -> work -> b", map[string]topology.Kind{"in": topology.KindTap, "work": topology.KindGo, "b": topology.KindSink})
	for i := range c.graph.Roles {
		c.graph.Roles[i].Put = c.graph.Roles[i].Name == "in"
	}
	got = newCollect()
	c.add(Role{Name: "b", Sink: got})
	c.add(Role{Name: "work", Handler: picky(new(atomic.Bool))})
	c.add(Role{Name: "work", Handler: picky(new(atomic.Bool))})
	c.until(20*time.Second, "all run", func(st api.Status) bool {
		return len(st.Nodes) == 3 && len(st.Pipelines) == 1 && st.Pipelines[0].State == "running"
	})
	return c, c.nodes[2], got
}

// Many put at once, and more than a node takes are refused; each line of the others arrives once.
func TestPutAtOnce(t *testing.T) {
	const puts, lines = 24, 200
	c, n, got := putCluster(t)
	var refused, arrived atomic.Int64
	var group sync.WaitGroup
	for i := range puts {
		group.Go(func() { // ended by its answers
			var text strings.Builder
			for k := range lines {
				fmt.Fprintf(&text, `{"id":%d}`+"\n", i*lines+k)
			}
			far, err := askFlow[api.Put](t, n, "put", url.Values{"to": {"p"}}, api.Body{Reader: strings.NewReader(text.String())})
			if e, ok := errors.AsType[*api.Error](err); ok && e.Exit == 75 {
				refused.Add(1)
				return
			}
			if last := far[len(far)-1]; err != nil || last.Lines != lines || last.ReadL != lines || last.Letters != 0 {
				t.Errorf("put %d: %+v, %v", i, last, err)
			}
			arrived.Add(lines)
		})
	}
	group.Wait()
	bodies := got.copy()
	if len(bodies) != int(arrived.Load()) || refused.Load() > puts-injectionsMax {
		t.Errorf("%d lines arrived, want %d; %d puts were refused", len(bodies), arrived.Load(), refused.Load())
	}
	for body, times := range bodies {
		if times != 1 {
			t.Errorf("%s came %d times", body, times)
		}
	}
	st := c.until(5*time.Second, "status counts them", func(st api.Status) bool { return st.Pipelines[0].LinesIn == uint64(arrived.Load()) })
	if p := st.Pipelines[0]; p.State != "running" {
		t.Errorf("the pipeline is %s", p.State)
	}
	if n.injections.busy() {
		t.Error("an injection still runs")
	}
}

// A node that leaves reads no more of what is put by it, and says so; what it read arrives.
func TestPutOfNodeThatLeaves(t *testing.T) {
	_, n, got := putCluster(t)
	body, feed := io.Pipe()
	begun := make(chan struct{})
	go func() { // ended by the body's end
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(feed, `{"id":%d}`+"\n", i); err != nil {
				return
			}
			if i == 100 {
				close(begun)
			}
		}
	}()
	answered := make(chan error)
	var last api.Put
	go func() { // ended by the node's leave
		in, err := askFlow[api.Put](t, n, "put", url.Values{"to": {"p/in"}}, api.Body{Reader: body})
		last = in[len(in)-1]
		answered <- err
	}()
	<-begun
	n.beginDrain()
	err := <-answered
	body.Close()
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Exit != 75 || !strings.Contains(e.Text, "this node leaves") {
		t.Errorf("the node left: %v", err)
	}
	if n := len(got.copy()); last.Lines != last.ReadL || uint64(n) != last.Lines || n < 100 {
		t.Errorf("%d arrived, the answer was %+v", n, last)
	}
	if _, err := askFlow[api.Put](t, n, "put", url.Values{"to": {"p"}}, api.Body{Reader: strings.NewReader("x\n")}); err == nil {
		t.Error("a node that left took another put")
	}
}

// stuckSink takes nothing.
type stuckSink struct{ *collect }

func (stuckSink) Write(ctx context.Context, _ []stream.Record, _ stream.Seen) error {
	<-ctx.Done()
	return ctx.Err()
}

// Who puts and goes before all is acked leaves no memory taken.
func TestPutGivenUp(t *testing.T) {
	c := newCluster(t, "in -> b", map[string]topology.Kind{"in": topology.KindTap, "b": topology.KindSink})
	for i := range c.graph.Roles {
		c.graph.Roles[i].Put = c.graph.Roles[i].Name == "in"
	}
	n, _ := c.add(Role{Name: "b", Sink: stuckSink{newCollect()}})
	c.until(20*time.Second, "it runs", func(st api.Status) bool { return len(st.Pipelines) == 1 && st.Pipelines[0].State == "running" })
	gone := errors.New("nobody waits")
	held := int64(0)
	body := api.Body{Reader: strings.NewReader(strings.Repeat("a line\n", 1000))}
	err := n.put(t.Context(), url.Values{"to": {"p"}}, body, func(v any) error {
		if v.(api.Put).Read == 1000 {
			held = n.budget.Held()
			return gone
		}
		return nil
	})
	if !errors.Is(err, gone) || held == 0 || n.budget.Held() != 0 {
		t.Errorf("%v: %d bytes were held, and still are %d", err, held, n.budget.Held())
	}
}
