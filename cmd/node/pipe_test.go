package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/node/api"
	"weir/node/spec"
)

func TestPipeFile(t *testing.T) {
	f, err := pipeFile(pipeConfig{Commands: []string{"grep -v ^#", "tr a-z A-Z", " grep x ", "/bin/cat", "FOO=1 sed p", "stdin"}, Procs: 3, RecordMax: 1 << 22})
	if err != nil {
		t.Fatal(err)
	}
	want := "stdin grep tr grep-2 cat command stdin-2 stdout"
	if got := strings.Join(f.Pipeline.Graph.Roles(), " "); got != want {
		t.Errorf("roles %s, want %s", got, want)
	}
	grep := f.Roles["grep"]
	if grep.Sh != "grep -v ^#" || grep.Procs != 3 || len(grep.OK) != 2 {
		t.Errorf("role grep is %+v", grep)
	}
	if f.Roles["stdin"].Records != "block" || f.Pipeline.RecordMax != 1<<22 {
		t.Errorf("records %q, record-max %d", f.Roles["stdin"].Records, f.Pipeline.RecordMax)
	}
	if ps := f.Lint(); len(ps) != 0 {
		t.Errorf("lint: %v", ps)
	}
	f, err = pipeFile(pipeConfig{Commands: []string{"sort"}})
	if ps := f.Lint(); err != nil || len(ps) != 1 || ps[0].Severity != spec.SeverityWarning {
		t.Errorf("sort: %v, %v; want a warning", err, ps)
	}
}

// endingNode is a runner whose pipeline reaches a state after a while.
type endingNode struct {
	after    time.Duration
	state    api.Pipeline
	err      error // of Run, when ctx ends it
	stopAt   time.Duration
	began    time.Time
	running  bool
	statuses int
}

func (n *endingNode) Run(ctx context.Context) error {
	n.running = true
	defer func() { n.running = false }()
	var stop <-chan time.Time
	if n.stopAt > 0 {
		stop = time.After(n.stopAt)
	}
	select {
	case <-ctx.Done():
	case <-stop:
	}
	return n.err
}

func (n *endingNode) Status(context.Context) (api.Status, error) {
	n.statuses++
	if n.statuses == 1 {
		return api.Status{}, errors.New("not up yet")
	}
	p := api.Pipeline{Name: pipeName, State: "running"}
	if time.Since(n.began) >= n.after {
		p = n.state
		p.Name = pipeName
	}
	return api.Status{Pipelines: []api.Pipeline{p}}, nil
}

func TestRunToEnd(t *testing.T) {
	boom := errors.New("mux: boom")
	tests := []struct {
		name      string
		node      endingNode
		interrupt time.Duration
		code      int
		text      string
		took      time.Duration
	}{
		{name: "finished", node: endingNode{after: time.Second, state: api.Pipeline{State: "finished"}}, took: time.Second},
		{name: "failed", node: endingNode{after: time.Second, state: api.Pipeline{State: "failed", Reason: "grep: exit 2", ExitCode: 2}},
			code: 2, text: "grep: exit 2", took: time.Second},
		{name: "reader gone", node: endingNode{state: api.Pipeline{State: "failed", Reason: "x", ExitCode: exitReaderGone}},
			code: exitReaderGone, text: "exit", took: 2 * endEvery},
		{name: "the node breaks", node: endingNode{after: time.Hour, stopAt: time.Minute, err: boom}, code: exitFailed, text: "mux: boom", took: time.Minute},
		{name: "interrupted", node: endingNode{after: time.Hour}, interrupt: time.Second, code: exitInterrupted, text: "exit", took: time.Second},
		{name: "finished, then it breaks", node: endingNode{state: api.Pipeline{State: "finished"}, err: boom}, code: exitFailed, text: "mux: boom", took: 2 * endEvery},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &tt.node
				n.began = time.Now()
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				if tt.interrupt > 0 {
					time.AfterFunc(tt.interrupt, func() { cancel(errInterrupted) })
				}
				err := withCode(runToEnd(ctx, n, pipeName))
				code, text := exitOK, ""
				var coded *exitError
				if errors.As(err, &coded) {
					code, text = coded.Code, coded.Error()
				}
				if code != tt.code || text != tt.text {
					t.Errorf("ended with %d, %q; want %d, %q", code, text, tt.code, tt.text)
				}
				if n.running {
					t.Error("the node still runs")
				}
				if took := time.Since(n.began); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
			})
		})
	}
}
