package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// figureRows is the table of README: add a row here. A row measures one thing on this machine
// and writes its result as a person would say it.
var figureRows = []struct {
	name    string
	measure func(t *testing.T) string
}{
	{"`up examples/gosrc/weir.yaml`", figureGosrc},
	{"the same programs in a shell pipeline", figureGosrcShell},
	{"kill -9 of the orchestrator to the next one's first commit, median of 10", figureLeaderGap},
	{"1 GiB of 1 KiB lines through `weir pipe cat cat`", figurePipe},
	{"the same through `cat | cat | cat`", figureCats},
	{"first line out of `weir pipe cat`, from its start", figureFirstLine},
	{"`weir pipe cat` of nothing", figureNothing},
	{"lines at the sink while the orchestrator is killed, at 30 % load", figureOutage},
	{"a sink that stops for 60 s", figureStalledSink},
}

// TestFigures measures; it is a test so that it finds the binary and the example as tests do.
func TestFigures(t *testing.T) {
	if os.Getenv("WEIR_FIGURES") == "" {
		t.Skip("measures for minutes: make figures")
	}
	os.Unsetenv("WEIR_FIGURES")
	runtimeDir(t)
	t.Logf("%s, %d CPUs", runtime.Version(), runtime.NumCPU())
	for _, row := range figureRows {
		t.Run(row.name, func(t *testing.T) {
			fmt.Printf("| %s | %s |\n", row.name, row.measure(t))
		})
	}
}

// upFigures runs `weir up --json` with args and returns its figures.
func upFigures(t *testing.T, args ...string) figures {
	t.Helper()
	cmd := exec.Command("weir", append([]string{"up", "--json"}, args...)...)
	stderr := new(bytes.Buffer)
	cmd.Stderr = stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("weir up %q: %v\n%s", args, err, stderr)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	var f figures
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &f); err != nil {
		t.Fatalf("weir up %q: %v", args, err)
	}
	return f
}

// gosrc copies the example, whose output is written beside it, and returns the file.
func gosrc(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "gosrc", "weir.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// goSources is the folder of the standard library's sources.
func goSources(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src")
}

// gosrcShell is what examples/gosrc computes, as the shell does it; sorted.
const gosrcShell = `find "$1" -name '*.go' -type f -print0 | LC_ALL=C sort -z | xargs -0 cat |
	sed 's,//.*,,' | grep -aoE '[[:alpha:]_][[:alnum:]_]{15,}' | awk '{ print length($0), $0 }' | LC_ALL=C sort`

func figureGosrc(t *testing.T) string {
	f := upFigures(t, gosrc(t), "--set", "src="+goSources(t))
	return fmt.Sprintf("%.1f s, %s lines in, %s out, %d nodes", f.Seconds, count(f.LinesIn), count(f.LinesOut), f.Nodes)
}

func figureGosrcShell(t *testing.T) string {
	began := time.Now()
	if err := exec.Command("sh", "-c", gosrcShell, "sh", goSources(t)).Run(); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%.1f s", time.Since(began).Seconds())
}

// leaderPipeline runs for some seconds at a fixed rate.
const leaderPipeline = `
pipeline: kill
graph: in -> work -> out
roles:
  in:   {tap: {generate: {records: 6000, rate: 1000}}}
  work: {exec: [cat], nodes: 4}
  out:  {sink: {discard: true}}
`

func figureLeaderGap(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "kill.yaml")
	if err := os.WriteFile(path, []byte(leaderPipeline), 0o600); err != nil {
		t.Fatal(err)
	}
	var gaps []int64
	for len(gaps) < 10 {
		f := upFigures(t, path, "--kill-orchestrator", "1s")
		if f.LeaderGapMS == nil || f.LinesOut < 6000 {
			t.Fatalf("run %d: gap %v, %d of 6000 lines", len(gaps), f.LeaderGapMS, f.LinesOut)
		}
		gaps = append(gaps, *f.LeaderGapMS)
	}
	slices.Sort(gaps)
	return fmt.Sprintf("%d ms (%d to %d)", (gaps[4]+gaps[5])/2, gaps[0], gaps[9])
}

// gibibyte is what the pipes are fed with, in bytes.
const gibibyte = 1 << 30

// throughput runs a command with a gibibyte of lines on its stdin.
func throughput(t *testing.T, name string, args ...string) string {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	line := append(bytes.Repeat([]byte{'x'}, 1023), '\n')
	block := bytes.Repeat(line, 512)
	cmd.Stdin = io.LimitReader(&repeated{block: block}, gibibyte)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{stdout}, make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || n != gibibyte {
		t.Fatalf("%s %q: %v, %d bytes", name, args, err, n)
	}
	took := time.Since(began).Seconds()
	return fmt.Sprintf("%.1f s, %.0f MB/s", took, float64(n)/1e6/took)
}

// repeated reads as a block over and over.
type repeated struct {
	block []byte
	at    int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

func figurePipe(t *testing.T) string { return throughput(t, "weir", "pipe", "cat", "cat") }
func figureCats(t *testing.T) string { return throughput(t, "sh", "-c", "cat | cat | cat") }

// figureFirstLine keeps stdin open behind the first line.
func figureFirstLine(t *testing.T) string {
	cmd := exec.Command("weir", "pipe", "cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stdin, "hello")
	line, err := bufio.NewReader(stdout).ReadString('\n')
	took := time.Since(began)
	if err != nil || line != "hello\n" {
		t.Fatalf("read %q, %v", line, err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d ms", took.Milliseconds())
}

func figureNothing(t *testing.T) string {
	began := time.Now()
	if err := exec.Command("weir", "pipe", "cat").Run(); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d ms", time.Since(began).Milliseconds())
}
