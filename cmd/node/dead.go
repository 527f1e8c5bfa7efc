package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weir/node/api"
	"weir/node/dead"
)

const (
	// deadLimit is how many dead letters a list shows unless told: a few screens.
	deadLimit = 50
	// deadLimitMax is the most that a node lists.
	deadLimitMax = 1000
	// reasonShown is how much of a reason a row of the list shows, in characters.
	reasonShown = 60
	// idShown is how much of an id a row of the list shows: enough to be the only one.
	idShown = 8
)

func newDead() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dead",
		Short: "List, show, replay and drop the records that a role could not handle",
		Long: `A record that its role fails on three times, or says is poison (exit code 65), becomes a dead letter: it is
kept on the disk of a node with a data dir, with the reason, and the others go on. dead looks at the
letters of the whole cluster, through any node.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newDeadList(), newDeadShow(), newDeadReplay(), newDeadDrop())
	return cmd
}

func newDeadList() *cobra.Command {
	var addr, dir string
	var asJSON bool
	limit := deadLimit
	cmd := &cobra.Command{
		Use:               "list [PIPELINE[/ROLE]]",
		Short:             "List dead letters, the newest first",
		Example:           "  weir dead list enrich/facebook --limit 10",
		Args:              atMostOne,
		ValidArgsFunction: completeNames(pausable),
	}
	addAddr(cmd.Flags(), &addr)
	addShelf(cmd.Flags(), &dir)
	cmd.Flags().IntVar(&limit, "limit", limit, "show at most `NUMBER`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		if limit < 1 || limit > deadLimitMax {
			return &exitError{exitUsage, fmt.Errorf("--limit %d: choose 1 to %d", limit, deadLimitMax)}
		}
		ls, err := askDead(cmd.Context(), addr, dir, "dead/list", api.Pick{Name: strings.Join(args, ""), Limit: limit}, (*shelf).list)
		if err != nil {
			return err
		}
		if asJSON {
			return writeJSON(cmd.OutOrStdout(), ls, true)
		}
		tellSilent(cmd.ErrOrStderr(), ls.Silent, "what they keep is not in the list")
		return writeLetters(cmd.OutOrStdout(), ls)
	})
	return cmd
}

func newDeadShow() *cobra.Command {
	var addr, dir string
	var asJSON, body bool
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "Show one dead letter, or the record that it is",
		Long:    "show prints what is known of a dead letter; with --body the record and nothing else, byte for byte.\nThe beginning of an id is enough where no other begins so.",
		Example: "  weir dead show 3f2a\n  weir dead show 3f2a --body | ./facebook.sh",
		Args:    oneArg("the id of a dead letter"),
	}
	addAddr(cmd.Flags(), &addr)
	addShelf(cmd.Flags(), &dir)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the body as base64")
	cmd.Flags().BoolVar(&body, "body", false, "print the record and nothing else")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		l, err := askDead(cmd.Context(), addr, dir, "dead/show", api.Pick{IDs: args}, (*shelf).show)
		if err != nil {
			return err
		}
		switch w := cmd.OutOrStdout(); {
		case body:
			_, err := w.Write(l.Body)
			return err
		case asJSON:
			return writeJSON(w, l, true)
		default:
			return writeLetter(w, l)
		}
	})
	return cmd
}

func newDeadReplay() *cobra.Command {
	var addr string
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "replay ID... | --all [PIPELINE[/ROLE]]",
		Short: "Give dead letters to the roles that failed on them once more",
		Long: `replay gives letters back to the roles that failed on them, as new records, and waits until all that comes of
them has arrived. Only then a letter is gone: Ctrl-C, or the death of a node, leaves those that were under
way, which may then arrive twice when they are replayed again. A record that fails again is a new letter
(exit 65).`,
		Example:           "  weir dead replay 3f2a 77c0\n  weir dead replay --all enrich/facebook",
		ValidArgsFunction: completeNames(pausable),
	}
	cmd.Args = picking(&all)
	addAddr(cmd.Flags(), &addr)
	cmd.Flags().BoolVar(&all, "all", false, "all letters, or all of the pipeline or role that is named")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON at the end")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		q := url.Values{"id": args}
		if all {
			q = url.Values{"name": args}
		}
		con := newConsole(cmd.ErrOrStderr())
		var far api.Replayed
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		err := flow(ctx, addr, "dead/replay", q, nil, func(b json.RawMessage) error {
			if err := json.Unmarshal(b, &far); err != nil {
				return err
			}
			con.show(fmt.Sprintf("%d of %d replayed", far.Letters, far.Of))
			return nil
		})
		con.show("")
		if ctx.Err() != nil {
			return &exitError{exitInterrupted, fmt.Errorf("interrupted: %d of %s replayed, the others are still there", far.Letters, letters(far.Of))}
		}
		return endReplay(cmd.OutOrStdout(), con, far, asJSON, err)
	})
	return cmd
}

// endReplay says how a replay ended.
func endReplay(w io.Writer, con *console, far api.Replayed, asJSON bool, err error) error {
	if asJSON {
		if err := writeJSON(w, far, false); err != nil {
			return err
		}
	} else if err == nil || far.Of > 0 {
		if _, err := fmt.Fprintf(w, "%d of %s replayed\n", far.Letters, letters(far.Of)); err != nil {
			return err
		}
	}
	for _, note := range far.Notes {
		con.line("weir: " + note)
	}
	if len(far.Silent) > 0 {
		con.line("weir: " + silentText(far.Silent) + ": what they keep is not replayed")
	}
	switch {
	case err != nil:
		return err
	case far.Again > 0:
		return &exitError{exitData, fmt.Errorf("%s came of that: weir dead list", letters(far.Again))}
	case far.Letters < far.Of:
		return &exitError{Code: exitFailed}
	case len(far.Silent) > 0:
		return &exitError{Code: exitUnreachable}
	}
	return nil
}

func newDeadDrop() *cobra.Command {
	var addr, dir string
	var all bool
	cmd := &cobra.Command{
		Use:               "drop ID... | --all [PIPELINE[/ROLE]]",
		Short:             "Forget dead letters for good",
		Example:           "  weir dead drop 3f2a\n  weir dead drop --all enrich",
		ValidArgsFunction: completeNames(pausable),
	}
	cmd.Args = picking(&all)
	addAddr(cmd.Flags(), &addr)
	addShelf(cmd.Flags(), &dir)
	cmd.Flags().BoolVar(&all, "all", false, "all letters, or all of the pipeline or role that is named")
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		p := api.Pick{IDs: args}
		if all {
			p = api.Pick{Name: strings.Join(args, "")}
		}
		d, err := askDead(cmd.Context(), addr, dir, "dead/drop", p, (*shelf).drop)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s dropped\n", letters(d.Letters)); err != nil {
			return err
		}
		tellSilent(cmd.ErrOrStderr(), d.Silent, "what they keep is still there")
		switch {
		case d.Busy > 0:
			return &exitError{exitBusy, fmt.Errorf("not dropped, because they are being replayed: %s", letters(d.Busy))}
		case len(d.Silent) > 0:
			return &exitError{Code: exitUnreachable}
		}
		return nil
	})
	return cmd
}

// addShelf adds --data-dir to the flags of a verb that can do without a node.
func addShelf(flags *pflag.FlagSet, dir *string) {
	flags.StringVar(dir, "data-dir", "", "instead of a node, look at the data dir `DIR`, or those in it, whose nodes do not run")
}

// picking is for verbs that take ids, or --all and perhaps a name.
func picking(all *bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case *all:
			return atMostOne(cmd, args)
		case len(args) == 0:
			return fmt.Errorf("%s takes ids of dead letters, or --all", cmd.Name())
		}
		return nil
	}
}

// atMostOne is for verbs that take a pipeline or role, or mean all.
func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("%s takes one pipeline, or a role of one as PIPELINE/ROLE, not %d", cmd.Name(), len(args))
	}
	return nil
}

// tellSilent says which nodes did not answer.
func tellSilent(w io.Writer, nodes []string, so string) {
	if len(nodes) > 0 {
		fmt.Fprintf(w, "weir: warning: %s: %s\n", silentText(nodes), so)
	}
}

func silentText(nodes []string) string {
	if len(nodes) == 1 {
		return "node " + nodes[0] + " did not answer"
	}
	return "nodes " + strings.Join(nodes, ", ") + " did not answer"
}

func letters(n int) string { return plural(uint64(n), "dead letter") }

// writeLetters shows a list to a person.
func writeLetters(w io.Writer, ls api.Letters) error {
	b := new(strings.Builder)
	if len(ls.Letters) == 0 {
		b.WriteString("no dead letters\n")
	} else {
		t := newTable("ID", "TIME", "ROLE", ">TRIES", ">BYTES", "KEPT BY", "REASON")
		for _, l := range ls.Letters {
			t.add(shortID(l.ID, ls.Letters), when(l.TimeMS), l.Of(), strconv.Itoa(l.Attempts), count(uint64(l.Bytes)), l.Keeper, oneLine(l.Reason, reasonShown))
		}
		t.writeTo(b, "")
	}
	if ls.More > 0 {
		fmt.Fprintf(b, "and %s more: --limit shows them\n", count(uint64(ls.More)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shortID is as much of an id as tells it from the others of the list.
func shortID(id string, among []dead.Letter) string {
	for n := idShown; n < len(id); n++ {
		if !slices.ContainsFunc(among, func(l dead.Letter) bool { return l.ID != id && strings.HasPrefix(l.ID, id[:n]) }) {
			return id[:n]
		}
	}
	return id
}

// when is a time to the second, of this machine.
func when(ms int64) string { return time.UnixMilli(ms).Format(time.DateTime) }

// oneLine is text as one line of printable characters, cut.
func oneLine(text string, most int) string {
	line := []rune(strings.Join(strings.Fields(text), " "))
	if len(line) > most {
		line = append(line[:most-1], '…')
	}
	return printable(string(line))
}

// writeLetter shows one letter to a person.
func writeLetter(w io.Writer, l api.Letter) error {
	b := new(strings.Builder)
	row := func(name, value string) { fmt.Fprintf(b, "%-9s %s\n", name, value) }
	row("id", l.ID)
	row("time", when(l.TimeMS))
	row("role", l.Of())
	if l.Port != "" {
		row("port", l.Port+", by which the role gave it out, and no edge starts there")
	}
	row("from", cmp.Or(l.From, "-"))
	row("failed on", fmt.Sprintf("%s, attempt %d", l.Node, l.Attempts))
	row("kept by", l.Keeper)
	row("record", l.Record)
	if l.Key != "" {
		row("key", strconv.Quote(l.Key))
	}
	for _, name := range slices.Sorted(maps.Keys(l.Header)) {
		row("header", strconv.Quote(name)+": "+strconv.Quote(l.Header[name]))
	}
	row("bytes", count(uint64(l.Bytes)))
	fmt.Fprintf(b, "reason\n%s", indented(l.Reason))
	if l.Stderr != "" {
		fmt.Fprintf(b, "stderr\n%s", indented(l.Stderr))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// indented is text with each line behind two spaces, what cannot be printed replaced.
func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		b.WriteString("  " + printable(strings.TrimRight(line, "\r\n")) + "\n")
	}
	return b.String()
}
