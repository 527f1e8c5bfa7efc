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

// Opening a store: all of it is read before any of it is used.

// lockWait is how long bbolt waits for its own lock on the file; the data dir's lock comes first,
// so nobody has it. bbolt takes 0 for ever.
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
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			err = path.Err // the path is said
		}
		return nil, &StoreError{Path: c.Path, Err: withSpace(c.Path, err), Newer: errors.Is(err, errNewer)}
	}
	return &Store{db: db, path: c.Path, broken: c.Broken, failed: make(chan struct{})}, nil
}

func openFile(c StoreConfig) (*bbolt.DB, error) {
	switch _, err := os.Stat(c.Path); {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(c); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		if err := check(c.Path); err != nil {
			return nil, err
		}
	}
	return bolt(c.Path, c, false)
}

// bolt opens the file. Which pages are free is found by reading, not from a list on the disk: a
// wrong one would have bbolt write over what is in use.
func bolt(path string, c StoreConfig, readOnly bool) (db *bbolt.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockWait, NoSync: c.NoSync, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
		NoStatistics: true, ReadOnly: readOnly,
	})
}

// create makes an empty store. It gets its name when it is whole.
func create(c StoreConfig) error {
	path := c.Path + ".new"
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bolt(path, c, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, bucket := range [][]byte{bucketLog, bucketStable, bucketNode} {
			if _, err := tx.CreateBucket(bucket); err != nil {
				return err
			}
		}
		return put(tx, bucketNode, keyVersion, indexKey(storeVersion))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(path, c.Path); err != nil {
		return err
	}
	if c.NoSync {
		return nil
	}
	dir, err := os.Open(filepath.Dir(c.Path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

var errNewer = errors.New("it was written by a newer weir")

// check reads the whole file.
func check(path string) (err error) {
	if err := checkFirstPages(path); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a wrong page number leads out of the file
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	db, err := bolt(path, StoreConfig{}, true)
	if err != nil {
		return err
	}
	return errors.Join(db.View(checkAll), db.Close())
}

func checkAll(tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketNode, bucketStable, bucketLog} {
		bucket := tx.Bucket(name)
		if bucket == nil {
			return fmt.Errorf("%w: %s is missing", errDamaged, name)
		}
		var last uint64 // index
		err := bucket.ForEach(func(k, v []byte) error {
			if _, err := unseal(k, v); err != nil {
				return err
			}
			if string(name) != string(bucketLog) {
				return nil
			}
			index := binary.BigEndian.Uint64(k)
			if last != 0 && index != last+1 {
				return fmt.Errorf("%w: entry %d follows entry %d", errDamaged, index, last)
			}
			last = index
			return nil
		})
		if err != nil {
			return err
		}
		if string(name) == string(bucketNode) {
			if err := checkVersion(tx); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkVersion(tx *bbolt.Tx) error {
	b, err := get(tx, bucketNode, keyVersion)
	switch {
	case err != nil:
		return fmt.Errorf("%w: version: %w", errDamaged, err)
	case len(b) != 8:
		return fmt.Errorf("%w: its version has %d bytes", errDamaged, len(b))
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
			return fmt.Errorf("%w: it ends in its first pages", errDamaged)
		}
		sum := fnv.New64a()
		sum.Write(b[:metaSum])
		if sum.Sum64() != binary.NativeEndian.Uint64(b[metaSum:]) {
			return fmt.Errorf("%w: one of its first pages does not fit its checksum", errDamaged)
		}
		size := int64(binary.NativeEndian.Uint32(b[metaPageSize:]))
		if pages := int64(binary.NativeEndian.Uint64(b[metaPages:])); info.Size() < pages*size {
			return fmt.Errorf("%w: it has %d of %d bytes", errDamaged, info.Size(), pages*size)
		}
		at = size
	}
	return nil
}

// withSpace adds to an error of a full disk how full it is.
func withSpace(path string, err error) error {
	var fs syscall.Statfs_t
	if !errors.Is(err, syscall.ENOSPC) || syscall.Statfs(filepath.Dir(path), &fs) != nil {
		return err
	}
	return fmt.Errorf("%w (%d bytes are free)", err, fs.Bavail*uint64(fs.Bsize))
}
