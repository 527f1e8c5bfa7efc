package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zeebo/xxh3"

	"weir/stream/wire"
)

// keeper is a Sink in memory that keeps what it has seen; refuse, where it is there, may fail a
// Write.
type keeper struct {
	written []string
	kept    map[uint64][]byte
	calls   int
	refuse  func(rs []Record) error
}

func (k *keeper) Load(_ context.Context, source uint64) ([]byte, error) { return k.kept[source], nil }

func (k *keeper) Write(ctx context.Context, rs []Record, seen Seen) error {
	k.calls++
	if k.refuse != nil {
		if err := k.refuse(rs); err != nil {
			return err
		}
	}
	for _, r := range rs {
		k.written = append(k.written, string(r.Body))
	}
	if seen.Whole {
		k.kept[seen.Source] = nil
	}
	k.kept[seen.Source] = append(k.kept[seen.Source], seen.Bytes...)
	return nil
}

func (k *keeper) Close() error { return nil }

func newKeeper() *keeper { return &keeper{kept: make(map[uint64][]byte)} }

// batchOf is a batch of records seq=body of one source and generation.
func batchOf(source, gen uint64, records ...string) *Batch {
	b := new(Batch)
	for _, r := range records {
		var seq uint64
		at, body, _ := strings.Cut(r, "=")
		if _, err := fmt.Sscan(at, &seq); err != nil {
			panic(err)
		}
		b.Records = append(b.Records, Record{
			ID:  ID{Source: source, Gen: gen, Seq: seq, Path: 1, Sum: xxh3.HashString(body)},
			Out: Out{Body: []byte(body)},
		})
		b.emitters = append(b.emitters, new(emitter))
	}
	return b
}

// nacked lists the indices of the records that were nacked alone.
func nacked(b *Batch) (at []int) {
	for i, e := range b.emitters {
		if e.nack != nil {
			at = append(at, i)
		}
	}
	return at
}

// D1, L2, L11: what a sink had it drops, and nothing else, whatever it was started again for.
func TestSinkWritesOnce(t *testing.T) {
	k := newKeeper()
	h := NewSinkHandler(SinkHandlerConfig{Sink: k})
	handle := func(b *Batch) {
		t.Helper()
		if err := h.Handle(t.Context(), b); err != nil || len(nacked(b)) > 0 {
			t.Fatal(err, nacked(b))
		}
	}
	handle(batchOf(1, 7, "0=a", "1=b", "3=d"))
	handle(batchOf(1, 7, "1=b", "2=c", "3=d"))
	handle(batchOf(2, 7, "0=a of 2"))                // another source
	handle(batchOf(1, 8, "0=a of 8"))                // another life of the first one
	handle(batchOf(1, 7, "0=a"))                     // the old life's, once more
	handle(batchOf(1, 7, "2=made otherwise", "2=c")) // a handler that does not do the same twice
	handle(batchOf(1, 7, "2=made otherwise", "4=e")) // nor writes that twice
	h.Mark(wire.Mark{Source: 1, Gen: 7, Next: 10})   // a late one is behind the mark
	handle(batchOf(1, 7, "9=late", "10=k", "10=k"))  // and one is there twice
	h.Mark(wire.Mark{Source: 1, Gen: 7, Next: 3})    // a mark never falls
	handle(batchOf(1, 7, "5=late too"))              //
	st := h.Stats()
	h = NewSinkHandler(SinkHandlerConfig{Sink: k}) // it starts again
	h.Mark(wire.Mark{Source: 1, Gen: 7, Next: 2})  // an older mark comes before its first record
	handle(batchOf(1, 7, "2=c", "9=late", "10=k")) //
	handle(batchOf(1, 8, "0=a of 8", "1=b of 8"))  //
	handle(batchOf(2, 7, "0=a of 2"))              //
	want := []string{"a", "b", "d", "c", "a of 2", "a of 8", "made otherwise", "e", "k", "b of 8"}
	if !slices.Equal(k.written, want) {
		t.Errorf("written %q, want %q", k.written, want)
	}
	if st != (SinkStats{Records: 9, Lines: 9, Duplicates: 8, Nondeterministic: 1, Held: 3}) {
		t.Errorf("before the start: %+v", st)
	}
	if st := h.Stats(); st.Records != 1 || st.Duplicates != 5 {
		t.Errorf("after it: %+v", st)
	}
}

// An ID counts as had once its Write returned nil, not before: its twin in the same batch waits.
func TestSinkTwinOfARefused(t *testing.T) {
	k := newKeeper()
	fail := errors.New("no")
	k.refuse = func([]Record) error { return fail }
	h := NewSinkHandler(SinkHandlerConfig{Sink: k})
	b := batchOf(1, 1, "0=a", "1=b", "0=a")
	if err := h.Handle(t.Context(), b); err != nil || !slices.Equal(nacked(b), []int{0, 1, 2}) {
		t.Errorf("a twin of one that was refused is acked: nacked %v, %v", nacked(b), err)
	}
	k.refuse = func([]Record) error { err := fail; fail = nil; return err } // the first only
	fail = errors.New("no")
	b = batchOf(1, 1, "0=a", "0=a")
	if err := h.Handle(t.Context(), b); err != nil || !slices.Equal(nacked(b), []int{0}) || !slices.Equal(k.written, []string{"a"}) {
		t.Errorf("nacked %v, written %q, %v", nacked(b), k.written, err)
	}
	if st := h.Stats(); st.Records != 1 || st.Duplicates != 0 {
		t.Errorf("%+v", st)
	}
}

// F23 at a sink: of a batch with poison, the poison alone is nacked; the rest is written, in order.
func TestSinkFindsPoison(t *testing.T) {
	k := newKeeper()
	k.refuse = func(rs []Record) error {
		for _, r := range rs {
			if strings.HasPrefix(string(r.Body), "bad") {
				return fmt.Errorf("write: %w", Poison(errors.New("not a number")))
			}
		}
		return nil
	}
	h := NewSinkHandler(SinkHandlerConfig{Sink: k})
	var rs, want []string
	var bad []int
	for i := range 1000 {
		body := fmt.Sprint("good ", i)
		if i == 0 || i == 417 || i == 418 || i == 999 {
			body, bad = fmt.Sprint("bad ", i), append(bad, i)
		} else {
			want = append(want, body)
		}
		rs = append(rs, fmt.Sprint(i, "=", body))
	}
	b := batchOf(1, 1, rs...)
	if err := h.Handle(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(nacked(b), bad) || !IsPoison(b.emitters[417].nack) {
		t.Errorf("nacked %v, want %v, as poison: %v", nacked(b), bad, b.emitters[417].nack)
	}
	if !slices.Equal(k.written, want) {
		t.Errorf("written %d, want %d in order", len(k.written), len(want))
	}
	if k.calls > 100 {
		t.Errorf("%d Writes for %d bad ones of 1000", k.calls, len(bad))
	}
	h = NewSinkHandler(SinkHandlerConfig{Sink: k})
	b = batchOf(1, 1, rs...)
	if err := h.Handle(t.Context(), b); err != nil || !slices.Equal(nacked(b), bad) || len(k.written) != len(want) {
		t.Errorf("again: nacked %v, written %d, %v", nacked(b), len(k.written), err)
	}
}

// F14: a sink that has no room waits, shows why, and goes on within a second.
func TestSinkWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper()
		full := Retry(0, errors.New("write out: no space left on device"))
		start := time.Now()
		k.refuse = func([]Record) error {
			if time.Since(start) < 20*time.Second {
				return full
			}
			return nil
		}
		h := NewSinkHandler(SinkHandlerConfig{Sink: k})
		done := make(chan error, 1)
		go func() { done <- h.Handle(t.Context(), batchOf(1, 1, "0=a", "1=b")) }() // ended by the room
		time.Sleep(10 * time.Second)
		if why := h.Stats().Waits; why != "write out: no space left on device" {
			t.Errorf("it waits for %q", why)
		}
		if err := <-done; err != nil || !slices.Equal(k.written, []string{"a", "b"}) {
			t.Errorf("written %q, %v", k.written, err)
		}
		if took := time.Since(start) - 20*time.Second; took > sinkRetryMax {
			t.Errorf("it went on %v after there was room", took)
		}
		if st := h.Stats(); st.Waits != "" || st.Records != 2 {
			t.Errorf("then %+v", st)
		}
		if k.calls > 30 {
			t.Errorf("%d attempts in 20 s", k.calls)
		}

		// The end of the role ends the waiting; nothing is noted.
		start = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		b := batchOf(1, 1, "2=c")
		if err := h.Handle(ctx, b); err != nil || !errors.Is(b.emitters[0].nack, context.DeadlineExceeded) {
			t.Errorf("%v, nack %v", err, b.emitters[0].nack)
		}
		start = time.Time{}
		if err := h.Handle(t.Context(), batchOf(1, 1, "2=c")); err != nil || len(k.written) != 3 {
			t.Errorf("then %q, %v", k.written, err)
		}
	})
}

// What a sink kept and cannot be read stops the run, as bad data.
func TestSinkKeptIsDamaged(t *testing.T) {
	k := newKeeper()
	k.kept[1] = []byte{99}
	err := NewSinkHandler(SinkHandlerConfig{Sink: k}).Handle(t.Context(), batchOf(1, 1, "0=a"))
	if _, ok := errors.AsType[*ConfigError](err); !ok || ExitCode(err) != 65 ||
		err.Error() != "what the sink has seen cannot be read: it was written by another version of weir" {
		t.Errorf("code %d: %v", ExitCode(err), err)
	}
}

// Sources come and go for ever; what is remembered of them is bounded, and a sink that keeps it
// tells it again.
func TestSinkForgetsSources(t *testing.T) {
	k := newKeeper()
	h := NewSinkHandler(SinkHandlerConfig{Sink: k})
	for source := range uint64(sourcesMax + 10) {
		if err := h.Handle(t.Context(), batchOf(source, 1, "0=a")); err != nil {
			t.Fatal(err)
		}
		h.Mark(wire.Mark{Source: 1 << 40, Gen: source})
	}
	if len(h.sources) > sourcesMax {
		t.Errorf("%d sources are remembered", len(h.sources))
	}
	if err := h.Handle(t.Context(), batchOf(3, 1, "0=a")); err != nil || h.Stats().Duplicates != 1 {
		t.Errorf("an old one again: %+v, %v", h.Stats(), err)
	}
}

// I18: the planted bug is one.
func TestBugLRU(t *testing.T) {
	k := newKeeper()
	h := NewSinkHandler(SinkHandlerConfig{Sink: k, Hooks: &Hooks{Bug: BugLRU, Reached: func(string) {}, Watch: func(Event) {}}})
	var rs []string
	for i := range 100 {
		rs = append(rs, fmt.Sprint(i, "=", i))
	}
	for range 2 {
		if err := h.Handle(t.Context(), batchOf(1, 1, rs...)); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.written) != 200-lruBug {
		t.Errorf("%d written", len(k.written))
	}
}

// What a sink that forgets costs for a record of 128 bytes, with as many at once as a link brings,
// and 100,000 on their way.
func BenchmarkSinkHandler(b *testing.B) {
	const n = 1024
	h := NewSinkHandler(SinkHandlerConfig{Sink: nothing{}})
	batch := &Batch{Records: make([]Record, n), emitters: make([]*emitter, n)}
	for i := range batch.Records {
		batch.Records[i] = Record{ID: ID{Source: 1, Gen: 1, Path: 1}, Out: Out{Body: make([]byte, 128)}}
	}
	b.ReportAllocs()
	seq := uint64(0)
	for b.Loop() {
		for i := range batch.Records {
			id := &batch.Records[i].ID
			id.Seq, id.Sum = seq, seq*0x9e3779b97f4a7c15
			seq++
		}
		if err := h.Handle(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
		h.Mark(wire.Mark{Source: 1, Gen: 1, Next: max(seq, 100_000) - 100_000})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(seq), "ns/record")
}

type nothing struct{}

func (nothing) Load(context.Context, uint64) ([]byte, error) { return nil, nil }
func (nothing) Write(context.Context, []Record, Seen) error  { return nil }
func (nothing) Close() error                                 { return nil }
