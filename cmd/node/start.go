package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weir/node"
	"weir/node/api"
	"weir/node/spec"
	"weir/topology"
)

const (
	votersDefault = 3 // survive the loss of one
	votersMax     = 5 // more make elections slower and nothing safer (DESIGN 5)

	memoryDefault byteSize = 64 << 20 // per node (DESIGN 1)

	// capacityMax is the most records a node works on at once: as many as a file may ask for (spec).
	capacityMax = 4096
)

// startConfig is what `start` was asked to do.
type startConfig struct {
	ID         string
	File       string
	Set        map[string]string
	Roles      []string
	Program    []string // of the only role, after --
	Capacity   int
	Tags       []string
	Join       []string
	Listen     string
	Advertise  string
	HTTP       string
	Socket     string
	DataDir    string
	Letters    bool // records that cannot be handled become dead letters
	SecretFile string
	Memory     byteSize
	Voters     int
	LogLevel   slog.Level
	HelloFD    int // 0: nobody waits for a hello
}

func newStart() *cobra.Command {
	cfg := startConfig{Memory: memoryDefault, LogLevel: slog.LevelInfo}
	cmd := &cobra.Command{
		Use:   "start [--role ROLE]... [--file FILE] [--join HOST:PORT]... [-- PROGRAM ARG...]",
		Short: "Run one node of a cluster of machines",
		Long: `start runs one node until it is told to stop. A node has one UDP port, and with all others that
have its secret it is a cluster. What it does are its roles: --file says what they are, or -- is
followed by the program of the only one. Without a role it may still elect the orchestrator.

Without --join the node makes a cluster of one. If it has no secret either, it makes one and
prints the line to type elsewhere. With --join it waits until one of the nodes named belongs to
a cluster, as long as that takes, and says what it waits for. The secret comes from the
environment, as WEIR_SECRET, or from --secret-file.

SIGTERM and Ctrl-C finish what is in flight, then the node leaves; the second stops at once.`,
		Example: `  weir start --role numbers --role out --file sums.yaml
  WEIR_SECRET=... weir start --join 10.0.0.1:7411 --role double -- awk '{ print 2 * $1 }'
  WEIR_SECRET=... weir start --join 10.0.0.1:7411`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return fmt.Errorf("start does not know what %q is: the program of a role comes after --", args[0])
			}
			return nil
		},
	}
	cfg.addFlags(cmd.Flags())
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		cfg.Program = args
		if cmd.Flags().Changed("join") && len(cfg.Join) == 0 { // as of a variable that is not set
			return &exitError{exitUsage, errors.New("--join is empty: name a node of the cluster, or leave --join out to make one")}
		}
		if err := cfg.check(); err != nil {
			return &exitError{exitUsage, err}
		}
		ctx, stop := drainOnSignal(cmd.Context(), cfg.HelloFD == 0)
		defer stop()
		return start(ctx, cfg, cmd.ErrOrStderr())
	})
	return cmd
}

func (cfg *startConfig) addFlags(flags *pflag.FlagSet) {
	cfg.Set = addSet(flags)
	flags.StringVar(&cfg.ID, "id", "", "`NAME` of the node (default that of the data dir, else made from the first role)")
	flags.StringVar(&cfg.DataDir, "data-dir", "", "keep name, key, log and dead letters in `DIR`, so that the node that starts there again is the same (default nothing is kept)")
	flags.BoolVar(&cfg.Letters, "dead-letters", true, "")
	_ = flags.MarkHidden("dead-letters") // up's own; it fails only for a flag that is not there
	flags.StringVar(&cfg.File, "file", "", "pipeline `FILE` that says what the roles are; made a pipeline of the cluster if it has none of that name")
	flags.StringArrayVar(&cfg.Roles, "role", nil, "serve `ROLE` of all pipelines that name it, or PIPELINE/ROLE of one; may be repeated with --file")
	flags.IntVar(&cfg.Capacity, "capacity", 0, "the most `RECORDS` that each role works on at once, and processes of a program after -- (default as the file says, else one a CPU)")
	flags.StringArrayVar(&cfg.Tags, "tag", nil, "this node has `TAG`, which a role may need; may be repeated")
	flags.StringSliceVar(&cfg.Join, "join", nil, "join the cluster of the node at `HOST:PORT`; may be repeated, or a list with commas")
	flags.StringVar(&cfg.Listen, "listen", ":7411", "`HOST:PORT` of the one UDP port")
	flags.StringVar(&cfg.Advertise, "advertise", "", "`HOST[:PORT]` at which the others reach this node (default that of the way to the first --join, else of the default route)")
	flags.StringVar(&cfg.HTTP, "http", "", "serve the API on loopback `HOST:PORT`")
	flags.StringVar(&cfg.Socket, "socket", "", "serve the API on the Unix socket `PATH` (default named after the node, where weir status looks)")
	flags.StringVar(&cfg.SecretFile, "secret-file", "", "read the cluster's secret from `FILE`")
	flags.Var(&cfg.Memory, "memory", "the most the node may hold of records")
	flags.IntVar(&cfg.Voters, "voters", votersDefault, "`NUMBER` of nodes that elect the orchestrator, 1 to 5")
	flags.IntVar(&cfg.HelloFD, "hello-fd", 0, "write address or error as one JSON line to this descriptor")
	_ = flags.MarkHidden("hello-fd") // fails only for a flag that is not there
	addLogLevel(flags, &cfg.LogLevel)
}

// check looks at what does not go together.
func (cfg *startConfig) check() error {
	distinct := slices.Compact(slices.Sorted(slices.Values(cfg.Roles)))
	switch {
	case len(cfg.Program) > 0 && cfg.File != "":
		return errors.New("the role's program comes from --file or after --, not from both")
	case len(cfg.Program) > 0 && len(cfg.Roles) != 1:
		return fmt.Errorf("a program after -- needs one --role that it is to serve, not %d", len(cfg.Roles))
	case len(cfg.Roles) > 1 && cfg.File == "":
		return errors.New("several --role need --file, which says what the roles are")
	case len(cfg.Roles) > 0 && cfg.File == "" && len(cfg.Program) == 0:
		return fmt.Errorf("--role %s needs --file FILE, which says what it is, or its program after --", cfg.Roles[0])
	case len(distinct) < len(cfg.Roles):
		return errors.New("a --role is there twice")
	case cfg.Capacity < 0 || cfg.Capacity > capacityMax:
		return fmt.Errorf("--capacity %d: choose 1 to %d", cfg.Capacity, capacityMax)
	case cfg.Voters < 1 || cfg.Voters > votersMax:
		return fmt.Errorf("--voters %d: choose 1 to %d", cfg.Voters, votersMax)
	}
	if err := topology.CheckName(cfg.ID); cfg.ID != "" && err != nil {
		return fmt.Errorf("--id: %w", err)
	}
	for _, role := range distinct {
		for part := range strings.SplitSeq(role, "/") {
			if err := topology.CheckName(part); err != nil {
				return fmt.Errorf("--role: %w", err)
			}
		}
	}
	return nil
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
// or why it has none, from one line on the hello descriptor, a person from some on stderr.
func start(ctx context.Context, cfg startConfig, stderr io.Writer) error {
	book := node.NewLogbook(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: cfg.LogLevel}))
	log := slog.New(book)
	if cfg.HelloFD == 0 {
		n, secret, err := newNode(cfg, stderr, book)
		if err != nil {
			return err
		}
		greet(stderr, n, cfg, secret)
		defer context.AfterFunc(ctx, func() { log.Info("draining: a second signal stops at once") })()
		return n.Run(ctx)
	}
	syscall.CloseOnExec(cfg.HelloFD) // a program we run must not keep the other end waiting
	out := os.NewFile(uintptr(cfg.HelloFD), "hello")
	defer out.Close()
	n, _, err := newNode(cfg, stderr, book)
	if err != nil {
		err = withCode(err)
		var coded *exitError
		errors.As(err, &coded)
		sendHello(out, hello{Error: err.Error(), Exit: coded.Code})
		return &exitError{Code: coded.Code} // it is said
	}
	sendHello(out, hello{Addr: n.Addr()})
	return n.Run(ctx)
}

func sendHello(w io.Writer, h hello) {
	_ = json.NewEncoder(w).Encode(h) // the reader has gone, and we soon with it (Pdeathsig)
}

// greet tells a person what was started, and how others join it. A secret that was made here is
// told nowhere else.
func greet(w io.Writer, n *node.Node, cfg startConfig, secret []byte) {
	var b strings.Builder
	fmt.Fprintf(&b, "node %s at %s, cluster %s\n", n.ID(), n.Addr(), n.Cluster())
	switch {
	case len(cfg.Join) > 0:
		fmt.Fprintf(&b, "joining through %s\n", strings.Join(cfg.Join, ", "))
	case secret == nil:
		fmt.Fprintf(&b, "to add a node, type elsewhere, with the same secret, with or without a role:\n  weir start --join %s --role ROLE -- PROGRAM ARG...\n", n.Addr())
	default:
		fmt.Fprintf(&b, "to add a node, type elsewhere, with or without a role:\n  %s=%x weir start --join %s --role ROLE -- PROGRAM ARG...\n",
			secretEnv, secret, n.Addr())
	}
	if secret != nil && cfg.DataDir != "" {
		fmt.Fprintf(&b, "and keep %s: this node needs it when it starts again\n", secretEnv)
	}
	_, _ = io.WriteString(w, b.String()) // nobody reads it
}

// newNode assembles the roles of a node and binds its socket. It returns the secret if it made it.
func newNode(cfg startConfig, stderr io.Writer, book *node.Logbook) (n *node.Node, made []byte, err error) {
	log := slog.New(book)
	nc := node.Config{
		ID:        topology.NodeID(cfg.ID),
		Tags:      cfg.Tags,
		Memory:    int64(cfg.Memory),
		Join:      cfg.Join,
		Listen:    cfg.Listen,
		Advertise: cfg.Advertise,
		HTTP:      cfg.HTTP,
		Socket:    cfg.Socket,
		DataDir:   cfg.DataDir,
		Voters:    cfg.Voters,

		DeadLetters: cfg.Letters,
		Log:         log,
		Logbook:     book,
		Broken:      func(err error) { exitBroken(stderr, err) },
	}
	kept, err := node.KeptID(cfg.DataDir)
	if err != nil {
		return nil, nil, err
	}
	nc.ID = cmp.Or(nc.ID, kept, node.NewID(append(cfg.Roles, "node")[0]))
	if nc.Socket == "" && cfg.HelloFD == 0 {
		nc.Socket = filepath.Join(api.Dir(), string(nc.ID)+".sock")
	}
	if nc.Secret, err = findSecret(os.Getenv(secretEnv), cfg.SecretFile); err != nil {
		return nil, nil, err
	}
	switch {
	case nc.Secret != nil:
	case len(cfg.Join) > 0:
		return nil, nil, &exitError{exitUsage, fmt.Errorf("--join needs the secret of the cluster: %s in the environment, or --secret-file", secretEnv)}
	case kept != "":
		return nil, nil, &exitError{exitUsage, fmt.Errorf("--data-dir %s belongs to a cluster, whose secret is needed: %s in the environment, or --secret-file", cfg.DataDir, secretEnv)}
	default:
		made = newSecret()
		nc.Secret = made
	}
	f, err := cfg.file()
	if err != nil {
		return nil, nil, err
	}
	if cfg.File != "" {
		nc.Pipelines = []topology.Pipeline{f.Pipeline}
	}
	for _, name := range cfg.Roles {
		role, err := node.Assemble(f, name, node.AssembleOptions{Node: nc.ID, Log: log, Stdin: os.Stdin, Stdout: os.Stdout})
		if err != nil {
			return nil, nil, err
		}
		role.Capacity = cmp.Or(cfg.Capacity, role.Capacity)
		nc.Roles = append(nc.Roles, role)
	}
	n, err = node.New(nc)
	return n, made, err
}

// exitBroken ends the process because its data dir can no longer be written. A call that hangs in
// the kernel cannot be waited for, and until the process is gone others may take it for alive.
func exitBroken(stderr io.Writer, err error) {
	fmt.Fprintf(stderr, "%s%v\n", verdictPrefix, err)
	exitWithAll(exitDisk)
}

// file says what the roles are: the one that was named, or one made of the program after --,
// which serves the role in whatever pipeline there is.
func (cfg *startConfig) file() (*spec.File, error) {
	if cfg.File != "" {
		f, err := spec.Load(cfg.File, cfg.Set)
		if err != nil {
			return nil, &exitError{exitConfig, err}
		}
		return f, nil
	}
	f := new(spec.File)
	if len(cfg.Program) == 0 {
		return f, nil
	}
	pipeline, role, of := strings.Cut(cfg.Roles[0], "/")
	if !of {
		pipeline, role = "", pipeline
	}
	f.Pipeline = topology.Pipeline{Name: pipeline, RecordMax: topology.RecordBytesCeiling} // the pipeline's own is not known yet
	f.Roles = map[string]spec.Role{role: {
		Exec: cfg.Program, Mode: topology.KindEach, Procs: cfg.Capacity, OK: spec.DefaultOK(cfg.Program, ""),
	}}
	return f, nil
}
