package stream

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// ranges against a plain set.
func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var rs ranges
		set := make(map[uint64]bool)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			lo := rapid.Uint64Range(0, 50).Draw(t, "lo")
			hi := lo + rapid.Uint64Range(1, 10).Draw(t, "n")
			for n := lo; n < hi; n++ {
				set[n] = true
			}
			rs.add(lo, hi)
		}
		count := 0
		for i, r := range rs {
			if r.Lo >= r.Hi || i > 0 && rs[i-1].Hi >= r.Lo {
				t.Fatalf("ranges touch or are empty: %v", rs)
			}
			for n := r.Lo; n < r.Hi; n++ {
				if count++; !set[n] {
					t.Fatalf("%d is in %v and was not added", n, rs)
				}
			}
		}
		if count != len(set) {
			t.Fatalf("%v has %d numbers, want %d", rs, count, len(set))
		}
	})
}

// The credit of many links: limits never fall, unused shares are counted right and bounded, and
// no link that sends is ever left without credit.
func TestCredit(t *testing.T) {
	type link struct{ taken, limit uint64 }
	rapid.Check(t, func(t *rapid.T) {
		c := newCredit(rapid.IntRange(1, 3000).Draw(t, "capacity"))
		var links []link
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			i := rapid.IntRange(0, 19).Draw(t, "link")
			switch what := rapid.IntRange(0, 9).Draw(t, "what"); {
			case i >= len(links):
				links = append(links, link{limit: c.open()})
			case what == 0:
				c.close(links[i].taken, links[i].limit)
				links = append(links[:i], links[i+1:]...)
			case what == 1:
				most := rapid.Uint64Range(0, 2*creditMax).Draw(t, "most")
				if before := c.total; c.starved(most) && c.total > most || c.total < before {
					t.Fatalf("total %d after %d, at most %d asked for", c.total, before, most)
				}
			case what == 2:
				c.waited(time.Second, 0, time.Unix(int64(links[i].taken), 0))
			case links[i].limit > links[i].taken:
				n := rapid.Uint64Range(1, links[i].limit-links[i].taken).Draw(t, "n")
				limit := c.take(links[i].taken, links[i].limit, n)
				links[i].taken += n
				if limit < links[i].limit || limit <= links[i].taken {
					t.Fatalf("limit %d after %d, with %d taken", limit, links[i].limit, links[i].taken)
				}
				links[i].limit = limit
			}
			var unused uint64
			for _, l := range links {
				unused += l.limit - l.taken
			}
			if unused != c.unused || unused > 2*creditMax+uint64(len(links)) || c.total > creditMax || c.total < c.min {
				t.Fatalf("unused %d, counted %d, total %d of %d to %d", unused, c.unused, c.total, c.min, creditMax)
			}
		}
	})
}

// window against a plain map.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		there := make(map[uint64]*tree)
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "add") {
				tr := new(tree)
				there[w.add(slot{t: tr})] = tr
				continue
			}
			seq := rapid.Uint64Range(0, w.next+1).Draw(t, "seq")
			s, ok := w.free(seq)
			if want := there[seq]; ok != (want != nil) || s.t != want {
				t.Fatalf("free %d: %v, want %v", seq, ok, want != nil)
			}
			delete(there, seq)
		}
		if w.records != len(there) {
			t.Fatalf("%d records, want %d", w.records, len(there))
		}
		for seq, tr := range there {
			if seq < w.base || seq >= w.next || w.at(seq).t != tr {
				t.Fatalf("%d is not in [%d, %d)", seq, w.base, w.next)
			}
		}
	})
}

func TestHistogram(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Uint64Range(0, 1<<38).Draw(t, "us")
		var h histogram
		h.add(time.Duration(us) * time.Microsecond)
		if q := Quantile(&h.counts, 0.5); q < us || q > us+us/4+1 {
			t.Fatalf("%d us are in the bucket up to %d", us, q)
		}
	})
	var h histogram
	for range 99 {
		h.add(time.Millisecond)
	}
	h.add(time.Second)
	if p50, p99, p100 := Quantile(&h.counts, 0.5), Quantile(&h.counts, 0.99), Quantile(&h.counts, 1); p50 != p99 || p100 < 1e6 {
		t.Errorf("99 of 1 ms and one of 1 s: p50 %d, p99 %d, p100 %d us", p50, p99, p100)
	}
	if Quantile(new([LatencyBuckets]uint64), 0.99) != 0 {
		t.Error("an empty histogram has a quantile")
	}
}
