package topology

// Pure: what can be wrong with a pipeline.

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// RecordBytesCeiling is what a pipeline may raise its RecordMax to, in bytes (FAULTS.md, limits
// table: max record, hard limit).
const RecordBytesCeiling = 64 << 20

// TagsMax is the most tags that a node has or a role needs: with names of a usual length they fit
// into what a node may gossip of itself beside its roles (512 bytes).
const TagsMax = 16

// Problem is one thing wrong with a pipeline, one sentence.
type Problem struct {
	Role string // the role it is about, "" = none or several
	Text string
}

// Problems is the error of Validate: at least one Problem.
type Problems []Problem

// Error is the sentences, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Text
	}
	return strings.Join(lines, "\n")
}

func (ps *Problems) add(role, format string, args ...any) {
	*ps = append(*ps, Problem{role, fmt.Sprintf(format, args...)})
}

// Role returns the role of that name.
func (p Pipeline) Role(name string) (Role, bool) {
	i := slices.IndexFunc(p.Roles, func(r Role) bool { return r.Name == name })
	if i < 0 {
		return Role{}, false
	}
	return p.Roles[i], true
}

// ServedBy reports whether n serves a role of the pipeline: it names the role and has the tags
// that the role needs.
func (p Pipeline) ServedBy(n Node, role string) bool {
	if !n.Serves(p.Name, role) {
		return false
	}
	r, _ := p.Role(role)
	return r.Lacks(n) == ""
}

// Validate returns nil or, as Problems, everything that is wrong with the pipeline.
func (p Pipeline) Validate() error {
	var ps Problems
	if err := CheckName(p.Name); err != nil {
		ps.add("", "the pipeline's name: %v", err)
	}
	if p.RecordMax < 0 || p.RecordMax > RecordBytesCeiling {
		ps.add("", "record-max is %d bytes, it can be up to %d", p.RecordMax, RecordBytesCeiling)
	}
	if n := len(p.Roles); n > rolesMax {
		ps.add("", "the pipeline has %d roles, at most %d are allowed", n, rolesMax)
		return ps
	}
	if err := p.Graph.Check(); err != nil {
		ps.add("", "%v", err)
		if len(p.Graph.Edges) > edgesMax {
			return ps
		}
	}
	p.checkRoles(&ps)
	p.checkEdges(&ps)
	p.checkEnds(&ps)
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// checkRoles looks at each role alone.
func (p Pipeline) checkRoles(ps *Problems) {
	for i, r := range p.Roles {
		if err := CheckName(r.Name); err != nil {
			ps.add(r.Name, "a role's name: %v", err)
		}
		if i > 0 {
			switch last := p.Roles[i-1].Name; {
			case last == r.Name:
				ps.add(r.Name, "role %s is there twice", r.Name)
			case last > r.Name:
				ps.add(r.Name, "role %s comes after %s: roles are sorted by name", r.Name, last)
			}
		}
		switch r.Kind {
		case KindTap, KindSink, KindEach, KindLine, KindFrame, KindHTTP, KindGo, KindMerge:
		default:
			ps.add(r.Name, "role %s has the unknown kind %q", r.Name, r.Kind)
		}
		switch r.Send {
		case "", SendCopy, SendSplit:
		default:
			ps.add(r.Name, "role %s sends by %q: it can be copy or split", r.Name, r.Send)
		}
		switch r.Records {
		case "", "line", "block", "file":
		default:
			ps.add(r.Name, "role %s cuts records by %q: it can be line, block or file", r.Name, r.Records)
		}
		if r.Kind != KindTap && (r.Shared || r.Takeover != 0 || r.Put) {
			ps.add(r.Name, "role %s is no tap: it cannot be shared, taken over or put to", r.Name)
		}
		if len(r.Needs) > TagsMax {
			ps.add(r.Name, "role %s needs %d tags, at most %d are allowed", r.Name, len(r.Needs), TagsMax)
		}
		for _, tag := range r.Needs {
			if err := CheckName(tag); err != nil {
				ps.add(r.Name, "a tag that role %s needs: %v", r.Name, err)
			}
		}
	}
}

// checkEdges looks at each edge alone, and whether roles and edges name each other.
func (p Pipeline) checkEdges(ps *Problems) {
	declared := make(map[string]Kind)
	for _, r := range p.Roles {
		declared[r.Name] = r.Kind
	}
	used := make(map[string]bool)
	seen := make(map[Edge]bool)
	for _, e := range p.Graph.Edges {
		bare := Edge{From: e.From, Port: e.Port, To: e.To}
		if seen[bare] {
			ps.add(e.From, "the edge %s is there twice", e)
		}
		seen[bare] = true
		if e.Port != "" {
			if err := CheckName(e.Port); err != nil {
				ps.add(e.From, "the port of %s: %v", e, err)
			} else if has := portsOf(declared[e.From]); has != nil && !slices.Contains(has, e.Port) {
				ps.add(e.From, "role %s has no port %s: it has %s", e.From, e.Port, cmp.Or(strings.Join(has, " and "), "none"))
			}
		}
		if e.By != "" && e.By != ByAny {
			ps.add(e.From, "the edge %s goes by %q: it can only be any", e, e.By)
		}
		for _, r := range [2]string{e.From, e.To} {
			if declared[r] == "" && !used[r] {
				ps.add(r, "the graph names %s, which is no role of the pipeline", r)
			}
			used[r] = true
		}
	}
	for _, r := range p.Roles {
		if !used[r.Name] {
			ps.add(r.Name, "role %s is not in the graph", r.Name)
		}
	}
}

// Ports that mean something by themselves.
const (
	PortDead = "dead" // records that the role cannot handle, instead of the dead letters
	PortErr  = "err"  // what its program writes to stderr
)

// portsOf lists the ports that an edge may start at from a role of that kind; nil: any name.
func portsOf(k Kind) []string {
	switch k {
	case KindTap:
		return []string{}
	case KindEach, KindLine:
		return []string{PortDead, PortErr}
	case KindHTTP:
		return []string{PortDead}
	}
	return nil
}

// checkEnds looks at where records come from and where they end.
func (p Pipeline) checkEnds(ps *Problems) {
	var taps, sinks int
	in, out := make(map[string]string), make(map[string]string)
	kinds := make(map[string]Kind)
	for _, r := range p.Roles {
		kinds[r.Name] = r.Kind
	}
	for _, e := range p.Graph.Edges {
		in[e.To] = e.From
		if e.Port == "" || portsOf(kinds[e.From]) == nil { // from ports alone a program would lead nowhere
			out[e.From] = e.To
		}
	}
	for _, r := range p.Roles {
		from, fed := in[r.Name]
		to, feeds := out[r.Name]
		switch {
		case r.Kind == KindTap:
			taps++
			if fed {
				ps.add(r.Name, "role %s is a tap and cannot have an input: %s leads to it", r.Name, from)
			}
		case r.Kind == KindSink:
			sinks++
			if feeds {
				ps.add(r.Name, "role %s is a sink and cannot have an output: it leads to %s", r.Name, to)
			}
		case feeds && !fed:
			ps.add(r.Name, "role %s has no input and is no tap", r.Name)
		case fed && !feeds && r.Kind == KindGo:
			sinks++ // a handler may keep what it gets
		case fed && !feeds:
			ps.add(r.Name, "role %s has no output and is no sink", r.Name)
		}
	}
	if taps == 0 {
		ps.add("", "the pipeline has no tap: nothing would flow")
	}
	if sinks == 0 {
		ps.add("", "the pipeline has no sink: records would never end")
	}
}
