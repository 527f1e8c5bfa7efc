package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/node/api"
)

// F24: a record that takes each node with it that has it in hand is a dead letter after as many deaths
// as there are attempts and the one that made it a suspect; every other record arrives, and there is
// always a worker.
func TestRecordThatKills(t *testing.T) {
	const lines = 500
	h := newHand(t, `
pipeline: killer
graph: in -> work -> out
roles:
  in:   {tap: {file: in.txt}, records: line}
  work: {sh: 'read -r l; case "$l" in *KILL*) touch "die-$WEIR_NODE"; exec sleep 60;; esac; echo "$l"', procs: 2, nodes: 3}
  out:  {sink: {file: out.txt}}
`, "v1", "in=in", "w1=work", "w2=work", "w3=work", "out=out")
	var in strings.Builder
	for i := range lines {
		if i == 100 {
			in.WriteString("KILL\n")
		}
		fmt.Fprintf(&in, "%d a line\n", i)
	}
	if err := os.WriteFile(h.path("in.txt"), []byte(in.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range h.nodes {
		n.start()
	}
	deaths := 0
	h.until("the end of the run", time.Minute, func(st api.Status) bool {
		for _, name := range []string{"w1", "w2", "w3"} { // the record's wish: it is at the test's hands that they die
			if os.Remove(h.path("die-"+name)) == nil {
				h.kill(h.place(name))
				h.place(name).start()
				deaths++
			}
		}
		return len(st.Pipelines) == 1 && st.Pipelines[0].State == "finished"
	})
	h.finish(lines, time.Second)
	out, err := exec.Command("weir", "dead", "list", "--json", "--addr", "unix:"+filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "v1")).Output()
	if err != nil || !json.Valid(out) {
		t.Fatalf("dead list: %v\n%s", err, out)
	}
	if n := strings.Count(string(out), `"role": "work"`); n != 1 || deaths < 4 || deaths > 5 {
		t.Errorf("%d deaths and %d dead letters, want 4 deaths, 5 at most, and one letter:\n%s", deaths, n, out)
	}
	t.Logf("%d deaths:\n%s", deaths, out)
}
