package worker

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// eats is a program that takes memory until it is stopped.
const eats = `python3 -c '
x = []
while True: x.append(bytearray(1 << 20))'`

// A program that runs out of its memory fails its record, and the next one is handled.
func TestMemoryLimit(t *testing.T) {
	need(t, "python3")
	p, ctx := start(t, Config{Sh: `ulimit -v 300000; read x; test "$x" = bad || { echo ok; exit; }; exec ` + eats})
	if err := p.handle(ctx, record("bad"), &fakeEmitter{}); !strings.Contains(text(err), "MemoryError") {
		t.Errorf("error %v", err)
	}
	var em fakeEmitter
	if err := p.handle(ctx, record("good"), &em); err != nil || bodies(&em) != `"ok"` {
		t.Errorf("emitted %s, error %v", bodies(&em), err)
	}
}

// Where the memory of node and program together runs out, the program dies, though the node has more of
// it, and its record fails.
func TestOutOfMemory(t *testing.T) {
	const memory = "/sys/fs/cgroup/memory"
	if group := os.Getenv("WEIR_TEST_OOM"); group != "" {
		outOfMemory(t, group)
		return
	}
	need(t, "python3")
	group := filepath.Join(memory, fmt.Sprintf("weir-test-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("only root can make a memory cgroup (v1): %v", err)
	}
	defer func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	}()
	if err := os.WriteFile(filepath.Join(group, "memory.limit_in_bytes"), []byte(strconv.Itoa(200<<20)), 0); err != nil {
		t.Skipf("this kernel has no memory cgroup (v1): %v", err)
	}
	node := exec.Command(os.Args[0], "-test.run", "^TestOutOfMemory$", "-test.v")
	node.Env = append(os.Environ(), "WEIR_TEST_OOM="+group)
	out, err := node.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "handled: sh: killed by SIGKILL, perhaps for want of memory") {
		t.Errorf("the node: %v\n%s", err, out)
	}
}

// outOfMemory is the node: it holds most of the group's memory.
func outOfMemory(t *testing.T, group string) {
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		t.Fatal(err)
	}
	ballast, err := unix.Mmap(-1, 0, 120<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(ballast) }()
	p, ctx := start(t, Config{Sh: `read x; test "$x" = bad || { echo ok; exit; }; sleep 0.1; exec ` + eats})
	t.Log("handled:", p.handle(ctx, record("bad"), &fakeEmitter{}))
	var em fakeEmitter
	if err := p.handle(ctx, record("good"), &em); err != nil || bodies(&em) != `"ok"` {
		t.Errorf("emitted %s, error %v", bodies(&em), err)
	}
}

// A program or an endpoint that answers a GiB is stopped early, and costs little memory.
func TestMemoryOfAnswers(t *testing.T) {
	const gib = "head -c 1073741824 /dev/zero | tr '\\0' x"
	each, ctx := start(t, Config{Sh: gib})
	line, _ := startLine(t, Config{Sh: "read x; " + gib})
	frame, _ := startFrame(t, Config{Sh: "head -c 1 >/dev/null; " + gib}) // asked, it answers
	stderr, _ := start(t, Config{Sh: "exec >&2; " + gib})
	post, _ := startHTTP(t, HTTPConfig{URL: speak(t, "HTTP/1.1 200 OK\r\n\r\n", func(c net.Conn) {
		for p := make([]byte, 1<<20); ; {
			if _, err := c.Write(p); err != nil {
				return
			}
		}
	})})
	stays := func(s *resident) error {
		b := newFakeBatch(1)
		if err := s.handle(ctx, batchOf("a"), b); err != nil {
			return err
		}
		return b.nacks[0]
	}
	for _, tc := range []struct {
		name string
		do   func() error
		err  string
	}{
		{"each", func() error { return each.handle(ctx, record("a"), discard{}) }, "printed more than 1048576 bytes for one record"},
		{"line", func() error { return stays(line.resident) }, "printed more than 1048576 bytes for one record"},
		{"frame", func() error { return stays(frame) }, "is longer than 3211267 bytes"},
		{"http", func() error { return post.handle(ctx, record("a"), discard{}) }, "answered more than 1048576 bytes for one record"},
		{"stderr", func() error { return stderr.handle(ctx, record("a"), &fakeEmitter{errs: true}) }, ""},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := tc.do()
		runtime.ReadMemStats(&after)
		if !strings.Contains(text(err), tc.err) || tc.err == "" && err != nil {
			t.Errorf("%s: error %.200q", tc.name, text(err))
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 32<<20 {
			t.Errorf("%s: %d MiB", tc.name, took>>20)
		}
	}
}
