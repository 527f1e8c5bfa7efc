package mux

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"weir/topology"
)

// Both ends of two connections come to one verdict, in whichever order each saw them.
func TestJudgeAgrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// x and y as the lower node sees them; the higher sees ours the other way round.
		draw := func(name string, serial uint64) origin {
			return origin{boot: 1, ours: rapid.Bool().Draw(t, name), serial: serial}
		}
		x, y := draw("x", 1), draw("y", 2)
		mirror := func(o origin) origin { o.ours = !o.ours; return o }
		stays := func(lower bool, old, new origin) origin {
			if judge(lower, old, new) == replace {
				return new
			}
			return old
		}
		want := stays(true, x, y)
		for name, got := range map[string]origin{
			"lower, y first":  stays(true, y, x),
			"higher, x first": mirror(stays(false, mirror(x), mirror(y))),
			"higher, y first": mirror(stays(false, mirror(y), mirror(x))),
		} {
			if got != want {
				t.Fatalf("%s keeps %+v, the lower with x first %+v", name, got, want)
			}
		}
	})
}

func TestJudge(t *testing.T) {
	for _, test := range []struct {
		name     string
		lower    bool
		old, new origin
		want     verdict
	}{
		{"a later start", true, origin{1, true, 9}, origin{2, false, 1}, supersede},
		{"an earlier start", false, origin{2, true, 1}, origin{1, false, 9}, refuse},
		{"the lower dialled, that is we", true, origin{1, false, 1}, origin{1, true, 1}, replace},
		{"the lower dialled, that is the peer", false, origin{1, true, 1}, origin{1, false, 1}, replace},
		{"the higher dialled", true, origin{1, true, 1}, origin{1, false, 1}, retire},
		{"a later dial of one side", true, origin{1, false, 1}, origin{1, false, 2}, replace},
		{"an earlier dial of one side", true, origin{1, false, 2}, origin{1, false, 1}, retire},
	} {
		if got := judge(test.lower, test.old, test.new); got != test.want {
			t.Errorf("%s: verdict %d, want %d", test.name, got, test.want)
		}
	}
}

// Nodes that dial each other at about one moment end with one connection of each class, dialled
// by the lower id, and no stream opened meanwhile is lost without an error that a retry mends.
func TestSimultaneousDials(t *testing.T) {
	const rounds = 60
	for round := range rounds {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(round)))
			wire := newMemnet()
			kinds := []Kind{KindRaft, KindLink}
			serve := func(m *Mux) {
				for _, k := range kinds {
					serveEcho(k)(m)
				}
			}
			n1 := start(t, wire.listen("10.0.0.1:1"), "n1", serve)
			n2 := start(t, wire.listen("10.0.0.2:1"), "n2", serve)
			ctx := within(t, time.Minute)
			errs := make(chan error)
			n := 0
			for _, k := range kinds {
				for _, pair := range [][2]*node{{n1, n2}, {n2, n1}} {
					from, to, id := pair[0], pair[1], pair[1].id
					if rng.IntN(4) == 0 {
						id = "" // as a seed
					}
					wait := time.Duration(rng.IntN(3)*rng.IntN(13)) * time.Millisecond // handshake and HELLO take 20
					n++
					go func() {
						time.Sleep(wait)
						errs <- converse(ctx, from, to, id, k)
					}()
				}
			}
			for range n {
				if err := <-errs; err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			}
			time.Sleep(10 * drainTick)
			for _, node := range []*node{n1, n2} {
				checkOneEach(t, node, round)
			}
		})
	}
}

// converse opens streams and talks over them, each with one retry.
func converse(ctx context.Context, from, to *node, id topology.NodeID, k Kind) error {
	for range 3 {
		var err error
		for range 2 {
			if err = once(ctx, from, to, id, k); err == nil {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("%s to %s: %w", from.id, to.id, err)
		}
	}
	return nil
}

func once(ctx context.Context, from, to *node, id topology.NodeID, k Kind) error {
	c, err := from.Open(ctx, id, to.addr, k)
	if err != nil {
		return err
	}
	defer c.Close()
	return say(c, "does this arrive?")
}

// checkOneEach wants one connection of each class, dialled by n1.
func checkOneEach(t *testing.T, n *node, round int) {
	t.Helper()
	n.table.mu.Lock()
	defer n.table.mu.Unlock()
	if len(n.table.live) != 2 || len(n.table.all) != 2 || len(n.table.dials) != 0 {
		t.Errorf("round %d: %s ends with %d live connections of %d, %d dials", round, n.id, len(n.table.live), len(n.table.all), len(n.table.dials))
	}
}

// A peer that dials again and again, and keeps its streams, is held to connsMax connections.
func TestConnectionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1", serveEcho(KindLink))
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2")
		ctx := within(t, time.Minute)
		for i := range connsMax + 1 {
			c, err := n2.Open(ctx, "n1", n1.addr, KindLink)
			if i == connsMax {
				if !errors.Is(err, ErrProtocol) {
					t.Errorf("connection %d: %v, want ErrProtocol", i, err)
				}
				return
			}
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			if err := say(c, "and I keep it"); err != nil {
				t.Fatal(err)
			}
			n2.table.remove(n2.table.find(target{id: "n1", class: classData})) // n2 forgets it
		}
	})
}
