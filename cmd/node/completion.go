package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"weir/node/api"
)

// completeWait is how long a shell waits for the names of a running cluster.
const completeWait = time.Second

func newCompletion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print what makes a shell complete weir's verbs, flags and names",
		Long: `completion prints a script for a shell, which then completes verbs and flags, files where a file is
due, and pipelines, roles and nodes as the running cluster has them.`,
		Example: `  source <(weir completion bash)                               # this shell
  weir completion bash > ~/.local/share/bash-completion/completions/weir
  weir completion zsh > "${fpath[1]}/_weir"
  weir completion fish > ~/.config/fish/completions/weir.fish`,
		Args:      oneArg("a shell"),
		ValidArgs: []string{"bash", "zsh", "fish"},
	}
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		switch root, w := cmd.Root(), cmd.OutOrStdout(); args[0] {
		case "bash":
			return root.GenBashCompletionV2(w, true)
		case "zsh":
			return root.GenZshCompletion(w)
		case "fish":
			return root.GenFishCompletion(w, true)
		}
		return &exitError{exitUsage, fmt.Errorf("completion for %s is not there: choose bash, zsh or fish", args[0])}
	})
	return cmd
}

// completeNames completes the only argument of a verb with names that the cluster has.
func completeNames(names func(api.Status) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWait)
		defer cancel()
		at, err := nodeAt(ctx, cmd.Flag("addr").Value.String())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		st, err := api.Get(ctx, at)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(st), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFile completes the only argument of a verb with pipeline files.
func completeFile(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

// nodeNames are the nodes that may drain.
func nodeNames(st api.Status) (names []string) {
	for _, n := range st.Nodes {
		if n.State == "alive" {
			names = append(names, n.ID)
		}
	}
	return names
}

// pausable are the pipelines and their roles.
func pausable(st api.Status) (names []string) {
	for _, p := range st.Pipelines {
		names = append(names, p.Name)
		for _, role := range p.Roles {
			names = append(names, p.Name+"/"+role)
		}
	}
	return names
}

// resumable is what was paused.
func resumable(st api.Status) (names []string) {
	for _, p := range st.Pipelines {
		names = append(names, p.Paused...)
	}
	return names
}
