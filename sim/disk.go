package sim

import (
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"syscall"

	"weir/node/sink"
	"weir/stream"
)

// BugNoSync is planted in the simulated disk: the sinks' fsync is skipped.
const BugNoSync stream.Bug = "fsync skipped"

// disk is what a place's sinks write to; it outlives the nodes there. A power cut leaves any part of
// what was not made durable: some writes, torn ones, later ones without earlier ones, sizes without
// bytes. It is safe for concurrent use.
type disk struct {
	seed uint64
	skip bool // planted: Sync does nothing

	mu    sync.Mutex
	names map[string]*inode   // as programs see them
	past  []map[string]*inode // the names before each of their changes since the last SyncDir
	fills int                 // steps that leave no room
	draws uint64              // so far
}

// inode is the bytes of a file.
type inode struct {
	data  []byte   // as programs see them
	dirty []change // since the last Sync
	owner *diskFile
}

// change is one change of a file: bytes at a place, or its size.
type change struct {
	at       int64
	bytes    []byte
	truncate bool   // to at
	size     int64  // of the file before
	before   []byte // the bytes that are gone by it
}

func newDisk(seed uint64, bug stream.Bug) *disk {
	return &disk{seed: seed, skip: bug == BugNoSync, names: make(map[string]*inode)}
}

// fill adds to the steps that leave no room.
func (d *disk) fill(by int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fills += by
}

// draw is the next number from [0, 1).
func (d *disk) draw() float64 {
	d.draws++
	return unit(mix(d.seed, d.draws))
}

// cut is a power cut.
func (d *disk) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kept := int(d.draw() * float64(len(d.past)+1)); kept < len(d.past) {
		d.names = d.past[kept] // they change in order
	}
	d.past = nil
	for _, path := range slices.Sorted(maps.Keys(d.names)) {
		f := d.names[path]
		dirty := f.dirty
		for i := range dirty {
			f.undo(&dirty[len(dirty)-1-i])
		}
		f.dirty = nil
		for i := range dirty {
			switch c := &dirty[i]; int(d.draw() * 4) {
			case 0: // lost
			case 1: // torn
				c.bytes = c.bytes[:int(d.draw()*float64(len(c.bytes)))]
				f.do(c)
			case 2: // a place, and nothing there
				clear(c.bytes)
				f.do(c)
			default:
				f.do(c)
			}
		}
	}
}

// do makes a change; what nobody wrote is zero.
func (f *inode) do(c *change) {
	end := c.at + int64(len(c.bytes))
	if have := int64(len(f.data)); have < end {
		f.data = append(f.data, make([]byte, end-have)...)
	}
	copy(f.data[c.at:], c.bytes)
	if c.truncate {
		f.data = f.data[:c.at]
	}
}

// undo takes back the last change.
func (f *inode) undo(c *change) {
	if c.truncate && c.at < c.size {
		f.data = append(f.data, c.before...)
		return
	}
	copy(f.data[c.at:], c.before)
	f.data = f.data[:c.size]
}

// mount is a disk as one life of a node sees it: nothing of a life that is over reaches it.
type mount struct {
	d    *disk
	gone bool // guarded by the disk's mu
}

// diskFile is an open file.
type diskFile struct {
	m    *mount
	path string
	f    *inode
}

func (d *disk) mount() *mount { return &mount{d: d} }

// end takes the disk from a node that is no more; its locks go with it.
func (m *mount) end() {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	m.gone = true
}

// fails is the error of an operation of a node that is no more; nil: it is there.
func (m *mount) fails(op, path string) error {
	if m.gone {
		return &fs.PathError{Op: op, Path: path, Err: syscall.EIO}
	}
	return nil
}

// rename notes the names before they change.
func (m *mount) renaming() { m.d.past = append(m.d.past, maps.Clone(m.d.names)) }

func (m *mount) Open(path string) (sink.File, error) {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if err := m.fails("open", path); err != nil {
		return nil, err
	}
	f := m.d.names[path]
	if f == nil {
		f = new(inode)
		m.renaming()
		m.d.names[path] = f
	}
	return &diskFile{m, path, f}, nil
}

func (m *mount) Rename(from, to string) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if err := m.fails("rename", from); err != nil {
		return err
	}
	f := m.d.names[from]
	if f == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	m.renaming()
	delete(m.d.names, from)
	m.d.names[to] = f
	return nil
}

func (m *mount) Remove(path string) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if err := m.fails("remove", path); err != nil {
		return err
	}
	if m.d.names[path] == nil {
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	}
	m.renaming()
	delete(m.d.names, path)
	return nil
}

func (m *mount) SyncDir(dir string) error {
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	if err := m.fails("sync", dir); err != nil {
		return err
	}
	if !m.d.skip {
		m.d.past = nil
	}
	return nil
}

func (f *diskFile) Size() (int64, error) {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	return int64(len(f.f.data)), f.m.fails("stat", f.path)
}

func (f *diskFile) ReadAt(p []byte, at int64) (int, error) {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	if err := f.m.fails("read", f.path); err != nil {
		return 0, err
	}
	n := copy(p, f.f.data[min(at, int64(len(f.f.data))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt takes half of what a full disk has no room for.
func (f *diskFile) WriteAt(p []byte, at int64) (int, error) {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	if err := f.m.fails("write", f.path); err != nil {
		return 0, err
	}
	size := int64(len(f.f.data))
	var err error
	if f.m.d.fills > 0 && at+int64(len(p)) > size {
		p, err = p[:len(p)/2], &fs.PathError{Op: "write", Path: f.path, Err: syscall.ENOSPC}
	}
	gone := f.f.data[min(at, size):min(at+int64(len(p)), size)]
	f.change(change{at: at, bytes: slices.Clone(p), size: size, before: slices.Clone(gone)})
	return len(p), err
}

func (f *diskFile) Truncate(size int64) error {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	if err := f.m.fails("truncate", f.path); err != nil {
		return err
	}
	have := int64(len(f.f.data))
	if size != have {
		f.change(change{at: size, truncate: true, size: have, before: slices.Clone(f.f.data[min(size, have):])})
	}
	return nil
}

func (f *diskFile) change(c change) {
	f.f.dirty = append(f.f.dirty, c)
	f.f.do(&c)
}

func (f *diskFile) Sync() error {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	if err := f.m.fails("sync", f.path); err != nil {
		return err
	}
	if !f.m.d.skip {
		f.f.dirty = nil
	}
	return nil
}

func (f *diskFile) Lock() error {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	if o := f.f.owner; o != nil && o != f && !o.m.gone {
		return &sink.LockedError{Path: f.path}
	}
	f.f.owner = f
	return f.m.fails("lock", f.path)
}

func (f *diskFile) Named() bool {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	return f.m.d.names[f.path] == f.f
}

func (f *diskFile) Close() error {
	f.m.d.mu.Lock()
	defer f.m.d.mu.Unlock()
	if f.f.owner == f {
		f.f.owner = nil
	}
	return nil
}
