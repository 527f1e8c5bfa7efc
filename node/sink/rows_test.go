package sink

import (
	"errors"
	"strings"
	"testing"

	"weir/stream"
)

// A block in which nothing is right is given up after a bounded number of tries, and nothing of it is
// lost from the letter.
func TestBisectionIsBounded(t *testing.T) {
	rs := numbered(0, 1)
	rs[0].Body = []byte(strings.Repeat("x\n", 9999) + "x")
	tries := 0
	err := writeTable(rs, func(int32, int32) error { tries++; return stream.Poison(errors.New("no")) })
	if stream.ExitCode(err) != 65 || tries != 1+2*splitsMax {
		t.Errorf("error %v after %d tries", err, tries)
	}
	b := bisection{try: func(int32, int32) error { return stream.Poison(errors.New("no")) }, lines: make([][]byte, 1000)}
	if err := b.halve(0, 1000, errors.New("all")); err != nil || len(b.bad) != 1000 {
		t.Errorf("error %v, %d lines", err, len(b.bad))
	}
	away := stream.Retry(0, errors.New("away"))
	n := 0
	if err := writeTable(rs, func(lo, hi int32) error {
		if n++; n == 3 {
			return away
		}
		return stream.Poison(errors.New("no"))
	}); stream.ExitCode(err) != 75 {
		t.Errorf("error %v, want a Retry", err)
	}
}
