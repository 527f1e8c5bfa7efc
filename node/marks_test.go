package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/consensus"
)

// markLog takes what marks propose.
type markLog struct {
	begun time.Time
	dead  atomic.Bool
	lines []string // when, then partition claim.gen next
}

func (l *markLog) propose(_ context.Context, c consensus.Command) error {
	if l.dead.Load() {
		time.Sleep(3 * time.Second) // as long as Propose looks for a leader
		return consensus.ErrNoLeader
	}
	var line []string
	for _, m := range c.Marks {
		text := fmt.Sprintf("%s %d.%d %d", m.Partition, m.Claim, m.Gen, m.Next)
		if m.Done {
			text += " done"
		}
		line = append(line, text)
	}
	slices.Sort(line)
	l.lines = append(l.lines, fmt.Sprintf("%v: %s", time.Since(l.begun), strings.Join(line, ", ")))
	return nil
}

func TestMarksGoToTheLogOnceASecond(t *testing.T) {
	put := func(m *marks, partition string, claim, gen, next uint64, done bool) {
		c := consensus.Claim{Role: "tap", Partition: partition, Number: claim, Gen: gen}
		x := markOf(roleKey{"p", "tap"}, c, next, nil)
		x.Done = done
		m.put(x)
	}
	for _, tt := range []struct {
		name string
		do   func(*marks, *markLog)
		want []string
	}{
		{"the newest of each", func(m *marks, _ *markLog) {
			for i := range uint64(2500) { // one a millisecond
				put(m, "x", 1, 1, i, false)
				put(m, "y", 1, 1, 2*i, false)
				time.Sleep(time.Millisecond)
				synctest.Wait()
			}
		}, []string{"0s: x 1.1 0, y 1.1 0", "1s: x 1.1 999, y 1.1 1998", "2s: x 1.1 1999, y 1.1 3998", "3s: x 1.1 2499, y 1.1 4998"}},
		{"the last of a partition at once", func(m *marks, _ *markLog) {
			put(m, "x", 1, 1, 5, false)
			time.Sleep(time.Millisecond)
			put(m, "x", 1, 1, 6, false)
			put(m, "x", 1, 1, 0, true)
		}, []string{"0s: x 1.1 5", "1ms: x 1.1 6 done"}},
		{"no leader for a while", func(m *marks, l *markLog) {
			l.dead.Store(true)
			put(m, "x", 1, 1, 5, false)
			put(m, "y", 1, 1, 1, false)
			put(m, "z", 1, 1, 7, false)
			time.Sleep(time.Second)
			put(m, "x", 1, 1, 6, false) // newer
			put(m, "y", 1, 2, 0, false) // it began again
			time.Sleep(time.Second)
			l.dead.Store(false)
		}, []string{"4s: x 1.1 6, y 1.2 0, z 1.1 7"}},
		{"settled", func(m *marks, _ *markLog) {
			put(m, "x", 1, 1, 5, false)
			time.Sleep(300 * time.Millisecond)
			put(m, "x", 1, 1, 6, false)
			m.settle(context.Background())
		}, []string{"0s: x 1.1 5", "300ms: x 1.1 6"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := &markLog{begun: time.Now()}
			m := newMarks(l.propose, slog.New(slog.DiscardHandler))
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = m.run(ctx) }() // ended by stop
			tt.do(m, l)
			time.Sleep(5 * time.Second)
			stop()
			<-done
			if !slices.Equal(l.lines, tt.want) {
				t.Errorf("%s:\n got %q\nwant %q", tt.name, l.lines, tt.want)
			}
		})
	}
}
