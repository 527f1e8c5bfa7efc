package sink

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Disk is the file system as the sink of a file uses it: the system's, unless a simulator brings
// one that loses at a power cut what was not made durable.
type Disk interface {
	// Open opens the file at path for reading and writing, or makes it.
	Open(path string) (File, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes the names in a directory survive a power cut (fsync(2): a file's own Sync
	// does not).
	SyncDir(dir string) error
}

// File is an open file of a Disk.
type File interface {
	io.ReaderAt
	io.WriterAt
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
	// Lock takes the file until Close, or says by a *LockedError that another has it.
	Lock() error
	// Named reports whether the file still has the path that it was opened by.
	Named() bool
	Close() error
}

// LockedError says that another run has the output.
type LockedError struct{ Path string }

func (e *LockedError) Error() string { return e.Path + " is locked by another run" }

// ExitCode is EX_TEMPFAIL of sysexits.h: later it is free.
func (e *LockedError) ExitCode() int { return 75 }

// systemDisk is the file system of this machine.
type systemDisk struct{}

func (systemDisk) Open(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	return systemFile{f}, nil
}

func (systemDisk) Rename(from, to string) error { return os.Rename(from, to) }
func (systemDisk) Remove(path string) error     { return os.Remove(path) }

func (systemDisk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()                                                     // it was only read
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // EINVAL: a file system that cannot
		return err
	}
	return nil
}

type systemFile struct{ *os.File }

func (f systemFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f systemFile) Lock() error {
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("lock the output: %w", err)
	}
	var lockErr error
	if err := conn.Control(func(fd uintptr) { lockErr = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB) }); err != nil {
		return fmt.Errorf("lock the output: %w", err)
	}
	switch {
	case errors.Is(lockErr, syscall.EWOULDBLOCK):
		return &LockedError{Path: f.Name()}
	case lockErr != nil:
		return fmt.Errorf("lock %s: %w", f.Name(), lockErr)
	}
	return nil
}

func (f systemFile) Named() bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(f.Name())
	return err == nil && os.SameFile(ours, there)
}
