package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"weir/node/api"
)

// fakes says what the fake nodes of a run do. Each is a process of the test binary.
type fakes struct {
	Dir   string            // where each fake writes its process id, in a file of its name
	Nodes map[string]string // what a node does besides its duty, a word of fakeNode
	// The pipeline is finished at this question for the status, 0 = never; it fails there
	// instead if Fail is set.
	EndAt int
	Fail  *api.Pipeline
}

// fakeNode keeps the contract of `weir start` with the fleet: a hello, a status on the socket if
// it is the first, an end at SIGTERM.
func fakeNode(args []string) int {
	var cfg fakes
	if err := json.Unmarshal([]byte(os.Getenv(fakeEnv)), &cfg); err != nil {
		return 99
	}
	flags := pflag.NewFlagSet("start", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	id := flags.String("id", "", "")
	socket := flags.String("socket", "", "")
	join := flags.String("join", "", "")
	if err := flags.Parse(args); err != nil {
		return 99
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, *id), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return 99
	}
	out := os.NewFile(helloFD, "hello")
	does := cfg.Nodes[*id]
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	switch does {
	case "refuse":
		sendHello(out, hello{Error: "run nosuch: no program of that name on PATH", Exit: exitConfig})
		return exitConfig
	case "mute":
		fmt.Fprintln(os.Stderr, "panic: a bug")
		return 2
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	}
	addr := "127.0.0.1:1"
	if *join != "" && *join != addr {
		return 98
	}
	sendHello(out, hello{Addr: addr})
	switch {
	case does == "die":
		fmt.Fprintf(os.Stderr, "weir: disk full: /x\n")
		return 74
	case does == "chatter":
		fmt.Fprintf(os.Stderr, "one\r\ntwo\n%s\nlast", strings.Repeat("x", 3*logLineMax))
	}
	if *socket != "" {
		l, err := api.Listen(*socket)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 97
		}
		if err := api.Serve(ctx, l, &fakeStatus{cfg: cfg, id: *id}, nil, nil); err != nil {
			return 96
		}
		return 0
	}
	<-ctx.Done()
	return 0
}

// fakeStatus is a cluster whose pipeline moves on with each question.
type fakeStatus struct {
	cfg fakes
	id  string

	mu        sync.Mutex
	asked     int
	elections []api.Election
}

func (s *fakeStatus) Status(context.Context) (api.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	n := uint64(s.asked)
	if s.elections == nil {
		s.elections = []api.Election{{Term: 1, Leader: s.id, CommittedMS: 1}, {Term: 2, Leader: "work-1", CommittedMS: 2}}
	}
	if last := len(s.elections) - 1; !s.alive(s.elections[last].Leader) {
		s.elections = append(s.elections, api.Election{Term: s.elections[last].Term + 1, Leader: "work-2", CommittedMS: time.Now().UnixMilli()})
	}
	p := api.Pipeline{Name: "p", State: "running", LinesIn: 1000 * n, RecordsIn: 10 * n, RecordsOut: 9 * n, LinesOut: 900 * n, Duplicates: 1}
	if end := s.cfg.EndAt; end > 0 && s.asked >= end {
		p.State = "finished"
		if s.cfg.Fail != nil {
			p.State, p.Reason, p.ExitCode = "failed", s.cfg.Fail.Reason, s.cfg.Fail.ExitCode
		}
	}
	leader := s.elections[len(s.elections)-1]
	return api.Status{
		Cluster: "c", Quorum: true, Leader: leader.Leader, Term: leader.Term, Elections: s.elections,
		Nodes:     []api.Node{{ID: s.id, State: "alive", HeldBytes: 1 << 20}, {ID: "work-1", State: "alive", HeldBytes: 3 << 20}},
		Edges:     []api.Edge{{Pipeline: "p", From: "in", To: "work", RecordsTotal: 10 * n, DeliveriesTotal: 10*n + 1, RedeliveredTotal: 1, P99US: 1200}},
		Pipelines: []api.Pipeline{p},
	}, nil
}

// alive reports whether the fake node of that name has not ended; its parent buries it at once.
func (s *fakeStatus) alive(id string) bool {
	pid, err := os.ReadFile(filepath.Join(s.cfg.Dir, id))
	if errors.Is(err, os.ErrNotExist) {
		return true // still to come
	}
	_, err = os.Stat("/proc/" + string(pid))
	return err == nil
}
