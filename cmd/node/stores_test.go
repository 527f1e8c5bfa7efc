package main

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"weir/node/api"
	"weir/node/servertest"
)

var storeStall = flag.Duration("store-stall", 1500*time.Millisecond, "how long TestStoreAway kills and freezes a server")

// storeRSSMax is the most that a node may take while its store is away, in bytes (FAULTS F31).
const storeRSSMax = 200 << 20

const postgresPipeline = `
pipeline: p
graph: in -> out
roles:
  in:  {tap: {generate: {records: %d, size: 100, rate: %d}}}
  out: {sink: {postgres: {url: %q, table: lines}}, nodes: 2}
`

const redisPipeline = `
pipeline: p
graph: in -> out
roles:
  in:  {tap: {generate: {records: %d, size: 100, rate: %d}}}
  out: {sink: {redis: {url: %q, stream: lines}}}
`

// TestStoreAway runs lines into a real server that is killed, and later frozen, for a while: the tap
// stops meanwhile, memory stays where it was, and in the end each line is there once.
func TestStoreAway(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	for name, tc := range map[string]struct {
		start    func(servertest.T) *servertest.Server
		pipeline string
		count    func(*testing.T, string) (lines, different int)
	}{
		"postgres": {servertest.Postgres, postgresPipeline, countPostgres},
		"redis":    {func(t servertest.T) *servertest.Server { return servertest.Redis(t) }, redisPipeline, countRedis},
	} {
		t.Run(name, func(t *testing.T) {
			runtimeDir(t)
			const n, rate = 60_000, 20_000
			server := tc.start(t)
			began := time.Now()
			r, _ := upWhile(t, fmt.Sprintf(tc.pipeline, n, rate, server.URL()))
			st := r.until("lines in the store", 20*time.Second, func(st api.Status) bool {
				return allServed(st) && st.Pipelines[0].LinesOut > rate/2
			})
			server.Kill()
			st = standStill(t, r, st, *storeStall)
			server.Start()
			st = r.until("lines again", 20*time.Second, func(now api.Status) bool {
				return now.Pipelines[0].LinesOut > st.Pipelines[0].LinesOut+rate/2
			})
			server.Freeze()
			standStill(t, r, st, *storeStall)
			server.Thaw()
			f := r.end()
			lines, different := tc.count(t, server.URL())
			if lines != n || different != n || f.LinesOut != n {
				t.Errorf("the store has %d lines, %d of them different; %d were written, want %d", lines, different, f.LinesOut, n)
			}
			t.Logf("%d lines in %v, with %v away: none lost, none twice", n, time.Since(began).Round(time.Millisecond), 2**storeStall)
		})
	}
}

// standStill looks at a run whose store is away: in the last quarter of the time no more is read, and
// no node grows.
func standStill(t *testing.T, r *running, st api.Status, during time.Duration) api.Status {
	t.Helper()
	began, read, most, why := time.Now(), st.Pipelines[0].LinesIn, int64(0), ""
	late := false
	r.until("the end of the stall", during+20*time.Second, func(now api.Status) bool {
		p := now.Pipelines[0]
		switch p.State {
		case "waiting":
			why = p.Reason
		case "running":
		default:
			t.Fatalf("the pipeline is %s: %s", p.State, p.Reason)
		}
		if time.Since(began) < during*3/4 {
			read = p.LinesIn
		} else if p.LinesIn > read && time.Since(began) < during && !late {
			late = true
			t.Errorf("after %v with the store away %d lines were read, %d before", time.Since(began), p.LinesIn, read)
		}
		for _, n := range now.Nodes {
			most = max(most, n.RSSBytes)
		}
		st = now
		return time.Since(began) >= during
	})
	if most > storeRSSMax {
		t.Errorf("a node takes %d MiB", most>>20)
	}
	t.Logf("stood for %v with %d lines read, at most %d MiB a node: %s", during, st.Pipelines[0].LinesIn, most>>20, why)
	return st
}

// TestStoreSinkKilled kills -9 the nodes that fill a store, and its tap, and starts them again with their
// data dirs: each line is there once. In Postgres that is so over nodes too.
func TestStoreSinkKilled(t *testing.T) {
	for name, tc := range map[string]struct {
		start func(servertest.T) *servertest.Server
		sink  string
		nodes []string
		count func(*testing.T, string) (lines, different int)
	}{
		"postgres": {servertest.Postgres, "{postgres: {url: %q, table: lines}}", []string{"o1=out", "o2=out"}, countPostgres},
		"redis":    {func(t servertest.T) *servertest.Server { return servertest.Redis(t) }, "{redis: {url: %q, stream: lines}}", []string{"o1=out"}, countRedis},
	} {
		t.Run(name, func(t *testing.T) {
			server := tc.start(t)
			const n, rate = 40_000, 8_000
			h := newHand(t, fmt.Sprintf(`
pipeline: p
graph: in -> out
roles:
  in:  {tap: {generate: {records: %d, size: 60, rate: %d}}}
  out: {sink: `+tc.sink+`}
`, n, rate, server.URL()), append([]string{"v1", "in=in"}, tc.nodes...)...)
			for _, node := range h.nodes {
				node.start()
			}
			h.until("lines in the store", 30*time.Second, func(st api.Status) bool {
				return len(st.Pipelines) == 1 && st.Pipelines[0].LinesOut > rate/4
			})
			for _, victim := range []string{"o1", "in", "o1"} {
				node := h.place(victim)
				h.kill(node)
				node.start()
				time.Sleep(time.Second) // of work between two kills
			}
			h.until("the end of the run", 60*time.Second, func(st api.Status) bool {
				return len(st.Pipelines) == 1 && st.Pipelines[0].State == "finished"
			})
			lines, different := tc.count(t, server.URL())
			if lines != n || different != n {
				t.Errorf("the store has %d lines, %d of them different, want %d", lines, different, n)
			}
		})
	}
}

func countPostgres(t *testing.T, url string) (lines, different int) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	if err := c.QueryRow(t.Context(), "SELECT count(*), count(DISTINCT body) FROM lines").Scan(&lines, &different); err != nil {
		t.Fatal(err)
	}
	return lines, different
}

func countRedis(t *testing.T, url string) (lines, different int) {
	t.Helper()
	c := servertest.RedisClient(t, url)
	got, err := c.Do(t.Context(), c.B().Xrange().Key("lines").Start("-").End("+").Build()).AsXRange()
	if err != nil {
		t.Fatal(err)
	}
	bodies := make(map[string]bool)
	for _, e := range got {
		bodies[e.FieldValues["body"]] = true
	}
	return len(got), len(bodies)
}
