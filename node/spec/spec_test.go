package spec_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weir/node/spec"
	"weir/topology"
)

var update = flag.Bool("update", false, "rewrite the answers in testdata")

// golden runs the script testdata/NAME: cases of input, a line "----" and the answer, parted by
// lines "====".
func golden(t *testing.T, name string, answer func(input string) string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for c := range strings.SplitSeq(string(text), "====\n") {
		input, want, _ := strings.Cut(c, "----\n")
		got := strings.TrimSuffix(answer(input), "\n") + "\n"
		out = append(out, input+"----\n"+got)
		if got != want && !*update {
			t.Errorf("%s: of\n%sgot\n%swant\n%s", path, input, got, want)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.Join(out, "====\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestErrors reads files with something wrong, and one without at the end.
func TestErrors(t *testing.T) {
	golden(t, "errors.txt", func(input string) string {
		f, err := spec.Parse("f.yaml", []byte(input), nil)
		if err == nil {
			err = f.Unset()
		}
		if err == nil {
			return "no error"
		}
		if kind := (*spec.NotYetError)(nil); errors.As(err, &kind) {
			return "not yet: " + err.Error()
		}
		return err.Error()
	})
}

func TestLint(t *testing.T) {
	golden(t, "lint.txt", func(input string) string {
		f, err := spec.Parse("/etc/f.yaml", []byte(input), nil)
		if err != nil {
			return err.Error()
		}
		var out []string
		for _, p := range f.Lint() {
			out = append(out, p.String())
		}
		return strings.Join(out, "\n")
	})
}

const full = `# every key there is
pipeline: enrich
record-max: 4MiB
graph: |
  parser -> facebook, twitter -> out
  again, made, typed -> twitter
  made -> nothing
  typed -> shown
roles:
  parser:   {tap: {file: users.jsonl}, records: line}
  again:    {tap: {glob: ['a/**/*.txt', "/abs/${WHAT}-*.txt"]}}
  made:     {tap: {generate: {records: 1_000, size: 1KiB, rate: 50}}, send: split}
  typed:    {tap: stdin}
  facebook: {exec: [./facebook.sh, -n, 1, true, "${WHAT}", '$${WHAT}', './x'], nodes: 2, capacity: 10, procs: 3, ok: [3, 2, 3], needs: [pipe-29, gpu, gpu]}
  twitter:
    sh: |
      grep -v "$X" | # keep
      grep ${Y}
    mode: each
    output: replace
  out:      {sink: {file: "out-{node}.jsonl"}, nodes: 2}
  nothing:  {sink: discard}
  shown:    {sink: {stdout: true}}
edges:
  parser -> facebook, twitter: {by: any}
  made -> nothing: {}
`

func TestParse(t *testing.T) {
	f, err := spec.Parse("/etc/weir/enrich.yaml", []byte(full), map[string]string{"WHAT": "this"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := topology.Parse("parser -> facebook, twitter -> out\nagain, made, typed -> twitter\nmade -> nothing\ntyped -> shown")
	if err != nil {
		t.Fatal(err)
	}
	each := topology.KindEach
	want := &spec.File{
		Dir: "/etc/weir",
		Pipeline: topology.Pipeline{
			Name: "enrich", Graph: g, RecordMax: 4 << 20,
			Roles: []topology.Role{
				{Name: "again", Kind: topology.KindTap, Records: "block"},
				{Name: "facebook", Kind: each, Needs: []string{"gpu", "pipe-29"}},
				{Name: "made", Kind: topology.KindTap, Records: "line", Send: topology.SendSplit},
				{Name: "nothing", Kind: topology.KindSink},
				{Name: "out", Kind: topology.KindSink},
				{Name: "parser", Kind: topology.KindTap, Records: "line"},
				{Name: "shown", Kind: topology.KindSink},
				{Name: "twitter", Kind: each},
				{Name: "typed", Kind: topology.KindTap, Records: "line"},
			},
		},
		Roles: map[string]spec.Role{
			"parser": {Tap: &spec.Tap{File: "/etc/weir/users.jsonl"}, Records: "line", Nodes: 1},
			"again":  {Tap: &spec.Tap{Glob: []string{"/etc/weir/a/**/*.txt", "/abs/this-*.txt"}}, Records: "block", Nodes: 1},
			"made": {Tap: &spec.Tap{Generate: &spec.Generate{Records: 1000, Size: 1024, Rate: 50}},
				Records: "line", Nodes: 1, Send: topology.SendSplit},
			"typed": {Tap: &spec.Tap{Stdin: true}, Records: "line", Nodes: 1},
			"facebook": {Exec: []string{"/etc/weir/facebook.sh", "-n", "1", "true", "this", "${WHAT}", "./x"},
				Mode: each, Nodes: 2, Capacity: 10, Procs: 3, OK: []int{0, 2, 3}, Needs: []string{"gpu", "pipe-29"}},
			"twitter": {Sh: "grep -v \"$X\" | # keep\ngrep ${Y}\n", Mode: each, Nodes: 1, OK: []int{0, 1}},
			"out":     {Sink: &spec.Sink{File: "/etc/weir/out-{node}.jsonl"}, Nodes: 2},
			"nothing": {Sink: &spec.Sink{Discard: true}, Nodes: 1},
			"shown":   {Sink: &spec.Sink{Stdout: true}, Nodes: 1},
		},
	}
	if diff := cmp.Diff(want, f, cmpopts.IgnoreUnexported(spec.File{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if ps := f.Lint(); len(ps) != 0 {
		t.Errorf("Lint: %v", ps)
	}
	for _, ends := range []string{"\r\n", "\r"} {
		again, err := spec.Parse("/etc/weir/enrich.yaml", []byte(strings.ReplaceAll(full, "\n", ends)), map[string]string{"WHAT": "this"})
		if diff := cmp.Diff(f, again, cmpopts.IgnoreUnexported(spec.File{})); err != nil || diff != "" {
			t.Errorf("with line ends %q: %v\n%s", ends, err, diff)
		}
	}
}

func TestRecords(t *testing.T) {
	for graph, want := range map[string]string{
		"in -> work -> out":            "block",
		"in -> work, more -> out":      "block",
		"in -> out\nin -> work -> out": "line",
		"in -> out":                    "line",
	} {
		text := "pipeline: p\nroles:\n  in: {tap: stdin}\n  out: {sink: stdout}\n"
		for _, r := range []string{"work", "more"} {
			if strings.Contains(graph, r) {
				text += "  " + r + ": {sh: cat}\n"
			}
		}
		text += "graph: |\n  " + strings.ReplaceAll(graph, "\n", "\n  ") + "\n"
		f, err := spec.Parse("f.yaml", []byte(text), nil)
		if err != nil {
			t.Errorf("%s: %v", graph, err)
			continue
		}
		if r, _ := f.Pipeline.Role("in"); r.Records != want || f.Roles["in"].Records != want {
			t.Errorf("%s: the tap cuts by %s and %s, want %s", graph, r.Records, f.Roles["in"].Records, want)
		}
	}
}

// What has no place in a golden script because nobody could see it there.
func TestOddBytes(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "f.yaml:1:1: the file is empty: it needs pipeline, graph and roles",
		"\n \n":                          "f.yaml:1:1: the file is empty: it needs pipeline, graph and roles",
		"\ufeffpipeline: p\n":            "f.yaml:1:1: the file begins with a byte order mark: save it as UTF-8 without one",
		"\xff\xfep\x00":                  "f.yaml:1:1: the file is UTF-16: save it as UTF-8",
		"pipeline: p\n# é\xe9\n":         "f.yaml:2:4: the byte 0xe9 is not part of a text: save the file as UTF-8",
		"pipeline: p\x00\n":              "f.yaml:1:12: the byte 0x00 is not part of a text: save the file as UTF-8",
		"pipeline: \"p\\0\"\n":           "f.yaml:1:11: pipeline has a NUL character in it",
		"pipeline: p\nroles:\n\ta: b\n":  "f.yaml:3:1: a tab cannot indent YAML: use spaces",
		"roles:\r\n  a:\r\n  \t- b\r\n":  "f.yaml:3:3: a tab cannot indent YAML: use spaces",
		"pipeline: p\r\nx: 1\r\n":        "f.yaml:2:1: the file has no key \"x\": it can have edges, graph, pipeline, record-max or roles",
		"a: " + strings.Repeat("[", 5e4): "f.yaml:1:1: lists and mappings are nested more than 100 deep",
		"\n" + strings.Repeat("- ", 5e4): "f.yaml:2:1: lists and mappings are nested more than 100 deep",
		strings.Repeat("x", 1e5):         "f.yaml:1:1: the file must be a mapping, as in key: value, not \"" + strings.Repeat("x", 449) + "…",
		strings.Repeat("a:\n", 16001):    "f.yaml:1:1: the file has more than 16000 keys",
		strings.Repeat("#", 1<<18+1):     "f.yaml:1:1: the file is larger than 262144 bytes",
	} {
		_, err := spec.Parse("f.yaml", []byte(text), nil)
		if err == nil || err.Error() != want {
			t.Errorf("%.20q: got %v, want %s", text, err, want)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f.yaml")
	if err := os.WriteFile(path, []byte(full), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WHAT", "environment")
	f, err := spec.Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := f.Roles["facebook"].Exec[0], filepath.Join(dir, "facebook.sh"); f.Dir != dir || got != want {
		t.Errorf("Dir %s, program %s, want %s and %s", f.Dir, got, dir, want)
	}
	if got := f.Roles["again"].Tap.Glob[1]; got != "/abs/environment-*.txt" {
		t.Errorf("glob %s", got)
	}
	t.Chdir(dir)
	if f, err = spec.Load("f.yaml", map[string]string{"WHAT": "set"}); err != nil {
		t.Fatal(err)
	}
	if got := f.Roles["again"].Tap.Glob[1]; got != "/abs/set-*.txt" || !filepath.IsAbs(f.Dir) {
		t.Errorf("glob %s, Dir %s", got, f.Dir)
	}

	if err := os.WriteFile("big.yaml", []byte(strings.Repeat("#\n", 1<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("secret.yaml", nil, 0); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"none.yaml":   "none.yaml: there is no such file",
		dir:           dir + ": this is a directory: name the pipeline file in it",
		"big.yaml":    "big.yaml:1:1: the file is larger than 262144 bytes",
		"secret.yaml": "secret.yaml: the file may not be read by this user",
	} {
		if path == "secret.yaml" && os.Geteuid() == 0 {
			continue // root may read everything
		}
		if _, err := spec.Load(path, nil); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// A File may be made in Go, as weir pipe does.
func TestResolve(t *testing.T) {
	g, err := topology.New().From("in").To("work").To("out").Graph()
	if err != nil {
		t.Fatal(err)
	}
	f := &spec.File{
		Pipeline: topology.Pipeline{Name: "pipe", Graph: g},
		Roles: map[string]spec.Role{
			"in":   {Tap: &spec.Tap{Stdin: true}},
			"work": {Sh: "sort | grep x"},
			"out":  {Sink: &spec.Sink{Stdout: true}},
		},
	}
	for range 2 { // the second time changes nothing
		if err := f.Resolve(); err != nil {
			t.Fatal(err)
		}
	}
	want := []topology.Role{
		{Name: "in", Kind: topology.KindTap, Records: "block"},
		{Name: "out", Kind: topology.KindSink},
		{Name: "work", Kind: topology.KindEach},
	}
	if diff := cmp.Diff(want, f.Pipeline.Roles); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{0, 1}, f.Roles["work"].OK); diff != "" {
		t.Error(diff)
	}
	if ps := f.Lint(); len(ps) != 1 || ps[0].Severity != spec.SeverityWarning || ps[0].Role != "work" {
		t.Errorf("Lint: %v", ps)
	}
}

// place is how every error of Parse begins.
var place = regexp.MustCompile(`^f\.yaml:[1-9][0-9]*:[1-9][0-9]*: .`)

func FuzzParse(f *testing.F) {
	f.Add(full)
	for _, seed := range []string{
		"pipeline: p\ngraph: a -> b\nroles: {a: {tap: stdin}, b: {sink: discard}}",
		"graph: |2-\n\n   a -> \n", "graph: >\n  a ->\n  b c\n", "graph: 'a\n\n  -> ü'", "? a\n: b", "<<: *x", "a: &x [*x]",
		"roles:\n  a: !!str x", "---\n...\n---\n", "%YAML 1.2\n---\na: 1", "edges:\n  a ->: {}", "\"graph\": \"a -> \\u00fc\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := spec.Parse("f.yaml", []byte(text), map[string]string{"X": "y"})
		if err == nil {
			if err := file.Pipeline.Validate(); err != nil {
				t.Fatalf("%q was read but is not valid: %v", text, err)
			}
			file.Lint()
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			if !place.MatchString(line) {
				t.Fatalf("%q: the error %q has no place", text, line)
			}
		}
	})
}

// A password is in no form that is printed, logged or hashed.
func TestSecrets(t *testing.T) {
	f, err := spec.Parse("/p.yaml", []byte("pipeline: p\ngraph: in -> a, b -> c\nroles:\n  in: {tap: stdin}\n"+
		"  a: {sh: cat}\n  b: {sh: cat}\n  c: {sink: {http: {url: 'https://u:c4nary@h:1/p@q', header: {Authorization: 'c4nary'}}}}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	h := f.Roles["c"].Sink.HTTP
	text, err := json.Marshal(f.Roles)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprintf("%v %+v %#v %s %q", h, *h, *h, h.URL, h.Header), string(text)} {
		if strings.Contains(shown, "c4nary") || !strings.Contains(shown, "https://u:***@h:1/p@q") {
			t.Errorf("shown: %s", shown)
		}
	}
	if string(h.URL) != "https://u:c4nary@h:1/p@q" || string(h.Header["Authorization"]) != "c4nary" {
		t.Error("the sink does not get them")
	}
}

// A program of mode: line stays: it has no exit codes, and is fed lines.
func TestModeLine(t *testing.T) {
	f, err := spec.Parse("/p.yaml", []byte("pipeline: p\ngraph: in -> a, b -> out\nroles:\n  in: {tap: stdin}\n"+
		"  a: {exec: [grep, x], mode: line, deadline: 1m30s}\n  b: {sh: cat}\n  out: {sink: stdout}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := spec.Role{Exec: []string{"grep", "x"}, Mode: topology.KindLine, Nodes: 1, Deadline: 90 * time.Second}
	if diff := cmp.Diff(want, f.Roles["a"]); diff != "" {
		t.Error(diff)
	}
	if f.Roles["in"].Records != "line" {
		t.Errorf("the tap cuts by %s", f.Roles["in"].Records)
	}
	if r, _ := f.Pipeline.Role("a"); r.Kind != topology.KindLine {
		t.Errorf("the log has the kind %s", r.Kind)
	}
}

// Program is the same for files that say the same, wherever they are, and for no others. Nodes of
// different versions compare them: they may not change.
func TestProgram(t *testing.T) {
	program := func(dir, text string, set map[string]string) string {
		t.Helper()
		graph, others := "in -> a -> out", "  in: {tap: stdin}\n  out: {sink: stdout}\n"
		switch {
		case strings.HasPrefix(text, "tap"):
			graph, others = "a -> out", "  out: {sink: stdout}\n"
		case strings.HasPrefix(text, "sink"):
			graph, others = "in -> a", "  in: {tap: stdin}\n"
		}
		f, err := spec.Parse(dir+"/p.yaml", []byte("pipeline: p\ngraph: "+graph+"\nroles:\n  a: {"+text+"}\n"+others), set)
		if err != nil {
			t.Fatal(err)
		}
		return f.Program("a")
	}
	seen := make(map[string]string)
	for _, same := range [][]string{ // what roles can be
		{"exec: [./f.sh, '${X}']", "exec: [f/../f.sh, '${X}']", "exec: ['./f.sh', \"${X}\"], mode: each, ok: [0], nodes: 3, procs: 2, capacity: 9, needs: gpu, send: split"},
		{"exec: [f.sh, '${X}']"},
		{"exec: [./f.sh, '${Y}']"},
		{"exec: [./f.sh, 'x']"},
		{"exec: [./f.sh, '$${X}']"},
		{"exec: [./f.sh, '${X}'], ok: [3]"},
		{"exec: [./f.sh, '${X}'], mode: line", "exec: [./f.sh, '${X}'], mode: line, deadline: 3s, attempts: 5"},
		{"exec: [./f.sh, '${X}'], mode: frame"},
		{"http: 'http://h/${X}'", "http: {url: 'http://h/${X}'}, attempts: 2, capacity: 7"},
		{"http: {url: 'http://h/${X}', header: {a: b}}"},
		{"sh: './f.sh ${X}'"},
		{"sh: grep x", "sh: grep x, ok: [1]"},
		{"tap: stdin", "tap: {stdin: true}, records: block"},
		{"tap: {file: '${X}/a'}", "tap: {file: './${X}/a'}"},
		{"tap: {glob: a}", "tap: {glob: [a]}"},
		{"tap: {generate: {size: 1KiB}}", "tap: {generate: {size: 1024}}"},
		{"sink: {file: out}", "sink: {file: out, append: false}"},
		{"sink: {file: out, append: true}"},
		{"sink: discard", "sink: {discard: true}"},
		{"sink: {sqlite: {file: a, table: t}}", "sink: {sqlite: {table: t, file: ./a}}"},
		{"sink: {postgres: {url: 'postgres://u:${Y}@h/d', table: t}}", "sink: {postgres: {url: 'postgres://u:typed@h/d', table: t}}"},
		{"sink: {postgres: {url: 'postgres://${Y}@h/d', table: t}}"},
		{"sink: {redis: {url: 'redis://h', stream: '${X}-{node}'}}"},
		{"sink: {http: 'http://h'}", "sink: {http: {url: 'http://h'}}"},
		{"sink: {http: {url: 'http://h', header: {a: b}, timeout: 1m}}", "sink: {http: {url: 'http://h', header: {a: '${X}'}, timeout: 60s}}"},
		{"sink: {sh: cat}", "sink: {sh: cat}, deadline: 3s"},
	} {
		first := program("/a", same[0], map[string]string{"X": "x", "Y": "x"})
		if other := seen[first]; other != "" || first == "" {
			t.Errorf("%s is the same program as %s", same[0], other)
		}
		seen[first] = same[0]
		for _, text := range same {
			if got := program("/b/c", text, map[string]string{"X": "/x", "Y": "y"}); got != first {
				t.Errorf("%s is another program than %s", text, same[0])
			}
		}
	}
	made := &spec.File{Roles: map[string]spec.Role{"a": {Sh: "grep x"}}}
	if got, want := made.Program("a"), program("/a", "sh: grep x", nil); got != want {
		t.Errorf("of a File made in Go: %s, of the text %s", got, want)
	}
	if got := made.Program("b"); got != "" {
		t.Errorf("of no role: %s", got)
	}
	if got := program("/", "exec: [./f.sh, '${X}'], ok: [1]", map[string]string{"X": ""}); got != "cea8643cd044f11f" {
		t.Errorf("it was cea8643cd044f11f, now it is %s", got)
	}
}
