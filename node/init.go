package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"weir/consensus"
	"weir/node/api"
)

// initWait is how long making a cluster may take: asking the seeds, and an election of one.
const initWait = 5 * time.Second

// Init makes a cluster of this node, for the others that wait for it. It is refused with an
// *api.Error where there is one already.
func (n *Node) Init(ctx context.Context) (api.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, initWait)
	defer cancel()
	id, err := n.consensus.Init(ctx)
	made := api.Cluster{Node: string(n.self.ID), Cluster: n.mux.ClusterID(), Log: logName(id)}
	switch {
	case errors.Is(err, consensus.ErrInitialised):
		return made, &api.Error{Status: http.StatusConflict, Exit: 1, Text: fmt.Sprintf("cluster %s: %v", made.Cluster, err)}
	case err != nil:
		return made, fmt.Errorf("init cluster %s: %w", made.Cluster, err)
	}
	n.log.Info("made the cluster", "cluster", made.Cluster, "log", made.Log)
	return made, nil
}
