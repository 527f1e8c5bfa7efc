package sim

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
)

// virtually runs f in virtual time: the clock stands still while any goroutine of f runs and
// jumps to the next timer when none does. It returns when f and all that it started have ended;
// a goroutine left behind is an error that shows where it waits.
//
// This is the only way into a bubble. synctest.Test is exported, but that a zero testing.T does
// outside a test is promised nowhere: TestVirtually guards it, and Config.Realtime goes without.
func virtually(f func() error) error {
	ended := make(chan error, 1)
	go func() { // joined below; its own, because the testing package may end it (Goexit)
		err := errors.New("virtual time: the testing package ended the run")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("virtual time: %v\n%s", p, bubbled(stacks()))
			}
			ended <- err
		}()
		var result error
		synctest.Test(new(testing.T), func(*testing.T) { result = guarded(f) })
		err = result
	}()
	return <-ended
}

// guarded turns a panic of f into an error: past the testing package it would end the process.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, stacks())
		}
	}()
	return f()
}

// stackBytesMax is the most that a report of goroutines shows, in bytes: some hundred of them.
const stackBytesMax = 1 << 20

// stacks is where all goroutines are.
func stacks() string {
	b := make([]byte, stackBytesMax)
	return string(b[:runtime.Stack(b, true)])
}

// bubbled picks the goroutines of bubbles out of a report, each kind once.
func bubbled(report string) string {
	var kept []string
	seen := make(map[string]bool)
	for one := range strings.SplitSeq(report, "\n\n") {
		head, body, _ := strings.Cut(one, "\n")
		if !strings.Contains(head, "synctest bubble") || seen[where(body)] {
			continue
		}
		seen[where(body)] = true
		kept = append(kept, one)
	}
	return strings.Join(kept, "\n\n")
}

// where is a stack without its addresses and arguments.
func where(body string) string {
	var files []string
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "\t") {
			file, _, _ := strings.Cut(line, " +0x")
			files = append(files, file)
		}
	}
	return strings.Join(files, "")
}
