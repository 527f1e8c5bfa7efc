package topology

// Pure: the text of a graph to its edges, with positions in errors.

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ParseError says where the text of a graph is wrong.
type ParseError struct {
	Line, Col int // from 1; Col counts characters
	Err       error
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("graph line %d, column %d: %v", e.Line, e.Col, e.Err)
}

// Unwrap returns what is wrong, without the place.
func (e *ParseError) Unwrap() error { return e.Err }

// Parse reads the text of a graph; an error is a *ParseError.
//
//	parser -> facebook, twitter -> merger -> db   # the comma binds tighter than the arrow
//	facebook.err -> errlog                        # a port: a named output of a role
//
// Chains are parted by the end of a line or by a semicolon; a line that ends or begins with an
// arrow or a comma goes on. "a | b" is "a -> b".
func Parse(text string) (Graph, error) {
	p := parser{lex: lexer{text: text, line: 1, col: 1}, build: New()}
	if err := p.graph(); err != nil {
		return Graph{}, err
	}
	return p.build.graph, nil
}

type parser struct {
	lex   lexer
	tok   token // the one being looked at
	build *Builder
	at    []token // of each edge: the name it leads to
}

// next goes to the next token. The end of a line is none where the chain goes on.
func (p *parser) next() error {
	last := p.tok
	tok, err := p.lex.token()
	for err == nil && tok.kind == lineEnd && last.kind != name {
		tok, err = p.lex.token()
	}
	if err == nil && tok.kind == lineEnd {
		err = p.joinLines(&tok)
	}
	p.tok = tok
	return err
}

// joinLines replaces the end of a line by what follows if that goes on with the chain.
func (p *parser) joinLines(tok *token) error {
	ahead := p.lex
	for {
		t, err := ahead.token()
		if err != nil {
			return err
		}
		if t.kind == arrow || t.kind == comma {
			p.lex, *tok = ahead, t
		}
		if t.kind != lineEnd {
			return nil
		}
	}
}

func (p *parser) graph() error {
	if err := p.next(); err != nil {
		return err
	}
	for p.tok.kind != textEnd {
		if p.tok.kind == lineEnd || p.tok.kind == semicolon {
			if err := p.next(); err != nil {
				return err
			}
			continue
		}
		if err := p.chain(); err != nil {
			return err
		}
	}
	g := p.build.graph
	if len(g.Edges) == 0 {
		return p.tok.fail(errors.New("the graph is empty: write a -> b"))
	}
	err := g.Check()
	if err == nil {
		return nil
	}
	at := p.at[len(p.at)-1]
	if c := (*cycleError)(nil); errors.As(err, &c) {
		at = p.closing(c.roles)
	}
	return at.fail(err)
}

// chain reads "a, b -> c -> d" to its end.
func (p *parser) chain() error {
	first := p.tok
	from, err := p.list()
	if err != nil {
		return err
	}
	if p.tok.kind != arrow {
		return p.unexpected("after " + first.text + " an arrow is missing")
	}
	for p.tok.kind == arrow {
		if err := p.next(); err != nil {
			return err
		}
		to, err := p.list()
		if err != nil {
			return err
		}
		if err := p.cross(from, to); err != nil {
			return err
		}
		from = to
	}
	switch p.tok.kind {
	case lineEnd, semicolon, textEnd:
		return nil
	}
	return p.unexpected("an arrow, a comma or the end of the line is missing")
}

// list reads "a, b".
func (p *parser) list() ([]token, error) {
	var names []token
	for {
		if p.tok.kind != name {
			return nil, p.unexpected("a role is missing")
		}
		names = append(names, p.tok)
		if err := p.next(); err != nil {
			return nil, err
		}
		if p.tok.kind != comma {
			return names, nil
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
}

// cross adds the edges from each name to each other.
func (p *parser) cross(from, to []token) error {
	for _, t := range to {
		if role, _, ok := strings.Cut(t.text, "."); ok {
			return t.fail(fmt.Errorf("an edge cannot lead to a port: lead it to %s, and begin a line with %s", role, t.text))
		}
		if err := CheckName(t.text); err != nil {
			return t.fail(err)
		}
	}
	for _, f := range from {
		s, err := parseSource(f.text)
		if err != nil {
			return f.fail(err)
		}
		for _, t := range to {
			if err := p.build.link(s, t.text); err != nil {
				return t.fail(err)
			}
			p.at = append(p.at, t)
		}
	}
	return nil
}

// closing is the last edge in the text of those of a cycle.
func (p *parser) closing(cycle []string) token {
	in := make(map[[2]string]bool)
	for i := range len(cycle) - 1 {
		in[[2]string{cycle[i], cycle[i+1]}] = true
	}
	var at token
	for i, e := range p.build.graph.Edges {
		if in[[2]string{e.From, e.To}] {
			at = p.at[i]
		}
	}
	return at
}

func (p *parser) unexpected(missing string) error {
	if p.tok.text == "" {
		return p.tok.fail(errors.New(missing))
	}
	return p.tok.fail(fmt.Errorf("%s before %q", missing, p.tok.text))
}

type kind int

const (
	name kind = iota + 1
	arrow
	comma
	semicolon
	lineEnd
	textEnd
)

type token struct {
	kind      kind
	text      string // "" for an end
	line, col int
}

func (t token) fail(err error) error { return &ParseError{t.line, t.col, err} }

// lexer cuts a text into tokens. It is a value: a copy looks ahead.
type lexer struct {
	text      string // what is left
	line, col int
}

func (l *lexer) token() (token, error) {
	l.skip()
	t := token{line: l.line, col: l.col}
	switch {
	case l.text == "":
		t.kind = textEnd
	case l.text[0] == '\n':
		t.kind = lineEnd
		l.text, l.line, l.col = l.text[1:], l.line+1, 1
	case strings.HasPrefix(l.text, "->"):
		t.kind, t.text = arrow, l.take(2)
	case l.text[0] == '|':
		t.kind, t.text = arrow, l.take(1)
	case l.text[0] == ',':
		t.kind, t.text = comma, l.take(1)
	case l.text[0] == ';':
		t.kind, t.text = semicolon, l.take(1)
	default:
		n := l.nameLen()
		if n == 0 {
			r, _ := utf8.DecodeRuneInString(l.text)
			return t, t.fail(fmt.Errorf("%q is not part of a graph: write a -> b, c -> d", r))
		}
		if n > len("..")+2*nameBytes { // longer than a role with its port, and not to be printed
			return t, t.fail(CheckName(l.text[:n]))
		}
		t.kind, t.text = name, l.take(n)
	}
	return t, nil
}

// take cuts n bytes off, all of them ASCII.
func (l *lexer) take(n int) string {
	s := l.text[:n]
	l.text, l.col = l.text[n:], l.col+n
	return s
}

// skip goes past blanks and a comment.
func (l *lexer) skip() {
	rest := strings.TrimLeft(l.text, " \t\r")
	l.col += len(l.text) - len(rest)
	l.text = rest
	if strings.HasPrefix(rest, "#") {
		end := strings.IndexByte(rest, '\n')
		if end < 0 {
			end = len(rest)
		}
		l.text = rest[end:]
		l.col += utf8.RuneCountInString(rest[:end])
	}
}

// nameLen is the bytes of the name that is next: dots are part of it, the dash of an arrow is not.
func (l *lexer) nameLen() int {
	for i, r := range l.text {
		if r != '.' && !isNameRune(r) || strings.HasPrefix(l.text[i:], "->") {
			return i
		}
	}
	return len(l.text)
}
