package node

import "sync"

// journal keeps the last values that were added, for whoever comes later, and wakes those who wait
// for more. All methods may be called concurrently.
type journal[T any] struct {
	max int

	mu   sync.Mutex
	kept []T
	next uint64        // how many were ever added
	more chan struct{} // closed and replaced by add
}

func newJournal[T any](most int) *journal[T] {
	return &journal[T]{max: most, more: make(chan struct{})}
}

func (j *journal[T]) add(v T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.kept) == j.max {
		j.kept = append(j.kept[:0], j.kept[j.max/4+1:]...) // seldom, so that it costs little
	}
	j.kept = append(j.kept, v)
	j.next++
	close(j.more)
	j.more = make(chan struct{})
}

// after returns the values from the n-th on, as far as they are kept, how many were not, the number
// to go on with, and what is closed when there is more.
func (j *journal[T]) after(n uint64) (vs []T, missed, next uint64, more <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	first := j.next - uint64(len(j.kept))
	if n < first {
		missed = first - n
		n = first
	}
	return append(vs, j.kept[n-first:]...), missed, j.next, j.more
}
