package sink

import (
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"weir/stream"
)

func sqliteURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

// sqliteColumn is what a query of one column returns, sorted.
func sqliteColumn(t *testing.T, path, query string) []string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rs, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rs.Close()
	var all []string
	for rs.Next() {
		var s string
		if err := rs.Scan(&s); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if err := rs.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

func sqliteExec(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

func openSQLite(t *testing.T, path, table string) stream.Sink {
	s := SQLite(path, table)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a 100% odd?name#.db")
	sqliteExec(t, sqliteURL(path), `CREATE TABLE lines (id, line, body CHECK (body <> 'bad'), at DEFAULT CURRENT_TIMESTAMP, UNIQUE (id, line))`)
	testStore(t, store{
		open:  func(*testing.T) stream.Sink { return openSQLite(t, path, "lines") },
		bad:   "bad",
		lines: func(t *testing.T) []string { return sqliteColumn(t, sqliteURL(path), "SELECT body FROM lines") },
	})
}

func TestSQLiteBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := openSQLite(t, path, "t")
	rs := numbered(0, 3)
	rs[0].Body, rs[1].Body, rs[2].Body = []byte("é"), []byte("a\x00b"), []byte("\xff")
	if err := s.Write(t.Context(), rs, stream.Seen{}); err != nil {
		t.Fatal(err)
	}
	want := []string{"blob 610062", "blob FF", "text C3A9"}
	if got := sqliteColumn(t, path, "SELECT typeof(body) || ' ' || hex(body) FROM t"); !slices.Equal(got, want) {
		t.Errorf("the table has %q, want %q", got, want)
	}
}

// A table that is dropped in mid-run is made again.
func TestSQLiteDropped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := openSQLite(t, path, "t")
	for i := range 2 {
		if i > 0 {
			sqliteExec(t, path, "DROP TABLE t")
		}
		if err := s.Write(t.Context(), numbered(i, i+1), stream.Seen{}); err != nil {
			t.Fatal(err)
		}
		if got := sqliteColumn(t, path, "SELECT body FROM t"); !slices.Equal(got, bodies(i, i+1)) {
			t.Errorf("the table has %q, want %q", got, bodies(i, i+1))
		}
	}
}

// A database that another writes or reads is waited for.
func TestSQLiteBusy(t *testing.T) {
	for name, hold := range map[string]string{"writes": "BEGIN EXCLUSIVE", "reads": "BEGIN; SELECT * FROM t"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			s := openSQLite(t, path, "t")
			if err := s.Write(t.Context(), numbered(0, 10), stream.Seen{}); err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			db.SetMaxOpenConns(1)
			if _, err := db.ExecContext(t.Context(), hold); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := s.Write(t.Context(), numbered(10, 20), stream.Seen{}); stream.ExitCode(err) != 75 {
					t.Errorf("error %v, want a Retry", err)
				}
			}
			if _, err := db.ExecContext(t.Context(), "COMMIT"); err != nil {
				t.Fatal(err)
			}
			if err := s.Write(t.Context(), numbered(10, 20), stream.Seen{}); err != nil {
				t.Fatal(err)
			}
			if got := sqliteColumn(t, path, "SELECT body FROM t"); !slices.Equal(got, bodies(0, 20)) {
				t.Errorf("the table has %q", got)
			}
		})
	}
}

// A full disk is waited for: nothing of what it did not take is there, all of it is later.
func TestSQLiteFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("weir-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("this user cannot mount a small disk: ", err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	path, ballast := filepath.Join(dir, "x.db"), filepath.Join(dir, "ballast")
	s := openSQLite(t, path, "t")
	if err := s.Write(t.Context(), numbered(0, 10), stream.Seen{}); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(ballast, make([]byte, 2<<20), 0o600) // as much as there is room for
	for range 2 {
		if err := s.Write(t.Context(), numbered(10, 500), stream.Seen{}); stream.ExitCode(err) != 75 {
			t.Errorf("error %v, want a Retry", err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if got := sqliteColumn(t, path, "SELECT body FROM t"); !slices.Equal(got, bodies(0, 10)) {
		t.Errorf("the table has %d lines", len(got))
	}
	if err := s.Write(t.Context(), numbered(10, 500), stream.Seen{}); err != nil {
		t.Fatal(err)
	}
	if got := sqliteColumn(t, path, "SELECT body FROM t"); !slices.Equal(got, bodies(0, 500)) {
		t.Errorf("then the table has %d lines", len(got))
	}
	if err := s.Close(); err != nil { // or the disk stays mounted
		t.Error(err)
	}
}

func TestSQLiteMisconfigured(t *testing.T) {
	dir := t.TempDir()
	text, good := filepath.Join(dir, "text"), filepath.Join(dir, "x.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	sqliteExec(t, good, "CREATE TABLE nokey (id, line, body); CREATE TABLE nobody (id, line, UNIQUE (id, line)); CREATE VIEW v AS SELECT 1")
	for _, tc := range []struct{ path, table, want string }{
		{text, "t", "file is not a database (26)"},
		{dir, "t", "unable to open database file (14)"},
		{dir + "/no/x.db", "t", "unable to open database file (14)"},
		{good, "nokey", "SQL logic error: ON CONFLICT clause does not match any PRIMARY KEY or UNIQUE constraint (1)"},
		{good, "nobody", "SQL logic error: table nobody has no column named body (1)"},
		{good, "v", "SQL logic error: cannot modify v because it is a view (1)"},
	} {
		err := openSQLite(t, tc.path, tc.table).Write(t.Context(), numbered(0, 1), stream.Seen{})
		want := fmt.Sprintf("sqlite %s, table %s: %s", tc.path, tc.table, tc.want)
		if stream.ExitCode(err) != 78 || err.Error() != want {
			t.Errorf("error %v (%d), want %s", err, stream.ExitCode(err), want)
		}
	}
}
