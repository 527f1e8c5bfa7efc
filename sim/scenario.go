package sim

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/node/spec"
	"weir/topology"
)

// This file is pure.

// Scenario is a cluster, its load, and what is done to them when. Its text has a statement a
// line; # begins a comment.
//
//	about a leader dies while the network is bad      what it shows, in a sentence
//	graph source -> work -> sink                      as in a pipeline file; this is the default
//	role  work nodes 4 capacity 8 takes 5ms fails 1%  what is left out is chosen
//	role  check tagged 2                              it needs a tag, which its first two nodes have
//	role  work poisons 0.1% hangs 0.1% kills 0.01%    records that no attempt handles: they need disks
//	role  work deadline 2s                            an attempt without progress ends so long after
//	role  work pairs 5%                               of which it makes two, in another order each time
//	role  source nodes 2 partitions 3                 each node reads three; shared 3: three in all; live 3: never again
//	nodes 12                                          in all; those without a role may vote
//	rate 1000                                         records a second, while the run is long
//	length 60s                                        after it nothing is read, all must be acked
//	size 16KiB                                        a record's bytes; some twenty if left out
//	disks                                             a node that comes back is who it was
//	memory 2MiB                                       that a node's windows may hold
//
//	at 30s kill leader for 10s                        for: undone after that time
//	every 5s from 20s until 50s restart random worker
//	at 40s partition work-1 sink-1 | rest for 20s     rest: all that no other group names
//	at 50s pause sink for 3s                          a role, as weir pause does; none: all taps
//	at 55s crash random sink for 3s                   a power cut: its disk loses what was not synced
//	at 50s replace source                             what it reads is another input when it starts again
//	at 55s full sink-1 for 3s                         its disk has no room
//	at 55s busy work for 3s                           its handlers, or sinks, say: later
//	loss 5%                                           no time: from start to end
//
// The names of nodes are role-1, role-2, ... and bare-1, ... for those without a role. Instead of
// a name a step takes a role, all, leader, follower, voter, worker (neither tap nor sink), tap,
// sink, bare, or random with one of these. freeze stops nodes, as SIGSTOP does; pause is what a user asks
// of the cluster: a role, tap, worker or sink for all roles of that kind, or nothing for the pipeline.
type Scenario struct {
	Name  string
	About string

	Graph  topology.Graph
	Roles  []Role // in the order of the graph
	Bare   int    // nodes without a role
	Rate   int    // records a second, of all taps together
	Length time.Duration
	Size   int // bytes of a record, filled up to; 0 = no more than it says
	Disks  bool
	Memory int // bytes that a node's windows may hold; 0 = the product's default

	steps []step // by time
}

// step is one thing done at one time.
type step struct {
	at    time.Duration
	lasts time.Duration // 0 = for good
	text  string        // as the timeline shows it
	line  int
	act   action
}

// Defaults of what a scenario leaves out.
const (
	// nodesDefault is the cluster that the issue of this package asks for.
	nodesDefault = 12
	// rateDefault is records a second: enough that each fault meets some hundred in flight.
	rateDefault = 1000
	// lengthDefault gives a cluster 15 s to form and two faults of 20 s to be seen and heal.
	lengthDefault = 60 * time.Second
	// takesDefault is the service time of a worker: that of a call over a network, and long
	// enough that most faults meet records in hand.
	takesDefault = 100 * time.Millisecond
	// bareDefault is how many nodes have no role: the voters.
	bareDefault = 3
)

// Limits of a scenario.
const (
	scenarioBytesMax = 64 << 10 // 1000 lines of 64 bytes
	nodesMax         = 1000     // measured: 1000 nodes need 1.3 GB (STACK 2)
	lengthMax        = 24 * time.Hour
	rateMax          = 100_000
	stepsMax         = 10_000    // with every `every` spelled out
	sizeMax          = 512 << 10 // bytes: a record may have 1 MiB (stream, recordBytesMax)
	memoryLeast      = 1 << 20   // bytes: less no node takes (node, memoryMin)
)

// ScenarioError is a mistake in the text of a scenario.
type ScenarioError struct {
	Name string
	Line int // 0 = the whole text
	Text string
}

func (e *ScenarioError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("scenario %s: %s", e.Name, e.Text)
	}
	return fmt.Sprintf("scenario %s, line %d: %s", e.Name, e.Line, e.Text)
}

// Shape is what replaces parts of a scenario's text; zero values leave them.
type Shape struct {
	Nodes int            // in all
	Graph topology.Graph // with Roles: of a pipeline file
	Roles []Role
}

// ParseScenario reads a scenario's text.
func ParseScenario(name, text string, shape Shape) (Scenario, error) {
	p := parser{s: Scenario{Name: name, Rate: rateDefault, Length: lengthDefault}, bare: -1, nodes: shape.Nodes}
	err := p.parse(text, shape)
	var at *ScenarioError
	if err != nil && !errors.As(err, &at) {
		err = &ScenarioError{name, p.line, err.Error()}
	}
	return p.s, err
}

// parser reads one text.
type parser struct {
	s     Scenario
	line  int // being read; 0: none
	nodes int
	bare  int // nodes without a role; -1: not said
	given map[string]Role
	late  []statement // steps: read when all names are known
}

type statement struct {
	line  int
	words []string
}

func (p *parser) parse(text string, shape Shape) error {
	if len(text) > scenarioBytesMax {
		return fmt.Errorf("the text has %d bytes, at most %d", len(text), scenarioBytesMax)
	}
	p.given = make(map[string]Role)
	for line := range strings.Lines(text) {
		p.line++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if err := p.statement(words, shape); err != nil {
			return err
		}
	}
	p.line = 0
	if err := p.cluster(shape); err != nil {
		return err
	}
	for _, st := range p.late {
		p.line = st.line
		if err := p.step(st.words); err != nil {
			return err
		}
	}
	p.line = 0
	slices.SortStableFunc(p.s.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return p.s.contradiction()
}

// statement reads what describes the cluster, and keeps steps for later.
func (p *parser) statement(words []string, shape Shape) (err error) {
	rest := strings.Join(words[1:], " ")
	switch words[0] {
	case "about":
		p.s.About = rest
	case "graph":
		if len(shape.Roles) == 0 {
			p.s.Graph, err = topology.Parse(rest)
		}
	case "role":
		if len(shape.Roles) == 0 {
			err = p.role(words[1:])
		}
	case "nodes":
		if n := 0; shape.Nodes == 0 {
			n, err = number(rest, 1, nodesMax)
			p.nodes = n
		}
	case "bare":
		p.bare, err = number(rest, 0, nodesMax)
	case "rate":
		p.s.Rate, err = number(rest, 1, rateMax)
	case "length":
		p.s.Length, err = duration(rest)
		if err == nil && p.s.Length > lengthMax {
			err = fmt.Errorf("length %s: at most %v", rest, lengthMax)
		}
	case "disks":
		if p.s.Disks = true; rest != "" {
			err = fmt.Errorf("disks: %q says nothing here", rest)
		}
	case "size":
		p.s.Size, err = bytesOf(rest)
		if err == nil && p.s.Size > sizeMax {
			err = fmt.Errorf("size %s: at most %dKiB", rest, sizeMax>>10)
		}
	case "memory":
		p.s.Memory, err = bytesOf(rest)
		if err == nil && p.s.Memory < memoryLeast {
			err = fmt.Errorf("memory %s: at least %dMiB", rest, memoryLeast>>20)
		}
	default:
		p.late = append(p.late, statement{p.line, words})
	}
	return err
}

// cluster decides which nodes there are.
func (p *parser) cluster(shape Shape) error {
	if len(shape.Roles) > 0 {
		p.s.Graph, p.s.Roles = shape.Graph, slices.Clone(shape.Roles)
	} else if err := p.roles(); err != nil {
		return err
	}
	fixed, open := 0, 0
	for _, r := range p.s.Roles {
		fixed += r.Nodes
		if r.Nodes == 0 {
			open++
		}
	}
	nodes := p.nodes
	switch {
	case nodes > 0:
	case open > 0:
		nodes = max(nodesDefault, fixed+open+max(p.bare, 0))
	case p.bare >= 0:
		nodes = fixed + p.bare
	default:
		nodes = fixed + bareDefault
	}
	if slices.ContainsFunc(p.s.Roles, func(r Role) bool { return r.Name == bareName }) {
		return fmt.Errorf("a role may not be called %s, as nodes without a role are", bareName)
	}
	left := nodes - fixed - open
	if left < max(p.bare, 0) {
		return fmt.Errorf("nodes %d: the graph needs at least %d", nodes, nodes-left+max(p.bare, 0))
	}
	p.s.Bare = p.bare
	if p.bare < 0 {
		p.s.Bare = min(bareDefault, left)
	}
	left -= p.s.Bare
	if open == 0 {
		p.s.Bare += left
	}
	for i := range p.s.Roles {
		if r := &p.s.Roles[i]; r.Nodes == 0 { // an equal part of what is left, the first the rest
			r.Nodes = 1 + (left+open-1)/open
			left -= r.Nodes - 1
			open--
		}
		if err := p.s.Roles[i].sound(p.s.Disks); err != nil {
			return err
		}
	}
	return nil
}

// roles takes the roles from the graph. A tap has one node and a sink two, unless the text says.
func (p *parser) roles() (err error) {
	if len(p.s.Graph.Edges) == 0 {
		p.s.Graph, _ = topology.Parse("source -> work -> sink") // it parses: tested
	}
	for _, name := range p.s.Graph.Roles() {
		r, ok := p.given[name]
		if !ok {
			r = Role{Name: name, Takes: -1}
		}
		delete(p.given, name)
		switch in, out := p.s.Graph.In(name), p.s.Graph.Out(name); {
		case len(in) == 0:
			r.Kind, r.Nodes = topology.KindTap, cmp.Or(r.Nodes, 1)
		case len(out) == 0:
			r.Kind, r.Nodes = topology.KindSink, cmp.Or(r.Nodes, 2)
		default:
			r.Kind = topology.KindGo
		}
		if r.Takes < 0 {
			r.Takes = 0
			if r.Kind == topology.KindGo {
				r.Takes = takesDefault
			}
		}
		p.s.Roles = append(p.s.Roles, r)
	}
	for name := range p.given {
		return fmt.Errorf("role %s is not in the graph: it has %s", name, strings.Join(p.s.Graph.Roles(), ", "))
	}
	return nil
}

// bareName is what nodes without a role are called.
const bareName = "bare"

// nodeNames lists the names of the nodes of a role, or of those without one.
func (s *Scenario) nodeNames(role string) (names []string) {
	n := 0
	if role == bareName {
		n = s.Bare
	}
	for _, r := range s.Roles {
		if r.Name == role {
			n = r.Nodes
		}
	}
	for i := range n {
		names = append(names, nodeName(role, i+1))
	}
	return names
}

// nodeName is the name of the nth node of a role, from 1.
func nodeName(role string, n int) string { return role + "-" + strconv.Itoa(n) }

// allNames lists the names of all nodes, taps first.
func (s *Scenario) allNames() (names []string) {
	for _, r := range s.Roles {
		names = append(names, s.nodeNames(r.Name)...)
	}
	return append(names, s.nodeNames(bareName)...)
}

func number(word string, least, most int) (int, error) {
	n, err := strconv.Atoi(word)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%q is no number from %d to %d", word, least, most)
	}
	return n, nil
}

// duration reads a time as 1h30m, 5s or 20ms.
func duration(word string) (time.Duration, error) {
	d, err := time.ParseDuration(word)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no time as 90s or 20ms", word)
	}
	return d, nil
}

// share reads a percentage.
func share(word string) (float64, error) {
	digits, ok := strings.CutSuffix(word, "%")
	x, err := strconv.ParseFloat(digits, 64)
	if !ok || err != nil || !(x >= 0 && x < 100) {
		return 0, fmt.Errorf("%q is no share from 0%% to below 100%%", word)
	}
	return x / 100, nil
}

// bytesOf reads a size as 1500, 64KiB or 1MiB.
func bytesOf(word string) (int, error) {
	for _, u := range []struct {
		name  string
		bytes int
	}{{"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}} {
		digits, ok := strings.CutSuffix(word, u.name)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(digits)
		if err != nil || n < 1 || n > 1<<30/u.bytes {
			break
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("%q is no size as 64KiB or 1500", word)
}

// unknown is an error that names the nearest of the words there are.
func unknown(what, word string, known ...string) error {
	if best := spec.Nearest(word, known); best != "" {
		return fmt.Errorf("unknown %s %s: did you mean %s?", what, word, best)
	}
	return fmt.Errorf("unknown %s %s: there are %s", what, word, strings.Join(known, ", "))
}
