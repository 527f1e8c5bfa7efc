package mux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
)

// The traps of FAULTS section 1 that are this room's, by number.

// T1: a connection full of stalled links delays neither one more link nor a heartbeat.
func TestT1StalledLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		end := make(chan struct{})
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", func(m *Mux) {
			m.Handle(KindLink, func(_ context.Context, _ Peer, c net.Conn) {
				first := make([]byte, 1)
				if _, err := io.ReadFull(c, first); err == nil && first[0] == 'e' {
					_, _ = io.Copy(c, c)
				}
				<-end // all others stall
			})
		})
		ctx := within(t, time.Hour)
		block := make([]byte, 2*streamWindow)
		for i := range streamsMax - 1 {
			c, err := n1.Open(ctx, "n2", n2.addr, KindLink)
			if err != nil {
				t.Fatalf("link %d: %v", i, err)
			}
			_ = c.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if n, err := c.Write(block); !errors.Is(err, os.ErrDeadlineExceeded) || n < streamWindow/2 {
				t.Fatalf("link %d took %d bytes, %v", i, n, err)
			}
		}
		took := func(what string, f func() error) {
			began := time.Now()
			if err := f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if d := time.Since(began); d > 100*time.Millisecond { // 10 ms a round trip
				t.Errorf("%s took %s beside 63 stalled links", what, d)
			}
		}
		took("the 64th link", func() error {
			c, err := n1.Open(ctx, "n2", n2.addr, KindLink)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write([]byte("e")); err != nil {
				return err
			}
			return say(c, "is there room?")
		})
		n1.table.find(target{id: "n2", class: classData}).opened.Add(1) // as if the 64th were stalled too
		took("a heartbeat", func() error {                              // once the control connection is there
			c, err := n1.Open(ctx, "n2", n2.addr, KindBeat)
			if err != nil {
				return err
			}
			defer c.Close()
			return say(c, strings.Repeat("b", beatBytes))
		})
		took("the 65th link", func() error {
			c, err := n1.Open(ctx, "n2", n2.addr, KindLink)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write([]byte("e")); err != nil {
				return err
			}
			return say(c, "over another connection")
		})
		if n1.table.find(target{id: "n2", class: classData, index: 1}) == nil {
			t.Error("the 65th link went over the full connection")
		}
		close(end)
	})
}

// Links beyond the last connection are refused in words.
func TestTooManyLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindLink))
		ctx := within(t, time.Minute)
		var last net.Conn
		for i := range indexMax * streamsMax {
			c, err := n1.Open(ctx, "n2", n2.addr, KindLink)
			if err != nil {
				t.Fatalf("link %d: %v", i, err)
			}
			last = c
		}
		if _, err := n1.Open(ctx, "n2", n2.addr, KindLink); !errors.Is(err, ErrTooManyLinks) {
			t.Errorf("one link too many: %v", err)
		}
		if len(n1.Peers()) != 1 {
			t.Errorf("Peers() = %v, want n2 once", n1.Peers())
		}
		last.Close()
		time.Sleep(time.Second)
		if c, err := n1.Open(ctx, "n2", n2.addr, KindLink); err != nil {
			t.Errorf("a link in the place of a closed one: %v", err)
		} else if err := say(c, "again"); err != nil {
			t.Error(err)
		}
	})
}

// T2: every packet that memberlist may send passes, whatever its first byte.
func TestT2FirstBytes(t *testing.T) {
	got := make(chan []byte, 256)
	n1 := start(t, udp(t), "n1")
	n2 := start(t, udp(t), "n2", func(m *Mux) {
		m.HandlePacket(func(b []byte, _ net.Addr) { got <- b })
	})
	if _, err := n1.Resolve(within(t, 5*time.Second), n2.addr); err != nil { // n2 is reading
		t.Fatal(err)
	}
	// Message types 0 to 13 (the encryption versions 0 and 1 among them) and the label header 244
	// of memberlist v0.7.0, and whatever a later one may use.
	for first := range 256 {
		sent := []byte{byte(first), 1, 2, 3}
		if err := n1.Send(sent, n2.addr); err != nil {
			t.Fatal(err)
		}
		select {
		case b := <-got:
			if !bytes.Equal(b, sent) {
				t.Fatalf("sent % x, got % x", sent, b)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("a packet that begins with %#x was lost", first)
		}
	}
	for _, size := range []int{0, packetBytesMax} {
		sent := bytes.Repeat([]byte{7}, size)
		if err := n1.Send(sent, n2.addr); err != nil {
			t.Fatal(err)
		}
		if b := <-got; !bytes.Equal(b, sent) {
			t.Errorf("sent %d bytes, got %d", size, len(b))
		}
	}
	if err := n1.Send(make([]byte, packetBytesMax+1), n2.addr); err == nil {
		t.Error("a packet that would be cut off was sent")
	}
	if err := n1.Send(nil, "localhost:1"); err == nil {
		t.Error("a packet was sent to a name")
	}
}

// T3: a burst while the handler stalls is kept, up to the ring; beyond it the loss is counted.
func TestT3Burst(t *testing.T) {
	stall := make(chan struct{})
	var got atomic.Uint64
	n1 := start(t, udp(t), "n1")
	n2 := start(t, udp(t), "n2", func(m *Mux) {
		m.HandlePacket(func([]byte, net.Addr) {
			<-stall
			got.Add(1)
		})
	})
	if _, err := n1.Resolve(within(t, 5*time.Second), n2.addr); err != nil {
		t.Fatal(err)
	}
	// A step fits quic-go's queue, where packets pass it: on a busy machine the sender outruns any
	// reader. Where they do not, all may come at once.
	const burst = 500
	step := 20
	if runtime.GOOS == "linux" {
		step = burst
	}
	for sent := 0; sent < burst; sent += step {
		for range step {
			if err := n1.Send(make([]byte, 1200), n2.addr); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "the packets to reach the ring", func() bool { // the handler holds one
			return len(n2.ring)+1+int(n2.Dropped()) >= sent+step
		})
	}
	if d := n2.Dropped(); d > 0 { // without the ring, all but 33
		t.Errorf("%d of %d packets were dropped", d, burst)
	}
	close(stall)
	waitFor(t, "the handler to see them", func() bool { return got.Load() == burst })
}

// waitFor looks until ok, for real sockets.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// T3, the ring itself: what does not fit is dropped and counted.
func TestRingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		stall := make(chan struct{})
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", func(m *Mux) {
			m.HandlePacket(func([]byte, net.Addr) { <-stall })
		})
		synctest.Wait()
		const more = 100
		for range ringPackets + 1 + more { // one is with the handler
			if err := n1.Send([]byte("x"), n2.addr); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		if d := n2.Dropped(); d != more {
			t.Errorf("%d packets dropped, want %d", d, more)
		}
		close(stall)
	})
}

// sizer is a socket that notes the largest packet sent; it keeps the methods quic-go looks for.
type sizer struct {
	*net.UDPConn
	largest atomic.Int64
}

func (s *sizer) note(n int) {
	for old := s.largest.Load(); int64(n) > old && !s.largest.CompareAndSwap(old, int64(n)); old = s.largest.Load() {
	}
}

func (s *sizer) WriteMsgUDP(b, oob []byte, to *net.UDPAddr) (int, int, error) {
	s.note(len(b))
	return s.UDPConn.WriteMsgUDP(b, oob, to)
}

// T4: no packet is larger than 1280 bytes on a path that would take more, so an MTU that shrinks
// to that kills nothing.
func TestT4SmallPackets(t *testing.T) {
	t.Setenv("QUIC_GO_DISABLE_GSO", "true") // so that a write is a packet
	here, there := &sizer{UDPConn: udp(t)}, &sizer{UDPConn: udp(t)}
	n1 := start(t, here, "n1")
	n2 := start(t, there, "n2", serveEcho(KindLink))
	c, err := n1.Open(within(t, 10*time.Second), "n2", n2.addr, KindLink)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 { // discovery would probe between them
		if err := say(c, string(make([]byte, 50<<10))); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*sizer{here, there} {
		if n := s.largest.Load(); n == 0 || n > 1280 {
			t.Errorf("the largest packet has %d bytes", n)
		}
	}
}

// T4: only between real sockets on loopback packets are larger.
func TestT4Loopback(t *testing.T) {
	real, other := udp(t), &sizer{UDPConn: udp(t)}
	if !isLoopbackWide(real) || isLoopbackWide(other) {
		t.Fatalf("loopback is wide for a UDPConn: %t, for another conn: %t; want true, false", isLoopbackWide(real), isLoopbackWide(other))
	}
	n1, n2 := start(t, real, "n1"), start(t, other, "n2")
	for addr, want := range map[string]uint16{
		"127.0.0.1:1": loopbackPacketBytes, "127.8.9.10:1": loopbackPacketBytes, "[::1]:1": loopbackPacketBytes,
		"[::ffff:127.0.0.1]:1": loopbackPacketBytes, "10.0.0.1:1": 0, "[fe80::1]:1": 0, "0.0.0.0:1": 0,
	} {
		to, err := net.ResolveUDPAddr("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := n1.quicConfigFor(to).InitialPacketSize; got != want {
			t.Errorf("packets to %s have %d bytes, want %d (0: quic-go's 1280)", addr, got, want)
		}
		if got := n2.quicConfigFor(to).InitialPacketSize; got != 0 {
			t.Errorf("over another conn, packets to %s have %d bytes", addr, got)
		}
	}
}

// T5: a dial that succeeds is not an acceptance: nothing is up before the answer to HELLO.
func TestT5DialIsNotAcceptance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")

		// A server of the cluster that takes the handshake and never says anything.
		keys, err := deriveKeys(secret("s"), "mute")
		if err != nil {
			t.Fatal(err)
		}
		cert, pool, err := keys.mint("mute")
		if err != nil {
			t.Fatal(err)
		}
		tr := &quic.Transport{Conn: wire.listen("10.0.0.3:1")}
		defer tr.Close()
		ln, err := tr.Listen(serverTLS(cert, pool), quicConfig())
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		began := time.Now()
		if _, err := n1.Open(within(t, time.Minute), "mute", "10.0.0.3:1", KindLink); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("a peer that never answers HELLO: %v", err)
		}
		if d := time.Since(began); d > helloMax+time.Second {
			t.Errorf("that took %s", d)
		}

		// A client certificate of another cluster: Dial returns nil, the alert comes after.
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindLink))
		other, err := deriveKeys(secret("o"), "n3")
		if err != nil {
			t.Fatal(err)
		}
		foreign, _, err := other.mint("n3")
		if err != nil {
			t.Fatal(err)
		}
		n3 := start(t, wire.listen("10.0.0.4:1"), "n3", func(m *Mux) {
			m.client.Certificates = m.client.Certificates[:0:0]
			m.client.Certificates = append(m.client.Certificates, foreign)
		})
		if _, err := n3.Open(within(t, time.Minute), "n2", n2.addr, KindLink); !errors.Is(err, ErrOtherCluster) {
			t.Errorf("a certificate of another cluster: %v", err)
		}
		if len(n2.Peers())+len(n3.Peers())+len(n1.Peers()) != 0 {
			t.Error("a connection without a HELLO is listed")
		}
	})
}

// T5: what does not belong together is told so in words, whoever dials.
func TestT5Refusals(t *testing.T) {
	logID := func(id uint64) func(*Config) {
		return func(c *Config) { c.LogID = func() uint64 { return id } }
	}
	otherSecret := func(c *Config) { c.Secret = secret("o") }
	for _, test := range []struct {
		name   string
		setup  any // of n2; n1 has log id 1
		dialID string
		want   error
		words  string
	}{
		{"other secret", otherSecret, "n2", ErrOtherCluster, "another cluster (other secret)"},
		{"other secret, seed", otherSecret, "", ErrOtherCluster, "another cluster (other secret)"},
		{"other log", logID(2), "n2", ErrOtherLog, "log 0000000000000001 here, 0000000000000002 there"},
		{"no log yet", logID(0), "n2", nil, ""},
		{"other id", logID(1), "n3", ErrNotPeer, "another id: n2"},
		{"our id elsewhere", func(c *Config) { c.ID = "n1" }, "", ErrSameID, "two running nodes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wire := newMemnet()
				n1 := start(t, wire.listen("10.0.0.1:1"), "n1", logID(1), serveEcho(KindLink))
				n2 := start(t, wire.listen("10.0.0.2:1"), "n2", test.setup, serveEcho(KindLink))
				if test.dialID == "n3" {
					_, err := n1.Open(within(t, time.Minute), "n3", n2.addr, KindLink)
					checkRefusal(t, "n1 to n2", err, test.want, test.words)
					return
				}
				for _, way := range []struct{ from, to *node }{{n1, n2}, {n2, n1}} {
					id := way.to.cfg.ID
					if test.dialID == "" {
						id = ""
					}
					began := time.Now()
					_, err := way.from.Open(within(t, time.Minute), id, way.to.addr, KindLink)
					checkRefusal(t, fmt.Sprintf("%s to %s", way.from.addr, way.to.addr), err, test.want, "")
					if d := time.Since(began); d > time.Second {
						t.Errorf("that took %s", d)
					}
				}
			})
		})
	}
}

func checkRefusal(t *testing.T, what string, err, want error, words string) {
	t.Helper()
	t.Log(err)
	if !errors.Is(err, want) || want == nil && err != nil {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
	if words != "" && !bytes.Contains([]byte(err.Error()), []byte(words)) {
		t.Errorf("%s: %q does not say %q", what, err, words)
	}
}

// T6: the peer of a node that crashed and started anew hears it at once, by stateless reset.
func TestT6Restart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindLink))
		ctx := within(t, time.Minute)
		c, err := n1.Open(ctx, "n2", n2.addr, KindLink)
		if err != nil {
			t.Fatal(err)
		}
		if err := say(c, "before"); err != nil {
			t.Fatal(err)
		}
		again := start(t, wire.listen("10.0.0.2:1"), "n2", serveEcho(KindLink), func(c *Config) { c.Boot = 2 })
		n2.stop() // its socket is unplugged: nobody hears it go
		began := time.Now()
		if err := say(c, strings.Repeat("anybody there? ", 10)); !errors.Is(err, ErrLost) {
			t.Errorf("a stream to a node that started anew: %v", err)
		}
		if d := time.Since(began); d > 50*time.Millisecond {
			t.Errorf("that took %s", d)
		}
		c, err = n1.Open(ctx, "n2", again.addr, KindLink)
		if err != nil {
			t.Fatal(err)
		}
		if err := say(c, "after"); err != nil {
			t.Error(err)
		}
		if ps := n1.Peers(); len(ps) != 1 || ps[0].Boot != 2 {
			t.Errorf("Peers() = %+v", ps)
		}
	})
}
