package topology

// Pure: where the roles of a drawn graph go.

import (
	"cmp"
	"math"
	"slices"
)

const (
	// sweeps is how often the cells of all columns are ordered by their neighbours, to and fro:
	// more moves little (Sugiyama, Tagawa, Toda: Methods for visual understanding of hierarchical
	// system structures, 1981).
	sweeps = 4
	// rowGap is the rows from a cell to the next one of its column: a line fits between them.
	rowGap = 2
)

// drawing is a graph in columns. Every edge leads to the next column: longer ones pass through
// cells of their own.
type drawing struct {
	columns [][]*cell
	rows    int
}

// cell is a place of a drawing.
type cell struct {
	name       string // a role, or role.port; "" = a line passes through
	owner      *cell  // of a port: the role, right above it
	ported     bool   // it has ports
	column     int
	row        int
	prev, next []*cell // in the columns beside
}

// newDrawing places the roles of a graph, which must have no cycle: in columns by their longest
// way from a start, each beside those it has edges with.
func newDrawing(g Graph) *drawing {
	d := &drawing{}
	column := columnsOf(g)
	places := make(map[string]*cell)
	for _, role := range g.Roles() {
		c := d.add(role, column[role])
		places[role] = c
		for _, e := range g.Out(role) {
			if places[e.Source()] == nil {
				port := d.add(e.Source(), column[role])
				port.owner, c.ported = c, true
				places[e.Source()] = port
			}
		}
	}
	lines := make(map[*cell]map[int]*cell) // by source and column: edges of one source share a line
	for _, e := range g.Edges {
		from, to := places[e.Source()], places[e.To]
		at := from
		for column := from.column + 1; column < to.column; column++ {
			if lines[from] == nil {
				lines[from] = make(map[int]*cell)
			}
			line := lines[from][column]
			if line == nil {
				line = d.add("", column)
				lines[from][column] = line
			}
			join(at, line)
			at = line
		}
		join(at, to)
	}
	d.order()
	d.settle()
	return d
}

// columnsOf is the roles' columns: as far right as the longest way to them, but starts right
// before the first role they lead to.
func columnsOf(g Graph) map[string]int {
	column := make(map[string]int)
	var place func(role string) int
	place = func(role string) int {
		at, known := column[role]
		if known {
			return at
		}
		for _, e := range g.In(role) {
			at = max(at, place(e.From)+1)
		}
		column[role] = at
		return at
	}
	for _, role := range g.Roles() {
		place(role)
	}
	for _, role := range g.Starters() {
		first := math.MaxInt
		for _, e := range g.Out(role) {
			first = min(first, column[e.To])
		}
		column[role] = first - 1
	}
	return column
}

func (d *drawing) add(name string, column int) *cell {
	for len(d.columns) <= column {
		d.columns = append(d.columns, nil)
	}
	c := &cell{name: name, column: column, row: rowGap * len(d.columns[column])}
	d.columns[column] = append(d.columns[column], c)
	return c
}

func join(a, b *cell) {
	if !slices.Contains(a.next, b) {
		a.next, b.prev = append(a.next, b), append(b.prev, a)
	}
}

// order sorts each column by where the neighbours are, so that few lines cross.
func (d *drawing) order() {
	for sweep := range sweeps {
		d.eachColumn(sweep%2 == 0, func(column []*cell, beside func(*cell) []*cell) {
			wish := make(map[*cell]float64, len(column))
			for _, c := range column {
				wish[c] = mean(c, beside)
			}
			slices.SortStableFunc(column, func(a, b *cell) int { return cmp.Compare(wish[a], wish[b]) })
			for i, c := range column {
				c.row = rowGap * i
			}
		})
	}
}

// settle moves the cells of each column to the rows of their neighbours, as far as their order
// and the gaps between them allow.
func (d *drawing) settle() {
	for sweep := range sweeps {
		d.eachColumn(sweep%2 == 0, func(column []*cell, beside func(*cell) []*cell) {
			wish := make([]float64, len(column))
			for i, c := range column {
				wish[i] = mean(c, beside)
				if c.owner != nil {
					wish[i]++
				}
			}
			spread(column, wish)
		})
	}
	top, bottom := math.MaxInt, math.MinInt
	for _, column := range d.columns {
		for _, c := range column {
			top, bottom = min(top, c.row), max(bottom, c.row)
		}
	}
	for _, column := range d.columns {
		for _, c := range column {
			c.row -= top
		}
	}
	d.rows = bottom - top + 1
}

// eachColumn visits the columns from left to right with the cells before, or from right to left
// with the cells after.
func (d *drawing) eachColumn(right bool, visit func([]*cell, func(*cell) []*cell)) {
	if right {
		for _, column := range d.columns {
			visit(column, func(c *cell) []*cell { return c.prev })
		}
		return
	}
	for _, column := range slices.Backward(d.columns) {
		visit(column, func(c *cell) []*cell { return c.next })
	}
}

// mean is the middle row of the cells beside c, its own where there is none; a port stays with
// its role.
func mean(c *cell, beside func(*cell) []*cell) float64 {
	if c.owner != nil {
		c = c.owner
	}
	cells := beside(c)
	if len(cells) == 0 {
		return float64(c.row)
	}
	sum := 0
	for _, other := range cells {
		sum += other.row
	}
	return float64(sum) / float64(len(cells))
}

// spread gives the cells of a column, which are in order, the rows that are nearest to their
// wishes: cells that would be too near to each other share what they lack (pool adjacent
// violators).
func spread(column []*cell, wish []float64) {
	offset := make([]float64, len(column)) // of a cell below the first one
	for i := 1; i < len(column); i++ {
		gap := float64(rowGap)
		if column[i].owner != nil {
			gap = 1
		}
		offset[i] = offset[i-1] + gap
	}
	type pool struct {
		from, to int
		at       float64 // of its first cell, less its offset
	}
	var pools []pool
	for i := range column {
		p := pool{i, i + 1, wish[i] - offset[i]}
		for n := len(pools); n > 0 && pools[n-1].at >= p.at; n = len(pools) {
			last := pools[n-1]
			a, b := float64(last.to-last.from), float64(p.to-p.from)
			p = pool{last.from, p.to, (last.at*a + p.at*b) / (a + b)}
			pools = pools[:n-1]
		}
		pools = append(pools, p)
	}
	for _, p := range pools {
		for i := p.from; i < p.to; i++ {
			column[i].row = int(math.Floor(p.at+0.5) + offset[i])
		}
	}
}
