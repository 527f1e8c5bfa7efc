package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weir/node/api"
	"weir/node/spec"
)

// upConfig is what `up` was asked to do.
type upConfig struct {
	File      string
	Set       map[string]string
	HTTP      string
	DataDir   string        // "": nothing is kept
	KillAfter time.Duration // 0: nobody is killed
	Voters    int
	Memory    byteSize // of each node
	LogLevel  slog.Level
	JSON      bool
}

func newUp() *cobra.Command {
	cfg := upConfig{Memory: memoryDefault, LogLevel: slog.LevelWarn}
	cmd := &cobra.Command{
		Use:   "up FILE",
		Short: "Run a whole pipeline on this machine, one process per node",
		Long: `up runs every node of a pipeline as a process of its own on this machine, over real
sockets, until all that its taps read is acked. The first Ctrl-C stops the taps and
finishes what is in flight, the second stops at once.

A record that a role cannot handle stops the run. With --data-dir it becomes a dead letter there
instead, and what was read is known to the next run in that directory, which goes on.`,
		Example:           "  weir up examples/gosrc/weir.yaml --set src=$(go env GOROOT)/src",
		Args:              oneFile,
		ValidArgsFunction: completeFile,
	}
	flags := cmd.Flags()
	cfg.Set = addSet(flags)
	flags.StringVar(&cfg.HTTP, "http", "", "serve the API of the first tap's node on loopback `HOST:PORT`")
	flags.StringVar(&cfg.DataDir, "data-dir", "", "keep dead letters, and how far the taps are, in `DIR` (default nothing is kept)")
	flags.DurationVar(&cfg.KillAfter, "kill-orchestrator", 0,
		"kill -9 the orchestrator's process this long `AFTER` the first record reached a sink")
	flags.IntVar(&cfg.Voters, "voters", votersDefault, "`NUMBER` of nodes that elect the orchestrator, 1 to 5")
	flags.Var(&cfg.Memory, "memory", "the most a node may hold of records")
	flags.BoolVar(&cfg.JSON, "json", false, "print the figures of the run as one JSON object, the last line of stdout")
	addLogLevel(flags, &cfg.LogLevel)
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		cfg.File = args[0]
		return up(cfg, cmd.OutOrStdout(), cmd.ErrOrStderr())
	})
	return cmd
}

// up runs the pipeline of a file to its end. Call it from the main goroutine: see main.
func up(cfg upConfig, stdout, stderr io.Writer) error {
	if cfg.Voters < 1 || cfg.Voters > votersMax {
		return &exitError{exitUsage, fmt.Errorf("--voters %d: choose 1 to %d", cfg.Voters, votersMax)}
	}
	if cfg.KillAfter < 0 {
		return &exitError{exitUsage, fmt.Errorf("--kill-orchestrator %s: choose a time from 0 on", cfg.KillAfter)}
	}
	f, err := loadSpec(cfg.File, cfg.Set, stderr)
	if err != nil {
		return err
	}
	secret, err := cfg.secret()
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program to run nodes with: %w", err)
	}
	fl := &fleet{
		cfg:    cfg,
		spec:   f,
		exe:    exe,
		env:    append(withoutFlags(os.Environ(), newStart().Flags()), secretEnv+"="+hex.EncodeToString(secret)),
		socket: filepath.Join(api.Dir(), fmt.Sprintf("%s-%d.sock", f.Pipeline.Name, os.Getpid())),
		stdin:  os.Stdin,
		stdout: stdout,
		con:    newConsole(stderr),
		grace:  stopGrace,
	}
	defer os.Remove(fl.socket) // a killed node leaves it behind
	// Length 2: the second Ctrl-C must not get lost behind the first.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	runErr := fl.run(signals)
	figs := fl.figures()
	if cfg.JSON {
		if err := json.NewEncoder(stdout).Encode(figs); err != nil {
			return fmt.Errorf("write the figures: %w", err)
		}
	} else if runErr == nil || figs.LinesOut > 0 { // else its one sentence says it all
		writeSummary(stderr, figs, fl.last, fl.kill, cfg.DataDir)
	}
	return runErr
}

// failure is why the pipeline failed, and what that means for the next run in its data dir.
func (cfg *upConfig) failure(p api.Pipeline) error {
	if cfg.DataDir != "" && p.ExitCode != exitReaderGone {
		p.Reason += fmt.Sprintf("; %s remembers that: choose another --data-dir for the next run, or remove it", cfg.DataDir)
	}
	return failure(p)
}

// secret is that of the run's cluster, kept beside its data dirs, if there are any.
func (cfg *upConfig) secret() ([]byte, error) {
	if cfg.DataDir == "" {
		return newSecret(), nil
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, &exitError{exitDisk, fmt.Errorf("--data-dir: %w", err)}
	}
	path := filepath.Join(cfg.DataDir, "secret")
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(path, []byte(hex.EncodeToString(newSecret())+"\n"), 0o600); err != nil {
			return nil, &exitError{exitDisk, fmt.Errorf("--data-dir: %w", err)}
		}
	}
	return findSecret("", path)
}

// loadSpec reads a pipeline file and lints it: problems go to w, an error among them ends it.
func loadSpec(path string, set map[string]string, w io.Writer) (*spec.File, error) {
	f, problems := lint(path, set)
	if err := tell(w, problems); err != nil {
		return nil, err
	}
	return f, nil
}

// loadDraft is loadSpec for those who do not run it: its variables need no values.
func loadDraft(path string, w io.Writer) (*spec.File, error) {
	f, err := spec.Load(path, nil)
	if err != nil {
		return nil, tell(w, problemsOf(path, err))
	}
	return f, tell(w, f.Lint())
}
