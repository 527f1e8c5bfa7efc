package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"weir/node/spec"
)

func newLint() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "lint FILE",
		Short: "Say what is wrong with a pipeline file; exit 78 if it cannot run",
		Args:  oneFile,
	}
	set := addSet(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the problems as a JSON array")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		f, err := spec.Load(args[0], set)
		if err != nil {
			return &exitError{exitConfig, err}
		}
		problems := f.Lint()
		if asJSON {
			err = writeProblemsJSON(cmd.OutOrStdout(), problems)
		} else {
			err = writeProblems(cmd.OutOrStdout(), args[0], problems)
		}
		if err != nil {
			return fmt.Errorf("write the problems: %w", err)
		}
		if slices.ContainsFunc(problems, func(p spec.Problem) bool { return p.Severity == spec.SeverityError }) {
			return &exitError{Code: exitConfig} // it is said
		}
		return nil
	})
	return cmd
}

func writeProblems(w io.Writer, path string, problems []spec.Problem) error {
	for _, p := range problems {
		if _, err := fmt.Fprintf(w, "%s: %s\n", path, p); err != nil {
			return err
		}
	}
	return nil
}

func writeProblemsJSON(w io.Writer, problems []spec.Problem) error {
	type problem struct {
		Severity spec.Severity `json:"severity"`
		Role     string        `json:"role"`
		Text     string        `json:"text"`
	}
	list := make([]problem, len(problems))
	for i, p := range problems {
		list[i] = problem(p)
	}
	return json.NewEncoder(w).Encode(list)
}
