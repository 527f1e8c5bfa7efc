package sink

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/rueidis"

	"weir/node/servertest"
	"weir/stream"
)

// entries are the bodies of a stream, sorted.
func entries(t *testing.T, c rueidis.Client, name string) []string {
	t.Helper()
	got, err := c.Do(t.Context(), c.B().Xrange().Key(name).Start("-").End("+").Build()).AsXRange()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range got {
		if len(e.FieldValues["id"]) != 2*idBytes {
			t.Errorf("an entry without its ID: %v", e)
		}
		all = append(all, e.FieldValues["body"])
	}
	slices.Sort(all)
	return all
}

func openRedis(t *testing.T, cfg RedisConfig) stream.Sink {
	t.Helper()
	s, err := Redis(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestRedis(t *testing.T) {
	server := servertest.Redis(t)
	testStore(t, store{
		open: func(*testing.T) stream.Sink { return openRedis(t, RedisConfig{URL: server.URL(), Stream: "lines"}) },
		lines: func(t *testing.T) []string {
			return entries(t, servertest.RedisClient(t, server.URL()), "lines")
		},
		kill: server.Kill, start: server.Start, freeze: server.Freeze, thaw: server.Thaw,
	})
}

// A connection that dies with the answer to a Write on it, or with the Write itself, makes no entry
// twice and loses none.
func TestRedisAnswerLost(t *testing.T) {
	server := servertest.Redis(t)
	c := servertest.RedisClient(t, server.URL())
	for name, fault := range map[string]func(p *proxy) (heal func()){
		"the answer is lost":         func(p *proxy) func() { p.swallow.Store(true); return func() { p.swallow.Store(false) } },
		"the request is lost":        func(p *proxy) func() { p.drop.Store(true); return func() { p.drop.Store(false) } },
		"the request comes too late": func(p *proxy) func() { p.hold.Store(true); return func() { p.hold.Store(false) } },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, server.Addr)
			s := openRedis(t, RedisConfig{URL: "redis://" + p.addr, Stream: name})
			r := remember(t, s)
			if err := r.write(t.Context(), numbered(0, 10)); err != nil {
				t.Fatal(err)
			}
			heal := fault(p)
			if err := s.Write(t.Context(), numbered(10, 20), stream.Seen{Source: 7}); stream.ExitCode(err) != 75 {
				t.Fatalf("error %v, want a Retry", err)
			}
			heal()
			if err := r.write(t.Context(), numbered(10, 20)); err != nil {
				t.Fatal(err)
			}
			p.release()
			if err := r.write(t.Context(), numbered(20, 30)); err != nil {
				t.Fatal(err)
			}
			if got := entries(t, c, name); !slices.Equal(got, bodies(0, 30)) {
				t.Errorf("the stream has %q", got)
			}
		})
	}
}

// A sink that was taken for dead writes no more once another has begun.
func TestRedisTwoSinks(t *testing.T) {
	server := servertest.Redis(t)
	old := remember(t, openRedis(t, RedisConfig{URL: server.URL(), Stream: "s"}))
	if err := old.write(t.Context(), numbered(0, 10)); err != nil {
		t.Fatal(err)
	}
	next := remember(t, openRedis(t, RedisConfig{URL: server.URL(), Stream: "s"}))
	err := old.Sink.Write(t.Context(), numbered(10, 20), stream.Seen{})
	if want := "redis at " + server.Addr + ", stream s: another sink writes to it now: give each node a stream of its own, with {node} in the name"; stream.ExitCode(err) != 75 || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if err := next.write(t.Context(), numbered(0, 30)); err != nil {
		t.Fatal(err)
	}
	if got := entries(t, servertest.RedisClient(t, server.URL()), "s"); !slices.Equal(got, bodies(0, 30)) {
		t.Errorf("the stream has %q", got)
	}
}

func TestRedisSeen(t *testing.T) {
	server := servertest.Redis(t)
	s := openRedis(t, RedisConfig{URL: server.URL(), Stream: "s", MaxLen: 100})
	for i, seen := range []stream.Seen{
		{Source: 1, Bytes: []byte("a\x00")}, {Source: 2, Bytes: []byte("other")}, {Source: 1, Bytes: []byte("b")},
		{Source: 1, Bytes: []byte("c"), Whole: true}, {Source: 1, Bytes: []byte("d")},
	} {
		if err := s.Write(t.Context(), numbered(1000*i, 1000*i+1000), seen); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Load(t.Context(), 1); err != nil || string(got) != "cd" {
		t.Errorf("loaded %q, %v", got, err)
	}
	if got, err := s.Load(t.Context(), 3); err != nil || got != nil {
		t.Errorf("loaded %q, %v", got, err)
	}
	if n := len(entries(t, servertest.RedisClient(t, server.URL()), "s")); n < 100 || n > 300 {
		t.Errorf("the stream keeps %d entries, want about 100", n)
	}
}

func TestRedisMisconfigured(t *testing.T) {
	server := servertest.Redis(t, "--requirepass", "right", "--appendfsync", "everysec")
	at := "redis at " + server.Addr + ", stream "
	url := func(password string) string { return "redis://:" + password + "@" + server.Addr }
	c := servertest.RedisClient(t, url("right"))
	if err := c.Do(t.Context(), c.B().Set().Key("text").Value("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ url, stream, want string }{
		{url("s3cret-canary"), "s", at + "s: WRONGPASS invalid username-password pair or user is disabled."},
		{"redis://" + server.Addr, "s", at + "s: NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"},
		{url("right") + "/99", "s", at + "s: DB index is out of range"},
		{url("right"), "text", at + "text: WRONGTYPE Operation against a key holding the wrong kind of value"},
	} {
		err := openRedis(t, RedisConfig{URL: tc.url, Stream: tc.stream}).Write(t.Context(), numbered(0, 1), stream.Seen{})
		if stream.ExitCode(err) != 78 || err.Error() != tc.want {
			t.Errorf("error %v (%d), want %s", err, stream.ExitCode(err), tc.want)
		}
	}
	if _, err := Redis(RedisConfig{URL: "redis://:s3cret-canary@host:x:y/"}); stream.ExitCode(err) != 78 || strings.Contains(err.Error(), "canary") {
		t.Errorf("error %v", err)
	}

	var log bytes.Buffer
	s := openRedis(t, RedisConfig{URL: url("right"), Stream: "s", Log: slog.New(slog.NewTextHandler(&log, nil))})
	for i := range 3 {
		if err := s.Write(t.Context(), numbered(i, i+1), stream.Seen{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "appendfsync=everysec"); n != 1 {
		t.Errorf("warned %d times: %s", n, &log)
	}
	// A Redis without memory has the sink wait, and takes what comes when there is some.
	limit := func(to string) {
		if err := c.Do(t.Context(), c.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", to).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	limit("1")
	if err := s.Write(t.Context(), numbered(3, 10), stream.Seen{}); stream.ExitCode(err) != 75 || !strings.Contains(fmt.Sprint(err), "OOM") {
		t.Errorf("error %v, want a Retry of OOM", err)
	}
	limit("0")
	if err := s.Write(t.Context(), numbered(3, 10), stream.Seen{}); err != nil {
		t.Error(err)
	}
	// One that lost all goes on, and it is said.
	if err := c.Do(t.Context(), c.B().Flushall().Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := remember(t, s).write(t.Context(), numbered(20, 30)); err != nil {
		t.Error(err)
	}
	if got := entries(t, c, "s"); !slices.Equal(got, bodies(20, 30)) || !strings.Contains(log.String(), "redis lost what it had acknowledged") {
		t.Errorf("the stream has %q; log %s", got, &log)
	}
}

// proxy stands between a sink and its server, and spoils what passes.
type proxy struct {
	addr                string
	swallow, drop, hold atomic.Bool // answers; requests; requests, until release

	mu    sync.Mutex
	conns []net.Conn
	held  []func()
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() { // ended by l's end
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, near, far)
			p.mu.Unlock()
			answered := make(chan struct{})
			all.Go(func() { p.requests(far, near, answered) }) // ended by near's end
			all.Go(func() {                                    // ended by far's end
				p.answers(near, far)
				close(answered)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		all.Wait()
	})
	return p
}

// requests carries what the sink asks. A request that is dropped or held ends the sink's connection.
func (p *proxy) requests(far, near net.Conn, answered chan struct{}) {
	buf := make([]byte, 1<<20)
	for {
		n, err := near.Read(buf)
		if err != nil {
			if !p.hold.Load() {
				_ = far.Close()
			}
			return
		}
		switch {
		case p.hold.Load():
			text := bytes.Clone(buf[:n])
			p.mu.Lock()
			p.held = append(p.held, func() {
				_, _ = far.Write(text)
				<-answered // which the sink's end of it does not live to see
				_ = far.Close()
			})
			p.mu.Unlock()
			_ = near.Close()
			return
		case p.drop.Load():
			_ = near.Close()
			_ = far.Close()
			return
		}
		if _, err := far.Write(buf[:n]); err != nil {
			return
		}
	}
}

// answers carries what the server answers. One that is swallowed ends the sink's connection.
func (p *proxy) answers(near, far net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := far.Read(buf)
		if err != nil || p.swallow.Load() {
			_ = near.Close()
			return
		}
		if _, err := near.Write(buf[:n]); err != nil {
			return
		}
	}
}

// release has the server get what was held.
func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.held {
		f()
	}
	p.held = nil
}
