package tap

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"weir/stream"
)

const (
	// entriesMax is the most entries that are asked for at once: what comes is held, so that they are
	// fewer where entries are large, and entriesBytes together.
	entriesMax   = 64
	entriesBytes = 1 << 20
	// redisBlock is how long Redis may wait for an entry before it says that there is none; as often
	// the stream is looked at, whether it is still the one that was read.
	redisBlock = time.Second
	// redisTimeout is how long Redis may take beyond that before the connection is taken for dead.
	redisTimeout = 5 * time.Second
	// redisRetryMin and redisRetryMax are how long a server that is away is left alone.
	redisRetryMin = 100 * time.Millisecond
	redisRetryMax = 2 * time.Second
)

// RedisStream says which stream is read.
type RedisStream struct {
	URL    string // redis://[USER:PASSWORD@]HOST[:PORT][/DB], or rediss://
	Stream string
	Field  string // that is the body; "" = the only one, or all as a JSON object
}

// Redis is a tap of the entries of a stream, for ever: each is a record, its body a field, less a final
// newline, or all fields as a JSON object of text. It uses no consumer group: its place is an entry's ID, so
// the same entries are the same records after a restart, on any node of the role.
//
// Redis keeps entries that are acked, until somebody trims the stream: those that are trimmed before they were
// read are counted in a warning (since Redis 7). A stream that was deleted and begins anew is a
// stream.ErrReset. A server that is away is waited for; one that refuses is a *stream.ConfigError. The URL's
// password is in no error.
func Redis(in RedisStream, cfg Config) (stream.Tap, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap redis: %w", err)
	}
	opt, err := rueidis.ParseURL(in.URL)
	if err != nil || len(opt.InitAddress) != 1 { // the text may hold the password
		return nil, &stream.ConfigError{Err: errors.New("redis: the URL cannot be read: write it as redis://USER:PASSWORD@HOST:PORT/DB")}
	}
	opt.ForceSingleClient, opt.DisableCache, opt.DisableRetry = true, true, true
	opt.ConnWriteTimeout = redisTimeout
	return &redisTap{
		scope: scope{true, true}, cfg: cfg, in: in, opt: opt,
		name: fmt.Sprintf("redis://%s/%d/%s", opt.InitAddress[0], opt.SelectDB, in.Stream),
	}, nil
}

type redisTap struct {
	scope
	cfg  Config
	in   RedisStream
	opt  rueidis.ClientOption
	name string // of the partition, and in errors
}

func (t *redisTap) Partitions(context.Context) ([]string, error) { return []string{t.name}, nil }

// Open connects at the first Next: a server that is away is waited for there.
func (t *redisTap) Open(_ context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	if partition != t.name {
		return nil, fmt.Errorf("open tap %s: it has no partition %s", t.name, partition)
	}
	r := &entries{tap: t, at: entryMark{how: rule{recordMax: t.cfg.recordMax()}.how("redis", t.in.Field)}, count: entriesMax}
	if len(at) > 0 {
		m, err := parseEntryMark(at)
		switch {
		case err != nil:
			return nil, reset("open tap %s: %v", t.name, err)
		case m.how != r.at.how:
			return nil, reset("%s: another field is the body now", t.name)
		}
		r.at = m
	}
	return r, nil
}

// Again compares the first entry when it comes.
func (t *redisTap) Again(ctx context.Context, partition string, first stream.Mark) (stream.Reader, error) {
	opened, err := t.Open(ctx, partition, first) // it reads nothing yet
	if err != nil {
		return nil, err
	}
	r := opened.(*entries)
	r.first, r.at = r.at.id, entryMark{how: r.at.how}
	return r, nil
}

// entryMark is a place in a stream of Redis.
type entryMark struct {
	how  uint32
	read uint64 // entries that the stream ever had, up to this one
	id   string // of this one; "" = none
}

// entryMarkVersion begins each mark of an entry.
const entryMarkVersion = 3

func (m entryMark) append(b []byte) []byte {
	b = append(b, entryMarkVersion)
	b = binary.LittleEndian.AppendUint32(b, m.how)
	b = binary.AppendUvarint(b, m.read)
	return append(b, m.id...)
}

func parseEntryMark(b stream.Mark) (m entryMark, err error) {
	if len(b) < 6 || b[0] != entryMarkVersion {
		return m, fmt.Errorf("mark %x: of another tap or version", []byte(b))
	}
	m.how = binary.LittleEndian.Uint32(b[1:])
	read, n := binary.Uvarint(b[5:])
	if n <= 0 {
		return m, fmt.Errorf("mark %x: cut short or damaged", []byte(b))
	}
	m.read, m.id = read, string(b[5+n:])
	if _, _, ok := entryID(m.id); !ok {
		return m, fmt.Errorf("mark %x: damaged", []byte(b))
	}
	return m, nil
}

// entryID reads the ID of an entry: a time in ms and a number.
func entryID(id string) (ms, seq uint64, ok bool) {
	a, b, _ := strings.Cut(id, "-")
	ms, err := strconv.ParseUint(a, 10, 64)
	seq, err2 := strconv.ParseUint(b, 10, 64)
	return ms, seq, err == nil && err2 == nil
}

// before reports whether entry a comes before b.
func before(a, b string) bool {
	ms, seq, _ := entryID(a)
	ms2, seq2, _ := entryID(b)
	return ms < ms2 || ms == ms2 && seq < seq2
}

// entries is the reader of a stream of Redis.
type entries struct {
	tap     *redisTap
	client  rueidis.Client // nil: there was no connection yet
	at      entryMark      // of the last entry returned
	first   string         // that the next one must be; "" = any
	checked time.Time
	away    time.Duration // how long the server was left alone last; 0: it answers

	have  []rueidis.XRangeEntry // read and not returned yet
	count int64                 // to ask for
	body  []byte
	mark  []byte
}

// Next returns the next entry.
func (r *entries) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	for len(r.have) == 0 {
		err := r.read(ctx)
		if err == nil {
			r.answers()
			continue
		}
		if err := r.wait(ctx, err); err != nil {
			return stream.Out{}, nil, err
		}
	}
	e := r.have[0]
	if r.first != "" && e.ID != r.first {
		return stream.Out{}, nil, reset("%s begins with entry %s now, and with %s before", r.tap.name, e.ID, r.first)
	}
	r.first = ""
	r.have = r.have[1:]
	if err := r.take(e); err != nil {
		return stream.Out{}, nil, err
	}
	r.at.id, r.at.read = e.ID, r.at.read+1
	r.mark = r.at.append(r.mark[:0])
	return stream.Out{Body: r.body}, r.mark, nil
}

// read asks for entries, and waits for some a while.
func (r *entries) read(ctx context.Context) error {
	if r.client == nil {
		c, err := rueidis.NewClient(r.tap.opt) // bounded by the timeouts; later it connects again by itself
		if err != nil {
			return err
		}
		r.client = c
	}
	if time.Since(r.checked) >= redisBlock {
		if err := r.check(ctx); err != nil {
			return err
		}
		r.checked = time.Now()
	}
	from := r.at.id
	if from == "" {
		from = "0-0"
	}
	cmd := r.client.B().Xread().Count(r.count).Block(redisBlock.Milliseconds()).Streams().Key(r.tap.in.Stream).Id(from).Build()
	got, err := r.client.Do(ctx, cmd).AsXRead()
	if err != nil && !rueidis.IsRedisNil(err) {
		return err
	}
	r.have = got[r.tap.in.Stream]
	if len(r.have) > 0 {
		size := 0
		for _, e := range r.have {
			for _, v := range e.FieldValues {
				size += len(v)
			}
		}
		r.count = int64(max(1, min(entriesMax, entriesBytes/(size/len(r.have)+1))))
	}
	return nil
}

// check looks whether the stream is the one that was read, and whether entries are missing.
func (r *entries) check(ctx context.Context) error {
	info, err := r.client.Do(ctx, r.client.B().XinfoStream().Key(r.tap.in.Stream).Build()).AsMap()
	if re, ok := rueidis.IsRedisErr(err); ok && re.Error() == "no such key" {
		err = nil
	}
	if err != nil {
		return err
	}
	last := info["last-generated-id"]
	lastID, _ := last.ToString()
	if r.at.id != "" && (lastID == "" || before(lastID, r.at.id)) {
		return reset("%s was deleted: it was read up to entry %s, and its last is %s now", r.tap.name, r.at.id, cmp.Or(lastID, "none"))
	}
	value := func(key string) uint64 {
		m := info[key]
		n, _ := m.AsUint64()
		return n
	}
	added, length := value("entries-added"), value("length")
	switch gone := added - length; {
	case info == nil || added < length: // nothing is there, or Redis before 7
	case r.at.id == "":
		r.at.read = gone
	case added < r.at.read:
		return reset("%s was deleted: %d of its entries were read, and it had %d ever", r.tap.name, r.at.read, added)
	case gone > r.at.read:
		r.tap.cfg.log().Warn("entries were taken out of a stream of redis before they were read",
			"stream", r.tap.name, "entries", gone-r.at.read, "behind", r.at.id)
		r.at.read = gone
	}
	return nil
}

// answers notes that Redis is there.
func (r *entries) answers() {
	if r.away > 0 {
		r.away = 0
		r.tap.cfg.log().Info("redis is back", "stream", r.tap.name)
	}
}

// wait waits for a server that is away, or returns why that would not help.
func (r *entries) wait(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, stream.ErrReset) {
		return err
	}
	if re, ok := rueidis.IsRedisErr(err); ok {
		kind, _, _ := strings.Cut(re.Error(), " ")
		// What passes by itself; "max" is the number of clients.
		if !slices.Contains([]string{"LOADING", "MASTERDOWN", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "max"}, kind) {
			return &stream.ConfigError{Err: fmt.Errorf("%s: %s", r.tap.name, re.Error())}
		}
	}
	if r.away == 0 {
		var op *net.OpError
		if errors.As(err, &op) || errors.Is(err, io.EOF) {
			err = fmt.Errorf("nobody answers: %w", err)
		}
		r.tap.cfg.log().Warn("redis is away: it is waited for", "stream", r.tap.name, "err", err)
	}
	r.away = min(max(2*r.away, redisRetryMin), redisRetryMax)
	r.checked = time.Time{} // it may be another when it is back
	timer := time.NewTimer(r.away)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take makes the body of an entry.
func (r *entries) take(e rueidis.XRangeEntry) error {
	r.body = r.body[:0]
	switch value, ok := e.FieldValues[r.tap.in.Field]; {
	case r.tap.in.Field != "" && !ok:
		return &EntryError{r.tap.name, e.ID, fmt.Sprintf("it has no field %q", r.tap.in.Field)}
	case ok && r.tap.in.Field != "":
		r.body = append(r.body, value...)
	case len(e.FieldValues) == 1:
		for _, only := range e.FieldValues {
			r.body = append(r.body, only...)
		}
	default:
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(e.FieldValues) // strings can be encoded; the keys are sorted, so it is the same each time
		r.body = append(r.body, b.Bytes()...)
	}
	r.body = bytes.TrimSuffix(r.body, newline)
	if most := r.tap.cfg.recordMax(); len(r.body) > most {
		return &EntryError{r.tap.name, e.ID, fmt.Sprintf("it has %d bytes, more than %d: raise record-max", len(r.body), most)}
	}
	return nil
}

// EntryError says that an entry can be no record; reading again does not help (exit 65).
type EntryError struct{ Stream, ID, Why string }

func (e *EntryError) Error() string { return fmt.Sprintf("%s, entry %s: %s", e.Stream, e.ID, e.Why) }

// ExitCode is EX_DATAERR of sysexits.h.
func (e *EntryError) ExitCode() int { return 65 }

// Done has nothing to do: the place is in the mark.
func (r *entries) Done(stream.Mark, error) {}

// Close ends the connection.
func (r *entries) Close() error {
	if r.client != nil {
		r.client.Close()
	}
	return nil
}
