package sim

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"

	"weir/node/sink"
)

// inodeAt opens a file and returns what is under it.
func inodeAt(t *testing.T, m *mount, path string) (sink.File, *inode) {
	t.Helper()
	f, err := m.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f, f.(*diskFile).f
}

// What was synced is there after a power cut, whatever was done before and after, and what was done
// after it can be taken back whole.
func TestDiskKeepsWhatIsSynced(t *testing.T) {
	torn := 0
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		d := newDisk(seed, "")
		m := d.mount()
		f, under := inodeAt(t, m, "/f")
		if err := m.SyncDir("/"); err != nil {
			t.Fatal(err)
		}
		var durable []byte
		for range r.IntN(30) {
			size, _ := f.Size()
			switch r.IntN(4) {
			case 0:
				_ = f.Truncate(r.Int64N(size + 10))
			case 1:
				_ = f.Sync()
				durable = bytes.Clone(under.data)
			default:
				b := bytes.Repeat([]byte{byte(1 + r.IntN(255))}, 1+r.IntN(20))
				if n, err := f.WriteAt(b, r.Int64N(size+10)); n != len(b) || err != nil {
					t.Fatal(n, err)
				}
			}
		}
		clean := len(under.dirty) == 0
		seen := bytes.Clone(under.data)
		for i := range under.dirty {
			under.undo(&under.dirty[len(under.dirty)-1-i])
		}
		if !bytes.Equal(under.data, durable) {
			t.Fatalf("seed %d: %q after all was taken back, want %q", seed, under.data, durable)
		}
		for i := range under.dirty {
			under.do(&under.dirty[i])
		}
		if !bytes.Equal(under.data, seen) {
			t.Fatalf("seed %d: %q after all was done again, want %q", seed, under.data, seen)
		}
		d.cut()
		if !bytes.Equal(under.data, seen) {
			torn++
			if clean {
				t.Fatalf("seed %d: %q after a power cut, and %q was synced", seed, under.data, seen)
			}
		}
	}
	if torn < 100 {
		t.Errorf("a power cut changed %d files of 500", torn)
	}
}

// With fsync skipped a power cut takes what was synced too.
func TestDiskWithoutSync(t *testing.T) {
	lost := 0
	for seed := range uint64(100) {
		d := newDisk(seed, BugNoSync)
		m := d.mount()
		f, under := inodeAt(t, m, "/f")
		_, _ = f.WriteAt([]byte("text"), 0)
		if err := errors.Join(f.Sync(), m.SyncDir("/")); err != nil {
			t.Fatal(err)
		}
		if d.cut(); d.names["/f"] == nil || string(under.data) != "text" {
			lost++
		}
	}
	if lost < 20 {
		t.Errorf("lost %d times of 100", lost)
	}
}

// Names that were not synced are there after a power cut as they were at some moment.
func TestDiskNames(t *testing.T) {
	found := make(map[string]int)
	for seed := range uint64(100) {
		d := newDisk(seed, "")
		m := d.mount()
		f, _ := inodeAt(t, m, "/old")
		_, _ = f.WriteAt([]byte("old"), 0)
		_ = errors.Join(f.Sync(), m.SyncDir("/"))
		g, _ := inodeAt(t, m, "/new")
		_, _ = g.WriteAt([]byte("new"), 0)
		if err := errors.Join(g.Sync(), m.Rename("/new", "/old")); err != nil {
			t.Fatal(err)
		}
		if f.Named() {
			t.Error("the file that another took the name of still has it")
		}
		d.cut()
		h, _ := inodeAt(t, d.mount(), "/old")
		text, _ := io.ReadAll(io.NewSectionReader(h, 0, 100))
		found[string(text)]++
	}
	if found["old"] == 0 || found["new"] == 0 || found["old"]+found["new"] != 100 {
		t.Errorf("found %v", found)
	}
}

func TestDiskOfADeadNode(t *testing.T) {
	d := newDisk(1, "")
	m := d.mount()
	f, _ := inodeAt(t, m, "/f")
	if err := f.Lock(); err != nil {
		t.Fatal(err)
	}
	other := d.mount()
	g, _ := inodeAt(t, other, "/f")
	if _, ok := errors.AsType[*sink.LockedError](g.Lock()); !ok {
		t.Error("two have the lock")
	}
	m.end()
	if _, err := f.WriteAt([]byte("late"), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a dead node writes: %v", err)
	}
	if err := g.Lock(); err != nil {
		t.Errorf("the lock of a dead node: %v", err)
	}
	d.fill(1)
	if n, err := g.WriteAt([]byte("text"), 0); n != 2 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk takes %d bytes: %v", n, err)
	}
	if n, err := g.WriteAt([]byte("TE"), 0); n != 2 || err != nil {
		t.Errorf("a full disk has no room for what is there: %d, %v", n, err)
	}
	d.fill(-1)
	if n, err := g.WriteAt([]byte("text"), 0); n != 4 || err != nil {
		t.Errorf("a disk with room again takes %d bytes: %v", n, err)
	}
}
