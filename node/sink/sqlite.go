package sink

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"unicode/utf8"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"weir/stream"
)

// SQLite is a sink that makes each line of a record a row of a table of the database in the file at
// path: id, line and body as Postgres has them. File and table are made where they are not there;
// a table that is needs these columns and a unique index on (id, line). A body that is no text
// (not UTF-8, or with a NUL) is a BLOB.
//
// The ack: the rows are committed with synchronous = EXTRA, so they survive a power cut. A record
// that comes twice is there once, also where several sinks of one machine write to the file. The
// journal is as the database has it; one with journal_mode = wal lets others read meanwhile.
//
// A disk that is full or a database that another holds is waited for; a row that the table does not
// take (a CHECK) is a stream.Poison, of a block of that line alone; anything else wrong is a *stream.ConfigError.
func SQLite(path, table string) stream.Sink {
	return &sqliteTable{path: path, table: `"` + table + `"`, name: fmt.Sprintf("sqlite %s, table %s", path, table)}
}

// busyMillis is how long SQLite itself waits for another that writes, in milliseconds: as long as
// the longest pause between two tries of a Write.
const busyMillis = 1000

type sqliteTable struct {
	unseen
	path  string
	table string // quoted
	name  string // in errors

	db     *sql.DB // of one connection; nil: not open
	insert *sql.Stmt
}

// Write inserts the rows in one transaction.
func (s *sqliteTable) Write(ctx context.Context, rs []stream.Record, _ stream.Seen) error {
	return writeTable(rs, func(lo, hi int32) error {
		return lookAgain(s.db != nil, func() error { return s.try(ctx, rs, lo, hi) })
	})
}

func (s *sqliteTable) try(ctx context.Context, rs []stream.Record, lo, hi int32) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := s.open(ctx)
	if err == nil {
		err = s.write(ctx, rs, lo, hi)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return s.judge(err)
}

// open opens the database where it is not, and readies the table.
func (s *sqliteTable) open(ctx context.Context) error {
	if s.db != nil {
		return nil
	}
	q := url.Values{"_pragma": {fmt.Sprintf("busy_timeout(%d)", busyMillis), "synchronous(EXTRA)"}, "_txlock": {"immediate"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: s.path, RawQuery: q.Encode()}).String())
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	var insert *sql.Stmt
	_, err = db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS `+s.table+` (id BLOB NOT NULL, line INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (id, line))`)
	if err == nil {
		insert, err = db.PrepareContext(ctx, `INSERT INTO `+s.table+` (id, line, body) VALUES (?, ?, ?) ON CONFLICT (id, line) DO NOTHING`)
	}
	if err != nil {
		_ = db.Close() // the error says more
		return err
	}
	s.db, s.insert = db, insert
	return nil
}

func (s *sqliteTable) write(ctx context.Context, rs []stream.Record, lo, hi int32) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	insert := tx.StmtContext(ctx, s.insert)
	err = rows(rs, lo, hi, func(part []row) error {
		for _, r := range part {
			var body any = r.body
			if utf8.Valid(r.body) && bytes.IndexByte(r.body, 0) < 0 {
				body = string(r.body)
			}
			if _, err := insert.ExecContext(ctx, r.id, r.line, body); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = tx.Rollback() // or SQLite has already
		return err
	}
	return tx.Commit()
}

// judge says what is to be done about an error.
func (s *sqliteTable) judge(err error) error {
	se, ok := errors.AsType[*sqlite.Error](err)
	err = fmt.Errorf("%s: %w", s.name, err)
	if !ok {
		return stream.Retry(0, err)
	}
	switch se.Code() & 0xff { // the rest of the code says how
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
		return stream.Poison(err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_SCHEMA:
		return stream.Retry(0, err)
	case sqlite3.SQLITE_CANTOPEN:
		if s.db != nil { // it could once: there is no room for the journal, or no descriptor
			return stream.Retry(0, err)
		}
	}
	_ = s.Close() // the next try looks at the table anew
	return &stream.ConfigError{Err: err}
}

// Close closes the database. All that was acked is in the file.
func (s *sqliteTable) Close() error {
	db := s.db
	s.db, s.insert = nil, nil
	if db == nil {
		return nil
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("close %s: %w", s.name, err)
	}
	return nil
}
