package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestGosrc is the README's first command against the same programs in a shell pipeline. The
// race detector makes nodes several times slower, so .ci/run -race has a part of the sources.
func TestGosrc(t *testing.T) {
	if testing.Short() {
		t.Skip("reads all Go sources")
	}
	runtimeDir(t)
	m := mark(t)
	src := goSources(t)
	if raceEnabled {
		src = filepath.Join(src, "net")
	}
	want, err := exec.Command("sh", "-c", gosrcShell, "sh", src).Output()
	if err != nil {
		t.Fatal(err)
	}
	path := gosrc(t)
	f := upFigures(t, path, "--set", "src="+src)
	got, err := exec.Command("env", "LC_ALL=C", "sort", filepath.Join(filepath.Dir(path), "long-names.txt")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes in %d lines, want %d bytes in %d: %+v", len(got), bytes.Count(got, []byte{'\n'}),
			len(want), bytes.Count(want, []byte{'\n'}), f)
	}
	if lines := uint64(bytes.Count(want, []byte{'\n'})); f.LinesOut != lines {
		t.Errorf("%d lines out, want %d", f.LinesOut, lines)
	}
	if left := marked(m); len(left) > 0 {
		t.Errorf("left running: %q", left)
	}
	t.Logf("%.1f s on %d nodes", f.Seconds, f.Nodes)
}
