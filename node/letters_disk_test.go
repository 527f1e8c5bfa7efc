package node

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/node/dead"
	"weir/stream"
)

// On a full disk a letter waits, what was kept before is read meanwhile, and the letter is kept when
// there is room.
func TestDeadLettersOnFullDisk(t *testing.T) {
	dir := mount(t, 0, "size=2m")
	cfg := dirConfig(filepath.Join(dir, "data"), 1)
	cfg.Listen, cfg.DeadLetters = "127.0.0.1:0", true
	d, err := openDataDir(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{cfg: cfg, dir: d, log: cfg.Log}
	n.letters = newLetters(n)
	letter := func(seq uint64, size int) stream.Letter {
		return stream.Letter{Pipeline: "p", Role: "work", Reason: "no", Record: stream.Record{
			ID: stream.ID{Seq: seq}, Attempt: 3, Out: stream.Out{Body: bytes.Repeat([]byte{'x'}, size)},
		}}
	}
	if err := n.letters.bury(t.Context(), letter(0, 10)); err != nil {
		t.Fatal(err)
	}
	fill := filepath.Join(dir, "fill")
	for size := 1 << 20; size > 0; size /= 2 { // to the last byte
		f, err := os.OpenFile(fill, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.Write(make([]byte, size)) // until there is no room
		f.Close()
	}
	kept := make(chan error)
	go func() { kept <- n.letters.bury(t.Context(), letter(1, 600<<10)) }() // ended by the room that is made
	why := ""
	for limit := time.Now().Add(10 * time.Second); why == "" && time.Now().Before(limit); time.Sleep(time.Millisecond) {
		why = n.letters.waitsOf(roleKey{"p", "work"})
	}
	if !strings.Contains(why, "dead letters wait: ") || !strings.Contains(why, "no space left on device") {
		t.Errorf("it waits for %q", why)
	}
	if ls, _, err := d.letters.List(dead.Filter{}); len(ls) != 1 || err != nil {
		t.Errorf("meanwhile %d letters, %v", len(ls), err)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if err := <-kept; err != nil {
		t.Fatal(err)
	}
	if why := n.letters.waitsOf(roleKey{"p", "work"}); why != "" {
		t.Errorf("it was kept and waits for %q", why)
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
	if d, err = openDataDir(cfg); err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for id, size := range sizes(t, d.letters) {
		if _, c, err := d.letters.Get(id); len(c.Body) != size || err != nil {
			t.Errorf("letter %s has %d bytes, want %d: %v", id, len(c.Body), size, err)
		}
	}
	if n := len(sizes(t, d.letters)); n != 2 {
		t.Errorf("%d letters after a restart, want 2", n)
	}
}

func sizes(t *testing.T, s *dead.Store) map[string]int {
	t.Helper()
	all := make(map[string]int)
	if err := s.Each(dead.Filter{}, func(l dead.Letter) { all[l.ID] = l.Bytes }); err != nil {
		t.Fatal(err)
	}
	return all
}
