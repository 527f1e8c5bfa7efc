package sink

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"weir/stream"
)

// RedisConfig says which stream a sink appends to.
type RedisConfig struct {
	URL    string // redis://[USER:PASSWORD@]HOST[:PORT][/DB], or rediss://
	Stream string
	MaxLen int          // entries that the stream keeps, about; 0 = all
	Log    *slog.Logger // nil = discard
}

// Redis is a sink that makes each line of a record an entry of a stream: id, the record's ID in 80
// hex digits, line, its number in the record from 0, and body.
//
// The ack: Redis has the entries, and with them what it has seen of the source, as durable as its
// own persistence makes them: after a power cut, with appendfsync always. Where it says that it is
// set otherwise the sink warns, once. A record that comes twice is there once, though a connection
// died with an answer on it: each Write has a number, and Redis takes it once. So a stream has one
// sink: where another has begun to write to it, this one waits. Beside the stream STREAM are the
// keys weir:seen:{STREAM}:writer and weir:seen:{STREAM}:SOURCE.
//
// A server that is away, loading, full or a replica is waited for; anything else wrong is a
// *stream.ConfigError. The URL's password is in no error.
func Redis(cfg RedisConfig) (stream.Sink, error) {
	opt, err := rueidis.ParseURL(cfg.URL)
	if err != nil || len(opt.InitAddress) != 1 { // the text may hold the password
		return nil, &stream.ConfigError{Err: errors.New("redis: the URL cannot be read: write it as redis://USER:PASSWORD@HOST:PORT/DB")}
	}
	opt.ForceSingleClient, opt.DisableCache, opt.DisableRetry = true, true, true
	opt.ConnWriteTimeout = redisTimeout
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var writer [8]byte
	_, _ = rand.Read(writer[:])
	return &redis{
		cfg: cfg, opt: opt, script: rueidis.NewLuaScript(appendOnce), writer: hex.EncodeToString(writer[:]),
		name: fmt.Sprintf("redis at %s, stream %s", opt.InitAddress[0], cfg.Stream),
	}, nil
}

// redisTimeout is how long Redis may take to answer before the connection is taken for dead: shorter
// than others', since one thread does all, and Write may be tried again at no cost.
const redisTimeout = serverTimeout / 3

// appendOnce is what Redis runs for a Write.
//
//go:embed redis.lua
var appendOnce string

type redis struct {
	cfg    RedisConfig
	opt    rueidis.ClientOption
	script *rueidis.Lua
	writer string // names this sink
	name   string // in errors

	client rueidis.Client // nil: there was no connection yet
	taken  bool           // the stream is ours
	count  uint64         // Writes that Redis has taken
}

// Load returns what the stream has seen of the source, and makes the stream this sink's.
func (s *redis) Load(ctx context.Context, source uint64) ([]byte, error) {
	if err := s.take(ctx); err != nil {
		return nil, s.judge(ctx, err)
	}
	seen, err := s.client.Do(ctx, s.client.B().Get().Key(s.key(hexSource(source))).Build()).AsBytes()
	if err != nil && !rueidis.IsRedisNil(err) {
		return nil, s.judge(ctx, err)
	}
	return seen, nil
}

// Write appends the entries and what was seen with them, both or neither, and once.
func (s *redis) Write(ctx context.Context, rs []stream.Record, seen stream.Seen) error {
	if err := s.take(ctx); err != nil {
		return s.judge(ctx, err)
	}
	mode := "append"
	if seen.Whole {
		mode = "replace"
	}
	args := make([]string, 0, 5+2*len(rs))
	args = append(args, s.token(s.count), s.token(s.count+1), strconv.Itoa(s.cfg.MaxLen), mode, rueidis.BinaryString(seen.Bytes))
	var id [idBytes]byte
	for i := range rs {
		args = append(args, hex.EncodeToString(appendID(id[:0], rs[i].ID)), rueidis.BinaryString(rs[i].Body))
	}
	keys := []string{s.cfg.Stream, s.key("writer"), s.key(hexSource(seen.Source))}
	last, err := s.script.Exec(ctx, s.client, keys, args).ToString()
	if err != nil {
		return s.judge(ctx, err)
	}
	switch writer, count, _ := strings.Cut(last, "/"); {
	case last == s.token(s.count+1):
		s.count++
		return nil
	case last == "", writer == s.writer: // its own past
		s.cfg.Log.Warn("redis lost what it had acknowledged: appendfsync always would keep it",
			"stream", s.cfg.Stream, "writes", s.count, "kept", count)
		s.taken = false
		return stream.Retry(0, fmt.Errorf("%s: it lost what it had acknowledged", s.name))
	}
	return stream.Retry(0, fmt.Errorf("%s: another sink writes to it now: give each node a stream of its own, with {node} in the name", s.name))
}

// token names the state of the stream after so many Writes of this sink.
func (s *redis) token(count uint64) string { return s.writer + "/" + strconv.FormatUint(count, 10) }

// key is the name of what is kept beside the stream, in its slot.
func (s *redis) key(what string) string { return "weir:seen:{" + s.cfg.Stream + "}:" + what }

func hexSource(source uint64) string { return fmt.Sprintf("%016x", source) }

// take connects where there was no connection yet, and makes the stream this sink's: what an older
// one has on its way is refused from here on.
func (s *redis) take(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.client == nil {
		c, err := rueidis.NewClient(s.opt) // bounded by the timeouts; later it connects again by itself
		if err != nil {
			return err
		}
		s.client = c
		s.checkDurable(ctx)
	}
	if s.taken {
		return nil
	}
	err := s.client.Do(ctx, s.client.B().Set().Key(s.key("writer")).Value(s.token(s.count)).Build()).Error()
	s.taken = err == nil
	return err
}

// checkDurable warns where Redis says that it acks before its disk has what it acks.
func (s *redis) checkDurable(ctx context.Context) {
	got, err := s.client.Do(ctx, s.client.B().ConfigGet().Parameter("appendonly").Parameter("appendfsync").Build()).AsStrMap()
	if err == nil && (got["appendonly"] != "yes" || got["appendfsync"] != "always") {
		s.cfg.Log.Warn("redis acks what a power cut may take away: only appendfsync always keeps it",
			"stream", s.cfg.Stream, "appendonly", got["appendonly"], "appendfsync", got["appendfsync"])
	}
}

// judge says what is to be done about an error.
func (s *redis) judge(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	re, ok := rueidis.IsRedisErr(err)
	if !ok {
		return stream.Retry(0, fmt.Errorf("%s: %w", s.name, network(err)))
	}
	text, _, _ := strings.Cut(re.Error(), " script: ") // where in ours
	err = fmt.Errorf("%s: %s", s.name, text)
	switch kind, _, _ := strings.Cut(text, " "); kind {
	case "OOM", "LOADING", "READONLY", "MASTERDOWN", "MISCONF", "BUSY", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "max": // number of clients reached
		return stream.Retry(0, err)
	}
	return &stream.ConfigError{Err: err}
}

// Close ends the connection. Redis has all that was acked.
func (s *redis) Close() error {
	if s.client != nil {
		s.client.Close()
	}
	s.client, s.taken = nil, false
	return nil
}
