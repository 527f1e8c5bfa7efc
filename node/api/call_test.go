package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// echo is what the calls of these tests take and answer.
type echo struct {
	Text string `json:"text"`
}

var echoCalls = Calls{
	"echo": Typed(func(_ context.Context, in echo) (echo, error) { return in, nil }),
	"busy": Typed(func(context.Context, echo) (echo, error) {
		return echo{}, fmt.Errorf("wrapped: %w", &Error{Status: http.StatusServiceUnavailable, Exit: 75, Text: "there is no leader: try again"})
	}),
	"bug": Typed(func(context.Context, echo) (echo, error) { return echo{}, errors.New("something else") }),
}

// serveCalls serves echoCalls until the test ends.
func serveCalls(t *testing.T, l net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, source{}, echoCalls, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestDo(t *testing.T) {
	sock := socketPath(t)
	l, err := Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	serveCalls(t, l)
	addr := "unix:" + sock
	var out echo
	if err := Do(t.Context(), addr, "echo", echo{"hello"}, &out); err != nil || out.Text != "hello" {
		t.Errorf("echo: %+v, %v", out, err)
	}
	for _, tt := range []struct {
		call, text string
		in         any
		exit       int
	}{
		{"busy", "there is no leader: try again", echo{}, 75},
		{"bug", "something else", echo{}, 1},
		{"echo", `the body is not what this call takes: json: unknown field "texts"`, map[string]string{"texts": "x"}, 2},
		{"echo", "the body is not what this call takes: json: cannot unmarshal", []int{1}, 2},
		{"echo", "the body holds more than 1024 KiB", echo{strings.Repeat("x", bodyBytesMax)}, 2},
	} {
		err := Do(t.Context(), addr, tt.call, tt.in, &out)
		var failure *Error
		if !errors.As(err, &failure) || failure.ExitCode() != tt.exit || !strings.HasPrefix(failure.Text, tt.text) {
			t.Errorf("%s: %#v, want %q with exit code %d", tt.call, err, tt.text, tt.exit)
		}
	}
	if err := Do(t.Context(), addr, "unheard-of", echo{}, &out); err == nil || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("a call that there is not: %v", err)
	}
}

// Over TCP nobody can say who asks, so nobody may do more than look.
func TestCallsOnlyOnTheSocket(t *testing.T) {
	l := listenTCP(t)
	serveCalls(t, l)
	var out echo
	err := Do(t.Context(), l.Addr().String(), "echo", echo{"x"}, &out)
	if err == nil || !strings.Contains(err.Error(), "over TCP this API only answers GET") || out.Text != "" {
		t.Errorf("%+v, %v", out, err)
	}
}

func TestCallsBadBodies(t *testing.T) {
	sock := socketPath(t)
	l, err := Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	serveCalls(t, l)
	for body, want := range map[string]string{
		"":                              "400",
		"{":                             "400",
		`{"text":"a"} {"text":"b"}`:     "400",
		`{"text":NaN}`:                  "400",
		strings.Repeat("[", 100_000):    "400",
		"null":                          "200",
		`{"text":"` + "\xff\xfe" + `"}`: "200", // replaced, as encoding/json does
	} {
		c, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST /v1/echo HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		answer, err := io.ReadAll(c)
		c.Close()
		if line := strings.Fields(string(answer)); err != nil || len(line) < 2 || line[1] != want {
			t.Errorf("%.30q is answered %.60q, %v; want %s", body, answer, err, want)
		}
	}
}
