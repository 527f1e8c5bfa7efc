package node

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/node/api"
	"weir/stream/mux"
	"weir/topology"
)

// One node asks another: what it knows, what it does not, and what is longer than any answer.
func TestAsk(t *testing.T) {
	c := newCluster(t, "a -> b", map[string]topology.Kind{"a": topology.KindTap, "b": topology.KindSink})
	a, _ := c.add(Role{Name: "a", Tap: numbered{1}})
	b, _ := c.add(Role{Name: "b", Sink: &collect{bodies: make(map[string]int)}})
	c.until(10*time.Second, "both are there", func(st api.Status) bool { return len(st.Nodes) == 2 && finished(st) })

	r, err := askOne[report](c.ctx, a, b.ID(), "status", struct{}{})
	if err != nil || r.ID != b.ID() {
		t.Errorf("status of %s: %v, %v", b.ID(), r.ID, err)
	}
	_, err = askOne[report](c.ctx, a, b.ID(), "no/such", struct{}{})
	if refused, ok := errors.AsType[*api.Error](err); !ok || !strings.Contains(refused.Text, `knows no call "no/such"`) {
		t.Errorf("an unknown call: %v", err)
	}
	if _, err = askOne[report](c.ctx, a, "nobody", "status", struct{}{}); err == nil {
		t.Error("nobody answered")
	}
	long := strings.Repeat("x", remoteBytesMax)
	if _, err = askOne[report](c.ctx, a, b.ID(), "status", long); err == nil {
		t.Error("a question longer than any was answered")
	}
	outs, silent := askAll[report](c.ctx, a, "status", struct{}{}, 10*time.Second)
	if len(outs) != 2 || len(silent) != 0 || outs[a.ID()].ID != a.ID() {
		t.Errorf("asked all: %d answers, silent %v", len(outs), silent)
	}
	if _, err := askOne[report](c.ctx, a, a.ID(), "status", struct{}{}); err != nil {
		t.Errorf("a node asks itself: %v", err)
	}
}

// More questions at once than a node works on are refused, not queued.
func TestAskTooMuch(t *testing.T) {
	n := &Node{log: slog.New(slog.DiscardHandler)}
	handle := n.handleCalls(map[string]remote{"wait": func(ctx context.Context, _ json.RawMessage, _ func(any) error) error {
		<-ctx.Done()
		return nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{}, remotesMax)
	ask := func() net.Conn {
		ours, theirs := net.Pipe()
		go func() { // ended by cancel
			handle(ctx, mux.Peer{ID: "p"}, theirs)
			theirs.Close()
			done <- struct{}{}
		}()
		if err := json.NewEncoder(ours).Encode(question{Name: "wait"}); err != nil {
			t.Fatal(err)
		}
		return ours
	}
	conns := make([]net.Conn, 0, remotesMax+1)
	for range remotesMax + 1 {
		conns = append(conns, ask())
	}
	var a answer
	i := slices.IndexFunc(conns, func(c net.Conn) bool { // only the one that is refused is answered
		_ = c.SetReadDeadline(time.Now().Add(time.Second / remotesMax))
		return json.NewDecoder(c).Decode(&a) == nil
	})
	if i < 0 || a.Error == nil || a.Error.Exit != 75 {
		t.Errorf("none was refused: %v", a.Error)
	}
	cancel()
	for range remotesMax + 1 {
		<-done
	}
}
