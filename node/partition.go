package node

import (
	"context"

	"weir/consensus"
	"weir/stream"
)

// partition is a part of a tap, as this node has it. The role's mu guards all but the names.
type partition struct {
	name string // in the log: begins with the node's where only that node sees it
	here string // as the tap calls it

	run  *sourceRun         // nil: it is not read here
	past stream.SourceStats // of the sources before that
	lost uint64             // the newest claim that others know to be old
	done bool               // read to its end, here or elsewhere, and all of it acked
}

// stats counts what was read here, under all claims.
func (p *partition) stats() stream.SourceStats {
	st := p.past
	if p.run != nil && p.run.source != nil {
		now := p.run.source.Stats()
		st.Read += now.Read
		st.Acked += now.Acked
		st.Lines += now.Lines
	}
	return st
}

// sourceRun is the reading of a partition under one claim.
type sourceRun struct {
	part   *partition
	claim  consensus.Claim // Number 0: the log knows nothing of it
	ctx    context.Context // ended with errNotOurs when the claim is another's
	cancel context.CancelCauseFunc
	source *stream.Source // nil until it is open; the role's mu guards it
	err    error          // why it ended
}
