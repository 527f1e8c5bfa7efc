package tap

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"weir/node/spec"
	"weir/stream"
)

// Glob is a tap that reads every file that one of the patterns names, sorted by the bytes of
// their paths, each once, as one partition; shared, as up to 64, to which the files belong by their
// names. Directories are passed over.
//
// Patterns are those of a shell: `*`, `?` and `[a-z]` within a name, `**` for any number of
// directories, none included. Names that begin with a dot must be asked for with one, and
// `**` goes through no symbolic links. The files are looked for when the tap is opened; none
// is an error.
func Glob(patterns []string, cfg Config) (stream.Tap, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap glob: %w", err)
	}
	if len(patterns) == 0 {
		return nil, errors.New("tap glob: there is no pattern")
	}
	for _, p := range patterns {
		if err := spec.CheckGlob(p); err != nil {
			return nil, fmt.Errorf("tap glob %q: %w", p, err)
		}
	}
	name := strings.Join(patterns, " ")
	return &filesTap{scope: scope{cfg.Shared, true}, cfg: cfg, partition: name, patterns: patterns}, nil
}

// errNoMatch is what is wrong with a pattern that names nothing.
var errNoMatch = errors.New("matches no file")

// filesMax is the most files a glob may name: a list of them is about 100 MB, and a pattern
// that names more is a mistake, such as /**.
const filesMax = 1 << 20

// expand lists the files that the patterns name, each of which must name one.
func expand(patterns []string) ([]string, error) {
	all := map[string]bool{}
	for _, p := range patterns {
		dir, rest := "", p
		if strings.HasPrefix(p, "/") {
			dir, rest = "/", strings.TrimLeft(p, "/")
		}
		found := map[string]bool{}
		if err := walk(dir, strings.Split(rest, "/"), found); err != nil {
			return nil, fmt.Errorf("glob %q: %w", p, err)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("glob %q %w", p, errNoMatch)
		}
		maps.Copy(all, found)
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// walk adds to found the files below dir ("" is the working directory) that the segments name.
func walk(dir string, segs []string, found map[string]bool) error {
	seg, rest := segs[0], segs[1:]
	switch {
	case seg == "" && len(rest) > 0: // two slashes are one
		return walk(dir, rest, found)
	case seg == "**":
		return walkAll(dir, rest, found)
	case !strings.ContainsAny(seg, `*?[\`):
		return step(join(dir, seg), rest, found)
	}
	entries, err := readDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if hidden(e.Name()) && !hidden(seg) {
			continue
		}
		if ok, _ := path.Match(seg, e.Name()); !ok { // the pattern was checked
			continue
		}
		if err := step(join(dir, e.Name()), rest, found); err != nil {
			return err
		}
	}
	return nil
}

// walkAll is walk for `**` and then rest: in dir and in every directory below it.
func walkAll(dir string, rest []string, found map[string]bool) error {
	if len(rest) == 0 {
		rest = []string{"*"}
	}
	if err := walk(dir, rest, found); err != nil {
		return err
	}
	entries, err := readDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && !hidden(e.Name()) {
			if err := walkAll(join(dir, e.Name()), rest, found); err != nil {
				return err
			}
		}
	}
	return nil
}

// step goes on with rest below name; with none left, name is found, if it is a file.
func step(name string, rest []string, found map[string]bool) error {
	if len(rest) > 0 {
		return walk(name, rest, found)
	}
	if _, err := os.Lstat(name); missing(err) {
		return nil
	}
	// A link that leads nowhere is found too: reading it says so, as `cat` would.
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if found[name] = true; len(found) > filesMax {
		return fmt.Errorf("matches more than %d files", filesMax)
	}
	return nil
}

// readDir lists a directory; one that is not there, or is a file, has no entries.
func readDir(dir string) ([]fs.DirEntry, error) {
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir)
	if missing(err) {
		return nil, nil
	}
	return entries, err
}

func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func hidden(name string) bool { return strings.HasPrefix(name, ".") }

func join(dir, name string) string {
	if dir == "" || strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}
