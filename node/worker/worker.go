// Package worker runs programs as handlers: one process for each record, or one that stays.
//
// A record is one line or a block of whole lines. In mode each its body and a final newline are
// the program's standard input; what it prints, less one final newline, is the record handed on;
// printing nothing hands on nothing; exit 0 acks. So any filter that treats each line alone is a
// worker, and a large input costs few processes.
//
//	Record ──stdin──> program ──stdout──> Emit
//	                     └──────stderr──> log, and the last of it in the error
//
// In mode line a process stays: it reads line after line and answers each, in order, with one.
// The answers to the lines of a block are one record. In mode frame it reads and prints JSON Lines:
// records with ids, answered in any order, with any number of outputs, on ports too.
//
//	Handle ──job──> write ──stdin──> program ──stdout──> read ──> Emit; Handle returns
//	                  └── at most a window of records that wait for an answer
//
// The package never retries and never reads meaning into stderr. It starts no goroutine but in
// Run, one for each process of mode line or frame. Those of os/exec (one for each of stdin, stdout, stderr
// and the context) have returned when Handle returns, or Run. What a program leaves running in its
// own process group is killed when its run is cancelled or fails, and when it holds the program's
// standard output. DESIGN.md says how a line program is judged.
package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"weir/stream"
)

// Config says which program runs, and how. Exactly one of Exec and Sh is set.
type Config struct {
	Exec []string // program and arguments, run as they are
	Sh   string   // a command for /bin/sh -c

	// Dir is where the program runs, and what a program's name with a slash is relative to.
	// "" is the node's own directory.
	Dir string

	Line  bool // keep the program: a line of its output for each of its input
	Frame bool // keep the program: it reads and prints JSON Lines

	// Deadline is how long the program may go without a sign of progress: with Line or Frame an
	// answer, else a byte read or printed. 0 = DeadlineDefault with either, else DeadlineEach.
	Deadline time.Duration
	// Attempts is how often a record may be blamed before it is given up: a block that fails at its
	// last attempt is bisected. 0 = stream.AttemptsDefault.
	Attempts int

	Procs     int   // processes at once; 0 = one per CPU
	OK        []int // exit codes that ack, besides 0; not with Line or Frame
	RecordMax int   // bytes a program may print for one record; 0 = stream.RecordBytesMax

	Pipeline, Role, Node string // told to the program and to the log

	Log *slog.Logger // nil = discard
}

// Validate returns the first error, with the field's name.
func (c Config) Validate() error {
	switch {
	case len(c.Exec) == 0 && c.Sh == "":
		return errors.New("fields Exec and Sh: one of them must name a program")
	case len(c.Exec) > 0 && c.Sh != "":
		return errors.New("fields Exec and Sh: only one of them may be set")
	case len(c.Exec) > 0 && c.Exec[0] == "":
		return errors.New("field Exec: the program's name is empty")
	case c.Procs < 0:
		return fmt.Errorf("field Procs: %d is negative", c.Procs)
	case c.RecordMax < 0:
		return fmt.Errorf("field RecordMax: %d is negative", c.RecordMax)
	case c.Line && c.Frame:
		return errors.New("fields Line and Frame: only one of them may be set")
	case (c.Line || c.Frame) && len(c.OK) > 0:
		return errors.New("field OK: a program that stays is not judged by its exit code")
	case c.Deadline < 0:
		return fmt.Errorf("field Deadline: %v is negative", c.Deadline)
	case c.Attempts < 0:
		return fmt.Errorf("field Attempts: %d is negative", c.Attempts)
	}
	for _, code := range c.OK {
		if code < 0 || code > exitMax {
			return fmt.Errorf("OK: %d is no exit code: 0 to %d", code, exitMax)
		}
	}
	return nil
}

// exitMax is the highest exit code there is (wait(2): the low 8 bits).
const exitMax = 255

// niceness is how far a program steps back behind the nodes of its machine (nice(2)): a
// busy program must not delay a heartbeat (DESIGN 5).
const niceness = 5

// oomScore is what is added to a program's badness where memory runs out, in thousandths of all there
// is: a program is to die, and cost its record an attempt, not the node (FAULTS F16; proc(5)).
const oomScore = "500"

// grace is how long a program may go on after SIGTERM, and how long what it left behind may
// hold its standard output after it exited: a shell needs milliseconds, a person waits.
const grace = 2 * time.Second

// program is a handler. All its fields but the pools are constant.
type program struct {
	role      string
	name      string // for errors: argv[0] without its directories
	path      string // the file to run, absolute
	argv      []string
	dir       string
	env       []string // capacity cut to length: appending copies
	ok        [exitMax + 1]bool
	outputMax int // bytes, the final newline included
	grace     time.Duration
	deadline  time.Duration
	attempts  int
	stderr    *limiter
	slots     chan struct{} // one for each process at once

	outputs sync.Pool // of *output
	tails   sync.Pool // of *tail
}

// New looks the program up and returns a handler that runs it. A program that is not there or
// not executable is a *stream.ConfigError.
func New(cfg Config) (stream.Handler, error) {
	p, err := newProgram(cfg)
	if err != nil {
		return nil, err
	}
	switch {
	case cfg.Line:
		return newLine(p, cfg), nil
	case cfg.Frame:
		return newFrame(p), nil
	}
	return stream.Each(p.handle), nil
}

func newProgram(cfg Config) (*program, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	p := &program{role: cfg.Role, argv: cfg.Exec, dir: cfg.Dir, grace: grace, outputMax: stream.RecordBytesMax + 1}
	p.deadline, p.attempts = cmp.Or(cfg.Deadline, DeadlineEach), cmp.Or(cfg.Attempts, stream.AttemptsDefault)
	if cfg.Deadline == 0 && (cfg.Line || cfg.Frame) {
		p.deadline = DeadlineDefault
	}
	if cfg.Sh != "" {
		p.argv = []string{"/bin/sh", "-c", cfg.Sh}
	}
	p.name = filepath.Base(p.argv[0])
	var err error
	if p.path, err = lookUp(p.argv[0], cfg.Dir); err != nil {
		return nil, &stream.ConfigError{Err: err}
	}
	p.env = environ(cfg)
	p.ok[0] = true
	for _, code := range cfg.OK {
		p.ok[code] = true
	}
	if cfg.RecordMax > 0 {
		p.outputMax = cfg.RecordMax + 1
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p.stderr = &limiter{log: log.With("role", cfg.Role)}
	procs := cfg.Procs
	if procs == 0 {
		procs = runtime.NumCPU()
	}
	p.slots = make(chan struct{}, procs)
	p.outputs.New = func() any { return new(output) }
	p.tails.New = func() any { return new(tail) }
	return p, nil
}

// lookUp finds the file to run. A name with a slash is relative to dir, any other is looked
// for on PATH.
func lookUp(name, dir string) (string, error) {
	base := filepath.Base(name)
	if !strings.Contains(name, "/") {
		path, err := exec.LookPath(name)
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("run %s: no program of that name on PATH", base)
		}
		return path, err // exec.ErrDot says what it means itself
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("run %s: %w", base, err)
	}
	switch _, err = exec.LookPath(path); {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("run %s: there is no file %s", base, path)
	case errors.Is(err, syscall.EISDIR):
		return "", fmt.Errorf("run %s: %s is a directory", base, path)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("run %s: %s is not executable: chmod +x it", base, path)
	case err != nil:
		return "", fmt.Errorf("run %s: %w", base, err)
	}
	return path, nil
}

// environ is what every process is given: ours, less the cluster's secret.
func environ(cfg Config) []string {
	env := make([]string, 0, len(os.Environ())+5)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "WEIR_SECRET=") {
			env = append(env, kv)
		}
	}
	env = append(env,
		"WEIR_PIPELINE="+cfg.Pipeline,
		"WEIR_ROLE="+cfg.Role,
		"WEIR_NODE="+cfg.Node,
		"PYTHONUNBUFFERED=1", // else python holds back what it prints before a crash
	)
	return env[:len(env):len(env)]
}

// command is a process of the program to start. At ctx's end its group is sent SIGTERM; what lives
// on after p.grace is killed by wait.
func (p *program) command(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.path)
	cmd.Args = p.argv
	cmd.Dir = p.dir
	cmd.Env = p.env
	cmd.Cancel = func() error { return signalGroup(cmd, syscall.SIGTERM) }
	cmd.WaitDelay = p.grace
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true,
		// The signal is sent when the thread that forked ends, not the process. Threads of
		// Go end only with a goroutine that locked itself to one and returned so; nobody
		// locks here.
		Pdeathsig: syscall.SIGKILL,
	}
	return cmd
}

func signalGroup(cmd *exec.Cmd, sig syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, sig) }

func (p *program) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return p.startError(err)
	}
	// By group, as the program may have forked already. A refusal leaves it at our niceness.
	_ = syscall.Setpriority(syscall.PRIO_PGRP, cmd.Process.Pid, niceness)
	// Likewise: a refusal leaves the choice to the kernel.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte(oomScore), 0)
	return nil
}

// wait waits for a process, and for those of os/exec that copy for it.
func (p *program) wait(ctx context.Context, cmd *exec.Cmd) error {
	err := cmd.Wait()
	if ctx.Err() != nil || err != nil {
		// What the program left behind. Where that is nothing the number is free, and will be
		// for as long as the kernel goes round all others first.
		_ = signalGroup(cmd, syscall.SIGKILL)
	}
	return err
}
