package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// setFromEnv gives each flag that the command line left out the value of its environment
// variable. lookup is os.LookupEnv.
func setFromEnv(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || f.Name == "version" {
			return
		}
		if v, ok := lookup(envName(f)); ok {
			if err := flags.Set(f.Name, v); err != nil {
				errs = append(errs, flagError(envName(f)+"=%[2]s", err))
			}
		}
	})
	return errors.Join(errs...)
}

// flagError says in a plain sentence which value a flag cannot have; format writes the flag's
// name and the value. Other errors stay as they are.
func flagError(format string, err error) error {
	bad, ok := errors.AsType[*pflag.InvalidValueError](err)
	if !ok {
		return err
	}
	want := bad.Unwrap()
	switch bad.GetFlag().Value.Type() {
	case "int", "uint64":
		want = errors.New("want a number")
	case "duration":
		want = errors.New("want a time, as 1s or 500ms")
	case "bool":
		want = errors.New("want true or false")
	}
	return fmt.Errorf(format+": %w", bad.GetFlag().Name, bad.GetValue(), want)
}

// withoutFlags is env less the variables that setFromEnv would read for flags: what a parent
// was told about itself is not meant for its children.
func withoutFlags(env []string, flags *pflag.FlagSet) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		found := false
		flags.VisitAll(func(f *pflag.Flag) { found = found || envName(f) == name })
		return found
	})
}

// envName is the environment variable of a flag.
func envName(f *pflag.Flag) string {
	return "WEIR_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// settings is the value of --set: NAME=VALUE, any number of times.
type settings map[string]string

func (s settings) String() string { return "" }
func (s settings) Type() string   { return "NAME=VALUE" }

func (s settings) Set(text string) error {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return errors.New("want NAME=VALUE")
	}
	s[name] = value
	return nil
}

// byteSize is the value of a flag that counts bytes: 65536, 64KiB, 4MiB, 1GiB.
type byteSize int64

// units of byteSize, the largest first.
var units = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

func (s byteSize) String() string {
	for _, u := range units {
		if int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	panic("every size is a multiple of 1")
}

func (s byteSize) Type() string { return "SIZE" }

func (s *byteSize) Set(text string) error {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 1 || n > math.MaxInt64/u.bytes {
			break
		}
		*s = byteSize(n * u.bytes)
		return nil
	}
	return errors.New("want a size, as 64MiB or 65536")
}

// logLevel is the value of --log-level.
type logLevel struct{ *slog.Level }

func (l logLevel) String() string { return strings.ToLower(l.Level.String()) }
func (l logLevel) Type() string   { return "LEVEL" }

func (l logLevel) Set(text string) error {
	if l.UnmarshalText([]byte(text)) != nil {
		return errors.New("choose debug, info, warn or error")
	}
	return nil
}

// addLogLevel adds --log-level to flags.
func addLogLevel(flags *pflag.FlagSet, level *slog.Level) {
	flags.Var(logLevel{level}, "log-level", "least `LEVEL` of the log on stderr: debug, info, warn or error")
}

// addSet adds --set to flags and returns its value.
func addSet(flags *pflag.FlagSet) settings {
	set := settings{}
	flags.Var(set, "set", "give `NAME=VALUE` to ${NAME} in the file's paths and programs; may be repeated")
	return set
}

// oneFile is for verbs that take a pipeline file and nothing else.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes one pipeline file, not %d", cmd.Name(), len(args))
	}
	return nil
}
