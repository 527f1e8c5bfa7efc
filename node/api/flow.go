package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Flow answers POST /v1/NAME where a question takes long, or its body has no bound: it reads the
// body as it comes and says how far it is, as JSON values. It ends when it returns, or when ctx does
// because the client has gone.
type Flow func(ctx context.Context, q url.Values, body Body, tell func(any) error) error

// Flows are the flows of a node, by name; they are served as Calls are.
type Flows map[string]Flow

// Body is the body of a request while it comes.
type Body struct {
	io.Reader
	rc *http.ResponseController
}

// Stop lets a Read that waits, and all after it, fail. It may be called by any goroutine.
func (b Body) Stop() {
	if b.rc != nil {
		_ = b.rc.SetReadDeadline(time.Unix(1, 0)) // the connection has gone: as good
	}
}

// last is what ends the answers of a flow: without an Error it went well. Where it is missing the
// node has gone.
type last struct {
	End    bool   `json:"end"`
	Status int    `json:"status,omitempty"` // of HTTP, as of a call
	Error  *Error `json:"failure,omitempty"`
}

// serve answers one request.
func (f Flow) serve(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	if err := errors.Join(rc.EnableFullDuplex(), rc.SetReadDeadline(time.Time{})); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Type", "application/x-ndjson")
	tell := func(v any) error {
		if err := rc.SetWriteDeadline(time.Now().Add(answerWait)); err != nil {
			return err
		}
		if err := json.NewEncoder(w).Encode(v); err != nil {
			return err
		}
		return rc.Flush()
	}
	end := last{End: true}
	if err := f(r.Context(), r.URL.Query(), Body{r.Body, rc}, tell); err != nil {
		failure, ok := errors.AsType[*Error](err)
		if !ok {
			failure = &Error{Status: http.StatusInternalServerError, Exit: 1, Text: err.Error()}
		}
		end.Status, end.Error = failure.Status, failure
	}
	_ = tell(end) // the client has gone: there is nobody to tell
}

// Stream asks for a flow at the node at addr, as Get takes it, sends body, which may be nil, as it
// comes, and hands each answer to each. Its error is an *Error where the node says why it ended, an
// *UnreachableError where the node is not there, or no more.
func Stream(ctx context.Context, addr, name string, q url.Values, body io.Reader, each func(json.RawMessage) error) error {
	base, tr, err := parseAddr(addr)
	if err != nil {
		return err
	}
	tr.DisableKeepAlives = true
	defer tr.CloseIdleConnections()
	if body == nil {
		body = http.NoBody
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/"+name+"?"+q.Encode(), io.NopCloser(body))
	if err != nil {
		return fmt.Errorf("address %s: %w", addr, err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return &UnreachableError{Addr: addr, Err: err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK { // an older node, or none
		line, _ := bufio.NewReader(io.LimitReader(resp.Body, 200)).ReadString('\n')
		return fmt.Errorf("%s at %s: %s: %s", name, addr, resp.Status, line)
	}
	dec := json.NewDecoder(resp.Body)
	for {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &UnreachableError{Addr: addr, Err: errors.New("it has gone")}
		}
		var end last
		if err := json.Unmarshal(raw, &end); err == nil && end.End {
			if end.Error == nil {
				return nil
			}
			end.Error.Status = end.Status
			return end.Error
		}
		if err := each(raw); err != nil {
			return err
		}
	}
}
