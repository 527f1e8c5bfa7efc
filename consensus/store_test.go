package consensus

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"weir/topology"
)

// openTest opens a store that does not wait for the disk.
func openTest(t testing.TB, path string) *Store {
	t.Helper()
	s, err := OpenStore(StoreConfig{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// content is all that a store holds, as a voter that restarts sees it.
func content(s *Store) (string, error) {
	var all []any
	var errs []error
	note := func(v any, err error) { all, errs = append(all, v), append(errs, err) }
	note(s.server())
	note(s.state())
	snap, err := s.snapshot()
	if snap != nil {
		note(snap.meta, err)
		note(snap.data, nil)
	}
	note(s.GetUint64([]byte("CurrentTerm")))
	note(s.Get([]byte("LastVoteCand")))
	first, err := s.FirstIndex()
	note(first, err)
	last, err := s.LastIndex()
	note(last, err)
	for i := first; i <= last; i++ {
		var l raft.Log
		note(&l, s.GetLog(i, &l))
	}
	b, err := json.Marshal(all)
	return string(b), errors.Join(append(errs, err)...)
}

// fill writes a bit of everything, and a log long enough for several pages.
func fill(t testing.TB, s *Store) {
	t.Helper()
	var logs []*raft.Log
	for i := uint64(11); i < 60; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: 3, Data: fmt.Appendf(nil, "%0200d", i), AppendedAt: time.Unix(int64(i), 0).UTC()})
	}
	if err := errors.Join(
		s.setServer("n1/abc"),
		s.setState(&State{Version: stateVersion, Index: 7, LogID: 9, Roster: []topology.Node{testNode(1)}}),
		s.setSnapshot(&keptSnapshot{raft.SnapshotMeta{ID: "3-10", Index: 10, Term: 3}, []byte("{}")}),
		s.StoreLogs(logs),
		s.Set([]byte("LastVoteCand"), []byte("n2/def")),
		s.SetUint64([]byte("CurrentTerm"), 5),
	); err != nil {
		t.Fatal(err)
	}
}

func TestStoreKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := openTest(t, path)
	if got, err := content(s); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("a new store holds %s, %v", got, err)
	}
	fill(t, s)
	if err := s.GetLog(60, new(raft.Log)); err != raft.ErrLogNotFound {
		t.Errorf("an entry that is none: %v", err)
	}
	if err := errors.Join(s.DeleteRange(11, 20), s.DeleteRange(55, 59)); err != nil {
		t.Fatal(err)
	}
	want, err := content(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, path)
	defer s.Close()
	if got, err := content(s); err != nil || got != want {
		t.Errorf("after a restart: %v\n%s", err, cmp.Diff(want, got))
	}
	// A snapshot beyond the log comes from a leader: the log goes on behind it.
	if err := errors.Join(s.setSnapshot(&keptSnapshot{meta: raft.SnapshotMeta{ID: "4-80", Index: 80}}), s.StoreLog(&raft.Log{Index: 81})); err != nil {
		t.Fatal(err)
	}
	if first, err := s.FirstIndex(); first != 81 || err != nil {
		t.Errorf("the log begins at %d, %v", first, err)
	}
	if err := s.forget(); err != nil {
		t.Fatal(err)
	}
	if id, err := s.server(); id != "" || err != nil {
		t.Errorf("the vote of %s, %v, is still there", id, err)
	}
	if last, _ := s.LastIndex(); last != 0 {
		t.Errorf("the log ends at %d", last)
	}
	if state, err := s.state(); state.LogID != 9 || err != nil {
		t.Errorf("the state %+v, %v", state, err)
	}
}

// What raft lets go after a leader's snapshot is as long as the cluster is old, not as its log.
func TestStoreDeletesWhatThereIs(t *testing.T) {
	s := openTest(t, filepath.Join(t.TempDir(), "log"))
	defer s.Close()
	fill(t, s)
	if err := errors.Join(s.StoreLog(&raft.Log{Index: 1 << 60}), s.DeleteRange(0, 1<<60-1)); err != nil {
		t.Fatal(err)
	}
	if first, err := s.FirstIndex(); first != 1<<60 || err != nil {
		t.Errorf("the log begins at %d, %v", first, err)
	}
}

// Whatever bit of the file is flipped, and wherever it is cut: a store that opens holds what it held.
func TestStoreDamaged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	s := openTest(t, path)
	fill(t, s)
	want, err := content(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	try := func(what string, b []byte) {
		t.Helper()
		path := filepath.Join(dir, what) // one that is refused may stay locked in this process
		defer os.Remove(path)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenStore(StoreConfig{Path: path, NoSync: true})
		if err != nil {
			refused++
			if se, ok := errors.AsType[*StoreError](err); !ok || se.ExitCode() != 74 && !se.Newer || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v", what, err)
			}
			return
		}
		defer s.Close()
		if got, err := content(s); err != nil || got != want {
			t.Errorf("%s: opens, with %v\n%s", what, err, cmp.Diff(want, got))
		}
	}
	for at := 0; at < len(whole); at++ {
		if at%331 != 0 && at%4096 > 48 { // all of each page's head, some of the rest
			continue
		}
		b := append([]byte(nil), whole...)
		b[at] ^= 1 << (at % 8)
		try(fmt.Sprintf("bit %d of byte %d flipped", at%8, at), b)
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
	for _, size := range []int{0, 1, 4096, 8192, len(whole) / 2, len(whole) - 32<<10} {
		before := refused
		try(fmt.Sprintf("cut to %d of %d bytes", size, len(whole)), whole[:size])
		if size <= 8192 && refused == before {
			t.Errorf("cut to %d bytes it opens", size)
		}
	}
}

func TestStoreOfANewerProgram(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	s := openTest(t, path)
	if err := s.update("test", func(tx *bbolt.Tx) error { return put(tx, bucketNode, keyVersion, indexKey(storeVersion+1)) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := OpenStore(StoreConfig{Path: path})
	if se, ok := errors.AsType[*StoreError](err); !ok || se.ExitCode() != 78 || !strings.Contains(err.Error(), "written by a newer weir: its format is 2, this one reads 1") {
		t.Errorf("open: %v", err)
	}
}

// A process that dies while it makes the store leaves none.
func TestStoreHalfMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openTest(t, path).Close(); err != nil {
		t.Error(err)
	}
}

// The disk is full: the first write that fails is the last, also when there is room again.
func TestStorePoisoned(t *testing.T) {
	var held []int // descriptors of the database
	path := filepath.Join(t.TempDir(), "log")
	var told []error
	s, err := OpenStore(StoreConfig{Path: path, Broken: func(err error) { told = append(told, err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fill(t, s)
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); to == path {
			var n int
			if _, err := fmt.Sscan(filepath.Base(fd), &n); err != nil {
				t.Fatal(err)
			}
			held = append(held, n) // no os.File: its finalizer would close it once more
		}
	}
	if len(held) != 1 {
		t.Fatalf("the database has %d descriptors, want 1", len(held))
	}
	fd := held[0]
	saved, err := syscall.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err) // every Linux has it
	}
	defer full.Close()
	if err := syscall.Dup3(int(full.Fd()), fd, 0); err != nil {
		t.Fatal(err)
	}
	first := s.SetUint64([]byte("CurrentTerm"), 6)
	if !errors.Is(first, syscall.ENOSPC) || !strings.Contains(first.Error(), path) || !strings.Contains(first.Error(), "bytes are free") {
		t.Errorf("a write to a full disk: %v", first)
	}
	if err := errors.Join(syscall.Dup3(saved, fd, 0), syscall.Close(saved)); err != nil {
		t.Fatal(err)
	}
	if err := s.SetUint64([]byte("CurrentTerm"), 6); err != first {
		t.Errorf("the next write: %v", err)
	}
	if err := s.GetLog(20, new(raft.Log)); err != first {
		t.Errorf("a read after that: %v", err)
	}
	if len(told) != 1 || told[0] != first {
		t.Errorf("told %v", told)
	}
	select {
	case <-s.failure():
	default:
		t.Error("Run is not told")
	}
}

// A disk that hangs ends the store after 5 s, and nothing it does later counts.
func TestStoreHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan error, 1)
		s, err := OpenStore(StoreConfig{Path: filepath.Join(t.TempDir(), "log"), NoSync: true, Broken: func(err error) { told <- err }})
		if err != nil {
			t.Fatal(err)
		}
		disk, done := make(chan struct{}), make(chan error, 1)
		start := time.Now()
		go func() { done <- s.update("test", func(*bbolt.Tx) error { <-disk; return nil }) }()
		err = <-told
		if took := time.Since(start); took != storeWait || err == nil || !strings.Contains(err.Error(), "does not answer within 5s") {
			t.Errorf("told %v after %v", err, took)
		}
		close(disk)
		if err := <-done; err == nil {
			t.Error("the call that hung went well in the end")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A process that stands still in a write for longer than a disk may take writes on.
func TestStoreFrozen(t *testing.T) {
	if path := os.Getenv("WEIR_TEST_FROZEN"); path != "" { // this is the process
		if err := openTest(t, path).update("test", func(*bbolt.Tx) error {
			fmt.Println("in")
			_, err := os.Stdin.Read(make([]byte, 1))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return
	}
	if testing.Short() {
		t.Skip("it takes 6 s")
	}
	t.Parallel()
	child := exec.Command(os.Args[0], "-test.run", "^TestStoreFrozen$")
	child.Env = append(os.Environ(), "WEIR_TEST_FROZEN="+filepath.Join(t.TempDir(), "log"))
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = child.Process.Kill(), child.Wait() })
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); line != "in\n" {
		t.Fatalf("it says %q, %v", line, err)
	}
	if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(storeWait + time.Second) // how long it stands still
	if err := child.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // for a timer that is due to fire before the write ends
	if _, err := in.Write([]byte{'\n'}); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(said)
	if err := child.Wait(); err != nil {
		t.Errorf("%v: %s", err, rest)
	}
}

// BenchmarkOpen is what a restart costs a simulated node, and a real one at its start.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "log")
	s := openTest(b, path)
	fill(b, s)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := openTest(b, path).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStoreLog(b *testing.B) {
	for _, noSync := range []bool{false, true} {
		b.Run(fmt.Sprintf("noSync=%v", noSync), func(b *testing.B) {
			s, err := OpenStore(StoreConfig{Path: filepath.Join(b.TempDir(), "log"), NoSync: noSync})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			index := uint64(0)
			for b.Loop() {
				index++
				if err := s.StoreLog(&raft.Log{Index: index, Data: make([]byte, 200)}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
