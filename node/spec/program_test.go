package spec

import (
	"slices"
	"strings"
	"testing"
)

func TestDefaultOK(t *testing.T) {
	found, only := []int{0, 1}, []int{0}
	for _, c := range []struct {
		sh   string
		exec []string
		want []int
	}{
		{exec: []string{"grep", "-v", "x"}, want: found},
		{exec: []string{"/usr/bin/rg", "x"}, want: found},
		{exec: []string{"env", "LANG=C", "zgrep", "x"}, want: found},
		{exec: []string{"sh", "-c", "cat | egrep x"}, want: found},
		{exec: []string{"jq", "grep"}, want: only},
		{exec: []string{"sh", "grep"}, want: only},
		{exec: []string{"./grep.sh"}, want: only},
		{sh: "grep x", want: found},
		{sh: "a | grep x", want: found},
		{sh: "a|fgrep -e x -e y", want: found},
		{sh: "a | LC_ALL=C grep x", want: found},
		{sh: "a | grep x | b", want: only},
		{sh: "grep x || true", want: only},
		{sh: "a && grep x", want: found},
		{sh: "a; grep x;", want: found},
		{sh: "a | grep 'x | y; z'", want: found},
		{sh: `a | grep "x\" | y"`, want: found},
		{sh: "a | 'grep' x", want: found},
		{sh: `a | \grep x`, want: found},
		{sh: "echo '| grep'", want: only},
		{sh: `echo "\" | grep"`, want: only},
		{sh: "echo a \\| grep", want: only},
		{sh: "grep x > out", want: found},
		{sh: "grep x 2>&1", want: found},
		{sh: "grep x &>log", want: found},
		{sh: "2>/dev/null grep x", want: found},
		{sh: "<in grep x", want: found},
		{sh: "a | grep $(cat p | head -1)", want: found},
		{sh: "a | grep `cat p`", want: found},
		{sh: "a | (b; grep x)", want: found},
		{sh: "a | { grep x; }", want: found},
		{sh: "if a; then grep x; fi", want: found},
		{sh: "! grep x", want: found},
		{sh: "a | # b\n  grep x # c | d", want: found},
		{sh: "a | \\\n grep x", want: found},
		{sh: "cat a#grep", want: only},
		{sh: "'", want: only},
		{sh: "$(", want: only},
		{sh: "\\", want: only},
		{sh: "", want: only},
		{want: only},
	} {
		if got := DefaultOK(c.exec, c.sh); !slices.Equal(got, c.want) {
			t.Errorf("DefaultOK(%q, %q) = %v, want %v", c.exec, c.sh, got, c.want)
		}
	}
}

func TestBlockwise(t *testing.T) {
	for sh, want := range map[string][]string{
		"sort | uniq -c | sort -n": {"sort", "uniq"},
		"/usr/bin/wc -l":           {"wc"},
		"cut -f1 | head -3":        {"head"},
		"echo sort":                nil,
		"tac && tail -n 1":         {"tac", "tail"},
		"sort > sorted; cat":       {"sort"},
		"grep $(sort x | head -1)": nil,
	} {
		if got := blockwise(nil, sh); !slices.Equal(got, want) {
			t.Errorf("blockwise(%q) = %v, want %v", sh, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"capacity", "exec", "nodes", "sh", "sink", "tap"}
	for word, want := range map[string]string{
		"node": "nodes", "tpa": "tap", "capcity": "capacity", "Capacity": "capacity", "sync": "sink",
		"executable": "", "concurrency": "", "go": "", "<<": "", "": "",
	} {
		if got := Nearest(word, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"abc", "abc", 0}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

func TestUnbuffered(t *testing.T) {
	for _, c := range []struct{ sh, want string }{
		{"sed s/a/b/", "sed -u"},
		{"sed -n p", "sed -u"},
		{"sed -u s/a/b/", ""},
		{"sed -nu p", ""},
		{"sed --unbuffered p", ""},
		{"sed -u p | grep x", "grep --line-buffered"},
		{"grep --line-buffered x | sed p", "sed -u"},
		{"rg x", "rg --line-buffered"},
		{"jq -c .", "jq --unbuffered"},
		{"jq --unbuffered -c .", ""},
		{"awk '{print; fflush()}'", "mawk -Winteractive"},
		{"mawk -Winteractive 1", ""},
		{"mawk -W interactive 1", ""},
		{"gawk 1", "gawk with fflush() after each print"},
		{"gawk '{print; fflush()}'", ""},
		{"perl -pe '$x = 1'", "perl with $| = 1"},
		{"perl -pe 'BEGIN { $| = 1 }'", ""},
		{"tr a b", "stdbuf -oL tr"},
		{"stdbuf -oL tr a b", ""},
		{"LANG=C stdbuf -oL cut -f 1; tr a b", "stdbuf -oL tr"},
		{"cat", ""},
		{"./mine.py # sed", ""},
		{"", ""},
	} {
		if got := Unbuffered(nil, c.sh); got != c.want {
			t.Errorf("Unbuffered(%q) = %q, want %q", c.sh, got, c.want)
		}
	}
	if got := Unbuffered([]string{"/usr/bin/sed", "-E", "s/u/-u/"}, ""); got != "sed -u" {
		t.Errorf("of exec: %q", got)
	}
}

// A node needs values for the variables of the roles that it serves, and for no other.
func TestUnset(t *testing.T) {
	f, err := Parse("f.yaml", []byte(`pipeline: p
graph: a -> b -> c
roles:
  a: {tap: {file: "${WEIR_TEST_UNSET}"}}
  b: {exec: [cat]}
  c: {sink: discard}
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Unset("b", "c"); err != nil {
		t.Errorf("roles without variables: %v", err)
	}
	for _, roles := range [][]string{{"a", "b"}, nil} {
		if err := f.Unset(roles...); err == nil || !strings.Contains(err.Error(), "f.yaml:4:19: the variable WEIR_TEST_UNSET is not set") {
			t.Errorf("roles %q: %v", roles, err)
		}
	}
}
