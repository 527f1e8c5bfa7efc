package mux

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
)

// warnings is a log that keeps what people are shown.
type warnings struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *warnings) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *warnings) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.FieldsFunc(w.buf.String(), func(r rune) bool { return r == '\n' })
}

func (w *warnings) set(c *Config) {
	c.Log = slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// A node of another cluster that tries for ever costs one line a minute, on the side that it comes
// to; the other side says it to its caller. The line names both clusters where they are known.
func TestRefusalsAreSaidOnce(t *testing.T) {
	logID := func(id uint64) func(*Config) { return func(c *Config) { c.LogID = func() uint64 { return id } } }
	for _, test := range []struct {
		name         string
		stranger     func(*Config)
		from, at     int // lines a minute of who comes and of who is there
		words, heard string
	}{
		{"other secret, no log yet", func(c *Config) { c.Secret = secret("o") }, 0, 1,
			"another cluster (other secret): give both the same secret: cluster ", "another cluster (other secret)"},
		{"other log", logID(2), 1, 1, "another log", "another log, since its cluster was initialised apart"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				wire := newMemnet()
				var here, there warnings
				n1 := start(t, wire.listen("10.0.0.1:1"), "n1", logID(1), here.set)
				n2 := start(t, wire.listen("10.0.0.2:1"), "n2", test.stranger, there.set)
				for range 150 {
					_, err := n2.Resolve(within(t, time.Minute), n1.addr)
					if err == nil || !strings.Contains(err.Error(), test.words) {
						t.Fatalf("refused with %v, want %q", err, test.words)
					}
					time.Sleep(500 * time.Millisecond)
				}
				for _, side := range []struct {
					who   string
					lines []string
					want  int
				}{{"who comes", there.lines(), test.from}, {"who is there", here.lines(), test.at}} {
					if len(side.lines) != 2*side.want { // 75 s: the first and one more
						t.Errorf("%s says in 75 s, want %d lines:\n%s", side.who, 2*side.want, strings.Join(side.lines, "\n"))
					}
					for _, line := range side.lines {
						if !strings.Contains(line, test.heard) {
							t.Errorf("%s says %s, want %q", side.who, line, test.heard)
						}
					}
				}
			})
		})
	}
}

// The dialler names both clusters: its own, and that of the certificate it cannot verify.
func TestOtherClusterIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
		n2 := start(t, wire.listen("10.0.0.2:1"), "n2", func(c *Config) { c.Secret = secret("o") })
		_, err := n2.Resolve(within(t, time.Minute), n1.addr)
		want := "cluster " + n1.ClusterID() + " there, cluster " + n2.ClusterID() + " here"
		if !errors.Is(err, ErrOtherCluster) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v, want one that ends %q", err, want)
		}
	})
}

// A QUIC server that is none of ours is no other cluster.
func TestNotWeir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wire := newMemnet()
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		from, to := validity()
		for name, dns := range map[string][]string{"10.0.0.8:1": {"example.org"}, "10.0.0.9:1": {serverName}} {
			self := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: dns, NotBefore: from, NotAfter: to}
			der, err := x509.CreateCertificate(rand.Reader, self, self, public, private)
			if err != nil {
				t.Fatal(err)
			}
			tr := &quic.Transport{Conn: wire.listen(name)}
			defer tr.Close()
			ln, err := tr.Listen(&tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{classCtl.alpn()},
				Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}},
			}, quicConfig())
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			n1 := start(t, wire.listen("10.0.0.1:1"), "n1")
			if _, err := n1.Resolve(within(t, time.Minute), name); !errors.Is(err, ErrNotWeir) {
				t.Errorf("%s: %v, want %v", dns, err, ErrNotWeir)
			}
			n1.stop()
		}
	})
}

// F13: a clock by which no certificate is valid is refused at once, and named.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conf := Config{Conn: newMemnet().listen("10.0.0.1:1"), Secret: secret("s"), ID: "n1", Boot: 1}
		if _, err := New(conf); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * 366 * 24 * time.Hour) // a bubble begins in 2000
		_, err := New(conf)
		if !errors.Is(err, ErrClock) || !strings.HasSuffix(err.Error(), "check its date (NTP): this node's says 2100-03-17") {
			t.Errorf("in 2100: %v", err)
		}
	})
	if checkClock(time.Unix(0, 0)) == nil || checkClock(time.Now()) != nil {
		t.Error("1970 is taken for valid, or today is not")
	}
}
