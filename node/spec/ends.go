package spec

// Pure but for variables of the environment: sinks, and what taps have in common with them.

import (
	"slices"

	"github.com/goccy/go-yaml/ast"
)

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
	kinds := []string{"file", "stdout", "discard", "postgres", "sqlite", "redis", "http", "exec", "sh"}
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
		"postgres": func(_, v ast.Node) (err error) { s.Postgres, err = d.postgres(v); return err },
		"sqlite":   func(_, v ast.Node) (err error) { s.SQLite, err = d.sqlite(v); return err },
		"redis":    func(_, v ast.Node) (err error) { s.Redis, err = d.redisStream(v); return err },
		"http":     func(_, v ast.Node) (err error) { s.HTTP, err = d.endpoint(v); return err },
		"exec":     func(_, v ast.Node) (err error) { s.Exec, err = d.argv(v); return err },
		"sh":       func(_, v ast.Node) (err error) { s.Sh, err = d.text(v, "sh"); return err },
	}, "directory", "sink-grace")
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
