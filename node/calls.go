package node

import (
	"weir/node/api"
)

// calls are what this node can be asked to do.
func (n *Node) calls() api.Calls {
	return api.Calls{}
}
