package tap

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"weir/node/servertest"
	"weir/stream"
)

var redisAway = flag.Duration("redis-away", 300*time.Millisecond, "how long a Redis is stopped while it is read")

// do runs a command, once the server has loaded what it had; its words have no spaces.
func do(t *testing.T, c rueidis.Client, command string) {
	t.Helper()
	var err error
	for range 1000 {
		err = c.Do(t.Context(), c.B().Arbitrary(strings.Fields(command)...).Build()).Error()
		if err == nil || rueidis.IsRedisNil(err) {
			return
		}
		if !strings.HasPrefix(err.Error(), "LOADING") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(command, ": ", err)
}

// nextOf is the next record of a reader, which must come within a while, and its mark.
func nextOf(t *testing.T, r stream.Reader, within time.Duration) (string, stream.Mark, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	o, m, err := r.Next(ctx)
	return string(o.Body), bytes.Clone(m), err
}

func openRedis(t *testing.T, in RedisStream, cfg Config, at stream.Mark) stream.Reader {
	t.Helper()
	tp, err := Redis(in, cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := open(t, tp, at)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// From the mark behind its first record a stream is read from its start, if it still begins with that.
func TestRedisAgain(t *testing.T) {
	server := servertest.Redis(t)
	c := servertest.RedisClient(t, server.URL())
	for i, tc := range []struct{ name, change, want string }{
		{"nothing", "", "one"},
		{"it grew", "XADD KEY 3-1 body three", "one"},
		{"the first is gone", "XDEL KEY 1-1", "reset"},
		{"another stream", "DEL KEY;XADD KEY 5-1 body new", "reset"},
	} {
		key := fmt.Sprint("again", i)
		do(t, c, "XADD "+key+" 1-1 body one")
		do(t, c, "XADD "+key+" 2-1 body two")
		tp, err := Redis(RedisStream{URL: server.URL(), Stream: key}, Config{})
		if err != nil {
			t.Fatal(err)
		}
		at := afterRecords(t, tp, 1)
		for command := range strings.SplitSeq(tc.change, ";") {
			if command != "" {
				do(t, c, strings.ReplaceAll(command, "KEY", key))
			}
		}
		name, err := tp.Partitions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r, err := tp.(*redisTap).Again(t.Context(), name[0], at)
		if err != nil {
			t.Fatal(err)
		}
		body, m, err := nextOf(t, r, 10*time.Second)
		if errors.Is(err, stream.ErrReset) {
			body, err = "reset", nil
		} else if !bytes.Equal(m, at) {
			t.Errorf("%s: the mark is %x, and was %x", tc.name, m, at)
		}
		if err != nil || body != tc.want {
			t.Errorf("%s: got %s, want %s (%v)", tc.name, body, tc.want, err)
		}
		_ = r.Close()
	}
}

// The server is killed, and frozen, while a stream is read: every entry comes once, in order, and from
// any mark those that follow it.
func TestRedisAway(t *testing.T) {
	server := servertest.Redis(t)
	c := servertest.RedisClient(t, server.URL())
	r := openRedis(t, RedisStream{URL: server.URL(), Stream: "s"}, Config{}, nil)
	var marks []stream.Mark
	step := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			do(t, c, fmt.Sprintf("XADD s * body line-%d", i))
		}
		for i := from; i < to; i++ {
			body, m, err := nextOf(t, r, 30*time.Second)
			if want := fmt.Sprintf("line-%d", i); err != nil || body != want {
				t.Fatalf("got %q, %v; want %s", body, err, want)
			}
			marks = append(marks, m)
		}
	}
	step(0, 100)
	server.Kill()
	if _, _, err := nextOf(t, r, *redisAway); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while it is away: %v", err)
	}
	server.Start()
	step(100, 200)
	server.Freeze()
	if _, _, err := nextOf(t, r, *redisAway); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while it is frozen: %v", err)
	}
	server.Thaw()
	step(200, 300)
	for _, i := range []int{0, 99, 150, 298} {
		again := openRedis(t, RedisStream{URL: server.URL(), Stream: "s"}, Config{}, marks[i])
		for j := i + 1; j < 300; j++ {
			body, m, err := nextOf(t, again, 10*time.Second)
			if want := fmt.Sprintf("line-%d", j); err != nil || body != want || !bytes.Equal(m, marks[j]) {
				t.Fatalf("from mark %d: got %q, mark %x, %v; want %s, %x", i, body, m, err, want, marks[j])
			}
		}
	}
}

func TestRedisBodies(t *testing.T) {
	server := servertest.Redis(t)
	c := servertest.RedisClient(t, server.URL())
	for i, tc := range []struct{ field, entry, want string }{
		{"", "a x", "x"},
		{"", "b 2 a <1>", `{"a":"<1>","b":"2"}`},
		{"b", "b 2 a 1", "2"},
		{"c", "b 2 a 1", `error: STREAM, entry 1-1: it has no field "c"`},
		{"", "a 123456789", "error: STREAM, entry 1-1: it has 9 bytes, more than 8: raise record-max"},
	} {
		name := fmt.Sprint("s", i)
		do(t, c, "XADD "+name+" 1-1 "+tc.entry)
		most := 8
		if strings.HasPrefix(tc.want, "{") {
			most = 0
		}
		r := openRedis(t, RedisStream{URL: server.URL(), Stream: name, Field: tc.field}, Config{RecordMax: most}, nil)
		got, _, err := nextOf(t, r, 10*time.Second)
		if err != nil {
			got = "error: " + err.Error()
			if stream.ExitCode(err) != 65 {
				t.Errorf("%v has exit code %d", err, stream.ExitCode(err))
			}
		}
		if want := strings.ReplaceAll(tc.want, "STREAM", "redis://"+server.Addr+"/0/"+name); got != want {
			t.Errorf("%s: got %s, want %s", tc.entry, got, want)
		}
	}
}

// What was taken out before it was read is said, with a count; what is gone that was read is not. A
// stream that begins anew is a reset, whether its IDs are lower or not, while it is read or at the start.
func TestRedisTrimmedAndDeleted(t *testing.T) {
	server := servertest.Redis(t)
	c := servertest.RedisClient(t, server.URL())
	for i, tc := range []struct{ name, change, next, warns, reset string }{
		{"trimmed behind the place", "XTRIM KEY MAXLEN 7", "4-1", "", ""},
		{"trimmed before it was read", "XTRIM KEY MAXLEN 5", "6-1", "entries=2", ""},
		{"all trimmed", "XTRIM KEY MAXLEN 0;XADD KEY 11-1 id 11-1", "11-1", "entries=7", ""},
		{"deleted", "DEL KEY", "", "", "was deleted: it was read up to entry 3-1, and its last is none now"},
		{"deleted, with lower IDs", "DEL KEY;XADD KEY 1-1 id 1-1", "", "", "was deleted: it was read up to entry 3-1, and its last is 1-1 now"},
		{"deleted, with higher IDs", "DEL KEY;XADD KEY 20-1 id 20-1", "", "", "was deleted: 3 of its entries were read, and it had 1 ever"},
	} {
		for _, live := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/live=%v", tc.name, live), func(t *testing.T) {
				key := fmt.Sprintf("s%d-%v", i, live)
				for j := 1; j <= 10; j++ {
					do(t, c, fmt.Sprintf("XADD %s %d-1 id %d-1", key, j, j))
				}
				var log bytes.Buffer
				in, cfg := RedisStream{URL: server.URL(), Stream: key}, Config{Log: slog.New(slog.NewTextHandler(&log, nil))}
				r := openRedis(t, in, cfg, nil)
				r.(*entries).count = 1 // reads nothing ahead
				var at stream.Mark
				for range 3 {
					var err error
					if _, at, err = nextOf(t, r, 10*time.Second); err != nil {
						t.Fatal(err)
					}
					r.(*entries).count = 1
				}
				for _, command := range strings.Split(tc.change, ";") {
					do(t, c, strings.ReplaceAll(command, "KEY", key))
				}
				if live {
					r.(*entries).checked = time.Time{} // a second has passed
				} else {
					r = openRedis(t, in, cfg, at)
				}
				body, _, err := nextOf(t, r, 10*time.Second)
				switch {
				case tc.reset != "":
					if !errors.Is(err, stream.ErrReset) || err.Error() != "redis://"+server.Addr+"/0/"+key+" "+tc.reset {
						t.Errorf("error %v, want a reset: %s", err, tc.reset)
					}
				case err != nil || body != tc.next:
					t.Errorf("got %q, %v; want %s", body, err, tc.next)
				}
				if got := strings.Contains(log.String(), "were taken out"); got != (tc.warns != "") || !strings.Contains(log.String(), tc.warns) {
					t.Errorf("the log says %s", log.String())
				}
			})
		}
	}
}

func TestRedisRefuses(t *testing.T) {
	server := servertest.Redis(t, "--requirepass", "right")
	c := servertest.RedisClient(t, "redis://:right@"+server.Addr)
	do(t, c, "SET text x")
	for _, tc := range []struct{ url, want string }{
		{"redis://:wrong@" + server.Addr, "redis://" + server.Addr + "/0/text: WRONGPASS invalid username-password pair or user is disabled."},
		{"redis://" + server.Addr, "redis://" + server.Addr + "/0/text: NOAUTH"},
		{"redis://:right@" + server.Addr, "redis://" + server.Addr + "/0/text: WRONGTYPE Operation against a key holding the wrong kind of value"},
	} {
		_, _, err := nextOf(t, openRedis(t, RedisStream{URL: tc.url, Stream: "text"}, Config{}, nil), 10*time.Second)
		if err == nil || !strings.HasPrefix(err.Error(), tc.want) || stream.ExitCode(err) != 78 {
			t.Errorf("error %v of exit code %d, want %s", err, stream.ExitCode(err), tc.want)
		}
	}
	if _, err := Redis(RedisStream{URL: "redis://:s3cret@:x:y"}, Config{}); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v", err)
	}
}
