package stream

import "maps"

// fencesMax is how many links an inlet remembers that are not there any more: members of a
// cluster (FAULTS 4, limits table).
const fencesMax = 4096

// fences is the newest generation that an inlet has read of each link, also of those that have
// ended: a HELLO that was long on its way opens nothing. Pure.
type fences map[linkKey]generation

// generation orders the lives of a link: by the boot of its sender, then by its count.
type generation struct{ boot, count uint64 }

func (g generation) after(h generation) bool {
	return g.boot > h.boot || g.boot == h.boot && g.count > h.count
}

// pass notes g, unless as new a one was there: that is returned.
func (f fences) pass(k linkKey, g generation, live func(linkKey) bool) (newest generation, ok bool) {
	newest, known := f[k]
	if known && !g.after(newest) {
		return newest, false
	}
	if !known && len(f) >= fencesMax {
		maps.DeleteFunc(f, func(k linkKey, _ generation) bool { return !live(k) })
	}
	f[k] = g
	return g, true
}
