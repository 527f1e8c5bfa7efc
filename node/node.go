// Package node joins the rooms: gossip, consensus, mux and stream make one node of a cluster.
package node

import (
	"context"
	"errors"

	"weir/node/api"
)

// Node is one node of a cluster.
type Node struct{}

// New validates and binds; it starts no goroutine.
func New(cfg Config) (*Node, error) { return nil, errors.New("node: not built yet") }

// Run runs the node until ctx is done, drains it and returns with nothing running.
func (n *Node) Run(ctx context.Context) error { return nil }

// Addr is the address of the node's one UDP port.
func (n *Node) Addr() string { return "" }

// Status is the state of the whole cluster as this node sees it.
func (n *Node) Status(ctx context.Context) (api.Status, error) { return api.Status{}, nil }

// Run is New and Run.
func Run(ctx context.Context, cfg Config) error {
	n, err := New(cfg)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}
