package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"weir/node/api"
)

// figures is what `up` tells at its end. The JSON names are stable; null means that there was
// nothing to measure.
type figures struct {
	Pipeline          string           `json:"pipeline"`
	State             string           `json:"state"` // finished, failed, interrupted
	Reason            string           `json:"reason,omitempty"`
	RecordsIn         uint64           `json:"records_in"`
	RecordsOut        uint64           `json:"records_out"`
	LinesIn           uint64           `json:"lines_in"`
	LinesOut          uint64           `json:"lines_out"`
	Deliveries        uint64           `json:"deliveries"`
	Redelivered       uint64           `json:"redelivered"`
	Duplicates        uint64           `json:"duplicates"` // dropped
	DeadLetters       int              `json:"dead_letters"`
	LeaderChanges     int              `json:"leader_changes"`
	LeaderGapMS       *int64           `json:"leader_gap_ms"`       // from the kill to the next leader's first committed entry
	FirstRedeliveryMS *int64           `json:"first_redelivery_ms"` // from the kill to the first redelivered record's ack
	P99US             map[string]int64 `json:"p99_us"`              // per edge, from written to handled
	HeldBytesMax      int64            `json:"held_bytes_max"`      // the most one node was seen to hold
	Seconds           float64          `json:"seconds"`
	Nodes             int              `json:"nodes"`
	AtLeast           bool             `json:"at_least,omitempty"` // the nodes could not be asked at the end: counts are of a moment before
}

// kill is the orchestrator's: who led, in which term, and when it was killed. The zero value
// is none.
type kill struct {
	Node string
	Term uint64
	At   time.Time
}

// leaderGap is how long after k the next leader committed its first entry; false: not yet.
func leaderGap(elections []api.Election, k kill) (ms int64, ok bool) {
	for _, e := range elections {
		if e.Term > k.Term && !k.At.IsZero() {
			return max(e.CommittedMS-k.At.UnixMilli(), 0), true
		}
	}
	return 0, false
}

// figuresOf reads a run's figures off the last status seen. It is pure.
func figuresOf(st api.Status, pipeline string, k kill) figures {
	f := figures{
		Pipeline:      pipeline,
		P99US:         make(map[string]int64),
		LeaderChanges: max(len(st.Elections)-1, 0), // the first leader changed nothing
	}
	p := pipelineOf(st, pipeline)
	f.RecordsIn, f.RecordsOut = p.RecordsIn, p.RecordsOut
	f.LinesIn, f.LinesOut = p.LinesIn, p.LinesOut
	f.Duplicates = p.Duplicates
	for _, d := range p.Dead {
		f.DeadLetters += d.Letters
	}
	first := int64(0)
	for _, e := range st.Edges {
		if e.Pipeline != pipeline {
			continue
		}
		f.Deliveries += e.DeliveriesTotal
		f.Redelivered += e.RedeliveredTotal
		f.P99US[e.From+" -> "+e.To] = e.P99US
		if ms := e.FirstRedeliveredMS; ms > 0 && (first == 0 || ms < first) {
			first = ms
		}
	}
	if ms, ok := leaderGap(st.Elections, k); ok {
		f.LeaderGapMS = &ms
	}
	if after := first - k.At.UnixMilli(); !k.At.IsZero() && first > 0 && after >= 0 {
		f.FirstRedeliveryMS = &after
	}
	return f
}

// pipelineOf finds a pipeline in a status; the zero value with its name if it is not there yet.
func pipelineOf(st api.Status, name string) api.Pipeline {
	for _, p := range st.Pipelines {
		if p.Name == name {
			return p
		}
	}
	return api.Pipeline{Name: name}
}

// writeSummary tells a person how a run went whose data dirs, if it had any, are in dataDir.
func writeSummary(w io.Writer, f figures, st api.Status, k kill, dataDir string) {
	b := new(strings.Builder)
	atLeast := ""
	if f.AtLeast {
		atLeast = "at least "
	}
	fmt.Fprintf(b, "%s %s after %.1f s on %s\n", f.Pipeline, f.State, f.Seconds, plural(uint64(f.Nodes), "node"))
	fmt.Fprintf(b, "  read   %s%s in %s\n", atLeast, plural(f.LinesIn, "line"), plural(f.RecordsIn, "record"))
	fmt.Fprintf(b, "  wrote  %s%s in %s, %s more came twice\n", atLeast, plural(f.LinesOut, "line"), plural(f.RecordsOut, "record"), count(f.Duplicates))
	if f.DeadLetters > 0 {
		fmt.Fprintf(b, "  kept   %s: weir dead list --data-dir %s\n", plural(uint64(f.DeadLetters), "dead letter"), dataDir)
	}
	fmt.Fprintf(b, "  held   at most %s on one node\n", size(f.HeldBytesMax))
	if k.Node != "" {
		fmt.Fprintf(b, "  killed %s, which led\n", k.Node)
	}
	if f.LeaderGapMS != nil {
		fmt.Fprintf(b, "         the next leader committed after %s ms\n", count(uint64(*f.LeaderGapMS)))
	}
	if f.FirstRedeliveryMS != nil {
		fmt.Fprintf(b, "         the first record sent again was done after %s ms\n", count(uint64(*f.FirstRedeliveryMS)))
	}
	t := newTable("edge", ">records", ">again", ">p99")
	for _, e := range st.Edges {
		if e.Pipeline == f.Pipeline {
			t.add(e.From+" -> "+e.To, count(e.RecordsTotal), count(e.RedeliveredTotal), micros(e.P99US))
		}
	}
	t.writeTo(b, "  ")
	fmt.Fprint(w, b) // stderr is gone if it fails: there is nobody to tell
}
