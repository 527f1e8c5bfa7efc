package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// depthMax bounds how deep below a node killBelow looks: each look finds at least one generation.
const depthMax = 64

// killTree kills -9 the process pid and all that come from it. A death signal alone ends a node's
// programs, but not what a shell among them started.
func killTree(pid int) {
	// Stopped it cannot start another program in place of one that we kill.
	_ = syscall.Kill(pid, syscall.SIGSTOP) // it has ended: as good
	killBelow(pid)
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

// exitWithAll ends this process and all that come from it.
func exitWithAll(code int) {
	syscall.ForkLock.Lock() // for good: nothing new is started (syscall.ForkExec)
	killBelow(os.Getpid())
	os.Exit(code)
}

// killBelow kills -9 what comes from pid, which must not start anything meanwhile. All are
// stopped before one is killed: the child of a dead process could not be found any more.
func killBelow(pid int) {
	stopped := make(map[int]bool)
	for range depthMax {
		before := len(stopped)
		for _, p := range descendants(pid, parents()) {
			if !stopped[p] {
				_ = syscall.Kill(p, syscall.SIGSTOP)
				stopped[p] = true
			}
		}
		if len(stopped) == before {
			break
		}
	}
	for p := range stopped {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
}

// descendants lists the processes below pid, its children first. It is pure.
func descendants(pid int, parent map[int]int) []int {
	var found []int
	for child, p := range parent {
		if p == pid {
			found = append(found, child)
			found = append(found, descendants(child, parent)...)
		}
	}
	return found
}

// parents maps each process of this machine to its parent.
func parents() map[int]int {
	all := make(map[int]int)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if parent, ok := parentOf(text); ok {
			all[pid] = parent
		}
	}
	return all
}

// parentOf reads the parent from a process' stat line, of which the name, in brackets, may
// itself hold anything (proc(5)): 42 (sh) S 1 ...
func parentOf(stat []byte) (pid int, ok bool) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 || string(fields[0]) == "Z" { // a dead one has no children, and may be ours to wait for
		return 0, false
	}
	pid, err := strconv.Atoi(string(fields[1]))
	return pid, err == nil
}
