package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"weir/node/api"
)

// Verbs that look: peek, logs and events. Each prints what a flow tells, value by value.

func newPeek() *cobra.Command {
	var addr string
	var asJSON bool
	var limit int
	cmd := &cobra.Command{
		Use:   "peek FROM TO",
		Short: "Show records as they go from one role to another",
		Long: `peek prints the bodies of records that go out on an edge, at all nodes of the role FROM, until Ctrl-C or
as many as --limit says. It never holds up a record: each node shows 1,280 a second at most, and 4 KiB
of each; how many went by unseen is said at the end. Records that are sent again are shown once.`,
		Example: "  weir peek parser facebook\n  weir peek enrich/parser facebook --limit 10 --json\n  weir peek classify.big gpu",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("peek takes the two roles of an edge, as peek parser facebook, not %d arguments", len(args))
			}
			return nil
		},
		ValidArgsFunction: completeEdge,
	}
	addAddr(cmd.Flags(), &addr)
	cmd.Flags().IntVar(&limit, "limit", 0, "stop after `NUMBER` records (default: at Ctrl-C)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object for each record, with the body as base64")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		if limit < 0 {
			return &exitError{exitUsage, fmt.Errorf("--limit %d: choose 1 or more", limit)}
		}
		var shown, missed, cut uint64
		out := cmd.OutOrStdout()
		err := look(cmd.Context(), addr, "peek", url.Values{"from": {args[0]}, "to": {args[1]}}, func(r api.Peeked) error {
			missed += r.Missed
			if r.ID == "" {
				return nil
			}
			if shown++; r.Bytes > len(r.Body) {
				cut++
			}
			if err := printPeeked(out, r, asJSON); err != nil {
				return err
			}
			if shown == uint64(limit) {
				return errEnough
			}
			return nil
		})
		if missed+cut > 0 {
			fmt.Fprintf(cmd.ErrOrStderr(), "weir: %s shown, %s of them cut; %s more went by unseen\n", plural(shown, "record"), count(cut), count(missed))
		}
		return err
	})
	return cmd
}

func printPeeked(w io.Writer, r api.Peeked, asJSON bool) error {
	if asJSON {
		return writeJSON(w, r, false)
	}
	_, err := w.Write(append(bytes.TrimSuffix(r.Body, []byte{'\n'}), '\n'))
	return err
}

func newLogs() *cobra.Command {
	var addr string
	var asJSON, on bool
	last := 100
	cmd := &cobra.Command{
		Use:   "logs [PIPELINE/]ROLE",
		Short: "Show what the nodes and programs of a role said",
		Long: `logs prints the last lines that the nodes of a role logged about it, what its programs wrote to stderr
among them, of all nodes together, in the order of their time. A node keeps its last 2,048 lines of all
roles, whatever its --log-level, until it ends.`,
		Example:           "  weir logs facebook\n  weir logs enrich/facebook --follow",
		Args:              oneArg("a role, alone or as PIPELINE/ROLE"),
		ValidArgsFunction: completeNames(pausable),
	}
	addAddr(cmd.Flags(), &addr)
	cmd.Flags().IntVarP(&last, "last", "n", last, "show the last `NUMBER` lines of each node")
	cmd.Flags().BoolVarP(&on, "follow", "f", false, "go on with those that come, until Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object for each line")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		q := url.Values{"role": {args[0]}, "last": {strconv.Itoa(last)}, "follow": {strconv.FormatBool(on)}}
		if last < 0 {
			return &exitError{exitUsage, fmt.Errorf("--last %d: choose 0 or more", last)}
		}
		p := logPrinter{w: cmd.OutOrStdout(), json: asJSON}
		if on {
			return look(cmd.Context(), addr, "logs", q, p.print)
		}
		err := look(cmd.Context(), addr, "logs", q, p.keep)
		return errors.Join(err, p.flush())
	})
	return cmd
}

func newEvents() *cobra.Command {
	var addr string
	var asJSON, on bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what has changed in the cluster",
		Long: `events prints what the node that is asked has seen change in the log of the cluster since it began to
follow it: who joined, left or is gone, who leads and votes, what became of pipelines, and who reads
which partition of a tap. It remembers the last 1,024.`,
		Example: "  weir events --follow",
		Args:    cobra.NoArgs,
	}
	addAddr(cmd.Flags(), &addr)
	cmd.Flags().BoolVarP(&on, "follow", "f", false, "go on with those that come, until Ctrl-C")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON object for each event")
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		return look(cmd.Context(), addr, "events", url.Values{"follow": {strconv.FormatBool(on)}}, func(e api.Event) error {
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), e, false)
			}
			name := e.Kind
			if e.Name != "" {
				name += " " + e.Name
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %6d  %s %s\n", clock(e.Time), e.Index, name, e.Text)
			return err
		})
	})
	return cmd
}

// errEnough ends a look that has shown what was asked for.
var errEnough = errors.New("enough")

// look asks for a flow and hands on each value of the lists that come, until the flow ends, Ctrl-C, or
// enough was shown. None of these is an error.
func look[T any](ctx context.Context, addr, name string, q url.Values, each func(T) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)() // where the reader of stdout has stopped, the second ends us
	err := flow(ctx, addr, name, q, nil, func(b json.RawMessage) error {
		var vs []T
		if err := json.Unmarshal(b, &vs); err != nil {
			return fmt.Errorf("the node runs another version of weir: %w", err)
		}
		for _, v := range vs {
			if err := each(v); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		return nil
	}
	return err
}

// logPrinter prints lines of several nodes.
type logPrinter struct {
	w     io.Writer
	json  bool
	lines []api.LogLine
}

func (p *logPrinter) keep(l api.LogLine) error {
	p.lines = append(p.lines, l)
	return nil
}

// flush prints what was kept, the oldest first.
func (p *logPrinter) flush() error {
	slices.SortStableFunc(p.lines, func(a, b api.LogLine) int { return a.Time.Compare(b.Time) })
	for _, l := range p.lines {
		if err := p.print(l); err != nil {
			return err
		}
	}
	return nil
}

func (p *logPrinter) print(l api.LogLine) error {
	if p.json {
		return writeJSON(p.w, l, false)
	}
	if l.Missed > 0 {
		_, err := fmt.Fprintf(p.w, "%s of %s are missing here\n", plural(uint64(l.Missed), "line"), l.Node)
		return err
	}
	_, err := fmt.Fprintf(p.w, "%s %s %-4s %s\n", clock(l.Time), l.Node, l.Level, printable(strings.ReplaceAll(l.Text, "\n", " ")))
	return err
}

// clock is a time of day, as logs of people have it.
func clock(t time.Time) string { return t.Local().Format("15:04:05.000") }

// completeEdge completes the two roles of an edge.
func completeEdge(cmd *cobra.Command, args []string, text string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeNames(func(st api.Status) (names []string) {
		for _, p := range st.Pipelines {
			names = append(names, p.Roles...)
		}
		return names
	})(cmd, nil, text)
}
