package node

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/zeebo/xxh3"

	"weir/consensus"
	"weir/stream"
	"weir/topology"
)

// Hooks let the simulator watch a node, and break it on purpose to see whether its checks
// notice. No flag and no file reaches them; nil in production. All funcs must be set, and
// return at once.
type Hooks struct {
	stream.Hooks
	NoSync  bool              // the data dir need not survive the machine: a restart is a new Node on the same directory
	Elected func(term uint64) // the node leads in that term
	State   func(StateSeen)   // the node holds this for agreed
	Layout  func(epoch uint64, links []topology.Link)
	Letter  func(stream.Letter) // a dead letter of a role of this node is kept
}

// StateSeen is a State in brief.
type StateSeen struct {
	Index, Epoch, LogID, Term uint64
	Leader                    topology.NodeID
	Voters                    []topology.NodeID
	Hash                      uint64 // of all of it
}

// The bugs of this package and those below it.
const (
	BugDeaf       stream.Bug = "heartbeat that never fires"
	BugTwoLeaders stream.Bug = "two leaders"
	BugEpochGen   stream.Bug = "epoch for generation" // a source's numbering is named by its graph's version
)

func (h *Hooks) state(s *consensus.State) {
	if h == nil {
		return
	}
	b, err := json.Marshal(s.Agreed())
	if err != nil {
		panic(fmt.Sprintf("node: encode state: %v", err)) // it came as JSON
	}
	h.State(StateSeen{s.Index, s.Epoch, s.LogID, s.Term, s.Leader, s.Voters, xxh3.Hash(b)})
}

func (h *Hooks) layout(epoch uint64, l topology.Layout) {
	if h != nil {
		h.Layout(epoch, l.Links)
	}
}

func (h *Hooks) letter(l stream.Letter) {
	if h != nil {
		h.Letter(l)
	}
}

// sometimes tells that a rare branch was taken.
func (h *Hooks) sometimes(branch string) {
	if h != nil {
		h.Reached(branch)
	}
}

// deaf waits for the end of ctx where heartbeats are planted never to fire.
func (h *Hooks) deaf(ctx context.Context) {
	if h != nil && h.Bug == BugDeaf {
		<-ctx.Done()
	}
}

func (h *Hooks) noSync() bool { return h != nil && h.NoSync }

func (h *Hooks) ofStream() *stream.Hooks {
	if h == nil {
		return nil
	}
	return &h.Hooks
}

func (h *Hooks) ofConsensus() *consensus.Hooks {
	if h == nil {
		return nil
	}
	return &consensus.Hooks{Elected: h.Elected, Reached: h.Reached, ForgetVotes: h.Bug == BugTwoLeaders}
}

// ofMux is whom the mux tells of rare branches.
func (h *Hooks) ofMux() func(branch string) {
	if h == nil {
		return nil
	}
	return h.Reached
}

// generation names one life of a source's numbering.
func (n *Node) generation(p consensus.Pipeline) uint64 {
	if h := n.cfg.Hooks; h != nil && h.Bug == BugEpochGen {
		return p.Version
	}
	return newGeneration()
}
