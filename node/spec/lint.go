package spec

// Pure: what a file may say and had better not.

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"weir/topology"
)

// Severity says whether a pipeline may run in spite of a Problem.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"   // it must not run
	SeverityWarning Severity = "warning" // it may do what nobody expects
)

// Problem is something in a File that reads well and works badly.
type Problem struct {
	Pos      // of the role's name; the zero value where there is no text
	Severity Severity
	Role     string
	Text     string // one sentence, which names the role
}

func (p Problem) String() string {
	text := p.Text
	if p.Severity != SeverityError {
		text = string(p.Severity) + ": " + text
	}
	if p.File == "" {
		return text
	}
	return p.Pos.String() + ": " + text
}

// Lint returns the problems, sorted by role.
func (f *File) Lint() []Problem {
	var ps []Problem
	writers := make(map[string]string) // path of a sink -> role
	stdin := ""
	for _, name := range slices.Sorted(maps.Keys(f.Roles)) {
		r := f.Roles[name]
		add := func(s Severity, format string, args ...any) {
			ps = append(ps, Problem{f.places[name], s, name, fmt.Sprintf("role %s ", name) + fmt.Sprintf(format, args...)})
		}
		switch {
		case r.Tap != nil:
			switch {
			case r.Nodes > 1 && r.Tap.Put:
				add(SeverityError, "is a tap that weir put feeds: no node serves it, so leave nodes out")
			case r.Nodes > 1 && r.Tap.sharable() && !r.Shared:
				add(SeverityError, "is a tap with %d nodes, and each would read everything: set nodes: 1, or shared: true", r.Nodes)
			case r.Nodes > 1 && r.Tap.HTTP != nil:
				add(SeverityError, "is a tap with %d nodes that would listen on one port: set nodes: 1", r.Nodes)
			case r.Nodes > 1 && !r.Shared:
				add(SeverityError, "is a tap with %d nodes, and each would read everything: set nodes: 1", r.Nodes)
			}
			if r.Tap.Stdin && stdin != "" {
				add(SeverityError, "reads stdin, and so does role %s: only one can", stdin)
			}
			if r.Tap.Stdin {
				stdin = name
			}
		case r.Sink != nil && r.Sink.File != "":
			if r.Nodes > 1 && !strings.Contains(r.Sink.File, "{node}") {
				add(SeverityError, "has %d nodes that would write one file: name it %s, or set nodes: 1", r.Nodes, perNode(r.Sink.File))
			}
			if other := writers[r.Sink.File]; other != "" {
				add(SeverityError, "writes the file of role %s: give each its own", other)
			}
			writers[r.Sink.File] = name
		case r.Sink != nil && r.Sink.Redis != nil:
			if r.Nodes > 1 && !strings.Contains(r.Sink.Redis.Stream, "{node}") {
				add(SeverityError, "has %d nodes that would write one stream: name it %s-{node}, or set nodes: 1", r.Nodes, r.Sink.Redis.Stream)
			}
		}
		for _, text := range r.lint() {
			add(SeverityWarning, "%s", text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Roles)) {
		if t := f.Roles[name].Tap; t != nil && t.File != "" && writers[t.File] != "" {
			ps = append(ps, Problem{f.places[name], SeverityError, name,
				fmt.Sprintf("role %s reads the file that role %s writes: give each its own", name, writers[t.File])})
		}
	}
	slices.SortStableFunc(ps, func(a, b Problem) int { return strings.Compare(a.Role, b.Role) })
	return ps
}

// lint says what a role's program may do that nobody expects.
func (r Role) lint() []string {
	var texts []string
	stays := r.Mode == topology.KindLine || r.Mode == topology.KindFrame
	for _, name := range blockwise(r.Exec, r.Sh) {
		if stays {
			texts = append(texts, fmt.Sprintf("runs %s, which in mode: %s must answer each line alone, and does not", name, r.Mode))
		} else {
			texts = append(texts, fmt.Sprintf("runs %s, which sees one block of lines at a time, not all of them", name))
		}
	}
	if !stays {
		return texts
	}
	dropping := named(commands(r.Exec, r.Sh), filters...)
	for _, name := range dropping {
		texts = append(texts, fmt.Sprintf("runs %s, which drops lines: a program of mode: %s answers each, so it needs mode: each", name, r.Mode))
	}
	if fix := Unbuffered(r.Exec, r.Sh); fix != "" && len(dropping) == 0 {
		texts = append(texts, fmt.Sprintf("runs a program that holds its answers back: mode: %s needs %s", r.Mode, fix))
	}
	return texts
}

// perNode is the path's last part with {node} before its extension.
func perNode(path string) string {
	base := filepath.Base(path)
	ext := filepath.Ext(base)
	return strings.TrimSuffix(base, ext) + "-{node}" + ext
}
