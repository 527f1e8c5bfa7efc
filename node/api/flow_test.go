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
	"testing"
	"time"
)

// count answers with the number of bytes of each read, one by one, and at the end fails if it is told to.
func count(ctx context.Context, q url.Values, body Body, tell func(any) error) error {
	b := make([]byte, 1<<10)
	for {
		n, err := body.Read(b)
		if n > 0 {
			if err := tell(n); err != nil {
				return err
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err != nil {
			break
		}
	}
	if q.Get("fail") != "" {
		return &Error{Status: http.StatusConflict, Exit: 75, Text: "no: " + q.Get("fail")}
	}
	return nil
}

func serveFlows(t *testing.T, l net.Listener, flows Flows) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, source{}, nil, flows) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

// A flow is answered while its body still comes.
func TestStream(t *testing.T) {
	sock := socketPath(t)
	l, err := Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	serveFlows(t, l, Flows{"count": count})
	body, feed := io.Pipe()
	go func() { _, _ = feed.Write([]byte("hello")) }() // ended by the first read
	sum := 0
	err = Stream(t.Context(), "unix:"+sock, "count", nil, body, func(b json.RawMessage) error {
		var n int
		if err := json.Unmarshal(b, &n); err != nil {
			return err
		}
		if sum += n; sum == 5 { // only now comes the rest
			go func() { _, _ = feed.Write([]byte("world!")); feed.Close() }() // ended by the next read
		}
		return nil
	})
	if err != nil || sum != 11 {
		t.Errorf("counted %d, %v", sum, err)
	}
	err = Stream(t.Context(), "unix:"+sock, "count", url.Values{"fail": {"a&b"}}, nil, nil)
	if e, ok := errors.AsType[*Error](err); !ok || e.Exit != 75 || e.Status != http.StatusConflict || e.Text != "no: a&b" {
		t.Errorf("a failure: %v", err)
	}
	err = Stream(t.Context(), "unix:"+sock, "no", nil, nil, nil)
	if err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("an unknown flow: %v", err)
	}
	if err := Stream(t.Context(), "unix:"+sock+"x", "count", nil, nil, nil); !isUnreachable(err) {
		t.Errorf("nobody: %v", err)
	}
}

func isUnreachable(err error) bool {
	_, ok := errors.AsType[*UnreachableError](err)
	return ok
}

// Who asks and goes away ends the flow, whether or not its body had ended; a node that goes away is
// missed; over TCP nobody gets a flow.
func TestStreamBroken(t *testing.T) {
	sock := socketPath(t)
	l, err := Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	wait := func(ctx context.Context, _ url.Values, body Body, tell func(any) error) error {
		defer func() { ended <- struct{}{} }()
		if _, err := io.Copy(io.Discard, body); err != nil {
			return err
		}
		if err := tell("read"); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	hangUp := func(_ context.Context, _ url.Values, _ Body, tell func(any) error) error {
		_ = tell("one")
		panic(http.ErrAbortHandler)
	}
	serveFlows(t, l, Flows{"wait": wait, "hang-up": hangUp})
	for _, body := range []io.Reader{nil, &endless{}} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := Stream(ctx, "unix:"+sock, "wait", nil, body, func(json.RawMessage) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up: %v", err)
		}
		cancel()
		<-ended
	}
	got := 0
	if err := Stream(t.Context(), "unix:"+sock, "hang-up", nil, nil, func(json.RawMessage) error { got++; return nil }); !isUnreachable(err) || got != 1 {
		t.Errorf("the node went away: %d answers, %v", got, err)
	}
	tcp := listenTCP(t)
	serveFlows(t, tcp, Flows{"wait": wait})
	resp, err := http.Post(fmt.Sprintf("http://%s/v1/wait", tcp.Addr()), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("over TCP: %s", resp.Status)
	}
}

// endless is a body without an end that takes its time.
type endless struct{}

func (*endless) Read(b []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return len(b), nil
}
