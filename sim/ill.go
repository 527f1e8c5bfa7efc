package sim

import "weir/topology"

// This file is pure.

// second marks the way of the second record that a role makes of one.
const second = "+"

// ill is what ails a record at a role. It follows from the seed, the record and the way it came.
type ill struct {
	poison bool // no attempt passes
	atOnce bool // and the first says so
	hangs  bool // no attempt ends by itself
	kills  bool // each attempt ends its node
	fails  int  // so many attempts fail
	pair   bool // two records are made of it, in an order that is not the same each time
}

// hopeless reports whether it cannot but end as a dead letter.
func (i ill) hopeless() bool { return i.poison || i.hangs || i.kills }

// ill is what ails a record that has come by path, whose last role this is.
func (w *Workload) ill(r Role, number uint64, path string) (i ill) {
	chance := mix(mix(w.seed, number), hash(path))
	switch u := unit(mix(chance, 1)); {
	case u < r.Fails: // it passes in the end
		i.fails = 1 + int(mix(chance, 2)%(attemptsMax-1))
	case u < r.Fails+r.Poisons:
		i.poison = true
		i.atOnce = r.Kind == topology.KindSink || mix(chance, 4)%3 == 0
	case u < r.Fails+r.Poisons+r.Hangs:
		i.hangs = true
	case u < r.Fails+r.Poisons+r.Hangs+r.Kills:
		i.kills = true
	default:
		i.pair = unit(mix(chance, 3)) < r.Pairs
	}
	return i
}
