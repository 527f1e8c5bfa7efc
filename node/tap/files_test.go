package tap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"weir/stream"
)

// writeTree makes a directory of some directories and files: without a final newline, empty,
// hidden, with a directory named like a file.
func writeTree(t *rapid.T) string {
	dir, err := os.MkdirTemp("", "tree")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`(a|b/|b/c/|d\.go/|\.h/)[a-c.]{0,2}[a-zA-Z](\.go|\.txt)?`), 1, 8, rapid.ID).Draw(t, "names")
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	for _, name := range append(names, "last") {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			continue // a file is where its directory was to be
		}
		var text bytes.Buffer
		for range rng.IntN(200) {
			text.WriteString(strings.Repeat("x", rng.IntN(60)))
			text.WriteByte('\n')
		}
		if rng.IntN(2) == 0 {
			text.WriteString("no newline")
		}
		_ = os.WriteFile(path, text.Bytes(), 0o644) // refused where a directory is
	}
	return dir
}

// catSh expands the pattern as bash does, sorts the files by their bytes and prints them.
const catSh = `shopt -s globstar nullglob; export LC_ALL=C; for f in $1; do test -d "$f" || printf '%s\n' "$f"; done | sort -u | while read -r f; do cat "$f"; done`

func TestGlobIsCat(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("there is no bash to compare with")
	}
	rapid.Check(t, func(t *rapid.T) {
		dir := writeTree(t)
		pattern := dir + "/" + rapid.SampledFrom([]string{"*", "**", "**/*.go", "*/*", "**/b/**/*.go", "b/**", "**/c/*", "[ab]*", "?/*", ".h/*", "**/.h/**", "d.go/*.txt", "**/*/*", "**/**/*.txt"}).Draw(t, "pattern")
		cat := exec.Command("bash", "-c", catSh, "bash", pattern)
		want, err := cat.Output()
		if err != nil {
			t.Fatal(err)
		}
		tp, err := Glob([]string{pattern}, Config{Block: rapid.Bool().Draw(t, "block")})
		if err != nil {
			t.Fatal(err)
		}
		r, err := tp.Open(context.Background(), pattern, nil)
		if err != nil {
			if len(want) > 0 || !strings.Contains(err.Error(), "matches no file") {
				t.Fatal(err)
			}
			return
		}
		defer r.Close()
		bodies, _, err := readAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := joined(bodies); !bytes.Equal(got, withNewline(want)) {
			t.Fatalf("%s: got %d bytes, cat has %d", pattern, len(got), len(want))
		}
	})
}

// open opens the one partition of a tap.
func open(t *testing.T, tp stream.Tap, at stream.Mark) (stream.Reader, error) {
	t.Helper()
	parts, err := tp.Partitions(t.Context())
	if err != nil || len(parts) != 1 {
		t.Fatalf("partitions %q, %v", parts, err)
	}
	r, err := tp.Open(t.Context(), parts[0], at)
	if err == nil {
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return r, err
}

// write makes a file of dir.
func write(t testing.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFileErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "x.go/inner", "")
	short := write(t, dir, "short", "a\n")
	write(t, dir, "long", "first\n"+strings.Repeat("x", 1_400_000)+"\nlast\n")
	if err := os.Symlink("nowhere", dir+"/dangling"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		tap  func(Config) (stream.Tap, error)
		at   stream.Mark
		err  string // DIR stands for dir
	}{
		{"no path", file(""), nil, "tap file: the path is empty"},
		{"no file", file(dir + "/no"), nil, "read the input: open DIR/no: no such file or directory"},
		{"directory", file(dir + "/x.go"), nil, "read the input: DIR/x.go is a directory"},
		{"shorter than the mark", file(short), markAt(9), "DIR/short has 2 bytes, and 9 were read before: it is another file now"},
		{"another text before the mark", file(short), markAt(2), "DIR/short is another file than the one of which 2 bytes were read before"},
		{"no file at the mark", file(dir + "/no"), markAt(2), "DIR/no is gone, and 2 bytes of it were read before"},
		{"foreign mark", file(short), stream.Mark("x"), "open tap DIR/short: mark 78: of another tap or version"},
		{"mark of other cuts", file(short), (&place{how: 1, offset: 2}).append(nil), "open tap DIR/short: records are cut otherwise than before"},
		{"damaged mark", file(short), stream.Mark{markVersion, 16: 0, 17: 0x80}, "open tap DIR/short: mark 030000000000000000000000000000000080: cut short or damaged"},
		{"long line", file(dir + "/long"), nil, "DIR/long: the line at byte 6 is longer than 1048576 bytes: raise record-max"},
		{"no pattern", glob(), nil, "tap glob: there is no pattern"},
		{"empty pattern", glob(dir, ""), nil, `tap glob "": the pattern is empty`},
		{"open bracket", glob(dir + "/["), nil, `tap glob "DIR/[": a bracket is not closed, or a backslash is last`},
		{"stars in a name", glob(dir + "/a**"), nil, `tap glob "DIR/a**": "a**": ** stands alone between slashes`},
		{"no match", glob(dir+"/s*", dir+"/*.txt"), nil, `glob "DIR/*.txt" matches no file`},
		{"only a directory", glob(dir + "/*.go"), nil, `glob "DIR/*.go" matches no file`},
		{"below a file", glob(dir + "/short/*"), nil, `glob "DIR/short/*" matches no file`},
		{"link to nothing", glob(dir + "/d*"), nil, "read the input: open DIR/dangling: no such file or directory"},
	} {
		for _, cfg := range []Config{{}, {Block: true}} {
			t.Run(fmt.Sprintf("%s/block=%v", tc.name, cfg.Block), func(t *testing.T) {
				tp, err := tc.tap(cfg)
				if err == nil {
					var r stream.Reader
					at := tc.at
					if p, err := parseMark(at); err == nil && p.how != 1 {
						p.how = cfg.rule(cutBlock).how()
						at = p.append(nil)
					}
					if r, err = open(t, tp, at); err == nil {
						_, _, err = readAll(r)
					}
				}
				if want := strings.ReplaceAll(tc.err, "DIR", dir); text(err) != want {
					t.Errorf("error %q, want %q", text(err), want)
				}
			})
		}
	}
}

func file(path string) func(Config) (stream.Tap, error) {
	return func(c Config) (stream.Tap, error) { return File(path, c) }
}

func glob(patterns ...string) func(Config) (stream.Tap, error) {
	return func(c Config) (stream.Tap, error) { return Glob(patterns, c) }
}

func TestLongLineByRaisingTheLimit(t *testing.T) {
	long := strings.Repeat("x", 1_400_000)
	path := write(t, t.TempDir(), "long", "first\n"+long+"\nlast\n")
	for _, block := range []bool{false, true} {
		tp, err := File(path, Config{Block: block, RecordMax: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		r, err := open(t, tp, nil)
		if err != nil {
			t.Fatal(err)
		}
		bodies, _, err := readAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := string(joined(bodies)), "first\n"+long+"\nlast\n"; got != want {
			t.Errorf("block=%v: got %d bytes, want %d", block, len(got), len(want))
		}
	}
}

// Fifteen files, none with a final newline, a directory among them.
func TestGlobWithoutFinalNewlines(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "x.go/keep", "not this\n")
	want := ""
	for i := range 15 {
		text := fmt.Sprintf("package p%02d\n\nvar end%02d", i, i)
		write(t, dir, fmt.Sprintf("f%02d.go", i), text)
		want += text
	}
	for _, block := range []bool{false, true} {
		tp, err := Glob([]string{dir + "/**/*.go"}, Config{Block: block})
		if err != nil {
			t.Fatal(err)
		}
		r, err := open(t, tp, nil)
		if err != nil {
			t.Fatal(err)
		}
		bodies, marks, err := readAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(joined(bodies)); got != want+"\n" {
			t.Errorf("block=%v: got %q, want %q", block, got, want)
		}
		if lines := 1 + 15*2; !block && len(bodies) != lines {
			t.Errorf("%d records, want %d", len(bodies), lines)
		}
		for _, m := range marks {
			if len(m) > 4<<10 {
				t.Errorf("a mark of %d bytes", len(m))
			}
		}
	}
}

// The line that is too long is named where it begins, in the file before too.
func TestLongLineOverFiles(t *testing.T) {
	const long = "xxxxxxxxxxxx"
	for _, tc := range []struct {
		files []string
		want  DataError
	}{
		{[]string{long}, DataError{"0", 0, 8}},
		{[]string{"one\ntwo", "", long}, DataError{"0", 4, 8}},
		{[]string{"one\n", long}, DataError{"1", 0, 8}},
		{[]string{"one\n", "", "two\n" + long}, DataError{"2", 4, 8}},
	} {
		dir := t.TempDir()
		for i, text := range tc.files {
			write(t, dir, fmt.Sprint(i), text)
		}
		tp, err := Glob([]string{dir + "/*"}, Config{RecordMax: 8})
		if err != nil {
			t.Fatal(err)
		}
		r, err := open(t, tp, nil)
		if err != nil {
			t.Fatal(err)
		}
		tc.want.File = dir + "/" + tc.want.File
		_, _, err = readAll(r)
		var de *DataError
		if !errors.As(err, &de) || *de != tc.want {
			t.Errorf("%q: error %v, want %v", tc.files, err, &tc.want)
		}
	}
}

// Blocks of a large file grow from 4 KiB; each is a part of what came before.
func TestBlockSizes(t *testing.T) {
	line := strings.Repeat("x", 99) + "\n"
	path := write(t, t.TempDir(), "f", strings.Repeat(line, 100_000)) // 10 MB
	tp, err := File(path, Config{Block: true})
	if err != nil {
		t.Fatal(err)
	}
	r, err := open(t, tp, nil)
	if err != nil {
		t.Fatal(err)
	}
	bodies, _, err := readAll(r)
	if err != nil {
		t.Fatal(err)
	}
	before := 0
	for i, b := range bodies {
		target := min(max(before/64, 4<<10), 512<<10)
		if n := len(b) + 1; i < len(bodies)-1 && (n < target || n >= target+len(line)) {
			t.Fatalf("block %d after %d bytes has %d, target %d", i, before, n, target)
		}
		before += len(b) + 1
	}
	if before != 10_000_000 {
		t.Errorf("%d bytes came out", before)
	}
}

func TestCancelledReader(t *testing.T) {
	tp, err := File(write(t, t.TempDir(), "f", "a\n"), Config{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := open(t, tp, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	if _, _, err := r.Next(ctx); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
}

// markAt is the mark of a file's bytes that nobody read, cut into lines.
func markAt(offset int64) stream.Mark {
	p := place{how: Config{}.rule(cutBlock).how(), offset: offset, before: offset}
	return p.append(nil)
}

func TestMarks(t *testing.T) {
	for _, p := range []place{{}, {how: 1, before: 1 << 60, offset: 1 << 50, sum: sum{3, 4}, listed: 1 << 60, inode: 1 << 63, name: "a/b"}} {
		got, err := parseMark(p.append(nil))
		if err != nil || got != p {
			t.Errorf("%v came back as %v, %v", p, got, err)
		}
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add([]byte((&place{name: "x"}).append(nil)))
	f.Add([]byte{markVersion, 12: 0, 13: 0x80})
	f.Fuzz(func(t *testing.T, m []byte) {
		p, err := parseMark(m)
		if err == nil && (p.offset < 0 || p.before < 0 || p.listed < 0) {
			t.Errorf("%x is read as %v", m, p)
		}
	})
}

func TestPartition(t *testing.T) {
	tp, err := File("in.txt", Config{})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := tp.Partitions(t.Context()); len(got) != 1 || got[0] != "in.txt" {
		t.Errorf("partitions %q", got)
	}
	if _, err := tp.Open(t.Context(), "other", nil); err == nil {
		t.Error("a partition that there is not was opened")
	}
}

// What is no regular file is waited for as standard input is.
func TestNamedPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	writer := make(chan *os.File, 1) // taken only if the tap opens too
	go func() {
		w, _ := os.OpenFile(path, os.O_WRONLY, 0) // until the tap opens it
		writer <- w
	}()
	tp, err := File(path, Config{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := open(t, tp, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := <-writer
	why := errors.New("why")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, why)
	defer cancel()
	if _, _, err := r.Next(ctx); !errors.Is(err, why) {
		t.Errorf("error %v, want %v", err, why)
	}
	_, _ = w.WriteString("a\nb")
	_ = w.Close()
	bodies, _, err := readAll(r)
	if got := fmt.Sprintf("%q", bodies); err != nil || got != `["a" "b"]` {
		t.Errorf("got %s, %v", got, err)
	}
}

// A directory that may not be listed could hold files: it is named, not passed over.
func TestGlobUnreadableDirectory(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	dir := t.TempDir()
	write(t, dir, "in/f", "a\n")
	if err := os.Chmod(dir+"/in", 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir+"/in", 0o755) })
	tp, err := Glob([]string{dir + "/**"}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t, tp, nil)
	if want := fmt.Sprintf("glob %q: open %s/in: permission denied", dir+"/**", dir); text(err) != want {
		t.Errorf("error %q, want %q", text(err), want)
	}
}

// Several patterns are one list: sorted, each file once.
func TestGlobPatterns(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a", "B", "sub/a", ".hidden", "a.b"} {
		write(t, dir, name, "")
	}
	for _, tc := range []struct{ patterns, want string }{
		{"b a", "a b"},
		{"* a", "B a a.b b"},
		{"**", "B a a.b b sub/a"},
		{"**/a", "a sub/a"},
		{"s*/* [ab]", "a b sub/a"},
		{"[^a]", "B b"},
		{".h*", ".hidden"},
		{"sub//a", "sub/a"},
		{`\a`, "a"},
	} {
		var patterns []string
		for p := range strings.FieldsSeq(tc.patterns) {
			patterns = append(patterns, dir+"/"+p)
		}
		got, err := expand(patterns)
		if err != nil {
			t.Errorf("%s: %v", tc.patterns, err)
		}
		if names := strings.ReplaceAll(strings.Join(got, " "), dir+"/", ""); names != tc.want {
			t.Errorf("%s: got %s, want %s", tc.patterns, names, tc.want)
		}
	}
	t.Chdir(dir)
	if got, err := expand([]string{"*/a", "./b"}); err != nil || strings.Join(got, " ") != "./b sub/a" {
		t.Errorf("relative: got %s, %v", got, err)
	}
}
