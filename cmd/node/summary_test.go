package main

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weir/node/api"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), rewrite with -update:\n%s", name, diff)
	}
}

// sampleStatus is a run whose orchestrator was killed at 10 s.
func sampleStatus() api.Status {
	return api.Status{
		Cluster: "3f2a91bc77d0", Epoch: 17, Leader: "names-2", Term: 3, Quorum: true,
		Voters: []string{"code-2", "names-1", "names-2"},
		Elections: []api.Election{
			{Term: 1, Leader: "files-1", CommittedMS: 1_000}, {Term: 2, Leader: "names-1", CommittedMS: 2_000},
			{Term: 3, Leader: "names-2", CommittedMS: 10_612},
		},
		Nodes: []api.Node{
			{ID: "files-1", Addr: "127.0.0.1:41001", PID: 4001, Roles: []string{"files"}, State: "alive",
				RSSBytes: 31 << 20, HeldBytes: 7_654_321, MemoryBytes: 64 << 20},
			{ID: "code-2", Addr: "127.0.0.1:41002", PID: 4002, Roles: []string{"code"}, State: "alive", Voter: true,
				RSSBytes: 28 << 20, HeldBytes: 1 << 20, MemoryBytes: 64 << 20},
			{ID: "names-1", Addr: "127.0.0.1:41003", PID: 4003, Roles: []string{"names"}, State: "dead", Voter: true, MemoryBytes: 64 << 20},
			{ID: "names-2", Addr: "127.0.0.1:41004", PID: 4004, Roles: []string{"names"}, State: "alive", Voter: true, Leader: true,
				RSSBytes: 27 << 20, MemoryBytes: 1 << 30},
			{ID: "voter-1", Addr: "127.0.0.1:41005", PID: 4005, State: "alive", MemoryBytes: 64 << 20},
		},
		Edges: []api.Edge{
			{Pipeline: "gosrc", From: "files", To: "code", Links: 2, InflightRecords: 12, CreditUsed: 3, CreditLimit: 16,
				RecordsTotal: 1_204, DeliveriesTotal: 1_206, P99US: 85_300},
			{Pipeline: "gosrc", From: "code", To: "names", Links: 4, CreditLimit: 16,
				RecordsTotal: 1_200, DeliveriesTotal: 1_204, RedeliveredTotal: 4, FirstRedeliveredMS: 11_050, P99US: 840},
			{Pipeline: "other", From: "a", To: "b", RecordsTotal: 9, DeliveriesTotal: 9, RedeliveredTotal: 9, FirstRedeliveredMS: 1},
		},
		Pipelines: []api.Pipeline{
			{Name: "gosrc", Version: 1, State: "running", LinesIn: 2_853_112, LinesOut: 223_980, RecordsIn: 1_204, RecordsOut: 1_180, Duplicates: 2},
			{Name: "other", Version: 1, State: "waiting", Reason: "nobody serves role b"},
		},
	}
}

var sampleKill = kill{Node: "names-1", Term: 2, At: time.UnixMilli(10_000)}

func TestFiguresOf(t *testing.T) {
	gap, first := int64(612), int64(1_050)
	want := figures{
		Pipeline: "gosrc", RecordsIn: 1_204, RecordsOut: 1_180, LinesIn: 2_853_112, LinesOut: 223_980,
		Deliveries: 2_410, Redelivered: 4, Duplicates: 2, LeaderChanges: 2, LeaderGapMS: &gap, FirstRedeliveryMS: &first,
		P99US: map[string]int64{"files -> code": 85_300, "code -> names": 840},
	}
	if diff := cmp.Diff(want, figuresOf(sampleStatus(), "gosrc", sampleKill)); diff != "" {
		t.Errorf("figures (-want +got):\n%s", diff)
	}
	calm := figuresOf(sampleStatus(), "gosrc", kill{})
	if calm.LeaderGapMS != nil || calm.FirstRedeliveryMS != nil {
		t.Errorf("nobody was killed, yet gap %v and first redelivery %v", calm.LeaderGapMS, calm.FirstRedeliveryMS)
	}
	none := figuresOf(api.Status{}, "gosrc", kill{Node: "a", Term: 1, At: time.UnixMilli(5)})
	if none.LeaderGapMS != nil || none.LeaderChanges != 0 || none.FirstRedeliveryMS != nil {
		t.Errorf("figures of nothing: %+v", none)
	}
}

func TestFiguresJSON(t *testing.T) {
	f := figuresOf(sampleStatus(), "gosrc", sampleKill)
	f.State, f.Seconds, f.Nodes, f.HeldBytesMax = "finished", 9.812, 9, 7_654_321
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "figures.json", string(b)+"\n")
}

func TestSummary(t *testing.T) {
	b := new(strings.Builder)
	f := figuresOf(sampleStatus(), "gosrc", sampleKill)
	f.State, f.Seconds, f.Nodes, f.HeldBytesMax = "finished", 9.812, 9, 7_654_321
	writeSummary(b, f, sampleStatus(), sampleKill, "d")
	b.WriteString("\n---\n\n")
	f = figures{Pipeline: "p", State: "interrupted", LinesIn: 1, LinesOut: 1, RecordsIn: 1, RecordsOut: 1, Nodes: 1, AtLeast: true}
	writeSummary(b, f, api.Status{}, kill{}, "")
	golden(t, "summary.txt", b.String())
}

func TestStatusTable(t *testing.T) {
	b := new(strings.Builder)
	if err := writeStatus(b, sampleStatus()); err != nil {
		t.Fatal(err)
	}
	frozen := sampleStatus()
	frozen.Quorum, frozen.Leader = false, ""
	for i := range frozen.Nodes {
		if frozen.Nodes[i].ID != "code-2" {
			frozen.Nodes[i].State = "dead"
		}
	}
	frozen.Pipelines, frozen.Edges, frozen.Nodes = nil, nil, frozen.Nodes[:3]
	b.WriteString("\n---\n\n")
	if err := writeStatus(b, frozen); err != nil {
		t.Fatal(err)
	}
	golden(t, "status.txt", b.String())
}
