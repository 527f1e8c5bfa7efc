package topology

// Pure: a graph drawn with the characters of a terminal.

import (
	"slices"
	"strings"
)

// asciiColumnsMax is the widest drawing, in characters: two terminals side by side.
const asciiColumnsMax = 160

// ASCII draws a graph, which must have no cycle:
//
//	        .-> facebook -.
//	parser -+             +-> merger -> database
//	        '-> twitter --'
//
// A line that ends in ^ or v joins the one it meets; lines that cross have nothing to do with each
// other. A graph of which that cannot be drawn, or that is too wide, is written as Parse reads it.
func (g Graph) ASCII() string {
	if len(g.Edges) == 0 {
		return ""
	}
	d := newDrawing(g)
	a := &ascii{lines: make([][]byte, d.rows)}
	for i, column := range d.columns {
		a.roles(column)
		if i < len(d.columns)-1 && !a.gutter(column) || a.width > asciiColumnsMax {
			return g.String() + "\n"
		}
	}
	var b strings.Builder
	for _, line := range a.lines {
		b.WriteString(strings.TrimRight(string(line), " ") + "\n")
	}
	return b.String()
}

// ascii is a drawing that grows to the right.
type ascii struct {
	lines [][]byte
	width int
}

func (a *ascii) set(x, row int, c byte) {
	for len(a.lines[row]) <= x {
		a.lines[row] = append(a.lines[row], ' ')
	}
	a.lines[row][x] = c
	a.width = max(a.width, x+1)
}

// across draws a line from one place up to another.
func (a *ascii) across(from, to, row int) {
	for x := from; x < to; x++ {
		a.set(x, row, '-')
	}
}

// drawn reports whether a line goes across there.
func (a *ascii) drawn(x, row int) bool { return x < len(a.lines[row]) && a.lines[row][x] == '-' }

// roles draws the names of a column, and lines through and behind them to its right end.
func (a *ascii) roles(column []*cell) {
	from, width := a.width, 0
	for _, c := range column {
		width = max(width, len(c.name))
	}
	end := from + width + 1
	for _, c := range column {
		at := from
		for i := range len(c.name) {
			a.set(at, c.row, c.name[i])
			at++
		}
		if c.name != "" {
			a.set(at, c.row, ' ')
			at++
		}
		if len(c.next) > 0 {
			a.across(at, end, c.row)
		}
	}
	a.width = end
}

// bundle is the edges between two columns that share a line: all of its sources lead to all of its
// targets.
type bundle struct {
	from, to []int // rows
	x        int   // of its upright part, -1: it is straight
}

// straight reports whether a bundle is one line from left to right.
func (b *bundle) straight() bool { return len(b.from) == 1 && slices.Equal(b.from, b.to) }

// gutter draws the lines from a column to the next; false: they would lie on each other.
func (a *ascii) gutter(column []*cell) bool {
	bundles, ok := inOrder(bundlesOf(column))
	if !ok {
		return false
	}
	left, x := a.width, a.width+1
	for _, b := range bundles {
		if b.x = -1; !b.straight() {
			b.x = x
			x += 2
		}
	}
	arrow := x
	for _, b := range bundles {
		from, to := b.x, b.x+1
		if b.straight() {
			from, to = arrow, arrow
		}
		for _, row := range b.from {
			a.across(left, from, row)
		}
		for _, row := range b.to {
			a.across(to, arrow, row)
		}
	}
	for _, b := range bundles {
		if b.x >= 0 && !a.upright(b) {
			return false
		}
	}
	for _, c := range column {
		for _, to := range c.next {
			if to.name == "" {
				a.across(arrow, arrow+2, to.row)
				continue
			}
			a.set(arrow, to.row, '>')
			a.set(arrow+1, to.row, ' ')
		}
	}
	a.width = arrow + 2
	return true
}

// upright draws the part of a bundle that leads from row to row; false: it would meet a line of
// another in its middle, and nobody could say whose is whose.
func (a *ascii) upright(b *bundle) bool {
	rows := slices.Concat(b.from, b.to)
	top, bottom := slices.Min(rows), slices.Max(rows)
	for row := top; row <= bottom; row++ {
		from, to := slices.Contains(b.from, row), slices.Contains(b.to, row)
		char := byte('+')
		switch foreign := a.drawn(b.x, row); {
		case !from && !to:
			char = '|'
		case foreign && (from || row != top && row != bottom):
			return false
		case foreign && row == top:
			char = '^'
		case foreign:
			char = 'v'
		case from && to || row != top && row != bottom:
		case row == top:
			char = '.'
		default:
			char = '\''
		}
		a.set(b.x, row, char)
	}
	return true
}

// bundlesOf gathers the edges from a column to the next.
func bundlesOf(column []*cell) (bundles []*bundle) {
	for _, c := range column {
		var to []int
		for _, next := range c.next {
			to = append(to, next.row)
		}
		slices.Sort(to)
		i := slices.IndexFunc(bundles, func(b *bundle) bool { return slices.Equal(b.to, to) })
		switch {
		case len(to) == 0:
		case i >= 0:
			bundles[i].from = append(bundles[i].from, c.row)
		default:
			bundles = append(bundles, &bundle{from: []int{c.row}, to: to})
		}
	}
	return bundles
}

// before reports whether a bundle must be to the left of another: it starts in a row in which the
// other ends.
func (b *bundle) before(other *bundle) bool {
	return b != other && !b.straight() &&
		slices.ContainsFunc(b.from, func(row int) bool { return slices.Contains(other.to, row) })
}

// inOrder sorts bundles from left to right; false: there is no order in which no line lies on
// another.
func inOrder(bundles []*bundle) (sorted []*bundle, ok bool) {
	if len(bundles) > asciiColumnsMax {
		return nil, false
	}
	for len(bundles) > 0 {
		i := slices.IndexFunc(bundles, func(b *bundle) bool {
			return b.straight() || !slices.ContainsFunc(bundles, func(other *bundle) bool { return other.before(b) })
		})
		if i < 0 {
			return nil, false
		}
		sorted = append(sorted, bundles[i])
		bundles = slices.Delete(bundles, i, i+1)
	}
	return sorted, true
}
