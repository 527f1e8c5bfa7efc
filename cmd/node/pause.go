package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"weir/node/api"
)

func newPause() *cobra.Command {
	return pausing(&cobra.Command{
		Use:   "pause PIPELINE[/ROLE]",
		Short: "Stop a pipeline's reading, or a role's taking; nothing is lost",
		Long: `pause PIPELINE stops its taps: what was read goes its way to the end. pause PIPELINE/ROLE stops one
role: it finishes what it has in hand and takes no more, those before it fill their windows and
then wait too, up to the tap. It is kept by the cluster, so it outlives every node; weir resume
ends it.`,
		Example:           "  weir pause enrich\n  weir pause enrich/database",
		ValidArgsFunction: completeNames(pausable),
	}, "paused")
}

func newResume() *cobra.Command {
	return pausing(&cobra.Command{
		Use:               "resume PIPELINE[/ROLE]",
		Short:             "Let go on what was paused",
		Long:              `resume PIPELINE lets its taps read on, and all roles of it that were paused; resume PIPELINE/ROLE one role.`,
		Example:           "  weir resume enrich",
		ValidArgsFunction: completeNames(resumable),
	}, "goes on")
}

// pausing is what pause and resume have in common: the call of the verb's name, and done, what it
// says then.
func pausing(cmd *cobra.Command, done string) *cobra.Command {
	var addr string
	cmd.Args = oneArg("a pipeline, or a role of one as PIPELINE/ROLE")
	addAddr(cmd.Flags(), &addr)
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		var p api.Pause
		if err := call(cmd.Context(), addr, cmd.Name(), api.Pause{Name: args[0]}, &p); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", p.Name, done)
		return err
	})
	return cmd
}

// oneArg is for verbs that take one argument and nothing else.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("%s takes %s, not %d arguments", cmd.Name(), what, len(args))
		}
		return nil
	}
}
