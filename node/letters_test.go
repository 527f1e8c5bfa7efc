package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/node/api"
	"weir/node/dead"
	"weir/stream"
	"weir/topology"
)

// picky is a handler that gives up every seventh record as long as it is ill.
func picky(ill *atomic.Bool) stream.Handler {
	return stream.Each(func(ctx context.Context, r stream.Record, e stream.Emitter) error {
		var v struct{ ID int }
		if err := json.Unmarshal(r.Body, &v); err != nil || ill.Load() && v.ID%7 == 0 {
			return stream.Poison(fmt.Errorf("no sevens, as %s", r.Body))
		}
		return e.Emit(ctx, stream.Out{Body: r.Body, Header: r.Header})
	})
}

func letterKeeping(c *Config) { c.DeadLetters = true }

// askFlow asks a node for a flow as the API does, and returns its answers.
func askFlow[Out any](t *testing.T, n *Node, name string, q url.Values, body api.Body) (answers []Out, err error) {
	t.Helper()
	err = n.flows()[name](t.Context(), q, body, func(v any) error {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		var out Out
		answers = append(answers, out)
		return json.Unmarshal(b, &answers[len(answers)-1])
	})
	return answers, err
}

// A record that a role cannot handle becomes a letter on the node that has a data dir, the others go
// on, and the run finishes. Whoever is asked finds it, replays it when the role is well, and it
// arrives once.
func TestDeadLetters(t *testing.T) {
	const records = 100
	c := newCluster(t, "a -> work -> b", map[string]topology.Kind{"a": topology.KindTap, "work": topology.KindGo, "b": topology.KindSink})
	got := &collect{bodies: make(map[string]int)}
	ill := new(atomic.Bool)
	ill.Store(true)
	a, _ := c.add(Role{Name: "a", Tap: numbered{records}}, letterKeeping)
	c.add(Role{Name: "work", Handler: picky(ill)}, letterKeeping)
	c.add(Role{Name: "b", Sink: got}, letterKeeping, func(cfg *Config) { cfg.DataDir = t.TempDir() })
	c.until(20*time.Second, "the run is finished", finished)

	list, err := a.DeadList(t.Context(), api.Pick{Name: "p/work"})
	if err != nil || len(list.Letters) != 15 || list.More != 0 || list.Silent != nil {
		t.Fatalf("%d letters, %d more, silent %v, %v", len(list.Letters), list.More, list.Silent, err)
	}
	if len(got.copy()) != records-15 {
		t.Errorf("%d records arrived, want %d", len(got.copy()), records-15)
	}
	first := list.Letters[0]
	shown, err := a.DeadShow(t.Context(), api.Pick{IDs: []string{first.ID[:12]}})
	if err != nil || !strings.Contains(string(shown.Body), `"id":`) || !strings.HasPrefix(shown.Reason, "no sevens") || shown.Attempts != 1 || shown.From != "a" {
		t.Errorf("shown %+v, %v", shown, err)
	}
	for _, tt := range []struct {
		ids  []string
		exit int
		text string
	}{
		{[]string{"xyz"}, 2, "cannot begin the id"},
		{[]string{"0123456789abcdef"}, 2, "there is no dead letter"},
		{nil, 2, "name 1 to"},
	} {
		_, err := a.DeadShow(t.Context(), api.Pick{IDs: tt.ids})
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Exit != tt.exit || !strings.Contains(e.Text, tt.text) {
			t.Errorf("show %v: %v", tt.ids, err)
		}
	}
	if _, err := a.DeadList(t.Context(), api.Pick{Name: "p/wrok"}); err == nil || !strings.Contains(err.Error(), "did you mean p/work?") {
		t.Errorf("list of no role: %v", err)
	}

	// Replayed while the role is ill it is another letter.
	far, err := askFlow[api.Replayed](t, a, "dead/replay", url.Values{"id": {first.ID}}, api.Body{})
	if last := far[len(far)-1]; err != nil || last.Letters != 1 || last.Again != 1 || last.Of != 1 {
		t.Errorf("replayed ill: %+v, %v", last, err)
	}
	if _, err := a.DeadShow(t.Context(), api.Pick{IDs: []string{first.ID}}); err == nil {
		t.Error("the letter that was replayed is still there")
	}
	list, _ = a.DeadList(t.Context(), api.Pick{})
	again := slices.IndexFunc(list.Letters, func(l dead.Letter) bool { return l.Header["weir-dead-id"] == first.ID })
	if len(list.Letters) != 15 || again < 0 {
		t.Errorf("%d letters after it failed again, its own %d", len(list.Letters), again)
	}
	if d, err := a.DeadDrop(t.Context(), api.Pick{IDs: []string{list.Letters[again].ID}}); d.Letters != 1 || err != nil {
		t.Errorf("dropped %+v, %v", d, err)
	}
	ill.Store(false)
	far, err = askFlow[api.Replayed](t, a, "dead/replay", url.Values{"name": {"p"}}, api.Body{})
	if last := far[len(far)-1]; err != nil || last.Letters != 14 || last.Again != 0 || last.Of != 14 {
		t.Errorf("replayed: %+v, %v", last, err)
	}
	if len(got.copy()) != records-1 {
		t.Errorf("%d records arrived, want all but the dropped of %d", len(got.copy()), records)
	}
	if list, err = a.DeadList(t.Context(), api.Pick{}); len(list.Letters) != 0 || err != nil {
		t.Errorf("%d letters are left, %v", len(list.Letters), err)
	}
}

func (c *collect) copy() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.bodies)
}

// Where no node has a data dir a letter waits, and status says so; it is kept as soon as one has.
func TestDeadLettersWait(t *testing.T) {
	c := newCluster(t, "a -> work -> b", map[string]topology.Kind{"a": topology.KindTap, "work": topology.KindGo, "b": topology.KindSink})
	ill := new(atomic.Bool)
	ill.Store(true)
	got := newCollect()
	a, _ := c.add(Role{Name: "a", Tap: numbered{7}}, letterKeeping)
	c.add(Role{Name: "work", Handler: picky(ill)}, letterKeeping)
	c.add(Role{Name: "b", Sink: got}, letterKeeping)
	st := c.until(20*time.Second, "a letter waits", func(st api.Status) bool {
		return len(st.Pipelines) == 1 && strings.Contains(st.Pipelines[0].Reason, "dead letters wait: no node has a data dir")
	})
	if p := st.Pipelines[0]; p.State != "waiting" {
		t.Errorf("the pipeline is %s", p.State)
	}
	c.until(10*time.Second, "the others arrive", func(api.Status) bool { return len(got.copy()) == 6 })
	keeper, stop := c.add(Role{Name: "idle", Handler: picky(ill)}, letterKeeping, func(cfg *Config) { cfg.DataDir = t.TempDir() })
	st = c.until(20*time.Second, "the run is finished", finished)
	if diff := cmp.Diff([]api.DeadLetters{{Role: "work", Letters: 1}}, st.Pipelines[0].Dead); diff != "" {
		t.Error(diff)
	}
	list, err := a.DeadList(t.Context(), api.Pick{})
	if err != nil || len(list.Letters) != 1 || list.Letters[0].Keeper != string(keeper.ID()) {
		t.Errorf("kept: %+v, %v", list, err)
	}
	stop() // the only one that keeps letters
	if _, err := a.DeadShow(t.Context(), api.Pick{IDs: []string{list.Letters[0].ID}}); err == nil {
		t.Error("a letter was shown whose keeper has left")
	}
}

// slow is a handler that takes no record before it may.
type slow struct{ may chan struct{} }

func (h slow) Handle(ctx context.Context, b *stream.Batch) error {
	select {
	case <-h.may:
	case <-ctx.Done():
		return ctx.Err()
	}
	for i, r := range b.Records {
		if err := b.To(i).Emit(ctx, stream.Out{Body: r.Body}); err != nil {
			return err
		}
	}
	return nil
}

// What is being replayed is not dropped and not replayed by another; who stops waiting leaves the
// letter where it was.
func TestReplayIsAlone(t *testing.T) {
	c := newCluster(t, "a -> work -> b", map[string]topology.Kind{"a": topology.KindTap, "work": topology.KindGo, "b": topology.KindSink})
	h := slow{make(chan struct{})}
	got := newCollect()
	n, _ := c.add(Role{Name: "work", Handler: h}, letterKeeping, func(cfg *Config) { cfg.DataDir = t.TempDir() })
	c.add(Role{Name: "b", Sink: got})
	c.add(Role{Name: "a", Tap: numbered{0}})
	c.until(20*time.Second, "all run", finished)
	id, err := n.letters.store.Put(dead.Letter{Pipeline: "p", Role: "work", Record: "r"}, dead.Content{Body: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, giveUp := context.WithCancel(t.Context())
	replayed := make(chan error)
	go func() { // ended by giveUp
		replayed <- n.flows()["dead/replay"](ctx, url.Values{"id": {id}}, api.Body{}, func(any) error { return nil })
	}()
	c.until(10*time.Second, "the record is under way", func(api.Status) bool { return n.injections.busy() })
	if d, err := n.DeadDrop(t.Context(), api.Pick{IDs: []string{id}}); d.Letters != 0 || d.Busy != 1 || err != nil {
		t.Errorf("dropped while it is replayed: %+v, %v", d, err)
	}
	far, err := askFlow[api.Replayed](t, n, "dead/replay", url.Values{"id": {id}}, api.Body{})
	if last := far[len(far)-1]; last.Letters != 0 || last.Of != 1 || len(last.Notes) != 1 || err != nil {
		t.Errorf("replayed twice at once: %+v, %v", last, err)
	}
	giveUp()
	<-replayed
	c.until(10*time.Second, "the replay has ended", func(api.Status) bool {
		n.letters.mu.Lock()
		defer n.letters.mu.Unlock()
		return len(n.letters.replaying) == 0
	})
	if list, _ := n.DeadList(t.Context(), api.Pick{}); len(list.Letters) != 1 {
		t.Errorf("%d letters after a replay that was given up", len(list.Letters))
	}
	close(h.may)
	far, err = askFlow[api.Replayed](t, n, "dead/replay", url.Values{"id": {id}}, api.Body{})
	if last := far[len(far)-1]; last.Letters != 1 || err != nil || got.copy()["x"] == 0 {
		t.Errorf("replayed: %+v, %v, arrived %v", last, err, got.copy())
	}
}
