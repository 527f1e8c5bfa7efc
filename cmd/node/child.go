package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	// logLineMax is where a line of a child's log is cut, in bytes (FAULTS 4, log line).
	logLineMax = 4 << 10
	// helloBytesMax is the most a child may say when it is ready, in bytes: an address, or one
	// error with the tail of a program's stderr.
	helloBytesMax = 64 << 10
	// helloFD is the descriptor on which a child says it: the first of exec.Cmd.ExtraFiles.
	helloFD = 3
	// outputWait is how long a dead child's log may be held open by what it left behind.
	outputWait = time.Second
)

// verdictPrefix begins the last line of a node that cannot go on, which is no log line (run).
const verdictPrefix = "weir: "

// hello is the one line that a child writes on helloFD: its address once its socket is open, or
// why it has none.
type hello struct {
	Addr  string `json:"addr,omitempty"`
	Error string `json:"error,omitempty"`
	Exit  int    `json:"exit,omitempty"`
}

// child is the process of a node. Its fields belong to the fleet's loop.
type child struct {
	plannedNode
	cmd     *exec.Cmd
	greeted bool   // has said hello
	gone    bool   // has been waited for
	killed  bool   // by us, on purpose
	said    string // the last line of its log
	verdict string // why it ended, in its own words: see verdictPrefix
}

// report is a step in a child's life: its hello, then its end.
type report struct {
	child *child
	hello *hello // nil: the child has ended, with err
	err   error
}

// logLine is a line that a child wrote to stderr, without its end.
type logLine struct {
	child *child
	text  string
}

// start starts the child's process and returns a function that reports its life on out and
// returns when the process has ended; call it in a goroutine. What the child logs goes to lines.
// The process dies with the thread that calls start, so that must be one that lasts (main).
func (c *child) start(lines chan<- logLine, out chan<- report) (watch func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start node %s: %w", c.ID, err)
	}
	defer w.Close() // the child has its own
	log := &lineWriter{child: c, out: lines}
	c.cmd.Stderr = log
	c.cmd.ExtraFiles = []*os.File{w}
	c.cmd.WaitDelay = outputWait
	c.cmd.SysProcAttr = &syscall.SysProcAttr{
		// Not SIGKILL: a node ends its programs and what these started first (drainOnSignal).
		Pdeathsig: syscall.SIGHUP,
		// Ctrl-C is ours to hand on, tap first. A process outside the terminal's group may not
		// read from it, so a node that reads stdin stays in it.
		Setpgid: c.cmd.Stdin == nil,
	}
	if err := c.cmd.Start(); err != nil {
		r.Close()
		return nil, fmt.Errorf("start node %s: %w", c.ID, err)
	}
	return func() {
		h, err := readHello(r)
		r.Close()
		if err == nil {
			out <- report{child: c, hello: h}
		}
		err = c.cmd.Wait()
		log.flush()
		// The loop that reads out ends only when it has seen every child's end.
		out <- report{child: c, err: err}
	}, nil
}

// readHello reads a child's hello; a child that ends first has none.
func readHello(r io.Reader) (*hello, error) {
	line, err := bufio.NewReader(io.LimitReader(r, helloBytesMax)).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read a child's hello: %w", err)
	}
	h := new(hello)
	if err := json.Unmarshal(line, h); err != nil {
		return nil, fmt.Errorf("read a child's hello: %w", err)
	}
	return h, nil
}

// terminate asks the child to drain and end.
func (c *child) terminate() {
	if !c.gone {
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended and not been reported yet: as good
	}
}

// kill kills -9 the child and all that it started.
func (c *child) kill() {
	if !c.gone {
		killTree(c.cmd.Process.Pid)
	}
}

// exitCode is the code to exit with for a child that ended with err.
func exitCode(err error) int {
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.ExitCode() > 0 {
		return ee.ExitCode()
	}
	return exitFailed
}

// lineWriter cuts what a child writes into lines and hands them to the fleet's loop. exec.Cmd
// calls it from one goroutine.
type lineWriter struct {
	child *child
	out   chan<- logLine
	part  []byte // of a line whose end is still to come
}

func (w *lineWriter) Write(b []byte) (int, error) {
	n := len(b)
	for {
		line, rest, whole := bytes.Cut(b, []byte{'\n'})
		w.part = append(w.part, line[:min(len(line), logLineMax-len(w.part))]...)
		if !whole {
			return n, nil
		}
		w.send()
		b = rest
	}
}

// flush hands on a last line that has no end.
func (w *lineWriter) flush() {
	if len(w.part) > 0 {
		w.send()
	}
}

func (w *lineWriter) send() {
	// The loop that reads out ends only when the child's output has.
	w.out <- logLine{w.child, strings.TrimRight(string(w.part), "\r")}
	w.part = w.part[:0]
}
