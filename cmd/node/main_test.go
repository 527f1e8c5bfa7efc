package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// Environment variables that make the test binary something else. They do not begin with WEIR_,
// so that they reach children.
const (
	fakeEnv = "TEST_FAKE_NODES" // `weir start` is a fake node (fake_test.go)
	markEnv = "TEST_MARK"       // marks a test's processes and all that come from them
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"weir": func() {
			if os.Getenv(fakeEnv) != "" && len(os.Args) > 1 && os.Args[1] == "start" {
				os.Exit(fakeNode(os.Args[2:]))
			}
			main()
		},
	})
}

// mark makes all processes that come from this test known and returns their mark.
func mark(t *testing.T) string {
	t.Helper()
	m := rand.Text()
	t.Setenv(markEnv, m)
	return m
}

// marked lists the processes with a mark, less our own.
func marked(mark string) []string {
	var found []string
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		env, err := os.ReadFile(path)
		dir := filepath.Dir(path)
		if err != nil || filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue // it has ended
		}
		if slices.Contains(strings.Split(string(env), "\x00"), markEnv+"="+mark) {
			cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
			found = append(found, fmt.Sprintf("%s: %q", filepath.Base(dir), bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// awaitNone waits until no process has the mark: the kernel ends orphans when it gets to them.
func awaitNone(mark string, within time.Duration) error {
	deadline := time.Now().Add(within)
	for {
		found := marked(mark)
		if len(found) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still running after %s: %s", within, strings.Join(found, ", "))
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

// runtimeDir gives the test a runtime folder whose path is short enough for sockets.
func runtimeDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir-run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("XDG_RUNTIME_DIR", dir)
	return dir
}
