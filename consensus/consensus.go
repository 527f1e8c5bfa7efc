// Package consensus keeps the State that all nodes agree on, and says who leads.
//
// A few nodes vote: they run raft. All others watch: they get the state from any node that has
// applied more, then its entries one by one, and go on elsewhere when that node dies. Both apply
// the same entries by the same pure function, so every node has every State in turn. With a Store
// a node begins with the newest State it has kept, and a voter with its vote and its log.
//
//	Propose ──> leader ──raft──> voters ──watch──> all others
//	                │              │                  │
//	                └───────── State, Wait ───────────┘
//
// It never looks at what gossip says and never decides who votes: the orchestrator calls
// AddVoters and RemoveVoter. No call of a stranger starts raft, only a voter's.
//
// Goroutines: Run owns the vote (start, stop, the first entry of a leader); one other follows
// the log of a peer while raft does not feed us; raft's own are joined by Shutdown. Handlers run
// in the caller's and return when their ctx is done.
package consensus

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"weir/topology"
)

// Stream says what a stream between nodes is for, and which handler takes it.
type Stream byte

// The streams.
const (
	StreamRaft    Stream = iota + 1 // HandleRaft
	StreamWatch                     // HandleWatch
	StreamPropose                   // HandlePropose
)

// Net opens streams to other nodes.
type Net interface {
	// Open opens a stream to a node, wherever it is now; an empty id stands for whoever is at addr.
	Open(ctx context.Context, id topology.NodeID, addr string, s Stream) (net.Conn, error)
}

// Errors of proposing and leading.
var (
	// ErrNoLeader says that nobody leads at the moment: try again later.
	ErrNoLeader = errors.New("there is no leader, try again later")
	// ErrNotLeader says that this node does not lead: ask the leader.
	ErrNotLeader = errors.New("this node is not the leader")
)

const (
	// lookEvery is how often Run looks after the vote when nothing wakes it.
	lookEvery = 250 * time.Millisecond
	// standWait is how long a vote that nobody lists or feeds is kept: several ticks of an
	// orchestrator.
	standWait = 10 * time.Second
	// leadAgain is how long a new leader waits for its first entry before it proposes another.
	leadAgain = time.Second
	// keepEvery is the shortest time between two States that are kept.
	keepEvery = time.Second
	// quorumAge is the age of the last contact with a leader from which on we say that there is
	// no quorum: several elections.
	quorumAge = 3 * time.Second
)

// Config says who we are.
type Config struct {
	ID        topology.NodeID
	Bootstrap bool     // make a cluster of one
	Seeds     []string // host:port of nodes to watch while no other is known
	Net       Net
	Store     *Store // what the node keeps over a restart; nil: nothing
	Log       *slog.Logger
	Hooks     *Hooks // nil but in the simulator
}

// Consensus is this node's part in the log. Its methods are safe for concurrent use.
type Consensus struct {
	id    topology.NodeID
	alone bool
	seeds []string
	net   Net
	store *Store // nil: none
	log   *slog.Logger
	hooks *Hooks

	stands chan chan<- response // Run answers with the vote that stands ready
	inits  chan chan<- error    // Run makes a cluster of one
	lost   chan error           // length 1: why the node must stop

	// only look uses these
	kept   uint64 // index of the last loud State that went to the store,
	keptIn uint64 // in which log,
	keptAt time.Time

	mu      sync.Mutex
	state   *State
	loud    uint64 // index of the newest entry, or State from elsewhere, that was more than marks
	history history
	changed chan struct{} // closed and replaced when state is
	voter   *voter
	heard   time.Time // when a leader was last heard of by watching
}

// New checks the config. It does nothing before Run.
func New(c Config) (*Consensus, error) {
	switch {
	case c.ID == "":
		return nil, errors.New("consensus config: ID is missing")
	case c.Net == nil:
		return nil, errors.New("consensus config: Net is missing")
	case c.Bootstrap == (len(c.Seeds) > 0):
		return nil, errors.New("consensus config: want either Bootstrap or Seeds")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	state, err := c.Store.state()
	if err != nil {
		return nil, err
	}
	return &Consensus{
		id: c.ID, alone: c.Bootstrap, seeds: c.Seeds, net: c.Net, store: c.Store, log: c.Log, hooks: c.Hooks,
		stands:  make(chan chan<- response),
		inits:   make(chan chan<- error),
		lost:    make(chan error, 1),
		state:   state,
		history: history{before: state.Index},
		loud:    state.Index,
		kept:    state.Index,
		keptIn:  state.LogID,
		changed: make(chan struct{}),
	}, nil
}

// Run takes part until ctx is done. An error says that this node's state can no longer follow
// the others': the process must end.
func (c *Consensus) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { c.follow(ctx); return nil })
	group.Go(func() error { return c.look(ctx) })
	return group.Wait()
}

// look is the loop that owns the vote.
func (c *Consensus) look(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, c.rest()) }()
	if err := c.begin(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		var elected <-chan bool
		if v := c.vote(); v != nil {
			elected = v.raft.LeaderCh()
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-c.lost:
			return err
		case <-c.store.failure():
			return c.store.Err()
		case reply := <-c.stands:
			reply <- c.answerStand(ctx) // length 1
		case made := <-c.inits:
			made <- c.initHere(ctx) // length 1
		case <-elected:
		case <-c.Changed():
		case <-tick.C:
		}
		now := time.Now()
		if err := errors.Join(c.keep(now), c.lookAfterVote(now)); err != nil {
			return err
		}
	}
}

// begin takes up the vote that the store holds, or makes a cluster of one.
func (c *Consensus) begin(ctx context.Context) error {
	id, err := c.store.server()
	if err == nil && (id != "" || c.alone && c.State().LogID == 0) {
		err = c.stand(ctx, c.alone)
	}
	return err
}

// keep has the store remember the State, so that the node that starts again knows its log and
// the others from the beginning. A voter's own log has all that counts, and marks with it.
func (c *Consensus) keep(now time.Time) error {
	c.mu.Lock()
	s, loud := c.state, c.loud
	c.mu.Unlock()
	if c.store == nil || loud == c.kept || s.LogID == c.keptIn && now.Sub(c.keptAt) < keepEvery {
		return nil
	}
	if err := c.store.setState(s); err != nil {
		return err
	}
	c.kept, c.keptIn, c.keptAt = loud, s.LogID, now
	return nil
}

// stand makes sure that raft runs here.
func (c *Consensus) stand(ctx context.Context, alone bool) error {
	if c.vote() != nil {
		return nil
	}
	v, err := c.newVoter(ctx, alone)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.voter = v
	c.mu.Unlock()
	c.log.Info("vote ready", "server", v.id)
	return nil
}

func (c *Consensus) answerStand(ctx context.Context) response {
	if err := c.stand(ctx, false); err != nil {
		return response{Err: err.Error()}
	}
	v := c.vote()
	return response{Stood: v.id, Applied: v.raft.AppliedIndex()}
}

// unvote gives the vote up for good; the node watches from then on.
func (c *Consensus) unvote(why string) error {
	c.hooks.sometimes("a vote is given up")
	c.log.Info("vote given up", "server", c.vote().id, "why", why)
	if err := c.rest(); err != nil {
		return err
	}
	return c.store.forget()
}

// rest stops raft. A vote in the store can be taken up again.
func (c *Consensus) rest() error {
	c.mu.Lock()
	v := c.voter
	c.voter = nil
	c.mu.Unlock()
	if v == nil {
		return nil
	}
	return v.close()
}

// lookAfterVote stops a vote that nobody counts and makes a new leader known.
func (c *Consensus) lookAfterVote(now time.Time) error {
	v, s := c.vote(), c.State()
	if v == nil {
		return nil
	}
	switch {
	case slices.Contains(s.Servers, Server(v.id)):
		v.listed = true
	case v.listed && (!v.votes() || s.Index > v.raft.LastIndex()): // not of a state that raft here is ahead of
		return c.unvote("the others took it")
	case v.idle(now) > standWait && !v.votes():
		return c.unvote("nobody asked for it again")
	}
	if term := v.raft.CurrentTerm(); v.elected() && s.Term < term && (term > v.proposedTerm || now.Sub(v.proposed) > leadAgain) {
		c.hooks.elected(v, term)
		if term == v.proposedTerm {
			c.hooks.sometimes("a leader proposes its first entry again")
		}
		v.proposed, v.proposedTerm = now, term
		return c.lead(v)
	}
	return nil
}

// lead proposes the first entry of a new leader; lookAfterVote sees what becomes of it.
func (c *Consensus) lead(v *voter) error {
	var logID [8]byte
	rand.Read(logID[:])
	b, err := json.Marshal(leader(c.id, max(1, binary.BigEndian.Uint64(logID[:]))))
	if err != nil {
		return fmt.Errorf("encode leader entry: %w", err)
	}
	v.raft.Apply(b, electionTimeout)
	return nil
}

// State returns the newest state this node knows; it is never nil, and never changes.
func (c *Consensus) State() *State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Changed returns a channel that is closed when State next changes by more than marks: take it
// before looking.
func (c *Consensus) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Wait returns the first state it sees beyond index.
func (c *Consensus) Wait(ctx context.Context, index uint64) (*State, error) {
	for {
		changed := c.Changed()
		if s := c.State(); s.Index > index {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// IsLeader reports whether this node leads and has committed an entry as leader.
func (c *Consensus) IsLeader() bool {
	v, s := c.vote(), c.State()
	return v != nil && v.elected() && s.Leader == c.id && s.Term == v.raft.CurrentTerm()
}

// Stands reports whether raft runs here: this node votes, or is to.
func (c *Consensus) Stands() bool { return c.vote() != nil }

// Quorum reports whether a leader was heard of lately.
func (c *Consensus) Quorum() bool {
	age := c.Age()
	return age >= 0 && age < quorumAge
}

// Age is the time since a leader was heard of, negative if never. What a watcher hears is as old
// as what its voter heard, and the way from there.
func (c *Consensus) Age() time.Duration { return c.age(time.Now()) }

func (c *Consensus) age(now time.Time) time.Duration {
	c.mu.Lock()
	v, heard := c.voter, c.heard
	c.mu.Unlock()
	if v != nil {
		if c.IsLeader() {
			return 0
		}
		if last := v.raft.LastContact(); last.After(heard) {
			heard = last
		}
	}
	if heard.IsZero() {
		return -1
	}
	return max(0, now.Sub(heard))
}

// publish makes next the state if it is newer than what we have. With e it is the state after e,
// without it comes from elsewhere; seen are the elections that the node it comes from has seen.
func (c *Consensus) publish(next *State, e *entry, seen []Election) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.state
	if next.Index <= old.Index {
		return // raft and a watch bring the same entries
	}
	s := *next
	s.Recent = recentOf(&s, old, seen, time.Now().UnixMilli())
	c.state = &s
	switch {
	case e == nil:
		c.history.restart(s.Index)
	case e.quiet:
		return
	default:
		c.history.add(e)
	}
	c.loud = s.Index
	close(c.changed)
	c.changed = make(chan struct{})
}

// recentOf returns the elections to show with s, which follows old: those that were seen by
// the node that s comes from, so that a watcher shows the times of a voter, or else ours.
func recentOf(s, old *State, seen []Election, nowMS int64) []Election {
	if s.Elections == old.Elections {
		return old.Recent
	}
	seen = slices.DeleteFunc(slices.Clone(seen), func(x Election) bool { return x.Term > s.Term })
	if n := len(seen); n > 0 && seen[n-1].Term == s.Term && n >= len(old.Recent) {
		return seen
	}
	recent := append(slices.Clone(old.Recent), Election{s.Term, s.Leader, nowMS})
	return recent[max(0, len(recent)-electionsKept):]
}

// stop ends Run with err.
func (c *Consensus) stop(err error) {
	select {
	case c.lost <- err:
	default: // it ends already
	}
}

func (c *Consensus) vote() *voter {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.voter
}
