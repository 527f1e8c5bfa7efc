package node

import (
	"context"
	"testing"
	"time"

	"weir/node/api"
	"weir/topology"
)

// A killed node tells nobody: it stays in the roster until its silence is noticed, and its Run
// returns at once with nothing running.
func TestKill(t *testing.T) {
	c := newCluster(t, "tap -> sink", map[string]topology.Kind{"tap": topology.KindTap, "sink": topology.KindSink})
	first, _ := c.add(Role{Name: "sink", Sink: newCollect()})
	dead, err := New(Config{
		Secret: c.secret, Listen: "127.0.0.1:0", Join: []string{c.seed},
		Roles: []Role{{Name: "tap", Tap: numbered{10}}}, Pipelines: first.cfg.Pipelines,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithCancelCause(c.ctx)
	ended := make(chan error, 1)
	go func() { ended <- dead.Run(ctx) }()
	c.until(20*time.Second, "both in the roster", func(api.Status) bool { return len(first.View().Roster) == 2 })
	kill(ErrKilled)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run of the killed: %v", err)
		}
	case <-time.After(leaveTimeout):
		t.Fatal("the killed node did not end")
	}
	if v := first.View(); len(v.Roster) != 2 || !v.Leads || v.Leader != first.ID() {
		t.Errorf("right after the kill: %+v, want both in the roster and the first to lead", v)
	}
}
