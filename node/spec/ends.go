package spec

// Pure but for variables of the environment: taps and sinks.

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"weir/topology"
)

// tap reads "stdin" or a mapping.
func (d *decoder) tap(n ast.Node) (*Tap, error) {
	var t Tap
	if s, ok := scalar(n); ok && s == "stdin" {
		t.Stdin = true
		return &t, nil
	}
	kinds := []string{"file", "glob", "stdin", "generate"}
	err := d.one(n, "tap", kinds, keys{
		"file": func(_, v ast.Node) (err error) {
			t.File, err = d.path(v, "file")
			return err
		},
		"glob": func(_, v ast.Node) (err error) {
			t.Glob, err = d.globs(v)
			return err
		},
		"stdin": func(_, v ast.Node) error {
			t.Stdin = true
			return d.yes(v, "stdin")
		},
		"generate": func(_, v ast.Node) (err error) {
			t.Generate, err = d.generate(v)
			return err
		},
	}, "directory", "dir", "put", "http", "redis", "program", "exec", "shared", "takeover")
	return &t, err
}

// sink reads "stdout", "discard" or a mapping.
func (d *decoder) sink(n ast.Node) (*Sink, error) {
	var s Sink
	switch text, _ := scalar(n); text {
	case "stdout":
		s.Stdout = true
		return &s, nil
	case "discard":
		s.Discard = true
		return &s, nil
	}
	kinds := []string{"file", "stdout", "discard"}
	var appendAt ast.Node
	err := d.one(n, "sink", kinds, keys{
		"file": func(_, v ast.Node) (err error) {
			s.File, err = d.path(v, "file")
			return err
		},
		"append": func(at, v ast.Node) error {
			word, err := d.word(v, "append", []string{"true", "false"})
			s.Append, appendAt = word == "true", at
			return err
		},
		"stdout": func(_, v ast.Node) error {
			s.Stdout = true
			return d.yes(v, "stdout")
		},
		"discard": func(_, v ast.Node) error {
			s.Discard = true
			return d.yes(v, "discard")
		},
	}, "directory", "http", "redis", "postgres", "sqlite", "program", "exec", "sink-grace")
	if err == nil && appendAt != nil && s.File == "" {
		err = d.fail(appendAt, "sink has append, which goes with file")
	}
	return &s, err
}

// one reads the mapping n that has exactly one of kinds.
func (d *decoder) one(n ast.Node, what string, kinds []string, known keys, later ...string) error {
	if s, ok := scalar(n); ok {
		if slices.Contains(later, s) {
			return d.notYet(n, s)
		}
		return d.fail(n, "%s must say which, as in {%s: PATH}, not %q", what, kinds[0], s)
	}
	if err := d.mapping(n, what, known, later...); err != nil {
		return err
	}
	count := 0
	for _, v := range n.(*ast.MappingNode).Values { // mapping has said so
		if slices.Contains(kinds, keyText(v.Key)) {
			count++
		}
	}
	if count != 1 {
		return d.fail(n, "%s must have exactly one of %s", what, list(kinds))
	}
	return nil
}

// yes reads true: what can only be written to be so.
func (d *decoder) yes(n ast.Node, what string) error {
	_, err := d.word(n, what, []string{"true"})
	return err
}

// globs reads a pattern or a list of them.
func (d *decoder) globs(n ast.Node) ([]string, error) {
	values := []ast.Node{n}
	if _, ok := n.(*ast.SequenceNode); ok {
		var err error
		if values, err = d.values(n, "glob", "['logs/*.txt']"); err != nil {
			return nil, err
		}
	}
	var globs []string
	for _, v := range values {
		g, err := d.path(v, "glob")
		if err != nil {
			return nil, err
		}
		if err := CheckGlob(g); err != nil {
			return nil, d.fail(v, "glob: %v", err)
		}
		globs = append(globs, g)
	}
	return globs, nil
}

// CheckGlob returns what is wrong with the pattern of a glob, on any machine.
func CheckGlob(pattern string) error {
	if pattern == "" {
		return errors.New("the pattern is empty")
	}
	for seg := range strings.SplitSeq(pattern, "/") {
		if _, err := path.Match(seg, ""); err != nil {
			return errors.New("a bracket is not closed, or a backslash is last")
		}
		if seg != "**" && strings.Contains(seg, "**") {
			return fmt.Errorf("%q: ** stands alone between slashes", seg)
		}
	}
	return nil
}

func (d *decoder) generate(n ast.Node) (*Generate, error) {
	var g Generate
	err := d.mapping(n, "generate", keys{
		"records": func(_, v ast.Node) (err error) {
			g.Records, err = d.number(v, "records", 1, math.MaxInt)
			return err
		},
		"size": func(_, v ast.Node) (err error) {
			g.Size, err = d.size(v, "size", topology.RecordBytesCeiling)
			return err
		},
		"rate": func(_, v ast.Node) (err error) {
			g.Rate, err = d.number(v, "rate", 1, math.MaxInt)
			return err
		},
	})
	return &g, err
}
