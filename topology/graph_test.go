package topology_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"weir/topology"
)

func TestParse(t *testing.T) {
	golden(t, "parse.txt", func(input string) string {
		g, err := topology.Parse(input)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s\nstarters %v, ends %v", g, g.Starters(), g.Ends())
	})
}

// The cases of SEEDS.md A14, from pypelinin's tests.
func TestSeedGraphs(t *testing.T) {
	for text, want := range map[string]string{
		"A -> A":                 "cycle: A -> A",
		"A -> B\nB -> A":         "cycle: A -> B -> A",
		"A -> B; B -> C; C -> B": "cycle: B -> C -> B",
	} {
		if _, err := topology.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want %q", text, err, want)
		}
	}
	g, err := topology.New().From("A", "B", "C").To("D").From("E").To("B", "F").Graph()
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(g.Starters(), g.Ends(), g.Roles()); got != "[A C E] [D F] [A D B C E F]" {
		t.Errorf("starters, ends, roles: %s", got)
	}
	want := `digraph weir {
	rankdir=LR;
	"A" -> "D";
	"B" -> "D";
	"C" -> "D";
	"E" -> "B";
	"E" -> "F";
}
`
	if got := g.Dot(); got != want {
		t.Errorf("Dot: got\n%swant\n%s", got, want)
	}
}

func TestBuilder(t *testing.T) {
	built, err := topology.New().
		From("parser").To("facebook", "twitter").To("merger").To("db").
		From("facebook.err").To("errlog").Graph()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := topology.Parse("parser -> facebook, twitter -> merger -> db\nfacebook.err -> errlog")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(built, parsed) {
		t.Errorf("built %v, parsed %v", built, parsed)
	}
	if in := built.In("merger"); len(in) != 2 || in[0].From != "facebook" || in[1].From != "twitter" {
		t.Errorf("In(merger) = %v", in)
	}
	if out := built.Out("facebook"); fmt.Sprint(out) != "[facebook -> merger facebook.err -> errlog]" {
		t.Errorf("Out(facebook) = %v", out)
	}
	if !strings.Contains(built.Dot(), `"facebook" -> "errlog" [label="err"];`) {
		t.Errorf("Dot without the port:\n%s", built.Dot())
	}

	for want, b := range map[string]*topology.Builder{
		"the graph is empty":                       topology.New(),
		"To needs a From before it and a role":     topology.New().To("a"),
		"From needs a role":                        topology.New().From().To("a"),
		"the edge a -> b is there twice":           topology.New().From("a").To("b", "b"),
		"the graph has a cycle: a -> b -> a":       topology.New().From("a").To("b").To("a"),
		"a name is empty":                          topology.New().From("").To("a"),
		`the name "b.c" has '.' in it`:             topology.New().From("a").To("b.c"),
		"port of a: a name is empty":               topology.New().From("a.").To("b"),
		`the name "-x" begins or ends with a dash`: topology.New().From("-x").To("b"),
	} {
		if _, err := b.Graph(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestLimits(t *testing.T) {
	names := func(prefix string, n int) string {
		var s []string
		for i := range n {
			s = append(s, fmt.Sprintf("%s%d", prefix, i))
		}
		return strings.Join(s, ", ")
	}
	chain := func(n int) string { return strings.ReplaceAll(names("r", n), ",", " ->") }
	long := strings.Repeat("x", 64)
	for _, c := range []struct{ name, text, want string }{
		{"edges", names("a", 100) + " -> " + names("b", 100), ""},
		{"too many edges", names("a", 100) + " -> " + names("b", 101), "more than 10000 edges"},
		{"roles", names("a", 999) + " -> b", ""},
		{"too many roles", names("a", 1000) + " -> b", "1001 roles, at most 1000 are allowed"},
		{"depth", chain(64), ""},
		{"too deep", chain(65), "the path from r0 to r64 is 65 roles long, at most 64 are allowed"},
		{"name", long + " -> b", ""},
		{"too long a name", long + "x -> b", "65 bytes long, at most 64 are allowed"},
	} {
		_, err := topology.Parse(c.text)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func FuzzGraph(f *testing.F) {
	for _, seed := range []string{
		"a -> b", "parser -> facebook, twitter -> merger -> db\nparser.err -> log # here",
		"a|b|c", "a ->\n\n# on\nb,\nc", "a, b -> c, d; c.x -> e", "a->b->a", "pipe-29->x", "é -> b", "a -> b.c", "\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		g, err := topology.Parse(text)
		if err != nil {
			p := (*topology.ParseError)(nil)
			if !errors.As(err, &p) || p.Line < 1 || p.Col < 1 || p.Line > 1+strings.Count(text, "\n") {
				t.Fatalf("Parse(%q): no place in %#v", text, err)
			}
			return
		}
		if len(g.Starters()) == 0 || len(g.Ends()) == 0 {
			t.Fatalf("Parse(%q): starters %v, ends %v", text, g.Starters(), g.Ends())
		}
		again, err := topology.Parse(g.String())
		if err != nil || !reflect.DeepEqual(g, again) {
			t.Fatalf("Parse(%q) is %v; its text %q is %v, %v", text, g.Edges, g, again.Edges, err)
		}
	})
}
