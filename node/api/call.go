package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// bodyBytesMax is the most that a call may bring, in bytes: what becomes an entry of the log
	// may hold 1 MiB (FAULTS 4, raft entry).
	bodyBytesMax = 1 << 20
	// callWait bounds one call where the caller's context does not: as long as a node takes to
	// answer (answerWait), and the way.
	callWait = answerWait + time.Second
)

// Call answers POST /v1/NAME. It is given the request's body, and what it returns is sent as
// JSON; an error should be an *Error.
type Call func(ctx context.Context, body []byte) (any, error)

// Calls are what a node can be asked to do, by name. They are served on Unix sockets only, which
// are guarded by their mode: over TCP nobody can say who asks.
type Calls map[string]Call

// Typed makes a Call of a function of values; a body that is no In, strictly, is refused.
func Typed[In, Out any](f func(context.Context, In) (Out, error)) Call {
	return func(ctx context.Context, body []byte) (any, error) {
		var in In
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			return nil, &Error{Status: http.StatusBadRequest, Exit: 2, Text: fmt.Sprintf("the body is not what this call takes: %v", err)}
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, &Error{Status: http.StatusBadRequest, Exit: 2, Text: "the body goes on after its one JSON value"}
		}
		return f(ctx, in)
	}
}

// Error is why a call was not carried out: one sentence for the user, who may be far away.
type Error struct {
	Status int    `json:"-"`     // of HTTP
	Exit   int    `json:"exit"`  // the exit code of a command that made the call
	Text   string `json:"error"` // with the remedy
}

func (e *Error) Error() string { return e.Text }

// ExitCode is the exit code of a command that made the call.
func (e *Error) ExitCode() int { return e.Exit }

// serve answers one request with the call's answer.
func (c Call) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/json")
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	var out any
	if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
		err = &Error{Status: http.StatusRequestEntityTooLarge, Exit: 2, Text: fmt.Sprintf("the body holds more than %d KiB", bodyBytesMax>>10)}
	}
	if err == nil {
		out, err = c(r.Context(), body)
	}
	if err != nil {
		failure, ok := errors.AsType[*Error](err)
		if !ok {
			failure = &Error{Status: http.StatusInternalServerError, Exit: 1, Text: err.Error()}
		}
		w.WriteHeader(failure.Status)
		out = failure
	}
	_ = json.NewEncoder(w).Encode(out) // the client has gone: there is nobody to tell
}

// Do makes a call at the node at addr, as Get takes it: in goes as JSON, the answer is read into
// out. Its error is an *Error when the node refused.
func Do(ctx context.Context, addr, name string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	resp, err := send(ctx, addr, http.MethodPost, "/v1/"+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := readAnswer(addr, resp)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal(answer, out); err != nil {
			return fmt.Errorf("%s at %s: not a weir node's answer: %w", name, addr, err)
		}
		return nil
	}
	failure := &Error{Status: resp.StatusCode}
	if json.Unmarshal(answer, failure) != nil || failure.Text == "" { // an older node, or none
		line, _, _ := bytes.Cut(answer, []byte("\n"))
		return fmt.Errorf("%s at %s: %s: %.200s", name, addr, resp.Status, line)
	}
	return failure
}
