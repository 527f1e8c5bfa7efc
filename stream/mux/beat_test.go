package mux

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestPulse(t *testing.T) {
	const ms = time.Millisecond
	type look struct {
		after time.Duration
		heard bool
		dead  bool
	}
	for _, test := range []struct {
		name  string
		looks []look
	}{
		{"five misses", []look{{200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, true}}},
		{"an answer in between", []look{{200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, true, false}, {200 * ms, false, false}}},
		{"we slept", []look{{200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, false}, {3000 * ms, false, false}, {200 * ms, true, false}}},
		{"we slept, and it is dead", []look{{3000 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, false}, {200 * ms, false, true}}},
		{"a little late is not asleep", []look{{300 * ms, false, false}, {100 * ms, false, false}, {300 * ms, false, false}, {100 * ms, false, false}, {399 * ms, false, true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
			p := pulse{last: now}
			for i, l := range test.looks {
				now = now.Add(l.after)
				if dead := p.look(now, l.heard); dead != l.dead {
					t.Errorf("look %d: dead %v, want %v", i, dead, l.dead)
				}
			}
		})
	}
}

// beaten runs two nodes with n1 beating n2 and a link between them.
func beaten(t *testing.T, f func(t *testing.T, wire *memnet, n1, n2 *node, link func() error, dead <-chan error)) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindLink))
		c, err := n1.Open(within(t, time.Hour), "n2", n2.addr, KindLink)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		dead := make(chan error, 1)
		go func() { dead <- n1.Beat(ctx, "n2", n2.addr) }()
		time.Sleep(time.Minute) // it lives for a while
		select {
		case err := <-dead:
			t.Fatalf("a live peer is dead: %v", err)
		default:
		}
		if err := say(c, "alive?"); err != nil {
			t.Fatal(err)
		}
		f(t, wire, n1, n2, func() error {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			_, err := c.Read(make([]byte, 1))
			return err
		}, dead)
		cancel()
		synctest.Wait()
		if len(dead) == 0 {
			return
		}
		if err := <-dead; err != nil {
			t.Errorf("Beat after its context ended: %v", err)
		}
	})
}

// wantDead wants ErrDead within most, and the links to the peer broken with it.
func wantDead(t *testing.T, dead <-chan error, link func() error, most time.Duration) {
	t.Helper()
	began := time.Now()
	err := <-dead
	t.Log(time.Since(began), err)
	if !errors.Is(err, ErrDead) {
		t.Errorf("Beat = %v, want ErrDead", err)
	}
	if d := time.Since(began); d > most {
		t.Errorf("it took %s to notice, at most %s is allowed", d, most)
	}
	if err := link(); err == nil || errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrLost) {
		t.Errorf("a link to a dead peer: %v, want ErrLost", err)
	}
}

func TestBeatKilledPeer(t *testing.T) {
	beaten(t, func(t *testing.T, wire *memnet, n1, _ *node, link func() error, dead <-chan error) {
		wire.setCut(func(string, string, []byte) bool { return true })
		wantDead(t, dead, link, 1500*time.Millisecond)
		if ps := n1.Peers(); len(ps) != 0 {
			t.Errorf("a dead peer is listed: %+v", ps)
		}
	})
}

// linked is two nodes with a link that works, and no heartbeat.
func linked(t *testing.T) (wire *memnet, n1, n2 *node, c net.Conn) {
	wire = newMemnet()
	n1 = start(t, wire.listen("10.0.0.1:1"), "n1")
	n2 = start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindLink))
	c, err := n1.Open(within(t, time.Hour), "n2", n2.addr, KindLink)
	if err != nil {
		t.Fatal(err)
	}
	if err := say(c, "alive?"); err != nil {
		t.Fatal(err)
	}
	return wire, n1, n2, c
}

// A peer that dies when there is a link and no heartbeat yet is noticed when nobody answers at its address,
// or another node does that has come there: without that the link would wait for the idle timeout. The
// simulator found both.
func TestBeatOfYoungLink(t *testing.T) {
	for _, test := range []struct {
		name string
		die  func(t *testing.T, wire *memnet, n2 *node)
	}{
		{"nobody answers", func(_ *testing.T, wire *memnet, _ *node) {
			wire.setCut(func(string, string, []byte) bool { return true })
		}},
		{"another node answers", func(t *testing.T, wire *memnet, n2 *node) {
			start(t, wire.listen("10.0.0.2:1"), "n3")
			n2.stop()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wire, n1, n2, c := linked(t)
				test.die(t, wire, n2)
				if err := n1.Beat(within(t, time.Hour), "n2", n2.addr); !errors.Is(err, ErrDead) {
					t.Errorf("Beat = %v, want ErrDead", err)
				}
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
					t.Errorf("the link to a dead peer: %v, want ErrLost", err)
				}
			})
		})
	}
}

// One direction lost is as dead as both.
func TestBeatOneWayCut(t *testing.T) {
	for _, mute := range []string{"10.0.0.1:1", "10.0.0.2:1"} {
		beaten(t, func(t *testing.T, wire *memnet, _, _ *node, link func() error, dead <-chan error) {
			wire.setCut(func(from, _ string, _ []byte) bool { return from == mute })
			wantDead(t, dead, link, 1500*time.Millisecond)
		})
	}
}

func TestBeatStoppedPeer(t *testing.T) {
	beaten(t, func(t *testing.T, _ *memnet, _, n2 *node, link func() error, dead <-chan error) {
		go n2.stop()
		wantDead(t, dead, link, 50*time.Millisecond)
	})
}

func TestBeatRestartedPeer(t *testing.T) {
	beaten(t, func(t *testing.T, wire *memnet, _, n2 *node, link func() error, dead <-chan error) {
		start(t, wire.listen("10.0.0.2:1"), "n2", func(c *Config) { c.Boot = 2 })
		n2.stop()
		wantDead(t, dead, link, 300*time.Millisecond)
	})
}

// Without a heartbeat, too, a link to a start of a peer breaks when a later one connects, in whichever
// class. The simulator found it: the heartbeat before had ended, the next one reached the later start.
func TestLaterStartEndsLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire, n1, n2, c := linked(t)
		wire.setCut(func(from, _ string, _ []byte) bool { return from == n2.addr })
		later := start(t, wire.listen("10.0.0.3:1"), "n2", func(c *Config) { c.Boot = 2 })
		if _, err := later.Resolve(within(t, time.Second), n1.addr); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrLost) {
			t.Errorf("the link to the earlier start: %v, want ErrLost", err)
		}
	})
}

// A silence shorter than five beats, and a connection that loses its place, are no death.
func TestBeatSurvives(t *testing.T) {
	beaten(t, func(t *testing.T, wire *memnet, n1, n2 *node, link func() error, dead <-chan error) {
		wire.setCut(func(string, string, []byte) bool { return true })
		time.Sleep(700 * time.Millisecond)
		wire.setCut(nil)
		time.Sleep(5 * time.Second)
		n2.table.find(target{id: "n1", class: classCtl}).close(codeRetired, "another connection took its place")
		time.Sleep(5 * time.Second)
		n1.table.find(target{id: "n2", class: classCtl}).close(codeRetired, "another connection took its place")
		time.Sleep(5 * time.Second)
		select {
		case err := <-dead:
			t.Errorf("a live peer is dead: %v", err)
		default:
		}
		if err := link(); !isTimeout(err) {
			t.Errorf("the link broke: %v", err)
		}
	})
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Nobody there at all is dead too; we ourselves never are.
func TestBeatNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n1 := start(t, newMemnet().listen("10.0.0.1:1"), "n1")
		if err := n1.Beat(within(t, time.Minute), "n2", "10.0.0.2:1"); !errors.Is(err, ErrDead) || !errors.Is(err, ErrNoAnswer) {
			t.Errorf("Beat of nobody: %v", err)
		}
		if err := n1.Beat(within(t, time.Minute), "n1", ""); err != nil {
			t.Errorf("Beat of ourselves: %v", err)
		}
	})
}

// mutual runs two nodes that beat each other, until each has beaten for a while.
func mutual(t *testing.T, f func(t *testing.T, wire *memnet, n1, n2 *node, dead1, dead2 <-chan error)) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		dead1, dead2 := make(chan error, 1), make(chan error, 1)
		go func() { dead1 <- n1.Beat(ctx, "n2", n2.addr) }()
		time.Sleep(70 * time.Millisecond) // no two nodes begin at one instant
		go func() { dead2 <- n2.Beat(ctx, "n1", n1.addr) }()
		time.Sleep(time.Minute)
		f(t, wire, n1, n2, dead1, dead2)
	})
}

// Of two nodes that beat each other one asks: a beat, its answer and the answer's ack.
func TestBeatOneAsks(t *testing.T) {
	mutual(t, func(t *testing.T, wire *memnet, _, _ *node, dead1, dead2 <-chan error) {
		sent := 0
		wire.setCut(func(string, string, []byte) bool { sent++; return false })
		time.Sleep(10 * time.Second)
		wire.setCut(nil)
		if most := 3 * 51; sent > most {
			t.Errorf("%d packets in 10 s, want at most %d", sent, most)
		}
		if len(dead1)+len(dead2) > 0 {
			t.Error("a live peer is dead")
		}
	})
}

// Whoever asks, both notice a cut, of one direction too, even if the close of the other's
// connections is lost.
func TestBeatMutualCut(t *testing.T) {
	for _, mute := range []string{"10.0.0.1:1", "10.0.0.2:1", ""} {
		mutual(t, func(t *testing.T, wire *memnet, _, _ *node, dead1, dead2 <-chan error) {
			began := time.Now()
			wire.setCut(func(from, _ string, _ []byte) bool {
				// From 1 s on both directions: what the first to notice says is lost.
				return mute == "" || from == mute || time.Since(began) > time.Second
			})
			for i, dead := range []<-chan error{dead1, dead2} {
				err := <-dead
				took := time.Since(began)
				t.Logf("mute %q: node %d after %v: %v", mute, i+1, took, err)
				if !errors.Is(err, ErrDead) || took > 1300*time.Millisecond {
					t.Errorf("mute %q: node %d noticed after %v: %v", mute, i+1, took, err)
				}
			}
		})
	}
}

// A peer that started anew is noticed by who is asked as well as by who asks: soon, not after
// five misses.
func TestBeatMutualRestart(t *testing.T) {
	for _, restarts := range []string{"n1", "n2"} {
		mutual(t, func(t *testing.T, wire *memnet, n1, n2 *node, dead1, dead2 <-chan error) {
			old, addr, dead := n1, "10.0.0.1:1", dead2
			if restarts == "n2" {
				old, addr, dead = n2, "10.0.0.2:1", dead1
			}
			began := time.Now()
			start(t, wire.listen(addr), old.id, func(c *Config) { c.Boot = 2 })
			old.stop()
			err := <-dead
			if took := time.Since(began); !errors.Is(err, ErrDead) || took > 500*time.Millisecond {
				t.Errorf("%s starts anew: noticed after %v: %v", restarts, took, err)
			}
		})
	}
}
