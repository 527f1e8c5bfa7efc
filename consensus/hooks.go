package consensus

import "github.com/hashicorp/raft"

// Hooks let the simulator watch a vote, and break it on purpose to see whether its checks
// notice. No flag and no file reaches them; nil in production.
type Hooks struct {
	Elected     func(term uint64)   // this node leads in that term
	Reached     func(branch string) // a rare branch was taken
	ForgetVotes bool                // a planted bug: a voter may vote twice in a term
}

func (h *Hooks) elected(v *voter, term uint64) {
	if h != nil && v.raft.CurrentTerm() == term { // no new term began between two looks
		h.Elected(term)
	}
}

func (h *Hooks) sometimes(branch string) {
	if h != nil {
		h.Reached(branch)
	}
}

// stable is where raft keeps its vote.
func (h *Hooks) stable(s raft.StableStore) raft.StableStore {
	if h != nil && h.ForgetVotes {
		return forgetful{s}
	}
	return s
}

// forgetful does not remember for whom it voted.
type forgetful struct{ raft.StableStore }

// GetUint64 forgets what raft keeps under keyLastVoteTerm (raft.go).
func (f forgetful) GetUint64(key []byte) (uint64, error) {
	if string(key) == "LastVoteTerm" {
		return 0, nil
	}
	return f.StableStore.GetUint64(key)
}
