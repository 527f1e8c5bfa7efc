package spec

// Pure but for variables of the environment: the sections of the file.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/goccy/go-yaml/ast"

	"weir/topology"
)

// decoder reads one file.
type decoder struct {
	name   string // of the file, in errors
	dir    string
	source string // text of the file, with LF line ends
	lookup func(name string) (value string, ok bool)

	graphAt ast.Node            // the value of the key graph, nil until seen
	rolesAt map[string]ast.Node // the name of each role
	unset   []error             // variables that have no value, of the role that is read
}

// asWrittenMark stands for what a machine puts in: no file can have it.
const asWrittenMark = "\x01"

// Parse reads text as the pipeline file called name, in whose directory relative paths begin. The
// values of ${NAME} come from set, then from the environment: see Unset.
func Parse(name string, text []byte, set map[string]string) (*File, error) {
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("find the directory of %s: %w", name, err)
	}
	d := decoder{name: name, dir: dir, rolesAt: make(map[string]ast.Node)}
	d.lookup = func(name string) (string, bool) {
		if v, ok := set[name]; ok {
			return v, true
		}
		return os.LookupEnv(name)
	}
	doc, err := d.document(text)
	if err != nil {
		return nil, err
	}
	return d.file(doc)
}

func (d *decoder) file(doc ast.Node) (*File, error) {
	f := &File{Roles: make(map[string]Role), Dir: d.dir, places: make(map[string]Pos), written: make(map[string]Role), unset: make(map[string][]error)}
	asWritten := *d // puts marks in
	asWritten.dir = asWrittenMark
	asWritten.lookup = func(name string) (string, bool) { return asWrittenMark + name, true }
	p := &f.Pipeline
	var edges ast.Node
	err := d.mapping(doc, "the file", keys{
		"pipeline": func(_, v ast.Node) (err error) {
			p.Name, err = d.pipeline(v)
			return err
		},
		"graph": func(_, v ast.Node) (err error) {
			d.graphAt = v
			p.Graph, err = d.graph(v)
			return err
		},
		"roles": func(_, v ast.Node) error {
			return d.each(v, "roles", func(name string, at, v ast.Node) (err error) {
				d.rolesAt[name], f.places[name], d.unset = at, d.pos(at), nil
				if f.Roles[name], err = d.role(name, at, v); err == nil {
					f.written[name], err = asWritten.role(name, at, v)
				}
				f.unset[name] = d.unset
				return err
			})
		},
		"edges": func(_, v ast.Node) error {
			edges = v
			return nil
		},
		"record-max": func(_, v ast.Node) (err error) {
			p.RecordMax, err = d.size(v, "record-max", topology.RecordBytesCeiling)
			return err
		},
	})
	switch {
	case err != nil:
		return nil, err
	case p.Name == "":
		return nil, d.fail(doc, "the key pipeline is missing: it names the pipeline")
	case d.graphAt == nil:
		return nil, d.fail(doc, "the key graph is missing: it says what flows where, as in a -> b")
	case len(f.Roles) == 0:
		return nil, d.fail(doc, "the key roles is missing: it says what each role of the graph does")
	}
	if edges != nil {
		if err := d.edges(edges, p.Graph); err != nil {
			return nil, err
		}
	}
	if err := f.Resolve(); err != nil {
		return nil, d.place(err)
	}
	return f, nil
}

// pipeline reads the name of the pipeline.
func (d *decoder) pipeline(n ast.Node) (string, error) {
	s, err := d.text(n, "pipeline")
	if err != nil {
		return "", err
	}
	if err := topology.CheckName(s); err != nil {
		return "", d.fail(n, "%v", err)
	}
	return s, nil
}

func (d *decoder) graph(n ast.Node) (topology.Graph, error) {
	s, err := d.text(n, "graph")
	if err != nil {
		return topology.Graph{}, err
	}
	g, err := topology.Parse(s)
	if p := (*topology.ParseError)(nil); errors.As(err, &p) {
		return topology.Graph{}, &Error{d.offset(n, p.Line, p.Col), clip(p.Err.Error())}
	}
	return g, err
}

// edges checks the section edges, whose keys are edges of the graph. The zero value of an edge
// means all that it can say so far.
func (d *decoder) edges(n ast.Node, g topology.Graph) error {
	return d.each(n, "edges", func(key string, at, v ast.Node) error {
		named, err := topology.Parse(key)
		if p := (*topology.ParseError)(nil); errors.As(err, &p) {
			return d.fail(at, "%q is no edge: %v", key, p.Err)
		}
		for _, e := range named.Edges {
			if !slices.Contains(g.Edges, e) {
				return d.fail(at, "the graph has no edge %s", e)
			}
		}
		return d.mapping(v, "the edge "+key, keys{
			"by": func(_, v ast.Node) error {
				_, err := d.word(v, "by", []string{"any"}, "record", "key")
				return err
			},
		}, "key", "lossy", "compress", "order")
	})
}

// place turns what is wrong with the pipeline as a whole into errors with places.
func (d *decoder) place(err error) error {
	var problems topology.Problems
	if !errors.As(err, &problems) {
		return err
	}
	var errs []error
	for _, p := range problems {
		at := d.graphAt
		if n, ok := d.rolesAt[p.Role]; ok {
			at = n
		}
		errs = append(errs, d.fail(at, "%s", p.Text))
	}
	return errors.Join(errs...)
}
