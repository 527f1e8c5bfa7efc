package consensus

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// fsm is the log as raft applies it on a voter. raft calls it in one goroutine.
type fsm struct {
	state   *State
	publish func(*State, *entry, []Election) // entry nil: a state from elsewhere
	broken  func(error)
}

var _ raft.ConfigurationStore = (*fsm)(nil)

// Apply returns nil or the error that refuses the command.
func (f *fsm) Apply(l *raft.Log) any {
	return f.apply(&entry{Index: l.Index, Term: l.Term, Command: l.Data})
}

// StoreConfiguration makes the change of voters a part of the state, so that watchers see it.
func (f *fsm) StoreConfiguration(index uint64, c raft.Configuration) {
	e := &entry{Index: index}
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			e.Servers = append(e.Servers, Server(s.ID))
		}
	}
	f.apply(e)
}

func (f *fsm) apply(e *entry) any {
	next, refused, err := f.state.apply(e)
	if err != nil {
		f.broken(err)
		return err
	}
	f.state = next
	f.publish(next, e, nil)
	if refused != nil {
		return refused
	}
	return nil
}

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot{f.state}, nil }

func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	s := new(State)
	if err := json.NewDecoder(io.LimitReader(r, snapshotBytesMax)).Decode(s); err != nil {
		return fmt.Errorf("decode snapshot: %w", err)
	}
	if s.Version != stateVersion {
		return fmt.Errorf("snapshot: %w: its version is %d", errCannotApply, s.Version)
	}
	f.state = s
	f.publish(s, nil, nil)
	return nil
}

// snapshot is a State, which nobody changes.
type snapshot struct{ state *State }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if err := json.NewEncoder(sink).Encode(s.state); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return sink.Close()
}

func (s snapshot) Release() {}
