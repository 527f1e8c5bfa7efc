package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Limits of the server.
const (
	// headerWait is how long a client may take to send its request: a GET has no body, that of a
	// call comes from this machine, so nothing slower is honest (FAULTS 4).
	headerWait = 5 * time.Second
	// answerWait bounds one answer: gathering a status takes a second at most (Source), writing
	// it to a slow reader may take the rest.
	answerWait = 15 * time.Second
	// idleWait is how long a connection may sit unused.
	idleWait = time.Minute
	// headerBytesMax is the most a request's head may hold, in bytes (FAULTS 4).
	headerBytesMax = 16 << 10
	// closeWait is how long answers under way may take once the server stops: a second to gather
	// (Source), as much again to write.
	closeWait = 2 * time.Second
	// endsMax is how many may wait for the end at once; a run has one who does.
	endsMax = 16
)

// Serve answers GET /v1/status and GET /livez on l until ctx is done, and then those who asked
// for the status at the end; on a Unix socket calls and flows too. It closes l and returns with nothing
// running; the error is nil when ctx ended it.
func Serve(ctx context.Context, l net.Listener, src Source, calls Calls, flows Flows) error {
	srv := &http.Server{
		Handler:           guard(l.Addr().Network(), routes(ctx, src, calls, flows)),
		ReadHeaderTimeout: headerWait,
		ReadTimeout:       headerWait,
		WriteTimeout:      answerWait,
		IdleTimeout:       idleWait,
		MaxHeaderBytes:    headerBytesMax,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	served := make(chan error, 1) // length 1: Serve may end before we look
	go func() { served <- srv.Serve(l) }()
	select {
	case err := <-served: // l broke
		return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// The answers under way are given a moment of their own: ctx is over.
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWait)
	defer cancel()
	if err := srv.Shutdown(wait); err != nil {
		srv.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
	}
	return nil
}

// routes answers until ctx is done, which ends the contexts of all requests too.
func routes(ctx context.Context, src Source, calls Calls, flows Flows) http.Handler {
	ends := make(chan struct{}, endsMax)
	mux := http.NewServeMux()
	for name, call := range calls {
		mux.HandleFunc("POST /v1/"+name, call.serve)
	}
	for name, flow := range flows {
		mux.HandleFunc("POST /v1/"+name, flow.serve)
	}
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		asked := r.Context()
		w.Header().Set("Cache-Control", "no-store")
		switch at := r.URL.Query().Get("at"); at {
		case "":
		case "end":
			select {
			case ends <- struct{}{}:
				defer func() { <-ends }()
			default:
				http.Error(w, fmt.Sprintf("%d others wait for the end already", endsMax), http.StatusServiceUnavailable)
				return
			}
			if !awaitEnd(ctx, w, r) {
				return
			}
			asked = context.WithoutCancel(asked)
		default:
			http.Error(w, fmt.Sprintf("at=%.20q: there is only at=end", at), http.StatusBadRequest)
			return
		}
		st, err := src.Status(asked)
		if err != nil {
			http.Error(w, "no status: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		_ = enc.Encode(st) // the client has gone: there is nobody to tell
	})
	return mux
}

// awaitEnd tells the client that its question is taken, so that it may end the node, and waits
// until ctx is done; false: the client has gone.
func awaitEnd(ctx context.Context, w http.ResponseWriter, r *http.Request) bool {
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/json")
	// However long it takes: the client is one of few, and its going is seen.
	if errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Time{}), rc.Flush()) != nil {
		return false
	}
	<-r.Context().Done()
	return ctx.Err() != nil && rc.SetWriteDeadline(time.Now().Add(answerWait)) == nil
}

// guard lets through what may ask. Over TCP the Host must be a name of this machine: a page in
// the user's browser whose own name was made to point here sends its own name (DNS rebinding).
// A Unix socket is guarded by its file mode, and only there may one do more than look.
func guard(network string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Content-Security-Policy", "default-src 'none'")
		if network != "unix" && !localHost(r.Host) {
			http.Error(w, fmt.Sprintf("host %q is not this machine: ask for 127.0.0.1 or localhost", r.Host),
				http.StatusMisdirectedRequest)
			return
		}
		if network != "unix" && r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "over TCP this API only answers GET: ask by the node's Unix socket", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localHost reports whether a Host header names this machine by a name that no stranger's DNS
// can give away.
func localHost(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil { // no port
		host = hostport
	}
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
