package topology

// Pure: a graph as a picture.

import (
	"encoding/xml"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Measures of the picture, in pixels.
const (
	svgRow     = 26  // from row to row; roles are rowGap of them apart
	svgBox     = 30  // height of a role's box
	svgPort    = 20  // of a port's
	svgChar    = 8.4 // width of a character of 14 pixels, in a font where all are equally wide
	svgPadding = 12  // beside a name
	svgGutter  = 56  // between two columns
	svgMargin  = 12
)

// svgHead carries the colours for a light and a dark page. A picture in an <img> sees which of
// the two the reader prefers; the page behind it shows through.
const svgHead = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">
<title>%s</title>
<style>
text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2328; }
rect { fill: #f6f8fa; stroke: #59636e; }
.start, .end { fill: #ddf4ff; stroke: #0969da; }
.port { fill: none; stroke: #9a6700; stroke-dasharray: 3 2; }
path { fill: none; stroke: #59636e; stroke-width: 1.5; }
.head { fill: #59636e; stroke: none; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; }
rect { fill: #212830; stroke: #9198a1; }
.start, .end { fill: #12233f; stroke: #4493f8; }
.port { fill: none; stroke: #d29922; }
path { stroke: #9198a1; }
.head { fill: #9198a1; stroke: none; }
}
</style>
<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker></defs>
`

// SVG draws a graph, which must have no cycle, as a picture of its own: without scripts, and
// without anything to load. Starts and ends have a colour of their own, ports a dashed box below
// their role.
func (g Graph) SVG(title string) string {
	if len(g.Edges) == 0 {
		return ""
	}
	d := newDrawing(g)
	left := make([]int, len(d.columns)) // of each column
	width := make([]int, len(d.columns))
	x := svgMargin
	for i, column := range d.columns {
		for _, c := range column {
			width[i] = max(width[i], boxWidth(c))
		}
		left[i] = x
		x += width[i] + svgGutter
	}
	w, h := x-svgGutter+svgMargin, (d.rows-1)*svgRow+svgBox+2*svgMargin
	var b strings.Builder
	fmt.Fprintf(&b, svgHead, w, h, w, h, escape(title))
	for i, column := range d.columns {
		for _, c := range column {
			from := left[i] + boxWidth(c)
			if c.name == "" {
				from = left[i] + width[i]
				fmt.Fprintf(&b, "<path d=\"M%d %dH%d\"/>\n", left[i], middle(c), from)
			}
			for _, next := range c.next {
				to := left[i+1]
				arrow := ` marker-end="url(#arrow)"`
				if next.name == "" {
					arrow = ""
				}
				bend := (left[i+1] + left[i] + width[i]) / 2
				fmt.Fprintf(&b, "<path d=\"M%d %dH%dC%d %d %d %d %d %d\"%s/>\n",
					from, middle(c), left[i]+width[i], bend, middle(c), bend, middle(next), to, middle(next), arrow)
			}
		}
	}
	for i, column := range d.columns {
		for _, c := range column {
			writeBox(&b, c, left[i])
		}
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func middle(c *cell) int { return svgMargin + svgBox/2 + c.row*svgRow }

func boxWidth(c *cell) int {
	if c.name == "" {
		return 0
	}
	return int(svgChar*float64(utf8.RuneCountInString(c.name))) + 2*svgPadding
}

func writeBox(b *strings.Builder, c *cell, left int) {
	if c.name == "" {
		return
	}
	class, height := "", svgBox
	switch {
	case c.owner != nil:
		class, height = ` class="port"`, svgPort
	case len(c.prev) == 0:
		class = ` class="start"`
	case len(c.next) == 0 && !c.ported:
		class = ` class="end"`
	}
	fmt.Fprintf(b, "<rect%s x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"6\"/><text x=\"%d\" y=\"%d\">%s</text>\n",
		class, left, middle(c)-height/2, boxWidth(c), height, left+svgPadding, middle(c)+5, escape(c.name))
}

// escape makes text of any characters fit for XML.
func escape(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder takes all
	return b.String()
}
