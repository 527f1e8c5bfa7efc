package worker

import (
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Files and processes that were opened for a record are gone with it, however it went.
func TestNothingStaysOpen(t *testing.T) {
	open := func() int {
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(files)
	}
	programs := []Config{
		{Exec: []string{"cat"}},
		{Exec: []string{"true"}},
		{Sh: "echo x; exit 3"},
		{Sh: "no-such-program"},
		{Sh: "sleep 600 >&2 & echo hi"},
		{Exec: []string{"yes"}, RecordMax: 1000},
		{Exec: []string{"cat"}, Dir: "/no/such/dir"},
	}
	var before int
	for round := range 2 { // the first opens what the runtime keeps
		var wg sync.WaitGroup
		for _, cfg := range programs {
			p, ctx := start(t, cfg)
			for range 4 {
				wg.Go(func() { _ = p.handle(ctx, record("a"), &fakeEmitter{}) })
			}
		}
		wg.Wait()
		if round == 0 {
			before = open()
		}
	}
	if after := open(); after > before {
		t.Errorf("%d files are open, %d were before", after, before)
	}
}
