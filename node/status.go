package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/consensus"
	"weir/gossip"
	"weir/node/api"
	"weir/stream"
	"weir/topology"
)

// reportTimeout is how long Status waits for a node.
const reportTimeout = time.Second

// report is what a node says of itself, as the answer to a call.
type report struct {
	ID     topology.NodeID `json:"id"`
	PID    int             `json:"pid"`
	RSS    int64           `json:"rss"`
	Held   int64           `json:"held"`
	Memory int64           `json:"memory"`
	Roles  []roleReport    `json:"roles"`

	Epoch    uint64            `json:"epoch"`              // of the State that it has followed
	Draining bool              `json:"draining,omitempty"` // it will leave
	Programs map[string]string `json:"programs,omitempty"` // what its roles run, a hash; by name as the node has it
	Idle     map[string]string `json:"idle,omitempty"`     // why a pipeline/role that it serves does not run there
	Dead     map[string]int    `json:"dead,omitempty"`     // dead letters that it keeps, by pipeline/role
}

type roleReport struct {
	Pipeline string       `json:"pipeline"`
	Role     string       `json:"role"`
	Edges    []edgeReport `json:"edges,omitempty"`
	Taps     []api.Tap    `json:"taps,omitempty"`
	Tap      bool         `json:"tap,omitempty"`
	Done     bool         `json:"done,omitempty"` // a tap: ended and acked
	Over     bool         `json:"over,omitempty"` // a tap: ended or stopped, and acked
	Records  uint64       `json:"records,omitempty"`
	Lines    uint64       `json:"lines,omitempty"`
	Dups     uint64       `json:"dups,omitempty"`   // dropped
	Others   uint64       `json:"others,omitempty"` // written, made otherwise than before
	Waits    string       `json:"waits,omitempty"`  // why a sink, a program or a tap's claim is tried again
	Buries   string       `json:"buries,omitempty"` // why dead letters are not kept yet
	Stuck    int          `json:"stuck,omitempty"`  // handlers that hang, if they are as many as it has
}

type edgeReport struct {
	api.Edge
	Latency map[int]uint64 `json:"latency,omitempty"` // of the histogram's buckets
}

// report counts what runs here.
func (n *Node) report() report {
	r := report{
		ID: n.self.ID, PID: hostPID, RSS: rss(), Held: n.budget.Held(), Memory: n.budget.Max(),
		Epoch: n.keeper.epoch.Load(), Draining: n.draining.Load(), Programs: make(map[string]string), Idle: n.keeper.idles(), Dead: n.letters.counts(),
	}
	for _, role := range n.cfg.Roles {
		if role.Program != "" {
			r.Programs[role.Name] = role.Program
		}
	}
	for _, rr := range n.keeper.all() {
		r.Roles = append(r.Roles, rr.report())
	}
	r.Roles = append(r.Roles, n.injections.report()...)
	return r
}

func (rr *roleRun) report() roleReport {
	out := roleReport{Pipeline: rr.key.pipeline, Role: rr.key.role, Tap: rr.cfg.Tap != nil, Buries: rr.n.letters.waitsOf(rr.key)}
	if rr.outlet != nil {
		for _, st := range rr.outlet.Stats() {
			out.Edges = append(out.Edges, newEdgeReport(rr.key.pipeline, st))
		}
	}
	if rr.sink != nil {
		st := rr.sink.Stats()
		out.Records, out.Lines, out.Dups, out.Others, out.Waits = st.Records, st.Lines, st.Duplicates, st.Nondeterministic, st.Waits
	}
	if h, ok := rr.cfg.Handler.(interface{ Waits() string }); ok {
		out.Waits = h.Waits()
	}
	if rr.inlet != nil {
		st := rr.inlet.Stats()
		if st.Hangs {
			out.Stuck = st.Stuck
		}
		out.Waits = cmp.Or(out.Waits, st.Waits)
	}
	if out.Tap {
		out.Done, out.Over = rr.done(), rr.over()
		rr.mu.Lock()
		defer rr.mu.Unlock()
		out.Waits = rr.refused
		for _, p := range rr.partitions {
			st := p.stats()
			out.Taps = append(out.Taps, api.Tap{Partition: p.name, Read: st.Read, Acked: st.Acked, Done: p.done})
			out.Records += st.Read
			out.Lines += st.Lines
		}
	}
	return out
}

func newEdgeReport(pipeline string, st stream.EdgeStats) edgeReport {
	e := edgeReport{Latency: make(map[int]uint64), Edge: api.Edge{
		Pipeline: pipeline, From: st.Edge.Source(), To: st.Edge.To, Links: st.Links,
		InflightRecords: int64(st.Inflight), CreditUsed: int64(st.CreditUsed), CreditLimit: int64(st.CreditLimit),
		RecordsTotal: st.Records, DeliveriesTotal: st.Deliveries, RedeliveredTotal: st.Redelivered,
		SuspectRecords: int64(st.Suspects), RetryRecords: int64(st.Retries),
	}}
	if !st.FirstRedelivered.IsZero() {
		e.FirstRedeliveredMS = st.FirstRedelivered.UnixMilli()
	}
	for i, n := range st.Latency {
		if n > 0 {
			e.Latency[i] = n
		}
	}
	return e
}

// rss is the process' resident memory in bytes, 0 where the system does not tell.
func rss() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// answerStatus answers a peer with our report.
func (n *Node) answerStatus(_ context.Context, _ json.RawMessage, tell func(any) error) error {
	return tell(n.report())
}

// reportOf gets a peer's report.
func (n *Node) reportOf(ctx context.Context, peer topology.Node) (report, error) {
	if peer.ID == n.self.ID {
		return n.report(), nil
	}
	return n.askReport(ctx, peer.ID, "status")
}

// askReport makes a call that is answered with a report.
func (n *Node) askReport(ctx context.Context, peer topology.NodeID, name string) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	r, err := askOne[report](ctx, n, peer, name, struct{}{})
	if err == nil && r.ID != peer {
		err = fmt.Errorf("node %s answers as %s", peer, r.ID)
	}
	return r, err
}

// reports keeps the last report of each node, so that the counts of one that died stay.
type reports struct {
	mu   sync.Mutex
	last map[topology.NodeID]report
}

// gather asks all nodes of the roster at once.
func (n *Node) gather(ctx context.Context, roster []topology.Node) map[topology.NodeID]report {
	var group sync.WaitGroup
	for _, peer := range roster {
		group.Go(func() { // ended by reportTimeout
			r, err := n.reportOf(ctx, peer)
			if err != nil {
				n.log.Debug("node does not report", "peer", peer.ID, "err", err)
				return
			}
			n.reports.mu.Lock()
			defer n.reports.mu.Unlock()
			if n.reports.last == nil {
				n.reports.last = make(map[topology.NodeID]report)
			}
			n.reports.last[peer.ID] = r
		})
	}
	group.Wait()
	n.reports.mu.Lock()
	defer n.reports.mu.Unlock()
	return maps.Clone(n.reports.last)
}

// Status is the state of the whole cluster as this node sees it. A node that does not answer
// within a second is shown as it last did.
func (n *Node) Status(ctx context.Context) (api.Status, error) {
	s := n.consensus.State()
	all := n.gather(ctx, s.Roster)
	st := api.Status{
		Cluster: n.mux.ClusterID(), Epoch: s.Epoch, Term: s.Term, Quorum: n.consensus.Quorum(),
		Leader: string(s.Leader), Voters: []string{}, Elections: []api.Election{},
		Nodes: n.nodes(s, all), Edges: edges(s, all), Pipelines: []api.Pipeline{},
	}
	for _, v := range s.Voters {
		st.Voters = append(st.Voters, string(v))
	}
	for _, e := range s.Recent {
		st.Elections = append(st.Elections, api.Election{Term: e.Term, Leader: string(e.Leader), CommittedMS: e.CommittedMS})
	}
	for _, p := range s.Pipelines {
		st.Pipelines = append(st.Pipelines, progress(s, p, all))
	}
	return st, ctx.Err()
}

// nodes lists the roster, and members that gossip knows besides.
func (n *Node) nodes(s *consensus.State, all map[topology.NodeID]report) []api.Node {
	members := make(map[topology.NodeID]gossip.Member)
	for _, m := range n.gossip.Members() {
		members[m.ID] = m
	}
	ids := make(map[topology.NodeID]topology.Node)
	for id, m := range members {
		ids[id] = topology.Node{ID: id, Addr: m.Addr, Roles: m.Roles, Tags: m.Tags}
	}
	for _, node := range s.Roster {
		ids[node.ID] = node
	}
	nodes := make([]api.Node, 0, len(ids))
	for id, node := range ids {
		out := api.Node{
			ID: string(id), Addr: node.Addr, Roles: append([]string{}, node.Roles...), Tags: node.Tags, State: "alive",
			Voter: s.Votes(id), Leader: s.Leader == id,
			PID: all[id].PID, RSSBytes: all[id].RSS, HeldBytes: all[id].Held, MemoryBytes: all[id].Memory,
		}
		if m, ok := members[id]; ok && id != n.self.ID {
			out.State = string(m.State)
		}
		if all[id].Draining && out.State == "alive" {
			out.State = "draining"
		}
		nodes = append(nodes, out)
	}
	slices.SortFunc(nodes, func(a, b api.Node) int { return strings.Compare(a.ID, b.ID) })
	return nodes
}

// edges sums the nodes' edges, in the order of the graphs.
func edges(s *consensus.State, all map[topology.NodeID]report) []api.Edge {
	sums := []api.Edge{}
	for _, p := range s.Pipelines {
		for _, edge := range p.Whole().Graph.Edges {
			sum := api.Edge{Pipeline: p.Name, From: edge.Source(), To: edge.To}
			var latency [stream.LatencyBuckets]uint64
			for id, r := range all {
				_, there := s.Node(id)
				for _, role := range r.Roles {
					for _, e := range role.Edges {
						if e.Pipeline == sum.Pipeline && e.From == sum.From && e.To == sum.To {
							addEdge(&sum, &latency, e, there)
						}
					}
				}
			}
			sum.P99US = int64(stream.Quantile(&latency, 0.99))
			sums = append(sums, sum)
		}
	}
	return sums
}

// addEdge adds a node's part of an edge; of a node that has gone, only its totals.
func addEdge(sum *api.Edge, latency *[stream.LatencyBuckets]uint64, e edgeReport, there bool) {
	if there {
		sum.Links += e.Links
		sum.InflightRecords += e.InflightRecords
		sum.CreditUsed += e.CreditUsed
		sum.CreditLimit += e.CreditLimit
		sum.SuspectRecords += e.SuspectRecords
		sum.RetryRecords += e.RetryRecords
	}
	sum.RecordsTotal += e.RecordsTotal
	sum.DeliveriesTotal += e.DeliveriesTotal
	sum.RedeliveredTotal += e.RedeliveredTotal
	if first := e.FirstRedeliveredMS; first > 0 && (sum.FirstRedeliveredMS == 0 || first < sum.FirstRedeliveredMS) {
		sum.FirstRedeliveredMS = first
	}
	for i, n := range e.Latency {
		if i >= 0 && i < len(latency) {
			latency[i] += n
		}
	}
}

// progress says how far a pipeline is.
func progress(s *consensus.State, p consensus.Pipeline, all map[topology.NodeID]report) api.Pipeline {
	out := api.Pipeline{
		Name: p.Name, Version: p.Version, Graph: p.Graph.String(), Roles: p.Graph.Roles(), State: "running", Paused: paused(p), Ending: ending(p),
		Taps: partitions(p, all),
	}
	taps, undone := make(map[string]bool), slices.ContainsFunc(out.Taps, func(t api.Tap) bool { return !t.Done })
	waits := stranded(s, p)
	for _, id := range slices.Sorted(maps.Keys(all)) {
		for role, n := range all[id].Dead {
			if pipeline, name, _ := strings.Cut(role, "/"); pipeline == p.Name {
				out.Dead = append(out.Dead, api.DeadLetters{Role: name, Letters: n})
			}
		}
		for _, r := range all[id].Roles {
			if r.Pipeline == p.Name && r.Stuck > 0 {
				waits = append(waits, fmt.Sprintf("role %s on %s: %d handlers hang, past their deadline", r.Role, id, r.Stuck))
			}
			if r.Pipeline == p.Name && r.Buries != "" {
				waits = append(waits, fmt.Sprintf("role %s on %s: %s", r.Role, id, r.Buries))
			}
			switch role, known := p.Role(r.Role); {
			case r.Pipeline != p.Name, !known:
			case r.Tap:
				taps[r.Role] = true
				if _, there := s.Node(id); there && !r.Done { // it may know of more; of one that is gone, its partitions say all
					undone = true
				}
				out.RecordsIn += r.Records
				out.LinesIn += r.Lines
			case role.Kind == topology.KindSink:
				out.RecordsOut += r.Records
				out.LinesOut += r.Lines
				out.Duplicates += r.Dups
				out.Nondeterministic += r.Others
			}
			if r.Waits != "" && r.Pipeline == p.Name {
				waits = append(waits, fmt.Sprintf("role %s on %s tries again: %s", r.Role, id, r.Waits))
			}
		}
	}
	out.Dead = sumDead(out.Dead)
	switch lacking, idle := unserved(s, p.Pipeline), idlers(p, all); {
	case p.Failed != nil:
		out.State, out.Reason, out.ExitCode = "failed", p.Failed.Reason, p.Failed.ExitCode
	case len(taps) > 0 && len(taps) == tapRoles(p.Pipeline) && !undone:
		out.State = "finished"
	case len(out.Paused) > 0:
		out.State = "paused"
		out.Reason = "weir resume " + strings.Join(out.Paused, ", weir resume ")
	case len(lacking) > 0:
		out.State = "waiting"
		out.Reason = "no node serves " + strings.Join(lacking, ", ")
	case len(idle) > 0:
		out.State = "waiting"
		out.Reason = strings.Join(idle, "; ")
	case len(waits) > 0:
		out.State = "waiting"
		out.Reason = strings.Join(waits, "; ")
	}
	return out
}

// sumDead adds up what nodes keep of the same role, sorted.
func sumDead(parts []api.DeadLetters) (sums []api.DeadLetters) {
	slices.SortFunc(parts, func(a, b api.DeadLetters) int { return strings.Compare(a.Role, b.Role) })
	for _, part := range parts {
		if n := len(sums); n > 0 && sums[n-1].Role == part.Role {
			sums[n-1].Letters += part.Letters
		} else {
			sums = append(sums, part)
		}
	}
	return sums
}

// idlers lists the roles of a pipeline that nodes serve and none runs, with what each node says.
func idlers(p consensus.Pipeline, all map[topology.NodeID]report) (why []string) {
	for _, role := range p.Roles {
		runs := false
		var here []string
		for _, id := range slices.Sorted(maps.Keys(all)) {
			runs = runs || slices.ContainsFunc(all[id].Roles, func(r roleReport) bool { return r.Pipeline == p.Name && r.Role == role.Name })
			if text, idle := all[id].Idle[p.Name+"/"+role.Name]; idle {
				here = append(here, fmt.Sprintf("role %s does not run on %s: %s", role.Name, id, text))
			}
		}
		if !runs {
			why = append(why, here...)
		}
	}
	return why
}

// paused lists what was paused, as resume takes it.
func paused(p consensus.Pipeline) (names []string) {
	if p.Paused {
		names = append(names, p.Name)
	}
	for _, role := range p.PausedRoles {
		names = append(names, p.Name+"/"+role)
	}
	return names
}

// ending lists what earlier versions had, until nothing is in flight there.
func ending(p consensus.Pipeline) (parts []string) {
	for _, r := range p.Leaving.Roles {
		parts = append(parts, "role "+r.Name)
	}
	for _, e := range p.Leaving.Edges {
		parts = append(parts, "edge "+e.String())
	}
	return parts
}

// unserved lists the roles of a pipeline that no node of the roster serves, each with what it
// needs where nodes name the role and have not that.
func unserved(s *consensus.State, p topology.Pipeline) (roles []string) {
	for _, r := range p.Roles {
		if r.Put {
			continue // any node is asked
		}
		named := slices.ContainsFunc(s.Roster, func(n topology.Node) bool { return n.Serves(p.Name, r.Name) })
		switch {
		case slices.ContainsFunc(s.Roster, func(n topology.Node) bool { return p.ServedBy(n, r.Name) }):
		case named:
			roles = append(roles, fmt.Sprintf("role %s with --tag %s", r.Name, strings.Join(r.Needs, " --tag ")))
		default:
			roles = append(roles, "role "+r.Name)
		}
	}
	return roles
}

func tapRoles(p topology.Pipeline) (n int) {
	for _, r := range p.Roles {
		if r.Kind == topology.KindTap {
			n++
		}
	}
	return n
}
