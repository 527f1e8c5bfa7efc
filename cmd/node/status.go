package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weir/node/api"
)

// statusHelp is the columns of a status.
const statusHelp = `
  LINES, RECORDS IN   read by the taps since their nodes started; a record is a line or a block of lines
  LINES, RECORDS OUT  written by the sinks since their nodes started
  PARTITION, READ BY  what a tap reads apart from its others, if the cluster keeps its place; the node that does
  READ, ACKED         records of it since the nodes started; acked: done with, end to end
  TWICE               records that a sink was given a second time, after a fault, and dropped
  LINKS               pairs of nodes that the edge connects
  RECORDS, AGAIN      handed to the edge; of these sent once more, to another node
  IN FLIGHT           sent and not yet acked: something that came of them is on its way
  CREDIT              sent and not yet taken, of what the receivers allow
  P99                 time from sending a record to the end of its work there, of all but 1 %
  STATE               alive, draining, suspect (does not answer), dead, left
  VOTE                leads: the orchestrator; votes: elects it; -: neither
  HELD, OF            records that the node keeps until they are acked, and the most it may keep
  RSS                 the memory of the node's process, without its programs`

// statusConfig is what status was asked to do.
type statusConfig struct {
	Addr  string
	JSON  bool
	Watch bool
	Nodes bool // nothing but the nodes
}

func newStatus() *cobra.Command {
	var cfg statusConfig
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what a running cluster does",
		Long: `status asks a node of this machine, by its Unix socket, what the whole cluster does.
From elsewhere: ssh HOST weir status.
` + statusHelp,
		Example: "  weir status --watch\n  weir status nodes\n  weir status --json | jq .pipelines",
		Args:    cobra.NoArgs,
	}
	cmd.AddCommand(newStatusNodes())
	cfg.addTo(cmd)
	return cmd
}

func newStatusNodes() *cobra.Command {
	cfg := statusConfig{Nodes: true}
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "Show only the nodes",
		Long:  "nodes shows the nodes of the cluster, as the last table of status.",
		Args:  cobra.NoArgs,
	}
	cfg.addTo(cmd)
	return cmd
}

// addTo makes cmd show what cfg says.
func (cfg *statusConfig) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&cfg.Addr, "addr", "", "ask the node at `ADDR`: unix:PATH or HOST:PORT (default the only socket of yours, or any where all are of one cluster)")
	flags.BoolVar(&cfg.JSON, "json", false, "print JSON; with --watch, a line each time")
	flags.BoolVarP(&cfg.Watch, "watch", "w", false, "show it every second until Ctrl-C: in place on a terminal, else one after the other")
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		if cfg.Watch {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return cfg.watch(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
		}
		text, err := cfg.text(cmd.Context())
		if err != nil {
			return err
		}
		_, err = io.WriteString(cmd.OutOrStdout(), text)
		return err
	})
}

// text asks a node and returns what to show.
func (cfg *statusConfig) text(ctx context.Context) (string, error) {
	at, err := nodeAt(ctx, cfg.Addr)
	if err != nil {
		return "", err
	}
	st, err := api.Get(ctx, at)
	if err != nil {
		return "", err
	}
	b := new(strings.Builder)
	switch {
	case cfg.JSON:
		var what any = st
		if cfg.Nodes {
			what = st.Nodes
		}
		err = writeJSON(b, what, !cfg.Watch)
	case cfg.Nodes:
		writeNodes(b, st.Nodes)
		return strings.TrimPrefix(b.String(), "\n"), nil
	default:
		err = writeStatus(b, st)
	}
	return b.String(), err
}

const (
	// watchEvery is how often --watch asks.
	watchEvery = time.Second
	// clearScreen moves a terminal's cursor to its first place and wipes all behind it.
	clearScreen = "\x1b[H\x1b[2J"
)

// watch shows the status again and again until ctx is done. A node that does not answer may
// come back: what is wrong is shown in place of the status, or beside the JSON.
func (cfg *statusConfig) watch(ctx context.Context, w, errs io.Writer) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	before, between := "", "\n"
	switch {
	case cfg.JSON:
		between = ""
	case isTerminal(w):
		before, between = clearScreen, clearScreen
	}
	for ; ; before = between {
		text, err := cfg.text(ctx)
		switch {
		case ctx.Err() != nil:
			return errInterrupted
		case err != nil && errors.Is(err, api.ErrAddress):
			return err
		case err != nil && cfg.JSON:
			fmt.Fprintf(errs, "weir: %v; asking again\n", err)
		case err != nil:
			text = fmt.Sprintf("%v; asking again\n", err)
		}
		if _, err := io.WriteString(w, before+text); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errInterrupted
		}
	}
}

// writeStatus shows a status to a person.
func writeStatus(w io.Writer, st api.Status) error {
	b := new(strings.Builder)
	fmt.Fprintf(b, "cluster %.8s, epoch %d, %s\n", st.Cluster, st.Epoch, leadership(st))
	writePipelines(b, st.Pipelines)
	writeTaps(b, st.Pipelines)
	writeEdges(b, st.Edges)
	writeNodes(b, st.Nodes)
	_, err := io.WriteString(w, b.String())
	return err
}

// leadership says who decides, or that nobody can and what goes on all the same.
func leadership(st api.Status) string {
	alive := 0
	for _, n := range st.Nodes {
		if n.State == "alive" && slices.Contains(st.Voters, n.ID) {
			alive++
		}
	}
	switch {
	case len(st.Voters) == 0:
		return "no cluster yet: it waits for one of its seeds, or for weir cluster init"
	case !st.Quorum:
		return fmt.Sprintf("NO QUORUM (%d/%d voters): data flows on epoch %d, graph frozen", alive, len(st.Voters), st.Epoch)
	case st.Leader == "":
		return "no leader yet: data flows"
	}
	return fmt.Sprintf("%s leads in term %d, %d of %d voters alive", st.Leader, st.Term, alive, len(st.Voters))
}

func writePipelines(b *strings.Builder, ps []api.Pipeline) {
	if len(ps) == 0 {
		b.WriteString("\nno pipeline yet\n")
		return
	}
	t := newTable("PIPELINE", "STATE", ">LINES IN", ">LINES OUT", ">RECORDS IN", ">RECORDS OUT", ">TWICE")
	for _, p := range ps {
		t.add(p.Name, p.State, count(p.LinesIn), count(p.LinesOut), count(p.RecordsIn), count(p.RecordsOut), count(p.Duplicates))
	}
	b.WriteByte('\n')
	t.writeTo(b, "")
	for _, p := range ps {
		if p.Reason != "" {
			fmt.Fprintf(b, "%s %s: %s\n", p.Name, p.State, printable(p.Reason))
		}
		if p.State == "failed" {
			fmt.Fprintf(b, "%s: when that is mended, weir apply FILE starts it again; its taps read from the start\n", p.Name)
		}
		for _, d := range p.Dead {
			name := p.Name + "/" + d.Role
			fmt.Fprintf(b, "%s: dead letters: %s: weir dead list %s\n", name, count(uint64(d.Letters)), name)
		}
		if len(p.Ending) > 0 {
			fmt.Fprintf(b, "%s: ending, with what is in flight there: %s\n", p.Name, strings.Join(p.Ending, ", "))
		}
	}
}

// writeTaps shows the partitions that the log keeps the places of.
func writeTaps(b *strings.Builder, ps []api.Pipeline) {
	t, rows := newTable("PARTITION", "READ BY", ">READ", ">ACKED", "STATE"), 0
	for _, p := range ps {
		for _, tap := range p.Taps {
			if tap.Claim == 0 {
				continue
			}
			state := "reads"
			switch {
			case tap.Done:
				state = "done"
			case tap.Node == "":
				state = "waits"
			}
			t.add(p.Name+"/"+tap.Role+" "+tap.Partition, cmp.Or(tap.Node, "-"), count(tap.Read), count(tap.Acked), state)
			rows++
		}
	}
	if rows > 0 {
		b.WriteByte('\n')
		t.writeTo(b, "")
	}
}

func writeEdges(b *strings.Builder, es []api.Edge) {
	if len(es) == 0 {
		return
	}
	t := newTable("EDGE", ">LINKS", ">RECORDS", ">AGAIN", ">IN FLIGHT", ">CREDIT", ">P99")
	for _, e := range es {
		t.add(fmt.Sprintf("%s/%s -> %s", e.Pipeline, e.From, e.To), strconv.Itoa(e.Links), count(e.RecordsTotal),
			count(e.RedeliveredTotal), strconv.FormatInt(e.InflightRecords, 10),
			fmt.Sprintf("%d/%d", e.CreditUsed, e.CreditLimit), micros(e.P99US))
	}
	b.WriteByte('\n')
	t.writeTo(b, "")
	for _, e := range es {
		if e.RetryRecords > 0 {
			fmt.Fprintf(b, "%s/%s -> %s: %d records wait to be tried again\n", e.Pipeline, e.From, e.To, e.RetryRecords)
		}
		if e.SuspectRecords > 0 {
			fmt.Fprintf(b, "%s/%s -> %s: %d records that a node died with go on one at a time\n", e.Pipeline, e.From, e.To, e.SuspectRecords)
		}
	}
}

func writeNodes(b *strings.Builder, ns []api.Node) {
	head := []string{"NODE", "STATE", "ROLES", "VOTE", ">HELD", ">OF", ">RSS", ">PID", "ADDRESS"}
	tagged := slices.ContainsFunc(ns, func(n api.Node) bool { return len(n.Tags) > 0 })
	if tagged {
		head = append(head, "TAGS")
	}
	t := newTable(head...)
	for _, n := range ns {
		vote := "-"
		switch {
		case n.Leader:
			vote = "leads"
		case n.Voter:
			vote = "votes"
		}
		row := []string{
			n.ID, n.State, cmp.Or(strings.Join(n.Roles, ","), "-"), vote, size(n.HeldBytes), size(n.MemoryBytes), size(n.RSSBytes),
			strconv.Itoa(n.PID), n.Addr,
		}
		if tagged {
			row = append(row, cmp.Or(strings.Join(n.Tags, ","), "-"))
		}
		t.add(row...)
	}
	b.WriteByte('\n')
	t.writeTo(b, "")
}
