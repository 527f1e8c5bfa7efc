package stream

import (
	"math/bits"
	"time"
)

// LatencyBuckets is the number of buckets of a latency histogram: four to a power of two of
// microseconds, up to 2^40 (12 days).
const LatencyBuckets = 4 * 40

// histogram counts durations. Pure; its zero value is empty. A bucket's upper bound is at
// most 25 % above its lower.
type histogram struct {
	counts [LatencyBuckets]uint64
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
}

func bucket(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < 4 {
		return int(us)
	}
	log := bits.Len64(us) - 1
	return min(4*(log-1)+int(us>>(log-2)&3), LatencyBuckets-1)
}

// bucketMax is the largest number of microseconds in a bucket.
func bucketMax(i int) uint64 {
	if i < 4 {
		return uint64(i)
	}
	log := i/4 + 1
	return uint64(4+i%4+1)<<(log-2) - 1
}

// Quantile returns the upper bound, in microseconds, of the bucket that holds the q-th part of
// the counts of a latency histogram; 0 for an empty one.
func Quantile(counts *[LatencyBuckets]uint64, q float64) uint64 {
	var total, seen uint64
	for _, n := range counts {
		total += n
	}
	for i, n := range counts {
		seen += n
		if n > 0 && float64(seen) >= q*float64(total) {
			return bucketMax(i)
		}
	}
	return 0
}
