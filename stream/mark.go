package stream

import "weir/stream/wire"

// sourcesMax bounds the sources whose marks are remembered.
const sourcesMax = 4096

// marks is the highest low-water mark known of each source. Pure.
type marks map[uint64]wire.Mark

// note keeps m and reports whether it is news: the next seq is higher or the generation another, not
// one of an older claim. Where there are too many sources any one is forgotten, so that its next
// mark is news.
func (ms marks) note(m wire.Mark) bool {
	old, known := ms[m.Source]
	switch {
	case !known && len(ms) >= sourcesMax:
		for source := range ms {
			delete(ms, source)
			break
		}
	case known && old.Gen == m.Gen && m.Next <= old.Next, known && old.Gen != m.Gen && m.Claim < old.Claim:
		return false
	}
	ms[m.Source] = m
	return true
}

// list is all of them.
func (ms marks) list() (all []wire.Mark) {
	for _, m := range ms {
		all = append(all, m)
	}
	return all
}

// mark notes a low-water mark and passes it on when it is new.
func (in *Inlet) mark(m wire.Mark) {
	in.mu.Lock()
	fresh := in.marks.note(m)
	in.mu.Unlock()
	if !fresh {
		return
	}
	if in.cfg.OnMark != nil {
		in.cfg.OnMark(m)
	}
	if in.cfg.Outlet != nil {
		in.cfg.Outlet.Mark(m)
	}
}

// Mark passes a low-water mark on; each link gets the newest of each source.
func (o *Outlet) Mark(m wire.Mark) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.edges {
		if e.marks.note(m) {
			for _, s := range e.senders {
				s.mark(m.Source)
			}
		}
	}
}

// Known is the highest low-water mark that receivers knew of a source when links to them were
// opened. A start of the source goes on there if that is higher than what the log has of the same
// generation.
func (o *Outlet) Known(source uint64) (m wire.Mark, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	m, ok = o.known[source]
	return m, ok
}

// learn keeps what a receiver knows of sources.
func (o *Outlet) learn(all []wire.Mark) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, m := range all {
		o.known.note(m)
	}
}
