package dead

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

const (
	// storeVersion is that of the file's format.
	storeVersion = 1
	// lockWait is how long the file may be held by another process that is about to end.
	lockWait = time.Second
	// batchWait is how long a Put waits for others to share its fsync, which takes longer.
	batchWait = time.Millisecond
)

// The buckets of the file. Values of letters and records begin with their checksum.
var (
	bucketLetters = []byte("letters") // id: Letter as JSON
	bucketRecords = []byte("records") // id: Content
	bucketTimes   = []byte("times")   // time in ms, big-endian, and id: nothing
	bucketMeta    = []byte("meta")

	keyVersion = []byte("version")
)

// ErrNewer says that the file was written by a later version of this program.
var ErrNewer = errors.New("it was written by a newer weir")

// ErrInUse says that another process has the file open.
var ErrInUse = errors.New("another process has it open")

// ErrGone says that what is put into the file would be lost.
var ErrGone = errors.New("was removed or replaced while its node ran: put it back, or start the node again")

// Store is the dead letters of one file. All methods may be called concurrently.
type Store struct {
	db   *bbolt.DB
	file os.FileInfo // of the file that is open

	mu     sync.Mutex
	counts map[string]int // by pipeline/role
}

// Open opens the file, or makes it. It reads all letters, not their records. With noSync nothing
// survives the machine.
func Open(path string, noSync bool) (s *Store, err error) {
	// A wrong page number leads out of the file, or makes the database panic.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil { // the database is lost with its locks: the process must end
			s, err = nil, fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	options := &bbolt.Options{Timeout: lockWait, NoSync: noSync, FreelistType: bbolt.FreelistMapType, NoStatistics: true}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path, options); err != nil {
			return nil, err
		}
	}
	db, err := bbolt.Open(path, 0o600, options)
	switch {
	case errors.Is(err, bbolterrors.ErrTimeout):
		return nil, ErrInUse
	case err != nil && !ofSystem(err): // bbolt's own words for what it found
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return nil, err
	}
	db.MaxBatchDelay = batchWait
	s = &Store{db: db, counts: make(map[string]int)}
	if s.file, err = os.Stat(path); err == nil {
		err = s.read()
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// ofSystem reports whether an error is the system's, and not one about what a file holds.
func ofSystem(err error) bool {
	_, errno := errors.AsType[syscall.Errno](err)
	return errno
}

// create makes a new file, whole or not at all.
func create(path string, options *bbolt.Options) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bbolt.Open(fresh, 0o600, options)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketLetters, bucketRecords, bucketTimes, bucketMeta} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyVersion, []byte{storeVersion})
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil || options.NoSync {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// read checks the version and reads all letters.
func (s *Store) read() error {
	return s.db.View(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketLetters, bucketRecords, bucketTimes, bucketMeta} {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: %s is missing", ErrDamaged, name)
			}
		}
		switch v := tx.Bucket(bucketMeta).Get(keyVersion); {
		case len(v) != 1:
			return fmt.Errorf("%w: its version", ErrDamaged)
		case v[0] > storeVersion:
			return fmt.Errorf("%w: its format is %d, this one reads %d", ErrNewer, v[0], storeVersion)
		}
		return tx.Bucket(bucketLetters).ForEach(func(id, _ []byte) error {
			l, err := letter(tx, id)
			s.counts[l.Of()]++
			return err
		})
	})
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// Put keeps a letter, unless the record's is there already, and returns its id when it is on the
// disk, in the file of that name. A failed Put may be tried again.
func (s *Store) Put(l Letter, c Content) (id string, err error) {
	l.limit()
	l.Key, l.Header, l.Bytes = string(c.Key), c.Header, len(c.Body)
	record := seal(c.Encode())
	var fresh bool
	err = s.db.Batch(func(tx *bbolt.Tx) (err error) { // it may be called again
		l.ID, fresh, err = free(tx, &l)
		if err != nil || !fresh {
			return err
		}
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		return errors.Join(
			tx.Bucket(bucketLetters).Put([]byte(l.ID), seal(b)),
			tx.Bucket(bucketRecords).Put([]byte(l.ID), record),
			tx.Bucket(bucketTimes).Put(timeKey(&l), nil),
		)
	})
	if err != nil {
		return "", err
	}
	if fresh {
		s.add(l.Of(), 1)
	}
	there, err := os.Stat(s.db.Path())
	if err != nil || !os.SameFile(there, s.file) {
		return "", fmt.Errorf("%s %w", s.db.Path(), ErrGone)
	}
	return l.ID, nil
}

// free finds the id of a letter; fresh: it is not there yet.
func free(tx *bbolt.Tx, l *Letter) (id string, fresh bool, err error) {
	for n := l.id(); ; n++ { // ends at the first free one: others of the same hash are few
		id = idOf(n)
		switch other, err := letter(tx, []byte(id)); {
		case errors.Is(err, ErrNone):
			return id, true, nil
		case err != nil:
			return id, false, err
		case other.Record == l.Record && other.Of() == l.Of():
			return id, false, nil
		}
	}
}

// List returns the letters that are meant, the newest first, and how many more there are.
func (s *Store) List(f Filter) (ls []Letter, more int, err error) {
	err = s.Each(f, func(l Letter) {
		if f.Limit > 0 && len(ls) == f.Limit {
			more++
		} else {
			ls = append(ls, l)
		}
	})
	return ls, more, err
}

// Each calls do for the letters that are meant, the newest first, whatever the limit; do must not
// call the store.
func (s *Store) Each(f Filter, do func(Letter)) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketTimes).Cursor()
		for k, _ := cursor.Last(); k != nil; k, _ = cursor.Prev() {
			l, err := letter(tx, k[8:])
			if err != nil {
				return err
			}
			if f.fits(&l) {
				do(l)
			}
		}
		return nil
	})
}

// Get returns a letter with its record.
func (s *Store) Get(id string) (l Letter, c Content, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if l, err = letter(tx, []byte(id)); err != nil {
			return err
		}
		b, err := unseal(tx.Bucket(bucketRecords).Get([]byte(id)))
		if err != nil {
			return err
		}
		c, err = Decode(bytes.Clone(b)) // b lives as long as tx
		return err
	})
	return l, c, err
}

// Drop removes letters and returns how many were there.
func (s *Store) Drop(ids ...string) (int, error) {
	var gone []string
	err := s.db.Batch(func(tx *bbolt.Tx) error {
		gone = gone[:0]
		for _, id := range ids {
			l, err := letter(tx, []byte(id))
			if errors.Is(err, ErrNone) {
				continue
			}
			if err != nil {
				return err
			}
			if err := errors.Join(
				tx.Bucket(bucketLetters).Delete([]byte(id)), tx.Bucket(bucketRecords).Delete([]byte(id)), tx.Bucket(bucketTimes).Delete(timeKey(&l)),
			); err != nil {
				return err
			}
			gone = append(gone, l.Of())
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, role := range gone {
		s.add(role, -1)
	}
	return len(gone), nil
}

// Counts returns how many letters there are, by pipeline/role.
func (s *Store) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

func (s *Store) add(role string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts[role] += n; s.counts[role] == 0 {
		delete(s.counts, role)
	}
}

func timeKey(l *Letter) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(l.TimeMS)), l.ID...)
}

// letter reads a letter, or is ErrNone.
func letter(tx *bbolt.Tx, id []byte) (l Letter, err error) {
	sealed := tx.Bucket(bucketLetters).Get(id)
	if sealed == nil {
		return l, ErrNone
	}
	b, err := unseal(sealed)
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		return l, fmt.Errorf("%w: letter %.16s (%v)", ErrDamaged, id, err)
	}
	return l, nil
}

func seal(b []byte) []byte {
	return slices.Concat(binary.BigEndian.AppendUint32(nil, checksum(b)), b)
}

func unseal(sealed []byte) ([]byte, error) {
	if len(sealed) < 4 || binary.BigEndian.Uint32(sealed) != checksum(sealed[4:]) {
		return nil, fmt.Errorf("%w: a value does not fit its checksum", ErrDamaged)
	}
	return sealed[4:], nil
}

// checksum is CRC-32C; bbolt has checksums of its first two pages only.
func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
