package spec

// Pure but for variables of the environment: sinks that are servers, databases or programs.

import (
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// URL is an address that may hold a password: string(u) has it, no other form shows it.
type URL string

func (u URL) String() string {
	scheme, rest, ok := strings.Cut(string(u), "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@')
	if !ok || at < 0 {
		return string(u)
	}
	user, _, has := strings.Cut(rest[:at], ":")
	if has {
		user += ":***"
	}
	return scheme + "://" + user + rest[at:]
}

// GoString is for %#v.
func (u URL) GoString() string { return u.String() }

// MarshalText is for JSON.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// Secret is a text that nobody shows: string(s) has it.
type Secret string

func (Secret) String() string { return "***" }

// GoString is for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalText is for JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// PostgresTable is a table that a sink fills.
type PostgresTable struct {
	URL   URL
	Table string // or SCHEMA.TABLE
}

// SQLiteTable is a table of a database that is a file.
type SQLiteTable struct {
	File  string // path; {node} in it stands for the node's ID
	Table string
}

// RedisStream is a stream that a sink appends to.
type RedisStream struct {
	URL    URL
	Stream string // {node} in it stands for the node's ID
	MaxLen int    `json:",omitempty"` // entries that the stream keeps, about; 0 = all
}

// Endpoint is where a sink posts to, or a role that is worked on elsewhere.
type Endpoint struct {
	URL     URL
	Header  map[string]Secret `json:",omitempty"`
	Timeout time.Duration     `json:",omitempty"` // 0 = 30 s
}

// Headers are the headers with what is secret in them.
func (e *Endpoint) Headers() map[string]string {
	plain := make(map[string]string, len(e.Header))
	for name, value := range e.Header {
		plain[name] = string(value)
	}
	return plain
}

// Limits of stores.
const (
	// tableBytesMax is what Postgres keeps of a name, in bytes (NAMEDATALEN - 1).
	tableBytesMax = 63
	// streamBytesMax is the most of a stream's name, in bytes: longer ones are mistakes.
	streamBytesMax = 512
	// headersMax is the most headers of an endpoint: as many as of a record.
	headersMax = 32
	// timeoutMax is the longest that an endpoint may take.
	timeoutMax = time.Hour
)

func (d *decoder) postgres(n ast.Node) (*PostgresTable, error) {
	var t PostgresTable
	err := d.mapping(n, "postgres", keys{
		"url": func(_, v ast.Node) (err error) {
			t.URL, err = d.url(v, "postgres", "postgresql")
			return err
		},
		"table": func(_, v ast.Node) (err error) {
			t.Table, err = d.table(v, 2)
			return err
		},
	})
	if err == nil && (t.URL == "" || t.Table == "") {
		err = d.fail(n, "postgres needs url and table, as in {url: 'postgres://${USER}:${PASSWORD}@db.example/app', table: lines}")
	}
	return &t, err
}

func (d *decoder) sqlite(n ast.Node) (*SQLiteTable, error) {
	var t SQLiteTable
	err := d.mapping(n, "sqlite", keys{
		"file": func(_, v ast.Node) (err error) {
			t.File, err = d.path(v, "file")
			return err
		},
		"table": func(_, v ast.Node) (err error) {
			t.Table, err = d.table(v, 1)
			return err
		},
	})
	if err == nil && (t.File == "" || t.Table == "") {
		err = d.fail(n, "sqlite needs file and table, as in {file: out.db, table: lines}")
	}
	return &t, err
}

func (d *decoder) redisStream(n ast.Node) (*RedisStream, error) {
	var s RedisStream
	err := d.mapping(n, "redis", keys{
		"url": func(_, v ast.Node) (err error) {
			s.URL, err = d.url(v, "redis", "rediss")
			return err
		},
		"stream": func(_, v ast.Node) (err error) {
			s.Stream, err = d.streamName(v)
			return err
		},
		"maxlen": func(_, v ast.Node) (err error) {
			s.MaxLen, err = d.number(v, "maxlen", 1, math.MaxInt)
			return err
		},
	})
	if err == nil && (s.URL == "" || s.Stream == "") {
		err = d.fail(n, "redis needs url and stream, as in {url: 'redis://127.0.0.1:6379', stream: lines}")
	}
	return &s, err
}

func (d *decoder) streamName(n ast.Node) (string, error) {
	s, err := d.expanded(n, "stream")
	if err == nil && len(s) > streamBytesMax {
		err = d.fail(n, "stream has %d bytes, it can have %d", len(s), streamBytesMax)
	}
	return s, err
}

// endpoint reads a URL, or a mapping with one.
func (d *decoder) endpoint(n ast.Node) (*Endpoint, error) {
	var e Endpoint
	var err error
	if _, ok := scalar(n); ok {
		e.URL, err = d.url(n, "http", "https")
		return &e, err
	}
	err = d.mapping(n, "http", keys{
		"url": func(_, v ast.Node) (err error) {
			e.URL, err = d.url(v, "http", "https")
			return err
		},
		"header": func(_, v ast.Node) (err error) {
			e.Header, err = d.header(v)
			return err
		},
		"timeout": func(_, v ast.Node) (err error) {
			e.Timeout, err = d.duration(v, "timeout", timeoutMax)
			return err
		},
	})
	if err == nil && e.URL == "" {
		err = d.fail(n, "http needs url, as in {url: 'https://example.org/in'}")
	}
	return &e, err
}

// header reads what is sent with each request.
func (d *decoder) header(n ast.Node) (map[string]Secret, error) {
	header := make(map[string]Secret)
	err := d.each(n, "header", func(name string, at, v ast.Node) error {
		if !isToken(name) {
			return d.fail(at, "%q is no name of a header", name)
		}
		text, err := d.expanded(v, name)
		if err == nil && strings.ContainsAny(text, "\r\n") {
			err = d.fail(v, "%s has more than one line", name)
		}
		header[name] = Secret(text)
		return err
	})
	if err == nil && len(header) > headersMax {
		err = d.fail(n, "header has %d entries, it can have %d", len(header), headersMax)
	}
	return header, err
}

// isToken reports whether HTTP lets s be the name of a header (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(c rune) bool {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		return !letter && !strings.ContainsRune("!#$%&'*+-.^_`|~", c)
	}) < 0
}

// expanded reads a text with variables in it.
func (d *decoder) expanded(n ast.Node, what string) (string, error) {
	s, err := d.text(n, what)
	if err != nil {
		return "", err
	}
	if s, err = d.expand(n, s); err == nil && s == "" {
		err = d.fail(n, "%s is empty", what)
	}
	return s, err
}

// url reads an address of one of the schemes. What is in it may be secret: no error repeats it.
func (d *decoder) url(n ast.Node, schemes ...string) (URL, error) {
	s, err := d.expanded(n, "url")
	if err != nil || strings.Contains(s, "${") || strings.Contains(s, asWrittenMark) {
		return URL(s), err // a variable without a value
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "", d.fail(n, "url cannot be read: special characters of a password are written as %%XX")
	case !slices.Contains(schemes, u.Scheme) || u.Host == "":
		return "", d.fail(n, "url must begin with %s:// and a host", strings.Join(schemes, ":// or "))
	case u.Query().Has("password"):
		return "", d.fail(n, "url has its password behind the question mark: write it before the host, as in %s://USER:PASSWORD@HOST", schemes[0])
	}
	return URL(s), nil
}

// table reads the name of a table, of at most so many parts.
func (d *decoder) table(n ast.Node, parts int) (string, error) {
	s, err := d.text(n, "table")
	if err != nil {
		return "", err
	}
	names := strings.Split(s, ".")
	for _, name := range names {
		if !isVariable(name) || len(name) > tableBytesMax || len(names) > parts {
			return "", d.fail(n, "table is %q: letters a-z and A-Z, digits and _ are allowed, %d at most", clip(s), tableBytesMax)
		}
	}
	return s, nil
}
