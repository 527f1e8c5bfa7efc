package sim

import (
	"sync"
	"testing"
	"time"

	"weir/topology"
)

// Many nodes add while others look: nobody sees half of an event, and the order is that of time.
func TestHistoryConcurrently(t *testing.T) {
	const nodes, each = 4, 3 * eventsChunk
	h := NewHistory()
	var group sync.WaitGroup
	for range nodes {
		group.Go(func() {
			for i := range uint64(each) {
				h.Add(Event{Kind: EventHeld, N: i, M: i})
			}
		})
	}
	group.Go(func() {
		for h.Len() < nodes*each {
			for _, e := range h.All {
				if e.Kind != EventHeld || e.N != e.M {
					t.Errorf("half an event: %+v", e)
					return
				}
			}
		}
	})
	group.Wait()
	n, last := 0, time.Duration(0)
	for i, e := range h.All {
		if i != n || e.At < last {
			t.Fatalf("event %d is the %dth, at %v after %v", i, n, e.At, last)
		}
		n, last = n+1, e.At
	}
	if n != nodes*each {
		t.Errorf("%d events, want %d", n, nodes*each)
	}
}

func TestLives(t *testing.T) {
	var h History
	a := Life{topology.Link{From: "n1", To: "n2"}, 1, 1}
	b := Life{topology.Link{From: "n1", To: "n2"}, 1, 2}
	one, two := h.LifeID(a), h.LifeID(b)
	if one == 0 || one == two || h.LifeID(a) != one || h.Life(one) != a || h.Life(two) != b {
		t.Errorf("lives %d and %d: %v, %v", one, two, h.Life(one), h.Life(two))
	}
}
