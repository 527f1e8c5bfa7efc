package dead

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// letterOf is a letter of record i of a role.
func letterOf(role string, i int) Letter {
	return Letter{TimeMS: int64(1000 + i), Pipeline: "p", Role: role, Node: "n1", Attempts: 3, Reason: "no", Record: fmt.Sprintf("a-b-%d-c-d", i)}
}

// What was put is there after a restart, byte for byte, once, however often it was put.
func TestPut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dead.db")
	s := open(t, path)
	c := Content{Key: []byte{0, 0xff}, Header: map[string]string{"path": "a\xff\n", "": "x"}, Body: []byte("line\nline\x00\n")}
	l := letterOf("work", 1)
	l.Reason, l.Stderr = strings.Repeat("ä", reasonBytesMax), strings.Repeat("ö", stderrBytesMax)+"end"
	id, err := s.Put(l, c)
	if err != nil {
		t.Fatal(err)
	}
	l.TimeMS++
	if again, err := s.Put(l, c); again != id || err != nil {
		t.Errorf("put again: %s, %v; want %s", again, err, id)
	}
	l.Role = "other" // its letter is another, though the record is the same
	if other, err := s.Put(l, c); other == id || err != nil {
		t.Errorf("of another role: %s, %v", other, err)
	}
	for range 2 {
		if diff := cmp.Diff(map[string]int{"p/work": 1, "p/other": 1}, s.Counts()); diff != "" {
			t.Error(diff)
		}
		got, content, err := s.Get(id)
		if err != nil || got.ID != id || got.TimeMS != 1001 || got.Bytes != len(c.Body) || len(got.Reason) > reasonBytesMax || len(got.Stderr) > stderrBytesMax || !strings.HasSuffix(got.Stderr, "öend") {
			t.Errorf("got %+v, %v", got, err)
		}
		if diff := cmp.Diff(c, content); diff != "" {
			t.Error(diff)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, path)
	}
}

func TestListAndDrop(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "dead.db"))
	var ids []string
	for i := range 10 {
		id, err := s.Put(letterOf([]string{"even", "odd"}[i%2], i), Content{Body: fmt.Append(nil, i)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, tt := range []struct {
		f    Filter
		want []int
		more int
	}{
		{Filter{}, []int{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, 0},
		{Filter{Limit: 3}, []int{9, 8, 7}, 7},
		{Filter{Name: "p/odd", Limit: 2}, []int{9, 7}, 3},
		{Filter{Name: "p", Limit: 1}, []int{9}, 9},
		{Filter{Name: "odd"}, nil, 0},
		{Filter{Prefix: ids[4]}, []int{4}, 0},
		{Filter{Record: "a-b-5-"}, []int{5}, 0},
	} {
		ls, more, err := s.List(tt.f)
		var got []int
		for _, l := range ls {
			got = append(got, int(l.TimeMS-1000))
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || more != tt.more || err != nil {
			t.Errorf("%+v: %d more, %v\n%s", tt.f, more, err, diff)
		}
	}
	if n, err := s.Drop(ids[0], ids[2], ids[0], "0000000000000000"); n != 2 || err != nil {
		t.Errorf("dropped %d, %v", n, err)
	}
	if _, _, err := s.Get(ids[2]); !errors.Is(err, ErrNone) {
		t.Errorf("after the drop: %v", err)
	}
	if diff := cmp.Diff(map[string]int{"p/even": 3, "p/odd": 5}, s.Counts()); diff != "" {
		t.Error(diff)
	}
}

// Many at once share their fsyncs, and each is there when its Put returns.
func TestPutAtOnce(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "dead.db"))
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			id, err := s.Put(letterOf("work", i%100), Content{Body: []byte("x")})
			if _, _, there := s.Get(id); err != nil || there != nil {
				t.Errorf("put %d: %v, %v", i, err, there)
			}
		})
	}
	group.Wait()
	if n := s.Counts()["p/work"]; n != 100 {
		t.Errorf("%d letters, want 100", n)
	}
}

// Letters whose ids would be the same do not take each other's place.
func TestSameID(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "dead.db"))
	l := letterOf("work", 1)
	squatter := letterOf("work", 2)
	squatter.ID = idOf(l.id())
	if err := s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketLetters).Put([]byte(squatter.ID), seal([]byte(`{"pipeline":"p","role":"work","record":"z"}`)))
	}); err != nil {
		t.Fatal(err)
	}
	if id, err := s.Put(l, Content{}); id != idOf(l.id()+1) || err != nil {
		t.Errorf("put %s, %v; want the id after %s", id, err, squatter.ID)
	}
}

func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dead.db")
	s := open(t, path)
	if _, err := s.Put(letterOf("work", 1), Content{Body: bytes.Repeat([]byte("body"), 5000)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte(`"reason":"no"`))
	for name, text := range map[string][]byte{
		"no database": []byte(strings.Repeat("hello ", 9000)),
		"cut":         whole[:8<<10],
		"one bit":     append(append(bytes.Clone(whole[:at]), whole[at]^1), whole[at+1:]...),
		"zeroes":      make([]byte, len(whole)),
		"empty":       nil,
	} {
		bad := filepath.Join(t.TempDir(), name) // each its own: one that made the database panic stays locked
		if err := os.WriteFile(bad, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(bad, true); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s = open(t, path)
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyVersion, []byte{9}) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, true); !errors.Is(err, ErrNewer) {
		t.Errorf("of a newer program: %v", err)
	}
}

func TestCheckPrefix(t *testing.T) {
	for text, ok := range map[string]bool{"0": true, "09af": true, "": false, "xyz": false, "A": false, "00000000000000000": false, "0\x00": false} {
		if err := CheckPrefix(text); (err == nil) != ok {
			t.Errorf("CheckPrefix(%q) = %v", text, err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	s, err := Open(filepath.Join(b.TempDir(), "dead.db"), false)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	b.SetParallelism(16)
	var mu sync.Mutex
	i := 0
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			i++
			l := letterOf("work", i)
			mu.Unlock()
			if _, err := s.Put(l, Content{Body: []byte("body")}); err != nil {
				b.Error(err)
			}
		}
	})
}

// A letter that nobody could find after a restart is not said to be kept. One that was refused is there, once,
// when the file is.
func TestPutIntoAFileThatIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dead.db")
	s := open(t, path)
	put := func(i int) error {
		_, err := s.Put(letterOf("work", i), Content{Body: []byte("x")})
		return err
	}
	if err := put(0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if err := put(1); !errors.Is(err, ErrGone) || err.Error() != path+" was removed or replaced while its node ran: put it back, or start the node again" {
		t.Errorf("without its file: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := put(1); !errors.Is(err, ErrGone) {
		t.Errorf("with another file of its name: %v", err)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := put(1); err != nil || s.Counts()["p/work"] != 2 {
			t.Errorf("with its file again: %v, %v", s.Counts(), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, path)
	}
}
