package tap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/stream"
)

// afterRecords reads so many records of a tap and returns the mark behind them.
func afterRecords(t *testing.T, tp stream.Tap, n int) stream.Mark {
	t.Helper()
	r, err := open(t, tp, nil)
	if err != nil {
		t.Fatal(err)
	}
	var at stream.Mark
	for range n {
		if _, at, err = r.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return append(stream.Mark{}, at...)
}

// changeFiles does what a line says: "write NAME TEXT", "append NAME TEXT", "remove NAME", "rename NAME
// NAME", "link NAME NAME". What is made is newer than what was there.
func changeFiles(t *testing.T, dir, script string) {
	t.Helper()
	time.Sleep(20 * time.Millisecond) // two ticks of the clock that files are dated by
	for line := range strings.SplitSeq(script, ";") {
		w := append(strings.Fields(line), "", "")
		path, arg := filepath.Join(dir, w[1]), w[2]
		var err error
		switch w[0] {
		case "write":
			write(t, dir, w[1], strings.ReplaceAll(arg, "/", "\n"))
		case "append":
			var f *os.File
			if f, err = os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0); err == nil {
				_, err = f.WriteString(strings.ReplaceAll(arg, "/", "\n"))
				err = errors.Join(err, f.Close())
			}
		case "remove":
			err = os.Remove(path)
		case "rename":
			err = os.Rename(path, filepath.Join(dir, arg))
		case "link":
			err = os.Symlink(path, filepath.Join(dir, arg))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What became of the files between two starts decides whether the second goes on. Before is a, b, c of
// three lines each; so many records were acked.
func TestResume(t *testing.T) {
	for _, tc := range []struct {
		name, path string
		acked      int
		change     string
		want       string // the records that follow, or "reset: " and why
	}{
		{"nothing", "a", 2, "", "a3"},
		{"all read", "a", 3, "", ""},
		{"it grew", "a", 2, "append a a4/", "a3 a4"},
		{"it grew behind its end", "a", 3, "append a a4/", "a4"},
		{"replaced by a shorter", "a", 2, "write a x/", "reset: DIR/a has 2 bytes, and 6 were read before: it is another file now"},
		{"replaced by as long", "a", 2, "write a x1/x2/x3/", "reset: DIR/a is another file than the one of which 6 bytes were read before"},
		{"replaced by the same", "a", 2, "remove a;write a a1/a2/x3/", "x3"},
		{"gone", "a", 2, "remove a", "reset: DIR/a is gone, and 6 bytes of it were read before"},
		{"nothing read yet", "a", 0, "write a x/", "x"},
		{"first: nothing", "a", 1, "", "a2 a3"},
		{"first: it grew", "a", 1, "append a a4/", "a2 a3 a4"},
		{"first: a copy of the same", "a", 1, "remove a;write a a1/a2/a3/", "a2 a3"},
		{"first: replaced by one with the same first line", "a", 1, "write a a1/x2/x3/", "reset: DIR/a is another file than the one of which 3 bytes were read before"},
		{"first: replaced by one that is its start", "a", 1, "write a a1/a2/", "reset: DIR/a is another file than the one of which 3 bytes were read before"},

		{"glob: nothing", "[abc]", 4, "", "b2 b3 c1 c2 c3"},
		{"glob: a finished one is gone", "[abc]", 4, "remove a", "b2 b3 c1 c2 c3"},
		{"glob: the finished one at the mark is gone", "[abc]", 3, "remove a", "b1 b2 b3 c1 c2 c3"},
		{"glob: all at the end", "[abc]", 9, "", ""},
		{"glob: all gone but the first", "[abc]", 9, "remove b;remove c", ""},
		{"glob: one that was not begun is gone", "[abc]", 4, "remove c", "b2 b3"},
		{"glob: the one that is read is gone", "[abc]", 4, "remove b", "reset: DIR/b is gone, and 3 bytes of it were read before"},
		{"glob: the one that is read is another", "[abc]", 4, "write b x1/x2/x3/", "reset: DIR/b is another file than the one of which 3 bytes were read before"},
		{"glob: a new one behind", "[abcd]*", 4, "write bb new/;write d new/", "b2 b3 new c1 c2 c3 new"},
		{"glob: a new one before", "[abc]*", 4, "write aa new/", "reset: DIR/aa came or was changed after the files behind it were begun"},
		{"glob: one is renamed to before", "[abc]*", 4, "rename c aa", "reset: DIR/aa came or was changed after the files behind it were begun"},
		{"glob: a link before", "[abc]*", 4, "link c aa", "reset: DIR/aa came or was changed after the files behind it were begun"},
		{"glob: a finished one grew", "[abc]", 4, "append a a4/", "reset: DIR/a came or was changed after the files behind it were begun"},
		{"glob: the one that is read grew", "[abc]", 4, "append b b4/", "b2 b3 b4 c1 c2 c3"},
		{"glob, first: nothing", "[abc]", 1, "", "a2 a3 b1 b2 b3 c1 c2 c3"},
		{"glob, first: it grew", "[abc]", 1, "append a a4/", "a2 a3 a4 b1 b2 b3 c1 c2 c3"},
		{"glob, first: a new one behind", "[abcd]*", 1, "write bb new/", "reset: DIR/bb came or was changed since the files were listed"},
		{"glob, first: one behind is another", "[abc]", 1, "write c x/", "reset: DIR/c came or was changed since the files were listed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range []string{"a", "b", "c"} {
				write(t, dir, f, fmt.Sprintf("%[1]s1\n%[1]s2\n%[1]s3\n", f))
			}
			made := file(dir + "/" + tc.path)
			if strings.Contains(tc.path, "[") {
				made = glob(dir + "/" + tc.path)
			}
			tp, err := made(Config{})
			if err != nil {
				t.Fatal(err)
			}
			at := afterRecords(t, tp, tc.acked)
			if tc.change != "" {
				changeFiles(t, dir, tc.change)
			}
			got := ""
			r, err := open(t, tp, at)
			if err == nil {
				var bodies [][]byte
				bodies, _, err = readAll(r)
				got = strings.Join(strings.Fields(string(joined(bodies))), " ")
			}
			if errors.Is(err, stream.ErrReset) {
				got, err = "reset: "+err.Error(), nil
			}
			if want := strings.ReplaceAll(tc.want, "DIR", dir); got != want || err != nil {
				t.Errorf("got %q, %v\nwant %q", got, err, want)
			}
		})
	}
}

// A change anywhere in what a mark sums up, 4 to 8 KiB before it, is seen, and none behind it, but for the
// first mark: that is of the head too.
func TestSum(t *testing.T) {
	text := []byte(strings.Repeat("0123456789abcde\n", 5000)) // 80 KB
	dir := t.TempDir()
	for _, records := range []int{1, 100, 255, 256, 257, 1000} {
		tp, err := File(write(t, dir, "f", string(text)), Config{})
		if err != nil {
			t.Fatal(err)
		}
		at := afterRecords(t, tp, records)
		end := records * 16
		for _, tc := range []struct {
			flip int
			seen bool
		}{{end - 1, true}, {max(0, end-4096), true}, {end, records == 1}, {headMax - 1, records == 1}, {headMax, false}} {
			text[tc.flip] ^= 1
			write(t, dir, "f", string(text))
			text[tc.flip] ^= 1
			if _, err := open(t, tp, at); errors.Is(err, stream.ErrReset) != tc.seen {
				t.Errorf("after %d records, byte %d is another: error %v", records, tc.flip, err)
			}
		}
	}
}
