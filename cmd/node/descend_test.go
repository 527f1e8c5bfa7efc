package main

import (
	"bufio"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestParentOf(t *testing.T) {
	for stat, want := range map[string]int{
		"42 (sh) S 1 42 42":          1,
		"42 (a) S 9 (b) (x) R 7 1\n": 7,
		"42 () S 3":                  3,
		"42 (sh) Z 1 42":             0,
		"42 (sh) S":                  0,
		"42 (sh) S x":                0,
		"":                           0,
	} {
		if got, ok := parentOf([]byte(stat)); got != want || ok != (want > 0) {
			t.Errorf("parentOf(%q) = %d, %t; want %d", stat, got, ok, want)
		}
	}
}

func TestDescendants(t *testing.T) {
	parent := map[int]int{2: 1, 3: 1, 4: 2, 5: 4, 6: 7, 7: 0}
	got := descendants(1, parent)
	slices.Sort(got)
	if !slices.Equal(got, []int{2, 3, 4, 5}) {
		t.Errorf("descendants = %v", got)
	}
	if got := descendants(5, parent); len(got) > 0 {
		t.Errorf("descendants of a leaf = %v", got)
	}
}

func TestKillTree(t *testing.T) {
	m := mark(t)
	cmd := exec.Command("sh", "-c", `sh -c 'sleep 1000 & sleep 1000' & echo up; wait`)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	killTree(cmd.Process.Pid)
	if err := cmd.Wait(); err == nil {
		t.Error("the first process was not killed")
	}
	if err := awaitNone(m, 5*time.Second); err != nil {
		t.Error(err)
	}
}
