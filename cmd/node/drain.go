package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"weir/node/api"
)

// drainLook is how often drain looks how far a node is.
const drainLook = 300 * time.Millisecond

func newDrain() *cobra.Command {
	var addr string
	cmd := &cobra.Command{
		Use:   "drain [NODE]",
		Short: "Have a node finish what is in flight and leave",
		Long: `drain has a node, by default the one that is asked, do what SIGTERM does: its taps read no more,
what is in flight there is finished, it leaves the cluster and its process ends. What can go no further,
as a role behind it has no node, is sent or read again: the node leaves 8 s after the last ack, but not
with what stdin, http, a program or put brought. drain waits for that; Ctrl-C ends the waiting, not the
drain. A role that no other node serves waits, with its records, until one does.`,
		Example:           "  weir drain facebook-2",
		ValidArgsFunction: completeNames(nodeNames),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("drain takes one node, not %d", len(args))
			}
			return nil
		},
	}
	addAddr(cmd.Flags(), &addr)
	cmd.RunE = verb(func(cmd *cobra.Command, args []string) error {
		ask := api.Drain{}
		at, err := addr, error(nil)
		if len(args) > 0 {
			ask.Node = args[0]
			at, err = nodeAt(cmd.Context(), addr)
		} else if addr == "" { // not any: the one there is
			at, err = onlySocket(api.Sockets())
		}
		if err != nil {
			return err
		}
		var d api.Drain
		if err := call(cmd.Context(), at, "drain", ask, &d); err != nil {
			return err
		}
		con := newConsole(cmd.ErrOrStderr())
		for _, note := range d.Notes {
			con.line("weir: warning: " + note)
		}
		return awaitLeft(cmd.Context(), con, at, d)
	})
	return cmd
}

// awaitLeft watches a node drain until it has left. Where it is the one that is asked, it has when
// it answers no more.
func awaitLeft(ctx context.Context, con *console, addr string, d api.Drain) error {
	tick := time.NewTicker(drainLook)
	defer tick.Stop()
	start := time.Now()
	for {
		st, err := api.Get(ctx, addr)
		_, gone := errors.AsType[*api.UnreachableError](err)
		i := slices.IndexFunc(st.Nodes, func(n api.Node) bool { return n.ID == d.Node })
		switch {
		case gone && d.Self, err == nil && (i < 0 || st.Nodes[i].State == "left"):
			con.show("")
			con.line(d.Node + " has left")
			return nil
		case err != nil && !d.Self:
			return fmt.Errorf("%w; %s drains on", err, d.Node)
		case err != nil: // it is about to end
		case st.Nodes[i].State == "dead":
			con.show("")
			return fmt.Errorf("node %s died while it drained: what it had in flight is sent again", d.Node)
		default:
			con.show(fmt.Sprintf("%s drains, %s held, %.0fs", d.Node, size(st.Nodes[i].HeldBytes), time.Since(start).Seconds()))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
