package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"weir/node"
	"weir/node/spec"
	"weir/topology"
)

const (
	// secretEnv is the environment variable that holds the cluster's secret in hex. It is never
	// a flag: everybody on a machine can read the arguments of a process.
	secretEnv = "WEIR_SECRET"
	// secretBytes is the length of the secret (DESIGN 4).
	secretBytes = 32

	votersDefault = 3 // survive the loss of one
	votersMax     = 5 // more make elections slower and nothing safer (DESIGN 5)

	memoryDefault byteSize = 64 << 20 // per node (DESIGN 1)
)

// startConfig is what `start` was asked to do.
type startConfig struct {
	ID       string
	File     string
	Set      map[string]string
	Roles    []string
	Join     []string
	Listen   string
	HTTP     string
	Socket   string
	Memory   byteSize
	Voters   int
	LogLevel slog.Level
	HelloFD  int // 0: nobody waits for a hello
}

// newStart is hidden until a node can be started by hand in earnest; `up` uses it for each of
// its nodes.
func newStart() *cobra.Command {
	cfg := startConfig{Memory: memoryDefault, LogLevel: slog.LevelInfo}
	cmd := &cobra.Command{
		Use:    "start",
		Short:  "Run one node",
		Hidden: true,
		Args:   cobra.NoArgs,
	}
	flags := cmd.Flags()
	cfg.Set = addSet(flags)
	flags.StringVar(&cfg.ID, "id", "", "`NAME` of the node, new at each start (default made from the first role)")
	flags.StringVar(&cfg.File, "file", "", "pipeline `FILE` that says what the roles are")
	flags.StringArrayVar(&cfg.Roles, "role", nil, "serve `ROLE` of the file; may be repeated")
	flags.StringSliceVar(&cfg.Join, "join", nil, "join the cluster of the node at `HOST:PORT`; may be repeated")
	flags.StringVar(&cfg.Listen, "listen", ":7411", "`HOST:PORT` of the one UDP port")
	flags.StringVar(&cfg.HTTP, "http", "", "serve the API on loopback `HOST:PORT`")
	flags.StringVar(&cfg.Socket, "socket", "", "serve the API on the Unix socket `PATH`")
	flags.Var(&cfg.Memory, "memory", "the most the node may hold of records")
	flags.IntVar(&cfg.Voters, "voters", votersDefault, "`NUMBER` of nodes that elect the orchestrator, 1 to 5")
	flags.IntVar(&cfg.HelloFD, "hello-fd", 0, "write address or error as one JSON line to this descriptor")
	_ = flags.MarkHidden("hello-fd") // fails only for a flag that is not there
	addLogLevel(flags, &cfg.LogLevel)
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		ctx, stop := drainOnSignal(cmd.Context(), cfg.HelloFD == 0)
		defer stop()
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: cfg.LogLevel}))
		return start(ctx, cfg, log)
	})
	return cmd
}

// drainOnSignal returns a context that the first SIGINT or SIGTERM ends, with errInterrupted as
// its cause. The second, or a SIGHUP, which a node gets when its parent dies, ends the process
// and its programs at once. Without interrupts SIGINT does nothing: a node of up that reads stdin
// gets the terminal's as well as what up then sends it, and the two are not meant as two.
func drainOnSignal(ctx context.Context, interrupts bool) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	got := make(chan os.Signal, 2) // length 2: signal.Notify does not wait, nor may the second get lost
	signal.Notify(got, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() { // ends with the returned function
		defer close(done)
		for draining := false; ; {
			select {
			case s := <-got:
				if s == syscall.SIGINT && !interrupts {
					continue
				}
				if draining || s == syscall.SIGHUP {
					exitWithAll(exitInterrupted)
				}
				draining = true
				cancel(errInterrupted)
			case <-quit:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(got)
		close(quit)
		<-done
		cancel(nil)
	}
}

// start runs a node until ctx is done and it has drained. Whoever started it learns its address,
// or why it has none, from one line on the hello descriptor.
func start(ctx context.Context, cfg startConfig, log *slog.Logger) error {
	var out *os.File
	if cfg.HelloFD != 0 {
		syscall.CloseOnExec(cfg.HelloFD) // a program we run must not keep the other end waiting
		out = os.NewFile(uintptr(cfg.HelloFD), "hello")
		defer out.Close()
	}
	n, err := newNode(cfg, log)
	if out != nil {
		if err != nil {
			err = withCode(err)
			var coded *exitError
			errors.As(err, &coded)
			sendHello(out, hello{Error: err.Error(), Exit: coded.Code})
			return &exitError{Code: coded.Code} // it is said
		}
		sendHello(out, hello{Addr: n.Addr()})
	}
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

func sendHello(w io.Writer, h hello) {
	_ = json.NewEncoder(w).Encode(h) // the reader has gone, and we soon with it (Pdeathsig)
}

// newNode assembles the roles of a node and binds its socket.
func newNode(cfg startConfig, log *slog.Logger) (*node.Node, error) {
	nc := node.Config{
		ID:     topology.NodeID(cfg.ID),
		Memory: int64(cfg.Memory),
		Join:   cfg.Join,
		Listen: cfg.Listen,
		HTTP:   cfg.HTTP,
		Socket: cfg.Socket,
		Voters: cfg.Voters,
		Log:    log,
	}
	var err error
	if nc.Secret, err = readSecret(os.Getenv(secretEnv)); err != nil {
		return nil, &exitError{exitUsage, err}
	}
	if nc.Secret == nil && len(cfg.Join) > 0 {
		return nil, &exitError{exitUsage, fmt.Errorf("--join needs the secret of the cluster in the environment, as %s", secretEnv)}
	}
	if cfg.File == "" {
		if len(cfg.Roles) > 0 {
			return nil, &exitError{exitUsage, errors.New("--role needs --file, which says what the role is")}
		}
		return node.New(nc)
	}
	f, err := spec.Load(cfg.File, cfg.Set)
	if err != nil {
		return nil, &exitError{exitConfig, err}
	}
	nc.Pipelines = []topology.Pipeline{f.Pipeline}
	for _, name := range cfg.Roles {
		role, err := node.Assemble(f, name, node.AssembleOptions{Node: nc.ID, Log: log, Stdin: os.Stdin, Stdout: os.Stdout})
		if err != nil {
			return nil, err
		}
		nc.Roles = append(nc.Roles, role)
	}
	return node.New(nc)
}

// readSecret decodes the cluster's secret; "" is none.
func readSecret(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != secretBytes {
		return nil, fmt.Errorf("%s must be %d hex digits, which the first node prints", secretEnv, 2*secretBytes)
	}
	return b, nil
}
