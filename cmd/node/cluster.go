package main

import (
	"encoding/hex"
	"fmt"

	"github.com/spf13/cobra"

	"weir/node/api"
)

func newCluster() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Make a cluster",
		Args:  cobra.NoArgs,
	}
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error { return cmd.Help() })
	cmd.AddCommand(newClusterSecret(), newClusterInit())
	return cmd
}

func newClusterSecret() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Print a new secret, which is a cluster",
		Long: `secret prints a new secret of 64 hex digits. All nodes that have it are one cluster: give it to
each in the environment as WEIR_SECRET, or in a file with --secret-file.`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		_, err := fmt.Fprintln(cmd.OutOrStdout(), hex.EncodeToString(newSecret()))
		return err
	})
	return cmd
}

func newClusterInit() *cobra.Command {
	var addr string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a cluster of nodes that wait for each other",
		Long: `init tells a node of this machine, by its Unix socket, to make the cluster. Nodes that were all
started with one command line, --join naming some or all of them, wait for one init on any of
them, and then join. A node that was started without --join has made a cluster already, and so
has one that belongs to it: init is refused there.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&addr, "addr", "", "ask the node at `ADDR`: unix:PATH (default the only socket of yours)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the cluster as JSON")
	cmd.RunE = verb(func(cmd *cobra.Command, _ []string) error {
		if addr == "" {
			var err error
			if addr, err = onlySocket(api.Sockets()); err != nil {
				return err
			}
		}
		var made api.Cluster
		if err := call(cmd.Context(), addr, "cluster/init", struct{}{}, &made); err != nil {
			return err
		}
		if asJSON {
			return writeJSON(cmd.OutOrStdout(), made, true)
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "node %s made cluster %s, log %s: the nodes that wait for it join now\n",
			made.Node, made.Cluster, made.Log)
		return err
	})
	return cmd
}
