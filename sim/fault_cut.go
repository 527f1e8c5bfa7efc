package sim

// cutFault loses all packets that it is about: a one-way cut, or both ways by its scope.
type cutFault struct{}

func (cutFault) apply(f *fate) { f.lost = "cut" }

// partitionFault loses packets between groups. A port in none hears all.
type partitionFault struct {
	group map[string]int
}

func newPartitionFault(groups [][]string) partitionFault {
	p := partitionFault{group: make(map[string]int)}
	for i, names := range groups {
		for _, name := range names {
			p.group[name] = i
		}
	}
	return p
}

func (p partitionFault) apply(f *fate) {
	a, named := p.group[f.from]
	b, too := p.group[f.to]
	if named && too && a != b {
		f.lost = "partition"
	}
}
