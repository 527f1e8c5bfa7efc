package stream

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// seenModel is what a seen should know, kept simply.
type seenModel struct {
	low  map[uint64]uint64
	sums map[ID]map[uint32]bool // by ID without Sum
}

func (m *seenModel) verdict(id ID, pending, places map[ID]bool) verdict {
	place := id
	place.Sum = 0
	switch {
	case id.Seq < m.low[id.Gen], m.sums[place][uint32(id.Sum)]:
		return had
	case pending[id]:
		return twin
	case len(m.sums[place]) > 0, places[place]:
		return otherwise
	}
	return unseen
}

// Writes that are taken or not, marks, generations that come and go, and starts at any time: a
// sink knows exactly what it has had.
func TestSeen(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 0))
			pool := new(pages)
			s, kept := &seen{pool: pool}, []byte(nil)
			m := seenModel{low: map[uint64]uint64{}, sums: map[ID]map[uint32]bool{}}
			next := uint64(rnd.IntN(1000))
			for step := range 60 {
				pending, places := map[ID]bool{}, map[ID]bool{}
				for range rnd.IntN(300) {
					next += uint64(rnd.IntN(2) * rnd.IntN(2) * rnd.IntN(3))
					id := ID{Gen: uint64(rnd.IntN(3)), Path: uint64(rnd.IntN(40)), Seq: next - min(next, uint64(rnd.IntN(200))), Sum: 1}
					if rnd.IntN(20) == 0 {
						id.Sum += uint64(rnd.IntN(3))
					}
					want := m.verdict(id, pending, places)
					if got := s.add(&id); got != want {
						t.Fatalf("step %d: %+v: verdict %d, want %d (low %d)", step, id, got, want, m.low[id.Gen])
					}
					if want == unseen || want == otherwise {
						pending[id] = true
						id.Sum = 0
						places[id] = true
					}
				}
				code, whole := s.append(nil)
				if rnd.IntN(4) == 0 {
					s.undo()
				} else {
					if s.commit(); whole {
						kept = nil
					}
					kept = append(kept, code...)
					for id := range pending {
						place := id
						place.Sum = 0
						if m.sums[place] == nil {
							m.sums[place] = map[uint32]bool{}
						}
						m.sums[place][uint32(id.Sum)] = true
					}
				}
				if rnd.IntN(3) == 0 {
					gen := uint64(rnd.IntN(3))
					low := next - min(next, uint64(rnd.IntN(300)))
					m.low[gen] = max(m.low[gen], low)
					s.mark(gen, low)
				}
				if rnd.IntN(8) == 0 { // it starts again; a mark may come before what it kept
					s = &seen{pool: pool}
					s.mark(0, m.low[0])
					if err := s.load(kept); err != nil {
						t.Fatal(err)
					}
					for gen, low := range m.low { // those of the others may be older there
						s.mark(gen, low)
					}
				}
			}
		})
	}
}

// What is remembered is what is above the low-water mark, and what is kept is of that size.
func TestSeenIsBounded(t *testing.T) {
	s := &seen{pool: new(pages)}
	kept, most := 0, 0
	const window = 5000
	for i := range uint64(500_000) {
		s.add(&ID{Gen: 1, Path: i % 3, Seq: i, Sum: i})
		if i%100 != 99 {
			continue
		}
		code, whole := s.append(nil)
		if s.commit(); whole {
			kept = 0
		}
		kept += len(code)
		most = max(most, kept)
		if i > window {
			s.mark(1, i-window)
		}
		if held := s.held(); held > window+100 {
			t.Fatalf("%d IDs are remembered of %d above the mark", held, window)
		}
		if n, past := s.last.size(); n > (window+100+pageSeqs)/3+1 || past != i+1 {
			t.Fatalf("%d of a path are remembered, all below %d of %d", n, past, i+1)
		}
	}
	if pages := len(s.pool.free); pages > 3*window/pageSeqs+10 {
		t.Errorf("%d pages are kept for use again", pages)
	}
	if want := 3 * (5*window*pageSeqs/pageSeqs + 4096); most > want {
		t.Errorf("at most %d bytes were kept of a window of %d, want %d", most, window, want)
	}
}

// An old generation's records may still come while the new one's do.
func TestSeenGenerations(t *testing.T) {
	s := new(seen)
	for range 3 {
		for gen := range uint64(livesMax) {
			s.add(&ID{Gen: gen, Seq: 5})
		}
		s.commit()
	}
	for gen := range uint64(livesMax) {
		if v := s.add(&ID{Gen: gen, Seq: 5}); v != had {
			t.Errorf("generation %d of %d: verdict %d", gen, livesMax, v)
		}
	}
	s.add(&ID{Gen: livesMax, Seq: 5})
	if s.commit(); len(s.lives) != livesMax || s.add(&ID{Gen: 1, Seq: 5}) != had {
		t.Errorf("%d generations, the second one not among them", len(s.lives))
	}
}

// Bodies made otherwise are bounded: what is beyond is written again.
func TestSeenOtherwise(t *testing.T) {
	s := new(seen)
	for i := range uint64(othersMax + 1) {
		if v := s.add(&ID{Seq: 9, Sum: i}); v != otherwise && i > 0 {
			t.Errorf("body %d: verdict %d", i, v)
		}
	}
	if n := s.commit(); n != othersMax {
		t.Errorf("%d bodies made otherwise", n)
	}
	if v := s.add(&ID{Seq: 9, Sum: othersMax + 7}); v != otherwise || len(s.lives[0].trails[0].pages[0].more) != othersMax {
		t.Errorf("one more: verdict %d", v)
	}
}

// Any bytes are refused, or read to something that is coded and read the same again.
func FuzzSeen(f *testing.F) {
	s := new(seen)
	for i := range uint64(200) {
		s.add(&ID{Gen: i % 2, Path: i % 5, Seq: 1000 + i, Sum: i})
		s.add(&ID{Gen: i % 2, Path: i % 5, Seq: 1000 + i, Sum: i + i%7})
	}
	delta, _ := s.append(nil)
	s.commit()
	s.mark(1, 1100)
	all, whole := s.append(nil)
	if !whole {
		f.Fatal("the second is not all")
	}
	f.Add(delta)
	f.Add(all)
	f.Add(slices.Concat(delta, all, delta))
	f.Add([]byte{seenVersion + 1})
	f.Add([]byte{seenVersion, 0, 0, 0, 18, 0, 0, 0, 0, 0, 0, 0, 1, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := new(seen)
		if s.load(b) != nil {
			return
		}
		s.since, s.whole = 1, 0
		code, _ := s.append(nil)
		again := new(seen)
		if err := again.load(code); err != nil {
			t.Fatalf("its own code: %v", err)
		}
		if a, b := dump(s), dump(again); !bytes.Equal(a, b) {
			t.Fatalf("%s\nbecame\n%s", a, b)
		}
	})
}

// dump lists what a seen knows.
func dump(s *seen) []byte {
	var b bytes.Buffer
	for _, l := range s.lives {
		fmt.Fprintf(&b, "generation %d from %d\n", l.gen, l.low)
		for _, path := range slices.Sorted(maps.Keys(l.trails)) {
			for _, p := range l.trails[path].pages {
				slices.SortFunc(p.more, func(a, b other) int { return int(a.at)<<8 + int(a.sum) - int(b.at)<<8 - int(b.sum) })
				has := l.above(p, p.has)
				for at, sum := range p.sums {
					if has>>at&1 != 0 {
						fmt.Fprintf(&b, "%x %d %x\n", path, p.first+uint64(at), sum)
					}
				}
				for _, o := range p.more {
					if !l.coded(p, o, true) {
						continue
					}
					fmt.Fprintf(&b, "%x %d otherwise %x\n", path, p.first+uint64(o.at), o.sum)
				}
			}
		}
	}
	return b.Bytes()
}

func BenchmarkSeen(b *testing.B) {
	for _, paths := range []uint64{1, 3, 100} {
		b.Run(fmt.Sprint(paths, " paths"), func(b *testing.B) {
			b.ReportAllocs()
			s := &seen{pool: new(pages)}
			var code []byte
			kept := 0
			for i := range uint64(b.N) {
				id := ID{Source: 1, Gen: 2, Path: (i%paths)*0x9e3779b97f4a7c15 | 1, Seq: i / paths, Sum: i * 0x9e3779b97f4a7c15}
				s.add(&id)
				if i%1024 == 1023 {
					code, _ = s.append(code[:0])
					kept += len(code)
					s.commit()
					s.mark(2, max(id.Seq, 10_000)-10_000)
				}
			}
			b.ReportMetric(float64(kept)/float64(b.N), "B-kept/op")
		})
	}
}
