package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
)

// Opening a store: all of it is read and written anew before any of it is used. So what bbolt keeps
// beside our values, which it does not check, is never trusted, and the file shrinks.

// lockWait is how long bbolt waits for its own lock on a file; the data dir's lock comes first, so
// nobody has it. bbolt takes 0 for ever.
const lockWait = time.Second

// StoreConfig says where a store is.
type StoreConfig struct {
	Path   string
	NoSync bool // do not wait for the disk: the simulator's, whose crashes end no machine
	// Broken is told once, by whoever finds out, when the store can no longer be written, and should
	// end the process: a call that hangs in the kernel cannot be waited for, and raft panics when
	// its term cannot be kept. nil: Run ends with the error, if it can.
	Broken func(error)
}

// OpenStore opens the store, or makes it. It refuses one that is damaged or of a newer program.
func OpenStore(c StoreConfig) (*Store, error) {
	db, err := openFile(c)
	if err != nil {
		return nil, &StoreError{Path: c.Path, Err: disk(c.Path, err), Newer: errors.Is(err, errNewer)}
	}
	return &Store{db: db, path: c.Path, broken: c.Broken, failed: make(chan struct{})}, nil
}

// openFile makes a new file with what the old one holds, if there is one, in its place.
func openFile(c StoreConfig) (*bbolt.DB, error) {
	fresh := c.Path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	db, err := bbolt.Open(fresh, 0o600, &bbolt.Options{
		Timeout: lockWait, NoSync: c.NoSync, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, NoStatistics: true,
	})
	if err != nil {
		return nil, err
	}
	err = db.Update(makeBuckets)
	if err == nil {
		err = copyFrom(c.Path, db)
	}
	if err == nil {
		err = os.Rename(fresh, c.Path)
	}
	if err == nil && !c.NoSync {
		err = syncDir(filepath.Dir(c.Path))
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func makeBuckets(tx *bbolt.Tx) error {
	for _, bucket := range [][]byte{bucketSum, bucketLog, bucketStable, bucketNode} {
		if _, err := tx.CreateBucket(bucket); err != nil {
			return err
		}
	}
	if err := (sum{}).write(tx); err != nil {
		return err
	}
	return put(tx, bucketNode, keyVersion, indexKey(storeVersion))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

var errNewer = errors.New("it was written by a newer weir")

// copyFrom checks all of the store at path, if there is one, and puts it into db.
func copyFrom(path string, db *bbolt.DB) (err error) {
	if err := checkFirstPages(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a wrong page number leads out of the file
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	old, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, ReadOnly: true, NoStatistics: true})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	return old.View(func(from *bbolt.Tx) error {
		if err := checkVersion(from); err != nil {
			return err
		}
		return db.Update(func(to *bbolt.Tx) error { return copyAll(from, to) })
	})
}

func copyAll(from, to *bbolt.Tx) error {
	for _, name := range [][]byte{bucketNode, bucketStable, bucketLog} {
		bucket := from.Bucket(name)
		if bucket == nil {
			return fmt.Errorf("%w: %s is missing", ErrDamaged, name)
		}
		err := bucket.ForEach(func(k, sealed []byte) error {
			value, err := unseal(k, sealed)
			if err != nil {
				return err
			}
			return put(to, name, k, value)
		})
		if err != nil {
			return err
		}
	}
	was, err := sumOf(from)
	if err != nil {
		return err
	}
	if is, err := sumOf(to); err != nil || is != was {
		return fmt.Errorf("%w: values are missing (%v)", ErrDamaged, err)
	}
	return nil
}

// checkVersion looks at what every format must have.
func checkVersion(tx *bbolt.Tx) error {
	if tx.Bucket(bucketNode) == nil || tx.Bucket(bucketSum) == nil {
		return fmt.Errorf("%w: it is no store", ErrDamaged)
	}
	b, err := get(tx, bucketNode, keyVersion)
	switch {
	case err != nil:
		return fmt.Errorf("%w: version: %w", ErrDamaged, err)
	case len(b) != 8:
		return fmt.Errorf("%w: its version has %d bytes", ErrDamaged, len(b))
	case binary.BigEndian.Uint64(b) > storeVersion:
		return fmt.Errorf("%w: its format is %d, this one reads %d", errNewer, binary.BigEndian.Uint64(b), storeVersion)
	}
	return nil
}

// bbolt's first two pages (internal/common, meta.go), in bytes.
const (
	pageHeader   = 16
	metaPageSize = 8  // where the page size stands in a meta
	metaPages    = 40 // the number of pages in use
	metaSum      = 56 // FNV-1a of all before
	metaBytes    = 64
)

// checkFirstPages wants both of bbolt's meta pages whole, and all pages there. bbolt itself takes
// the older where the newer is damaged: it would forget the last thing that was written, a vote
// perhaps. A power cut does not tear a meta: it lies in one sector.
func checkFirstPages(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New("it is a directory, not a file")
	}
	at := int64(0)
	for range 2 {
		b := make([]byte, metaBytes)
		if _, err := f.ReadAt(b, at+pageHeader); err != nil {
			return fmt.Errorf("%w: it ends in its first pages", ErrDamaged)
		}
		sum := fnv.New64a()
		sum.Write(b[:metaSum])
		if sum.Sum64() != binary.NativeEndian.Uint64(b[metaSum:]) {
			return fmt.Errorf("%w: one of its first pages does not fit its checksum", ErrDamaged)
		}
		size := int64(binary.NativeEndian.Uint32(b[metaPageSize:]))
		if pages := int64(binary.NativeEndian.Uint64(b[metaPages:])); info.Size() < pages*size {
			return fmt.Errorf("%w: it has %d of %d bytes", ErrDamaged, info.Size(), pages*size)
		}
		at = size
	}
	return nil
}

// disk is an error of the system without the path, which is said, and with the room on a full disk.
func disk(path string, err error) error {
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err
	}
	var room syscall.Statfs_t
	if !errors.Is(err, syscall.ENOSPC) || syscall.Statfs(filepath.Dir(path), &room) != nil {
		return err
	}
	return fmt.Errorf("%w (%d bytes are free)", err, room.Bavail*uint64(room.Bsize))
}
