package consensus

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"weir/topology"
)

// Pure: who reads which partition of a tap, and how far it is acked.

const (
	// claimsMax is how many partitions the taps of a cluster may have, ever: 64 roles of as many.
	claimsMax = 4096
	// claimNamesMax bounds the names of partitions, and positionsMax the places in them, in bytes:
	// with both, as base64, a State still fits a frame.
	claimNamesMax = 2 << 20
	positionsMax  = 4 << 20
	// MarksMax is how many marks one command carries: with positions of 4 KiB, and names as long as
	// a path can be (limits.h), they fit an entry.
	MarksMax = 64
)

// Claim is a partition of a tap, and who reads it. The watchers of the log know Next and Position
// as they were when the claim was given.
type Claim struct {
	Role      string `json:"role"`
	Partition string `json:"partition"`        // with the node's name where only that node sees it
	Shared    bool   `json:"shared,omitempty"` // all nodes of the role see it: the leader says who reads

	Number uint64          `json:"number"`           // the index of the entry that gave it: it rises with each holder
	Before uint64          `json:"before,omitempty"` // the number of the claim before; 0: nobody has read here
	Holder topology.NodeID `json:"holder,omitempty"` // "" = nobody yet
	Boot   uint64          `json:"boot,omitempty"`

	Gen      uint64 `json:"gen"`                // of the numbering
	Next     uint64 `json:"next,omitempty"`     // all below is acked, without a gap
	Position []byte `json:"position,omitempty"` // where the tap goes on with Next; Next 0: behind the first record, by which its input is known
	Done     bool   `json:"done,omitempty"`     // read to its end, and all of it acked

	// All is only in a command: it names all partitions of the role, and does nothing where the
	// role has others already.
	All bool `json:"all,omitempty"`
}

// Mark is how far a claim's holder is.
type Mark struct {
	Pipeline  string `json:"pipeline"`
	Role      string `json:"role"`
	Partition string `json:"partition"`
	Claim     uint64 `json:"claim"`
	Gen       uint64 `json:"gen"`
	Next      uint64 `json:"next"`
	Position  []byte `json:"position,omitempty"`
	Done      bool   `json:"done,omitempty"`
}

// Claim returns the claim on a partition.
func (p Pipeline) Claim(role, partition string) (Claim, bool) {
	i, ok := p.findClaim(role, partition)
	if !ok {
		return Claim{}, false
	}
	return p.Claims[i], true
}

// Partitions returns the names of all that were claimed of a role.
func (p Pipeline) Partitions(role string) []string {
	var names []string
	for _, c := range p.Claims {
		if c.Role == role {
			names = append(names, c.Partition)
		}
	}
	return names
}

func (p Pipeline) findClaim(role, partition string) (int, bool) {
	return slices.BinarySearchFunc(p.Claims, Claim{Role: role, Partition: partition}, func(a, b Claim) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), cmp.Compare(a.Partition, b.Partition))
	})
}

// Claims gives partitions of a pipeline's taps to their Holders, each if its Number still is that of
// the claim before; 0: there was none, then Gen and Shared count too. Those that are not so any more
// stay as they are. A node claims what only it sees, the leader gives the others out; who sees one of
// these says so by a claim without a holder.
func Claims(pipeline string, cs ...Claim) Command {
	return Command{Version: commandVersion, Kind: kindClaim, Name: pipeline, Claims: cs}
}

// Begin says by its Position, behind the first record, what a claim's generation is of. It must be in the log
// before any record of that generation is sent.
func Begin(pipeline string, c Claim) Command {
	return Command{Version: commandVersion, Kind: kindBegin, Name: pipeline, Claims: []Claim{c}}
}

// Marks says how far some partitions are acked. A mark counts if its claim and generation are the
// newest, and if it is higher; a Done counts with the first two.
func Marks(ms ...Mark) Command {
	return Command{Version: commandVersion, Kind: kindMarks, Marks: ms}
}

// Reset has a partition read from its start under the same claim, as another generation.
func Reset(pipeline string, c Claim, gen uint64) Command {
	return Command{Version: commandVersion, Kind: kindReset, Name: pipeline, Claims: []Claim{c}, Gen: gen}
}

// claim carries out Claims.
func (s *State) claim(name string, cs []Claim) error {
	i, known := slices.BinarySearchFunc(s.Pipelines, name, comparePipeline)
	if !known || s.Pipelines[i].Failed != nil {
		return fmt.Errorf("claim partitions of pipeline %s: the cluster runs none of that name", name)
	}
	p := s.Pipelines[i]
	p.Claims = slices.Clone(p.Claims)
	for _, c := range cs {
		if r, ok := p.Whole().Role(c.Role); !ok || r.Kind != topology.KindTap {
			return fmt.Errorf("claim %s: pipeline %s has no tap %s", c.Partition, name, c.Role)
		}
		k, there := p.findClaim(c.Role, c.Partition)
		switch {
		case there && (p.Claims[k].Number != c.Number || c.Holder == ""):
			continue
		case there:
			old := &p.Claims[k]
			if old.Holder != "" {
				old.Before = old.Number
			}
			old.Number, old.Holder, old.Boot = s.Index, c.Holder, c.Boot
		case c.Number != 0:
			continue // its pipeline failed, and began again
		case c.All && slices.ContainsFunc(p.Claims, func(o Claim) bool { return o.Role == c.Role && !names(cs, o) }):
			continue // another node saw others, and was first
		default:
			if err := s.roomFor(p, c); err != nil {
				return err
			}
			c = Claim{Role: c.Role, Partition: c.Partition, Shared: c.Shared, Number: s.Index, Holder: c.Holder, Boot: c.Boot, Gen: c.Gen}
			p.Claims = slices.Insert(p.Claims, k, c)
		}
	}
	s.Pipelines = slices.Clone(s.Pipelines)
	s.Pipelines[i] = p
	return nil
}

// names reports whether one of cs is of the same partition as c.
func names(cs []Claim, c Claim) bool {
	return slices.ContainsFunc(cs, func(o Claim) bool { return o.Role == c.Role && o.Partition == c.Partition })
}

// roomFor is why the State has no room for one more partition; p is as it will be in it.
func (s *State) roomFor(p Pipeline, c Claim) error {
	n, names := 1, len(c.Role)+len(c.Partition)
	count := func(cs []Claim) {
		n += len(cs)
		for _, c := range cs {
			names += len(c.Role) + len(c.Partition)
		}
	}
	count(p.Claims)
	for _, other := range s.Pipelines {
		if other.Name != p.Name {
			count(other.Claims)
		}
	}
	switch {
	case n > claimsMax:
		return fmt.Errorf("claim %s: the taps of the cluster have %d partitions, the most that are remembered", c.Partition, claimsMax)
	case names > claimNamesMax:
		return fmt.Errorf("claim %s: the names of all partitions hold more than %d bytes", c.Partition, claimNamesMax)
	}
	return nil
}

// begin carries out Begin. Where there is no room for the position, the generation goes on without.
func (s *State) begin(name string, cs []Claim) error {
	if len(cs) != 1 {
		return errors.New("begin a partition: none is named")
	}
	room := s.roomForPositions()
	c := s.claimFor(name, cs[0].Role, cs[0].Partition, cs[0].Number, cs[0].Gen)
	if c == nil {
		return fmt.Errorf("begin %s: it has another claim or generation by now", cs[0].Partition)
	}
	if c.Next == 0 && len(c.Position) == 0 && len(cs[0].Position) <= room {
		c.Position = cs[0].Position
	}
	return nil
}

// reset carries out Reset.
func (s *State) reset(name string, cs []Claim, gen uint64) error {
	if len(cs) != 1 {
		return errors.New("reset a partition: none is named")
	}
	c := s.claimFor(name, cs[0].Role, cs[0].Partition, cs[0].Number, cs[0].Gen)
	if c == nil {
		return fmt.Errorf("reset %s: it has another claim or generation by now", cs[0].Partition)
	}
	c.Gen, c.Next, c.Position, c.Done = gen, 0, nil, false
	return nil
}

// mark carries out Marks, and reports whether more than how far partitions are has changed.
func (s *State) mark(ms []Mark) (loud bool) {
	room := s.roomForPositions()
	for _, m := range ms {
		c := s.claimFor(m.Pipeline, m.Role, m.Partition, m.Claim, m.Gen)
		if c == nil {
			continue
		}
		if grows := len(m.Position) - len(c.Position); m.Next > c.Next && grows <= room {
			c.Next, c.Position = m.Next, m.Position
			room -= grows
		}
		loud = loud || m.Done
		c.Done = c.Done || m.Done
	}
	return loud
}

// roomForPositions is how many bytes of positions there is room for.
func (s *State) roomForPositions() int {
	room := positionsMax
	for _, p := range s.Pipelines {
		for _, c := range p.Claims {
			room -= len(c.Position)
		}
	}
	return room
}

// claimFor returns a claim to be changed, nil if its number and generation are not those. The
// slices on the way to it are copies: the State before shares nothing with it that will change.
func (s *State) claimFor(pipeline, role, partition string, number, gen uint64) *Claim {
	i, known := slices.BinarySearchFunc(s.Pipelines, pipeline, comparePipeline)
	if !known {
		return nil
	}
	k, there := s.Pipelines[i].findClaim(role, partition)
	if !there || s.Pipelines[i].Claims[k].Number != number || s.Pipelines[i].Claims[k].Gen != gen {
		return nil
	}
	s.Pipelines = slices.Clone(s.Pipelines)
	s.Pipelines[i].Claims = slices.Clone(s.Pipelines[i].Claims)
	return &s.Pipelines[i].Claims[k]
}

// marksOf returns the marks of the partitions that cs names, for those who have not seen the
// commands that made them.
func (s *State) marksOf(name string, cs []Claim) (ms []Mark) {
	p, _ := s.Pipeline(name)
	for _, c := range cs {
		if c, ok := p.Claim(c.Role, c.Partition); ok && c.Next > 0 {
			ms = append(ms, Mark{name, c.Role, c.Partition, c.Number, c.Gen, c.Next, c.Position, c.Done})
		}
	}
	return ms
}

// claimsOf is which claims stay when a pipeline is p: those of its taps.
func claimsOf(p topology.Pipeline, cs []Claim) []Claim {
	return slices.DeleteFunc(slices.Clone(cs), func(c Claim) bool {
		r, stays := p.Role(c.Role)
		return !stays || r.Kind != topology.KindTap
	})
}

// Agreed is what all nodes know of the State at its index: without how far claims are, which
// watchers are not told.
func (s *State) Agreed() *State {
	n := *s
	n.Pipelines = slices.Clone(s.Pipelines)
	for i := range n.Pipelines {
		cs := slices.Clone(n.Pipelines[i].Claims)
		for k := range cs {
			cs[k].Next, cs[k].Position = 0, nil
		}
		n.Pipelines[i].Claims = cs
	}
	return &n
}
