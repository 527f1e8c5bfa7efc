package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"weir/node/spec"
)

func newLint() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "lint FILE",
		Short: "Say what is wrong with a pipeline file; exit 78 if it cannot run",
		Long: `lint says on stderr what is wrong with a pipeline file, as up would, and runs nothing: a
line for each problem, with its place. Warnings alone exit 0.`,
		Args:              oneFile,
		ValidArgsFunction: completeFile,
	}
	set := addSet(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the problems on stdout instead, as a JSON array")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		_, problems := lint(args[0], set)
		if !asJSON {
			return tell(cmd.ErrOrStderr(), problems)
		}
		if err := writeProblemsJSON(cmd.OutOrStdout(), problems); err != nil {
			return err
		}
		return tell(io.Discard, problems)
	})
	return cmd
}

// lint reads a pipeline file and returns what is wrong with it; the file is nil where it cannot
// be read, or lacks a variable.
func lint(path string, set map[string]string) (*spec.File, []spec.Problem) {
	f, err := spec.Load(path, set)
	if err == nil {
		err = f.Unset()
	}
	if err != nil {
		return nil, problemsOf(path, err)
	}
	return f, f.Lint()
}

// problemsOf is what an error of reading a pipeline file says.
func problemsOf(path string, err error) (problems []spec.Problem) {
	for _, err := range parts(err) {
		p := spec.Problem{Pos: spec.Pos{File: path}, Severity: spec.SeverityError, Text: err.Error()}
		if bad, ok := errors.AsType[*spec.Error](err); ok {
			p.Pos, p.Text = bad.Pos, bad.Text
		} else if later, ok := errors.AsType[*spec.NotYetError](err); ok {
			p.Pos, p.Text = later.Pos, fmt.Sprintf("%q is not there yet", later.What)
		}
		problems = append(problems, p)
	}
	return problems
}

// parts is what err joins, or err.
func parts(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// tell says what is wrong, a line each; its error, with nothing more to say, is that the
// pipeline cannot run.
func tell(w io.Writer, problems []spec.Problem) error {
	code := exitOK
	for _, p := range problems {
		if p.Severity == spec.SeverityError {
			code = exitConfig
		}
		fmt.Fprintf(w, "weir: %s\n", p) // stderr is gone if it fails: the code says it
	}
	if code != exitOK {
		return &exitError{Code: code}
	}
	return nil
}

func writeProblemsJSON(w io.Writer, problems []spec.Problem) error {
	type problem struct {
		Severity spec.Severity `json:"severity"`
		Role     string        `json:"role,omitempty"`
		Text     string        `json:"text"`
		File     string        `json:"file"`
		Line     int           `json:"line,omitempty"`
		Col      int           `json:"col,omitempty"`
	}
	list := make([]problem, len(problems))
	for i, p := range problems {
		list[i] = problem{p.Severity, p.Role, p.Text, p.File, p.Line, p.Col}
	}
	return json.NewEncoder(w).Encode(list)
}
