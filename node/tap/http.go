package tap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"weir/stream"
)

// Limits of what others may ask (FAULTS.md, limits table).
const (
	// requestsMax is the most requests that wait for their acks: as many as a link keeps records.
	requestsMax = 4096
	// connsMax is the most connections: room for as many that are told to come back.
	connsMax = 2 * requestsMax
	// bodiesMax is the most bytes of bodies that are read at once, beside one of any size.
	bodiesMax = 32 << 20
	// takeWait is how long a request waits for the tap to take it, before it is told to come back:
	// longer than a hand-over, and an answer within 100 ms.
	takeWait = 50 * time.Millisecond
	// headerWait and bodyWait are what a client has to send either, and to read its answer.
	headerWait = 5 * time.Second
	bodyWait   = 30 * time.Second
	idleWait   = 60 * time.Second
	// headerBytesMax is the most a request's header may hold.
	headerBytesMax = 16 << 10
)

// HTTPListen says where requests come from.
type HTTPListen struct {
	Listen string // host:port; without a host it is 127.0.0.1
	Path   string // "" = /
}

// HTTP is a tap that makes a record of the body of each POST, less a final newline. It answers
//
//	200  the record is acked: all that came of it is durable at its sinks, or a dead letter
//	429  nobody took it within 50 ms, or too much waits: come back after Retry-After seconds
//	503  this node stops: if the request was taken, its record may or may not be acked
//	400 403 404 405 408 413  the request is wrong: nothing was taken
//
// The record of a client that goes away goes on; one that had no 200 and asks again makes another. A
// request is gone with its node, so nothing can be read again, and marks mean nothing.
func HTTP(in HTTPListen, cfg Config) (stream.Tap, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap http: %w", err)
	}
	host, port, err := net.SplitHostPort(in.Listen)
	if err != nil {
		return nil, fmt.Errorf("tap http: listen %q: write it as 127.0.0.1:8080 or :8080", in.Listen)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	if in.Path == "" {
		in.Path = "/"
	}
	if !strings.HasPrefix(in.Path, "/") || strings.ContainsAny(in.Path, "?# ") {
		return nil, fmt.Errorf("tap http: path %q: write it as /in", in.Path)
	}
	return &httpTap{cfg: cfg, listen: net.JoinHostPort(host, port), path: in.Path}, nil
}

type httpTap struct {
	scope
	cfg    Config
	listen string
	path   string
}

func (t *httpTap) Partitions(context.Context) ([]string, error) {
	return []string{"http://" + t.listen + t.path}, nil
}

// Open listens.
func (t *httpTap) Open(ctx context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	if len(at) > 0 {
		return nil, fmt.Errorf("open tap %s: requests cannot be read again from a mark", partition)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", t.listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, &busyError{fmt.Errorf("tap http: %s is in use: stop who listens there, or choose another port", t.listen)}
	case err != nil:
		return nil, &stream.ConfigError{Err: fmt.Errorf("tap http: %w", err)}
	}
	t.cfg.log().Info("requests are taken", "url", "http://"+ln.Addr().String()+t.path)
	return t.serve(ln), nil
}

// busyError says that something is another's now (exit 75).
type busyError struct{ error }

func (e *busyError) ExitCode() int { return 75 }

// serve takes requests of the listener until the reader is closed.
func (t *httpTap) serve(ln net.Listener) *requests {
	r := &requests{
		path: t.path, recordMax: t.cfg.recordMax(),
		taken: make(chan *request), stopped: make(chan struct{}), waiting: make(map[uint64]*request),
	}
	r.server = &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(r), // a page in somebody's browser is no client
		ReadHeaderTimeout: headerWait, IdleTimeout: idleWait, MaxHeaderBytes: headerBytesMax,
		ErrorLog: slog.NewLogLogger(t.cfg.log().Handler(), slog.LevelDebug),
	}
	r.serving.Go(func() { _ = r.server.Serve(&boundedListener{ln, make(chan struct{}, connsMax)}) }) // ended by Close
	return r
}

// requests is the reader of an HTTP tap.
type requests struct {
	path      string
	recordMax int
	server    *http.Server
	serving   sync.WaitGroup
	taken     chan *request
	stopped   chan struct{} // closed by Close
	mark      [8]byte       // of the last request

	mu      sync.Mutex
	drains  bool                // nothing more is taken
	next    uint64              // number of the next request
	waiting map[uint64]*request // by number
	asking  int                 // requests at work
	bytes   int                 // of bodies that are being read
}

// request is one that waits for the ack of its record.
type request struct {
	number uint64
	body   []byte
	acked  chan struct{} // closed by Done
}

// Next returns the next request; it is in the hands of its handler until then.
func (r *requests) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	select {
	case q := <-r.taken:
		out := stream.Out{Body: q.body}
		q.body = nil
		return out, binary.LittleEndian.AppendUint64(r.mark[:0], q.number), nil
	case <-ctx.Done():
		r.mu.Lock()
		r.drains = true
		r.mu.Unlock()
		return stream.Out{}, nil, context.Cause(ctx)
	}
}

// Done answers a request.
func (r *requests) Done(m stream.Mark, _ error) {
	if len(m) != len(r.mark) {
		return
	}
	n := binary.LittleEndian.Uint64(m)
	r.mu.Lock()
	q := r.waiting[n]
	delete(r.waiting, n)
	r.mu.Unlock()
	if q != nil {
		close(q.acked)
	}
}

// Close stops listening and answers what waits.
func (r *requests) Close() error {
	close(r.stopped)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // for the answers to leave
	defer cancel()
	if r.server.Shutdown(ctx) != nil {
		_ = r.server.Close() // of those who do not read them
	}
	r.serving.Wait()
	return nil
}

// ServeHTTP handles one request.
func (r *requests) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	status, text := r.admit(req)
	if status == 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyWait))
		status, text = r.handle(req)
		r.mu.Lock()
		r.asking--
		r.mu.Unlock()
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(bodyWait))
	switch status {
	case http.StatusOK:
		return // which is the answer
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	}
	http.Error(w, text, status)
}

// admit refuses what need not be read; status 0: it is counted as at work.
func (r *requests) admit(req *http.Request) (status int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case req.URL.Path != r.path:
		return http.StatusNotFound, "records are posted to " + r.path
	case req.Method != http.MethodPost:
		return http.StatusMethodNotAllowed, "records are posted"
	case req.ContentLength > int64(r.recordMax)+1:
		return http.StatusRequestEntityTooLarge, r.tooLarge()
	case r.drains:
		return http.StatusServiceUnavailable, "this node stops"
	case r.asking >= requestsMax:
		return http.StatusTooManyRequests, "too many requests wait for their acks"
	}
	r.asking++
	return 0, ""
}

func (r *requests) tooLarge() string {
	return fmt.Sprintf("the body is larger than %d bytes: raise record-max", r.recordMax)
}

// handle reads the body, hands it over and waits for its ack.
func (r *requests) handle(req *http.Request) (status int, text string) {
	q := &request{acked: make(chan struct{})}
	size, status, text := r.read(req.Body, &q.body)
	if status == 0 {
		status, text = r.hand(q)
	}
	r.mu.Lock()
	r.bytes -= size
	r.mu.Unlock()
	if status != 0 {
		return status, text
	}
	select {
	case <-q.acked:
		return http.StatusOK, ""
	case <-req.Context().Done(): // its record goes on
	case <-r.stopped:
	}
	r.mu.Lock()
	delete(r.waiting, q.number)
	r.mu.Unlock()
	return http.StatusServiceUnavailable, "this node stops, and the record was taken: it may or may not be acked"
}

// read reads a body into to, as long as there is room for what all hold; size is what to give back.
func (r *requests) read(body io.Reader, to *[]byte) (size, status int, text string) {
	buf := make([]byte, 0, blockMin)
	for {
		if !r.reserve(cap(buf) - size) {
			return size, http.StatusTooManyRequests, "too many bodies are being read"
		}
		size = cap(buf)
		for len(buf) < cap(buf) {
			n, err := body.Read(buf[len(buf):cap(buf)])
			buf = buf[:len(buf)+n]
			var timeout net.Error
			switch {
			case len(buf) > r.recordMax+1 || len(buf) == r.recordMax+1 && !bytes.HasSuffix(buf, newline):
				return size, http.StatusRequestEntityTooLarge, r.tooLarge()
			case err == io.EOF && len(buf) == 0:
				return size, http.StatusBadRequest, "the body is empty: an empty line is a newline"
			case err == io.EOF:
				*to = bytes.TrimSuffix(buf, newline)
				return size, 0, ""
			case errors.As(err, &timeout) && timeout.Timeout():
				return size, http.StatusRequestTimeout, "the body did not come in time"
			case err != nil:
				return size, http.StatusBadRequest, "the body was cut short"
			}
		}
		buf = append(make([]byte, 0, min(4*cap(buf), r.recordMax+2)), buf...)
	}
}

// reserve takes n bytes of what all bodies may hold; one alone may always be read.
func (r *requests) reserve(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bytes > 0 && r.bytes+n > max(bodiesMax, r.recordMax+2) {
		return false
	}
	r.bytes += n
	return true
}

// hand has Next return the request; status 0: it does, or did.
func (r *requests) hand(q *request) (status int, text string) {
	r.mu.Lock()
	q.number = r.next
	r.next++
	r.waiting[q.number] = q // before its ack can come
	drains := r.drains
	r.mu.Unlock()
	timer := time.NewTimer(takeWait)
	defer timer.Stop()
	if !drains {
		select {
		case r.taken <- q:
			return 0, ""
		case <-timer.C:
			status, text = http.StatusTooManyRequests, "no record is taken now"
		case <-r.stopped:
			drains = true
		}
	}
	if drains {
		status, text = http.StatusServiceUnavailable, "this node stops"
	}
	r.mu.Lock()
	delete(r.waiting, q.number)
	r.mu.Unlock()
	return status, text
}

// boundedListener accepts while fewer connections are open than slots has room for.
type boundedListener struct {
	net.Listener
	slots chan struct{}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	l.slots <- struct{}{} // freed by who closes one, which the server does in the end
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &boundedConn{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

type boundedConn struct {
	net.Conn
	free func()
}

func (c *boundedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
