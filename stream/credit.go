package stream

import "time"

// Limits of credit, in records.
const (
	// creditMax is the most a role on a node grants: 4096 records keep a link of 128-byte
	// records full, more brings nothing (STACK 6, sweep).
	creditMax = 4096
	// creditQueueMax is how long a record may wait for a handler before the total is halved.
	creditQueueMax = 10 * time.Millisecond
	// creditAhead is the most that is granted, as the time that handlers take for it; all else had better
	// go to another node.
	creditAhead = time.Second
	// creditHalveEvery keeps one slow batch from halving twice.
	creditHalveEvery = 100 * time.Millisecond
)

// credit is the total of one receiving role on one node, shared over its links. Pure: the
// caller has the clock and the lock. A link's limit is absolute and never falls; what a link
// may still send, limit less taken, is its unused share and counts in the total.
//
// A link that has never sent keeps one record. One that has gets what the others leave, or its
// equal part: a link that falls silent keeps what it was granted, so all unused shares together
// may reach twice the total, and one record for each link.
type credit struct {
	min, total uint64 // records
	unused     uint64 // sum over the links of limit - taken
	links      uint64 // that have sent
	halved     time.Time
}

func newCredit(capacity int) credit {
	n := uint64(min(2*capacity, creditMax))
	return credit{min: n, total: n}
}

// open grants a new link its first limit.
func (c *credit) open() (limit uint64) {
	c.unused++
	return 1
}

// close takes a link out.
func (c *credit) close(taken, limit uint64) {
	if taken > 0 {
		c.links--
	}
	c.unused -= limit - taken
}

// take notes n records taken from a link and returns its new limit.
func (c *credit) take(taken, limit, n uint64) uint64 {
	if taken == 0 {
		c.links++
	}
	c.unused -= n
	return c.grant(taken+n, limit)
}

// grant raises the limit of a link that has sent.
func (c *credit) grant(taken, limit uint64) uint64 {
	others := c.unused - (limit - taken)
	left := func(of uint64) uint64 { return of - min(of, others) }
	share := max(left(c.total), min(c.total/c.links, left(2*c.total)), 1)
	if raised := taken + share; raised > limit {
		c.unused += raised - limit
		return raised
	}
	return limit
}

// starved doubles the total, up to most: a handler found nothing while a sender had no credit left.
// It reports whether there is more to grant.
func (c *credit) starved(most uint64) bool {
	if most = min(most, creditMax); c.total >= most {
		return false
	}
	c.total = min(2*c.total, most)
	return true
}

// waited halves the total when a record waited too long for a handler whose last batch took
// busy: waiting for the batch before is no queue.
func (c *credit) waited(wait, busy time.Duration, now time.Time) {
	if wait > max(creditQueueMax, 2*busy) && now.Sub(c.halved) >= creditHalveEvery {
		c.halved = now
		c.total = max(c.total/2, c.min)
	}
}
