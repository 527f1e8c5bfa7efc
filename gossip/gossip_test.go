package gossip

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/topology"
)

func TestMembersJoinAnnounceLeaveAndDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		var nodes []*lanNode
		for i := 1; i <= 5; i++ {
			nodes = append(nodes, l.start(i, nil))
		}
		took := within(t, 5*time.Second, nodes, "all alive", func(ms map[topology.NodeID]Member) bool { return alive(ms) == 5 })
		t.Logf("five nodes know each other after %v", took)
		if m := nodes[4].Members()[0]; m.ID != "n1" || m.Addr != lanAddr(1) || len(m.Roles) != 1 || m.Roles[0] != "role1" || m.Boot != 1 {
			t.Errorf("n5 sees %+v, want n1 as it is", m)
		}

		nodes[1].Announce(7, true, nil)
		within(t, 3*time.Second, nodes, "n2 voter of log 7", func(ms map[topology.NodeID]Member) bool {
			return ms["n2"].Voter && ms["n2"].LogID == 7
		})

		start := time.Now()
		nodes[2].stop()
		if took := time.Since(start); took > 2*leaveWait {
			t.Errorf("leave took %v, want at most %v", took, 2*leaveWait)
		}
		rest := []*lanNode{nodes[0], nodes[1], nodes[3]}
		within(t, 3*time.Second, rest, "n3 left", func(ms map[topology.NodeID]Member) bool { return ms["n3"].State == StateLeft })

		l.sever(true, nodes[4:], nodes[:4])
		took = within(t, 10*time.Second, rest, "n5 dead", func(ms map[topology.NodeID]Member) bool { return ms["n5"].State == StateDead })
		t.Logf("a death is known after %v", took)
		stopAll(l, append(rest, nodes[4]))
	})
}

// memberlist alone never merges the halves again.
func TestHalvesMergeAfterAPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		var nodes []*lanNode
		for i := 1; i <= 6; i++ {
			nodes = append(nodes, l.start(i, func(c *Config) {
				if i > 3 {
					c.Seeds = []string{lanAddr(1)}
				}
			}))
		}
		all := func(ms map[topology.NodeID]Member) bool { return alive(ms) == 6 }
		within(t, 5*time.Second, nodes, "all alive", all)
		l.sever(true, nodes[:3], nodes[3:])
		within(t, 60*time.Second, nodes, "half alive", func(ms map[topology.NodeID]Member) bool { return alive(ms) == 3 })
		time.Sleep(2 * time.Minute) // longer than memberlist gossips to the dead
		l.sever(false, nodes[:3], nodes[3:])
		took := within(t, 20*time.Second, nodes, "all alive again", all)
		t.Logf("merged after %v", took)
		stopAll(l, nodes)
	})
}

// Halves that were apart for longer than a lost member is remembered, and whose seeds are on one
// side: what the log says of the roster brings them together.
func TestHalvesMergeAfterHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		nodes := []*lanNode{l.start(1, nil), l.start(2, nil), l.start(3, nil)}
		all := func(ms map[topology.NodeID]Member) bool { return alive(ms) == 3 }
		within(t, 5*time.Second, nodes, "all alive", all)
		nodes[2].Announce(7, true, []string{lanAddr(1), lanAddr(2), lanAddr(3)})
		l.sever(true, nodes[:2], nodes[2:])
		nodes[0].stop() // the only seed is never heard of again
		time.Sleep(2 * lostKeep)
		if n := len(nodes[2].Members()); n != 1 {
			t.Fatalf("n3 remembers %d members after %v", n, 2*lostKeep)
		}
		l.sever(false, nodes[:2], nodes[2:])
		took := within(t, 20*time.Second, nodes[1:], "both alive again", func(ms map[topology.NodeID]Member) bool { return alive(ms) == 2 })
		t.Logf("merged after %v", took)
		stopAll(l, nodes[1:])
	})
}

// Two clusters of one secret, as two people make who each start a first node.
func TestAnotherLogStaysOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs lockedBuffer
		l := newLAN(t)
		a := l.start(1, func(c *Config) {
			c.Self.LogID = 0xa
			c.Log = slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		b := l.start(2, func(c *Config) { c.Self.LogID = 0xb })
		time.Sleep(20 * time.Second)
		if len(a.Members()) != 1 || len(b.Members()) != 1 {
			t.Errorf("members %v and %v, want one each", a.Members(), b.Members())
		}
		if want := "it belongs to another cluster of the same secret: log b, ours is a"; !strings.Contains(logs.String(), want) {
			t.Errorf("log lacks %q:\n%s", want, logs.String())
		}
		stopAll(l, []*lanNode{a, b})
	})
}

func TestNodeComesBackAtAnotherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN(t)
		a, b := l.start(1, nil), l.start(2, nil)
		within(t, 5*time.Second, []*lanNode{a, b}, "both alive", func(ms map[topology.NodeID]Member) bool { return alive(ms) == 2 })
		l.sever(true, []*lanNode{a}, []*lanNode{b})
		b.stop()
		c := l.start(3, func(c *Config) { c.Self.ID, c.Self.Boot = "n2", 2 })
		took := within(t, time.Second, []*lanNode{a}, "n2 back", func(ms map[topology.NodeID]Member) bool {
			return ms["n2"].State == StateAlive && ms["n2"].Boot == 2 && ms["n2"].Addr == lanAddr(3)
		})
		t.Logf("back after %v", took)
		time.Sleep(time.Minute) // the old start dies
		if m := a.Members()[1]; m.State != StateAlive || m.Boot != 2 {
			t.Errorf("a minute later n2 is %+v", m)
		}
		stopAll(l, []*lanNode{a, c})
	})
}

func TestNewRefuses(t *testing.T) {
	good := Config{
		Self: Member{ID: "n1", Addr: "127.0.0.1:7411"}, Net: &lanPort{}, Secret: make([]byte, secretBytes),
	}
	if _, err := New(good); err != nil {
		t.Fatalf("good config: %v", err)
	}
	for _, tt := range []struct {
		want string
		edit func(*Config)
	}{
		{"Self.ID", func(c *Config) { c.Self.ID = "" }},
		{"Self.ID", func(c *Config) { c.Self.ID = "a/b" }},
		{"Self.ID", func(c *Config) { c.Self.ID = "a@1" }},
		{"Self.Addr", func(c *Config) { c.Self.Addr = "host:7411" }},
		{"Net is missing", func(c *Config) { c.Net = nil }},
		{"Secret has 3 bytes, want 32", func(c *Config) { c.Secret = []byte("abc") }},
		{"1 roles and 0 tags need 614 bytes of gossip, 512 is the most", func(c *Config) { c.Self.Roles = []string{strings.Repeat("r", 598)} }},
	} {
		c := good
		tt.edit(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("New: %v, want an error with %q", err, tt.want)
		}
	}
}

func alive(ms map[topology.NodeID]Member) (n int) {
	for _, m := range ms {
		if m.State == StateAlive {
			n++
		}
	}
	return n
}

func stopAll(l *lan, nodes []*lanNode) {
	var group sync.WaitGroup
	for _, n := range nodes {
		group.Go(n.stop)
	}
	group.Wait()
	time.Sleep(time.Minute) // memberlist's goroutines end with their last timeouts
	l.group.Wait()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A seed's name is looked up at each try, and one that is a living member is not tried by its name.
func TestSeedsByName(t *testing.T) {
	g, err := New(Config{
		Self: Member{ID: "n1", Addr: "127.0.0.1:7411"}, Net: &lanPort{}, Secret: make([]byte, secretBytes),
		Seeds: []string{"localhost:7411", "localhost:7412", "10.0.0.1:7411", "no-such-host.invalid:7411"},
	})
	if err != nil {
		t.Fatal(err)
	}
	seeds := g.lookUp(t.Context())
	for _, want := range []string{"127.0.0.1:7411", "127.0.0.1:7412", "10.0.0.1:7411"} {
		if !slices.Contains(seeds, want) {
			t.Errorf("seeds are %v, want %s among them", seeds, want)
		}
	}
	g.set(Member{ID: "n2", Addr: "127.0.0.1:7412", State: StateAlive})
	_, targets := g.targets([]string{"127.0.0.1:7411", "127.0.0.1:7412", "10.0.0.1:7411"})
	if !slices.Equal(targets, []string{"10.0.0.1:7411"}) {
		t.Errorf("tried are %v, want the one that is neither this node nor alive", targets)
	}
}
