package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/node/api"
	"weir/node/spec"
)

// The fleet is tested with fake nodes: processes that keep the contract of `weir start` or break
// it in one chosen way.

const fakePipeline = `
pipeline: p
graph: in -> work -> out
roles:
  in:   {tap: {file: /dev/null}}
  work: {exec: [cat], nodes: 2}
  out:  {sink: {discard: true}}
`

// newFakeFleet prepares a run whose nodes do as told.
func newFakeFleet(t *testing.T, cfg upConfig, do fakes) (*fleet, *bytes.Buffer) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	runtime.LockOSThread() // as main: see child.start
	t.Cleanup(runtime.UnlockOSThread)
	do.Dir = t.TempDir()
	env, err := json.Marshal(do)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(fakeEnv, string(env))
	runtimeDir(t)
	m := mark(t)
	t.Cleanup(func() {
		if left := marked(m); len(left) > 0 {
			t.Errorf("left running: %s", left)
		}
	})
	f, err := spec.Parse("p.yaml", []byte(fakePipeline), nil)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := exec.LookPath("weir") // the test binary: see TestMain
	if err != nil {
		t.Fatal(err)
	}
	cfg.File, cfg.Memory, cfg.LogLevel = "p.yaml", memoryDefault, slog.LevelWarn
	if cfg.Voters == 0 {
		cfg.Voters = 3
	}
	stderr := new(bytes.Buffer)
	return &fleet{
		cfg: cfg, spec: f, exe: exe, env: os.Environ(), stdout: io.Discard, con: newConsole(stderr),
		socket: filepath.Join(api.Dir(), "p.sock"), grace: stopGrace,
	}, stderr
}

func TestFleetEnds(t *testing.T) {
	tests := []struct {
		name   string
		do     fakes
		code   int
		err    string // a regular expression
		stderr string // another
	}{
		{"finished", fakes{EndAt: 3}, exitOK, ``, `^$`},
		{"a pipeline that fails", fakes{EndAt: 2, Fail: &api.Pipeline{Reason: "grep: exit 2: bad", ExitCode: 65}},
			65, `^grep: exit 2: bad$`, `^$`},
		{"a failure without a code", fakes{EndAt: 2, Fail: &api.Pipeline{Reason: "why"}}, exitFailed, `^why$`, `^$`},
		{"the reader has gone", fakes{EndAt: 2, Fail: &api.Pipeline{Reason: "broken pipe", ExitCode: exitReaderGone}},
			exitReaderGone, `^exit$`, `^$`},
		{"a program that is not there", fakes{Nodes: map[string]string{"work-2": "refuse"}},
			exitConfig, `^run nosuch: no program of that name on PATH$`, `^$`},
		{"a first node that refuses", fakes{Nodes: map[string]string{"in-1": "refuse"}}, exitConfig, `^run nosuch`, `^$`},
		{"a first node without a hello", fakes{Nodes: map[string]string{"in-1": "mute"}},
			2, `^role in has no node left: in-1 ended: exit status 2: panic: a bug$`, `in-1    \| panic: a bug\n`},
		{"the only node of a role dies", fakes{Nodes: map[string]string{"out-1": "die"}},
			74, `^node out-1: disk full: /x$`, `^$`},
		{"one of two nodes dies", fakes{EndAt: 6, Nodes: map[string]string{"work-2": "die"}},
			exitOK, ``, `(?m)^weir: node work-2 ended: exit status 74: disk full: /x; the run goes on without it$`},
		{"a voter dies", fakes{EndAt: 6, Nodes: map[string]string{"voter-1": "die"}},
			exitOK, ``, `(?m)^weir: node voter-1 ended: exit status 74: disk full: /x; the run goes on without it$`},
		{"both nodes of a role die", fakes{Nodes: map[string]string{"work-1": "die", "work-2": "die"}},
			74, `^node work-[12]: disk full: /x$`, `the run goes on without it`},
		{"a node that talks", fakes{EndAt: 6, Nodes: map[string]string{"work-1": "chatter"}},
			exitOK, ``, `^work-1  \| one\nwork-1  \| two\nwork-1  \| x+\nwork-1  \| last\n$`},
		{"a node that will not end", fakes{EndAt: 2, Nodes: map[string]string{"work-1": "deaf"}},
			exitOK, ``, `some nodes did not end in time and were killed`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, stderr := newFakeFleet(t, upConfig{}, tt.do)
			if slices.Contains(slices.Collect(maps.Values(tt.do.Nodes)), "deaf") {
				f.grace = 100 * time.Millisecond
			}
			err := withCode(f.run(nil))
			code, text := exitOK, ""
			var coded *exitError
			if errors.As(err, &coded) {
				code, text = coded.Code, coded.Error()
			}
			if code != tt.code || !regexp.MustCompile(tt.err).MatchString(text) || (tt.err == "" && text != "") {
				t.Errorf("run ended with %d, %q; want %d, %q", code, text, tt.code, tt.err)
			}
			if !regexp.MustCompile(tt.stderr).Match(stderr.Bytes()) {
				t.Errorf("stderr:\n%s\nwant %q", stderr, tt.stderr)
			}
			if f.live != 0 || len(f.children) > 5 {
				t.Errorf("%d of %d children not waited for", f.live, len(f.children))
			}
		})
	}
}

func TestFleetKillsTheOrchestrator(t *testing.T) {
	f, stderr := newFakeFleet(t, upConfig{KillAfter: time.Millisecond}, fakes{EndAt: 4})
	if err := f.run(nil); err != nil {
		t.Fatalf("run: %v\n%s", err, stderr)
	}
	figs := f.figures()
	if f.kill.Node != "work-1" || figs.LeaderGapMS == nil || *figs.LeaderGapMS < 0 || figs.LeaderChanges != 2 {
		t.Errorf("killed %q, gap %v ms, %d changes; want work-1, some, 2\n%s", f.kill.Node, figs.LeaderGapMS, figs.LeaderChanges, stderr)
	}
	if figs.State != "finished" || figs.HeldBytesMax != 3<<20 || figs.Nodes != 5 {
		t.Errorf("figures %+v", figs)
	}
}

// TestFleetSparesTheTap checks that a leader whose loss ends the run is not killed.
func TestFleetSparesTheTap(t *testing.T) {
	f, _ := newFakeFleet(t, upConfig{}, fakes{})
	f.plan = planNodes(f.spec, 3)
	for _, n := range f.plan {
		f.children = append(f.children, &child{plannedNode: n, cmd: &exec.Cmd{}})
	}
	f.cfg.KillAfter, f.killNow = 1, true
	for _, leader := range []string{"", "in-1", "out-1", "nobody"} {
		f.last = api.Status{Leader: leader}
		f.killLeader(api.Pipeline{RecordsOut: 1})
		if f.kill.Node != "" {
			t.Errorf("killed %s", f.kill.Node)
		}
	}
}

func TestFleetInterrupted(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tap     string
		signals int
	}{
		{"once: the tap ends, then the rest", "", 1},
		{"twice: nobody is waited for", "deaf", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, stderr := newFakeFleet(t, upConfig{}, fakes{Nodes: map[string]string{"in-1": tt.tap}})
			signals := make(chan os.Signal)
			go func() { // ends when run has taken them; run ends only then
				waitForFile(t, filepath.Join(fakesDir(t), "out-1")) // the last to start
				for range tt.signals {
					signals <- syscall.SIGINT
				}
			}()
			err := f.run(signals)
			figs := f.figures()
			if !errors.Is(err, errInterrupted) || figs.State != "interrupted" {
				t.Errorf("run: %v", err)
			}
			if sure := tt.signals == 1; figs.AtLeast == sure {
				t.Errorf("counts are a lower bound: %t, want %t", figs.AtLeast, !sure)
			}
			if !strings.Contains(stderr.String(), "interrupt again to stop at once") {
				t.Errorf("stderr:\n%s", stderr)
			}
		})
	}
}

func fakesDir(t *testing.T) string {
	var cfg fakes
	if err := json.Unmarshal([]byte(os.Getenv(fakeEnv)), &cfg); err != nil {
		t.Error(err)
	}
	return cfg.Dir
}

// waitForFile returns when the file is there.
func waitForFile(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // between two looks
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s is not there within 20 s", path) // also from a goroutine of a test's own
			return
		}
	}
}

// TestFleetDiesWithItsParent kills -9 a whole `weir up`: the kernel ends its nodes.
func TestFleetDiesWithItsParent(t *testing.T) {
	newFakeFleet(t, upConfig{}, fakes{})
	m := os.Getenv(markEnv)
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, []byte(fakePipeline), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("weir", "up", path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForFile(t, filepath.Join(fakesDir(t), "voter-1"))
	if n := len(marked(m)); n != 6 {
		t.Errorf("%d processes, want the parent and 5 nodes: %q", n, marked(m))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if err := awaitNone(m, 5*time.Second); err != nil {
		t.Error(err)
	}
}
