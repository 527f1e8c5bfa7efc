package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/node/api"
	"weir/node/spec"
)

const (
	// pollEvery is how often the status is asked for: often enough for a display to look
	// alive and for the kill of an orchestrator to find who leads now.
	pollEvery = 150 * time.Millisecond
	// stopGrace is how long a node may take to end after SIGTERM.
	stopGrace = 5 * time.Second
	// gapWait is how long a finished run waits to learn of the leader after a kill: three times
	// the longest election that we promise (FAULTS 5: 1 s).
	gapWait = 3 * time.Second
	// rateWeight is how much of the shown rate comes from the last poll: about a second's worth.
	rateWeight = 0.2
)

// fleet is the processes of one run and the loop that starts, watches and ends them. Everything
// in it belongs to the goroutine that calls run.
type fleet struct {
	cfg    upConfig
	spec   *spec.File
	exe    string   // the program that nodes run
	env    []string // of the nodes
	socket string   // of the first node's API
	stdin  *os.File
	stdout io.Writer
	con    *console
	grace  time.Duration // from SIGTERM to SIGKILL

	lines   chan logLine
	reports chan report
	answers chan answer
	lasts   chan answer    // one: at the end of the first node, once it drains
	asked   chan struct{}  // the first node knows that it is to answer on lasts
	wg      sync.WaitGroup // of the goroutines that send on them

	plan     []plannedNode
	children []*child
	live     int // children not waited for
	began    time.Time

	last    api.Status // the last one that knew of the pipeline
	seen    bool       // there was one
	heldMax int64
	rate    float64 // lines read a second, smoothed
	rateAt  time.Time
	kill    kill
	killDue <-chan time.Time // nil until a record reached a sink
	killNow bool             // it is time, once somebody leads whom we may kill

	finished bool // said the last status
	draining bool // interrupted once: the taps are told to end
	untapped bool // all taps have ended
	lastWord bool // what came on lasts was taken in, or will never come
	exact    bool // last counts all that was read and written
	stopping bool // all have
	killAll  <-chan time.Time
	ended    time.Time
	err      error // why it stopped; nil: finished
}

// answer is what the first node said about the cluster.
type answer struct {
	status api.Status
	err    error
}

// run starts the nodes and returns when the pipeline is finished, or has failed, or signals
// ended it; no process and no goroutine outlives it. It must be called by a goroutine that is
// locked to a thread which lasts as long as the process: see child.start.
func (f *fleet) run(signals <-chan os.Signal) error {
	f.plan = planNodes(f.spec, f.cfg.Voters)
	f.lines, f.reports, f.answers = make(chan logLine), make(chan report), make(chan answer)
	f.asked, f.lasts = make(chan struct{}), make(chan answer)
	for _, n := range f.plan {
		f.con.names = max(f.con.names, len(n.ID))
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer f.wg.Wait()
	defer cancel()
	f.began = time.Now()
	if err := f.start(f.plan[0], ""); err != nil {
		return err
	}
	f.con.show(f.progress(api.Pipeline{Name: f.spec.Pipeline.Name}))
	for f.live > 0 {
		select {
		case l := <-f.lines:
			f.onLine(l.child, l.text)
		case r := <-f.reports:
			if r.hello != nil {
				f.onHello(ctx, r.child, r.hello)
			} else {
				f.onEnd(r.child, r.err)
			}
		case a := <-f.answers:
			f.onAnswer(a)
		case <-f.asked:
			f.drain()
		case a := <-f.lasts:
			f.onLast(a)
		case <-f.killDue:
			f.killNow, f.killDue = true, nil
		case <-signals:
			f.onSignal(ctx)
		case <-f.killAll:
			f.con.line("weir: some nodes did not end in time and were killed")
			f.forAll((*child).kill)
		}
	}
	f.con.show("")
	return f.err
}

// start starts the process of a node that joins the one at join, or is the first.
func (f *fleet) start(n plannedNode, join string) error {
	args := []string{"weir", "start", "--id", n.ID, "--file", f.cfg.File, "--listen", "127.0.0.1:0",
		"--memory", f.cfg.Memory.String(), "--voters", strconv.Itoa(f.cfg.Voters),
		"--log-level", f.cfg.LogLevel.String(), "--hello-fd", strconv.Itoa(helloFD)}
	for _, name := range slices.Sorted(maps.Keys(f.cfg.Set)) {
		args = append(args, "--set", name+"="+f.cfg.Set[name])
	}
	if n.Role != "" {
		args = append(args, "--role", n.Role)
	}
	if f.cfg.DataDir != "" {
		args = append(args, "--data-dir", filepath.Join(f.cfg.DataDir, n.ID))
	} else {
		args = append(args, "--dead-letters=false") // there is no place for one
	}
	for _, tag := range f.spec.Roles[n.Role].Needs { // one machine has to be all
		args = append(args, "--tag", tag)
	}
	if join != "" {
		args = append(args, "--join", join)
	} else {
		args = append(args, "--socket", f.socket)
		if f.cfg.HTTP != "" {
			args = append(args, "--http", f.cfg.HTTP)
		}
	}
	c := &child{plannedNode: n, cmd: &exec.Cmd{Path: f.exe, Args: args, Env: f.env}}
	role := f.spec.Roles[n.Role]
	if role.Tap != nil && role.Tap.Stdin {
		c.cmd.Stdin = f.stdin
	}
	if role.Sink != nil && role.Sink.Stdout {
		c.cmd.Stdout = f.stdout
	}
	watch, err := c.start(f.lines, f.reports)
	if err != nil {
		return err
	}
	f.children = append(f.children, c)
	f.live++
	f.wg.Go(watch)
	return nil
}

// onHello starts the other nodes once the first has an address to join.
func (f *fleet) onHello(ctx context.Context, c *child, h *hello) {
	c.greeted = true
	switch {
	case h.Error != "":
		f.stop(&exitError{h.Exit, errors.New(h.Error)})
	case c == f.children[0] && !f.stopping:
		for _, n := range f.plan[1:] {
			if err := f.start(n, h.Addr); err != nil {
				f.stop(err)
				return
			}
		}
		f.wg.Go(func() { poll(ctx, "unix:"+f.socket, f.answers) })
	}
}

// onEnd judges the end of a process: a role may lose nodes as long as it has one.
func (f *fleet) onEnd(c *child, err error) {
	c.gone = true
	f.live--
	if f.stopping {
		if c.verdict != "" {
			f.con.log(c.ID, c.verdict)
		}
		return
	}
	left := 0
	for _, o := range f.children {
		if o.Role == c.Role && !o.gone {
			left++
		}
	}
	if f.draining && f.isTap(c) {
		f.untapped = !slices.ContainsFunc(f.children, func(o *child) bool { return f.isTap(o) && !o.gone })
		f.drained()
		return
	}
	how := "ended by itself"
	if err != nil {
		how = "ended: " + err.Error()
	}
	switch {
	case exitCode(err) == exitReaderGone:
		f.stop(&exitError{Code: exitReaderGone})
	case c.Role != "" && left == 0 && c.verdict != "":
		f.stop(&exitError{exitCode(err), fmt.Errorf("node %s: %s", c.ID, c.verdict)})
	case c.Role != "" && left == 0:
		if c.said != "" {
			how += ": " + c.said
		}
		f.stop(&exitError{exitCode(err), fmt.Errorf("role %s has no node left: %s %s", c.Role, c.ID, how)})
	case !c.killed:
		if c.verdict != "" {
			how += ": " + c.verdict
		}
		f.con.line(fmt.Sprintf("weir: node %s %s; the run goes on without it", c.ID, how))
	}
}

// onLine shows a line of a node's log; its verdict is kept for the node's end.
func (f *fleet) onLine(c *child, text string) {
	if verdict, ok := strings.CutPrefix(text, verdictPrefix); ok {
		c.verdict = verdict
		return
	}
	c.said = text
	f.con.log(c.ID, text)
}

func (f *fleet) isTap(c *child) bool { return f.spec.Roles[c.Role].Tap != nil }

// onAnswer takes in what the first node says and acts on it.
func (f *fleet) onAnswer(a answer) {
	if a.err != nil || f.stopping {
		return // not up yet, or the figures of nodes that are about to end
	}
	p := pipelineOf(a.status, f.spec.Pipeline.Name)
	if p.State == "" {
		return
	}
	now := time.Now()
	if f.seen {
		perSecond := float64(p.LinesIn-pipelineOf(f.last, p.Name).LinesIn) / now.Sub(f.rateAt).Seconds()
		f.rate += rateWeight * (perSecond - f.rate)
	}
	f.last, f.seen, f.rateAt = a.status, true, now
	for _, n := range a.status.Nodes {
		f.heldMax = max(f.heldMax, n.HeldBytes)
	}
	f.con.show(f.progress(p))
	f.killLeader(p)
	switch _, known := leaderGap(f.last.Elections, f.kill); {
	case p.State == "failed":
		f.stop(f.cfg.failure(p))
	case p.State != "finished":
	case f.kill.Node != "" && !known && now.Sub(f.kill.At) < gapWait:
	case !f.finished:
		f.finished = true // a sink may have counted before the tap did: look once more
	default:
		f.exact = true
		f.stop(nil)
	}
}

// progress is the progress line for p.
func (f *fleet) progress(p api.Pipeline) string {
	return progress{
		Pipeline: p, Status: f.last, Nodes: len(f.plan), PerSecond: f.rate, Took: time.Since(f.began),
	}.line(f.con.columns() - 1)
}

// onLast takes in what the first node said at its end. It is all there is to say if no other tap
// went on.
func (f *fleet) onLast(a answer) {
	f.lastWord = true
	if p := pipelineOf(a.status, f.spec.Pipeline.Name); a.err == nil && p.State != "" && !f.stopping {
		f.last = a.status
		taps := slices.DeleteFunc(slices.Clone(f.plan), func(n plannedNode) bool { return f.spec.Roles[n.Role].Tap == nil })
		f.exact = len(taps) == 1
		if p.State == "failed" {
			f.stop(failure(p))
		}
	}
	f.drained()
}

// drain tells the taps to end.
func (f *fleet) drain() {
	for _, c := range f.children {
		if f.isTap(c) && !f.stopping { // a second signal would not let it finish
			c.terminate()
		}
	}
}

// drained ends a run that was interrupted, when there is nothing more to wait for.
func (f *fleet) drained() {
	if f.untapped && f.lastWord {
		f.stop(errInterrupted)
	}
}

// killLeader kills the leader's process, the chosen time after the first record reached a sink.
// A node that is the only one of its role is left alone until another leads: the run could not
// survive its end.
func (f *fleet) killLeader(p api.Pipeline) {
	if f.cfg.KillAfter == 0 || f.kill.Node != "" {
		return
	}
	if !f.killNow {
		if f.killDue == nil && p.RecordsOut > 0 {
			f.killDue = time.After(f.cfg.KillAfter)
		}
		return
	}
	i := slices.IndexFunc(f.children, func(c *child) bool { return c.ID == f.last.Leader && !c.gone })
	if i < 0 {
		return
	}
	c := f.children[i]
	fellows := func(o *child) bool { return o != c && o.Role == c.Role && !o.gone }
	if c.Role != "" && !slices.ContainsFunc(f.children, fellows) {
		return
	}
	c.killed = true
	f.kill = kill{Node: c.ID, Term: f.last.Term, At: time.Now()}
	c.kill()
	f.con.line(fmt.Sprintf("weir: killed %s, which leads (process %d)", c.ID, c.cmd.Process.Pid))
}

// onSignal drains at the first Ctrl-C and stops at the second.
func (f *fleet) onSignal(ctx context.Context) {
	switch {
	case f.draining || f.stopping:
		f.stop(errInterrupted)
		f.forAll((*child).kill)
	case len(f.children) < len(f.plan), !slices.ContainsFunc(f.children, f.isTap): // nothing flows yet, or only what is put
		f.stop(errInterrupted)
	default:
		f.draining = true
		f.con.line("weir: interrupted: finishing what is in flight; interrupt again to stop at once")
		// The first node is a tap, and the one that knows it all.
		f.wg.Go(func() { askLast(ctx, "unix:"+f.socket, f.asked, f.lasts) })
	}
}

// stop ends all nodes; the first reason stays.
func (f *fleet) stop(err error) {
	if f.stopping {
		return
	}
	f.stopping, f.err, f.ended = true, err, time.Now()
	f.killAll = time.After(f.grace)
	f.forAll((*child).terminate)
}

func (f *fleet) forAll(do func(*child)) {
	for _, c := range f.children {
		do(c)
	}
}

// figures are those of the run so far.
func (f *fleet) figures() figures {
	figs := figuresOf(f.last, f.spec.Pipeline.Name, f.kill)
	figs.State = "finished"
	switch {
	case errors.Is(f.err, errInterrupted):
		figs.State = "interrupted"
	case f.err != nil:
		figs.State, figs.Reason = "failed", f.err.Error()
	}
	figs.HeldBytesMax = f.heldMax
	figs.Seconds = f.ended.Sub(f.began).Round(time.Millisecond).Seconds()
	figs.Nodes = len(f.children)
	figs.AtLeast = !f.exact
	return figs
}

// poll asks the node at addr for its status until ctx is done.
func poll(ctx context.Context, addr string, out chan<- answer) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		st, err := api.Get(ctx, addr)
		select {
		case out <- answer{st, err}:
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// askLast asks the node at addr for the status at its end: a word on asked says that the node
// may be told to end, then one answer comes on out.
func askLast(ctx context.Context, addr string, asked chan<- struct{}, out chan<- answer) {
	var a answer
	wait, err := api.AtEnd(ctx, addr)
	select {
	case asked <- struct{}{}:
	case <-ctx.Done():
		return
	}
	if a.err = err; err == nil {
		a.status, a.err = wait()
	}
	select {
	case out <- a:
	case <-ctx.Done():
	}
}
