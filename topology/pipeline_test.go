package topology_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"weir/topology"
)

// TestValidate reads pipelines from testdata: "NAME KIND" a line, then edges "a -> b".
func TestValidate(t *testing.T) {
	golden(t, "validate.txt", func(input string) string {
		p := topology.Pipeline{Name: "p"}
		for line := range strings.Lines(input) {
			f := strings.Fields(line)
			switch {
			case f[0] == "#":
			case f[0] == "pipeline":
				p.Name = strings.Join(f[1:], " ")
			case len(f) == 3:
				from, port, _ := strings.Cut(f[0], ".")
				p.Graph.Edges = append(p.Graph.Edges, topology.Edge{From: from, Port: port, To: f[2]})
			default:
				p.Roles = append(p.Roles, topology.Role{Name: f[0], Kind: topology.Kind(f[1])})
			}
		}
		if err := p.Validate(); err != nil {
			return err.Error()
		}
		return "ok"
	})
}

func TestValidateFields(t *testing.T) {
	good := func() topology.Pipeline {
		return topology.Pipeline{
			Name:  "p",
			Graph: topology.Graph{Edges: []topology.Edge{{From: "a", To: "b"}}},
			Roles: []topology.Role{{Name: "a", Kind: topology.KindTap}, {Name: "b", Kind: topology.KindSink}},
		}
	}
	for want, spoil := range map[string]func(*topology.Pipeline){
		"": func(p *topology.Pipeline) {
			p.RecordMax, p.Roles[0].Records, p.Roles[0].Send = 64<<20, "block", topology.SendSplit
			p.Graph.Edges[0].By = topology.ByAny
		},
		"record-max is -1 bytes, it can be up to 67108864":             func(p *topology.Pipeline) { p.RecordMax = -1 },
		"record-max is 67108865 bytes, it can be up to 67108864":       func(p *topology.Pipeline) { p.RecordMax = 64<<20 + 1 },
		`role a sends by "all": it can be copy or split`:               func(p *topology.Pipeline) { p.Roles[0].Send = "all" },
		`role a cuts records by "word": it can be line, block or file`: func(p *topology.Pipeline) { p.Roles[0].Records = "word" },
		"role a needs 17 tags, at most 16 are allowed":                 func(p *topology.Pipeline) { p.Roles[0].Needs = slices.Repeat([]string{"gpu"}, 17) },
		"a tag that role a needs: a name is empty":                     func(p *topology.Pipeline) { p.Roles[0].Needs = []string{"gpu", ""} },
		`the edge a -> b goes by "key": it can only be any`:            func(p *topology.Pipeline) { p.Graph.Edges[0].By = "key" },
		"role a comes after b: roles are sorted by name":               func(p *topology.Pipeline) { slices.Reverse(p.Roles) },
		"the pipeline has 1001 roles, at most 1000 are allowed":        func(p *topology.Pipeline) { p.Roles = make([]topology.Role, 1001) },
		"the graph has 10001 edges, at most 10000 are allowed":         func(p *topology.Pipeline) { p.Graph.Edges = make([]topology.Edge, 10001) },
		`the port of a.x y -> b: the name "x y" has ' ' in it: letters a-z and A-Z, digits, - and _ are allowed`: func(p *topology.Pipeline) {
			p.Graph.Edges[0].Port = "x y"
		},
	} {
		p := good()
		spoil(&p)
		got := ""
		if err := p.Validate(); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if r, ok := good().Role("b"); !ok || r.Kind != topology.KindSink {
		t.Errorf("Role(b) = %v, %v", r, ok)
	}
	if _, ok := good().Role("c"); ok {
		t.Error("Role(c) is there")
	}
}

func ExampleNew() {
	g, err := topology.New().From("parser").To("facebook", "twitter").To("merger").To("db").Graph()
	fmt.Println(g, err)
	// Output: parser -> facebook, twitter -> merger -> db <nil>
}

func ExampleParse() {
	_, err := topology.Parse("a -> b\nb -> a")
	fmt.Println(err)
	// Output: graph line 2, column 6: the graph has a cycle: a -> b -> a
}
