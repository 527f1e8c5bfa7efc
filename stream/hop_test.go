package stream

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"weir/stream/mux"
	"weir/stream/wire"
	"weir/topology"
)

// The hops of these benchmarks lead to and fro between two processes, over real UDP on
// loopback with mutual TLS: tap → sink, or tap → map1 → map2 → sink, the even roles here and
// the odd ones in the other process, which is this test binary again.
//
//	go test ./stream -run '^$' -bench Hop
//	WEIR_FIGURES=1 go test ./stream -run TestHopFigures -v

const hopEnv = "WEIR_TEST_HOP" // the secret; set in the other process

func TestMain(m *testing.M) {
	if secret := os.Getenv(hopEnv); secret != "" {
		far(secret)
		return
	}
	os.Exit(m.Run())
}

// side is one process: a mux and the inlets that links lead to.
type side struct {
	mux    *mux.Mux
	id     topology.NodeID
	budget *Budget
	cancel context.CancelFunc
	ctx    context.Context
	group  sync.WaitGroup
	gen    atomic.Uint64

	mu     sync.Mutex
	inlets map[string]*Inlet
}

func newSide(id topology.NodeID, secret []byte) (*side, string, error) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, "", err
	}
	m, err := mux.New(mux.Config{Conn: conn, Secret: secret, ID: id, Boot: 1})
	if err != nil {
		return nil, "", err
	}
	s := &side{mux: m, id: id, budget: NewBudget(0), inlets: make(map[string]*Inlet)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	m.Handle(mux.KindLink, func(ctx context.Context, p mux.Peer, c net.Conn) {
		l, err := Accept(c)
		if err != nil {
			return
		}
		s.mu.Lock()
		in := s.inlets[l.To]
		s.mu.Unlock()
		if in != nil {
			_ = in.Serve(ctx, l, p.ID)
		}
	})
	s.group.Go(func() { _ = m.Run(s.ctx) })
	return s, conn.LocalAddr().String(), nil
}

func (s *side) close() {
	s.cancel()
	s.group.Wait()
}

// outlet makes a role's outlet with one link, to the role to on peer.
func (s *side) outlet(ctx context.Context, pipeline, role, to string, peer topology.NodeID, addr string, dropAcks bool) *Outlet {
	e := topology.Edge{From: role, To: to}
	o := NewOutlet(OutletConfig{
		Pipeline: pipeline, Role: role, Edges: []topology.Edge{e}, Budget: s.budget, dropAcks: dropAcks,
	})
	s.group.Go(func() {
		for ctx.Err() == nil { // until the other side has the role
			conn, err := s.mux.Open(ctx, peer, addr, mux.KindLink)
			if err != nil {
				return
			}
			l := topology.Link{Pipeline: pipeline, Edge: e, From: s.id, To: peer}
			_ = o.Serve(ctx, conn, Hello{Link: l, Boot: 1, Generation: s.gen.Add(1)}, nil)
		}
	})
	return o
}

// copier emits what it gets.
var copier = Each(func(ctx context.Context, r Record, e Emitter) error { return e.Emit(ctx, r.Out) })

func (s *side) inlet(role string, h Handler, out *Outlet, dropAcks bool) {
	in := NewInlet(InletConfig{
		Role: role, Handler: h, Outlet: out, Budget: s.budget, Capacity: 512,
		Log: slog.New(slog.DiscardHandler), dropAcks: dropAcks,
	})
	s.group.Go(func() { _ = in.Run(s.ctx) })
	s.mu.Lock()
	s.inlets[role] = in
	s.mu.Unlock()
}

// ends are sinks; d in a role's name drops acks.
var drop = Each(func(context.Context, Record, Emitter) error { return nil })

// far is the other process: it serves until its stdin ends.
func far(secret string) {
	raw, err := hex.DecodeString(secret)
	if err != nil {
		panic(err)
	}
	in := bufio.NewReader(os.Stdin)
	near, _ := in.ReadString('\n')
	s, addr, err := newSide("far", raw)
	if err != nil {
		panic(err)
	}
	quicAddr, stop := rawListen()
	defer stop()
	for _, d := range []bool{false, true} {
		name := map[bool]string{false: "", true: "d"}[d]
		s.inlet("sink"+name, drop, nil, d)
		out := s.outlet(s.ctx, "bench", "map1"+name, "map2"+name, "near", strings.TrimSpace(near), d)
		s.inlet("map1"+name, copier, out, d)
	}
	fmt.Println(addr, quicAddr)
	_, _ = io.Copy(io.Discard, in)
	s.close()
}

// hops is both processes, seen from this one.
type hops struct {
	*side
	addr, quicAddr string
}

func newHops(t testing.TB) *hops {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	s, addr, err := newSide("near", secret)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), hopEnv+"="+hex.EncodeToString(secret))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
		s.close()
	})
	fmt.Fprintln(stdin, addr)
	h := &hops{side: s}
	if _, err := fmt.Fscan(stdout, &h.addr, &h.quicAddr); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "d"} {
		d := name != ""
		s.inlet("map2"+name, copier, s.outlet(s.ctx, "bench", "map2"+name, "sink"+name, "far", h.addr, d), d)
	}
	return h
}

// bodies is a Reader of records of size bytes until it is stopped.
type bodies struct {
	body []byte
	stop atomic.Bool
}

func (r *bodies) Next(context.Context) (Out, Mark, error) {
	if r.stop.Load() {
		return Out{}, nil, io.EOF
	}
	return Out{Body: r.body}, nil, nil
}

func (r *bodies) Done(Mark, error) {}
func (r *bodies) Close() error     { return nil }

// run sends records of size over one or three hops for about d and returns those acked per
// second.
func (h *hops) run(t testing.TB, n, size int, d time.Duration, dropAcks bool) float64 {
	name, to := "", "sink"
	if dropAcks {
		name = "d"
	}
	if n == 3 {
		to = "map1"
	}
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	o := h.outlet(ctx, "bench", fmt.Sprint("tap", h.gen.Add(1)), to+name, "far", h.addr, dropAcks)
	r := &bodies{body: make([]byte, size)}
	_, _ = rand.Read(r.body)
	s := NewSource(SourceConfig{ID: h.gen.Load(), Gen: 1, Reader: r, Outlet: o, Budget: h.budget})
	start := time.Now()
	timer := time.AfterFunc(d, func() { r.stop.Store(true) })
	defer timer.Stop()
	if err := s.Run(h.ctx, h.ctx); err != nil {
		t.Fatal(err)
	}
	return float64(s.Stats().Acked) / time.Since(start).Seconds()
}

// raw sends bytes over one stream of quic-go as it comes, with mutual TLS, for about d and
// returns bytes per second.
func (h *hops) raw(t testing.TB, d time.Duration) float64 {
	ctx, cancel := context.WithTimeout(h.ctx, 10*time.Second)
	defer cancel()
	conn, err := quic.DialAddr(ctx, h.quicAddr, rawTLS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseWithError(0, "")
	s, err := conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, wire.BatchBytes)
	sent := 0
	start := time.Now()
	for time.Since(start) < d {
		n, err := s.Write(buf)
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, buf[:1]); err != nil { // the other side has read all of it
		t.Fatal(err)
	}
	return float64(sent) / time.Since(start).Seconds()
}

func rawTLS() *tls.Config {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, pub, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAnyClientCert, InsecureSkipVerify: true, NextProtos: []string{"raw"},
	}
}

func rawListen() (addr string, stop func()) {
	l, err := quic.ListenAddr("127.0.0.1:0", rawTLS(), nil)
	if err != nil {
		panic(err)
	}
	go func() { // ended by stop
		for {
			conn, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			s, err := conn.AcceptStream(context.Background())
			if err != nil {
				continue
			}
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, s, make([]byte, readBytes))
			_, _ = s.Write([]byte{1})
			_ = s.Close()
		}
	}()
	return l.Addr().String(), func() { _ = l.Close() }
}

func BenchmarkHop(b *testing.B) {
	for _, bm := range []struct{ hops, size int }{{1, 128}, {1, 1024}, {3, 128}, {3, 1024}} {
		b.Run(fmt.Sprintf("hops=%d/size=%d", bm.hops, bm.size), func(b *testing.B) {
			h := newHops(b)
			for b.Loop() {
				rate := h.run(b, bm.hops, bm.size, time.Second, false)
				b.ReportMetric(rate, "records/s")
				b.ReportMetric(rate*float64(bm.size)/1e6, "MB/s")
			}
		})
	}
}

// TestHopFigures holds the hop against a raw quic-go stream and against itself without acks,
// each pair in turn within one run.
func TestHopFigures(t *testing.T) {
	if os.Getenv("WEIR_FIGURES") == "" {
		t.Skip("WEIR_FIGURES=1 measures")
	}
	const rounds, d = 5, time.Second
	h := newHops(t)
	for _, size := range []int{128, 1024} {
		var one, raw, ofRaw, ofUnacked, ofOne []float64
		for range rounds {
			r := h.raw(t, d)
			a := h.run(t, 1, size, d, false)
			u := h.run(t, 1, size, d, true)
			c := h.run(t, 3, size, d, false)
			one, raw = append(one, a), append(raw, r)
			ofRaw = append(ofRaw, a*float64(size)/r)
			ofUnacked = append(ofUnacked, a/u)
			ofOne = append(ofOne, c/a)
		}
		fmt.Printf("| %d bytes over one hop, two processes | %.2f M records/s, %.0f MB/s, %.2f of a raw quic-go stream (%.0f MB/s) |\n",
			size, median(one)/1e6, median(one)*float64(size)/1e6, median(ofRaw), median(raw)/1e6)
		fmt.Printf("| %d bytes: acked of the same without acks; three hops of one | %.2f; %.2f |\n", size, median(ofUnacked), median(ofOne))
		if got := median(ofRaw); got < 0.5 {
			t.Errorf("%d bytes: one hop has %.2f of a raw quic-go stream, want 0.5", size, got)
		}
		if got := median(ofUnacked); got < 0.9 {
			t.Errorf("%d bytes: acked has %.2f of unacked, want 0.9", size, got)
		}
	}
}

func median(xs []float64) float64 {
	s := slices.Sorted(slices.Values(xs))
	return s[len(s)/2]
}
