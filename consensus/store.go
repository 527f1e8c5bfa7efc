package consensus

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

const (
	// storeWait is how long a write may take: far more than a busy disk needs. A leader whose disk
	// hangs leads on and commits nothing, so it must end (FAULTS T7).
	storeWait = 5 * time.Second
	// storeStep is by what storeWait is counted, not by one timer: a process that stood still in a
	// write (SIGSTOP, a paused machine) finds its timer due when it goes on, and the disk may be well.
	// However long it stood, that is one step.
	storeStep = time.Second
	// storeVersion is that of the file's format.
	storeVersion = 1
)

// The buckets of the file, and the keys of bucketNode and bucketSum. Every value is sealed.
var (
	bucketSum    = []byte("sum")    // of all values in the others
	bucketLog    = []byte("log")    // index, big-endian: raft.Log
	bucketStable = []byte("stable") // as raft names it
	bucketNode   = []byte("node")

	keyVersion      = []byte("version")
	keyServer       = []byte("server") // by which the node votes; none: it does not
	keyState        = []byte("state")  // the newest that was kept
	keySnapshot     = []byte("snapshot")
	keySnapshotMeta = []byte("snapshot meta")
	keySum          = []byte("sum")
	keyTerm         = []byte("CurrentTerm") // of bucketStable, as raft names it (raft.go)
)

// errNotFound is worded as raft looks for it (api.go, HasExistingState).
var errNotFound = errors.New("not found")

// StoreError says why a store cannot be used, or no more.
type StoreError struct {
	Path  string
	Err   error
	Newer bool // it was written by a later version of this program
}

func (e *StoreError) Error() string { return fmt.Sprintf("log store %s: %v", e.Path, e.Err) }
func (e *StoreError) Unwrap() error { return e.Err }

// ExitCode is EX_IOERR of sysexits.h, or EX_CONFIG for a store of a newer program.
func (e *StoreError) ExitCode() int {
	if e.Newer {
		return 78
	}
	return 74
}

// Store is what a node must not forget, in one file: raft's log, its vote and its snapshot under
// the server id that goes with them, and the newest State. All methods may be called concurrently.
//
// The first error of a write, or one that takes more than 5 s, is the last: each call after it
// fails with the same, since an fsync that failed may seem to work when it is tried again
// (FAULTS T7). Broken is told of it.
type Store struct {
	db     *bbolt.DB
	path   string
	broken func(error)

	failed chan struct{} // closed by the first error

	mu  sync.Mutex
	err error // the first
}

// Close closes the file. What was written is on the disk already.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return &StoreError{Path: s.path, Err: err}
	}
	return nil
}

// failure is closed when the store is of no use any more; never, without a store.
func (s *Store) failure() <-chan struct{} {
	if s == nil {
		return nil
	}
	return s.failed
}

// Err is why the store is of no use any more.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// fail makes err the store's last word, unless it has had it, and returns that.
func (s *Store) fail(what string, err error) error {
	last := &StoreError{Path: s.path, Err: fmt.Errorf("%s: %w", what, disk(s.path, err))}
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = last
	}
	err = s.err
	s.mu.Unlock()
	if first {
		close(s.failed)
		if s.broken != nil {
			s.broken(err)
		}
	}
	return err
}

// update carries out f and returns when it is on the disk.
func (s *Store) update(what string, f func(*bbolt.Tx) error) error {
	if err := s.Err(); err != nil {
		return err
	}
	done := make(chan struct{})
	defer close(done)
	go s.watch(what, done)
	if err := s.db.Update(f); err != nil {
		return s.fail(what, err)
	}
	return s.Err()
}

// watch fails the store unless done is closed in time.
func (s *Store) watch(what string, done <-chan struct{}) {
	for range storeWait / storeStep {
		select {
		case <-done:
			return
		case <-time.After(storeStep):
		}
	}
	_ = s.fail(what, fmt.Errorf("the disk does not answer within %v", storeWait))
}

// view reads.
func (s *Store) view(what string, f func(*bbolt.Tx) error) error {
	if err := s.Err(); err != nil {
		return err
	}
	err := s.db.View(f)
	if errors.Is(err, ErrDamaged) {
		return s.fail(what, err)
	}
	return err
}

// FirstIndex and those that follow make the Store raft's.
func (s *Store) FirstIndex() (uint64, error) { return s.edge((*bbolt.Cursor).First) }

// LastIndex is 0 for an empty log.
func (s *Store) LastIndex() (uint64, error) { return s.edge((*bbolt.Cursor).Last) }

func (s *Store) edge(end func(*bbolt.Cursor) (k, v []byte)) (index uint64, err error) {
	err = s.view("read the log", func(tx *bbolt.Tx) error {
		if k, _ := end(tx.Bucket(bucketLog).Cursor()); k != nil {
			index = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return index, err
}

// GetLog returns raft.ErrLogNotFound where there is none.
func (s *Store) GetLog(index uint64, out *raft.Log) error {
	return s.view("read the log", func(tx *bbolt.Tx) error {
		b, err := get(tx, bucketLog, indexKey(index))
		if err == errNotFound {
			return raft.ErrLogNotFound // raft compares
		}
		if err != nil {
			return err
		}
		return decode(b, out)
	})
}

// StoreLog stores one entry.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs stores all or none.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	return s.update("write the log", func(tx *bbolt.Tx) error {
		for _, l := range logs {
			b, err := json.Marshal(l)
			if err != nil {
				return err
			}
			if err := put(tx, bucketLog, indexKey(l.Index), b); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteRange deletes the entries from first to last. raft's range may be far longer than the log:
// it begins with 0 after a snapshot has emptied that.
func (s *Store) DeleteRange(first, last uint64) error {
	return s.update("shorten the log", func(tx *bbolt.Tx) error {
		var keys [][]byte // a cursor may skip what follows a deleted key
		cursor := tx.Bucket(bucketLog).Cursor()
		for k, _ := cursor.Seek(indexKey(first)); k != nil && bytes.Compare(k, indexKey(last)) <= 0; k, _ = cursor.Next() {
			keys = append(keys, k)
		}
		for _, k := range keys {
			if err := drop(tx, bucketLog, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// Set is of raft's StableStore.
func (s *Store) Set(key, value []byte) error {
	return s.update("write the vote", func(tx *bbolt.Tx) error { return put(tx, bucketStable, key, value) })
}

// Get is of raft's StableStore.
func (s *Store) Get(key []byte) (value []byte, err error) { return s.read(bucketStable, key) }

// SetUint64 is of raft's StableStore.
func (s *Store) SetUint64(key []byte, n uint64) error { return s.Set(key, indexKey(n)) }

// GetUint64 is of raft's StableStore.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	switch {
	case err == errNotFound:
		return 0, nil
	case err != nil:
		return 0, err
	case len(b) != 8:
		return 0, s.fail("read the vote", fmt.Errorf("%w: %s has %d bytes", ErrDamaged, key, len(b)))
	}
	return binary.BigEndian.Uint64(b), nil
}

// read returns a copy of a value, or errNotFound.
func (s *Store) read(bucket, key []byte) (value []byte, err error) {
	err = s.view("read "+string(key), func(tx *bbolt.Tx) error {
		b, err := get(tx, bucket, key)
		value = append([]byte(nil), b...) // b lives as long as tx
		return err
	})
	return value, err
}

// server is the id by which the node votes; "" is none, as without a store.
func (s *Store) server() (raft.ServerID, error) {
	if s == nil {
		return "", nil
	}
	b, err := s.read(bucketNode, keyServer)
	if err == errNotFound {
		return "", nil
	}
	return raft.ServerID(b), err
}

func (s *Store) setServer(id raft.ServerID) error {
	return s.update("write the server id", func(tx *bbolt.Tx) error { return put(tx, bucketNode, keyServer, []byte(id)) })
}

// undoHalf takes back the first of the two writes that make a cluster (raft, BootstrapCluster), where
// a kill came between them: only there is the term 1 and the log empty.
func (s *Store) undoHalf() error {
	if s == nil {
		return nil
	}
	term, err := s.GetUint64(keyTerm)
	if err != nil || term != 1 {
		return err
	}
	if last, err := s.LastIndex(); err != nil || last > 0 {
		return err
	}
	return s.SetUint64(keyTerm, 0)
}

// state is the newest State that was kept; an empty one if none was, or without a store.
func (s *Store) state() (*State, error) {
	state := &State{Version: stateVersion}
	if s == nil {
		return state, nil
	}
	b, err := s.read(bucketNode, keyState)
	if err == errNotFound {
		return state, nil
	}
	if err != nil {
		return nil, err
	}
	if err := decode(b, state); err != nil {
		return nil, &StoreError{Path: s.path, Err: err}
	}
	if state.Version != stateVersion {
		return nil, &StoreError{Path: s.path, Err: fmt.Errorf("its state has version %d, this program knows %d", state.Version, stateVersion), Newer: true}
	}
	return state, nil
}

func (s *Store) setState(state *State) error {
	b, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	return s.update("write the state", func(tx *bbolt.Tx) error { return put(tx, bucketNode, keyState, b) })
}

// snapshot is raft's latest; nil is none.
func (s *Store) snapshot() (*keptSnapshot, error) {
	meta, err := s.read(bucketNode, keySnapshotMeta)
	if err == errNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	snap := new(keptSnapshot)
	if err := decode(meta, &snap.meta); err != nil {
		return nil, &StoreError{Path: s.path, Err: err}
	}
	snap.data, err = s.read(bucketNode, keySnapshot)
	return snap, err
}

func (s *Store) setSnapshot(snap *keptSnapshot) error {
	meta, err := json.Marshal(&snap.meta)
	if err != nil {
		return fmt.Errorf("encode snapshot: %w", err)
	}
	return s.update("write a snapshot", func(tx *bbolt.Tx) error {
		if last, _ := tx.Bucket(bucketLog).Cursor().Last(); last != nil && binary.BigEndian.Uint64(last) < snap.meta.Index {
			// It comes from a leader. What follows it would leave a gap, which looks like damage.
			if err := empty(tx, bucketLog); err != nil {
				return err
			}
		}
		return errors.Join(put(tx, bucketNode, keySnapshotMeta, meta), put(tx, bucketNode, keySnapshot, snap.data))
	})
}

// forget drops the vote with all that belongs to it, where there is a store. The State stays.
func (s *Store) forget() error {
	if s == nil {
		return nil
	}
	return s.update("drop the vote", func(tx *bbolt.Tx) error {
		if err := errors.Join(empty(tx, bucketLog), empty(tx, bucketStable)); err != nil {
			return err
		}
		for _, key := range [][]byte{keyServer, keySnapshot, keySnapshotMeta} {
			if err := drop(tx, bucketNode, key); err != nil {
				return err
			}
		}
		return nil
	})
}

func indexKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }
