package main

import (
	"strings"
	"unicode/utf8"
)

// table is rows of cells under a head. A column whose head begins with > is set to the right.
type table struct {
	rows [][]string
}

func newTable(head ...string) *table { return &table{rows: [][]string{head}} }

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// writeTo sets the table with two spaces between columns, each line behind indent.
func (t *table) writeTo(b *strings.Builder, indent string) {
	head := t.rows[0]
	right := make([]bool, len(head))
	width := make([]int, len(head))
	for i, h := range head {
		head[i], right[i] = strings.CutPrefix(h, ">")
	}
	for _, row := range t.rows {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t.rows {
		line := indent
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if right[i] {
				line += pad + cell + "  "
			} else {
				line += cell + pad + "  "
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}
