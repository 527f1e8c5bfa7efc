package topology_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"weir/topology"
)

func TestASCII(t *testing.T) {
	golden(t, "draw.txt", func(input string) string {
		g, err := topology.Parse(input)
		if err != nil {
			return err.Error()
		}
		return g.ASCII()
	})
}

// The first line of a case is the format.
func TestFormats(t *testing.T) {
	golden(t, "formats.txt", func(input string) string {
		format, text, _ := strings.Cut(input, "\n")
		g, err := topology.Parse(text)
		if err != nil {
			return err.Error()
		}
		switch format {
		case "dot":
			return g.Dot()
		case "mermaid":
			return g.Mermaid()
		}
		return g.SVG("a <title> & more")
	})
}

// dags draws graphs of a few roles, with ports, long edges and edges that cross.
func dags(t *rapid.T) topology.Graph {
	n := rapid.IntRange(2, 9).Draw(t, "roles")
	var g topology.Graph
	for from := range n - 1 {
		for to := from + 1; to < n; to++ {
			port := rapid.SampledFrom([]string{"-", "-", "-", "-", "", "", "err"}).Draw(t, "port")
			if port != "-" {
				g.Edges = append(g.Edges, topology.Edge{From: fmt.Sprintf("role%d", from), Port: port, To: fmt.Sprintf("role%d", to)})
			}
		}
	}
	if len(g.Edges) == 0 {
		g.Edges = []topology.Edge{{From: "role0", To: "role1"}}
	}
	return g
}

// A drawing, read as a person does, says what the graph says.
func TestASCIISaysTheGraph(t *testing.T) {
	drawn := 0
	rapid.Check(t, func(t *rapid.T) {
		g := dags(t)
		text := g.ASCII()
		if text == g.String()+"\n" && strings.Contains(text, ",") {
			return // it cannot be drawn
		}
		drawn++
		var want []string
		for _, e := range g.Edges {
			want = append(want, e.Source()+" -> "+e.To)
		}
		got := read(strings.Split(text, "\n"))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(slices.Compact(got), want) {
			t.Fatalf("the drawing\n%s says %q\nthe graph  %q", text, got, want)
		}
	})
	if drawn < 10 { // of 20 with -short
		t.Errorf("only %d graphs were drawn", drawn)
	}
}

// read follows the lines of a drawing from every name.
func read(lines []string) (edges []string) {
	for row, line := range lines {
		for x := 0; x < len(line); x++ {
			end := x
			for end < len(line) && isName(line[end]) {
				end++
			}
			if end == x || line[x] == '.' || line[x] == '-' || line[x] == 'v' && end == x+1 {
				continue
			}
			r := reader{lines: lines, seen: make(map[step]bool)}
			if end+1 < len(line) && line[end+1] != ' ' {
				r.follow(step{end + 1, row, 0})
			}
			for _, to := range r.found {
				edges = append(edges, line[x:end]+" -> "+to)
			}
			x = end
		}
	}
	return edges
}

func isName(c byte) bool { return c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' }

// step is a place of a drawing and the way that leads to it: 0 from the left, else down or up.
type step struct{ x, row, down int }

type reader struct {
	lines []string
	seen  map[step]bool
	found []string
}

func (r *reader) at(x, row int) byte {
	if row < 0 || row >= len(r.lines) || x >= len(r.lines[row]) {
		return ' '
	}
	return r.lines[row][x]
}

func (r *reader) follow(s step) {
	c := r.at(s.x, s.row)
	if r.seen[s] || c == ' ' || s.down != 0 && c == '-' {
		return
	}
	r.seen[s] = true
	right, up, down := step{s.x + 1, s.row, 0}, step{s.x, s.row - 1, -1}, step{s.x, s.row + 1, 1}
	switch {
	case c == '>':
		name := r.lines[s.row][s.x+2:]
		end := strings.IndexFunc(name+" ", func(c rune) bool { return !isName(byte(c)) })
		r.found = append(r.found, name[:end])
	case c == '-', s.down == 0 && (c == '|' || c == '^' || c == 'v'):
		r.follow(right)
	case c == '|':
		r.follow(step{s.x, s.row + s.down, s.down})
	case c == '^' || c == 'v':
		r.follow(right)
	case c == '.':
		r.follow(right)
		r.follow(down)
	case c == '\'':
		r.follow(right)
		r.follow(up)
	case c == '+':
		r.follow(right)
		r.follow(up)
		r.follow(down)
	}
}

// A picture is well-formed, whatever the names, and loads nothing.
func TestSVGIsXML(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svg := dags(t).SVG(rapid.String().Draw(t, "title"))
		for d := xml.NewDecoder(strings.NewReader(svg)); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, svg)
			}
			if e, ok := token.(xml.StartElement); ok && slices.Contains([]string{"script", "image", "use", "foreignObject"}, e.Name.Local) {
				t.Fatalf("it has a %s", e.Name.Local)
			}
		}
	})
}

// A graph at its limits is drawn, or written out, in no time.
func TestDrawLarge(t *testing.T) {
	var g topology.Graph
	for i := range 100 {
		for j := range 100 {
			g.Edges = append(g.Edges, topology.Edge{From: fmt.Sprintf("a%d", i), To: fmt.Sprintf("b%d", j)})
		}
	}
	if text := g.ASCII(); strings.Count(text, "\n") != 199 {
		t.Errorf("100 to 100 roles are %d lines", strings.Count(text, "\n"))
	}
	var long topology.Graph
	for i := range 63 {
		long.Edges = append(long.Edges, topology.Edge{From: fmt.Sprintf("a%d", i), To: fmt.Sprintf("a%d", i+1)})
	}
	if text := long.ASCII(); text != long.String()+"\n" {
		t.Errorf("63 edges in a row are drawn as\n%s", text)
	}
}
