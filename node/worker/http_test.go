package worker

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/stream"
)

// startHTTP posts to url until the test ends.
func startHTTP(t *testing.T, cfg HTTPConfig) (*poster, context.Context) {
	t.Helper()
	h, err := newPoster(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	ran := make(chan struct{})
	go func() { defer close(ran); _ = h.Run(ctx) }() // ended by cancel
	t.Cleanup(func() { cancel(); <-ran })
	return h, ctx
}

// serve is a server that answers each request by f.
func serve(t *testing.T, f http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

// speak is a server that reads the header of a request, says text, and says more until it is hung up
// or, where more is nil, hangs up.
func speak(t *testing.T, text string, more func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() { // ended by Close
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() { // ended by the client, which is gone before the server
				defer c.Close()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(c, text)
				if more != nil {
					more(c)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	return "http://" + l.Addr().String()
}

// What is posted, and what becomes of the answer.
func TestHTTP(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		user, password, _ := r.BasicAuth()
		switch string(body) {
		case "empty":
		case "newline":
			fmt.Fprint(w, "\n")
		case "lines":
			fmt.Fprint(w, "a\nb\n\n")
		case "created":
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, "new")
		default:
			fmt.Fprintf(w, "%s %s %s %q %s %s %s %s", r.Method, r.URL, r.Header.Get("Content-Type"), body,
				r.Header.Get("Weir-Id"), r.Header.Get("Weir-Attempt"), user, password)
		}
	})
	url = strings.Replace(url, "http://", "http://me:secret@", 1) + "/in?x=1"
	h, ctx := startHTTP(t, HTTPConfig{URL: url, Header: map[string]string{"content-type": "application/json"}})
	id := strings.Repeat("000000000000000a", 5)
	for in, want := range map[string]string{
		"empty": "", "newline": `""`, "lines": `"a\nb\n"`, "created": `"new"`,
		"":     `"POST /in?x=1 application/json \"\" ` + id + ` 2 me secret"`,
		"\xff": `"POST /in?x=1 application/json \"\\xff\" ` + id + ` 2 me secret"`,
	} {
		r := record(in)
		r.ID, r.Attempt = stream.ID{Source: 10, Gen: 10, Seq: 10, Path: 10, Sum: 10}, 2
		r.Key, r.Header = []byte("k"), map[string]string{"h": "1"}
		var em fakeEmitter
		if err := h.handle(ctx, r, &em); err != nil {
			t.Fatal(err)
		}
		if got := bodies(&em); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
		if len(em.outs) > 0 && (string(em.outs[0].Key) != "k" || em.outs[0].Header["h"] != "1") {
			t.Errorf("%q: key and header are %+v", in, em.outs[0])
		}
	}
}

// What an answer means for its record.
func TestHTTPStatus(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var status int
		_, _ = fmt.Fscan(r.Body, &status)
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(status)
		fmt.Fprint(w, "because\n of it "+strings.Repeat("x", 1000))
	})
	h, ctx := startHTTP(t, HTTPConfig{URL: url + "/?token=secret"})
	for status, want := range map[int]int{
		200: 0, 204: 0, 307: 78, 301: 78, 304: 78, 400: 65, 413: 65, 422: 65, 401: 75, 403: 75, 404: 75, 408: 75, 425: 75, 429: 75, 503: 75,
		500: 1, 502: 1, 504: 1,
	} {
		var em fakeEmitter
		err := h.handle(ctx, record(fmt.Sprint(status)), &em)
		got := stream.ExitCode(err)
		if err != nil && got == 0 {
			got = 1
		}
		if got != want {
			t.Errorf("%d: code %d, want %d", status, got, want)
		}
		if said := text(err); strings.Contains(said, "secret") || len(said) > 400 ||
			status >= 400 && !strings.HasPrefix(said, fmt.Sprintf("post %s/: %d %s", url, status, http.StatusText(status))) || status >= 400 && !strings.Contains(said, ": because of it xxx") {
			t.Errorf("%d: %s", status, said)
		}
	}
}

// An answer is as large as a record may be.
func TestHTTPRecordMax(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	h, ctx := startHTTP(t, HTTPConfig{URL: url, RecordMax: 8})
	for in, want := range map[string]string{
		"12345678": `"12345678"`, "12345678\n": `"12345678"`, "123456789": "", "12345678\nx": "", "12345678\n\n": "",
	} {
		var em fakeEmitter
		err := h.handle(ctx, record(in), &em)
		if got := bodies(&em); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: emitted %s, error %v", in, got, err)
		}
	}
}

// Endpoints that hang, lie or never end cost their record an attempt, and nothing else.
func TestHTTPBadEndpoints(t *testing.T) {
	t.Parallel()
	const head = "HTTP/1.1 200 OK\r\n"
	hang := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	flood := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, text); err != nil {
					return
				}
			}
		}
	}
	drip := func(c net.Conn) {
		for range 10 {
			time.Sleep(150 * time.Millisecond)
			_, _ = io.WriteString(c, "x")
		}
	}
	bomb := func() string {
		var b strings.Builder
		z := gzip.NewWriter(&b)
		for range 64 {
			_, _ = z.Write(make([]byte, 1<<20))
		}
		_ = z.Close()
		return b.String()
	}
	const late = "no byte came or went for 1s"
	const large = "answered more than 1048576 bytes for one record: raise record-max"
	for _, tc := range []struct {
		name, says string
		more       func(net.Conn)
		want, err  string
	}{
		{"hangs", "", hang, "", late},
		{"hangs in the header", head, hang, "", late},
		{"hangs in the body", head + "Content-Length: 5\r\n\r\nabc", hang, "", late},
		{"is slow", head + "Content-Length: 10\r\n\r\n", drip, `"xxxxxxxxxx"`, ""},
		{"hangs up", "", nil, "", "the connection was closed without an answer"},
		{"promises more", head + "Content-Length: 5\r\n\r\nabc", nil, "", "the answer broke off after 3 bytes"},
		{"promises less", head + "Content-Length: 2\r\n\r\nabc", nil, `"ab"`, ""},
		{"promises very much", head + "Content-Length: 1000000000000\r\n\r\nabc", flood("0123456789"), "", large},
		{"two lengths", head + "Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc", nil, "", "multiple Content-Length headers"},
		{"breaks off a chunk", head + "Transfer-Encoding: chunked\r\n\r\n5\r\nabc", nil, "", "the answer broke off after 3 bytes"},
		{"breaks off between chunks", head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", nil, "", "the answer broke off after 3 bytes"},
		{"a chunk that is none", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", nil, "", "read the answer: invalid byte in chunk length"},
		{"no HTTP", "hello\r\n\r\n", nil, "", "malformed HTTP response"},
		{"a header without end", head, flood("X-Y: 0123456789\r\n"), "", "net/http: server response headers exceeded 65536 bytes; aborted"},
		{"a body without end", head + "\r\n", flood("0123456789"), "", large},
		{"a bomb", head + "Content-Encoding: gzip\r\n\r\n" + bomb(), nil, "", large},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h, ctx := startHTTP(t, HTTPConfig{URL: speak(t, tc.says, tc.more), Timeout: time.Second})
			var em fakeEmitter
			err := h.handle(ctx, record("a"), &em)
			if got := strings.TrimPrefix(text(err), h.name+": "); !strings.Contains(got, tc.err) || tc.err == "" && got != "" {
				t.Errorf("error %q, want %q", got, tc.err)
			}
			if code := stream.ExitCode(err); code != 0 {
				t.Errorf("it is no attempt: code %d", code)
			}
			if got := bodies(&em); got != tc.want {
				t.Errorf("emitted %s, want %s", got, tc.want)
			}
		})
	}
}

// An endpoint that is away blames no record.
func TestHTTPAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	for _, url := range []string{"http://" + l.Addr().String(), "https://" + l.Addr().String(), "http://no-such-host.invalid"} {
		h, ctx := startHTTP(t, HTTPConfig{URL: url})
		if err := h.handle(ctx, record("a"), &fakeEmitter{}); stream.ExitCode(err) != 75 || !strings.Contains(err.Error(), "dial tcp") {
			t.Errorf("error %v with code %d", err, stream.ExitCode(err))
		}
	}
}

// A server that hangs up on a connection that was used before is asked again on another: no attempt.
func TestHTTPStaleConnections(t *testing.T) {
	url := speak(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	h, ctx := startHTTP(t, HTTPConfig{URL: url, Capacity: 1})
	for i := range 500 {
		if err := h.handle(ctx, record("a"), discard{}); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
}

// As many connections as records at once, used again and again, and gone at the end.
func TestHTTPConnections(t *testing.T) {
	var conns, most, now atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		_, _ = io.Copy(w, r.Body)
	}))
	open := make(map[net.Conn]bool)
	var mu sync.Mutex
	var gone sync.WaitGroup
	s.Config.ConnState = func(c net.Conn, st http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case st == http.StateNew:
			open[c] = true
			gone.Add(1)
			conns.Add(1)
		case st == http.StateClosed && open[c]:
			delete(open, c)
			gone.Done()
		}
	}
	s.Start()
	defer s.Close()
	h, err := newPoster(HTTPConfig{URL: s.URL, Capacity: 4})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 100 {
				if err := h.handle(ctx, record(strings.Repeat("x", 100_000)), discard{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if n := conns.Load(); n > 8 { // a late dial may be one too many, it is kept
		t.Errorf("%d connections for 400 records, 4 at once", n)
	}
	if most.Load() > 4 {
		t.Errorf("%d requests at once", most.Load())
	}
	why := errors.New("the node leaves")
	cancel(why)
	if err := h.Run(ctx); !errors.Is(err, why) {
		t.Errorf("Run: %v", err)
	}
	gone.Wait() // hangs where a connection stays open
	if err := h.handle(ctx, record("a"), discard{}); !errors.Is(err, why) {
		t.Errorf("after the end: %v", err)
	}
}

func TestHTTPConfigErrors(t *testing.T) {
	for _, url := range []string{"", "x", "ftp://h/", "http://", "http://me:secret@[::1", "unix:/x"} {
		_, err := HTTP(HTTPConfig{URL: url})
		if !errors.As(err, new(*stream.ConfigError)) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	h, ctx := startHTTP(t, HTTPConfig{URL: s.URL})
	if err := h.handle(ctx, record("a"), discard{}); !errors.As(err, new(*stream.ConfigError)) {
		t.Errorf("a certificate that nobody signed: %v", err)
	}
}
