package sim

// bitset is a set of small numbers; its zero value is empty.
type bitset struct {
	words []uint64
	count uint64
}

func (b *bitset) set(n uint64) {
	for n/64 >= uint64(len(b.words)) {
		b.words = append(b.words, make([]uint64, len(b.words)+16)...)
	}
	if !b.has(n) {
		b.words[n/64] |= 1 << (n % 64)
		b.count++
	}
}

func (b *bitset) has(n uint64) bool {
	return n/64 < uint64(len(b.words)) && b.words[n/64]&(1<<(n%64)) != 0
}
