package topology

// Pure: a graph in the languages of programs that draw.

import (
	"fmt"
	"html"
	"strings"
)

// Dot is the graph in the language of Graphviz.
func (g Graph) Dot() string {
	var b strings.Builder
	b.WriteString("digraph weir {\n\trankdir=LR;\n")
	for _, e := range g.Edges {
		fmt.Fprintf(&b, "\t%q -> %q", e.From, e.To)
		if e.Port != "" {
			fmt.Fprintf(&b, " [label=%q]", e.Port)
		}
		b.WriteString(";\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// Mermaid is the graph in the language of Mermaid. Its roles have numbers there: some names, "end"
// for one, are words of that language.
func (g Graph) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	number := make(map[string]int)
	for i, role := range g.Roles() {
		number[role] = i
		fmt.Fprintf(&b, "    r%d[\"%s\"]\n", i, html.EscapeString(role))
	}
	for _, e := range g.Edges {
		port := ""
		if e.Port != "" {
			port = "|\"" + html.EscapeString(e.Port) + "\"|"
		}
		fmt.Fprintf(&b, "    r%d -->%s r%d\n", number[e.From], port, number[e.To])
	}
	return b.String()
}
