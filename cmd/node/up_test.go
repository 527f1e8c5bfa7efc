package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/node/api"
)

// sleepers is a pipeline whose programs are shells that wait for a grandchild.
const sleepers = `
pipeline: s
graph: in -> work -> out
roles:
  in:   {tap: {generate: {records: 100000}}}
  work: {sh: 'echo >>started; sleep 1000; cat', nodes: 2}
  out:  {sink: {discard: true}}
`

// startUp starts `weir up` of a pipeline over real nodes and returns when its programs have run.
func startUp(t *testing.T, args ...string) (cmd *exec.Cmd, m string) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	runtimeDir(t)
	m = mark(t)
	path := filepath.Join(t.TempDir(), "s.yaml")
	if err := os.WriteFile(path, []byte(sleepers), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("weir", append([]string{"up", path}, args...)...)
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForFile(t, filepath.Join(filepath.Dir(path), "started"))
	return cmd, m
}

// waitForText returns when a file holds text.
func waitForText(t *testing.T, path, text string) {
	t.Helper()
	for {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(text)) {
			return
		}
		time.Sleep(5 * time.Millisecond) // between two looks
	}
}

func TestUpDiesWithItsParent(t *testing.T) {
	cmd, m := startUp(t)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if err := awaitNone(m, 5*time.Second); err != nil {
		t.Error(err)
	}
}

func TestUpInterruptedTwice(t *testing.T) {
	cmd, m := startUp(t)
	for _, before := range []string{"", "interrupt again to stop at once"} {
		waitForText(t, cmd.Stderr.(*os.File).Name(), before) // two signals at once would be one
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait() // its code is looked at next
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
	if left := marked(m); len(left) > 0 {
		t.Errorf("left running: %q", left)
	}
}

// A Ctrl-C goes to all processes of the terminal's group: up and its node that reads stdin. It is
// one, although up then signals the node too, and what was read is finished.
func TestUpInterruptedAtTheTerminal(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	runtimeDir(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "s.yaml")
	text := `
pipeline: s
graph: in -> work -> out
roles:
  in:   {tap: stdin}
  work: {sh: 'echo >>started; sleep 1; cat'}
  out:  {sink: {file: out.txt}}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command("weir", "up", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprint(stdin, "a\nb\n"); err != nil {
		t.Fatal(err)
	}
	waitForFile(t, filepath.Join(dir, "started"))
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its code is looked at next
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "out.txt")); string(got) != "a\nb\n" {
		t.Errorf("written: %q, %v", got, err)
	}
	if want := "  wrote  2 lines in 1 record, "; !strings.Contains(stderr.String(), want) {
		t.Errorf("stderr:\n%s\nwant %q", &stderr, want)
	}
}

// TestUpHTTP checks that --http shows the run, and that each node is a process of its own.
func TestUpHTTP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String() // free a moment ago: good enough for a test
	l.Close()
	cmd, _ := startUp(t, "--http", addr)
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	st := (&running{t: t, addr: "http://" + addr}).until("an answer of each node", 20*time.Second, func(st api.Status) bool {
		return len(st.Nodes) >= 4 && allAnswered(st)
	})
	for _, n := range st.Nodes {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", n.PID))
		if want := "weir\x00start\x00--id\x00" + n.ID + "\x00"; err != nil || !bytes.HasPrefix(cmdline, []byte(want)) {
			t.Errorf("node %s is said to be process %d, which is %q, %v", n.ID, n.PID, cmdline, err)
		}
	}
	if p := pipelineOf(st, "s"); p.State != "running" {
		t.Errorf("pipeline %+v", p)
	}
}
