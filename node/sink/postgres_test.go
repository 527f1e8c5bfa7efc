package sink

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"weir/node/servertest"
	"weir/stream"
)

func TestPostgres(t *testing.T) {
	server := servertest.Postgres(t)
	exec := func(t *testing.T, sql string) {
		t.Helper()
		c, err := pgx.Connect(t.Context(), server.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	column := func(t *testing.T, sql string) []string {
		t.Helper()
		c, err := pgx.Connect(t.Context(), server.URL())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		rs, err := c.Query(t.Context(), sql)
		if err != nil {
			t.Fatal(err)
		}
		all, err := pgx.CollectRows(rs, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(all)
		return all
	}
	open := func(t *testing.T, url, table string) stream.Sink {
		t.Helper()
		s, err := Postgres(url, table)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	t.Run("suite", func(t *testing.T) {
		testStore(t, store{
			open:  func(*testing.T) stream.Sink { return open(t, server.URL(), "lines") },
			lines: func(t *testing.T) []string { return column(t, "SELECT body FROM lines") },
			bad:   "a NUL \x00",
			kill:  server.Kill, start: server.Start, freeze: server.Freeze, thaw: server.Thaw,
		})
	})

	t.Run("types", func(t *testing.T) {
		for kind, tc := range map[string]struct{ good, shown, bad string }{
			"json":        {`{"a":  1}`, `{"a":  1}`, `{"a"`},
			"jsonb":       {`{"a":  1}`, `{"a": 1}`, `{"a"`},
			"varchar(10)": {"short", "short", "longer than ten"},
			"text":        {"é", "é", "no UTF-8 \xff"},
			"bytea":       {"\x00\xff", `\x00ff`, ""},
		} {
			exec(t, "DROP TABLE IF EXISTS typed; CREATE TABLE typed (id bytea, line int, at timestamptz DEFAULT now(), body "+kind+", UNIQUE (id, line))")
			s := open(t, server.URL(), "public.typed")
			rs := numbered(0, 2)
			rs[0].Body, rs[1].Body = []byte(tc.good), []byte(tc.bad)
			if err := s.Write(t.Context(), rs[:1], stream.Seen{}); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
			if err := s.Write(t.Context(), rs[1:], stream.Seen{}); tc.bad != "" && stream.ExitCode(err) != 65 {
				t.Errorf("%s: error %v, want a Poison", kind, err)
			}
			if got := column(t, "SELECT body::text FROM typed WHERE body::text <> '\\x'"); !slices.Equal(got, []string{tc.shown}) {
				t.Errorf("%s: the table has %q, want %q", kind, got, tc.shown)
			}
		}
	})

	// A table that is dropped in mid-run is made again, and one that became another is looked at again.
	t.Run("dropped", func(t *testing.T) {
		s := open(t, server.URL(), "dropped")
		for i, between := range []string{"", "DROP TABLE dropped", "DROP TABLE dropped; CREATE TABLE dropped (id bytea, line int, body bytea, UNIQUE (id, line))"} {
			if between != "" {
				exec(t, between)
			}
			if err := s.Write(t.Context(), numbered(i, i+1), stream.Seen{}); err != nil {
				t.Fatalf("after %q: %v", between, err)
			}
			if got := column(t, "SELECT convert_from(body::bytea, 'UTF8') FROM dropped"); !slices.Equal(got, bodies(i, i+1)) {
				t.Errorf("after %q the table has %q, want %q", between, got, bodies(i, i+1))
			}
		}
		exec(t, "DROP TABLE dropped; CREATE TABLE dropped (id bytea, line int, body int)")
		if err := s.Write(t.Context(), numbered(4, 5), stream.Seen{}); stream.ExitCode(err) != 78 || !strings.Contains(err.Error(), "its column body is of type integer") {
			t.Errorf("error %v (%d), want that it is no table for us", err, stream.ExitCode(err))
		}
	})

	t.Run("misconfigured", func(t *testing.T) {
		exec(t, `CREATE TABLE nokey (id bytea, line int, body text); CREATE TABLE nobody (id bytea, line int);
			CREATE TABLE number (id bytea, line int, body int); CREATE TABLE noid (body text); CREATE SCHEMA closed;
			CREATE ROLE guest LOGIN PASSWORD 'guest'`)
		at := "postgres at " + server.Addr + ", table "
		wrong := strings.Replace(server.URL(), servertest.PostgresPassword, "s3cret-canary", 1)
		guest := strings.Replace(server.URL(), "weir:"+servertest.PostgresPassword, "guest:guest", 1)
		for _, tc := range []struct{ url, table, want string }{
			{wrong, "x", at + `x: password authentication failed for user "weir" (SQLSTATE 28P01)`},
			{server.URL() + "x", "x", at + `x: database "postgresx" does not exist (SQLSTATE 3D000)`},
			{server.URL(), "nokey", at + "nokey: it has no unique key of id and line (SQLSTATE 42P10)"},
			{server.URL(), "nobody", at + "nobody: it has no column body: it needs id bytea, line integer, body text"},
			{server.URL(), "number", at + "number: its column body is of type integer: it must be text, varchar, json, jsonb or bytea"},
			{server.URL(), "noid", at + `noid: column "id" of relation "noid" does not exist (SQLSTATE 42703)`},
			{guest, "closed.x", at + "closed.x: permission denied for schema closed (SQLSTATE 42501)"},
		} {
			err := open(t, tc.url, tc.table).Write(t.Context(), numbered(0, 1), stream.Seen{})
			if stream.ExitCode(err) != 78 || err.Error() != tc.want {
				t.Errorf("error %v (%d), want %s", err, stream.ExitCode(err), tc.want)
			}
			if strings.Contains(fmt.Sprint(err), "s3cret-canary") {
				t.Errorf("error %v shows the password", err)
			}
		}
	})
}

func TestPostgresURL(t *testing.T) {
	_, err := Postgres("postgres://weir:s3cret-canary@host:no/db", "x")
	if stream.ExitCode(err) != 78 || strings.Contains(err.Error(), "canary") {
		t.Errorf("error %v (%d)", err, stream.ExitCode(err))
	}
}
