package tap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/stream"
)

// pipeListener accepts what dial makes: connections in memory, so that time is the bubble's.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }
func (l *pipeListener) dial(context.Context, string, string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- a:
		return b, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// web is an HTTP tap and a client of it.
type web struct {
	r      *requests
	ln     *pipeListener
	client *http.Client
}

func openWeb(t *testing.T, cfg Config) *web {
	t.Helper()
	tp, err := HTTP(HTTPListen{Listen: ":0", Path: "/in"}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	w := &web{tp.(*httpTap).serve(ln), ln, &http.Client{Transport: &http.Transport{DialContext: ln.dial, DisableKeepAlives: true}}}
	return w
}

// post posts a body; the answer comes as "STATUS text".
func (w *web) post(ctx context.Context, body io.Reader) <-chan string {
	answer := make(chan string, 1)
	go func() { // ended by the answer, or by ctx
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://x/in", body)
		var resp *http.Response
		if err == nil {
			resp, err = w.client.Do(req)
		}
		if err != nil {
			answer <- err.Error()
			return
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		answer <- strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(text)))
	}()
	return answer
}

// pending reports whether there is no answer yet.
func pending(answer <-chan string) bool {
	synctest.Wait()
	return len(answer) == 0
}

// The answer is 200 once the record is acked, not before, whatever order the acks have.
func TestHTTPAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWeb(t, Config{})
		var answers []<-chan string
		var marks []stream.Mark
		for i, body := range []string{"one", "two\n", "three\nlines\n\n"} {
			answers = append(answers, w.post(t.Context(), strings.NewReader(body)))
			o, m, err := w.r.Next(t.Context())
			if want := strings.TrimSuffix(body, "\n"); err != nil || string(o.Body) != want {
				t.Fatalf("record %d is %q, %v; want %q", i, o.Body, err, want)
			}
			marks = append(marks, append(stream.Mark{}, m...))
		}
		time.Sleep(time.Hour)
		for i := 2; i >= 0; i-- {
			if !pending(answers[i]) {
				t.Errorf("request %d was answered before its ack: %s", i, <-answers[i])
			}
			w.r.Done(marks[i], nil)
			if got := <-answers[i]; got != "200" {
				t.Errorf("request %d: %s", i, got)
			}
		}
		if err := w.r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Where nobody takes a record, the client is told to come back within 100 ms.
func TestHTTPFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWeb(t, Config{})
		began := time.Now()
		if got := <-w.post(t.Context(), strings.NewReader("x")); got != "429 no record is taken now" {
			t.Error(got)
		}
		if took := time.Since(began); took >= 100*time.Millisecond {
			t.Errorf("after %v", took)
		}
		if len(w.r.waiting) != 0 || w.r.asking != 0 || w.r.bytes != 0 {
			t.Errorf("left behind: %+v", w.r)
		}
		_ = w.r.Close()
	})
}

// Requests that wait, and bytes that are being read, have a bound.
func TestHTTPBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWeb(t, Config{})
		w.r.asking = requestsMax
		if got := <-w.post(t.Context(), strings.NewReader("x")); got != "429 too many requests wait for their acks" {
			t.Error(got)
		}
		w.r.asking, w.r.bytes = 0, bodiesMax
		if got := <-w.post(t.Context(), strings.NewReader("x")); got != "429 too many bodies are being read" {
			t.Error(got)
		}
		w.r.bytes = 0
		_ = w.r.Close()
	})
}

func TestHTTPRefusals(t *testing.T) {
	post := func(path, header, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", path, header, len(body), body)
	}
	for _, tc := range []struct{ name, request, want string }{
		{"other path", post("/other", "", "x"), "404 records are posted to /in"},
		{"get", "GET /in HTTP/1.1\r\nHost: x\r\n\r\n", "405 records are posted"},
		{"too large, and says so", post("/in", "", "123456789"), "413 the body is larger than 8 bytes: raise record-max"},
		{"a newline more is none", post("/in", "", "12345678\n"), "200"},
		{"too large in chunks", "POST /in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n", "413 the body is larger than 8 bytes: raise record-max"},
		{"empty", post("/in", "", ""), "400 the body is empty: an empty line is a newline"},
		{"an empty line", post("/in", "", "\n"), "200"},
		{"NULs", post("/in", "", "\x00\x00"), "200"},
		{"from a page of another site", post("/in", "Origin: http://evil.example\r\n", "x"), "403 cross-origin request detected"},
		{"less than it says, for ever", "POST /in HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n123", "408 the body did not come in time"},
		{"chunks that are none", "POST /in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "400 the body was cut short"},
		{"a header without end", "POST /in HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10), "431"},
		{"no HTTP", "hello\r\n\r\n", "400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := openWeb(t, Config{RecordMax: 8})
				go func() { // ended by Close: takes and acks
					for {
						_, m, err := w.r.Next(t.Context())
						if err != nil {
							return
						}
						w.r.Done(m, nil)
					}
				}()
				c, err := w.ln.dial(t.Context(), "", "")
				if err != nil {
					t.Fatal(err)
				}
				go io.WriteString(c, tc.request) // ended by the connection's end
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				text, _ := io.ReadAll(resp.Body)
				if got := strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(text))); !strings.HasPrefix(got, tc.want) || tc.want == "200" && got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
				c.Close()
				_ = w.r.Close()
				if len(w.r.waiting) != 0 || w.r.asking != 0 || w.r.bytes != 0 {
					t.Errorf("left behind: waiting %d, asking %d, bytes %d", len(w.r.waiting), w.r.asking, w.r.bytes)
				}
			})
		})
	}
}

// A client that goes away takes no record with it; what it held is given back.
func TestHTTPClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWeb(t, Config{})
		ctx, cancel := context.WithCancel(t.Context())
		answer := w.post(ctx, strings.NewReader("x"))
		o, m, err := w.r.Next(t.Context())
		if err != nil || string(o.Body) != "x" {
			t.Fatalf("%q, %v", o.Body, err)
		}
		cancel()
		<-answer
		synctest.Wait()
		w.r.Done(m, nil) // the ack finds nobody
		if len(w.r.waiting) != 0 || w.r.asking != 0 {
			t.Errorf("left behind: %+v", w.r)
		}
		_ = w.r.Close()
	})
}

// A tap that is to stop takes nothing more, and tells who waits in the end that it does not know.
func TestHTTPDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWeb(t, Config{})
		acked, left := w.post(t.Context(), strings.NewReader("a")), (<-chan string)(nil)
		_, m, err := w.r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m = append(stream.Mark{}, m...)
		left = w.post(t.Context(), strings.NewReader("b"))
		if _, _, err := w.r.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		reading, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := w.r.Next(reading); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if got := <-w.post(t.Context(), strings.NewReader("c")); got != "503 this node stops" {
			t.Errorf("while it drains: %s", got)
		}
		w.r.Done(m, nil)
		if got := <-acked; got != "200" {
			t.Errorf("acked while it drains: %s", got)
		}
		if err := w.r.Close(); err != nil {
			t.Error(err)
		}
		if got := <-left; got != "503 this node stops, and the record was taken: it may or may not be acked" {
			t.Errorf("never acked: %s", got)
		}
	})
}

// Real sockets: two taps cannot have one port, and the sentence says so with exit code 75.
func TestHTTPListens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, tc := range []struct {
		in   HTTPListen
		exit int
		err  string
	}{
		{HTTPListen{Listen: ":" + port}, 75, "tap http: 127.0.0.1:" + port + " is in use: stop who listens there, or choose another port"},
		{HTTPListen{Listen: "192.0.2.1:80"}, 78, "tap http: listen tcp 192.0.2.1:80: bind: cannot assign requested address"},
		{HTTPListen{Listen: "8080"}, 1, `tap http: listen "8080": write it as 127.0.0.1:8080 or :8080`},
		{HTTPListen{Listen: ":0", Path: "in"}, 1, `tap http: path "in": write it as /in`},
	} {
		tp, err := HTTP(tc.in, Config{})
		if err == nil {
			_, err = open(t, tp, nil)
		}
		if text(err) != tc.err || max(1, stream.ExitCode(err)) != tc.exit {
			t.Errorf("%v: error %q of exit code %d, want %q", tc.in, text(err), stream.ExitCode(err), tc.err)
		}
	}
}
