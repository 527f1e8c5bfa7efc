package node

import (
	"context"

	"weir/node/api"
)

// calls are what this node can be asked to do.
func (n *Node) calls() api.Calls {
	return api.Calls{
		"cluster/init": api.Typed(func(ctx context.Context, _ struct{}) (api.Cluster, error) { return n.Init(ctx) }),
	}
}
