package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"weir/node/api"
)

func newStatus() *cobra.Command {
	var addr string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what a running cluster does",
		Long: `status asks a node of this machine, by its Unix socket, what the whole cluster does.
From elsewhere: ssh HOST weir status.

  LINES, RECORDS IN   read by the taps so far; a record is a line or a block of lines
  LINES, RECORDS OUT  written by the sinks so far
  TWICE               records that a sink was given a second time, after a fault
  LINKS               pairs of nodes that the edge connects
  RECORDS, AGAIN      handed to the edge; of these sent once more, to another node
  IN FLIGHT           sent and not yet acked: something that came of them is on its way
  CREDIT              sent and not yet taken, of what the receivers allow
  P99                 time from sending a record to the end of its work there, of all but 1 %
  STATE               alive, suspect (does not answer), dead, left
  VOTE                leads: the orchestrator; votes: elects it; -: neither
  HELD, OF            records that the node keeps until they are acked, and the most it may keep
  RSS                 the memory of the node's process, without its programs`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&addr, "addr", "", "ask the node at `ADDR`: unix:PATH or HOST:PORT (default the only socket of yours)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the status as JSON")
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		if addr == "" {
			var err error
			if addr, err = onlySocket(api.Sockets()); err != nil {
				return err
			}
		}
		st, err := api.Get(cmd.Context(), addr)
		if err != nil {
			return err
		}
		if asJSON {
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(st)
		}
		return writeStatus(cmd.OutOrStdout(), st)
	})
	return cmd
}

// onlySocket picks the node to ask among the sockets of this user.
func onlySocket(paths []string, err error) (addr string, _ error) {
	switch {
	case err != nil:
		return "", err
	case len(paths) == 0:
		return "", &exitError{exitUnreachable, fmt.Errorf("no node of yours runs here: there is no socket in %s; name one with --addr", api.Dir())}
	case len(paths) > 1:
		return "", &exitError{exitUsage, fmt.Errorf("several nodes of yours run here; choose one:\n  --addr unix:%s",
			strings.Join(paths, "\n  --addr unix:"))}
	}
	return "unix:" + filepath.Clean(paths[0]), nil
}

// writeStatus shows a status to a person.
func writeStatus(w io.Writer, st api.Status) error {
	b := new(strings.Builder)
	fmt.Fprintf(b, "cluster %.8s, epoch %d, %s\n", st.Cluster, st.Epoch, leadership(st))
	writePipelines(b, st.Pipelines)
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
		return "no cluster yet: it waits for one of its seeds"
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
			fmt.Fprintf(b, "%s %s: %s\n", p.Name, p.State, p.Reason)
		}
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
}

func writeNodes(b *strings.Builder, ns []api.Node) {
	t := newTable("NODE", "STATE", "ROLES", "VOTE", ">HELD", ">OF", ">RSS", ">PID", "ADDRESS")
	for _, n := range ns {
		vote := "-"
		switch {
		case n.Leader:
			vote = "leads"
		case n.Voter:
			vote = "votes"
		}
		roles := strings.Join(n.Roles, ",")
		if roles == "" {
			roles = "-"
		}
		t.add(n.ID, n.State, roles, vote, size(n.HeldBytes), size(n.MemoryBytes), size(n.RSSBytes), strconv.Itoa(n.PID), n.Addr)
	}
	b.WriteByte('\n')
	t.writeTo(b, "")
}
