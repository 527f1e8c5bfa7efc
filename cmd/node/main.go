// Command weir moves records through a graph of roles: the one binary that every node of a
// pipeline runs, and the command line to try, start, watch and check them.
//
//	go build -o weir ./cmd/node
//
//	weir pipe 'CMD' 'CMD' ...   stdin through programs to stdout, one process
//	weir up FILE                a whole pipeline on this machine, a process per node
//	weir start                  one node of a cluster of machines
//	weir status                 what a running cluster does
//	weir apply FILE             make its pipeline what a file says; plan, graph, pause, drain, ...
//	weir put, weir dead         bring lines in; look after those that could not be handled
//	weir sim                    whether a simulated cluster keeps its promises
//	weir bench                  how fast records go, beside raw QUIC and TLS
//
// `up` runs the verb `start` of the same binary once per node. Its threads are on one
// page: the main goroutine starts, watches and ends the processes (fleet.go); a goroutine per
// process reports its life (child.go) and one polls the status (fleet.go); all are joined
// before the verb returns.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	// A child's Pdeathsig fires when the thread that started it ends, not the process
	// (prctl(2)). The main goroutine starts all children; locked here it stays on the main
	// thread, which lives as long as the process.
	runtime.LockOSThread()
	// With a handler, a write to a closed pipe is an error that we can act on; without one the
	// runtime would end us in the middle (os/signal, SIGPIPE).
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is main with its surroundings as arguments; it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteC()
	var failure *exitError
	switch {
	case err == nil:
		return exitOK
	case !errors.As(err, &failure): // cobra's own: nothing has run
		fmt.Fprintf(stderr, "weir: %v\nSee %q.\n", err, cmd.CommandPath()+" --help")
		return exitUsage
	case failure.Err != nil:
		for _, err := range parts(failure.Err) {
			fmt.Fprintf(stderr, "weir: %s\n", printable(err.Error()))
		}
	}
	return failure.Code
}

func newRoot() *cobra.Command {
	var showVersion bool
	root := &cobra.Command{
		Use:   "weir",
		Short: "Move records through a graph of programs, on this machine or many",
		Long: `weir moves records through a graph of roles spread over processes or machines,
without a broker and without a fixed orchestrator. Any Unix filter is a worker.

Every flag can be set by the environment: --log-level is WEIR_LOG_LEVEL.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true}, // ours is in the groups
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return setFromEnv(cmd.Flags(), os.LookupEnv)
		},
	}
	root.Flags().BoolVar(&showVersion, "version", false, "print the version of this program")
	root.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		if showVersion {
			return writeVersion(cmd.OutOrStdout(), false)
		}
		return cmd.Help()
	})
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError("--%s %s", err) })
	cobra.EnableCommandSorting = false // verbs stand in the order of their use
	for _, g := range []struct {
		title string
		verbs []*cobra.Command
	}{
		{"First steps:", []*cobra.Command{newUp(), newPipe(), newStart(), newStatus(), newApply(), newSim()}},
		{"Pipelines:", []*cobra.Command{newLint(), newPlan(), newGraph(), newPause(), newResume(), newPut(), newDead()}},
		{"Looking:", []*cobra.Command{newPeek(), newLogs(), newEvents()}},
		{"Nodes:", []*cobra.Command{newCluster(), newDrain()}},
		{"Besides:", []*cobra.Command{newBench(), newBenchNode(), newCompletion(), newVersion()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, v := range g.verbs {
			v.GroupID = g.title
			root.AddCommand(v)
		}
	}
	root.SetHelpCommandGroupID("Besides:")
	return root
}
