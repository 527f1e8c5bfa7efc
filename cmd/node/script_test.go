package main

import (
	"crypto/rand"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the scripts of testdata/script: the command line as a user has it, real
// nodes as real processes. After each script nothing that it started may still run.
func TestScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			m := rand.Text()
			env.Setenv(markEnv, m)
			env.Setenv("XDG_RUNTIME_DIR", filepath.Join(env.WorkDir, "run"))
			env.Defer(func() {
				if err := awaitNone(m, 5*time.Second); err != nil {
					env.T().Log(err)
					env.T().FailNow()
				}
			})
			return os.Mkdir(filepath.Join(env.WorkDir, "run"), 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"dead-socket": deadSocket,
			"exits":       exits,
			"lock":        lock,
			"port":        port,
			"until":       until,
		},
	})
}

// deadSocket PATH leaves a Unix socket there as a node does that was killed some time ago.
func deadSocket(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	ts.Check(err)
	l.SetUnlinkOnClose(false)
	ts.Check(l.Close())
	old := time.Now().Add(-time.Minute)
	ts.Check(os.Chtimes(path, old, old))
}

// port NAME [used] sets a variable to a TCP port of 127.0.0.1: one that was free a moment ago,
// which is good enough for a test, or one that is in use until the script ends.
func port(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, number, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Setenv(args[0], number)
	if len(args) == 1 {
		ts.Check(l.Close())
		return
	}
	ts.Defer(func() { l.Close() })
}

// exits CODE PROGRAM ARG... runs a program that must exit with a code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	code := 0
	var ee *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &ee) {
		code = ee.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// lock FILE holds the lock that a sink takes, until the script ends.
func lock(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	ts.Defer(func() { f.Close() })
}

// until REGEXP PROGRAM ARG... runs a program again and again until its stdout matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP PROGRAM ARG...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.Now().Add(30 * time.Second)
	for ts.Exec(args[1], args[2:]...) != nil || !want.MatchString(ts.ReadFile("stdout")) {
		if time.Now().After(deadline) {
			ts.Fatalf("%q did not come", args[0])
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
}
