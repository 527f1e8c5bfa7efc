package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/node/api"
)

// handStatus is a cluster by hand that somebody changes.
func handStatus() api.Status {
	return api.Status{
		Cluster: "4afe66061f0d2c3b", Epoch: 9, Leader: "n1", Term: 2, Quorum: true, Voters: []string{"n1"},
		Elections: []api.Election{{Term: 2, Leader: "n1", CommittedMS: 1}},
		Nodes: []api.Node{
			{ID: "db-1", Addr: "10.0.0.3:7411", PID: 12, Roles: []string{"database", "errlog"}, State: "draining", MemoryBytes: 64 << 20},
			{ID: "n1", Addr: "10.0.0.1:7411", PID: 10, Roles: []string{}, Tags: []string{"gpu", "ssd"}, State: "alive", Voter: true, Leader: true, MemoryBytes: 64 << 20},
		},
		Edges: []api.Edge{{Pipeline: "enrich", From: "parser", To: "database", Links: 1, RecordsTotal: 100, RedeliveredTotal: 9, InflightRecords: 14,
			CreditLimit: 100, RetryRecords: 12, SuspectRecords: 2}},
		Pipelines: []api.Pipeline{
			{Name: "enrich", Version: 3, Graph: "parser -> database", Roles: []string{"parser", "database"}, State: "paused",
				Reason: "weir resume enrich/database", Paused: []string{"enrich/database"},
				Ending: []string{"role facebook", "edge parser -> facebook"}, LinesIn: 10, RecordsIn: 1, Taps: []api.Tap{}},
			{Name: "video", Version: 1, Graph: "in -> encode -> out", Roles: []string{"in", "encode", "out"}, State: "waiting",
				Reason: "no node serves role encode with --tag gpu", Taps: []api.Tap{
					{Role: "tap", Partition: "in@db-1", Node: "db-1", Read: 1},
					{Role: "tap", Partition: "logs/1", Node: "db-1", Claim: 31, Read: 7000, Acked: 6990},
					{Role: "tap", Partition: "logs/2", Claim: 30},
					{Role: "tap", Partition: "logs/3", Node: "db-2", Claim: 34, Read: 12, Acked: 12, Done: true}}},
		},
	}
}

func TestStatusByHand(t *testing.T) {
	b := new(strings.Builder)
	if err := writeStatus(b, handStatus()); err != nil {
		t.Fatal(err)
	}
	b.WriteString("\n---\n\n")
	waiting := api.Status{Cluster: "4afe66061f0d2c3b", Nodes: handStatus().Nodes[1:]}
	if err := writeStatus(b, waiting); err != nil {
		t.Fatal(err)
	}
	golden(t, "status-hand.txt", b.String())
}

// The JSON of a status is what other programs read: fields come, none goes.
func TestStatusJSON(t *testing.T) {
	b := new(strings.Builder)
	if err := writeJSON(b, handStatus(), true); err != nil {
		t.Fatal(err)
	}
	golden(t, "status.json", b.String())
}

func TestPlanText(t *testing.T) {
	b := new(strings.Builder)
	for _, plan := range []api.Plan{
		{Pipeline: "enrich", Next: 1, Changes: []string{"+ role a (each)"}, Lacks: []string{"no node serves role a yet"}},
		{Pipeline: "enrich", Version: 3, Next: 4, Changes: []string{"~ role a: send default -> split", "- edge a -> b"}},
		{Pipeline: "enrich", Version: 4, Next: 4, Lacks: []string{"n3: role a runs another program than this file: start the node again with it"}},
	} {
		if err := writePlan(b, plan); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n")
	}
	golden(t, "plan.txt", b.String())
}

// blocks is a writer that keeps what it is given, and ends ctx at the nth time.
type blocks struct {
	texts []string
	n     int
	end   func()
}

func (b *blocks) Write(p []byte) (int, error) {
	b.texts = append(b.texts, string(p))
	if len(b.texts) == b.n {
		b.end()
	}
	return len(p), nil
}

// What is watched is shown once a second; who does not answer is said, and asked again.
func TestWatch(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for _, asJSON := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b := &blocks{n: 3, end: cancel}
			start := time.Now()
			cfg := statusConfig{Watch: true, JSON: asJSON}
			var errs strings.Builder
			if err := cfg.watch(ctx, b, &errs); !errors.Is(err, errInterrupted) {
				t.Errorf("it ends with %v", err)
			}
			text := strings.Join(b.texts, "")
			if took := time.Since(start); took != 2*watchEvery || len(b.texts) != 3 {
				t.Errorf("%d blocks in %v", len(b.texts), took)
			}
			if asJSON && (text != "" || strings.Count(errs.String(), "; asking again\n") != 3) || !asJSON && strings.Count(text, "; asking again\n\nno node of yours") != 2 {
				t.Errorf("it shows %q", text)
			}
		})
	}
	cfg := statusConfig{Watch: true, Addr: "nowhere"}
	if err := cfg.watch(context.Background(), io.Discard, io.Discard); !errors.Is(err, api.ErrAddress) {
		t.Errorf("an address that is none: %v", err)
	}
}
