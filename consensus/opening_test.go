package consensus

import (
	"testing"

	"weir/topology"
)

func TestOpenings(t *testing.T) {
	p := topology.Pipeline{Name: "p", Roles: []topology.Role{{Name: "out", Kind: topology.KindSink}}}
	commands := []Command{Create(p), Open("p", Opening{7, 1}), Open("p", Opening{7, 2}), Open("p", Opening{8, 3})}
	s, _ := applied(t, commands...)
	q, _ := s.Pipeline("p")
	for file, want := range map[uint64]uint64{7: 1, 8: 3, 9: 0} {
		if by, ok := q.OpenedBy(file); by != want || ok != (want > 0) {
			t.Errorf("file %d was opened by %d, %v; want %d", file, by, ok, want)
		}
	}
	if s.Epoch != 1 {
		t.Errorf("openings raised the epoch to %d", s.Epoch)
	}
	p.RecordMax = 5
	for _, failed := range []bool{false, true} {
		if failed {
			s, _ = applied(t, append(commands, Fail("p", "why", 1))...)
		}
		if next, err := s.Revise(p); err != nil || len(next.Opened) > 0 == failed {
			t.Errorf("failed %v: revised to %+v, %v", failed, next, err)
		}
	}
	if s, refused := applied(t, Open("none", Opening{1, 1})); refused == nil || s.Epoch != 0 {
		t.Errorf("a file of no pipeline was opened: %v", refused)
	}
}

func TestOpeningsAreBounded(t *testing.T) {
	commands := []Command{Create(topology.Pipeline{Name: "p", Roles: []topology.Role{{Name: "out", Kind: topology.KindSink}}})}
	for i := range openedMax {
		commands = append(commands, Open("p", Opening{uint64(i), 1}))
	}
	s, err := applied(t, commands...)
	p, _ := s.Pipeline("p")
	if err != nil || len(p.Opened) != openedMax {
		t.Fatalf("%d files, %v", len(p.Opened), err)
	}
	if _, refused := applied(t, append(commands, Open("p", Opening{openedMax, 1}))...); refused == nil || refused.Error() != p.MayOpen().Error() {
		t.Errorf("one more: %v", refused)
	}
}
