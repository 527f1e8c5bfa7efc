package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rooms says which package may import which: "An arrow never turns back. A test reads the
// imports and fails on any edge not in the table; a new package needs a row. If two rooms need
// the same thing, it is either a noun (topology) or it is two things."
const rooms = `
topology                         <-
stream/wire                      <-
stream/mux                       <- topology
stream                           <- topology, stream/wire
gossip                           <- topology
consensus                        <- topology
node/spec                        <- topology
node/post                        <- stream
node/worker, node/tap, node/sink <- stream, node/spec, node/post
node/bench                       <- stream
node/store                       <-
node/servertest                  <-
node/dead                        <-
node/job                         <- topology, stream, node/store
node/api                         <- topology, node/job, node/dead
node                             <- all of the above
sim                              <- topology, stream, node, node/spec, node/sink
cmd/node                         <- topology, node, node/*, sim
`

// modules says which rooms may import which module: "Each heavy one has one room, so replacing
// it touches one package." A module that is not here needs a row and a reason.
const modules = `
github.com/hashicorp/memberlist <- gossip
github.com/hashicorp/raft       <- consensus
github.com/hashicorp/go-hclog   <- consensus
go.etcd.io/bbolt                <- consensus, node/dead
github.com/quic-go/quic-go      <- stream/mux, node/bench
github.com/klauspost/compress   <- stream/wire, node/tap, node/sink
github.com/goccy/go-yaml        <- node/spec
github.com/spf13/cobra          <- cmd/node
github.com/spf13/pflag          <- cmd/node
github.com/jackc/pgx            <- node/sink
github.com/redis/rueidis        <- node/sink, node/tap, node/servertest
modernc.org/sqlite              <- node/sink
github.com/zeebo/xxh3           <- stream, stream/wire, node
golang.org/x/net                <- stream/mux
golang.org/x/sync               <- *
golang.org/x/sys                <- *
github.com/google/go-cmp        <- tests
github.com/rogpeppe/go-internal <- tests
go.uber.org/goleak              <- tests
pgregory.net/rapid              <- tests
`

const (
	// fileLinesMax is where a file must have become two.
	fileLinesMax = 500
	// functionLinesMax is a screen. Tests are let off: a table of cases is no branch.
	functionLinesMax = 70
)

// TestRooms lets tests import what they like: they are where rooms meet, and nothing imports them.
func TestRooms(t *testing.T) {
	mayImport, mayUse := parseRooms(rooms), parseTable(modules)
	for _, f := range sources(t) {
		allowed, known := mayImport[f.room]
		if !known {
			t.Errorf("%s: package %s has no row in the table of rooms", f.path, f.room)
			continue
		}
		for _, imp := range f.imports {
			if own, ok := strings.CutPrefix(imp, "weir/"); ok {
				if own != f.room && !f.test && !slices.Contains(allowed, own) {
					t.Errorf("%s imports %s: %s may import only %q", f.path, own, f.room, allowed)
				}
				continue
			}
			if imp == "testing" && !f.test && f.room != "sim" {
				t.Errorf("%s imports testing outside a test", f.path)
			}
			if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
				continue // the standard library
			}
			if f.room == "topology" && !f.test {
				t.Errorf("%s imports %s: topology has the standard library only", f.path, imp)
			}
			users, ok := usersOf(mayUse, imp)
			switch {
			case !ok:
				t.Errorf("%s imports %s, which has no row in the table of modules", f.path, imp)
			case slices.Contains(users, "*"), f.test:
			case !slices.Contains(users, f.room):
				t.Errorf("%s imports %s: only %q may", f.path, imp, users)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	for _, f := range sources(t) {
		if f.lines > fileLinesMax {
			t.Errorf("%s has %d lines: look for the second noun (%d)", f.path, f.lines, fileLinesMax)
		}
		if f.test {
			continue
		}
		for name, lines := range f.functions {
			if lines > functionLinesMax {
				t.Errorf("%s: function %s has %d lines: a screen is %d", f.path, name, lines, functionLinesMax)
			}
			if name == "init" {
				t.Errorf("%s has an init", f.path)
			}
		}
	}
}

// TestRoomsTable checks the checker: what the rule forbids must not be in what it allows.
func TestRoomsTable(t *testing.T) {
	may := parseRooms(rooms)
	for from, to := range map[string]string{
		"topology": "stream", "stream": "stream/mux", "gossip": "consensus", "node/spec": "stream",
		"node/api": "node", "node": "sim", "sim": "stream/mux", "cmd/node": "stream", "node/worker": "node/tap",
	} {
		if slices.Contains(may[from], to) {
			t.Errorf("the table lets %s import %s", from, to)
		}
	}
	for from, to := range map[string]string{
		"stream": "stream/wire", "node": "stream/mux", "node/tap": "node/spec", "cmd/node": "node/sink", "sim": "node",
	} {
		if !slices.Contains(may[from], to) {
			t.Errorf("the table does not let %s import %s", from, to)
		}
	}
}

// source is what the rules need of a file.
type source struct {
	path, room string
	test       bool
	lines      int
	imports    []string
	functions  map[string]int // lines of the longest of each name
}

// sources reads every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".go":
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		s, err := readSource(path)
		s.path, s.room = rel, filepath.ToSlash(filepath.Dir(rel))
		all = append(all, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("found only %d files: the rules would check nothing", len(all))
	}
	return all
}

func readSource(path string) (source, error) {
	s := source{test: strings.HasSuffix(path, "_test.go"), functions: make(map[string]int)}
	text, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	s.lines = strings.Count(string(text), "\n")
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, text, parser.SkipObjectResolution)
	if err != nil {
		return s, err
	}
	for _, imp := range file.Imports {
		name, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			return s, err
		}
		s.imports = append(s.imports, name)
	}
	for _, d := range file.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			n := set.Position(fn.End()).Line - set.Position(fn.Pos()).Line + 1
			s.functions[fn.Name.Name] = max(n, s.functions[fn.Name.Name]) // methods share names
		}
	}
	return s, nil
}

// parseTable reads "name, name <- name, name" lines.
func parseTable(text string) map[string][]string {
	table := make(map[string][]string)
	for line := range strings.Lines(strings.TrimSpace(text)) {
		left, right, _ := strings.Cut(line, "<-")
		for _, name := range splitNames(left) {
			table[name] = splitNames(right)
		}
	}
	return table
}

// parseRooms is parseTable with its two abbreviations spelled out.
func parseRooms(text string) map[string][]string {
	table := parseTable(text)
	var above, nodes []string
	for line := range strings.Lines(strings.TrimSpace(text)) {
		left, right, _ := strings.Cut(line, "<-")
		if strings.TrimSpace(right) == "all of the above" {
			table[strings.TrimSpace(left)] = slices.Clone(above)
		}
		for _, name := range splitNames(left) {
			above = append(above, name)
			if strings.HasPrefix(name, "node/") {
				nodes = append(nodes, name)
			}
		}
	}
	for name, may := range table {
		if i := slices.Index(may, "node/*"); i >= 0 {
			table[name] = slices.Concat(may[:i], nodes, may[i+1:])
		}
	}
	return table
}

func splitNames(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
}

// usersOf finds the row of the module that holds an imported package.
func usersOf(table map[string][]string, imp string) ([]string, bool) {
	for module, users := range table {
		if imp == module || strings.HasPrefix(imp, module+"/") {
			return users, true
		}
	}
	return nil, false
}
