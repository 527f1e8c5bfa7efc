package sim

import (
	"slices"

	"weir/topology"
)

// This file is pure.

// outcome is what must become of a record at a role: a leaf at a sink, all or one of several
// outcomes elsewhere; or a dead letter of the role instead of any of these.
type outcome struct {
	path   string // the roles to it, and it
	leaf   uint64 // of a sink: what it writes; 0: no sink
	letter uint64 // what a dead letter is noted as
	all    []outcome
	one    []outcome           // send: split
	second *outcome            // of the second record that is made of it
	paired func(n uint64) bool // whether record n makes a second one
}

// outcomes maps each tap to what must become of its records.
func (w *Workload) outcomes() map[string]outcome {
	made := make(map[string]outcome)
	for _, r := range w.pipeline.Roles {
		if r.Kind == topology.KindTap {
			made[r.Name] = w.outcome(r, r.Name)
		}
	}
	return made
}

// letterOf is what a dead letter of a record is noted as, by the way that it came to its role.
func letterOf(path string) uint64 { return hash("dead " + path) }

func (w *Workload) outcome(r topology.Role, path string) outcome {
	o := w.made(r, path)
	if role := w.roles[r.Name]; role.Pairs > 0 {
		second := w.made(r, path+second)
		o.second = &second
		o.paired = func(n uint64) bool { return w.ill(role, n, path).pair }
	}
	return o
}

// made is what must become of one record that a role makes, or a sink takes.
func (w *Workload) made(r topology.Role, path string) outcome {
	o := outcome{path: path, letter: letterOf(path)}
	if r.Kind == topology.KindSink {
		o.leaf = hash(path)
		return o
	}
	var next []outcome
	for _, e := range w.pipeline.Graph.Out(r.Name) {
		if e.Port != "" {
			continue // nothing of this load leaves by a port
		}
		for _, to := range w.pipeline.Roles {
			if to.Name == e.To {
				next = append(next, w.outcome(to, path+">"+to.Name))
			}
		}
	}
	if r.Send == topology.SendSplit {
		o.one = next
	} else {
		o.all = next
	}
	return o
}

// missing returns the way of a leaf that must be among got, for record n, and is not; "": none.
func (o *outcome) missing(n uint64, got []uint64) string {
	switch {
	case slices.Contains(got, o.letter), o.leaf != 0 && slices.Contains(got, o.leaf):
		return ""
	case o.leaf != 0:
		return o.path
	}
	if len(o.one) > 0 && !slices.ContainsFunc(o.one, func(o outcome) bool { return o.missing(n, got) == "" }) {
		return o.one[0].missing(n, got)
	}
	for i := range o.all {
		if m := o.all[i].missing(n, got); m != "" {
			return m
		}
	}
	if o.second != nil && o.paired(n) {
		return o.second.missing(n, got)
	}
	return ""
}

// find returns the outcome that is noted as mark, a leaf or a dead letter; nil: there is none.
func (o *outcome) find(mark uint64) *outcome {
	if o.leaf != 0 && o.leaf == mark || o.letter == mark {
		return o
	}
	for _, next := range [][]outcome{o.all, o.one} {
		for i := range next {
			if found := next[i].find(mark); found != nil {
				return found
			}
		}
	}
	if o.second != nil {
		return o.second.find(mark)
	}
	return nil
}

// unsteady reports whether a mark may be there of record n more than once: a role makes two of it, in an
// order that is not the same each time, so that the second time they are other records (FAULTS L2).
func (o *outcome) unsteady(n, mark uint64) bool {
	if o.paired != nil && o.paired(n) && o.find(mark) != nil {
		return true
	}
	for _, next := range [][]outcome{o.all, o.one} {
		for i := range next {
			if next[i].unsteady(n, mark) {
				return true
			}
		}
	}
	return o.second != nil && o.second.unsteady(n, mark)
}
