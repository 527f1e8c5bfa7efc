package stream

import (
	"slices"

	"weir/stream/wire"
)

// ranges is a set of numbers as ascending ranges that do not touch. Pure; its zero value is
// empty.
type ranges []wire.Range

// add adds [lo, hi). Adding at the end, the usual case, costs no search.
func (rs *ranges) add(lo, hi uint64) {
	s := *rs
	if n := len(s); n == 0 || lo > s[n-1].Hi {
		*rs = append(s, wire.Range{Lo: lo, Hi: hi})
		return
	} else if lo == s[n-1].Hi {
		s[n-1].Hi = hi
		return
	}
	// the ranges from i up to j touch or overlap [lo, hi)
	i, _ := slices.BinarySearchFunc(s, lo, func(r wire.Range, lo uint64) int {
		if r.Hi < lo {
			return -1
		}
		return 1
	})
	j := i
	merged := wire.Range{Lo: lo, Hi: hi}
	for ; j < len(s) && s[j].Lo <= hi; j++ {
		merged.Lo, merged.Hi = min(merged.Lo, s[j].Lo), max(merged.Hi, s[j].Hi)
	}
	*rs = slices.Replace(s, i, j, merged)
}
