package sink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"weir/stream"
)

// serverTimeout is how long a server may take to answer before the connection is taken for dead
// and the Write is tried on another: longer than any of them stalls by itself, and as long as an
// HTTP endpoint gets.
const serverTimeout = 30 * time.Second

// Postgres is a sink that makes each line of a record a row of a table: id, the record's ID of 40
// bytes, line, its number in the record from 0, and body. The table is made where it is not there,
// at any time; one that is needs these columns, body as text, varchar, json, jsonb or bytea, and a unique index
// on (id, line). Further columns need defaults.
//
// The ack: the rows are committed, as durable as the server's settings make that (fsync,
// synchronous_commit; where that is off, the sink turns it on for itself). A record that comes
// twice, to any node, is there once.
//
// A server that is away, full or read-only is waited for; a row that the table does not take (no
// JSON, a NUL in text, a constraint) is a stream.Poison, of a block of that line alone; anything else wrong is a
// *stream.ConfigError. The URL's password is in no error.
func Postgres(url, table string) (stream.Sink, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil { // its text may hold what it could not read
		return nil, &stream.ConfigError{Err: errors.New("postgres: the URL cannot be read: write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE")}
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "weir"
	}
	return &postgres{
		cfg:   cfg,
		table: pgx.Identifier(strings.Split(table, ".")).Sanitize(),
		name:  fmt.Sprintf("postgres at %s, table %s", net.JoinHostPort(cfg.Host, strconv.Itoa(int(cfg.Port))), table),
	}, nil
}

type postgres struct {
	unseen
	cfg   *pgx.ConnConfig
	table string // quoted
	name  string // in errors

	conn   *pgx.Conn // nil: none
	insert string    // made for the table when conn was; "" = that was not to be
}

// Write inserts the rows in one transaction.
func (s *postgres) Write(ctx context.Context, rs []stream.Record, _ stream.Seen) error {
	return writeTable(rs, func(lo, hi int32) error {
		return lookAgain(s.conn != nil, func() error { return s.try(ctx, rs, lo, hi) })
	})
}

func (s *postgres) try(ctx context.Context, rs []stream.Record, lo, hi int32) error {
	try, cancel := context.WithTimeoutCause(ctx, serverTimeout, fmt.Errorf("no answer for %v", serverTimeout))
	defer cancel()
	err := s.connect(try)
	if err == nil {
		err = pgx.BeginFunc(try, s.conn, func(tx pgx.Tx) error {
			var ids, bodies [][]byte
			var lines []int32
			return rows(rs, lo, hi, func(part []row) error {
				ids, lines, bodies = ids[:0], lines[:0], bodies[:0]
				for _, r := range part {
					ids, lines, bodies = append(ids, r.id), append(lines, r.line), append(bodies, r.body)
				}
				_, err := tx.Exec(try, s.insert, ids, lines, bodies)
				return err
			})
		})
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		s.drop()
		return context.Cause(ctx)
	}
	if try.Err() != nil {
		err = context.Cause(try)
	}
	return s.judge(err)
}

// connect connects where there is no connection, and readies the table.
func (s *postgres) connect(ctx context.Context) error {
	if s.conn != nil && !s.conn.IsClosed() && s.insert != "" {
		return nil
	}
	s.drop()
	conn, err := pgx.ConnectConfig(ctx, s.cfg)
	if err != nil {
		return err
	}
	s.conn, s.insert = conn, ""
	const durable = `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`
	if _, err := conn.Exec(ctx, durable); err != nil {
		return err
	}
	kind, err := s.bodyType(ctx)
	if err != nil {
		return err
	}
	body := map[string]string{
		"bytea": "body", "text": "convert_from(body, 'UTF8')", "json": "convert_from(body, 'UTF8')::json", "jsonb": "convert_from(body, 'UTF8')::jsonb",
	}[kind]
	switch {
	case strings.HasPrefix(kind, "character varying"):
		body = "convert_from(body, 'UTF8')"
	case body == "":
		return &stream.ConfigError{Err: fmt.Errorf("its column body is of type %s: it must be text, varchar, json, jsonb or bytea", kind)}
	}
	s.insert = fmt.Sprintf(`INSERT INTO %s (id, line, body) SELECT id, line, %s FROM unnest($1::bytea[], $2::int4[], $3::bytea[]) AS rows (id, line, body) ON CONFLICT (id, line) DO NOTHING`,
		s.table, body)
	return nil
}

// bodyType is the type of the table's column body. It makes the table where it is not there.
func (s *postgres) bodyType(ctx context.Context) (kind string, err error) {
	const find = `SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1::regclass AND attname = 'body' AND NOT attisdropped`
	err = s.conn.QueryRow(ctx, find, s.table).Scan(&kind)
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && pe.Code == "42P01" { // there is no such table
		create := fmt.Sprintf(`CREATE TABLE IF NOT EXISTS %s (id bytea, line integer, body text NOT NULL, PRIMARY KEY (id, line))`, s.table)
		if _, err := s.conn.Exec(ctx, create); err != nil && !madeMeanwhile(err) {
			return "", err
		}
		err = s.conn.QueryRow(ctx, find, s.table).Scan(&kind)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		err = &stream.ConfigError{Err: errors.New("it has no column body: it needs id bytea, line integer, body text")}
	}
	return kind, err
}

// madeMeanwhile reports whether a table could not be made since another node just did.
func madeMeanwhile(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pe.Code == "42P07" || pe.Code == "23505")
}

// judge says what is to be done about an error.
func (s *postgres) judge(err error) error {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	if config, ok := errors.AsType[*stream.ConfigError](err); ok {
		s.drop()
		return &stream.ConfigError{Err: fmt.Errorf("%s: %w", s.name, config.Err)}
	}
	if !ok { // the connection, or there was none
		s.drop()
		return stream.Retry(0, fmt.Errorf("%s: %w", s.name, network(err)))
	}
	if pe.Code == "42P10" { // its own words are about the ON CONFLICT of ours
		pe.Message = "it has no unique key of id and line"
	}
	err = fmt.Errorf("%s: %s (SQLSTATE %s)", s.name, pe.Message, pe.Code)
	switch class := pe.Code[:min(2, len(pe.Code))]; class {
	case "22", "23", "44", "54", "P0": // of data: exception, constraint, check option, size, a trigger's own
		return stream.Poison(err)
	case "0A", "28", "3D", "3F", "42": // unsupported, who we are, database, schema, syntax or access
		s.drop()
		return &stream.ConfigError{Err: err}
	}
	s.drop() // it may have become a standby, or end
	return stream.Retry(0, err)
}

// network is the innermost cause of an error of the network, which needs no name of ours in it.
func network(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.New("no answer in time")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns
	}
	return err
}

// closeWithin is how long a server is given for a goodbye.
const closeWithin = time.Second

// drop gives the connection up.
func (s *postgres) drop() {
	if s.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeWithin) // Close has no context, and Write's may be over
	defer cancel()
	_ = s.conn.Close(ctx) // what was committed is
	s.conn = nil
}

// Close ends the connection. All that was acked is committed.
func (s *postgres) Close() error {
	s.drop()
	return nil
}
