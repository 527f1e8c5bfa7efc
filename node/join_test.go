package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) with(text string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// await polls until the log has a line with text.
func (l *lines) await(t *testing.T, text string, within time.Duration) string {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		if found := l.with(text); len(found) > 0 {
			return found[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("no line with %q within %v in:\n%s", text, within, strings.Join(l.with(""), ""))
		}
	}
}

// runLogged runs a node until the test ends, and returns it and its log.
func runLogged(t *testing.T, cfg Config) (*Node, *lines) {
	t.Helper()
	log := new(lines)
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("node %s: %v", n.ID(), err)
		}
	})
	return n, log
}

func newSecret() []byte {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret)
	return secret
}

// socket is a UDP port with something that is no node behind it.
func socket(t *testing.T, answer bool) string {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 2048); ; {
			_, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if answer {
				_, _ = conn.WriteTo([]byte("what do you want?"), from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

// freePort is an address of loopback that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

// Each cause for which a node waits has a sentence of its own, with what to do about it, and says
// it once.
func TestSayWaiting(t *testing.T) {
	t.Parallel()
	secret := newSecret()
	gone, self := freePort(t), freePort(t)
	other, otherLog := runLogged(t, Config{Secret: newSecret()})
	for name, tt := range map[string]struct{ seed, want string }{
		"itself":       {self, ": that is this node itself, which belongs to no cluster: join another, or run weir cluster init"},
		"nobody":       {gone, ": nobody listens on that UDP port: is the node started, and the port right?"},
		"silence":      {socket(t, false), ": no answer: is a node running there, is the address right, and its UDP port open in every firewall between?"},
		"not weir":     {socket(t, true), ": what answers there is no weir node: is the address right?"},
		"other secret": {other.Addr(), ": the peer belongs to another cluster (other secret): give both the same secret: cluster " + other.mux.ClusterID() + " there, cluster "},
		"no such name": {"no-such-host.invalid:7411", ": the name does not resolve, is it spelled right? ("},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := Config{Secret: secret, Join: []string{tt.seed}}
			if tt.seed == self {
				cfg.Listen = self
			}
			n, log := runLogged(t, cfg)
			line := log.await(t, "waiting for a cluster", 10*time.Second)
			if want := "why=\"" + tt.seed + tt.want; !strings.Contains(line, want) {
				t.Errorf("%s waits with\n%s want %s", n.ID(), line, want)
			}
			time.Sleep(2 * seedsEvery) // a round or two more
			if found := log.with("level=WARN"); len(found) != 1 {
				t.Errorf("said %d times:\n%s", len(found), strings.Join(found, ""))
			}
		})
	}
	t.Cleanup(func() {
		if found := otherLog.with("connection refused"); len(found) != 1 {
			t.Errorf("the other cluster says %d times:\n%s", len(found), strings.Join(found, ""))
		}
	})
}

func TestWaitingEnds(t *testing.T) {
	t.Parallel()
	secret := newSecret()
	seed := socket(t, false)
	late, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, log := runLogged(t, Config{Secret: secret, Join: []string{seed, late.LocalAddr().String(), "127.0.0.1:1"}})
	line := log.await(t, "waiting for a cluster", 10*time.Second)
	if want := "why=\"" + seed + ", " + late.LocalAddr().String() + ": no answer"; !strings.Contains(line, want) || !strings.Contains(line, "; 127.0.0.1:1: nobody listens") {
		t.Errorf("two reasons for three seeds: %s", line)
	}
	addr := late.LocalAddr().String()
	late.Close()
	runLogged(t, Config{Secret: secret, Listen: addr})
	log.await(t, "joined the cluster", 15*time.Second)
}

func TestSeedsAreChecked(t *testing.T) {
	for _, seed := range []string{"10.0.0.1", ":7411", "10.0.0.1:0", "10.0.0.1:99999", "10.0.0.1:http", "a b"} {
		_, err := New(Config{Secret: newSecret(), Listen: "127.0.0.1:0", Join: []string{seed}})
		if want := "--join " + seed + ": want HOST:PORT, as 10.0.0.1:7411"; err == nil || err.Error() != want {
			t.Errorf("New: %v, want %s", err, want)
		}
	}
}
