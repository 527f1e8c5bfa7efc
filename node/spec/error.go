package spec

import (
	"fmt"
	"slices"
	"strings"
)

// Pos is a place in a pipeline file. Line and Col count from 1, Col in characters; Line 0 is the
// file as a whole.
type Pos struct {
	File      string
	Line, Col int
}

func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Error says what is wrong with a pipeline file, in a sentence.
type Error struct {
	Pos
	Text string
}

func (e *Error) Error() string { return e.Pos.String() + ": " + e.Text }

// NotYetError says that a pipeline file asks for what this version does not have.
type NotYetError struct {
	Pos
	What string // as written: merge, mode: line
}

func (e *NotYetError) Error() string { return fmt.Sprintf("%s: %q is not there yet", e.Pos, e.What) }

// sentenceBytesMax is the most of an error that is shown, in bytes: what the file says may be long.
const sentenceBytesMax = 500

// clip shortens an error that repeats too much of the file.
func clip(s string) string {
	if len(s) <= sentenceBytesMax {
		return s
	}
	return strings.ToValidUTF8(s[:sentenceBytesMax], "") + "…"
}

// Nearest returns the candidate that is most like word, "" if none is: half of a short word may
// be wrong, three characters of a longer one.
func Nearest(word string, candidates []string) string {
	best, bestDist := "", 1+min((len(word)+1)/2, 3)
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if d := distance(word, c); d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}

// distance is how many characters to put in, take out or change to make b from a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1) // to a[:i] from each b[:j]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// list names the candidates, as in "copy or split".
func list(words []string) string {
	n := len(words)
	if n == 1 {
		return words[0]
	}
	return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
}
