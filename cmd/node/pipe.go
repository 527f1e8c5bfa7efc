package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"weir/node"
	"weir/node/api"
	"weir/node/spec"
	"weir/topology"
)

// pipeConfig is what `pipe` was asked to do.
type pipeConfig struct {
	Commands  []string
	Procs     int // of each command at once
	RecordMax byteSize
	Memory    byteSize
	LogLevel  slog.Level
}

// pipeName is the pipeline that `pipe` makes, and its one node.
const pipeName = "pipe"

// recordMaxDefault is the most a line may hold, in bytes (DESIGN 6).
const recordMaxDefault byteSize = 1 << 20

// procsMax is the most processes of a command at once: as many as a file may ask for (spec).
const procsMax = 4096

// endEvery is how often a node in our own process is asked whether its pipeline has ended: no
// person waits for less, and an answer costs microseconds.
const endEvery = 20 * time.Millisecond

func newPipe() *cobra.Command {
	cfg := pipeConfig{
		Procs: runtime.NumCPU(), RecordMax: recordMaxDefault, Memory: memoryDefault, LogLevel: slog.LevelWarn,
	}
	cmd := &cobra.Command{
		Use:   "pipe 'CMD' ['CMD' ...]",
		Short: "Run stdin through programs to stdout, several processes of each at once",
		Long: `pipe reads lines from stdin, hands them in blocks through each command in turn, run by
sh -c, and writes what the last one prints to stdout. Several processes of a command work at
once, so blocks may change places; the lines of a block stay together. A command must treat
each line alone, as grep, sed, cut, tr and awk do and sort does not.`,
		Example: `  weir pipe 'grep -v ^#' 'tr a-z A-Z' <hosts`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("pipe takes at least one command")
			}
			if i := slices.IndexFunc(args, func(cmd string) bool { return strings.TrimSpace(cmd) == "" }); i >= 0 {
				return fmt.Errorf("command %d is empty", i+1)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&cfg.Procs, "procs", "j", cfg.Procs, "`NUMBER` of processes of each command at once: one a CPU unless told")
	flags.Var(&cfg.RecordMax, "record-max", "the most a line may hold")
	flags.Var(&cfg.Memory, "memory", "the most that may be under way")
	addLogLevel(flags, &cfg.LogLevel)
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		cfg.Commands = args
		ctx, stop := drainOnSignal(cmd.Context(), true)
		defer stop()
		return pipe(ctx, cfg, cmd.ErrOrStderr())
	})
	return cmd
}

// pipe runs the commands on one node in this process.
func pipe(ctx context.Context, cfg pipeConfig, stderr io.Writer) error {
	if cfg.Procs < 1 || cfg.Procs > procsMax {
		return &exitError{exitUsage, fmt.Errorf("-j %d: choose 1 to %d", cfg.Procs, procsMax)}
	}
	f, err := pipeFile(cfg)
	if err != nil {
		return &exitError{exitConfig, err}
	}
	for _, p := range f.Lint() {
		fmt.Fprintf(stderr, "weir: %s\n", p)
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
	nc := node.Config{
		ID:        pipeName,
		Pipelines: []topology.Pipeline{f.Pipeline},
		Listen:    "127.0.0.1:0",
		Memory:    int64(cfg.Memory),
		Voters:    1,
		Log:       log,
	}
	for _, name := range f.Pipeline.Graph.Roles() {
		role, err := node.Assemble(f, name, node.AssembleOptions{Node: pipeName, Log: log, Stdin: os.Stdin, Stdout: os.Stdout})
		if err != nil {
			return err
		}
		nc.Roles = append(nc.Roles, role)
	}
	n, err := node.New(nc)
	if err != nil {
		return err
	}
	return runToEnd(ctx, n, pipeName)
}

// pipeFile is the pipeline file that the commands stand for.
func pipeFile(cfg pipeConfig) (*spec.File, error) {
	f := &spec.File{
		Pipeline: topology.Pipeline{Name: pipeName, RecordMax: int(cfg.RecordMax)},
		Roles:    map[string]spec.Role{"stdin": {Tap: &spec.Tap{Stdin: true}}},
	}
	graph := topology.New().From("stdin")
	for _, cmd := range cfg.Commands {
		name := roleName(cmd, f.Roles)
		f.Roles[name] = spec.Role{Sh: cmd, Procs: cfg.Procs}
		graph.To(name)
	}
	f.Roles["stdout"] = spec.Role{Sink: &spec.Sink{Stdout: true}}
	var err error
	if f.Pipeline.Graph, err = graph.To("stdout").Graph(); err != nil {
		return nil, err
	}
	if f.Dir, err = os.Getwd(); err != nil {
		return nil, fmt.Errorf("find the current directory: %w", err)
	}
	return f, f.Resolve()
}

// roleName names a command's role for its program, as far as a role may be called that and no
// other is.
func roleName(cmd string, taken map[string]spec.Role) string {
	first, _, _ := strings.Cut(strings.TrimSpace(cmd), " ")
	base := filepath.Base(first)
	if topology.CheckName(base) != nil || base == "stdout" {
		base = "command"
	}
	name := base
	for i := 2; ; i++ {
		if _, ok := taken[name]; !ok {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, i)
	}
}

// runner is a node, as far as running it to the end of a pipeline goes.
type runner interface {
	api.Source
	Run(ctx context.Context) error
}

// runToEnd runs n until its pipeline has finished or failed, or ctx is done; it returns with
// nothing running.
func runToEnd(ctx context.Context, n runner, pipeline string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ran := make(chan error, 1) // length 1: Run may end before we look
	go func() { ran <- n.Run(ctx) }()
	tick := time.NewTicker(endEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ran: // by itself, or ctx is done and it has drained
			return errors.Join(err, context.Cause(ctx))
		case <-tick.C:
		}
		st, err := n.Status(ctx)
		if err != nil {
			continue // not up yet, or ending
		}
		switch p := pipelineOf(st, pipeline); p.State {
		case "finished":
			cancel(nil)
			return <-ran
		case "failed":
			cancel(nil)
			return errors.Join(failure(p), <-ran)
		}
	}
}

// failure is why a pipeline failed, with the code to exit with.
func failure(p api.Pipeline) error {
	code := max(p.ExitCode, exitFailed)
	if code == exitReaderGone {
		return &exitError{Code: code} // as any filter: silently
	}
	return &exitError{code, errors.New(p.Reason)}
}
