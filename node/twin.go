package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/stream/mux"
	"weir/topology"
)

const (
	// twinWait is how long another node of our name may take to answer: a node that moved waits as
	// long before it does anything. A handshake and a greeting at 100 ms there and back.
	twinWait = time.Second
	// twinAgain is the pause before it is asked again, where the roster still has one.
	twinAgain = 5 * time.Second
)

// TwinError says that this node's name is another's: of a process that runs, or of one that left and
// that the cluster cannot tell from this one.
type TwinError struct {
	ID   topology.NodeID
	Addr string // of the other; "": it left
	Kept bool   // the name is from a data dir
}

func (e *TwinError) Error() string {
	switch {
	case e.Addr == "" && e.Kept:
		return fmt.Sprintf("node %s has left the cluster since this data dir was copied: remove it, and the node starts anew under another name", e.ID)
	case e.Addr == "":
		return fmt.Sprintf("a node %s has left the cluster, and this one cannot be told from it: start it with --data-dir, or with another --id", e.ID)
	case e.Kept:
		return fmt.Sprintf("another node runs with a copy of this data dir at %s: start this one with a directory of its own", e.Addr)
	}
	return fmt.Sprintf("another node runs under the name %s at %s: give this one another --id", e.ID, e.Addr)
}

// ExitCode is EX_CONFIG of sysexits.h.
func (e *TwinError) ExitCode() int { return 78 }

// findTwin returns an error when another node has, or had, our name. A node that left is not admitted
// again in the same boot, and without a data dir there is but one. Where the roster has us at another
// address, somebody may answer there: nobody does when this node was there and moved. So of two
// that run with one data dir the one in the roster stays.
func (n *Node) findTwin(ctx context.Context) error {
	if n.consensus.State().HasLeft(n.self.ID, n.self.Boot) && !n.draining.Load() {
		return &TwinError{ID: n.self.ID, Kept: n.cfg.DataDir != ""}
	}
	addr, elsewhere := n.elsewhere()
	if !elsewhere {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, twinWait)
	defer cancel()
	_, err := n.mux.Resolve(ctx, addr)
	if _, still := n.elsewhere(); still && errors.Is(err, mux.ErrSameID) {
		return &TwinError{n.self.ID, addr, n.cfg.DataDir != ""}
	}
	return nil
}

// awaitTwin looks for one whenever the State changes, and again while nobody answers.
func (n *Node) awaitTwin(ctx context.Context) error {
	for {
		changed := n.consensus.Changed()
		if err := n.findTwin(ctx); err != nil {
			return err
		}
		var again <-chan time.Time
		if _, elsewhere := n.elsewhere(); elsewhere {
			again = time.After(twinAgain)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// elsewhere reports whether the roster has this node at another address than its own.
func (n *Node) elsewhere() (addr string, ok bool) {
	known, in := n.consensus.State().Node(n.self.ID)
	return known.Addr, in && known.Addr != n.self.Addr
}
