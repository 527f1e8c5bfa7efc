package consensus

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// snapshotBytesMax is the most a snapshot may hold, in bytes; as a frame, since watchers get the
// same state in one.
const snapshotBytesMax = frameBytesMax

// snapshots keeps the latest finished snapshot in memory, and in the store where there is one.
// raft's own InmemSnapshotStore shows one that is still being written; its FileSnapshotStore would
// be a second format beside the store's, with a checksum of the data only.
type snapshots struct {
	store *Store // nil: only in memory

	mu     sync.Mutex
	latest *keptSnapshot
}

type keptSnapshot struct {
	meta raft.SnapshotMeta
	data []byte
}

func (s *snapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &snapshotSink{in: s, meta: raft.SnapshotMeta{
		Version: v, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term,
		Configuration: c, ConfigurationIndex: configIndex,
	}}, nil
}

func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil {
		return nil, nil
	}
	meta := s.latest.meta
	return []*raft.SnapshotMeta{&meta}, nil
}

func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == nil || s.latest.meta.ID != id {
		return nil, nil, fmt.Errorf("open snapshot %s: there is a newer one", id)
	}
	meta := s.latest.meta
	return &meta, io.NopCloser(bytes.NewReader(s.latest.data)), nil
}

type snapshotSink struct {
	in   *snapshots
	meta raft.SnapshotMeta
	data bytes.Buffer
}

func (s *snapshotSink) Write(p []byte) (int, error) {
	if s.data.Len()+len(p) > snapshotBytesMax {
		return 0, fmt.Errorf("snapshot holds more than %d bytes", snapshotBytesMax)
	}
	return s.data.Write(p)
}

// Close makes the snapshot the latest.
func (s *snapshotSink) Close() error {
	s.meta.Size = int64(s.data.Len())
	snap := &keptSnapshot{s.meta, s.data.Bytes()}
	if s.in.store != nil {
		if err := s.in.store.setSnapshot(snap); err != nil {
			return err
		}
	}
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	s.in.latest = snap
	return nil
}

func (s *snapshotSink) ID() string    { return s.meta.ID }
func (s *snapshotSink) Cancel() error { return nil }
