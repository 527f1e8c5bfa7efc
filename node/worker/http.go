package worker

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	"weir/node/post"
	"weir/stream"
)

// HTTPConfig says which endpoint works on records.
type HTTPConfig struct {
	URL     string // http or https; a user and password in it are sent as basic authentication
	Header  map[string]string
	Timeout time.Duration // how long no byte may pass, either way; 0 = DeadlineDefault

	Capacity  int // requests at once, each on a connection that is used again; 0 = stream.CapacityDefault
	RecordMax int // bytes of an answer; 0 = stream.RecordBytesMax
}

// HTTP makes a handler that posts a record's body to an endpoint: the answer to it, less one final
// newline, is the record handed on; an empty one hands on nothing. Weir-Id is the record's ID in 80
// hex digits, the same on every attempt, Weir-Attempt the number of that.
//
// 2xx acks. 408, 425, 429 and 503 ask for later, as do refusals of whoever asks (post.Verdict) and an
// endpoint that no connection can be made to: no record is to blame. Another 4xx is a stream.Poison. A redirect, which would lose the body,
// and a certificate that is not trusted are a *stream.ConfigError. All else is an attempt: another
// status, no byte for the timeout, an answer that breaks off or is too large. No error shows the URL's
// user, password or query, or a header.
func HTTP(cfg HTTPConfig) (stream.Handler, error) {
	h, err := newPoster(cfg)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// poster is a handler that posts. Its fields are constant.
type poster struct {
	stream.Handler
	cfg       HTTPConfig
	name      string // in errors
	transport *http.Transport
}

func newPoster(cfg HTTPConfig) (*poster, error) {
	name, err := post.Name(cfg.URL)
	if err != nil {
		return nil, err
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, DeadlineDefault)
	cfg.Capacity = cmp.Or(cfg.Capacity, stream.CapacityDefault)
	cfg.RecordMax = cmp.Or(cfg.RecordMax, stream.RecordBytesMax)
	h := &poster{cfg: cfg, name: name}
	h.transport = http.DefaultTransport.(*http.Transport).Clone()
	h.transport.MaxConnsPerHost = cfg.Capacity
	h.transport.MaxIdleConns = cfg.Capacity
	h.transport.MaxIdleConnsPerHost = cfg.Capacity
	h.transport.MaxResponseHeaderBytes = post.HeaderBytesMax
	h.Handler = stream.Each(h.handle)
	return h, nil
}

// Run closes the connections when ctx is done.
func (h *poster) Run(ctx context.Context) error {
	<-ctx.Done()
	h.transport.CloseIdleConnections() // and those that are in use when they are not any more
	return context.Cause(ctx)
}

func (h *poster) handle(ctx context.Context, r stream.Record, em stream.Emitter) error {
	body, err := h.post(ctx, &r)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w", h.name, err)
	}
	if len(body) == 0 {
		return nil
	}
	return em.Emit(ctx, stream.Out{Body: bytes.TrimSuffix(body, newline), Key: r.Key, Header: r.Header})
}

// post returns the body of a 2xx.
func (h *poster) post(ctx context.Context, r *stream.Record) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clock := time.AfterFunc(h.cfg.Timeout, func() { cancel(fmt.Errorf("no byte came or went for %v", h.cfg.Timeout)) })
	defer clock.Stop()

	var resp *http.Response
	var err error
	for range h.cfg.Capacity + 1 { // idle connections that are dead; then a new one
		var t trace
		resp, err = h.transport.RoundTrip(h.request(ctx, r, clock, &t))
		if err != nil && t.reused.Load() && !t.answered.Load() && ctx.Err() == nil {
			continue
		}
		if err != nil {
			err = blame(ctx, err, t.connected.Load())
		}
		break
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		start := make([]byte, post.AnswerShown)
		n, _ := io.ReadFull(&ticking{resp.Body, clock, h.cfg.Timeout}, start)
		return nil, post.Verdict(resp, start[:n], time.Now())
	}
	body, err := io.ReadAll(io.LimitReader(&ticking{resp.Body, clock, h.cfg.Timeout}, int64(h.cfg.RecordMax)+2))
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case len(bytes.TrimSuffix(body, newline)) > h.cfg.RecordMax:
		return nil, fmt.Errorf("answered more than %d bytes for one record: raise record-max", h.cfg.RecordMax)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("the answer broke off after %d bytes", len(body))
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return body, nil
}

// trace is how far a request came.
type trace struct {
	connected, reused, answered atomic.Bool
}

func (h *poster) request(ctx context.Context, r *stream.Record, clock *time.Timer, t *trace) *http.Request {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { t.connected.Store(false) }, // net/http may try by itself once more
		GotConn: func(c httptrace.GotConnInfo) {
			t.connected.Store(true)
			t.reused.Store(c.Reused)
		},
		GotFirstResponseByte: func() { t.answered.Store(true) },
	})
	body := func() (io.ReadCloser, error) {
		return io.NopCloser(&ticking{bytes.NewReader(r.Body), clock, h.cfg.Timeout}), nil
	}
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, h.cfg.URL, http.NoBody) // the URL was parsed before
	if len(r.Body) > 0 {
		req.Body, _ = body()
		req.GetBody, req.ContentLength = body, int64(len(r.Body))
	}
	if u := req.URL.User; u != nil {
		password, _ := u.Password()
		req.SetBasicAuth(u.Username(), password)
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header.Set("User-Agent", "weir")
	for name, value := range h.cfg.Header {
		req.Header.Set(name, value)
	}
	id := r.ID
	req.Header.Set("Weir-Id", fmt.Sprintf("%016x%016x%016x%016x%016x", id.Source, id.Gen, id.Seq, id.Path, id.Sum))
	req.Header.Set("Weir-Attempt", strconv.Itoa(r.Attempt))
	return req
}

// ticking sets the clock anew with each byte that passes.
type ticking struct {
	io.Reader
	clock   *time.Timer
	timeout time.Duration
}

func (t *ticking) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if n > 0 {
		t.clock.Reset(t.timeout)
	}
	return n, err
}

// blame says what it means that there is no answer: where there was no connection it is not the
// record's fault.
func blame(ctx context.Context, err error, connected bool) error {
	if cert, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &stream.ConfigError{Err: cert}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the connection was closed without an answer")
	}
	if !connected {
		return stream.Retry(0, err)
	}
	return err
}
