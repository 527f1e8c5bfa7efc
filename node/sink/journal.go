package sink

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"weir/stream"
)

// journal is the file beside a sink's file that says how far this is whole, and keeps what was seen
// of each source. It belongs to one run of a pipeline; the lock of the sink's file is its own.
//
// It is a list of entries. One is written before the bytes that it is about, and made durable with
// them, so the last entry may tell of bytes that are not there, or not all; no other does. Each is
//
//	salt (4), bytes that follow from kind on (4), CRC-32C of where the entry is (8) and of all of it (4),
//	kind (1), end (8), bytes (8), their CRC-32C (4), source (8), what was seen
//
// big endian. The first one of a file has the boot of the machine instead; the salt is the file's own.
//
// Nothing is written behind an entry before that is durable. So one that is not whole was torn if it is the
// last, and is damaged if a whole one begins behind it. For the last to be told from a torn one there is
// an entry without a body behind it, as soon as it is durable, until the next one takes its place.
type journal struct {
	disk Disk
	path string
	min  int64 // journalMin

	f    File                   // nil: there is none
	salt uint32                 // of its entries
	size int64                  // bytes of entries
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
}

type entryKind byte

const (
	entryBegin entryKind = iota // body is the boot
	entryPart                   // body comes behind what was seen
	entryWhole                  // body takes its place
	entryAfter                  // all before it is durable
)

const (
	// entryHead is an entry's bytes before its kind, entryFixed those from there to its body.
	entryHead  = 4 + 4 + 4
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
	j.size, j.live = 0, make(map[uint64]*sourceKept)
	end, err := j.walk(length, func(_ int64, e *entry) error {
		if e.kind == entryBegin {
			boot, last = string(e.body), new(entry)
		} else {
			j.keep(last)
			known = last.end
		}
		*last = *e
		return nil
	})
	if err == nil && end < length {
		err = j.torn(end, length)
	}
	return boot, last, known, err
}

// walk calls f with each entry in the first length bytes, from the first to the last that is whole,
// or to an error of f, and returns where that ends. What f is given is lent.
func (j *journal) walk(length int64, f func(at int64, e *entry) error) (end int64, err error) {
	r := bufio.NewReaderSize(io.NewSectionReader(j.f, 0, length), tailBytes)
	var buf []byte
	at := int64(0)
	for length-at >= entryHead+entryFixed {
		head, err := r.Peek(entryHead)
		if err != nil {
			return at, err
		}
		if at == 0 {
			j.salt = binary.BigEndian.Uint32(head)
		}
		n := int64(binary.BigEndian.Uint32(head[4:]))
		if n < entryFixed || n > length-at-entryHead {
			break
		}
		buf = slices.Grow(buf[:0], int(entryHead+n))[:entryHead+n]
		if _, err := io.ReadFull(r, buf); err != nil {
			return at, err
		}
		if !j.whole(buf, at) {
			break
		}
		if e := parseEntry(buf[entryHead:]); e.kind != entryAfter {
			if err := f(at, &e); err != nil {
				return at, err
			}
		}
		at += int64(len(buf))
	}
	return at, nil
}

// each calls f with each entry that was kept.
func (j *journal) each(f func(at int64, e *entry) error) error {
	end, err := j.walk(j.size, f)
	if err == nil && end < j.size {
		err = j.damaged(end)
	}
	return err
}

// whole reports whether b begins with an entry of this journal, which is at that place of it.
func (j *journal) whole(b []byte, at int64) bool {
	if len(b) < entryHead+entryFixed || binary.BigEndian.Uint32(b) != j.salt {
		return false
	}
	n := int64(binary.BigEndian.Uint32(b[4:]))
	return n >= entryFixed && n <= int64(len(b)-entryHead) && entrySum(b[:entryHead+n], at) == binary.BigEndian.Uint32(b[8:]) &&
		(at == 0) == (entryKind(b[entryHead]) == entryBegin)
}

// entrySum is the CRC that belongs into the entry b at a place of the journal.
func entrySum(b []byte, at int64) uint32 {
	sum := crc32.Checksum(binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(at)), castagnoli())
	return crc32.Update(crc32.Update(sum, castagnoli(), b[:8]), castagnoli(), b[entryHead:])
}

// torn is an error where what is at end is not the rest of a write that was never durable. The first entry
// always was: the journal has its name since.
func (j *journal) torn(end, length int64) error {
	if end == 0 {
		return j.damaged(0)
	}
	b := make([]byte, length-end)
	if _, err := j.f.ReadAt(b, end); err != nil {
		return err
	}
	salt := binary.BigEndian.AppendUint32(nil, j.salt)
	for i := 1; ; i++ {
		n := bytes.Index(b[i:], salt)
		if n < 0 {
			return nil
		}
		if i += n; j.whole(b[i:], end+int64(i)) {
			return j.damaged(end)
		}
	}
}

// journalError says that a journal does not hold what was written to it.
type journalError struct{ *stream.ConfigError }

func (e journalError) Unwrap() error { return e.ConfigError }

// ExitCode is EX_DATAERR of sysexits.h.
func (e journalError) ExitCode() int { return 65 }

func (j *journal) damaged(at int64) error {
	return journalError{&stream.ConfigError{Err: fmt.Errorf("%s, by which the sink knows what its file holds, is damaged at byte %d: "+
		"put back what was there, or remove it: the file stays, and what comes again is there twice", j.path, at)}}
}

func parseEntry(b []byte) entry {
	return entry{
		kind: entryKind(b[0]), end: int64(binary.BigEndian.Uint64(b[1:])), bytes: int64(binary.BigEndian.Uint64(b[9:])),
		sum: binary.BigEndian.Uint32(b[17:]), source: binary.BigEndian.Uint64(b[21:]), body: b[entryFixed:],
	}
}

// code makes an entry the bytes that are at the end of the journal.
func (j *journal) code(e *entry) []byte {
	b := append(j.buf[:0], make([]byte, entryHead)...)
	b = append(b, byte(e.kind))
	b = binary.BigEndian.AppendUint64(b, uint64(e.end))
	b = binary.BigEndian.AppendUint64(b, uint64(e.bytes))
	b = binary.BigEndian.AppendUint32(b, e.sum)
	b = binary.BigEndian.AppendUint64(b, e.source)
	b = append(b, e.body...)
	binary.BigEndian.PutUint32(b, j.salt)
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-entryHead))
	binary.BigEndian.PutUint32(b[8:], entrySum(b, j.size))
	return b
}

// keep counts an entry as there, behind the others.
func (j *journal) keep(e *entry) {
	at := j.size
	j.size += entryHead + entryFixed + int64(len(e.body))
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
	j.buf = j.code(e)
	_, err = j.f.WriteAt(j.buf, j.size)
	if cap(j.buf) > bufferKeepMax {
		j.buf = nil
	}
	return err
}

// synced says behind all entries that they are durable.
func (j *journal) synced() error { return j.put(&entry{kind: entryAfter}) }

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
	fresh := &journal{disk: j.disk, path: j.path, min: j.min, f: f, salt: rand.Uint32(), live: make(map[uint64]*sourceKept)}
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
		err := j.each(func(at int64, e *entry) error {
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
	if err := fresh.synced(); err != nil { // it has no name before it is
		return err
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
	err = j.each(func(at int64, e *entry) error {
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
