package sink

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// journal is the file beside a sink's file that says how far this is whole, and keeps what was seen
// of each source. It belongs to one run of a pipeline; the lock of the sink's file is its own.
//
// It is a chain of entries. One is written before the bytes that it is about, and made durable with
// them, so the last entry may tell of bytes that are not there, or not all; no other does. Each is
//
//	bytes that follow from kind on (4), CRC-32C of these with that of the entry before (4),
//	kind (1), end (8), bytes (8), their CRC-32C (4), source (8), what was seen
//
// big endian. The first one of a file has the boot of the machine instead.
type journal struct {
	disk Disk
	path string
	min  int64 // journalMin

	f    File                   // nil: there is none
	size int64                  // bytes of entries
	sum  uint32                 // of the last one
	live map[uint64]*sourceKept // by source
	next int64                  // bytes at which it is rewritten
	buf  []byte
}

// sourceKept is what a journal has of a source: from the entry at from on, which has all.
type sourceKept struct{ from, to, bytes int64 }

// entry says that the first end bytes of the sink's file are whole; the last bytes of these, whose
// CRC is sum, came with it.
type entry struct {
	kind   entryKind
	end    int64
	bytes  int64
	sum    uint32
	source uint64
	body   []byte

	chain uint32 // the CRC of the entry itself, once it was coded or read
}

type entryKind byte

const (
	entryBegin entryKind = iota // body is the boot
	entryPart                   // body comes behind what was seen
	entryWhole                  // body takes its place
)

const (
	// entryHead is an entry's bytes before its kind, entryFixed those from there to its body.
	entryHead  = 8
	entryFixed = 1 + 8 + 8 + 4 + 8
	// journalMin is the least size at which a journal is rewritten, in bytes: small beside what
	// it is about, and seldom.
	journalMin = 1 << 20
	// journalSources is how many sources a journal keeps when it is rewritten: those last written
	// of. The sink's handler remembers as many.
	journalSources = 4096
)

// castagnoli is CRC-32C, which processors compute.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// journalOf is the journal of the file at path.
func journalOf(disk Disk, path string) *journal {
	dir, name := filepath.Split(path)
	return &journal{disk: disk, path: filepath.Join(dir, "."+name+".seen"), min: journalMin}
}

// replay reads the journal from its start, up to its last entry, which is returned: nil where there
// is none. Before it, the first known bytes of the sink's file are whole.
func (j *journal) replay() (boot string, last *entry, known int64, err error) {
	if err := j.close(); err != nil {
		return "", nil, 0, err
	}
	if j.f, err = j.disk.Open(j.path); err != nil {
		return "", nil, 0, err
	}
	length, err := j.f.Size()
	if err != nil {
		return "", nil, 0, err
	}
	j.size, j.sum, j.live = 0, 0, make(map[uint64]*sourceKept)
	err = j.walk(length, func(_ int64, e *entry) error {
		if e.kind == entryBegin {
			boot, last = string(e.body), new(entry)
		} else {
			j.keep(last)
			known = last.end
		}
		*last = *e
		return nil
	})
	return boot, last, known, err
}

// walk calls f with each entry in the first length bytes, from the first to the last that is whole,
// or to an error of f. What f is given is lent.
func (j *journal) walk(length int64, f func(at int64, e *entry) error) error {
	r := bufio.NewReaderSize(io.NewSectionReader(j.f, 0, length), tailBytes)
	var buf []byte
	sum := uint32(0)
	for at := int64(0); length-at >= entryHead+entryFixed; at += int64(len(buf)) {
		head, err := r.Peek(entryHead)
		if err != nil {
			return err
		}
		n, want := int64(binary.BigEndian.Uint32(head)), binary.BigEndian.Uint32(head[4:])
		if n < entryFixed || n > length-at-entryHead {
			return nil
		}
		buf = slices.Grow(buf[:0], int(entryHead+n))[:entryHead+n]
		if _, err := io.ReadFull(r, buf); err != nil {
			return err
		}
		sum = crc32.Update(sum, castagnoli(), buf[entryHead:])
		e := parseEntry(buf[entryHead:])
		e.chain = sum
		if sum != want || (at == 0) != (e.kind == entryBegin) {
			return nil
		}
		if err := f(at, &e); err != nil {
			return err
		}
	}
	return nil
}

func parseEntry(b []byte) entry {
	return entry{
		kind: entryKind(b[0]), end: int64(binary.BigEndian.Uint64(b[1:])), bytes: int64(binary.BigEndian.Uint64(b[9:])),
		sum: binary.BigEndian.Uint32(b[17:]), source: binary.BigEndian.Uint64(b[21:]), body: b[entryFixed:],
	}
}

// append codes an entry that comes behind one with the CRC before.
func (e *entry) append(b []byte, before uint32) []byte {
	at := len(b)
	b = append(b, make([]byte, entryHead)...)
	b = append(b, byte(e.kind))
	b = binary.BigEndian.AppendUint64(b, uint64(e.end))
	b = binary.BigEndian.AppendUint64(b, uint64(e.bytes))
	b = binary.BigEndian.AppendUint32(b, e.sum)
	b = binary.BigEndian.AppendUint64(b, e.source)
	b = append(b, e.body...)
	e.chain = crc32.Update(before, castagnoli(), b[at+entryHead:])
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-entryHead))
	binary.BigEndian.PutUint32(b[at+4:], e.chain)
	return b
}

// keep counts an entry as there, behind the others.
func (j *journal) keep(e *entry) {
	at := j.size
	j.size += entryHead + entryFixed + int64(len(e.body))
	j.sum = e.chain
	if e.kind == entryBegin {
		return
	}
	k := j.live[e.source]
	if k == nil {
		k = &sourceKept{from: at}
		j.live[e.source] = k
	}
	if e.kind == entryWhole {
		k.from, k.bytes = at, 0
	}
	k.to = at
	k.bytes += j.size - at
}

// put writes an entry behind the others. Sync makes it durable; keep or drop says what becomes of it.
func (j *journal) put(e *entry) (err error) {
	j.buf = e.append(j.buf[:0], j.sum)
	_, err = j.f.WriteAt(j.buf, j.size)
	if cap(j.buf) > bufferKeepMax {
		j.buf = nil
	}
	return err
}

// drop takes the entry that was put back.
func (j *journal) drop() error { return j.f.Truncate(j.size) }

// large reports whether most of the journal is of no use any more.
func (j *journal) large() bool {
	if j.size < max(j.min, j.next) {
		return false
	}
	live := int64(0)
	for _, k := range j.live {
		live += k.bytes
	}
	j.next = j.size + j.size/4 // until when it need not be counted again
	return j.size > 2*live || len(j.live) > 2*journalSources
}

// rewrite makes the journal anew, of what is of use in it, and durable: the first end bytes of the
// sink's file are whole. Where it cannot, the old one stays as it was.
func (j *journal) rewrite(boot string, at int64) error {
	path := j.path + ".new"
	f, err := j.disk.Open(path)
	if err != nil {
		return err
	}
	fresh := &journal{disk: j.disk, path: j.path, min: j.min, f: f, live: make(map[uint64]*sourceKept)}
	if err := j.copy(fresh, boot, at); err != nil {
		return errors.Join(err, f.Close(), j.disk.Remove(path))
	}
	if err := j.disk.Rename(path, j.path); err != nil {
		return errors.Join(err, f.Close())
	}
	_ = j.close() // its name is another's
	*j = *fresh
	if err := j.disk.SyncDir(filepath.Dir(j.path)); err != nil {
		// A power cut may bring the old one back: nothing may be acked any more.
		return fmt.Errorf("keep the name of %s: %v", j.path, err)
	}
	return nil
}

// copy writes what is of use to a new journal and makes it durable.
func (j *journal) copy(fresh *journal, boot string, end int64) error {
	if err := fresh.f.Truncate(0); err != nil { // one was left half made
		return err
	}
	begin := entry{kind: entryBegin, end: end, body: []byte(boot)}
	if err := fresh.put(&begin); err != nil {
		return err
	}
	fresh.keep(&begin)
	if len(j.live) > 0 {
		j.forget()
		err := j.walk(j.size, func(at int64, e *entry) error {
			if k := j.live[e.source]; e.kind == entryBegin || k == nil || at < k.from {
				return nil
			}
			e.end, e.bytes, e.sum = end, 0, 0
			if err := fresh.put(e); err != nil {
				return err
			}
			fresh.keep(e)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return fresh.f.Sync()
}

// forget leaves out the sources that nothing was written of for longest, where there are too many.
func (j *journal) forget() {
	if len(j.live) <= journalSources {
		return
	}
	sources := slices.SortedFunc(maps.Keys(j.live), func(a, b uint64) int { return cmp.Compare(j.live[a].to, j.live[b].to) })
	for _, source := range sources[:len(sources)-journalSources] {
		delete(j.live, source)
	}
}

// seen is what the journal keeps of a source.
func (j *journal) seen(source uint64) (seen []byte, err error) {
	k := j.live[source]
	if k == nil {
		return nil, nil
	}
	err = j.walk(j.size, func(at int64, e *entry) error {
		if e.kind != entryBegin && e.source == source && at >= k.from {
			seen = append(seen, e.body...)
		}
		return nil
	})
	return seen, err
}

func (j *journal) close() error {
	f := j.f
	j.f = nil
	if f == nil {
		return nil
	}
	return f.Close()
}

// bootOf names this life of the machine: as long as it is the same, no power was cut and what was
// written to a file is there in order. Empty: nobody knows.
func bootOf() string {
	b, err := fs.ReadFile(os.DirFS("/proc/sys/kernel/random"), "boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
