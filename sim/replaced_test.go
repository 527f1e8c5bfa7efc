package sim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/node"
	"weir/node/api"
	"weir/node/sink"
	"weir/node/tap"
	"weir/stream"
)

// mute is a sink that acks nothing before heard is closed.
type mute struct {
	stream.Sink
	heard chan struct{}
}

func (s mute) Path() string { return s.Sink.(interface{ Path() string }).Path() }

func (s mute) Begin(ctx context.Context, fresh bool) error {
	return s.Sink.(interface {
		Begin(context.Context, bool) error
	}).Begin(ctx, fresh)
}

func (s mute) Write(ctx context.Context, rs []stream.Record, seen stream.Seen) error {
	if err := s.Sink.Write(ctx, rs, seen); err != nil {
		return err
	}
	select {
	case <-s.heard:
	case <-ctx.Done():
	}
	return nil
}

// table is lines of a table: a header, some that are always the same, and others.
func table(other string, n int) (lines []string) {
	lines = append(lines, "id,what")
	for i := range n {
		if i%2 == 0 {
			lines = append(lines, fmt.Sprintf("%d,same", i))
		} else {
			lines = append(lines, fmt.Sprintf("%d,%s", i, other))
		}
	}
	return lines
}

// A file has another's place when all nodes have died before the first mark: the sink has what it was
// given, on its disk. All of another file comes, also if it begins with the same line; of the same one,
// only what the sink has not.
func TestFileReplacedBeforeTheFirstMark(t *testing.T) {
	old := table("old", 20000)
	for _, tc := range []struct {
		name       string
		leaderless bool // the sink knows that most of it is acked, and the log does not
		now        []string
		another    bool
	}{
		{"the same", false, old, false},
		{"it grew", false, append(slices.Clone(old), "more", "andmore"), false},
		{"another", false, table("new", 20000), true},
		{"a shorter one", false, table("new", 50), true},
		{"the same, no leader", true, old, false},
		{"it grew, no leader", true, append(slices.Clone(old), "more", "andmore"), false},
		{"another, no leader", true, table("new", 20000), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inLab(t, "tap -> sink", func(l *lab) {
				l.disks = t.TempDir()
				in, out := filepath.Join(l.disks, "in.csv"), filepath.Join(l.disks, "out.csv")
				put := func(lines []string) {
					if err := os.WriteFile(in, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				written := func() []string {
					b, _ := os.ReadFile(out) // not there yet
					return strings.Fields(string(b))
				}
				start := func() mute {
					s, err := sink.OpenFile(sink.FileConfig{Path: out})
					if err != nil {
						t.Fatal(err)
					}
					file, err := tap.File(in, tap.Config{})
					if err != nil {
						t.Fatal(err)
					}
					m := mute{s, make(chan struct{})}
					l.start("s1", node.Role{Name: "sink", Sink: m})
					l.start("t1", node.Role{Name: "tap", Tap: file})
					return m
				}
				others := []string{"n1"}
				if tc.leaderless {
					others = []string{"n1", "n2", "n3"}
				}
				for _, id := range others {
					l.start(id)
				}
				put(old)
				m := start()
				l.until("n1", "a line", func(api.Status) bool { return len(written()) > 0 })
				if tc.leaderless {
					for _, id := range others {
						l.kill(id)
					}
					time.Sleep(time.Second)
					close(m.heard)
					time.Sleep(time.Second)
				}
				l.kill("t1")
				l.kill("s1")
				had := written()
				put(tc.now)
				if tc.leaderless {
					for _, id := range others {
						l.start(id)
					}
				}
				close(start().heard)
				l.until("n1", "finished", finished)
				want := tc.now
				if !tc.another {
					want = tc.now[len(had):]
				}
				came := written()[len(had):]
				if !slices.Equal(slices.Sorted(slices.Values(came)), slices.Sorted(slices.Values(want))) {
					t.Errorf("%d lines came after %d, want %d others", len(came), len(had), len(want))
				}
			})
		})
	}
}
