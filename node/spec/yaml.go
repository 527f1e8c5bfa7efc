package spec

// Pure: YAML nodes to Go values, each error with its place.

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of what the YAML parser is given, as it takes time with the square of either.
const (
	// nestingMax is how deep lists and mappings may be nested: the file needs 4 (measured: 5 s at
	// 50 000).
	nestingMax = 100
	// colonsMax is the most colons, each of which may end a key: 1000 roles with 10 each, and some
	// for scripts (measured: 8 s for 40 000 keys of one mapping).
	colonsMax = 16_000
)

// document parses text and returns its only document.
func (d *decoder) document(text []byte) (ast.Node, error) {
	if err := d.checkBytes(text); err != nil {
		return nil, err
	}
	// The YAML parser counts a CR LF as two lines.
	d.source = strings.ReplaceAll(strings.ReplaceAll(string(text), "\r\n", "\n"), "\r", "\n")
	if line, ok := tooDeep(d.source); ok {
		return nil, d.at(line, 1, "lists and mappings are nested more than %d deep", nestingMax)
	}
	if strings.Count(d.source, ":") > colonsMax {
		return nil, d.at(1, 1, "the file has more than %d keys", colonsMax)
	}
	file, err := parser.ParseBytes([]byte(d.source), 0)
	if err != nil {
		return nil, d.syntax(err)
	}
	var doc ast.Node
	for _, part := range file.Docs {
		switch {
		case part.Body == nil:
		case part.Body.Type() == ast.DirectiveType:
		case doc != nil:
			return nil, d.fail(part.Body, "a second document begins: a file holds one pipeline")
		default:
			doc = part.Body
		}
	}
	if doc == nil {
		return nil, d.at(1, 1, "the file is empty: it needs pipeline, graph and roles")
	}
	return doc, nil
}

// checkBytes refuses what is no UTF-8 text of a fit size.
func (d *decoder) checkBytes(text []byte) error {
	switch s := string(text[:min(len(text), 3)]); {
	case len(text) > fileBytesMax:
		return d.at(1, 1, "the file is larger than %d bytes", fileBytesMax)
	case s == "\ufeff":
		return d.at(1, 1, "the file begins with a byte order mark: save it as UTF-8 without one")
	case strings.HasPrefix(s, "\xff\xfe"), strings.HasPrefix(s, "\xfe\xff"):
		return d.at(1, 1, "the file is UTF-16: save it as UTF-8")
	}
	for i, line := range strings.Split(string(text), "\n") {
		for at, r := range line {
			if _, n := utf8.DecodeRuneInString(line[at:]); r == utf8.RuneError && n == 1 || r == 0 {
				return d.at(i+1, utf8.RuneCountInString(line[:at])+1, "the byte 0x%02x is not part of a text: save the file as UTF-8", line[at])
			}
		}
	}
	return nil
}

// tooDeep returns the line where brackets or list dashes are nested too deep. Brackets in quotes
// count too; no file in its senses has that many.
func tooDeep(text string) (line int, ok bool) {
	open := 0
	for i, l := range strings.Split(text, "\n") {
		dashes := 0
		for rest := l; ; dashes++ {
			after, ok := strings.CutPrefix(strings.TrimLeft(rest, " "), "- ")
			if !ok {
				break
			}
			rest = after
		}
		for _, c := range l {
			switch c {
			case '[', '{':
				open++
			case ']', '}':
				open = max(open-1, 0)
			}
			if open > nestingMax || dashes > nestingMax {
				return i + 1, true
			}
		}
	}
	return 0, false
}

// syntax words an error of the YAML parser.
func (d *decoder) syntax(err error) error {
	var y yaml.Error
	if !errors.As(err, &y) || y.GetToken() == nil {
		return d.at(1, 1, "this is not YAML: %v", err)
	}
	pos, text := y.GetToken().Position, y.GetMessage()
	lines := strings.Split(d.source, "\n")
	if key, _, ok := strings.Cut(text, " already defined"); ok {
		return d.at(pos.Line, pos.Column, "the %s is there twice", strings.TrimPrefix(key, "mapping "))
	}
	if strings.Contains(text, "'\t'") && pos.Line <= len(lines) {
		return d.at(pos.Line, strings.IndexByte(lines[pos.Line-1], '\t')+1, "a tab cannot indent YAML: use spaces")
	}
	return d.at(pos.Line, pos.Column, "this is not YAML: %s", text)
}

// at makes an error of a place.
func (d *decoder) at(line, col int, format string, args ...any) error {
	return &Error{Pos{d.name, line, col}, clip(fmt.Sprintf(format, args...))}
}

// fail makes an error of the place of n.
func (d *decoder) fail(n ast.Node, format string, args ...any) error {
	return &Error{d.pos(n), clip(fmt.Sprintf(format, args...))}
}

func (d *decoder) notYet(n ast.Node, what string) error {
	return &NotYetError{d.pos(n), what}
}

func (d *decoder) pos(n ast.Node) Pos {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key // the mapping's own token is its first colon
	}
	p := n.GetToken().Position
	return Pos{d.name, p.Line, p.Column}
}

// keys says what to do with the value of each key of a mapping.
type keys map[string]func(key, value ast.Node) error

// mapping reads n, which is what. Keys in later are known and refused.
func (d *decoder) mapping(n ast.Node, what string, known keys, later ...string) error {
	return d.each(n, what, func(key string, at, value ast.Node) error {
		if read := known[key]; read != nil {
			return read(at, value)
		}
		if slices.Contains(later, key) {
			return d.notYet(at, key)
		}
		names := slices.Sorted(maps.Keys(known))
		if near := Nearest(key, names); near != "" {
			return d.fail(at, "%s has no key %q: did you mean %q?", what, key, near)
		}
		return d.fail(at, "%s has no key %q: it can have %s", what, key, list(names))
	})
}

// each calls f for every pair of the mapping n, which is what.
func (d *decoder) each(n ast.Node, what string, f func(key string, at, value ast.Node) error) error {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return d.fail(n, "%s must be a mapping, as in key: value, not %s", what, shape(n))
	}
	for _, v := range m.Values {
		if err := f(keyText(v.Key), v.Key, v.Value); err != nil {
			return err
		}
	}
	return nil
}

// keyText is a key as written, without quotes.
func keyText(key ast.MapKeyNode) string {
	if s, ok := key.(*ast.StringNode); ok {
		return s.Value
	}
	return key.GetToken().Value
}

// scalar is the text of a scalar, of a number as written.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// text reads a scalar that is not empty.
func (d *decoder) text(n ast.Node, what string) (string, error) {
	s, ok := scalar(n)
	switch {
	case !ok:
		return "", d.fail(n, "%s must be text, not %s", what, shape(n))
	case strings.TrimSpace(s) == "":
		return "", d.fail(n, "%s is empty", what)
	case strings.ContainsRune(s, 0):
		return "", d.fail(n, "%s has a NUL character in it", what)
	}
	return s, nil
}

// word reads one of words; those in later are known and refused.
func (d *decoder) word(n ast.Node, key string, words []string, later ...string) (string, error) {
	s, ok := scalar(n)
	switch {
	case !ok:
		return "", d.fail(n, "%s must be %s, not %s", key, list(words), shape(n))
	case slices.Contains(later, s):
		return "", d.notYet(n, key+": "+s)
	case !slices.Contains(words, s):
		return "", d.fail(n, "%s must be %s, not %q", key, list(words), s)
	}
	return s, nil
}

// number reads a whole number from low to high.
func (d *decoder) number(n ast.Node, what string, low, high int) (int, error) {
	s, ok := scalar(n)
	if !ok {
		return 0, d.fail(n, "%s must be a number, not %s", what, shape(n))
	}
	i, err := strconv.Atoi(strings.ReplaceAll(s, "_", ""))
	if err != nil {
		return 0, d.fail(n, "%s must be a whole number, not %q", what, s)
	}
	if i < low {
		return 0, d.fail(n, "%s is %d, it must be at least %d", what, i, low)
	}
	if i > high {
		return 0, d.fail(n, "%s is %d, it can be at most %d", what, i, high)
	}
	return i, nil
}

// size reads bytes, as 4096 or 4KiB or 1MiB, from 1 to high.
func (d *decoder) size(n ast.Node, what string, high int) (int, error) {
	s, ok := scalar(n)
	if !ok {
		return 0, d.fail(n, "%s must be a size as 4MiB, not %s", what, shape(n))
	}
	digits, unit := s, 1
	for suffix, bytes := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if before, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = strings.TrimSpace(before), bytes
		}
	}
	i, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, d.fail(n, "%s must be a size as 4MiB or 65536, not %q", what, s)
	}
	if i == 0 || i > uint64(high/unit) {
		return 0, d.fail(n, "%s is %s, it can be 1 byte to %d MiB", what, s, high>>20)
	}
	return int(i) * unit, nil
}

// duration reads a time, as 500ms or 2m, from 1 ms to high.
func (d *decoder) duration(n ast.Node, what string, high time.Duration) (time.Duration, error) {
	s, ok := scalar(n)
	if !ok {
		return 0, d.fail(n, "%s must be a time as 30s, not %s", what, shape(n))
	}
	t, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, d.fail(n, "%s must be a time as 30s or 2m, not %q", what, s)
	case t < time.Millisecond || t > high:
		return 0, d.fail(n, "%s is %s, it can be 1ms to %gh", what, s, high.Hours())
	}
	return t, nil
}

// values reads a list with at least one value.
func (d *decoder) values(n ast.Node, what, example string) ([]ast.Node, error) {
	l, ok := n.(*ast.SequenceNode)
	if !ok {
		return nil, d.fail(n, "%s must be a list, as in %s, not %s", what, example, shape(n))
	}
	if len(l.Values) == 0 {
		return nil, d.fail(n, "%s is empty", what)
	}
	return l.Values, nil
}

// shape says what a node is to somebody who expected something else.
func shape(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "an empty value"
	case *ast.AliasNode, *ast.AnchorNode:
		return "an alias (& and * are not read)"
	case *ast.TagNode:
		return "a tag (! is not read)"
	default:
		if s, ok := scalar(n); ok {
			return strconv.Quote(s)
		}
		return "this"
	}
}

// offset is the place of line and col of the text of n, a scalar, in the file: that of n where
// quotes or folding hide it.
func (d *decoder) offset(n ast.Node, line, col int) Pos {
	at := d.pos(n)
	s, _ := scalar(n)
	inner, outer := strings.Split(s, "\n"), strings.Split(d.source, "\n")
	first, from := at.Line, at.Col-1
	if l, ok := n.(*ast.LiteralNode); ok {
		if l.Start.Type != token.LiteralType {
			return at
		}
		first, from = at.Line+1, 0
	}
	if line > len(inner) || first+line-1 > len(outer) || line > 1 && from > 0 {
		return at
	}
	runes := []rune(outer[first+line-2])
	if from > len(runes) {
		return at
	}
	before, _, ok := strings.Cut(string(runes[from:]), inner[line-1])
	if !ok {
		return at
	}
	return Pos{d.name, first + line - 1, from + utf8.RuneCountInString(before) + col}
}
