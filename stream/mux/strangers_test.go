package mux

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"weir/topology"
)

// The bad inputs of FAULTS section 4 that reach this room, by number: each ends with a named
// error or a counter, and the node goes on serving.

// victim is a node, a stranger's socket, and a check that the node still serves.
func victim(t *testing.T, f func(t *testing.T, n1 *node, raw *memport)) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1", serveEcho(KindLink))
		synctest.Wait()
		f(t, n1, wire.listen("10.0.0.66:1"))
		good := start(t, wire.listen("10.0.0.2:1"), "n2")
		c, err := good.Open(within(t, time.Minute), "n1", n1.addr, KindLink)
		if err != nil {
			t.Fatalf("afterwards: %v", err)
		}
		if err := say(c, "still serving"); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		c.Close()
		if n := n1.pending.Load(); n != 0 {
			t.Errorf("%d handshakes are still counted", n)
		}
	})
}

func send(t *testing.T, raw *memport, n *node, b []byte) {
	t.Helper()
	if _, err := raw.WriteTo(b, n.cfg.Conn.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Millisecond)
}

// 1 to 3, 11, 12: packets of noise.
func TestStrangePackets(t *testing.T) {
	victim(t, func(t *testing.T, n1 *node, raw *memport) {
		rng := mathrand.NewChaCha8([32]byte{1})
		send(t, raw, n1, nil)
		for first := range 256 {
			send(t, raw, n1, []byte{byte(first)})
		}
		time.Sleep(time.Second)
		if got := n1.Foreign(); got != 64 { // the rest looks like QUIC
			t.Errorf("%d packets counted as foreign, want 64", got)
		}
		send(t, raw, n1, []byte{packetByte, packetVersion + 1, 1, 2, 3})
		time.Sleep(time.Second)
		if got := n1.Foreign(); got != 65 {
			t.Errorf("%d packets counted as foreign with one of a later version, want 65", got)
		}
		for range 500 { // 3
			b := make([]byte, 1+rng.Uint64()%1452)
			_, _ = rng.Read(b)
			send(t, raw, n1, b)
		}
		for _, version := range []string{"\x00\x00\x00\x01", "\xde\xad\xbe\xef"} { // 11, 12
			for range 200 {
				b := make([]byte, 1200)
				_, _ = rng.Read(b)
				b[0] = 0xc3
				copy(b[1:], version)
				b[5] = 8
				send(t, raw, n1, b)
			}
		}
		time.Sleep(20 * time.Second)
	})
}

// 13: handshakes begun and left. Above 32 at once strangers must prove their address, above 128
// they are refused; all are forgotten in time.
func TestStrangeHandshakesLeft(t *testing.T) {
	victim(t, func(t *testing.T, n1 *node, raw *memport) {
		raw.net.setCut(func(_, to string, _ []byte) bool { return to == raw.addr.String() })
		tr := &quic.Transport{Conn: raw}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		const n = 300
		ended := make(chan error)
		for range n {
			go func() {
				_, err := tr.Dial(ctx, n1.cfg.Conn.LocalAddr(), strangerTLS(t, secret("s"), "n9"), quicConfig())
				ended <- err
			}()
		}
		time.Sleep(time.Second)
		if p := n1.pending.Load(); p == 0 || p > handshakesTrusted+1 {
			t.Errorf("%d handshakes are under way, want 1 to %d", p, handshakesTrusted+1)
		}
		for range n {
			if err := <-ended; err == nil {
				t.Error("a handshake without answers ended well")
			}
		}
		_ = tr.Close()
		time.Sleep(20 * time.Second)
		raw.net.setCut(nil)
	})
}

// 13: who comes while strangers fill the handshakes is refused, and told why.
func TestCrowded(t *testing.T) {
	victim(t, func(t *testing.T, n1 *node, raw *memport) {
		n1.pending.Add(handshakesMax)
		defer n1.pending.Add(-handshakesMax)
		n2 := start(t, raw.net.listen("10.0.0.3:1"), "n3")
		if _, err := n2.Resolve(within(t, time.Minute), n1.addr); !errors.Is(err, ErrCrowded) {
			t.Errorf("%v, want %v", err, ErrCrowded)
		}
	})
}

// strangerTLS is a client of the cluster of a secret, with a certificate for id.
func strangerTLS(t *testing.T, secret []byte, id topology.NodeID, change ...func(*x509.Certificate)) *tls.Config {
	t.Helper()
	keys, err := deriveKeys(secret, id)
	if err != nil {
		t.Fatal(err)
	}
	cert, pool, err := keys.mint(id)
	if err != nil {
		t.Fatal(err)
	}
	if len(change) > 0 {
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		public := leaf.PublicKey
		leaf.SerialNumber = nil
		change[0](leaf)
		authority := &x509.Certificate{Subject: pkix.Name{CommonName: issuer + hex.EncodeToString(keys.cluster[:])}}
		if cert.Certificate[0], err = x509.CreateCertificate(rand.Reader, leaf, authority, public, keys.ca); err != nil {
			t.Fatal(err)
		}
	}
	conf := clientTLS(cert, pool)
	conf.NextProtos = []string{classData.alpn()}
	return conf
}

// 14 to 18: handshakes that do not fit.
func TestStrangeHandshakes(t *testing.T) {
	year := func(from, to int) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Date(from, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(to, 1, 1, 0, 0, 0, 0, time.UTC)
		}
	}
	for _, test := range []struct {
		name string
		conf func(t *testing.T) *tls.Config
		want error
	}{
		{"14 many ALPNs", func(t *testing.T) *tls.Config {
			conf := strangerTLS(t, secret("s"), "n9")
			conf.NextProtos = nil
			for i := range 400 {
				conf.NextProtos = append(conf.NextProtos, fmt.Sprintf("stranger-%014d", i))
			}
			return conf
		}, ErrVersion},
		{"15 no certificate", func(t *testing.T) *tls.Config {
			conf := strangerTLS(t, secret("s"), "n9")
			conf.Certificates = nil
			return conf
		}, ErrOtherCluster},
		{"16 another authority", func(t *testing.T) *tls.Config {
			conf := strangerTLS(t, secret("s"), "n9")
			conf.Certificates = strangerTLS(t, secret("o"), "n9").Certificates
			return conf
		}, ErrOtherCluster},
		{"17 expired", func(t *testing.T) *tls.Config { return strangerTLS(t, secret("s"), "n9", year(1990, 1999)) }, ErrClock},
		{"17 not yet valid", func(t *testing.T) *tls.Config { return strangerTLS(t, secret("s"), "n9", year(2001, 2099)) }, ErrClock},
		{"17 of no use", func(t *testing.T) *tls.Config {
			return strangerTLS(t, secret("s"), "n9", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })
		}, ErrOtherCluster},
		{"18 unknown ALPN", func(t *testing.T) *tls.Config {
			conf := strangerTLS(t, secret("s"), "n9")
			conf.NextProtos = []string{"weir-ctl/2"}
			return conf
		}, ErrVersion},
	} {
		t.Run(test.name, func(t *testing.T) {
			victim(t, func(t *testing.T, n1 *node, raw *memport) {
				tr := &quic.Transport{Conn: raw}
				defer tr.Close()
				q, err := tr.Dial(within(t, 5*time.Second), n1.cfg.Conn.LocalAddr(), test.conf(t), quicConfig())
				if err == nil { // TLS 1.3: the server's verdict comes later
					_, err = q.AcceptStream(within(t, 5*time.Second))
				}
				if got := dialError(err); !errors.Is(got, test.want) {
					t.Errorf("%v (%v), want %v", got, err, test.want)
				}
				if ps := n1.Peers(); len(ps) > 0 {
					t.Errorf("the stranger is listed: %+v", ps)
				}
			})
		})
	}
}

// 19 to 22: peers of the cluster whose HELLO, or what follows, is wrong.
func TestStrangeHellos(t *testing.T) {
	keys, err := deriveKeys(secret("s"), "n9")
	if err != nil {
		t.Fatal(err)
	}
	base := hello{versionMin: 1, versionMax: 1, cluster: keys.cluster, boot: 1, id: "n9"}
	with := func(f func(*hello)) []byte {
		h := base
		f(&h)
		return h.append([]byte{byte(KindHello)})
	}
	write := func(b []byte) func(*quic.Stream) {
		return func(s *quic.Stream) { _, _ = s.Write(b) }
	}
	for _, test := range []struct {
		name string
		send func(*quic.Stream)
		want error
	}{
		{"19 version 0", write(with(func(h *hello) { h.versionMin, h.versionMax = 0, 0 })), ErrVersion},
		{"19 version 65535", write(with(func(h *hello) { h.versionMin, h.versionMax = 65535, 65535 })), ErrVersion},
		{"17 another id than certified", write(with(func(h *hello) { h.id = "n8" })), ErrNotPeer},
		{"another cluster in HELLO", write(with(func(h *hello) { h.cluster[0]++ })), ErrOtherCluster},
		{"too long", write([]byte{byte(KindHello), 0xff, 0xff}), ErrProtocol},
		{"another kind first", write([]byte{byte(KindLink)}), ErrProtocol},
		{"no stream at all", nil, ErrProtocol},
		{"20 never sent", write([]byte{byte(KindHello)}), ErrProtocol},
		{"20 half", func(s *quic.Stream) {
			_, _ = s.Write(with(func(*hello) {})[:20])
			_ = s.Close()
		}, ErrProtocol},
		{"21 a byte every second", func(s *quic.Stream) {
			for _, b := range with(func(*hello) {}) {
				if _, err := s.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, ErrProtocol},
	} {
		t.Run(test.name, func(t *testing.T) {
			victim(t, func(t *testing.T, n1 *node, raw *memport) {
				tr := &quic.Transport{Conn: raw}
				defer tr.Close()
				q, err := tr.Dial(within(t, 5*time.Second), n1.cfg.Conn.LocalAddr(), strangerTLS(t, secret("s"), "n9"), quicConfig())
				if err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if test.send != nil {
					s, err := q.OpenStream()
					if err != nil {
						t.Fatal(err)
					}
					test.send(s)
				}
				_, err = q.AcceptStream(within(t, 20*time.Second))
				if got := dialError(err); !errors.Is(got, test.want) {
					t.Errorf("%v, want %v", got, test.want)
				}
				if d := time.Since(began); d > helloMax+time.Second {
					t.Errorf("refused after %s", d)
				}
				if ps := n1.Peers(); len(ps) > 0 {
					t.Errorf("the stranger is listed: %+v", ps)
				}
			})
		})
	}
}

// 21, 22: after a good HELLO, streams without a kind end, and more streams than allowed wait.
func TestStrangeStreams(t *testing.T) {
	victim(t, func(t *testing.T, n1 *node, raw *memport) {
		keys, err := deriveKeys(secret("s"), "n9")
		if err != nil {
			t.Fatal(err)
		}
		tr := &quic.Transport{Conn: raw}
		defer tr.Close()
		q, err := tr.Dial(within(t, 5*time.Second), n1.cfg.Conn.LocalAddr(), strangerTLS(t, secret("s"), "n9"), quicConfig())
		if err != nil {
			t.Fatal(err)
		}
		s, err := q.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Write(hello{versionMin: 1, versionMax: 1, cluster: keys.cluster, boot: 1, id: "n9"}.append([]byte{byte(KindHello)}))
		_ = s.Close()
		if _, err := readHello(s); err != nil {
			t.Fatal(err)
		}
		streams := 0
		for {
			s, err := q.OpenStream()
			if err != nil {
				break
			}
			streams++
			_, _ = s.Write([]byte{byte(KindLink), 'x'})
		}
		if streams < streamsMax || streams > streamsMax+1 {
			t.Errorf("%d streams could be opened, want %d", streams, streamsMax)
		}
		_ = q.CloseWithError(0, "")
		time.Sleep(time.Second)
	})
}
