package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/stream"
)

// store is a sink that keeps what it was given elsewhere, as its suite needs it.
type store struct {
	open func(t *testing.T) stream.Sink
	// lines are all that the store has, sorted.
	lines func(t *testing.T) []string
	bad   string // a body that it cannot take; "" = there is none
	alone bool   // of several records it takes those that it can, and of a block nothing
	// What follows is nil where there is no server.
	kill, start, freeze, thaw func()
}

// numbered are records of one source with the sequence numbers from lo to below hi, each with its
// own body.
func numbered(lo, hi int) []stream.Record {
	var rs []stream.Record
	for seq := lo; seq < hi; seq++ {
		body := fmt.Sprintf("record %06d", seq)
		rs = append(rs, stream.Record{
			ID:  stream.ID{Source: 7, Gen: 1 << 63, Seq: uint64(seq), Path: 1, Sum: 1<<64 - 1 - uint64(seq)},
			Out: stream.Out{Body: []byte(body)},
		})
	}
	return rs
}

// bodies are the lines of numbered.
func bodies(lo, hi int) []string {
	var all []string
	for _, r := range numbered(lo, hi) {
		all = append(all, string(r.Body))
	}
	return all
}

// remembering is what SinkHandler is to a sink, in its simplest form: what it has seen are IDs.
type remembering struct {
	stream.Sink
	had map[string]bool
}

func remember(t *testing.T, s stream.Sink) *remembering {
	t.Helper()
	loaded, err := s.Load(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	r := &remembering{s, make(map[string]bool)}
	for id := range slices.Chunk(loaded, idBytes) {
		r.had[string(id)] = true
	}
	return r
}

// write writes the records that are new; a Retry is tried again for a while.
func (r *remembering) write(ctx context.Context, rs []stream.Record) error {
	var fresh []stream.Record
	seen := stream.Seen{Source: 7}
	for _, rec := range rs {
		if id := appendID(nil, rec.ID); !r.had[string(id)] {
			fresh, seen.Bytes = append(fresh, rec), append(seen.Bytes, id...)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		err := r.Sink.Write(ctx, fresh, seen)
		if stream.ExitCode(err) != 75 {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// testStore is the suite of all stores.
func testStore(t *testing.T, st store) {
	check := func(t *testing.T, want []string) {
		t.Helper()
		got := st.lines(t)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("the store has %d lines, want %d: %.300q", len(got), len(want), got)
		}
	}
	write := func(t *testing.T, r *remembering, rs []stream.Record) {
		t.Helper()
		if err := r.write(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
	}
	want := bodies(0, 150)
	r := remember(t, st.open(t))
	t.Run("written again by another", func(t *testing.T) {
		write(t, r, numbered(0, 50))
		write(t, r, numbered(50, 100))
		// Nobody closes it: its process was killed, and what it wrote last comes again.
		r = remember(t, st.open(t))
		write(t, r, numbered(20, 150))
		check(t, want)
	})
	t.Run("blocks", func(t *testing.T) {
		block := numbered(200, 201)
		block[0].Body = []byte("x1\n\nx3\nx4")
		write(t, r, block)
		want = append(want, "x1", "", "x3", "x4")
		large := numbered(201, 203)
		large[0].Body = []byte(strings.Repeat("y\n", 3*rowsMax) + "y")
		large[1].Body = []byte(strings.Repeat("z", gatherBytes))
		write(t, r, large)
		for range 3*rowsMax + 1 {
			want = append(want, "y")
		}
		want = append(want, string(large[1].Body))
		check(t, want)
	})
	t.Run("poison", func(t *testing.T) {
		if st.bad == "" {
			t.Skip("it takes everything")
		}
		rs := numbered(300, 310)
		rs[4].Body = []byte(st.bad)
		if err := r.write(t.Context(), rs); stream.ExitCode(err) != 65 {
			t.Errorf("error %v, want a Poison", err)
		}
		if !st.alone {
			check(t, want)
		}
		for i := range rs {
			err := r.write(t.Context(), rs[i:i+1])
			if (err != nil) != (i == 4) {
				t.Errorf("record %d alone: %v", i, err)
			}
		}
		want = append(append(want, bodies(300, 304)...), bodies(305, 310)...)
		check(t, want)
		if st.alone {
			return
		}
		block := numbered(310, 311)
		block[0].Body = []byte("l1\n" + st.bad + "\nl3\nl4\n" + st.bad + "\n" + st.bad)
		err := r.write(t.Context(), block)
		if stream.ExitCode(err) != 65 || !strings.HasPrefix(err.Error(), "line 2 of it: ") {
			t.Errorf("error %v, want a Poison of line 2 and others", err)
		}
		want = append(want, "l1", "l3", "l4")
		check(t, want)
	})
	t.Run("cancelled", func(t *testing.T) {
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		if err := r.Sink.Write(ctx, numbered(400, 401), stream.Seen{}); !errors.Is(err, why) {
			t.Errorf("error %v, want %v", err, why)
		}
	})
	if st.kill == nil {
		return
	}
	t.Run("killed", func(t *testing.T) {
		st.kill()
		if err := r.Sink.Write(t.Context(), numbered(500, 600), stream.Seen{}); stream.ExitCode(err) != 75 {
			t.Errorf("error %v, want a Retry", err)
		} else {
			t.Log(err)
		}
		done := make(chan error, 1)
		go func() { done <- r.write(t.Context(), numbered(500, 600)) }() // ended by its time
		st.start()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want = append(want, bodies(500, 600)...)
		check(t, want)
	})
	t.Run("frozen", func(t *testing.T) {
		st.freeze()
		done := make(chan error, 1)
		go func() { done <- r.write(t.Context(), numbered(600, 700)) }() // ended by its time
		select {
		case err := <-done:
			t.Errorf("a frozen server took it: %v", err)
		case <-time.After(time.Second):
		}
		st.thaw()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want = append(want, bodies(600, 700)...)
		check(t, want)
	})
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
