package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/node/api"
)

// running is a `weir up` that a test looks at and breaks while it runs.
type running struct {
	t      *testing.T
	cmd    *exec.Cmd
	addr   string
	stdout bytes.Buffer
	stderr bytes.Buffer
}

// upWhile starts `weir up --json --http` for a pipeline file with the text.
func upWhile(t *testing.T, text string, args ...string) (r *running, dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free now
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().String()
	l.Close()
	r = &running{t: t, addr: "http://" + port}
	r.cmd = exec.Command("weir", append([]string{"up", path, "--json", "--http", port}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			_ = r.cmd.Process.Kill()
			_ = r.cmd.Wait()
		}
	})
	return r, dir
}

// until polls the status until f holds.
func (r *running) until(what string, limit time.Duration, f func(api.Status) bool) api.Status {
	r.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		st, err := api.Get(ctx, r.addr)
		cancel()
		if err == nil && f(st) {
			return st
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("not within %v: %s: %v\n%s", limit, what, err, &r.stderr)
		}
		time.Sleep(20 * time.Millisecond) // between two questions; the deadline is above
	}
}

// end waits for the run and returns its figures.
func (r *running) end() figures {
	r.t.Helper()
	if err := r.cmd.Wait(); err != nil {
		r.t.Fatalf("weir up: %v\n%s", err, &r.stderr)
	}
	lines := strings.Split(strings.TrimSpace(r.stdout.String()), "\n")
	var f figures
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &f); err != nil {
		r.t.Fatal(err)
	}
	return f
}

// allAnswered says that each node has told of itself: of one that gossip knows, and that is not
// in the roster yet, status has neither the process nor the memory.
func allAnswered(st api.Status) bool {
	return len(st.Nodes) > 0 && !slices.ContainsFunc(st.Nodes, func(n api.Node) bool { return n.PID == 0 })
}

func allServed(st api.Status) bool {
	return allAnswered(st) && len(st.Pipelines) == 1 && st.Pipelines[0].State == "running" && st.Pipelines[0].RecordsOut > 0
}

// numbersIn reads a file of lines that begin with a number and returns how many there are of
// each.
func numbersIn(t *testing.T, path string) map[string]int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	counts := make(map[string]int)
	for s := bufio.NewScanner(f); s.Scan(); {
		counts[strings.Fields(s.Text())[0]]++
	}
	return counts
}

const fourWorkers = `
pipeline: four
graph: in -> work -> out
roles:
  in:   {tap: {generate: {records: %d, size: 100, rate: %d}}, records: line}
  work: {exec: [cat], nodes: 4}
  out:  {sink: {file: out.txt}}
`

// TestOneSocket looks at the sockets of the nodes of a run: each has one UDP socket and listens
// on no TCP port but that of --http.
func TestOneSocket(t *testing.T) {
	runtimeDir(t)
	r, _ := upWhile(t, fmt.Sprintf(fourWorkers, 1_000_000, 200))
	st := r.until("records at the sink", 20*time.Second, allServed)
	for _, n := range st.Nodes {
		udp, tcp := sockets(t, n.PID)
		listening := 0
		if slices.Contains(n.Roles, "in") {
			listening = 1
		}
		if udp != 1 || tcp != listening {
			t.Errorf("node %s has %d UDP sockets and listens on %d TCP ports, want 1 and %d", n.ID, udp, tcp, listening)
		}
	}
	_ = r.cmd.Process.Signal(syscall.SIGINT)
	_ = r.cmd.Wait() // 130
}

// sockets counts a process' UDP sockets and listening TCP ports.
func sockets(t *testing.T, pid int) (udp, listening int) {
	t.Helper()
	inodes := make(map[string]bool)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) == 0 {
		t.Fatalf("no open files of process %d: %v", pid, err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
		}
	}
	count := func(table string, state string) (n int) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if errors.Is(err, os.ErrNotExist) {
			return 0 // a kernel without IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 9 && inodes[f[9]] && (state == "" || f[3] == state) {
				n++
			}
		}
		return n
	}
	const listen = "0A" // TCP_LISTEN of the kernel's tcp_states.h
	return count("udp", "") + count("udp6", ""), count("tcp", listen) + count("tcp6", listen)
}

// TestWorkerKilled kills -9 one of four workers: its un-acked records arrive through the
// others, the first within 2.5 s, and none is lost.
func TestWorkerKilled(t *testing.T) {
	runtimeDir(t)
	const n, rate = 3000, 500
	r, dir := upWhile(t, fmt.Sprintf(fourWorkers, n, rate))
	st := r.until("records at the sink", 20*time.Second, func(st api.Status) bool {
		return allServed(st) && st.Pipelines[0].RecordsOut > rate
	})
	i := slices.IndexFunc(st.Nodes, func(n api.Node) bool { return slices.Contains(n.Roles, "work") && !n.Leader })
	killed := time.Now()
	if err := syscall.Kill(st.Nodes[i].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	st = r.until("a redelivered record acked", 20*time.Second, func(st api.Status) bool {
		return st.Edges[0].FirstRedeliveredMS > 0
	})
	after := time.UnixMilli(st.Edges[0].FirstRedeliveredMS).Sub(killed)
	f := r.end()
	counts := numbersIn(t, filepath.Join(dir, "out.txt"))
	repeated := 0
	for _, n := range counts {
		repeated += n - 1
	}
	t.Logf("first redelivered record acked %v after the kill; %d redelivered, %d twice", after, f.Redelivered, repeated)
	if len(counts) != n || repeated > 0 || f.Duplicates > f.Redelivered {
		t.Errorf("%d of %d lines arrived, %d twice; %+v", len(counts), n, repeated, f)
	}
	if !raceEnabled && after > 2500*time.Millisecond {
		t.Errorf("the first redelivered record was acked %v after the kill, want 2.5 s", after)
	}
}

// TestOrchestratorKilled is the gosrc example with the leader's process killed on the way: the
// same lines, each once, and no more duplicates than redelivered records.
func TestOrchestratorKilled(t *testing.T) {
	runtimeDir(t)
	src := goSources(t) // less of it may be read before there is a second leader to be
	want, err := exec.Command("sh", "-c", gosrcShell, "sh", src).Output()
	if err != nil {
		t.Fatal(err)
	}
	path := gosrc(t)
	f := upFigures(t, path, "--set", "src="+src, "--kill-orchestrator", "100ms")
	got, err := exec.Command("env", "LC_ALL=C", "sort", filepath.Join(filepath.Dir(path), "long-names.txt")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d lines, want %d: %+v", bytes.Count(got, []byte{'\n'}), bytes.Count(want, []byte{'\n'}), f)
	}
	const window = 4096 // records of the dead node's one link from each of two nodes at most
	if f.Duplicates > f.Redelivered || f.Redelivered > 2*window || f.LeaderGapMS == nil {
		t.Errorf("%+v", f)
	}
}

// figureOutage runs at 30 % of the rate measured just before, kills the orchestrator, and looks
// at the sink's file in buckets of 250 ms.
func figureOutage(t *testing.T) string {
	free, _ := upWhile(t, "pipeline: free\ngraph: in -> work -> out\nroles:\n  in: {tap: {generate: {records: 60000, size: 100}}, records: line}\n  work: {exec: [cat], nodes: 4}\n  out: {sink: {file: out.txt}}\n")
	st := free.until("records at the sink", 20*time.Second, allServed)
	before, at := st.Pipelines[0].RecordsOut, time.Now()
	time.Sleep(3 * time.Second) // the rate is measured over it
	st = free.until("status", 5*time.Second, allServed)
	full := float64(st.Pipelines[0].RecordsOut-before) / time.Since(at).Seconds()
	_ = free.cmd.Process.Signal(syscall.SIGINT)
	_ = free.cmd.Wait() // 130

	rate := int(0.3 * full)
	r, dir := upWhile(t, fmt.Sprintf(fourWorkers, 8*rate, rate), "--kill-orchestrator", "2s")
	out := filepath.Join(dir, "out.txt")
	size := func() int64 {
		info, err := os.Stat(out)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	for deadline := time.Now().Add(20 * time.Second); size() == 0; time.Sleep(10 * time.Millisecond) { // between two looks
		if time.Now().After(deadline) {
			t.Fatal("no line at the sink within 20 s")
		}
	}
	const buckets = 20 // 5 s: the outage is in the middle
	least, last := int64(1<<62), size()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for range buckets {
		<-tick.C
		now := size()
		least, last = min(least, now-last), now
	}
	f := r.end()
	if f.LeaderGapMS == nil {
		t.Fatalf("the leader was not killed: %+v", f)
	}
	if least == 0 {
		t.Error("a bucket of 250 ms without a line at the sink")
	}
	if len(numbersIn(t, out)) != 8*rate {
		t.Errorf("lines are missing: %+v", f)
	}
	const lineBytes = 101
	return fmt.Sprintf("worst 250 ms: %d of %d lines; at %d/s, 30 %% of %.0f/s", least/lineBytes, rate/4, rate, full)
}

const stalled = `
pipeline: stalled
graph: in -> work -> out
roles:
  in:   {tap: {generate: {records: 400000, size: 1000}}}
  work: {exec: [cat], nodes: 3}
  out:  {sink: {file: '${fifo}'}}
`

// figureStalledSink lets the sink write to a pipe that nobody reads for a minute.
func figureStalledSink(t *testing.T) string {
	const lines, stop = 400_000, time.Minute
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.OpenFile(fifo, os.O_RDWR, 0) // both ends: opening does not wait
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	r, _ := upWhile(t, stalled, "--set", "fifo="+fifo)
	st := r.until("all nodes", 20*time.Second, func(st api.Status) bool { return len(st.Nodes) >= 5 && allAnswered(st) })
	start := make(map[string]int64)
	for _, n := range st.Nodes {
		start[n.ID] = n.RSSBytes
	}
	began := time.Now()
	var worst int64 = -1 << 62
	var read uint64
	for time.Since(began) < stop {
		st = r.until("status", 5*time.Second, allAnswered)
		for _, n := range st.Nodes {
			worst = max(worst, n.RSSBytes-start[n.ID]-2*n.HeldBytes)
		}
		if half := time.Since(began) > stop/2; half && read == 0 {
			read = st.Pipelines[0].RecordsIn
		} else if half && st.Pipelines[0].RecordsIn != read {
			t.Errorf("the tap reads on: %d records, then %d", read, st.Pipelines[0].RecordsIn)
			break
		}
		time.Sleep(time.Second) // between two looks at a sink that stands for a minute
	}
	got := make(chan int, 1)
	go func() { // ended by the last line
		n := 0
		br := bufio.NewReaderSize(in, 1<<20)
		for ; n < lines; n++ {
			if _, err := br.ReadSlice('\n'); err != nil && !errors.Is(err, io.EOF) {
				break
			}
		}
		got <- n
	}()
	f := r.end()
	if n := <-got; n != lines || f.LinesOut != lines {
		t.Errorf("%d lines arrived, want %d: %+v", n, lines, f)
	}
	if worst > 32<<20 {
		t.Errorf("a node grew by %s more than twice what it holds", size(worst))
	}
	return fmt.Sprintf("the tap stops after %s records; RSS grows at most by 2 x held %+d MiB", strconv.FormatUint(read, 10), worst>>20)
}
