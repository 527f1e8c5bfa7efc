package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a Source with one answer.
type source struct {
	status Status
	err    error
}

func (s source) Status(context.Context) (Status, error) { return s.status, s.err }

// serve runs Serve on l until the test ends and fails the test if it ends badly.
func serve(t *testing.T, l net.Listener, src Source) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, src, nil, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func listenTCP(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// socketPath is short enough for a Unix socket, whatever the test's name.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir-api")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "n1.sock")
}

func TestStatusOverBothDoors(t *testing.T) {
	want := Status{Cluster: "3f2a", Epoch: 17, Quorum: true, Nodes: []Node{{ID: "n1", PID: 42}}}
	sock := socketPath(t)
	ul, err := Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	tl := listenTCP(t)
	serve(t, ul, source{status: want})
	serve(t, tl, source{status: want})
	for _, addr := range []string{"unix:" + sock, "http://" + tl.Addr().String(), tl.Addr().String()} {
		got, err := Get(t.Context(), addr)
		if err != nil {
			t.Errorf("Get(%s): %v", addr, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Get(%s) (-want +got):\n%s", addr, diff)
		}
	}
}

// counting is a Source whose epoch says how often it was asked before it was told to end, and
// whose answer needs a context that is not over.
type counting struct{ ended chan struct{} }

func (c counting) Status(ctx context.Context) (Status, error) {
	select {
	case <-c.ended:
		return Status{Epoch: 2}, ctx.Err()
	default:
		return Status{Epoch: 1}, ctx.Err()
	}
}

// Who asks for the status at the end gets that of the end, and the server waits for it.
func TestAtEnd(t *testing.T) {
	sock := socketPath(t)
	l, err := Listen(sock)
	if err != nil {
		t.Fatal(err)
	}
	src := counting{make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, src, nil, nil) }()

	gone, leave := context.WithCancel(t.Context())
	if _, err := AtEnd(gone, "unix:"+sock); err != nil {
		t.Fatal(err)
	}
	leave() // a client that goes away keeps nothing
	waits := make([]func() (Status, error), endsMax-1)
	for i := range waits {
		if waits[i], err = AtEnd(t.Context(), "unix:"+sock); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := Get(t.Context(), "unix:"+sock); st.Epoch != 1 || err != nil {
		t.Errorf("meanwhile epoch %d, %v", st.Epoch, err)
	}
	close(src.ended)
	cancel()
	for _, wait := range waits {
		if st, err := wait(); st.Epoch != 2 || err != nil {
			t.Errorf("at the end epoch %d, %v; want 2", st.Epoch, err)
		}
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := AtEnd(t.Context(), "unix:"+sock); err == nil {
		t.Error("a node that has ended took a question")
	}
}

// Waiting for the end is for a few.
func TestAtEndIsBounded(t *testing.T) {
	l := listenTCP(t)
	serve(t, l, source{})
	for range endsMax {
		if _, err := AtEnd(t.Context(), l.Addr().String()); err != nil { // waits as long as the context
			t.Fatal(err)
		}
	}
	wait, err := AtEnd(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wait(); err == nil || !strings.Contains(err.Error(), "16 others wait") {
		t.Errorf("one more: %v", err)
	}
}

func TestRequestsRefused(t *testing.T) {
	l := listenTCP(t)
	serve(t, l, source{})
	_, port, _ := net.SplitHostPort(l.Addr().String())
	tests := []struct {
		method, path, host string
		want               int
	}{
		{"GET", "/livez", "127.0.0.1:" + port, 200},
		{"GET", "/livez", "localhost", 200},
		{"GET", "/livez", "[::1]:" + port, 200},
		{"HEAD", "/livez", "127.0.0.1", 200},
		{"GET", "/v1/status", "localhost:1", 200},
		{"GET", "/v1/status?at=start", "localhost", 400},
		{"GET", "/livez", "evil.example", 421},
		{"GET", "/v1/status", "evil.example:" + port, 421},
		{"GET", "/livez", "127.0.0.1.evil.example", 421},
		{"GET", "/livez", "10.0.0.1", 421},
		{"POST", "/v1/status", "127.0.0.1", 405},
		{"DELETE", "/livez", "127.0.0.1", 405},
		{"OPTIONS", "/livez", "127.0.0.1", 405},
		{"GET", "/", "127.0.0.1", 404},
		{"GET", "/../../etc/passwd", "127.0.0.1", 404},
		{"GET", "/v1/status/%2e%2e/x", "127.0.0.1", 404},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %s %s", tt.method, tt.host, tt.path), func(t *testing.T) {
			// The transport would clean a path: write the request as an attacker would.
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "%s %s HTTP/1.0\r\nHost: %s\r\n\r\n", tt.method, tt.path, tt.host)
			answer, err := io.ReadAll(c)
			if err != nil {
				t.Fatal(err)
			}
			line, _, _ := strings.Cut(string(answer), "\r\n")
			code, redirected := strings.Fields(line)[1], strings.Contains(string(answer), "Location: ")
			if redirected && tt.want == 404 {
				return // the mux cleaned the path; there is nothing where it points
			}
			if code != fmt.Sprint(tt.want) {
				t.Errorf("answered %q, want %d", line, tt.want)
			}
		})
	}
}

func TestHeadTooLong(t *testing.T) {
	l := listenTCP(t)
	serve(t, l, source{})
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The server may hang up while we still write: only its answer counts.
	fmt.Fprintf(c, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*headerBytesMax))
	b := make([]byte, 12)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "HTTP/1.1 431" {
		t.Errorf("answered %q, %v; want HTTP/1.1 431", b, err)
	}
}

func TestStatusFails(t *testing.T) {
	l := listenTCP(t)
	serve(t, l, source{err: errors.New("the node is stopping")})
	_, err := Get(t.Context(), "http://"+l.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "503 Service Unavailable: no status: the node is stopping") {
		t.Errorf("Get: %v", err)
	}
}

func TestGetNobody(t *testing.T) {
	l := listenTCP(t)
	l.Close()
	for _, addr := range []string{"http://" + l.Addr().String(), l.Addr().String(), "unix:" + socketPath(t)} {
		_, err := Get(t.Context(), addr)
		var ue *UnreachableError
		if !errors.As(err, &ue) || ue.Addr != addr {
			t.Errorf("Get(%s): %v, want an UnreachableError", addr, err)
		}
	}
	for _, addr := range []string{"", "unix:", "n1", "n1:", "https://127.0.0.1", "http://", "http://h/path"} {
		if _, err := Get(t.Context(), addr); !errors.Is(err, ErrAddress) {
			t.Errorf("Get(%q): %v", addr, err)
		}
	}
}

func TestGetStrangers(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "<html>hello</html>")
	}))
	defer page.Close()
	if _, err := Get(t.Context(), page.URL); err == nil || !strings.Contains(err.Error(), "not a weir node's answer") {
		t.Errorf("Get: %v", err)
	}
	flood := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 1<<20)
		for r.Context().Err() == nil {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}))
	defer flood.Close()
	if _, err := Get(t.Context(), flood.URL); err == nil || !strings.Contains(err.Error(), "longer than 86 MiB") {
		t.Errorf("Get: %v", err)
	}
}

func TestListen(t *testing.T) {
	path := socketPath(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		fi, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", p, got, want)
		}
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "in use by another node") {
		t.Errorf("a second Listen: %v", err)
	}

	l.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed node leaves it
	l.Close()
	l, err = Listen(path)
	if err != nil {
		t.Fatalf("Listen over a stale socket: %v", err)
	}
	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket outlived its listener: %v", err)
	}
}

func TestListenRefused(t *testing.T) {
	dir := filepath.Dir(socketPath(t))
	open := filepath.Join(dir, "open")
	if err := os.MkdirAll(open, 0o755); err != nil {
		t.Fatal(err)
	}
	shut := filepath.Join(dir, "shut")
	if err := os.Mkdir(shut, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shut, "file.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shut, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(open, "n.sock"):                 "is open to others (mode 0755)",
		filepath.Join(shut, "file.sock"):              "is not a socket",
		filepath.Join(shut, "file.sock", "n.sock"):    "not a directory",
		filepath.Join(dir, "link", "n.sock"):          "is not a folder",
		filepath.Join(dir, strings.Repeat("x", 2000)): "a Unix socket's may have 107",
	} {
		if l, err := Listen(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Listen(%.60s): %v, %v; want %q", path, l, err, want)
		}
	}
}

func TestSockets(t *testing.T) {
	run := filepath.Dir(filepath.Dir(socketPath(t)))
	t.Setenv("XDG_RUNTIME_DIR", run)
	if got, err := Sockets(); len(got) != 0 || err != nil {
		t.Errorf("Sockets() with no folder = %v, %v", got, err)
	}
	for _, name := range []string{"b.sock", "a.sock"} {
		l, err := Listen(filepath.Join(Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	// What killed nodes leave: an old socket goes, one that may be just being opened stays.
	for _, name := range []string{"killed.sock", "new.sock"} {
		l, err := Listen(filepath.Join(Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
	}
	old := time.Now().Add(-2 * staleWait)
	if err := os.Chtimes(filepath.Join(Dir(), "killed.sock"), old, old); err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(Dir(), "mine.sock")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(mine, old, old); err != nil {
		t.Fatal(err)
	}
	got, err := Sockets()
	want := []string{filepath.Join(run, "weir", "a.sock"), filepath.Join(run, "weir", "b.sock")}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Sockets() (-want +got), %v:\n%s", err, diff)
	}
	for name, stays := range map[string]bool{"killed.sock": false, "new.sock": true, "mine.sock": true} {
		if _, err := os.Lstat(filepath.Join(Dir(), name)); (err == nil) != stays {
			t.Errorf("%s: %v, want it there: %t", name, err, stays)
		}
	}
	t.Setenv("XDG_RUNTIME_DIR", "")
	if d := Dir(); !strings.HasPrefix(d, os.TempDir()) {
		t.Errorf("Dir() without XDG_RUNTIME_DIR = %s", d)
	}
}
