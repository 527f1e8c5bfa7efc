package consensus

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weir/topology"
)

// Pure: what the log holds, and how an entry changes it.

const (
	stateVersion   = 1
	commandVersion = 1

	// rosterMax is how many nodes a cluster holds; FAULTS limits table, members.
	rosterMax = 4096
	// pipelinesMax is how many pipelines a cluster holds: with entryBytesMax it bounds a state.
	pipelinesMax = 64
	// departedKept is how many nodes that left are remembered: more than leave between two looks
	// of an orchestrator.
	departedKept = 256
	// electionsKept is how many elections a node remembers to show.
	electionsKept = 64
)

// State is what the log holds after one of its entries. It is immutable once published.
type State struct {
	Version int    `json:"version"`
	Index   uint64 `json:"index"`  // of the last entry applied
	Epoch   uint64 `json:"epoch"`  // rises when roster or graphs change, and with nothing else
	LogID   uint64 `json:"log_id"` // names the log; 0 = none yet

	Leader    topology.NodeID `json:"leader"` // of Term; it may have died since
	Term      uint64          `json:"term"`
	Elections uint64          `json:"elections"` // how many leaders there were

	Pipelines []Pipeline        `json:"pipelines"` // sorted by name
	Roster    []topology.Node   `json:"roster"`    // sorted by id
	Voters    []topology.NodeID `json:"voters"`    // sorted

	// Departed are the last nodes that said they leave, oldest first: not admitted again in the
	// same boot, whatever gossip says of them while they go.
	Departed []Departure `json:"departed,omitempty"`

	// Servers are the raft servers behind Voters, and ConfigIndex the entry that listed them.
	Servers     []Server `json:"servers"`
	ConfigIndex uint64   `json:"config_index"`

	// Recent are the last elections, oldest first, not part of the log.
	Recent []Election `json:"-"`
}

// Departure is a boot of a node that left.
type Departure struct {
	ID   topology.NodeID `json:"id"`
	Boot uint64          `json:"boot"`
}

// Server is a node with a vote: node id, slash, the random id of its log store, so that a vote
// store that was lost never votes again under its old name.
type Server string

// Node is the node whose vote it is.
func (s Server) Node() topology.NodeID {
	id, _, _ := strings.Cut(string(s), "/")
	return topology.NodeID(id)
}

// Election is a change of leader, as the voter applied it that this node has it from.
type Election struct {
	Term        uint64          `json:"term"`
	Leader      topology.NodeID `json:"leader"`
	CommittedMS int64           `json:"committed_ms"` // when its first entry was applied, Unix milliseconds
}

// Node returns the node of the roster with that id.
func (s *State) Node(id topology.NodeID) (topology.Node, bool) {
	i, ok := slices.BinarySearchFunc(s.Roster, id, compareNode)
	if !ok {
		return topology.Node{}, false
	}
	return s.Roster[i], true
}

// Pipeline returns the pipeline of that name.
func (s *State) Pipeline(name string) (Pipeline, bool) {
	i, ok := slices.BinarySearchFunc(s.Pipelines, name, comparePipeline)
	if !ok {
		return Pipeline{}, false
	}
	return s.Pipelines[i], true
}

// server returns the raft server by which a node votes.
func (s *State) server(id topology.NodeID) (Server, bool) {
	i := slices.IndexFunc(s.Servers, func(x Server) bool { return x.Node() == id })
	if i < 0 {
		return "", false
	}
	return s.Servers[i], true
}

// Votes reports whether the node is a voter.
func (s *State) Votes(id topology.NodeID) bool { return slices.Contains(s.Voters, id) }

// HasLeft reports whether the node left in that boot or a later one.
func (s *State) HasLeft(id topology.NodeID, boot uint64) bool {
	return slices.ContainsFunc(s.Departed, func(d Departure) bool { return d.ID == id && d.Boot >= boot })
}

// Command is what can be proposed: make one with Admit, Evict, Create, Apply, Settle, Pause, Fail,
// Open, Claims, Begin, Marks or Reset.
type Command struct {
	Version  int                `json:"version"`
	Kind     commandKind        `json:"kind"`
	Nodes    []topology.Node    `json:"nodes,omitempty"`    // admit
	IDs      []topology.NodeID  `json:"ids,omitempty"`      // evict; leader: one
	Left     bool               `json:"left,omitempty"`     // evict
	Pipeline *topology.Pipeline `json:"pipeline,omitempty"` // create, apply
	At       uint64             `json:"at,omitempty"`       // apply, settle: the pipeline's version; pause: the State's index
	Name     string             `json:"name,omitempty"`     // fail, settle, pause, open, claim, begin, reset
	Role     string             `json:"role,omitempty"`     // pause; "" = the whole pipeline
	Paused   bool               `json:"paused,omitempty"`   // pause; false: go on
	Failure  *Failure           `json:"failure,omitempty"`  // fail
	Opening  *Opening           `json:"opening,omitempty"`  // open
	Claims   []Claim            `json:"claims,omitempty"`   // claim; begin, reset: one
	Marks    []Mark             `json:"marks,omitempty"`    // marks
	Gen      uint64             `json:"gen,omitempty"`      // reset
	LogID    uint64             `json:"log_id,omitempty"`   // leader: the name of a log that has none
}

type commandKind string

const (
	kindLeader commandKind = "leader"
	kindAdmit  commandKind = "admit"
	kindEvict  commandKind = "evict"
	kindCreate commandKind = "create"
	kindApply  commandKind = "apply"
	kindSettle commandKind = "settle"
	kindPause  commandKind = "pause"
	kindFail   commandKind = "fail"
	kindOpen   commandKind = "open"
	kindClaim  commandKind = "claim"
	kindBegin  commandKind = "begin"
	kindMarks  commandKind = "marks"
	kindReset  commandKind = "reset"
)

// Admit takes nodes into the roster, or changes them there. A node of an older boot, or of one
// that left, is ignored.
func Admit(nodes ...topology.Node) Command {
	return Command{Version: commandVersion, Kind: kindAdmit, Nodes: nodes}
}

// Evict takes nodes out of the roster; left says that they went by themselves.
func Evict(left bool, ids ...topology.NodeID) Command {
	return Command{Version: commandVersion, Kind: kindEvict, IDs: ids, Left: left}
}

// Create makes a pipeline, unless the cluster has one of that name: then it changes nothing.
func Create(p topology.Pipeline) Command {
	return Command{Version: commandVersion, Kind: kindCreate, Pipeline: &p}
}

// Apply makes a pipeline, or changes the one of that name, if its version still is the one it was
// planned against; 0: there was none.
func Apply(p topology.Pipeline, at uint64) Command {
	return Command{Version: commandVersion, Kind: kindApply, Pipeline: &p, At: at}
}

// Settle ends what is leaving a version of a pipeline: nothing is in flight there.
func Settle(name string, at uint64) Command {
	return Command{Version: commandVersion, Kind: kindSettle, Name: name, At: at}
}

// Pause stops a role's reading or taking, or lets it go on; role "" is the whole pipeline, whose
// taps then read nothing. at is the State's index as it was asked for: a late call, whose caller has
// asked elsewhere and then for the opposite, changes nothing.
func Pause(name, role string, paused bool, at uint64) Command {
	return Command{Version: commandVersion, Kind: kindPause, Name: name, Role: role, Paused: paused, At: at}
}

// Fail stops a pipeline for good; the first reason stays.
func Fail(name, reason string, exitCode int) Command {
	return Command{Version: commandVersion, Kind: kindFail, Name: name, Failure: &Failure{reason, exitCode}}
}

// leader is the first entry of every new leader.
func leader(id topology.NodeID, logID uint64) Command {
	return Command{Version: commandVersion, Kind: kindLeader, IDs: []topology.NodeID{id}, LogID: logID}
}

// entry is one entry of the log that counts for the state: a command, or the servers that vote.
type entry struct {
	Index   uint64          `json:"index"`
	Term    uint64          `json:"term"`
	Command json.RawMessage `json:"command,omitempty"`
	Servers []Server        `json:"servers,omitempty"`

	// Marks are what a voter adds to a claim for those who watch it, who are not sent those of
	// the command marks.
	Marks []Mark `json:"marks,omitempty"`

	quiet bool // apply found nothing but marks: it wakes nobody, and watchers need not have it
}

// errCannotApply says that going on would make this node's state another than the others'.
var errCannotApply = errors.New("this node cannot apply an entry of the log, run a newer program")

// apply returns the state after e, and notes in e what watchers need to know of it. A refused
// command leaves all but the index as it was; err stops the node.
func (s *State) apply(e *entry) (next *State, refused, err error) {
	n := *s
	n.Version, n.Index = stateVersion, e.Index
	if e.Command == nil {
		n.setServers(e)
		return &n, nil, nil
	}
	var c Command
	if err := json.Unmarshal(e.Command, &c); err != nil {
		return nil, nil, fmt.Errorf("entry %d: %w: %v", e.Index, errCannotApply, err)
	}
	if c.Version != commandVersion {
		return nil, nil, fmt.Errorf("entry %d: %w: its version is %d", e.Index, errCannotApply, c.Version)
	}
	switch c.Kind {
	case kindLeader:
		n.setLeader(e.Term, c)
	case kindAdmit:
		refused = n.admit(c.Nodes)
	case kindEvict:
		n.evict(c.IDs, c.Left)
	case kindCreate:
		refused = n.create(c.Pipeline)
	case kindApply:
		refused = n.revise(c.Pipeline, c.At)
	case kindSettle:
		n.settle(c.Name, c.At)
	case kindPause:
		refused = n.pause(c.Name, c.Role, c.Paused, c.At)
	case kindFail:
		refused = n.fail(c.Name, c.Failure)
	case kindOpen:
		refused = n.open(c.Name, c.Opening)
	case kindClaim:
		if refused = n.claim(c.Name, c.Claims); refused == nil {
			n.mark(e.Marks)
			e.Marks = n.marksOf(c.Name, c.Claims)
		}
	case kindBegin:
		refused = n.begin(c.Name, c.Claims)
	case kindMarks:
		e.quiet = !n.mark(c.Marks)
	case kindReset:
		refused = n.reset(c.Name, c.Claims, c.Gen)
	default:
		return nil, nil, fmt.Errorf("entry %d: %w: its kind is %q", e.Index, errCannotApply, c.Kind)
	}
	return &n, refused, nil
}

func (s *State) setServers(e *entry) {
	s.Servers, s.ConfigIndex, s.Voters = e.Servers, e.Index, nil
	for _, server := range e.Servers {
		s.Voters = append(s.Voters, server.Node())
	}
	slices.Sort(s.Voters)
}

func (s *State) setLeader(term uint64, c Command) {
	if s.LogID == 0 {
		s.LogID = c.LogID
	}
	if len(c.IDs) != 1 || term <= s.Term {
		return // its second try
	}
	s.Leader, s.Term = c.IDs[0], term
	s.Elections++
}

func (s *State) admit(nodes []topology.Node) error {
	roster := slices.Clone(s.Roster)
	changed := false
	for _, n := range nodes {
		i, known := slices.BinarySearchFunc(roster, n.ID, compareNode)
		switch {
		case s.HasLeft(n.ID, n.Boot):
			continue
		case !known && len(roster) >= rosterMax:
			return fmt.Errorf("admit %s: the cluster has %d nodes, the most it holds", n.ID, rosterMax)
		case !known:
			roster = slices.Insert(roster, i, n)
		case n.Boot < roster[i].Boot || sameNode(n, roster[i]):
			continue
		default:
			roster[i] = n
		}
		changed = true
	}
	if changed {
		s.Roster = roster
		s.Epoch++
	}
	return nil
}

func (s *State) evict(ids []topology.NodeID, left bool) {
	var roster []topology.Node
	departed := slices.Clone(s.Departed)
	for _, n := range s.Roster {
		if !slices.Contains(ids, n.ID) {
			roster = append(roster, n)
		} else if left {
			departed = append(departed, Departure{n.ID, n.Boot})
		}
	}
	if len(roster) == len(s.Roster) {
		return
	}
	s.Roster, s.Departed = roster, departed[max(0, len(departed)-departedKept):]
	s.Epoch++
}

func compareNode(n topology.Node, id topology.NodeID) int {
	return strings.Compare(string(n.ID), string(id))
}

func sameNode(a, b topology.Node) bool {
	return a.ID == b.ID && a.Boot == b.Boot && a.Addr == b.Addr && slices.Equal(a.Roles, b.Roles) && slices.Equal(a.Tags, b.Tags)
}
