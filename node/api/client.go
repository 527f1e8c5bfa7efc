package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"weir/topology"
)

const (
	// answerBytesMax is the most an answer may hold, in bytes: a dead letter, whose body is the
	// largest there is, as base64. A status of 500 nodes with 10 000 edges is 3 MiB.
	answerBytesMax = topology.RecordBytesCeiling/3*4 + 1<<20
	// getWait bounds one question where the caller's context does not: the node itself waits a
	// second for the others.
	getWait = 5 * time.Second
)

// ErrAddress is the error of an address that Get cannot read.
var ErrAddress = errors.New("an address is unix:PATH, HOST:PORT or http://HOST:PORT")

// UnreachableError says that nobody answers at an address.
type UnreachableError struct {
	Addr string
	Err  error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no node answers at %s: %v", e.Addr, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// Get asks the node at addr, "unix:PATH" or "[http://]HOST:PORT", for the status of its cluster.
func Get(ctx context.Context, addr string) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, getWait)
	defer cancel()
	resp, err := send(ctx, addr, http.MethodGet, "/v1/status", nil)
	if err != nil {
		return Status{}, err
	}
	return readStatus(addr, resp)
}

// AtEnd asks the node at addr for the status of its cluster as it is when the node, having
// drained, ends. It returns once the node has taken the question, and wait when it has answered;
// call wait, or end ctx.
func AtEnd(ctx context.Context, addr string) (wait func() (Status, error), err error) {
	resp, err := send(ctx, addr, http.MethodGet, "/v1/status?at=end", nil)
	if err != nil {
		return nil, err
	}
	return func() (Status, error) { return readStatus(addr, resp) }, nil
}

// send returns an answer whose body is still to come.
func send(ctx context.Context, addr, method, path string, body io.Reader) (*http.Response, error) {
	base, tr, err := parseAddr(addr)
	if err != nil {
		return nil, err
	}
	tr.DisableKeepAlives = true
	tr.ResponseHeaderTimeout = getWait
	if method != http.MethodGet {
		tr.ResponseHeaderTimeout = callWait // it is sent when the work is done
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", addr, err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // without the made-up URL of a socket
		}
		return nil, &UnreachableError{Addr: addr, Err: err}
	}
	return resp, nil
}

func readStatus(addr string, resp *http.Response) (st Status, _ error) {
	body, err := readAnswer(addr, resp)
	if err != nil {
		return st, err
	}
	if resp.StatusCode != http.StatusOK {
		line, _, _ := strings.Cut(string(body), "\n")
		return st, fmt.Errorf("status of %s: %s: %.200s", addr, resp.Status, line)
	}
	if err := json.Unmarshal(body, &st); err != nil {
		return st, fmt.Errorf("status of %s: not a weir node's answer: %w", addr, err)
	}
	return st, nil
}

// readAnswer reads the body of an answer and closes it.
func readAnswer(addr string, resp *http.Response) ([]byte, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax+1))
	switch {
	case err != nil:
		return nil, &UnreachableError{Addr: addr, Err: err}
	case len(body) > answerBytesMax:
		return nil, fmt.Errorf("answer of %s: longer than %d MiB, which no node sends", addr, answerBytesMax>>20)
	}
	return body, nil
}

// parseAddr splits an address into the base of its URLs and how to get there.
func parseAddr(addr string) (base string, tr *http.Transport, err error) {
	tr = &http.Transport{Proxy: nil} // a local node is never behind a proxy
	if path, ok := strings.CutPrefix(addr, "unix:"); ok && path != "" {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return "http://weir", tr, nil
	}
	text := addr
	if _, port, err := net.SplitHostPort(addr); err == nil && port != "" {
		text = "http://" + addr
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" || u.Host == "" || (u.Path != "" && u.Path != "/") {
		return "", nil, fmt.Errorf("%q: %w", addr, ErrAddress)
	}
	return "http://" + u.Host, tr, nil
}
