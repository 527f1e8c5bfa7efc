package sink

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/node/post"
	"weir/stream"
)

// HTTPConfig says where a sink posts to.
type HTTPConfig struct {
	URL     string // http or https; a user and password in it are sent as basic authentication
	Header  map[string]string
	Timeout time.Duration // for one request, its answer included; 0 = 30 s
}

// Limits of posting.
const (
	// postsMax is how many requests are under way at once: enough to hide a round trip, and few
	// for a server that has a thread for each.
	postsMax = 16
	// answerBytesMax is how much of an answer is read so that its connection can be used again, in
	// bytes; of a longer one the connection is closed.
	answerBytesMax = 64 << 10
	// drainWithin is how long the rest of an answer is waited for once its status is known.
	drainWithin = time.Second
	// takenMax is how many records of Writes that failed in part are remembered as taken: two of
	// the largest batches (4096). Forgetting costs requests, which their key makes harmless.
	takenMax = 8192
)

// HTTP is a sink that posts each record to an endpoint, up to 16 at once, a block of lines as one
// body. Idempotency-Key is the record's ID in 80 hex digits, the same on every attempt: a record
// that comes twice is posted twice, with one key.
//
// The ack: the endpoint answered 2xx. What it did with the record is its own business.
//
// 408, 425, 429, 5xx, refusals of whoever asks (post.Verdict), no answer in time and no connection are
// waited out, as long as Retry-After says where it does; another 4xx is a stream.Poison of that record; a redirect, which would lose the
// body, and a certificate that is not trusted are a *stream.ConfigError. Of answers only the status
// counts. No error shows the URL's user, password or query, or a header.
func HTTP(cfg HTTPConfig) (stream.Sink, error) {
	name, err := post.Name(cfg.URL)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = postsMax
	transport.MaxResponseHeaderBytes = post.HeaderBytesMax
	s := &endpoint{
		cfg:   cfg,
		name:  name,
		taken: make(map[stream.ID]bool),
		client: http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	s.cfg.Timeout = cmp.Or(cfg.Timeout, serverTimeout)
	return s, nil
}

type endpoint struct {
	unseen
	cfg    HTTPConfig
	name   string // in errors
	client http.Client
	taken  map[stream.ID]bool // of Writes that failed: what is not to be posted again
}

// Write posts the records. Where some fail, those that were taken are not posted again when they
// come once more.
func (s *endpoint) Write(ctx context.Context, rs []stream.Record, _ stream.Seen) error {
	results := make([]error, len(rs)) // nil: taken
	var standing atomic.Bool          // no further request is any use now
	var g errgroup.Group              // each request ends by its timeout
	g.SetLimit(postsMax)
	for i := range rs {
		if s.taken[rs[i].ID] {
			continue
		}
		results[i] = errNotTried
		g.Go(func() error {
			if standing.Load() || ctx.Err() != nil {
				return nil
			}
			results[i] = s.post(ctx, &rs[i])
			if results[i] != nil && stream.ExitCode(results[i]) != exitPoison {
				standing.Store(true)
			}
			return nil
		})
	}
	_ = g.Wait() // its errors are in results
	err := worst(results)
	if ctx.Err() != nil && err != nil {
		err = context.Cause(ctx)
	}
	if len(s.taken)+len(rs) > takenMax {
		clear(s.taken)
	}
	for i := range rs {
		if err == nil {
			delete(s.taken, rs[i].ID)
		} else if results[i] == nil {
			s.taken[rs[i].ID] = true
		}
	}
	return err
}

var errNotTried = errors.New("not tried, as others failed")

// Exit codes of the errors that a Write may return.
const exitPoison, exitRetry, exitConfig = 65, 75, 78

// worst is the error that says what to do about all: nothing helps, wait, one is to blame.
func worst(results []error) error {
	for _, code := range [...]int{exitConfig, exitRetry, exitPoison} {
		for _, err := range results {
			if err != nil && stream.ExitCode(err) == code {
				return err
			}
		}
	}
	for _, err := range results {
		if err != nil {
			return err
		}
	}
	return nil
}

// post posts one record.
func (s *endpoint) post(ctx context.Context, r *stream.Record) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.URL, bytes.NewReader(r.Body))
	if err != nil {
		return &stream.ConfigError{Err: fmt.Errorf("%s: the URL cannot be used", s.name)}
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("User-Agent", "weir")
	for name, value := range s.cfg.Header {
		req.Header.Set(name, value)
	}
	req.Header.Set("Idempotency-Key", hex.EncodeToString(appendID(nil, r.ID)))
	resp, err := s.client.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // without the URL
		}
		if ctx.Err() == context.DeadlineExceeded {
			err = fmt.Errorf("no answer for %v", s.cfg.Timeout)
		}
		if errors.Is(err, io.EOF) {
			err = errors.New("the connection was closed without an answer")
		}
		if ce, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			return &stream.ConfigError{Err: fmt.Errorf("%s: %w", s.name, ce)}
		}
		return stream.Retry(0, fmt.Errorf("%s: %w", s.name, network(err)))
	}
	enough := time.AfterFunc(drainWithin, cancel)
	defer enough.Stop()
	var start [post.AnswerShown]byte
	n, _ := io.ReadFull(resp.Body, start[:])
	_, _ = io.CopyN(io.Discard, resp.Body, answerBytesMax)
	_ = resp.Body.Close()
	if err = post.Verdict(resp, start[:n], time.Now()); err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", s.name, err)
	if stream.ExitCode(err) == 0 { // the endpoint's own fault, as far as a sink knows
		err = stream.Retry(0, err)
	}
	return err
}

// Close closes the connections. All that was acked was answered.
func (s *endpoint) Close() error {
	s.client.CloseIdleConnections()
	return nil
}
