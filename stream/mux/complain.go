package mux

import (
	"errors"
	"sync"
	"time"
)

// complainEvery is how often one reason of a refusal is worth a line: a node that does not belong
// here tries again and again, and a stranger must not fill the log.
const complainEvery = time.Minute

// complaints remembers when each reason was last given.
type complaints struct {
	mu   sync.Mutex
	last map[error]time.Time // by sentinel, so it holds as many as there are
}

// due reports whether err may be said aloud now, and takes note of it.
func (c *complaints) due(err error, now time.Time) bool {
	reason := reasonOf(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if last, said := c.last[reason]; said && now.Sub(last) < complainEvery {
		return false
	}
	if c.last == nil {
		c.last = make(map[error]time.Time)
	}
	c.last[reason] = now
	return true
}

// reasonOf is the sentinel of a refusal; all that have none share nil.
func reasonOf(err error) error {
	for _, reason := range []error{ErrOtherCluster, ErrOtherLog, ErrVersion, ErrNotWeir, ErrClock, ErrSameID, ErrNotPeer, ErrOldBoot, ErrProtocol} {
		if errors.Is(err, reason) {
			return reason
		}
	}
	return nil
}

// refused says that a peer which came to us was turned away, or turned away from us.
func (m *Mux) refused(addr string, err error) {
	if m.complaints.due(err, time.Now()) {
		m.cfg.Log.Warn("connection refused", "addr", addr, "err", err)
	} else {
		m.cfg.Log.Debug("connection refused again", "addr", addr, "err", err)
	}
}

// turnedAway says that a peer which we dialled does not belong to our cluster. Before this node
// belongs to one itself, who waits for the peer says so.
func (m *Mux) turnedAway(addr string, err error) {
	if m.cfg.LogID() == 0 {
		return
	}
	switch reasonOf(err) {
	case ErrOtherCluster, ErrOtherLog, ErrVersion, ErrNotWeir, ErrClock, ErrSameID:
		m.refused(addr, err)
	}
}
