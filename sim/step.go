package sim

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/topology"
)

// This file is pure.

// verb names what a step does.
type verb string

// The verbs. Each may end with "for TIME"; without it the thing is undone when the scenario's
// length is over, and a killed or drained node stays away.
const (
	verbKill      verb = "kill"      // kill WHO: no word to anybody; for: started again afterwards
	verbDrain     verb = "drain"     // drain WHO: as kill, but in good order
	verbRestart   verb = "restart"   // restart WHO: kill, and start again at once
	verbCrash     verb = "crash"     // crash WHO: kill, and its disk loses what was not made durable
	verbMove      verb = "move"      // move WHO: restart, at another address
	verbFreeze    verb = "freeze"    // freeze WHO: as SIGSTOP does
	verbPause     verb = "pause"     // pause [ROLE]: as weir pause does, for the whole pipeline or a role
	verbStall     verb = "stall"     // stall WHO: its handlers and sinks take records and do not end
	verbSlow      verb = "slow"      // slow WHO 10x: its handlers take ten times as long
	verbReplace   verb = "replace"   // replace WHO: the inputs of taps are others when these start again
	verbBusy      verb = "busy"      // busy WHO: its handlers and sinks ask for each record to be tried later
	verbFull      verb = "full"      // full WHO: its disk has no room for what sinks write
	verbAdd       verb = "add"       // add 50 ROLE, or 3 bare
	verbPartition verb = "partition" // partition WHO | WHO: packets between groups are lost
	verbCut       verb = "cut"       // cut WHO -> WHO: this way only; <->: both
	verbLoss      verb = "loss"      // loss 5% [bursts 20] [on WHO [-> WHO]]
	verbDuplicate verb = "duplicate" // duplicate 20%
	verbReorder   verb = "reorder"   // reorder 25% [by 20ms]
	verbDelay     verb = "delay"     // delay 50ms [jitter 20ms]
	verbBandwidth verb = "bandwidth" // bandwidth 1MiB [queue 64KiB]: a second, of each node
	verbMTU       verb = "mtu"       // mtu 1300: larger packets vanish
)

var verbs = []string{
	string(verbKill), string(verbDrain), string(verbRestart), string(verbCrash), string(verbMove), string(verbFreeze), string(verbPause),
	string(verbStall), string(verbSlow), string(verbReplace), string(verbBusy), string(verbFull), string(verbAdd), string(verbPartition), string(verbCut),
	string(verbLoss), string(verbDuplicate), string(verbReorder), string(verbDelay), string(verbBandwidth), string(verbMTU),
}

// losingVerbs are those that take a node away, hinderingVerbs those that leave it hampered.
var (
	losingVerbs    = []verb{verbKill, verbDrain, verbRestart, verbCrash, verbMove}
	hinderingVerbs = []verb{verbFreeze, verbStall, verbSlow, verbBusy, verbFull}
)

// action is what a step does; its verb says which fields count.
type action struct {
	verb   verb
	groups [][]target // who; partition and cut: the sides
	both   bool       // cut and on: in both directions

	share       float64
	burst       float64 // packets; 0 = each alone
	base, extra time.Duration
	bytes       int // mtu; bandwidth: a second
	queue       int // bytes
	factor      float64
	count       int
	role        string   // add
	roles       []string // pause; empty: the whole pipeline
}

// target says who is meant, decided when the step comes.
type target struct {
	random bool
	word   string // a node, a role or one of classes
}

// classes are the words for nodes besides their names and roles.
var classes = []string{"all", "rest", "leader", "follower", "voter", "worker", "tap", "sink", bareName}

// Defaults of actions.
const (
	reorderBy      = 10 * time.Millisecond // ten round trips of a LAN
	queueDefault   = 64 << 10              // bytes: what a cheap switch has per port
	mtuLeast       = 576                   // bytes: every host must take so much (RFC 791)
	factorMost     = 1000
	burstMost      = 10_000
	everyLeast     = 10 * time.Millisecond
	restartPause   = 200 * time.Millisecond // what a supervisor needs to start a process again
	bootsApart     = 2 * time.Second        // of machines that are switched on together, at most
	bandwidthLeast = 10 << 10               // bytes a second: less does not carry the heartbeats
)

// step reads "[at T | every T [from T] [until T]] VERB ... [for T]".
func (p *parser) step(words []string) (err error) {
	st := step{line: p.line}
	var every, until time.Duration
	switch words[0] {
	case "at":
		if st.at, words, err = timeAfter(words); err != nil {
			return err
		}
	case "every":
		if every, words, err = timeAfter(words); err != nil {
			return err
		}
		if every < everyLeast {
			return fmt.Errorf("every %v: at least %v", every, everyLeast)
		}
		st.at, until = every, p.s.Length
		for _, edge := range []struct {
			word string
			at   *time.Duration
		}{{"from", &st.at}, {"until", &until}} {
			if len(words) > 0 && words[0] == edge.word {
				if *edge.at, words, err = timeAfter(words); err != nil {
					return err
				}
			}
		}
	}
	if n := len(words); n > 2 && words[n-2] == "for" {
		if st.lasts, err = duration(words[n-1]); err != nil {
			return err
		}
		if st.lasts == 0 {
			return errors.New("for 0s: nothing happens in no time")
		}
		words = words[:n-2]
	}
	if len(words) == 0 {
		return fmt.Errorf("what happens then? want %s", strings.Join(verbs, ", "))
	}
	if st.act, err = p.action(verb(words[0]), words[1:]); err != nil {
		return err
	}
	st.text = strings.Join(words, " ")
	if st.lasts > 0 {
		st.text += " for " + shortTime(st.lasts)
	}
	return p.schedule(st, every, until)
}

// timeAfter reads the time behind a word.
func timeAfter(words []string) (time.Duration, []string, error) {
	if len(words) < 2 {
		return 0, nil, fmt.Errorf("%s which time?", words[0])
	}
	d, err := duration(words[1])
	return d, words[2:], err
}

// schedule adds the step, once or every so often.
func (p *parser) schedule(st step, every, until time.Duration) error {
	if st.at >= p.s.Length {
		return fmt.Errorf("%v is after the scenario's end, length %v", st.at, p.s.Length)
	}
	for ; ; st.at += every {
		if len(p.s.steps) == stepsMax {
			return fmt.Errorf("more than %d steps", stepsMax)
		}
		p.s.steps = append(p.s.steps, st)
		if every == 0 || st.at+every >= min(until, p.s.Length) {
			return nil
		}
	}
}

// action reads what is behind a verb.
func (p *parser) action(v verb, words []string) (a action, err error) {
	a.verb = v
	switch v {
	case verbKill, verbDrain, verbRestart, verbCrash, verbMove, verbFreeze, verbStall, verbBusy, verbFull:
		a.groups, err = p.groups(words, "|", 1)
	case verbReplace:
		a.groups, err = p.groups(words, "|", 1)
		for _, r := range p.s.Roles {
			word := words[len(words)-1]
			if r.Kind != topology.KindTap && (r.Name == word || slices.Contains(p.s.nodeNames(r.Name), word)) && err == nil {
				err = fmt.Errorf("replace %s: only a tap reads an input", word)
			}
		}
	case verbSlow:
		if len(words) < 2 {
			return a, errors.New("want: slow WHO 10x")
		}
		last := len(words) - 1
		digits, ok := strings.CutSuffix(words[last], "x")
		a.factor, err = strconv.ParseFloat(digits, 64)
		if !ok || err != nil || !(a.factor > 1 && a.factor <= factorMost) {
			return a, fmt.Errorf("%q is no factor as 10x, above 1 and at most %d", words[last], factorMost)
		}
		a.groups, err = p.groups(words[:last], "|", 1)
	case verbAdd:
		err = p.add(&a, words)
	case verbPause:
		a.roles, err = p.paused(words)
	case verbPartition:
		a.groups, err = p.groups(words, "|", 2)
	case verbCut:
		a.both = slices.Contains(words, "<->")
		a.groups, err = p.groups(words, map[bool]string{true: "<->", false: "->"}[a.both], 2)
		if err == nil && len(a.groups) > 2 {
			err = errors.New("a cut has two sides")
		}
	case verbLoss, verbDuplicate, verbReorder, verbDelay, verbBandwidth, verbMTU:
		err = p.weather(&a, words)
	default:
		err = unknown("word", string(v), append(slices.Clone(verbs), "about", "graph", "role", "nodes", "bare", "rate", "length", "size", "memory", "disks")...)
	}
	return a, err
}

func (p *parser) add(a *action, words []string) (err error) {
	if len(words) != 2 {
		return errors.New("want: add COUNT ROLE")
	}
	if a.count, err = number(words[0], 1, nodesMax); err != nil {
		return err
	}
	a.role = words[1]
	if a.role == bareName {
		return nil
	}
	for _, r := range p.s.Roles {
		if r.Name == a.role {
			if r.Kind == topology.KindTap {
				return fmt.Errorf("add %s: a tap reads on one set of nodes", a.role)
			}
			return nil
		}
	}
	return unknown("role", a.role, append(p.s.Graph.Roles(), bareName)...)
}

// paused reads a role, or tap, worker or sink for all roles of a kind, or nothing for the pipeline.
func (p *parser) paused(words []string) (roles []string, err error) {
	if len(words) == 0 {
		return nil, nil
	}
	word := words[0]
	for _, r := range p.s.Roles {
		if r.Name == word {
			roles = []string{word}
			break
		}
		if kindOf(word) == r.Kind {
			roles = append(roles, r.Name)
		}
	}
	switch {
	case len(roles) > 0 && len(words) == 1:
		return roles, nil
	case len(words) > 1, p.known(target{word: word}) == nil:
		return nil, fmt.Errorf("pause %s: want one role, or none for the whole pipeline; nodes stand still by freeze", strings.Join(words, " "))
	}
	return nil, unknown("role", word, p.s.Graph.Roles()...)
}

// weather reads what a fault of the network is, and where: "5% bursts 20 on WHO -> WHO".
func (p *parser) weather(a *action, words []string) (err error) {
	if i := slices.Index(words, "on"); i >= 0 {
		sep := "->"
		if a.both = !slices.Contains(words[i:], sep); a.both {
			sep = "<->"
		}
		if a.groups, err = p.groups(words[i+1:], sep, 1); err != nil {
			return err
		}
		if len(a.groups) > 2 {
			return fmt.Errorf("%s on more than two sides", a.verb)
		}
		words = words[:i]
	}
	if len(words) != 1 && len(words) != 3 {
		return fmt.Errorf("%s: want how much, and perhaps one more word with its value", a.verb)
	}
	words = append(slices.Clone(words), "", "")
	word, value := words[1], words[2]
	switch a.verb {
	case verbLoss:
		a.share, err = share(words[0])
		return cmp.Or(err, option(word, "bursts", func() (err error) {
			n, err := number(value, 1, burstMost)
			a.burst = float64(n)
			return err
		}))
	case verbDuplicate:
		a.share, err = share(words[0])
		return cmp.Or(err, option(word, "", nil))
	case verbReorder:
		a.share, err = share(words[0])
		a.base = reorderBy
		return cmp.Or(err, option(word, "by", func() (err error) { a.base, err = duration(value); return err }))
	case verbDelay:
		a.base, err = duration(words[0])
		return cmp.Or(err, option(word, "jitter", func() (err error) { a.extra, err = duration(value); return err }))
	case verbBandwidth:
		a.bytes, err = bytesOf(words[0])
		if err == nil && a.bytes < bandwidthLeast {
			err = fmt.Errorf("bandwidth %s: at least %dKiB a second", words[0], bandwidthLeast>>10)
		}
		a.queue = queueDefault
		return cmp.Or(err, option(word, "queue", func() (err error) { a.queue, err = bytesOf(value); return err }))
	}
	a.bytes, err = bytesOf(words[0])
	if err == nil && a.bytes < mtuLeast {
		err = fmt.Errorf("mtu %s: at least %d bytes", words[0], mtuLeast)
	}
	return cmp.Or(err, option(word, "", nil))
}

// option reads the one word that may follow a value.
func option(word, want string, read func() error) error {
	switch {
	case word == "":
		return nil
	case want == "":
		return fmt.Errorf("%q says nothing here", word)
	case word != want:
		return unknown("word", word, want)
	}
	return read()
}

// groups reads targets, with sep between groups of them.
func (p *parser) groups(words []string, sep string, least int) (groups [][]target, err error) {
	groups = [][]target{nil}
	for i := 0; i < len(words); i++ {
		last := len(groups) - 1
		t := target{word: words[i]}
		switch {
		case t.word == sep:
			groups = append(groups, nil)
			continue
		case t.word == "random":
			if i++; i == len(words) {
				return nil, errors.New("random what? want a role or a class of nodes")
			}
			t = target{random: true, word: words[i]}
		}
		if err := p.known(t); err != nil {
			return nil, err
		}
		groups[last] = append(groups[last], t)
	}
	for _, g := range groups {
		if len(g) == 0 {
			return nil, errors.New("who? a side names no node")
		}
	}
	if len(groups) < least {
		return nil, fmt.Errorf("want %d sides with %s between them", least, sep)
	}
	return groups, p.disjoint(groups)
}

// known checks that there is something of that name; nodes that a step adds count.
func (p *parser) known(t target) error {
	roles := p.s.Graph.Roles()
	if slices.Contains(classes, t.word) || slices.Contains(roles, t.word) || slices.Contains(p.names(), t.word) {
		return nil
	}
	return unknown("node", t.word, slices.Concat(p.names(), roles, classes)...)
}

// names lists all nodes, with those that steps read so far add.
func (p *parser) names() []string {
	names := p.s.allNames()
	count := make(map[string]int)
	for _, st := range p.s.steps {
		if a := st.act; a.verb == verbAdd {
			if count[a.role] == 0 {
				count[a.role] = len(p.s.nodeNames(a.role))
			}
			for range a.count {
				count[a.role]++
				names = append(names, nodeName(a.role, count[a.role]))
			}
		}
	}
	return names
}

// disjoint checks that no node is named on two sides.
func (p *parser) disjoint(groups [][]target) error {
	side := make(map[string]int)
	for i, g := range groups {
		for _, t := range g {
			for _, name := range p.s.meant(t) {
				if j, twice := side[name]; twice && j != i {
					return fmt.Errorf("%s is on two sides at once", name)
				}
				side[name] = i
			}
		}
	}
	return nil
}

// shortTime is a time without zero parts: 1m, not 1m0s.
func shortTime(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
