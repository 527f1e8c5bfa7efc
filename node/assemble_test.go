package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"weir/node/spec"
	"weir/stream"
)

// load reads a pipeline file of dir.
func load(t *testing.T, dir, text string) *spec.File {
	t.Helper()
	f, err := spec.Parse(filepath.Join(dir, "p.yaml"), []byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// flow moves every record of a tap to a sink, as nodes would with nothing between them.
func flow(t *testing.T, from stream.Tap, to stream.Sink) (records int) {
	t.Helper()
	ctx := context.Background()
	parts, err := from.Partitions(ctx)
	if err != nil || len(parts) != 1 {
		t.Fatalf("partitions %q, %v", parts, err)
	}
	r, err := from.Open(ctx, parts[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	for ; ; records++ {
		o, _, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := to.Write(ctx, []stream.Record{{Out: o}}, stream.Seen{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(r.Close(), to.Close()); err != nil {
		t.Fatal(err)
	}
	return records
}

func TestAssembleTapsAndSinks(t *testing.T) {
	for _, tc := range []struct {
		name, tap, sink string
		records         int
		want            string
	}{
		{"file", "{file: in.txt}", "{file: out.txt}", 2, "one\ntwo\n"},
		{"glob, in blocks", "{glob: '*.txt'}, records: block", "{file: out.txt}", 1, "one\ntwo\n"},
		{"shared file", "{file: in.txt}, shared: true", "{file: out.txt}", 2, "one\ntwo\n"},
		{"directory", "{directory: 'a[*?'}", "stdout", 1, "in the directory\n"},
		{"program", "{exec: [echo, a, b]}", "stdout", 1, "a b\n"},
		{"shell, in its directory", "{sh: 'cat in.txt; echo $WEIR_ROLE/$WEIR_NODE'}, records: line", "stdout", 3, "one\ntwo\nin/n3\n"},
		{"stdin to stdout", "stdin", "stdout", 3, "a\nb\nc\n"},
		{"generate", "{generate: {records: 2, size: 14}}", "stdout", 2, "000000000001 x\n000000000002 x\n"},
		{"generate, no size", "{generate: {records: 1}}", "stdout", 1, "000000000001 " + strings.Repeat("x", 128-13) + "\n"},
		{"discard", "{file: in.txt}", "discard", 2, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "in.txt"), []byte("one\ntwo\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Mkdir(filepath.Join(dir, "a[*?"), 0o755), os.WriteFile(filepath.Join(dir, "a[*?/f"), []byte("in the directory"), 0o644)); err != nil {
				t.Fatal(err)
			}
			f := load(t, dir, "pipeline: p\ngraph: in -> out\nroles:\n  in: {tap: "+tc.tap+"}\n  out: {sink: "+strings.Replace(tc.sink, "out.txt", `"out-{node}"`, 1)+"}\n")
			var stdout bytes.Buffer
			opt := AssembleOptions{Node: "n3", Stdin: strings.NewReader("a\nb\nc"), Stdout: &stdout}
			in, err := Assemble(f, "in", opt)
			if err != nil {
				t.Fatal(err)
			}
			out, err := Assemble(f, "p/out", opt)
			if err != nil {
				t.Fatal(err)
			}
			if in.Name != "in" || out.Name != "p/out" {
				t.Errorf("roles are called %s and %s", in.Name, out.Name)
			}
			if got := flow(t, in.Tap, out.Sink); got != tc.records {
				t.Errorf("%d records, want %d", got, tc.records)
			}
			got := stdout.String()
			if strings.Contains(tc.sink, "out.txt") {
				b, err := os.ReadFile(filepath.Join(dir, "out-n3"))
				if err != nil {
					t.Fatal(err)
				}
				got = string(b)
			}
			if got != tc.want {
				t.Errorf("wrote %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAssemblePrograms(t *testing.T) {
	f := load(t, t.TempDir(), `
pipeline: p
graph: in -> a -> b -> c -> d -> e -> f -> out
roles:
  in:  {tap: stdin}
  a:   {exec: [cat]}
  d:   {exec: [cat], mode: line, procs: 2}
  e:   {exec: [cat], mode: frame, procs: 2}
  f:   {http: 'http://127.0.0.1/', attempts: 5, capacity: 7}
  b:   {sh: 'grep x | sort', procs: 3}
  c:   {exec: [cat], procs: 3, capacity: 9}
  out: {sink: stdout}
`)
	for role, capacity := range map[string]int{"a": runtime.NumCPU(), "b": 3, "c": 9, "d": 2 * 64, "e": 2 * 64, "f": 7} {
		got, err := Assemble(f, role, AssembleOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Handler == nil || got.Capacity != capacity {
			t.Errorf("role %s has capacity %d, want %d", role, got.Capacity, capacity)
		}
		if got.Attempts != f.Roles[role].Attempts {
			t.Errorf("role %s has %d attempts", role, got.Attempts)
		}
	}
}

func TestAssembleErrors(t *testing.T) {
	dir := t.TempDir()
	f := load(t, dir, `
pipeline: p
graph: in -> a -> b -> out
roles:
  in:  {tap: stdin}
  a:   {exec: [no-such-program]}
  b:   {exec: [./no.sh]}
  out: {sink: {file: no/out.txt}}
`)
	for role, want := range map[string]string{
		"other": "pipeline p has no role other: it has a, b, in, out",
		"q/a":   "pipeline p has no role q/a: it has a, b, in, out",
		"a":     "role a: run no-such-program: no program of that name on PATH",
		"p/b":   "role p/b: run no.sh: there is no file DIR/no.sh",
		"out":   "role out: write DIR/no/out.txt: no such file or directory",
	} {
		_, err := Assemble(f, role, AssembleOptions{})
		if want = strings.ReplaceAll(want, "DIR", dir); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
		var ce *stream.ConfigError
		if program := role == "a" || role == "p/b"; errors.As(err, &ce) != program {
			t.Errorf("%v: a ConfigError: %v, want %v", err, !program, program)
		}
	}
}
