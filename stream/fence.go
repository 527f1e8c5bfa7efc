package stream

import (
	"maps"

	"weir/stream/wire"
)

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

// passed is the sources of a block whose claims were found to be current: a few at most, by the low
// bits of the source.
type passed [8]struct{ source, claim uint64 }

// current reports whether no newer claim is known of the source of a block's next record, if it
// comes right from a tap. The caller has mu.
func (in *Inlet) current(bl *block) bool {
	w := &bl.rec
	if w.Path != bl.r.root {
		return true // a hop before has let it pass
	}
	last := &bl.r.passed[w.Source%uint64(len(bl.r.passed))]
	if last.source == w.Source && last.claim == w.Claim {
		return true
	}
	seen, known := in.claims[w.Source]
	newest := seen
	if in.cfg.Claim != nil {
		newest = max(newest, in.cfg.Claim(w.Source))
	}
	if w.Claim < newest {
		return false
	}
	if w.Claim > seen && (known || len(in.claims) < sourcesMax) {
		in.claims[w.Source] = w.Claim
	}
	last.source, last.claim = w.Source, w.Claim
	if h := in.cfg.Hooks; h != nil {
		h.Watch(Event{Kind: EventClaimed, Hello: bl.r.helloOf(), Lo: w.Source, Hi: w.Claim})
	}
	return true
}

// bar refuses a block's next record: its source has a newer claim. The caller has mu.
func (in *Inlet) bar(bl *block) {
	in.cfg.Hooks.sometimes("a record of an older claim is refused")
	t := bl.take()
	bl.r.nack(wire.Nack{Seq: t.seq, Code: wire.CodeFenced, Reason: ErrFenced.Error()})
	t.nacked = true
	done := ackBatch{slabs: &in.cfg.Budget.slabs}
	done.done(t)
	done.flush()
}
