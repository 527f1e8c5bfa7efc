package worker

import (
	"errors"
	"testing"
	"time"
)

// mute is a process that has not answered when its time is up.
type mute struct{ dialect }

func (mute) late() error { return errors.New("no answer") }

// Who is stopped together with the program, and comes to itself after the program's time, gives it that time again.
func TestStoodStill(t *testing.T) {
	for _, late := range []struct {
		by     time.Duration
		killed bool
	}{{0, true}, {stoodStill / 2, true}, {stoodStill, false}, {time.Hour, false}} {
		killed := false
		c := &child{s: &resident{program: &program{}}, d: mute{}, kill: func(error) { killed = true }, timer: time.NewTimer(never)}
		c.wait(time.Minute)
		c.due = time.Now().Add(-late.by)
		c.late()
		if killed != late.killed {
			t.Errorf("%v late: killed %v", late.by, killed)
		}
		if left := time.Until(c.due); !killed && left < time.Minute-stoodStill {
			t.Errorf("%v late: %v left, want a minute", late.by, left)
		}
	}
}
