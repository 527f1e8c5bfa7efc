package consensus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"weir/topology"
)

const (
	// pulseEvery is how often a watched node says that it lives.
	pulseEvery = 200 * time.Millisecond
	// pulseWait is how long a watcher waits for a word: four pulses, so that it is with another
	// node within a second.
	pulseWait = 800 * time.Millisecond
	// watchOpenWait is the longest opening a watch takes.
	watchOpenWait = 800 * time.Millisecond
	// watchWriteWait is how long a watcher may take to read what there is.
	watchWriteWait = 5 * time.Second
	// followAgain is the pause before the next node is tried, followStale after one that has
	// nothing newer: then most likely nobody has.
	followAgain = 100 * time.Millisecond
	followStale = time.Second
	// fedAge is the age of raft's last contact up to which nothing needs to be watched.
	fedAge = time.Second
	// watchOthers is how many nodes without a vote are tried after the voters.
	watchOthers = 3
	// requestBytesMax is the most a request to watch may hold, in bytes.
	requestBytesMax = 1 << 10

	watchVersion = 1
)

var (
	errNothing = errors.New("it belongs to no cluster yet")
	errBehind  = errors.New("it has not applied more than this node")
	errStale   = errors.New("it has not heard of a leader lately")
)

// watchRequest asks for what comes after Index.
type watchRequest struct {
	Version int    `json:"version"`
	LogID   uint64 `json:"log_id"`
	Index   uint64 `json:"index"`
}

// watchFrame is a pulse: whatever is new, which may be nothing.
type watchFrame struct {
	Err     string     `json:"err,omitempty"` // why there will be none
	LogID   uint64     `json:"log_id,omitempty"`
	Index   uint64     `json:"index,omitempty"`  // of the sender's state
	AgeMS   int64      `json:"age_ms,omitempty"` // since the sender heard of a leader; negative: never
	State   *State     `json:"state,omitempty"`  // when the entries are no longer at hand
	Entries []*entry   `json:"entries,omitempty"`
	Recent  []Election `json:"recent,omitempty"` // with State or Entries
}

// peer is a node to ask: an id, or the address of a seed.
type peer struct {
	id   topology.NodeID
	addr string
}

// HandleWatch sends the watcher what it asks for until either side ends it, and closes the
// stream.
func (c *Consensus) HandleWatch(ctx context.Context, from topology.NodeID, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := c.serveWatch(ctx, conn); err != nil && ctx.Err() == nil {
		c.log.Debug("watch by a node ends", "peer", from, "err", err)
	}
}

func (c *Consensus) serveWatch(ctx context.Context, conn net.Conn) error {
	var r watchRequest
	if err := conn.SetReadDeadline(time.Now().Add(watchWriteWait)); err != nil {
		return err
	}
	if err := readFrame(conn, requestBytesMax, &r); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	for at := r.Index; ; {
		changed := c.Changed()
		f := c.frameAfter(r, at)
		if err := conn.SetWriteDeadline(time.Now().Add(watchWriteWait)); err != nil {
			return err
		}
		if err := writeFrame(conn, f); err != nil {
			return err
		}
		if f.Err != "" {
			return errors.New(f.Err)
		}
		at = max(at, f.Index)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(pulseEvery):
		}
	}
}

// frameAfter is what a watcher that has applied index at gets next.
func (c *Consensus) frameAfter(r watchRequest, at uint64) watchFrame {
	age := c.age(time.Now())
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.state
	f := watchFrame{LogID: s.LogID, Index: s.Index, AgeMS: age.Milliseconds()}
	if age < 0 {
		f.AgeMS = -1
	}
	switch {
	case r.Version != watchVersion:
		return watchFrame{Err: fmt.Sprintf("it speaks version %d of the watch, not %d", watchVersion, r.Version)}
	case r.LogID != 0 && s.LogID != 0 && r.LogID != s.LogID:
		return watchFrame{Err: fmt.Sprintf("it belongs to another cluster of the same secret: log %x, not %x", s.LogID, r.LogID)}
	case s.LogID == 0 || at >= s.Index:
		return f
	}
	f.Recent = s.Recent
	if es, ok := c.history.after(at); ok {
		f.Entries = es
	} else {
		f.State = s
	}
	return f
}

// Probe asks a node for a sign of life over a stream, whatever gossip says of it.
func (c *Consensus) Probe(ctx context.Context, n topology.NodeID) error {
	if _, err := c.hear(ctx, peer{id: n}); err != nil {
		return fmt.Errorf("probe %s: %w", n, err)
	}
	return nil
}

// hear returns the first frame of a watch.
func (c *Consensus) hear(ctx context.Context, p peer) (f watchFrame, err error) {
	conn, err := c.net.Open(ctx, p.id, p.addr, StreamWatch)
	if err != nil {
		return f, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s := c.State()
	if err := writeFrame(conn, watchRequest{watchVersion, s.LogID, s.Index}); err != nil {
		return f, err
	}
	err = readFrame(conn, frameBytesMax, &f)
	return f, err
}

// follow watches one node after the other while raft does not feed this one.
func (c *Consensus) follow(ctx context.Context) {
	var queue []peer
	var asOf uint64 // index of the State that queue is of: one that is newer may name better ones
	var last peer
	for ctx.Err() == nil {
		pause := followAgain
		if !c.fed() {
			if s := c.State(); len(queue) == 0 || s.Index != asOf {
				queue, asOf = c.peers(s, last), s.Index
			}
			if len(queue) > 0 {
				last, queue = queue[0], queue[1:]
				pause = c.followOne(ctx, last)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// followOne returns how long to wait before the next node is tried.
func (c *Consensus) followOne(ctx context.Context, p peer) time.Duration {
	err := c.watch(ctx, p)
	if err != nil && ctx.Err() == nil {
		c.log.Debug("watch ends, try the next node", "peer", p.id, "addr", p.addr, "err", err)
	}
	if errors.Is(err, errBehind) || errors.Is(err, errStale) {
		return followStale
	}
	return followAgain
}

// fed reports whether raft brings this node its entries.
func (c *Consensus) fed() bool {
	v := c.vote()
	return v != nil && (v.elected() || time.Since(v.raft.LastContact()) < fedAge)
}

// peers are the nodes to watch, best first: voters, some others, seeds; at the end the last one
// tried.
func (c *Consensus) peers(s *State, last peer) []peer {
	var voters, others []peer
	for _, server := range s.Servers {
		if server.Node() != c.id {
			voters = append(voters, peer{id: server.Node()})
		}
	}
	for _, n := range s.Roster {
		if n.ID != c.id && !s.Votes(n.ID) {
			others = append(others, peer{id: n.ID})
		}
	}
	shuffle(voters)
	shuffle(others)
	list := append(voters, others[:min(len(others), watchOthers)]...)
	at := func(addr string) int {
		return slices.IndexFunc(s.Roster, func(n topology.Node) bool { return n.Addr == addr })
	}
	for _, addr := range c.seeds {
		if at(addr) < 0 {
			list = append(list, peer{addr: addr})
		}
	}
	if i := at(last.addr); last.id == "" && i >= 0 {
		last = peer{id: s.Roster[i].ID} // a seed that is known by now
	}
	if i := slices.Index(list, last); i >= 0 {
		list = append(slices.Delete(list, i, i+1), last)
	}
	return list
}

func shuffle(ps []peer) { rand.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] }) }

// watch follows the log at one node. It returns nil when raft feeds this node.
func (c *Consensus) watch(ctx context.Context, p peer) error {
	openCtx, cancel := context.WithTimeout(ctx, watchOpenWait)
	conn, err := c.net.Open(openCtx, p.id, p.addr, StreamWatch)
	cancel()
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s := c.State()
	if err := conn.SetDeadline(time.Now().Add(pulseWait)); err != nil {
		return err
	}
	if err := writeFrame(conn, watchRequest{watchVersion, s.LogID, s.Index}); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	for !c.fed() {
		if err := conn.SetReadDeadline(time.Now().Add(pulseWait)); err != nil {
			return err
		}
		var f watchFrame
		if err := readFrame(conn, frameBytesMax, &f); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if err := c.take(&f, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// take applies what a watched node sent. Its error says why to leave that node.
func (c *Consensus) take(f *watchFrame, now time.Time) error {
	s := c.State()
	switch {
	case f.Err != "":
		c.log.Warn("a node refuses to be watched", "err", f.Err)
		return errors.New(f.Err)
	case f.LogID == 0:
		return errNothing
	case s.LogID != 0 && s.LogID != f.LogID:
		return fmt.Errorf("it belongs to another cluster of the same secret: log %x, ours is %x", f.LogID, s.LogID)
	}
	if f.State != nil {
		if f.State.Version != stateVersion {
			c.stop(fmt.Errorf("watched state: %w: its version is %d", errCannotApply, f.State.Version))
		}
		c.hooks.sometimes("a watcher is sent a whole state")
		c.publish(f.State, nil, f.Recent)
	}
	for _, e := range f.Entries {
		s := c.State()
		if e == nil || e.Index <= s.Index {
			continue
		}
		next, _, err := s.apply(e)
		if err != nil {
			c.stop(err)
			return err
		}
		c.publish(next, e, f.Recent)
	}
	if f.AgeMS >= 0 {
		c.mu.Lock()
		if heard := now.Add(-time.Duration(f.AgeMS) * time.Millisecond); heard.After(c.heard) {
			c.heard = heard
		}
		c.mu.Unlock()
	}
	switch {
	case f.Index < c.State().Index:
		c.hooks.sometimes("a watched node is behind")
		return errBehind
	case f.AgeMS < 0 || f.AgeMS > quorumAge.Milliseconds():
		c.hooks.sometimes("a watched node has not heard of a leader")
		return errStale
	}
	return nil
}
