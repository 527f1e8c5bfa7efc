package node

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"weir/consensus"
	"weir/gossip"
	"weir/topology"
)

const (
	// lookEvery is how often the leader compares members and roster: joins that come together
	// make one entry.
	lookEvery = 250 * time.Millisecond
	// votersSettle is how long members and roster must stay the same before a voter is changed:
	// nodes that start together are seen together. votersSettleMax is the longest it waits.
	votersSettle    = 2 * lookEvery
	votersSettleMax = 5 * time.Second
	// probeWait is how long a node that gossip calls dead may take to answer, probeAgain how
	// long an answer counts.
	probeWait  = time.Second
	probeAgain = 5 * time.Second
	// unseenMax is how long a node of the roster may be unknown to gossip before it is probed:
	// several push/pulls, since a new leader may have been told of nobody yet.
	unseenMax = 15 * time.Second
	// votersDefault is the target number of voters where the config says none.
	votersDefault = 3
)

// membership is what the orchestrator needs of gossip.
type membership interface {
	Members() []gossip.Member
}

// ledger is what it needs of the log.
type ledger interface {
	State() *consensus.State
	Changed() <-chan struct{}
	IsLeader() bool
	Propose(context.Context, consensus.Command) error
	Probe(context.Context, topology.NodeID) error
}

// electorate changes who votes.
type electorate interface {
	AddVoters(ctx context.Context, nodes []topology.NodeID, prev uint64) (lags topology.NodeID, err error)
	RemoveVoter(ctx context.Context, id topology.NodeID, prev uint64) error
	TransferLeadership(ctx context.Context, to topology.NodeID) error
}

// orchestrator is what the leader does besides leading: it makes the roster follow gossip, chooses
// voters, gives shared partitions out (assign.go) and ends what new versions of pipelines lack. It runs on every node and is idle on all but
// the leader; what it remembers is lost with the leadership, and found again.
type orchestrator struct {
	self    topology.NodeID
	target  int // voters wanted; 0 = 3
	members membership
	ledger  ledger
	voters  electorate
	ask     func(context.Context, topology.Node) (report, error)
	log     *slog.Logger

	// run's own.
	leading  time.Time                     // since when; zero: not
	seen     map[topology.NodeID]member    // as they were a look ago
	answered map[topology.NodeID]time.Time // when a node that gossip calls dead did answer
	refused  map[topology.NodeID]time.Time // when a node could not be made a voter
	away     map[topology.NodeID]time.Time // since when a holder of shared partitions does not answer
	settled  time.Time                     // since when members and roster have been the same
	waiting  time.Time                     // since when settled is waited for
	epoch    uint64
}

// member is what of a gossip.Member makes a difference.
type member struct {
	node  topology.Node
	state gossip.State
}

func (n *Node) newOrchestrator() *orchestrator {
	return &orchestrator{
		self: n.self.ID, target: n.cfg.Voters, members: n.gossip, ledger: n.consensus, voters: n.consensus, ask: n.reportOf, log: n.log,
	}
}

// run looks after roster and voters until ctx is done.
func (o *orchestrator) run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		changed := o.ledger.Changed()
		if !o.leading.IsZero() {
			changed = nil // only to see at once that we lead
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
		}
		if o.ledger.IsLeader() {
			o.look(ctx, time.Now())
		} else {
			o.leading = time.Time{}
		}
	}
}

// look is one round. Whatever fails is tried again by the next.
func (o *orchestrator) look(ctx context.Context, now time.Time) {
	if o.leading.IsZero() {
		o.log.Info("leading", "term", o.ledger.State().Term)
		o.leading, o.waiting = now, now
		o.seen, o.settled = nil, time.Time{} // the last leader has waited
		o.answered = make(map[topology.NodeID]time.Time)
		o.refused = make(map[topology.NodeID]time.Time)
		o.away = nil // they are waited for anew: who stopped reading when is not known here
	}
	s := o.ledger.State()
	members := ours(o.members.Members(), s.LogID)
	joins := toAdmit(s, members, o.seen, o.self)
	if len(joins) > 0 || o.seen != nil && (s.Epoch != o.epoch || !maps.EqualFunc(members, o.seen, sameMember)) {
		o.settled = now
	}
	left, lost := toEvict(s, members, o.self, now.Sub(o.leading) > unseenMax)
	o.seen, o.epoch = members, s.Epoch
	if len(joins) > 0 {
		o.propose(ctx, consensus.Admit(joins...), "admitted", idsOf(joins))
	}
	if len(left) > 0 {
		o.propose(ctx, consensus.Evict(true, left...), "evicted those that left", left)
	}
	if dead := o.probe(ctx, lost, now); len(dead) > 0 {
		o.propose(ctx, consensus.Evict(false, dead...), "evicted the dead", dead)
	}
	o.assign(ctx, members, now)
	o.settle(ctx)
	if o.calm(now) {
		o.vote(ctx, members, now)
	}
}

// calm reports whether members and roster have settled, or have not for too long.
func (o *orchestrator) calm(now time.Time) bool {
	if now.Sub(o.settled) < votersSettle && now.Sub(o.waiting) < votersSettleMax {
		return false
	}
	o.waiting = now
	return true
}

func (o *orchestrator) propose(ctx context.Context, c consensus.Command, what string, ids []topology.NodeID) {
	if err := o.ledger.Propose(ctx, c); err != nil {
		o.log.Info("roster stays as it is, tried again", "err", err)
		return
	}
	o.log.Info(what, "nodes", ids, "epoch", o.ledger.State().Epoch)
}

// probe returns the nodes that do not answer.
func (o *orchestrator) probe(ctx context.Context, lost []topology.NodeID, now time.Time) (dead []topology.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	var group sync.WaitGroup
	var mu sync.Mutex
	lost = slices.DeleteFunc(slices.Clone(lost), func(id topology.NodeID) bool { return now.Sub(o.answered[id]) < probeAgain })
	for _, id := range lost {
		group.Go(func() { // ended by probeWait
			err := o.ledger.Probe(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				o.answered[id] = now
			} else {
				dead = append(dead, id)
			}
		})
	}
	group.Wait()
	if context.Cause(ctx) == context.Canceled {
		return nil // we stop: nobody was given the time to answer
	}
	slices.Sort(dead)
	return dead
}

// vote changes voters until they are as wanted, or a change fails: the fewer moments
// there are with an even number of them, the fewer deaths can take the quorum.
func (o *orchestrator) vote(ctx context.Context, members map[topology.NodeID]member, now time.Time) {
	target := o.target
	if target == 0 {
		target = votersDefault
	}
	for range 2 * consensus.VotersMax { // all of them new
		s := o.ledger.State()
		alive, left := o.presence(s, members, now)
		switch c := consensus.ChooseVoters(s, o.self, alive, left, target); {
		case len(c.Add) > 0:
			if lags, err := o.voters.AddVoters(ctx, c.Add, s.ConfigIndex); err != nil {
				o.log.Info("voters not added, tried again", "nodes", c.Add, "err", err)
				o.refused[lags] = now
				return
			}
			o.log.Info("voters added", "nodes", c.Add)
		case c.Remove != "":
			if err := o.voters.RemoveVoter(ctx, c.Remove, s.ConfigIndex); err != nil {
				o.log.Info("voter not removed, tried again", "peer", c.Remove, "err", err)
				return
			}
			o.log.Info("voter removed", "peer", c.Remove)
		default:
			o.handOver(ctx, c.Transfer)
			return
		}
	}
}

// handOver makes the first of them leader that takes it.
func (o *orchestrator) handOver(ctx context.Context, to []topology.NodeID) {
	for _, id := range to {
		err := o.voters.TransferLeadership(ctx, id)
		if err == nil {
			o.log.Info("leadership handed over", "peer", id)
			return
		}
		o.log.Debug("leadership not handed over, another is tried", "peer", id, "err", err)
	}
}

// presence says who is alive and who left. Who answers is alive; who lately could not be made a
// voter is passed over for a while, so that another gets its turn.
func (o *orchestrator) presence(s *consensus.State, members map[topology.NodeID]member, now time.Time) (alive, left map[topology.NodeID]bool) {
	alive, left = map[topology.NodeID]bool{o.self: true}, make(map[topology.NodeID]bool)
	for id, m := range members {
		switch {
		case m.state == gossip.StateLeft || s.HasLeft(id, m.node.Boot):
			left[id] = true
		case m.state == gossip.StateAlive || now.Sub(o.answered[id]) < probeAgain:
			alive[id] = s.Votes(id) || now.Sub(o.refused[id]) >= probeAgain
		}
	}
	for _, id := range s.Voters {
		if _, seen := members[id]; !seen && now.Sub(o.leading) < unseenMax {
			alive[id] = true // the others of a cluster that restarts come one by one
		}
	}
	return alive, left
}

// ours returns the members that belong to the log, or to none yet.
func ours(all []gossip.Member, logID uint64) map[topology.NodeID]member {
	members := make(map[topology.NodeID]member, len(all))
	for _, m := range all {
		if m.LogID == 0 || m.LogID == logID {
			members[m.ID] = member{topology.Node{ID: m.ID, Boot: m.Boot, Addr: m.Addr, Roles: m.Roles, Tags: m.Tags}, m.State}
		}
	}
	return members
}

// toAdmit returns the living members that the roster lacks or knows otherwise, if they were the
// same a look ago: a burst of joins becomes one entry. We need not wait for ourselves.
func toAdmit(s *consensus.State, members, before map[topology.NodeID]member, self topology.NodeID) (nodes []topology.Node) {
	for id, m := range members {
		known, ok := s.Node(id)
		switch {
		case m.state != gossip.StateAlive || s.HasLeft(id, m.node.Boot):
		case ok && (m.node.Boot < known.Boot || sameNode(m.node, known)):
		case id == self || sameMember(m, before[id]):
			nodes = append(nodes, m.node)
		}
	}
	slices.SortFunc(nodes, func(a, b topology.Node) int { return cmp.Compare(a.ID, b.ID) })
	return nodes
}

// toEvict returns the nodes of the roster that left, and those that seem dead. With unseen those
// count that gossip has never told us of.
func toEvict(s *consensus.State, members map[topology.NodeID]member, self topology.NodeID, unseen bool) (left, lost []topology.NodeID) {
	for _, n := range s.Roster {
		m, known := members[n.ID]
		switch {
		case n.ID == self:
		case !known && !unseen, known && m.node.Boot < n.Boot:
		case !known, m.state == gossip.StateDead:
			lost = append(lost, n.ID)
		case m.state == gossip.StateLeft:
			left = append(left, n.ID)
		}
	}
	return left, lost
}

func sameMember(a, b member) bool { return a.state == b.state && sameNode(a.node, b.node) }

func sameNode(a, b topology.Node) bool {
	return a.ID == b.ID && a.Boot == b.Boot && a.Addr == b.Addr && slices.Equal(a.Roles, b.Roles) && slices.Equal(a.Tags, b.Tags)
}

func idsOf(nodes []topology.Node) (ids []topology.NodeID) {
	for _, n := range nodes {
		ids = append(ids, n.ID)
	}
	return ids
}
