package sink

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/zeebo/xxh3"

	"weir/stream"
	"weir/stream/wire"
)

// tornDisk is a Disk that dies at its killAt-th operation. What was not synced by then is there after
// a kill, and any part of it after a power cut.
type tornDisk struct {
	rnd    *rand.Rand
	killAt int // 0: never
	fullAt int // it has no room from this operation to that behind it
	roomAt int

	mu     sync.Mutex // a sink syncs two files at once
	ops    int
	names  map[string]*tornInode
	before []map[string]*tornInode // since the last SyncDir
}

type tornInode struct {
	data, synced []byte
	dirty        []func([]byte) []byte
}

type tornFile struct {
	d    *tornDisk
	path string
	f    *tornInode
}

var errDied = errors.New("the process was killed")

// op counts an operation; the caller has mu.
func (d *tornDisk) op() error {
	d.ops++
	if d.killAt > 0 && d.ops >= d.killAt {
		return errDied
	}
	return nil
}

func (d *tornDisk) dead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.killAt > 0 && d.ops >= d.killAt
}

// cut is a power cut.
func (d *tornDisk) cut() {
	if i := d.rnd.IntN(len(d.before) + 1); i < len(d.before) {
		d.names = d.before[i]
	}
	d.before = nil
	for _, path := range slices.Sorted(maps.Keys(d.names)) {
		f := d.names[path]
		f.data = slices.Clone(f.synced)
		for _, change := range f.dirty {
			if d.rnd.IntN(3) > 0 {
				f.data = change(f.data)
			}
		}
		if n := len(f.data) - len(f.synced); n > 0 && d.rnd.IntN(3) == 0 { // sizes without bytes
			clear(f.data[len(f.synced)+d.rnd.IntN(n):])
		}
		f.synced, f.dirty = slices.Clone(f.data), nil
	}
}

func (d *tornDisk) Open(path string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return nil, err
	}
	if d.names[path] == nil {
		d.before = append(d.before, maps.Clone(d.names))
		d.names[path] = new(tornInode)
	}
	return &tornFile{d, path, d.names[path]}, nil
}

func (d *tornDisk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return err
	}
	d.before = append(d.before, maps.Clone(d.names))
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

func (d *tornDisk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return err
	}
	d.before = append(d.before, maps.Clone(d.names))
	delete(d.names, path)
	return nil
}

func (d *tornDisk) SyncDir(string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.op(); err != nil {
		return err
	}
	d.before = nil
	return nil
}

func (f *tornFile) ReadAt(p []byte, at int64) (int, error) {
	if f.d.dead() {
		return 0, errDied
	}
	return bytes.NewReader(f.f.data).ReadAt(p, at)
}

func (f *tornFile) Size() (int64, error) {
	if f.d.dead() {
		return 0, errDied
	}
	return int64(len(f.f.data)), nil
}

func (f *tornFile) do(change func([]byte) []byte) {
	f.f.data = change(f.f.data)
	f.f.dirty = append(f.f.dirty, change)
}

func (f *tornFile) WriteAt(p []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.killAt > 0 && f.d.ops >= f.d.killAt {
		return 0, errDied
	}
	err := f.d.op()
	if err == nil && f.d.ops >= f.d.fullAt && f.d.ops < f.d.roomAt {
		err = syscall.ENOSPC
	}
	if err != nil {
		p = p[:f.d.rnd.IntN(len(p)+1)]
	}
	p = slices.Clone(p)
	for part := range slices.Chunk(p, max(1, len(p)/2+1)) { // a disk writes blocks
		off := at
		at += int64(len(part))
		f.do(func(b []byte) []byte {
			if n := off + int64(len(part)) - int64(len(b)); n > 0 {
				b = append(b, make([]byte, n)...)
			}
			copy(b[off:], part)
			return b
		})
	}
	return len(p), err
}

func (f *tornFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.op(); err != nil {
		return err
	}
	f.do(func(b []byte) []byte {
		return append(b[:min(size, int64(len(b)))], make([]byte, max(0, size-int64(len(b))))...)
	})
	return nil
}

func (f *tornFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.op(); err != nil {
		return err
	}
	f.f.synced, f.f.dirty = slices.Clone(f.f.data), nil
	return nil
}

func (f *tornFile) Lock() error  { return nil }
func (f *tornFile) Named() bool  { return f.d.names[f.path] == f.f }
func (f *tornFile) Close() error { return nil }

// upstream is what gives a sink its records, and knows which it has acked.
type upstream struct {
	rnd     *rand.Rand
	records []stream.Record // by seq
	acked   []bool
	low     uint64 // of the acked
	logged  uint64 // the mark that a restart of the tap goes on from: an older one
}

func newUpstream(rnd *rand.Rand) *upstream {
	u := &upstream{rnd: rnd}
	for i := range 20 + rnd.IntN(20) {
		body := fmt.Sprintf("line %d %s", i, strings.Repeat("x", rnd.IntN(40)))
		u.records = append(u.records, stream.Record{
			ID:  stream.ID{Source: 1 + uint64(i%2), Gen: 7, Seq: uint64(i), Path: 1, Sum: xxh3.HashString(body)},
			Out: stream.Out{Body: []byte(body)},
		})
	}
	u.acked = make([]bool, len(u.records))
	return u
}

// batch is some records of one source, now and then acked ones: those above the mark that the tap
// goes on from may come again.
func (u *upstream) batch() (rs []stream.Record) {
	source := 1 + uint64(u.rnd.IntN(2))
	for i := int(u.logged); i < len(u.records) && len(rs) < 5; i++ {
		if r := u.records[i]; r.ID.Source == source && (!u.acked[i] && u.rnd.IntN(4) > 0 || u.rnd.IntN(6) == 0) {
			rs = append(rs, r)
		}
	}
	return rs
}

func (u *upstream) ack(rs []stream.Record) {
	for _, r := range rs {
		u.acked[r.ID.Seq] = true
	}
	for u.low < uint64(len(u.acked)) && u.acked[u.low] {
		u.low++
	}
}

// live is one life of a sink's process: it ends when all is acked, or the disk dies.
func (u *upstream) live(t *testing.T, d *tornDisk, boot string, fresh bool) {
	s, err := OpenFile(FileConfig{Path: "dir/out", Disk: d, boot: boot})
	if err != nil {
		return
	}
	s.(*file).journal.min = 100
	for {
		err = s.(*file).Begin(t.Context(), fresh)
		if _, full := stream.RetryAfter(err); !full {
			break
		}
	}
	if err != nil {
		return
	}
	h := stream.NewSinkHandler(stream.SinkHandlerConfig{Sink: s})
	for int(u.low) < len(u.records) && !d.dead() {
		rs := u.batch()
		if len(rs) == 0 {
			continue
		}
		if !u.handle(t, h, d, rs) {
			return
		}
		u.ack(rs)
		if u.rnd.IntN(3) == 0 {
			for source := range uint64(2) {
				h.Mark(wire.Mark{Source: 1 + source, Gen: 7, Next: u.low})
			}
		}
	}
	if err := s.Close(); err != nil && !d.dead() {
		t.Fatal(err)
	}
}

// handle gives records to the sink; false when the process died. What is nacked then has no
// emitter to tell.
func (u *upstream) handle(t *testing.T, h *stream.SinkHandler, d *tornDisk, rs []stream.Record) (ok bool) {
	defer func() {
		if p := recover(); p != nil && !d.dead() {
			panic(p)
		}
	}()
	if err := h.Handle(t.Context(), &stream.Batch{Records: rs}); err != nil {
		if !d.dead() {
			t.Fatal(err)
		}
		return false
	}
	return true
}

// exact runs one case and returns how many operations the first life had.
func exact(t *testing.T, seed uint64, killAt int, powerCut bool) (ops int) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	u := newUpstream(rnd)
	d := &tornDisk{rnd: rand.New(rand.NewPCG(seed, uint64(killAt))), names: map[string]*tornInode{}, killAt: killAt}
	if seed%3 == 0 {
		d.fullAt = 5 + rnd.IntN(60)
		d.roomAt = d.fullAt + rnd.IntN(12)
	}
	boot := 1
	u.live(t, d, "1", true)
	ops = d.ops
	for lives := range 3 {
		if !d.dead() {
			break
		}
		if powerCut {
			boot++
			d.cut()
		}
		if d.ops, d.killAt = 0, 0; lives < 2 && d.rnd.IntN(2) == 0 {
			d.killAt = 1 + d.rnd.IntN(ops)
		}
		u.logged += uint64(u.rnd.IntN(int(u.low-u.logged) + 1))
		u.live(t, d, fmt.Sprint(boot), false)
	}
	if powerCut {
		d.cut()
	}
	u.check(t, d.names["dir/out"], fmt.Sprintf("seed %d, killed at %d, power cut %v", seed, killAt, powerCut))
	return ops
}

func (u *upstream) check(t *testing.T, f *tornInode, name string) {
	t.Helper()
	times := map[string]int{}
	for line := range strings.Lines(string(f.data)) {
		times[line]++
	}
	for _, r := range u.records {
		if n := times[string(r.Body)+"\n"]; n != 1 {
			t.Fatalf("%s: %q is there %d times\n%s", name, r.Body, n, f.data)
		}
		delete(times, string(r.Body)+"\n")
	}
	if len(times) > 0 {
		t.Fatalf("%s: also there: %q", name, slices.Collect(maps.Keys(times)))
	}
}

// F5, F14, F30, D2, D4: killed or cut from power at each step of its work, and now and then on a full
// disk, a sink that is started again has each line once.
func TestFileIsExact(t *testing.T) {
	cases := 0
	synctest.Test(t, func(t *testing.T) { // for the pauses while the disk is full
		for seed := range uint64(100) {
			ops := exact(t, seed, 0, false)
			for k := 1; k <= ops; k++ {
				exact(t, seed, k, false)
				exact(t, seed, k, true)
				cases += 2
			}
		}
	})
	t.Logf("%d cases", cases)
	if cases < 10_000 {
		t.Errorf("%d cases, want 10,000", cases)
	}
}
