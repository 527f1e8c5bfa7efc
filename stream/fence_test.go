package stream

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"weir/topology"
)

func TestFences(t *testing.T) {
	key := linkKey{topology.Edge{From: "tap", To: "sink"}, "n1"}
	nobody := func(linkKey) bool { return false }
	f := make(fences)
	for _, step := range []struct {
		g    generation
		want bool
	}{
		{generation{1, 1}, true},
		{generation{1, 1}, false}, // the same again
		{generation{1, 3}, true},
		{generation{1, 2}, false}, // was long on its way, and 1.3 may have ended
		{generation{2, 1}, true},
		{generation{1, 9}, false}, // of a boot that is no more
	} {
		if _, ok := f.pass(key, step.g, nobody); ok != step.want {
			t.Errorf("generation %v: %v, want %v", step.g, ok, step.want)
		}
	}
}

// However many nodes come and go, what is remembered is bounded, and links that live are in it.
func TestFencesForget(t *testing.T) {
	f := make(fences)
	nth := func(i int) linkKey { return linkKey{topology.Edge{}, topology.NodeID(fmt.Sprint(i))} }
	lives := func(k linkKey) bool { return k == nth(7) }
	for i := range 3 * fencesMax {
		f.pass(nth(i), generation{1, 1}, lives)
	}
	if len(f) > fencesMax {
		t.Errorf("%d links are remembered, at most %d may be", len(f), fencesMax)
	}
	if _, ok := f.pass(nth(7), generation{1, 1}, lives); ok {
		t.Error("a link that lives was forgotten")
	}
}

// I5: a HELLO that was long on its way is refused also when the newer generation has ended. The
// simulator found it: 95 % loss one way.
func TestLateGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		tap := r.outlet("tap", NewBudget(0), "", "sink")
		sink, _ := r.sink("sink", newMemory())
		r.gen.Store(7)
		newer := r.link(tap, "tap", "sink", sink, "n1")
		synctest.Wait()
		newer.cut()
		<-newer.drained
		synctest.Wait()
		r.gen.Store(6)
		late := r.link(tap, "tap", "sink", sink, "n1")
		synctest.Wait()
		r.stop()
		var refused *Refused
		if err := <-late.drained; !errors.As(err, &refused) {
			t.Errorf("an older generation: %v, want a refusal", err)
		}
	})
}
