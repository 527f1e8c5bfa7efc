package main

import (
	"flag"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/node/api"
)

// zombie is how long TestZombieTap stops a process, and takeover how long the others wait: 30 s and 10 s, the
// default, for the figures in node/DESIGN.md (FAULTS F27).
var (
	zombie   = flag.Duration("zombie", 6*time.Second, "how long the node that reads is stopped")
	takeover = flag.Duration("takeover", 2*time.Second, "how long the others wait for it")
)

const shared = `
pipeline: shared
graph: in -> work -> out
roles:
  in:   {tap: {file: in.txt}, records: line, nodes: 2, shared: true, takeover: %s}
  work: {exec: [perl, -ne, '$| = 1; select(undef, undef, undef, 0.0005); print'], mode: line, procs: 2}
  out:  {sink: {file: out.txt}}
`

// TestZombieTap stops the process that reads a shared file: another node takes over, and what the first
// still says when it goes on is refused.
func TestZombieTap(t *testing.T) {
	lines := int((*zombie + *takeover + 8*time.Second).Seconds() * 3000)
	h := newHand(t, fmt.Sprintf(shared, *takeover), "v1", "a=in", "b=in", "work=work", "out=out")
	writeNumbers(t, h.path("in.txt"), lines)
	for _, n := range h.nodes {
		n.start()
	}
	h.flowing(20 * time.Second)
	reads := func(by string) func(api.Status) bool {
		return func(st api.Status) bool {
			return len(st.Pipelines) == 1 && len(st.Pipelines[0].Taps) == 1 && st.Pipelines[0].Taps[0].Node == by
		}
	}
	first, second := h.place("a"), h.place("b")
	if st := h.until("who reads", 5*time.Second, func(st api.Status) bool { return reads("a")(st) || reads("b")(st) }); reads("b")(st) {
		first, second = second, first
	}
	h.until("both nodes of the role", 10*time.Second, func(st api.Status) bool { return len(st.Nodes) == 5 })
	time.Sleep(2 * time.Second) // so that some marks are in the log
	stopped := time.Now()
	if err := first.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	places := h.nodes // the one that stands still does not answer
	h.nodes = []*started{h.place("v1"), second, h.place("work"), h.place("out")}
	h.until("another node reads", *takeover+10*time.Second, reads(second.name))
	t.Logf("%s reads %v after %s was stopped", second.name, time.Since(stopped), first.name)
	if early := time.Since(stopped) < *takeover; early {
		t.Error("it did not wait for the first")
	}
	h.flowing(5 * time.Second)
	time.Sleep(time.Until(stopped.Add(*zombie)))
	if err := first.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	h.nodes = places
	const lost = "a partition is read by another node"
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(first.log(), lost); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the first does not say that it reads no more:\n%s", first.log())
		}
	}
	h.finish(lines, 120*time.Second)
	checkOnce(t, h)
}
