package node

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"weir/node/api"
	"weir/topology"
)

// admitted waits until the log has a node at its address.
func (c *cluster) admitted(n *Node) {
	c.t.Helper()
	c.until(20*time.Second, "the node is admitted", func(api.Status) bool {
		in, ok := c.nodes[0].consensus.State().Node(n.ID())
		return ok && in.Addr == n.Addr()
	})
}

// A copy of a data dir that is started beside its original ends and says so; the original stays.
// One that is restarted at another address is no copy.
func TestCopyOfADataDir(t *testing.T) {
	c := newCluster(t, "in -> out", map[string]topology.Kind{"in": topology.KindTap, "out": topology.KindSink})
	c.add(Role{Name: "in", Tap: numbered{0}})
	dir := filepath.Join(t.TempDir(), "d")
	kept := func(cfg *Config) { cfg.DataDir = dir }
	n, stop := c.add(Role{Name: "out", Sink: newCollect()}, kept)
	c.admitted(n)
	var copied *Node
	for deadline := time.Now().Add(10 * time.Second); copied == nil; time.Sleep(50 * time.Millisecond) { // between two copies
		twin := filepath.Join(t.TempDir(), "twin")
		if err := os.CopyFS(twin, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		again, err := New(Config{Secret: c.secret, Listen: "127.0.0.1:0", Join: []string{c.seed}, DataDir: twin})
		if time.Now().After(deadline) {
			t.Fatalf("its address is not kept: %v", err)
		}
		if err != nil {
			continue // copied in the middle of a write
		}
		if _, knows := again.elsewhere(); knows {
			copied = again
		} else if err := errors.Join(again.conn.Close(), again.dir.close()); err != nil { // it would take the name
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	err := copied.Run(ctx)
	if te, ok := errors.AsType[*TwinError](err); !ok || te.Addr != n.Addr() || !te.Kept || te.ExitCode() != 78 {
		t.Errorf("the copy ended with %v", err)
	}
	c.admitted(n)

	stop()
	moved, _ := c.add(Role{Name: "out", Sink: newCollect()}, kept)
	if moved.ID() != n.ID() || moved.Addr() == n.Addr() || moved.self.Boot != 2 {
		t.Errorf("%s at %s, boot %d, was %s at %s", moved.ID(), moved.Addr(), moved.self.Boot, n.ID(), n.Addr())
	}
	c.admitted(moved)
	time.Sleep(time.Second) // and stays: an end is an error of its Run
}

// A node without a data dir that is given the name of one that left ends and says so: it would
// never be admitted. The same start with a data dir is another boot, and comes back.
func TestNameOfANodeThatLeft(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "in -> out", map[string]topology.Kind{"in": topology.KindTap, "out": topology.KindSink})
	c.add(Role{Name: "in", Tap: numbered{0}})
	named := func(cfg *Config) { cfg.ID = "w1" }
	n, stop := c.add(Role{Name: "out", Sink: newCollect()}, named)
	c.admitted(n)
	stop()
	c.until(20*time.Second, "it has left", func(api.Status) bool { return c.nodes[0].consensus.State().HasLeft("w1", 1) })

	again, err := New(Config{ID: "w1", Secret: c.secret, Listen: "127.0.0.1:0", Join: []string{c.seed}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	err = again.Run(ctx)
	if te, ok := errors.AsType[*TwinError](err); !ok || te.Addr != "" || te.Kept || te.ExitCode() != 78 {
		t.Errorf("it ended with %v", err)
	}

	dir := filepath.Join(t.TempDir(), "d")
	kept := func(cfg *Config) { cfg.ID, cfg.DataDir = "w2", dir }
	for range 2 {
		n, stop := c.add(Role{Name: "out", Sink: newCollect()}, kept)
		c.admitted(n)
		stop()
		c.until(20*time.Second, "it has left", func(api.Status) bool {
			return c.nodes[0].consensus.State().HasLeft("w2", n.self.Boot)
		})
	}
}
