package topology_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
