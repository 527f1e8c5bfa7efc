package sink

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/stream"
)

// posts is an endpoint that keeps what it took.
type posts struct {
	mu    sync.Mutex
	taken map[string]string // key -> body
	again int               // posted with a key that was taken
	asked int
	now   int // under way
	most  int
	// answer decides about a request; nil: it is taken.
	answer func(w http.ResponseWriter, body string) (taken bool)
}

func (p *posts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked++
	p.now++
	p.most = max(p.most, p.now)
	answer := p.answer
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.now--
	}()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if answer != nil && !answer(w, string(body)) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := r.Header.Get("Idempotency-Key")
	if _, ok := p.taken[key]; ok {
		p.again++
	}
	p.taken[key] = string(body)
}

func (p *posts) set(answer func(w http.ResponseWriter, body string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *posts) lines(*testing.T) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, body := range p.taken {
		all = append(all, strings.Split(body, "\n")...)
	}
	slices.Sort(all)
	return all
}

func serve(t *testing.T, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = nil
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func openHTTP(t *testing.T, cfg HTTPConfig) stream.Sink {
	t.Helper()
	s, err := HTTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestHTTP(t *testing.T) {
	p := &posts{taken: make(map[string]string)}
	p.answer = func(w http.ResponseWriter, body string) bool {
		if body == "bad" {
			http.Error(w, "no\nthank  you", http.StatusUnprocessableEntity)
			return false
		}
		return true
	}
	server := serve(t, p)
	testStore(t, store{
		open:  func(*testing.T) stream.Sink { return openHTTP(t, HTTPConfig{URL: server.URL}) },
		lines: p.lines,
		bad:   "bad",
		alone: true,
	})
	if p.again != 80 { // those that the suite wrote again by another sink
		t.Errorf("%d records were posted again, want 80", p.again)
	}
}

func TestHTTPAtOnce(t *testing.T) {
	p := &posts{taken: make(map[string]string)}
	full := make(chan struct{})
	p.answer = func(http.ResponseWriter, string) bool {
		p.mu.Lock()
		if p.now == postsMax && p.asked == postsMax {
			close(full)
		}
		p.mu.Unlock()
		select {
		case <-full:
		case <-time.After(10 * time.Second):
			t.Error("fewer requests than may be under way at once")
		}
		return true
	}
	server := serve(t, p)
	if err := openHTTP(t, HTTPConfig{URL: server.URL}).Write(t.Context(), numbered(0, 5*postsMax), stream.Seen{}); err != nil {
		t.Fatal(err)
	}
	if p.most != postsMax {
		t.Errorf("%d requests at once, want %d", p.most, postsMax)
	}
}

// Each answer has its meaning, and none hangs or fills the sink.
func TestHTTPAnswers(t *testing.T) {
	long := strings.Repeat("x", 4*answerBytesMax)
	raw := func(text string) func(w http.ResponseWriter, _ string) bool {
		return func(w http.ResponseWriter, _ string) bool {
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, text)
				_ = c.Close()
			}
			return false
		}
	}
	status := func(code int, header ...string) func(w http.ResponseWriter, _ string) bool {
		return func(w http.ResponseWriter, _ string) bool {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			http.Error(w, "why", code)
			return false
		}
	}
	const taken = 0
	for name, tc := range map[string]struct {
		answer func(w http.ResponseWriter, body string) bool
		exit   int
		text   string // after the address
	}{
		"no content":           {func(w http.ResponseWriter, _ string) bool { w.WriteHeader(204); return false }, taken, ""},
		"a long answer":        {func(w http.ResponseWriter, _ string) bool { _, _ = io.WriteString(w, long); return false }, taken, ""},
		"shorter than it says": {raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"), taken, ""},
		"longer than it says":  {raw("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef"), taken, ""},
		"without an end": {func(w http.ResponseWriter, _ string) bool {
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			time.Sleep(2 * drainWithin)
			return false
		}, taken, ""},
		"429":                  {status(429, "Retry-After", "7"), 75, "429 Too Many Requests: why"},
		"503":                  {status(503), 75, "503 Service Unavailable: why"},
		"408":                  {status(408), 75, "408 Request Timeout: why"},
		"400":                  {status(400), 65, "400 Bad Request: why"},
		"404":                  {status(404), 75, "404 Not Found (is the url right?): why"},
		"401":                  {status(401), 75, "401 Unauthorized (are its credentials right?): why"},
		"422":                  {status(422), 65, "422 Unprocessable Entity: why"},
		"a redirect":           {status(302, "Location", "/elsewhere?token=c4nary"), 78, "302 Found: a redirect is not followed: name the address that it leads to"},
		"a hang":               {func(http.ResponseWriter, string) bool { time.Sleep(time.Second); return false }, 75, "no answer for 300ms"},
		"a connection cut":     {raw(""), 75, "the connection was closed without an answer"},
		"no HTTP":              {raw("SSH-2.0-x\r\n\r\n"), 75, `net/http: HTTP/1.x transport connection broken: malformed HTTP response "SSH-2.0-x"`},
		"a negative length":    {raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), 75, `net/http: HTTP/1.x transport connection broken: bad Content-Length "-1"`},
		"a header of megabyte": {raw("HTTP/1.1 200 OK\r\nX: " + long + "\r\n\r\n"), 75, "net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 65536 bytes; aborted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &posts{taken: make(map[string]string), answer: tc.answer}
			server := serve(t, p)
			timeout := 300 * time.Millisecond
			if tc.exit == taken {
				timeout = serverTimeout
			}
			url := strings.Replace(server.URL, "http://", "http://u:c4nary@", 1)
			err := openHTTP(t, HTTPConfig{URL: url + "/in?key=c4nary", Timeout: timeout}).Write(t.Context(), numbered(0, 1), stream.Seen{})
			if stream.ExitCode(err) != tc.exit {
				t.Fatalf("error %v (%d), want %d", err, stream.ExitCode(err), tc.exit)
			}
			if want := "post " + server.URL + "/in: " + tc.text; err != nil && err.Error() != want {
				t.Errorf("error %v, want %s", err, want)
			}
		})
	}
}

// Of many records those that were taken are not posted again, whatever becomes of the others.
func TestHTTPPart(t *testing.T) {
	p := &posts{taken: make(map[string]string)}
	server := serve(t, p)
	s := openHTTP(t, HTTPConfig{URL: server.URL})
	p.set(func(w http.ResponseWriter, body string) bool {
		if body >= "record 000050" {
			w.WriteHeader(503)
			return false
		}
		return true
	})
	if err := s.Write(t.Context(), numbered(0, 1000), stream.Seen{}); stream.ExitCode(err) != 75 {
		t.Fatalf("error %v, want a Retry", err)
	}
	if p.asked > 50+postsMax {
		t.Errorf("asked %d times of an endpoint that stands after 50", p.asked)
	}
	p.set(func(w http.ResponseWriter, body string) bool {
		if body == "record 000500" {
			w.WriteHeader(400)
			return false
		}
		return true
	})
	if err := s.Write(t.Context(), numbered(0, 1000), stream.Seen{}); stream.ExitCode(err) != 65 {
		t.Fatalf("error %v, want a Poison", err)
	}
	for _, half := range [][2]int{{0, 500}, {501, 1000}} {
		if err := s.Write(t.Context(), numbered(half[0], half[1]), stream.Seen{}); err != nil {
			t.Fatal(err)
		}
	}
	if p.again != 0 || len(p.taken) != 999 {
		t.Errorf("%d records taken, %d posted again", len(p.taken), p.again)
	}
	if n := len(s.(*endpoint).taken); n != 0 {
		t.Errorf("%d are still remembered", n)
	}
}

func TestHTTPRequest(t *testing.T) {
	var got *http.Request
	server := serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	s := openHTTP(t, HTTPConfig{URL: strings.Replace(server.URL, "//", "//u:p@", 1) + "/a?b=c", Header: map[string]string{"Content-Type": "text/plain", "X-Y": "z"}})
	rs := numbered(3, 4)
	rs[0].Body = []byte("a\nb")
	if err := s.Write(t.Context(), rs, stream.Seen{}); err != nil {
		t.Fatal(err)
	}
	user, password, _ := got.BasicAuth()
	line := fmt.Sprintln(got.Method, got.URL, got.ContentLength, user, password, got.Header.Get("Content-Type"), got.Header.Get("X-Y"), got.Header.Get("Idempotency-Key"))
	if want := "POST /a?b=c 3 u p text/plain z " + hex.EncodeToString(appendID(nil, rs[0].ID)) + "\n"; line != want {
		t.Errorf("the request was %s, want %s", line, want)
	}
}

func TestHTTPNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	tls := httptest.NewUnstartedServer(http.NotFoundHandler())
	tls.Config.ErrorLog = nil
	tls.StartTLS()
	defer tls.Close()
	for url, want := range map[string]string{
		"http://" + l.Addr().String(): "connect: connection refused",
		tls.URL:                       "tls: failed to verify certificate: x509: certificate signed by unknown authority",
	} {
		err := openHTTP(t, HTTPConfig{URL: url}).Write(t.Context(), numbered(0, 1), stream.Seen{})
		if err == nil || err.Error() != "post "+url+": "+want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if _, err := HTTP(HTTPConfig{URL: "http://u:c4nary@ho st"}); stream.ExitCode(err) != 78 || strings.Contains(err.Error(), "c4nary") {
		t.Errorf("error %v", err)
	}
}
