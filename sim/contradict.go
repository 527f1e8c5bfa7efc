package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"weir/topology"
)

// This file is pure.

// meant lists the nodes that a target names for certain, before the run: nil where chance, the
// log or other groups decide.
func (s *Scenario) meant(t target) (names []string) {
	if t.random {
		return nil
	}
	if names = s.nodeNames(t.word); names != nil {
		return names
	}
	switch t.word {
	case "all":
		return s.allNames()
	case "tap", "sink", "worker":
		for _, r := range s.Roles {
			if r.Kind == kindOf(t.word) {
				names = append(names, s.nodeNames(r.Name)...)
			}
		}
		return names
	case "leader", "follower", "voter", "rest":
		return nil
	}
	return []string{t.word}
}

// kindOf is the kind of role that a class of nodes has; "": the class is no such.
func kindOf(class string) topology.Kind {
	switch class {
	case "tap", "sink":
		return topology.Kind(class)
	case "worker":
		return topology.KindGo
	}
	return ""
}

// down is a node that a step took away.
type down struct {
	step *step
	back time.Duration // 0 = never
}

// contradiction finds the first step that cannot be meant: one about a node that is away, one
// that leaves a role without a node for good, one that sets what another has set.
func (s *Scenario) contradiction() error {
	away := make(map[string]down)
	alive := make(map[string]int) // nodes of each role not lost for good
	for _, r := range s.Roles {
		alive[r.Name] = r.Nodes
	}
	for i := range s.steps {
		st := &s.steps[i]
		if st.act.verb == verbAdd {
			alive[st.act.role] += st.act.count
		}
		if err := s.setTwice(i); err != nil {
			return s.at(st, err)
		}
		if !slices.Contains(losingVerbs, st.act.verb) && !slices.Contains(hinderingVerbs, st.act.verb) {
			continue
		}
		for _, t := range st.act.groups[0] {
			for _, name := range s.meant(t) {
				if d, is := away[name]; is && name != t.word && (d.back == 0 || st.at < d.back) {
					continue // a class or a role means those who are there
				}
				if err := takeAway(st, name, away, alive); err != nil {
					return s.at(st, err)
				}
			}
		}
	}
	return nil
}

// takeAway notes what a step does to a node.
func takeAway(st *step, name string, away map[string]down, alive map[string]int) error {
	if d, is := away[name]; is && (d.back == 0 || st.at < d.back) {
		return fmt.Errorf("%s at %v: %s is away since %v (line %d)", st.text, st.at, name, d.step.at, d.step.line)
	}
	if !slices.Contains([]verb{verbKill, verbDrain, verbCrash}, st.act.verb) {
		return nil
	}
	d := down{step: st}
	if st.lasts > 0 {
		d.back = st.at + st.lasts
	}
	away[name] = d
	role := roleOf(name)
	if _, is := alive[role]; !is || st.lasts > 0 {
		return nil
	}
	if alive[role]--; alive[role] == 0 {
		return fmt.Errorf("%s leaves role %s without a node for good: say for how long, as in %q", st.text, role, st.text+" for 10s")
	}
	return nil
}

// roleOf is the role of a node by its name.
func roleOf(name string) string {
	for i := len(name) - 1; i > 0; i-- {
		if name[i] == '-' {
			return name[:i]
		}
	}
	return name
}

// numberOf is which of its role's nodes a node is, by its name.
func numberOf(name string) int {
	n, _ := strconv.Atoi(name[min(len(roleOf(name))+1, len(name)):]) // nodeName wrote it
	return n
}

// setTwice checks that no other step is setting the same thing, for the whole network or for the same
// role, when step i comes.
func (s *Scenario) setTwice(i int) error {
	st := &s.steps[i]
	if !slices.Contains([]verb{verbLoss, verbDuplicate, verbReorder, verbDelay, verbBandwidth, verbMTU, verbPause}, st.act.verb) || st.act.groups != nil {
		return nil
	}
	for k := range s.steps[:i] {
		other := &s.steps[k]
		end := other.at + cmp.Or(other.lasts, s.Length)
		if other.act.verb == st.act.verb && other.act.groups == nil && st.at < end && overlap(other.act.roles, st.act.roles) {
			return fmt.Errorf("%s at %v contradicts %s of line %d", st.text, st.at, other.text, other.line)
		}
	}
	return nil
}

// overlap reports whether two lists of roles have one in common; an empty one is all.
func overlap(a, b []string) bool {
	return len(a) == 0 || len(b) == 0 || slices.ContainsFunc(a, func(role string) bool { return slices.Contains(b, role) })
}

func (s *Scenario) at(st *step, err error) error {
	return &ScenarioError{s.Name, st.line, err.Error()}
}
