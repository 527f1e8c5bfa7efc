package spec

// Pure but for variables of the environment: taps.

import (
	"errors"
	"fmt"
	"math"
	"net"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"weir/topology"
)

// tap reads "stdin", "put" or a mapping.
func (d *decoder) tap(n ast.Node) (*Tap, error) {
	var t Tap
	switch text, _ := scalar(n); text {
	case "stdin":
		t.Stdin = true
		return &t, nil
	case "put":
		t.Put = true
		return &t, nil
	}
	kinds := []string{"file", "glob", "directory", "stdin", "generate", "http", "redis", "exec", "sh", "put"}
	var followAt ast.Node
	err := d.one(n, "tap", kinds, keys{
		"file": func(_, v ast.Node) (err error) {
			t.File, err = d.path(v, "file")
			return err
		},
		"glob": func(_, v ast.Node) (err error) {
			t.Glob, err = d.globs(v)
			return err
		},
		"directory": func(_, v ast.Node) error {
			dir, err := d.path(v, "directory")
			literal := strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)
			t.Glob = []string{literal.Replace(dir) + "/*"}
			return err
		},
		"stdin": func(_, v ast.Node) error {
			t.Stdin = true
			return d.yes(v, "stdin")
		},
		"generate": func(_, v ast.Node) (err error) {
			t.Generate, err = d.generate(v)
			return err
		},
		"http": func(_, v ast.Node) (err error) {
			t.HTTP, err = d.httpTap(v)
			return err
		},
		"redis": func(_, v ast.Node) (err error) {
			t.Redis, err = d.redisTap(v)
			return err
		},
		"exec": func(_, v ast.Node) (err error) { t.Exec, err = d.argv(v); return err },
		"sh":   func(_, v ast.Node) (err error) { t.Sh, err = d.text(v, "sh"); return err },
		"follow": func(at, v ast.Node) error {
			t.Follow, followAt = true, at
			return d.yes(v, "follow")
		},
		"put": func(_, v ast.Node) error {
			t.Put = true
			return d.yes(v, "put")
		},
	})
	if err == nil && t.Follow && t.File == "" {
		err = d.fail(followAt, "tap has follow, which goes with file")
	}
	return &t, err
}

// takeover reads how long the nodes of a shared tap wait for one that is gone.
func (d *decoder) takeover(n ast.Node) (time.Duration, error) {
	if s, ok := scalar(n); ok && s == "never" {
		return topology.TakeoverNever, nil
	}
	return d.duration(n, "takeover", takeoverMax)
}

// fitsTap checks that the keys of a tap's role go with its kind.
func (d *decoder) fitsTap(what string, r Role, seen map[string]ast.Node) error {
	switch n := seen["shared"]; {
	case n != nil && !r.Tap.sharable():
		return d.fail(n, "%s has shared, which goes with file or glob: what else can be read on several nodes is shared anyway", what)
	case r.Tap.Follow && r.Records == "block":
		return d.fail(seen["records"], "%s has records: block, and a tap that follows cuts lines: a block would wait for more of them", what)
	case seen["records"] != nil && (r.Tap.HTTP != nil || r.Tap.Redis != nil || r.Tap.Put):
		return d.fail(seen["records"], "%s has records, which goes with taps of text: each request or entry is a record", what)
	case seen["takeover"] != nil && !r.Shared && r.Tap.Redis == nil:
		return d.fail(seen["takeover"], "%s has takeover, which goes with shared: true: what only one node can read waits for that node", what)
	}
	return nil
}

// sharable reports whether the nodes of a role may see the same of it.
func (t *Tap) sharable() bool { return t.File != "" || len(t.Glob) > 0 }

func (d *decoder) redisTap(n ast.Node) (*RedisTap, error) {
	var r RedisTap
	err := d.mapping(n, "redis", keys{
		"url":    func(_, v ast.Node) (err error) { r.URL, err = d.url(v, "redis", "rediss"); return err },
		"stream": func(_, v ast.Node) (err error) { r.Stream, err = d.streamName(v); return err },
		"field":  func(_, v ast.Node) (err error) { r.Field, err = d.text(v, "field"); return err },
	})
	if err == nil && (r.URL == "" || r.Stream == "") {
		err = d.fail(n, "redis needs url and stream, as in {url: 'redis://127.0.0.1:6379', stream: lines}")
	}
	return &r, err
}

// httpTap reads an address, or a mapping.
func (d *decoder) httpTap(n ast.Node) (*HTTPTap, error) {
	h := HTTPTap{Path: "/"}
	listen := func(_, v ast.Node) error {
		s, err := d.text(v, "listen")
		if err != nil {
			return err
		}
		if h.Listen, err = d.expand(v, s); err != nil {
			return err
		}
		host, port, err := net.SplitHostPort(h.Listen)
		if p, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || p == 0 {
			return d.fail(v, "listen is %q: write it as ':8080', which is 127.0.0.1, or as '10.0.0.1:8080'", h.Listen)
		}
		if host == "" {
			h.Listen = "127.0.0.1:" + port
		}
		return nil
	}
	if _, ok := scalar(n); ok {
		return &h, listen(nil, n)
	}
	err := d.mapping(n, "http", keys{
		"listen": listen,
		"path": func(_, v ast.Node) (err error) {
			h.Path, err = d.text(v, "path")
			if err == nil && (!strings.HasPrefix(h.Path, "/") || strings.ContainsAny(h.Path, "?# ")) {
				err = d.fail(v, "path is %q: write it as /in", h.Path)
			}
			return err
		},
	})
	if err == nil && h.Listen == "" {
		err = d.fail(n, "http needs listen, as in {listen: ':8080'}")
	}
	return &h, err
}

// globs reads a pattern or a list of them.
func (d *decoder) globs(n ast.Node) ([]string, error) {
	values := []ast.Node{n}
	if _, ok := n.(*ast.SequenceNode); ok {
		var err error
		if values, err = d.values(n, "glob", "['logs/*.txt']"); err != nil {
			return nil, err
		}
	}
	var globs []string
	for _, v := range values {
		g, err := d.path(v, "glob")
		if err != nil {
			return nil, err
		}
		if err := CheckGlob(g); err != nil {
			return nil, d.fail(v, "glob: %v", err)
		}
		globs = append(globs, g)
	}
	return globs, nil
}

// CheckGlob returns what is wrong with the pattern of a glob, on any machine.
func CheckGlob(pattern string) error {
	if pattern == "" {
		return errors.New("the pattern is empty")
	}
	for seg := range strings.SplitSeq(pattern, "/") {
		if _, err := path.Match(seg, ""); err != nil {
			return errors.New("a bracket is not closed, or a backslash is last")
		}
		if seg != "**" && strings.Contains(seg, "**") {
			return fmt.Errorf("%q: ** stands alone between slashes", seg)
		}
	}
	return nil
}

func (d *decoder) generate(n ast.Node) (*Generate, error) {
	var g Generate
	err := d.mapping(n, "generate", keys{
		"records": func(_, v ast.Node) (err error) {
			g.Records, err = d.number(v, "records", 1, math.MaxInt)
			return err
		},
		"size": func(_, v ast.Node) (err error) {
			g.Size, err = d.size(v, "size", topology.RecordBytesCeiling)
			return err
		},
		"rate": func(_, v ast.Node) (err error) {
			g.Rate, err = d.number(v, "rate", 1, math.MaxInt)
			return err
		},
	})
	return &g, err
}
