package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"weir/topology"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret makes a secret of one letter.
func secret(letter string) []byte { return []byte(strings.Repeat(letter, secretBytes)) }

// node is a Mux that runs until the test ends or stop is called.
type node struct {
	*Mux
	id   topology.NodeID
	addr string
	stop func()
}

// start runs a Mux on conn; setup may change the Config, and set handlers on the Mux.
func start(t testing.TB, conn net.PacketConn, id topology.NodeID, setup ...any) *node {
	t.Helper()
	cfg := Config{Conn: conn, Secret: secret("s"), ID: id, Boot: 1}
	if t, ok := t.(*testing.T); ok {
		cfg.Log = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for _, f := range setup {
		if f, ok := f.(func(*Config)); ok {
			f(&cfg)
		}
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range setup {
		if f, ok := f.(func(*Mux)); ok {
			f(m)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	joined := make(chan struct{})
	var stopping sync.Once
	n := &node{Mux: m, id: id, addr: conn.LocalAddr().String()}
	n.stop = func() {
		stopping.Do(func() {
			cancel()
			<-joined
		})
	}
	go func() {
		defer close(joined)
		if err := m.Run(ctx); err != nil {
			t.Errorf("Run of %s: %v", id, err)
		}
	}()
	t.Cleanup(n.stop)
	return n
}

// testWriter logs to the test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// udp binds a real socket on loopback.
func udp(t testing.TB) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serveEcho has a Mux answer streams of a kind with what they say.
func serveEcho(k Kind) func(*Mux) {
	return func(m *Mux) {
		m.Handle(k, func(_ context.Context, _ Peer, c net.Conn) { _, _ = io.Copy(c, c) })
	}
}

// within is a context for one step of a test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// say writes to a stream that echoes and wants the same back.
func say(c net.Conn, text string) error {
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return errors.New("the echo says " + string(got))
	}
	return nil
}

func TestStreamsBothWays(t *testing.T) {
	for _, network := range []string{"udp", "memory"} {
		t.Run(network, func(t *testing.T) {
			run := func(t *testing.T, a, b net.PacketConn) {
				epoch := func(c *Config) { c.Epoch = func() uint64 { return 17 } }
				seen := make(chan Peer, 1)
				n1 := start(t, a, "n1", serveEcho(KindRaft), serveEcho(KindLink))
				n2 := start(t, b, "n2", epoch, serveEcho(KindLink), func(m *Mux) {
					m.Handle(KindRaft, func(_ context.Context, p Peer, c net.Conn) {
						seen <- p
						_, _ = io.Copy(c, c)
					})
				})
				ctx := within(t, 10*time.Second)
				for _, k := range []Kind{KindRaft, KindLink} {
					c, err := n1.Open(ctx, "n2", n2.addr, k)
					if err != nil {
						t.Fatal(err)
					}
					if err := say(c, "there and back"); err != nil {
						t.Fatal(err)
					}
					c.Close()
				}
				if p := <-seen; p != (Peer{ID: "n1", Boot: 1, Addr: n1.addr}) {
					t.Errorf("the handler saw %+v", p)
				}
				// The other way over the same connections, whatever the address.
				c, err := n2.Open(ctx, "n1", "192.0.2.1:9", KindLink)
				if err != nil {
					t.Fatal(err)
				}
				if err := say(c, "and over the same connection"); err != nil {
					t.Fatal(err)
				}
				c.Close()
				want := Peer{ID: "n2", Boot: 1, Addr: n2.addr, Epoch: 17}
				if ps := n1.Peers(); len(ps) != 1 || ps[0] != want {
					t.Errorf("Peers() = %+v, want %+v", ps, want)
				}
			}
			if network == "udp" {
				run(t, udp(t), udp(t))
				return
			}
			synctest.Test(t, func(t *testing.T) {
				wire := newMemnet()
				run(t, wire.listen("10.0.0.1:1"), wire.listen("10.0.0.2:1"))
			})
		})
	}
}

// Close delivers what was written, ends the peer's reading, and fails its writing.
func TestCloseAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		conns := make(chan net.Conn)
		end := make(chan struct{})
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", func(m *Mux) {
			m.Handle(KindLink, func(_ context.Context, _ Peer, c net.Conn) {
				conns <- c
				<-end
			})
		})
		ctx := within(t, time.Minute)
		open := func() (here, there net.Conn) {
			here, err := n1.Open(ctx, "n2", n2.addr, KindLink)
			if err != nil {
				t.Fatal(err)
			}
			return here, <-conns
		}
		big := bytes.Repeat([]byte("x"), streamWindow/2)

		here, there := open()
		if _, err := here.Write(big); err != nil {
			t.Fatal(err)
		}
		here.Close()
		if got, err := io.ReadAll(there); err != nil || len(got) != len(big) {
			t.Errorf("after Close: %d bytes, %v", len(got), err)
		}
		time.Sleep(time.Second)
		if _, err := there.Write([]byte("x")); !errors.Is(err, ErrReset) {
			t.Errorf("write to a closed stream: %v", err)
		}
		if _, err := here.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read from our closed stream: %v", err)
		}
		if _, err := here.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write to our closed stream: %v", err)
		}

		here, there = open()
		here.(interface{ Reset() }).Reset()
		if _, err := there.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
			t.Errorf("read from a reset stream: %v", err)
		}

		// A Close while a Write is blocked by the window ends the Write, and the peer does not
		// take the part for the whole.
		here, there = open()
		blocked := make(chan error, 1)
		go func() {
			_, err := here.Write(make([]byte, 4*streamWindow))
			blocked <- err
		}()
		time.Sleep(time.Second)
		here.Close()
		if err := <-blocked; !errors.Is(err, net.ErrClosed) {
			t.Errorf("blocked write after Close: %v", err)
		}
		if _, err := io.ReadAll(there); !errors.Is(err, ErrReset) {
			t.Errorf("read of half a write: %v", err)
		}
		close(end)
	})
}

// Our own id, and an address that is our own, lead to our own handler without a socket.
func TestOwnID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n1 := start(t, newMemnet().listen("10.0.0.1:1"), "n1", serveEcho(KindLink))
		ctx := within(t, time.Minute)
		for _, id := range []topology.NodeID{"n1", ""} {
			c, err := n1.Open(ctx, id, n1.addr, KindLink)
			if err != nil {
				t.Fatalf("open %q: %v", id, err)
			}
			if err := say(c, "to myself"); err != nil {
				t.Errorf("open %q: %v", id, err)
			}
			c.Close()
		}
		if p, err := n1.Resolve(ctx, n1.addr); err != nil || p.ID != "n1" || p.Boot != 1 {
			t.Errorf("Resolve(own address) = %+v, %v", p, err)
		}
		if _, err := n1.Open(ctx, "n1", n1.addr, KindRaft); !errors.Is(err, ErrNoHandler) {
			t.Errorf("a kind without a handler: %v", err)
		}
		c, err := n1.Open(ctx, "n1", "", KindLink)
		if err != nil {
			t.Fatal(err)
		}
		n1.stop()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a stream to ourselves survives Run")
		}
		if _, err := n1.Open(ctx, "n1", "", KindLink); !errors.Is(err, ErrClosed) {
			t.Errorf("open after Run: %v", err)
		}
	})
}

// A seed is an address: the first stream there tells who it is, later ones reuse the connection.
func TestSeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindGossip))
		ctx := within(t, time.Minute)
		p, err := n1.Resolve(ctx, n2.addr)
		if err != nil || p.ID != "n2" || p.Addr != n2.addr {
			t.Fatalf("Resolve = %+v, %v", p, err)
		}
		for _, id := range []topology.NodeID{"", "n2"} {
			c, err := n1.Open(ctx, id, n2.addr, KindGossip)
			if err != nil {
				t.Fatal(err)
			}
			if err := say(c, "hello"); err != nil {
				t.Fatal(err)
			}
			c.Close()
		}
		if n := n1.serial.Load(); n != 1 {
			t.Errorf("%d dials to one node, want 1", n)
		}
		if _, err := n1.Resolve(ctx, "10.0.0.9:1"); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("Resolve where nobody is: %v", err)
		}
		if _, err := n1.Resolve(ctx, "10.0.0.9"); err == nil || !strings.Contains(err.Error(), "is not host:port") {
			t.Errorf("Resolve without a port: %v", err)
		}
	})
}

// A stream of a kind that nobody serves, or on the connection of the other class, is reset.
func TestRefusedStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindLink))
		ctx := within(t, time.Minute)
		c, err := n1.Open(ctx, "n2", n2.addr, KindRaft)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrNoHandler) {
			t.Errorf("a kind without a handler: %v", err)
		}
		ctl := n1.table.find(target{id: "n2", class: classCtl})
		s, err := ctl.open(ctx, KindLink)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrNoHandler) {
			t.Errorf("a link over control: %v", err)
		}
	})
}

// Streams opened before Run wait for it; New refuses what cannot work.
func TestBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		cfg := Config{Conn: wire.listen("10.0.0.1:1"), Secret: secret("s"), ID: "n1", Boot: 1}
		m, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := m.Open(ctx, "n2", "10.0.0.2:1", KindLink); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Open before Run: %v", err)
		}
		for _, bad := range []struct {
			want string
			set  func(*Config)
		}{
			{"Conn", func(c *Config) { c.Conn = nil }},
			{"Secret", func(c *Config) { c.Secret = c.Secret[:31] }},
			{"ID", func(c *Config) { c.ID = "" }},
			{"ID", func(c *Config) { c.ID = topology.NodeID(strings.Repeat("n", 65)) }},
			{"Boot", func(c *Config) { c.Boot = 0 }},
		} {
			c := cfg
			bad.set(&c)
			if _, err := New(c); err == nil || !strings.Contains(err.Error(), bad.want) {
				t.Errorf("New without a good %s: %v", bad.want, err)
			}
		}
	})
}
