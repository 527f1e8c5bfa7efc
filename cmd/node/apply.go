package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"weir/node/api"
	"weir/node/spec"
)

func newApply() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apply FILE",
		Short: "Make the cluster's pipeline what a file says",
		Long: `apply makes a pipeline of the cluster, or changes the one of that name while records flow: new
edges open at once; edges and roles that the file lacks end when nothing is in flight there. If
somebody else changed the pipeline meanwhile, it does nothing and exits 75.

Only the graph goes to the cluster. Programs, taps and sinks stay with the nodes, each of which
has the file: apply ends with what they do not have.`,
		Example: "  weir plan enrich.yaml; weir apply enrich.yaml",
	}
	return revising(cmd, func(cmd *cobra.Command, addr string, r api.Revision) (plan api.Plan, err error) {
		if err = call(cmd.Context(), addr, "plan", r, &plan); err != nil || plan.Refused != "" || plan.Version == plan.Next {
			return plan, err
		}
		r.Version = plan.Version
		var done api.Plan // stays empty where it was not done
		err = call(cmd.Context(), addr, "apply", r, &done)
		return done, err
	})
}

func newPlan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan FILE",
		Short: "Say what apply would change; exit 3 if anything",
		Long: `plan says what apply would change, and what nodes do not have that the file needs: roles that no
node serves, and programs that differ from the file's. It changes nothing. It exits 3 if apply
would change something, 0 if not, 1 if apply would refuse.`,
		Example: "  weir plan enrich.yaml",
	}
	return revising(cmd, func(cmd *cobra.Command, addr string, r api.Revision) (plan api.Plan, err error) {
		err = call(cmd.Context(), addr, "plan", r, &plan)
		if err == nil && plan.Refused == "" && plan.Version != plan.Next {
			err = &exitError{Code: exitWouldChange}
		}
		return plan, err
	})
}

// revising is what apply and plan have in common: ask sends the file, and its plan is shown.
func revising(cmd *cobra.Command, ask func(*cobra.Command, string, api.Revision) (api.Plan, error)) *cobra.Command {
	var addr string
	var asJSON bool
	cmd.Args, cmd.ValidArgsFunction = oneFile, completeFile
	addAddr(cmd.Flags(), &addr)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the changes as JSON")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		f, err := loadDraft(args[0], cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		plan, asked := ask(cmd, addr, revision(f))
		if plan.Pipeline == "" {
			return asked
		}
		if asJSON {
			err = writeJSON(cmd.OutOrStdout(), plan, true)
		} else {
			err = writePlan(cmd.OutOrStdout(), plan)
		}
		switch {
		case err != nil:
			return err
		case plan.Refused != "":
			return &exitError{exitFailed, fmt.Errorf("%s", plan.Refused)}
		}
		return asked
	})
	return cmd
}

// revision is what is sent of a file.
func revision(f *spec.File) api.Revision {
	r := api.Revision{Pipeline: f.Pipeline, Programs: make(map[string]string)}
	for name := range f.Roles {
		r.Programs[name] = f.Program(name)
	}
	return r
}

// writePlan shows a plan to a person.
func writePlan(w io.Writer, plan api.Plan) error {
	b := new(strings.Builder)
	switch {
	case plan.Version == plan.Next:
		fmt.Fprintf(b, "pipeline %s is as this file has it, version %d\n", plan.Pipeline, plan.Version)
	case plan.Version == 0:
		fmt.Fprintf(b, "pipeline %s is new\n", plan.Pipeline)
	default:
		fmt.Fprintf(b, "pipeline %s, version %d -> %d\n", plan.Pipeline, plan.Version, plan.Next)
	}
	for _, change := range plan.Changes {
		fmt.Fprintf(b, "  %s\n", change)
	}
	for _, lack := range plan.Lacks {
		fmt.Fprintln(b, lack)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
