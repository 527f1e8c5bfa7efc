package sink

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/stream"
)

// A journal that is damaged anywhere never costs a line that was acked: the sink refuses to begin, or knows
// all the same where its lines end.
func TestDamagedJournal(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	writeAs(t, path, "one", true, "a", "b", "c")
	journal := journalOf(nil, path).path
	whole, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	check := func(name, boot string, damaged []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte("a\nb\nc\n"), 0o644), os.WriteFile(journal, damaged, 0o644)); err != nil {
			t.Fatal(err)
		}
		s, err := OpenFile(FileConfig{Path: path, Disk: systemDisk{}, boot: boot})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := begin(t, s, false); err != nil {
			refused++
			_, stops := errors.AsType[*stream.ConfigError](err)
			if !stops || stream.ExitCode(err) != 65 || !strings.HasPrefix(err.Error(), journal+", by which the sink knows what its file holds, is damaged at byte ") {
				t.Errorf("%s, boot %s: error %v, code %d", name, boot, err, stream.ExitCode(err))
			}
			if got, _ := os.ReadFile(journal); string(got) != string(damaged) {
				t.Errorf("%s, boot %s: what is damaged was changed", name, boot)
			}
		}
		if got, _ := os.ReadFile(path); string(got) != "a\nb\nc\n" {
			t.Errorf("%s, boot %s: it holds %q then", name, boot, got)
		}
	}
	cases := 0
	for _, boot := range []string{"one", "two"} {
		for at := range whole {
			for _, flip := range []byte{1, 1 << 7, 1<<8 - 1} {
				b := slices.Clone(whole)
				b[at] ^= flip
				check(fmt.Sprintf("byte %d is xored with %#x", at, flip), boot, b)
				cases++
			}
		}
		b := slices.Clone(whole)
		clear(b[60:150])
		check("some bytes are zeros", boot, b)
		cases++
	}
	if want := cases - 2*3*(entryHead+entryFixed); refused != want {
		t.Errorf("%d of %d were refused, want %d: all but where it is the last entry, which is about nothing", refused, cases, want)
	}
	if err := os.Remove(journal); err != nil { // as it was told
		t.Fatal(err)
	}
	if _, told := writeAs(t, path, "two", false, "d"); !strings.Contains(told, "what the output holds is not known") {
		t.Errorf("without a journal it said %q", told)
	}
}

// What is damaged while the sink runs is not made the truth by making the journal smaller.
func TestJournalDamagedMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s, err := OpenFile(FileConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	write := func() error {
		return s.Write(t.Context(), records("x"), stream.Seen{Source: 1, Bytes: []byte("seen")})
	}
	if err := errors.Join(write(), write()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.(*file).journal.f.WriteAt([]byte("?"), s.(*file).journal.size-1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(t.Context(), 1); stream.ExitCode(err) != 65 {
		t.Errorf("what was seen is read as if it were whole: %v", err)
	}
	s.(*file).rewrite()
	if err := write(); stream.ExitCode(err) != 65 {
		t.Errorf("after it was made smaller: %v", err)
	}
}
