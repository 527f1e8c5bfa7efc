package spec

// Pure but for variables of the environment: the section of one role.

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"weir/topology"
)

// Limits of a role.
const (
	// nodesMax is the most nodes of a role: members of a cluster (FAULTS.md, limits table).
	nodesMax = 4096
	// capacityMax is the most records a role works on at once: the most credit it gives
	// (DESIGN.md 7).
	capacityMax = 4096
	// deadlineMax is the longest that a program may go without a sign of progress: a day's work on one
	// record.
	deadlineMax = 24 * time.Hour
	// attemptsMax is the most attempts of a record: with more it is in the way for ever.
	attemptsMax = 100
	// takeoverMax is the longest that a shared tap waits for a node that is gone: an hour of records
	// that nobody reads is as good as never.
	takeoverMax = time.Hour
	// procsMax is the most processes of a role on a node: as many as its records.
	procsMax = capacityMax
)

// laterRoleKeys are keys of a role that the design names and this version does not have.
var laterRoleKeys = []string{
	"merge", "wait", "timeout", "order", "key", "output",
	"compress", "sink-grace", "append", "header",
}

// role reads the role name; at is the place of the name.
func (d *decoder) role(name string, at, n ast.Node) (Role, error) {
	var r Role
	if err := topology.CheckName(name); err != nil {
		return r, d.fail(at, "%v", err)
	}
	what := "role " + name
	seen := make(map[string]ast.Node)
	note := func(key string, read func(v ast.Node) error) func(key, v ast.Node) error {
		return func(at, v ast.Node) error {
			seen[key] = at
			return read(v)
		}
	}
	number := func(key string, to *int, most int) func(key, v ast.Node) error {
		return note(key, func(v ast.Node) (err error) {
			*to, err = d.number(v, key, 1, most)
			return err
		})
	}
	err := d.mapping(n, what, keys{
		"exec":     note("exec", func(v ast.Node) (err error) { r.Exec, err = d.argv(v); return err }),
		"sh":       note("sh", func(v ast.Node) (err error) { r.Sh, err = d.text(v, "sh"); return err }),
		"http":     note("http", func(v ast.Node) (err error) { r.HTTP, err = d.endpoint(v); return err }),
		"tap":      note("tap", func(v ast.Node) (err error) { r.Tap, err = d.tap(v); return err }),
		"sink":     note("sink", func(v ast.Node) (err error) { r.Sink, err = d.sink(v); return err }),
		"nodes":    number("nodes", &r.Nodes, nodesMax),
		"capacity": number("capacity", &r.Capacity, capacityMax),
		"procs":    number("procs", &r.Procs, procsMax),
		"attempts": number("attempts", &r.Attempts, attemptsMax),
		"ok":       note("ok", func(v ast.Node) (err error) { r.OK, err = d.codes(v); return err }),
		"mode":     note("mode", func(v ast.Node) (err error) { r.Mode, err = d.mode(v); return err }),
		"deadline": note("deadline", func(v ast.Node) (err error) { r.Deadline, err = d.duration(v, "deadline", deadlineMax); return err }),
		"needs":    note("needs", func(v ast.Node) (err error) { r.Needs, err = d.tags(v); return err }),
		"output": note("output", func(v ast.Node) error {
			_, err := d.word(v, "output", []string{"replace"}, "merge")
			return err
		}),
		"records": note("records", func(v ast.Node) (err error) {
			r.Records, err = d.word(v, "records", []string{"line", "block"}, "file")
			return err
		}),
		"shared":   note("shared", func(v ast.Node) error { r.Shared = true; return d.yes(v, "shared") }),
		"takeover": note("takeover", func(v ast.Node) (err error) { r.Takeover, err = d.takeover(v); return err }),
		"send": note("send", func(v ast.Node) error {
			s, err := d.word(v, "send", []string{string(topology.SendCopy), string(topology.SendSplit)})
			r.Send = topology.Send(s)
			return err
		}),
	}, laterRoleKeys...)
	if err != nil {
		return r, err
	}
	if err := d.fits(what, at, seen); err != nil {
		return r, err
	}
	if r.Tap != nil {
		return r, d.fitsTap(what, r, seen)
	}
	if n := seen["deadline"]; n != nil && r.Sink != nil && len(r.Sink.Exec) == 0 && r.Sink.Sh == "" {
		return r, d.fail(n, "%s has deadline, which goes with exec or sh: its sink runs no program", what)
	}
	return r, d.fitsMode(what, r.Mode, seen)
}

// mode reads how a program is run.
func (d *decoder) mode(n ast.Node) (topology.Kind, error) {
	mode, err := d.word(n, "mode", []string{string(topology.KindEach), string(topology.KindLine), string(topology.KindFrame)})
	return topology.Kind(mode), err
}

// fitsMode checks that the keys of a program go with its mode.
func (d *decoder) fitsMode(what string, mode topology.Kind, seen map[string]ast.Node) error {
	if (mode == topology.KindLine || mode == topology.KindFrame) && seen["ok"] != nil {
		return d.fail(seen["ok"], "%s has ok, which goes with mode: each: a program of mode: %s stays, and acks by its answers", what, mode)
	}
	return nil
}

// doers are the keys of a role of which it has exactly one.
var doers = []string{"exec", "sh", "http", "tap", "sink"}

// fits checks that the keys of a role go together.
func (d *decoder) fits(what string, at ast.Node, seen map[string]ast.Node) error {
	var does []string
	for _, k := range doers {
		if seen[k] != nil {
			does = append(does, k)
		}
	}
	switch len(does) {
	case 0:
		return d.fail(at, "%s does nothing: it needs one of %s", what, list(doers))
	case 1:
	default:
		return d.fail(seen[does[1]], "%s has %s: it can have only one of %s", what, strings.Join(does, " and "), list(doers))
	}
	only := func(key string, of ...string) error {
		if n := seen[key]; n != nil && !slices.Contains(of, does[0]) {
			return d.fail(n, "%s has %s, which goes with %s, not with %s", what, key, list(of), does[0])
		}
		return nil
	}
	for _, key := range []string{"procs", "ok", "mode", "output"} {
		if err := only(key, "exec", "sh"); err != nil {
			return err
		}
	}
	if err := only("deadline", "exec", "sh", "sink"); err != nil {
		return err
	}
	if err := only("attempts", "exec", "sh", "http", "sink"); err != nil {
		return err
	}
	for _, key := range []string{"records", "shared", "takeover"} {
		if err := only(key, "tap"); err != nil {
			return err
		}
	}
	return only("send", "exec", "sh", "http", "tap")
}

// argv reads a program and its arguments.
func (d *decoder) argv(n ast.Node) ([]string, error) {
	args, err := d.values(n, "exec", "[grep, -v, draft]")
	if err != nil {
		return nil, err
	}
	var argv []string
	for i, a := range args {
		s, ok := scalar(a)
		if !ok {
			return nil, d.fail(a, "an argument of exec must be text, not %s", shape(a))
		}
		s, err := d.expand(a, s)
		switch {
		case err != nil:
			return nil, err
		case strings.ContainsRune(s, 0):
			return nil, d.fail(a, "an argument of exec has a NUL character in it")
		case i == 0 && s == "":
			return nil, d.fail(a, "the program of exec is empty")
		case i == 0 && strings.Contains(s, "/"):
			s = d.join(s)
		}
		argv = append(argv, s)
	}
	return argv, nil
}

// codes reads further exit codes that ack; 0 always does.
func (d *decoder) codes(n ast.Node) ([]int, error) {
	list, err := d.values(n, "ok", "[0, 1]")
	if err != nil {
		return nil, err
	}
	codes := []int{0}
	for _, v := range list {
		c, err := d.number(v, "an exit code", 0, 255)
		if err != nil {
			return nil, err
		}
		codes = append(codes, c)
	}
	slices.Sort(codes)
	return slices.Compact(codes), nil
}

// tags reads the tags that a node must have.
func (d *decoder) tags(n ast.Node) ([]string, error) {
	values := []ast.Node{n}
	if _, ok := n.(*ast.SequenceNode); ok {
		var err error
		if values, err = d.values(n, "needs", "[gpu]"); err != nil {
			return nil, err
		}
	}
	if len(values) > topology.TagsMax {
		return nil, d.fail(n, "needs has %d tags, it can have %d", len(values), topology.TagsMax)
	}
	var tags []string
	for _, v := range values {
		tag, err := d.text(v, "a tag")
		if err != nil {
			return nil, err
		}
		if err := topology.CheckName(tag); err != nil {
			return nil, d.fail(v, "a tag: %v", err)
		}
		tags = append(tags, tag)
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}

// path reads a path: variables are replaced, and it is joined to the file's directory.
func (d *decoder) path(n ast.Node, what string) (string, error) {
	s, err := d.text(n, what)
	if err != nil {
		return "", err
	}
	if s, err = d.expand(n, s); err != nil {
		return "", err
	}
	if s == "" {
		return "", d.fail(n, "%s is empty", what)
	}
	return d.join(s), nil
}

func (d *decoder) join(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(d.dir, path)
}

// expand replaces ${NAME}; $${ stands for ${. What is not set stays as written, and is noted.
func (d *decoder) expand(n ast.Node, s string) (string, error) {
	var out strings.Builder
	for {
		before, after, ok := strings.Cut(s, "${")
		if !ok {
			out.WriteString(s)
			return out.String(), nil
		}
		if literal, ok := strings.CutSuffix(before, "$"); ok {
			out.WriteString(literal + "${")
			s = after
			continue
		}
		name, rest, closed := strings.Cut(after, "}")
		if !closed || !isVariable(name) {
			return "", d.fail(n, "${ begins a variable, as in ${NAME}: write $${ for the characters themselves")
		}
		value, ok := d.lookup(name)
		if !ok {
			value = "${" + name + "}"
			d.unset = append(d.unset, d.fail(n, "the variable %s is not set: use --set %s=VALUE or the environment", name, name))
		}
		out.WriteString(before + value)
		s = rest
	}
}

// isVariable reports whether s is a name that the environment can have.
func isVariable(s string) bool {
	for i, c := range s {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
