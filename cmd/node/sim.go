package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weir/node/spec"
	"weir/sim"
)

const (
	// simRetries is how often a seed that failed is run again: Go's scheduler is not part of a
	// seed, so that some failures come only now and then.
	simRetries = 4
	// simRetriedMax is how many seeds that failed are run again.
	simRetriedMax = 3
	// simSeedsMax bounds a range of seeds: a night of them is some ten thousand.
	simSeedsMax = 1_000_000
	// simGC is the garbage collector's percentage: runs are short and their garbage small
	// (measured: a fifth of the time less than with 100).
	simGC = 400
	// simFileMax is the most a scenario's file may hold, in bytes, plus one that is too many.
	simFileMax = 64<<10 + 1
)

// simConfig is what `sim` was asked to do.
type simConfig struct {
	File     string // of a pipeline; "" = the scenario's own
	Scenario string
	Chaos    string
	Seeds    seedRange
	Nodes    int
	Check    bool
	Realtime bool
	Print    bool
	JSON     bool
	LogLevel slog.Level
}

func newSim() *cobra.Command {
	cfg := simConfig{Seeds: seedRange{1, 1}, LogLevel: slog.LevelError + 1}
	var seed uint64
	var list bool
	cmd := &cobra.Command{
		Use:   "sim [FILE]",
		Short: "Break a cluster on a simulated network, see whether the promises hold",
		Long: `sim runs many real nodes in one process, on a simulated network, in virtual time, under
faults; then it checks that no record was lost and that the other promises held. With a
pipeline FILE it runs that graph, with synthetic workers in place of its programs. A seed
fixes the load, the faults and what becomes of each packet, not Go's scheduler: a seed that
fails is run again, and reported as "fails k of K". Exit 1 if a promise was broken. A scenario
says a step a line, as "at 20s kill leader for 5s" or "at 30s pause sink for 3s": see --print.`,
		Example: "  weir sim\n  weir sim --list\n  weir sim examples/gosrc/weir.yaml --chaos medium --seeds 1..20",
		Args:    cobra.MaximumNArgs(1),
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Scenario, "scenario", "", "what happens: a `NAME` of --list or a file (default "+sim.DefaultScenario+")")
	flags.StringVar(&cfg.Chaos, "chaos", "", "draw what happens from the seed; `LEVEL` is low, medium or high")
	flags.Uint64Var(&seed, "seed", 1, "the `NUMBER` that all draws follow from")
	flags.Var(&cfg.Seeds, "seeds", "run all seeds of the range `A..B`")
	flags.IntVar(&cfg.Nodes, "nodes", 0, "`NUMBER` of nodes (default the scenario's)")
	flags.BoolVar(&list, "list", false, "list the scenarios that there are, and the faults that there are not yet")
	flags.BoolVar(&cfg.Print, "print", false, "print the scenario's text and do not run it")
	flags.BoolVar(&cfg.Check, "check", false, "run it twice and say where the runs first differ")
	flags.BoolVar(&cfg.Realtime, "realtime", false, "do without virtual time")
	flags.BoolVar(&cfg.JSON, "json", false, "print the figures as one JSON object, the last line of stdout")
	addLogLevel(flags, &cfg.LogLevel)
	cmd.MarkFlagsMutuallyExclusive("scenario", "chaos")
	cmd.MarkFlagsMutuallyExclusive("seed", "seeds")
	cmd.MarkFlagsMutuallyExclusive("check", "seeds")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		if list {
			return listScenarios(cmd.OutOrStdout())
		}
		if len(args) == 1 {
			cfg.File = args[0]
		}
		if flags.Changed("seed") {
			cfg.Seeds = seedRange{seed, seed}
		}
		return simulate(cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
	})
	return cmd
}

// simulate runs the seeds one after the other.
func simulate(cfg simConfig, stdout, stderr io.Writer) error {
	shape, err := simShape(cfg, stderr)
	if err != nil {
		return err
	}
	if cfg.Print {
		_, text, err := simText(cfg, cfg.Seeds.first)
		if err == nil {
			_, err = io.WriteString(stdout, text)
		}
		return err
	}
	debug.SetGCPercent(simGC)
	if !cfg.Realtime {
		// Nodes in virtual time wait for each other all the time: handing over within one
		// processor costs less than a second one gives (measured: 2.0 s, 3.1 s with two).
		runtime.GOMAXPROCS(1)
	}
	r := &simReport{cfg: cfg, w: stdout, con: newConsole(stderr)}
	for seed := cfg.Seeds.first; ; seed++ {
		s, err := simScenario(cfg, seed, shape)
		if err != nil {
			return err
		}
		run := func() *sim.Result {
			log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
			return sim.Run(sim.Config{Scenario: s, Seed: seed, Realtime: cfg.Realtime, Log: log})
		}
		if cfg.Check {
			return r.twice(run(), run())
		}
		if err := r.add(s, run); err != nil {
			return err
		}
		if seed == cfg.Seeds.last {
			return r.finish()
		}
	}
}

// simShape is the cluster of the pipeline file, if there is one.
func simShape(cfg simConfig, stderr io.Writer) (sim.Shape, error) {
	if cfg.Nodes < 0 {
		return sim.Shape{}, &exitError{exitUsage, fmt.Errorf("--nodes %d: choose a number above 0", cfg.Nodes)}
	}
	shape := sim.Shape{}
	if cfg.File != "" {
		f, err := spec.Load(cfg.File, nil)
		if err != nil {
			return shape, &exitError{exitConfig, err}
		}
		shape = sim.ShapeOf(f)
	}
	shape.Nodes = cfg.Nodes
	return shape, nil
}

// simScenario reads the scenario of a seed.
func simScenario(cfg simConfig, seed uint64, shape sim.Shape) (sim.Scenario, error) {
	name, text, err := simText(cfg, seed)
	if err != nil {
		return sim.Scenario{}, err
	}
	s, err := sim.ParseScenario(name, text, shape)
	if err != nil {
		code := exitConfig
		if !strings.Contains(name, "/") && cfg.Nodes > 0 { // a built-in one is right, but not for so many
			code = exitUsage
		}
		return s, &exitError{code, err}
	}
	return s, nil
}

// simText finds the text of the scenario: drawn, built in, or in a file.
func simText(cfg simConfig, seed uint64) (name, text string, err error) {
	if cfg.Chaos != "" {
		text, err = sim.Chaos(sim.Level(cfg.Chaos), seed)
		if err != nil {
			return "", "", &exitError{exitUsage, err}
		}
		return "chaos " + cfg.Chaos, text, nil
	}
	name = cfg.Scenario
	if name == "" {
		name = sim.DefaultScenario
	}
	text, err = sim.FindBuiltin(name)
	if err == nil {
		return name, text, nil
	}
	f, openErr := os.Open(name)
	switch {
	case openErr != nil && strings.ContainsAny(name, "./"):
		return "", "", &exitError{exitUsage, fmt.Errorf("read scenario: %w", openErr)}
	case openErr != nil:
		return "", "", &exitError{exitUsage, err}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, simFileMax))
	if err != nil {
		return "", "", &exitError{exitUsage, fmt.Errorf("read scenario: %w", err)}
	}
	return name, string(b), nil
}

// seedRange is the value of --seeds: A..B, both run.
type seedRange struct{ first, last uint64 }

func (r *seedRange) String() string {
	if r.first == r.last {
		return strconv.FormatUint(r.first, 10)
	}
	return fmt.Sprintf("%d..%d", r.first, r.last)
}

func (r *seedRange) Type() string { return "A..B" }

func (r *seedRange) Set(text string) error {
	a, b, _ := strings.Cut(text, "..")
	first, err1 := strconv.ParseUint(a, 10, 64)
	last, err2 := strconv.ParseUint(b, 10, 64)
	switch {
	case err1 != nil || err2 != nil || last < first:
		return errors.New("want A..B, as 1..50")
	case last-first >= simSeedsMax:
		return fmt.Errorf("more than %d seeds", simSeedsMax)
	}
	*r = seedRange{first, last}
	return nil
}

// listScenarios lists what --scenario takes.
func listScenarios(w io.Writer) error {
	b := new(strings.Builder)
	t := newTable("SCENARIO", "WHAT HAPPENS")
	for _, s := range sim.Builtins() {
		if s.Lacks != "" {
			t.add(s.Name, "not yet: "+s.Lacks)
			continue
		}
		t.add(s.Name, s.About)
	}
	t.writeTo(b, "")
	_, err := io.WriteString(w, b.String())
	return err
}
