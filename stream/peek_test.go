package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"weir/topology"
)

// A peek sees what goes by, up to its bound, counts the rest, and holds up nothing, taken or not.
func TestPeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.stop()
		out := r.outlet("tap", NewBudget(0), topology.SendCopy, "sink")
		edge := topology.Edge{From: "tap", To: "sink"}
		if _, err := out.Peek(topology.Edge{From: "tap", To: "elsewhere"}); !errors.Is(err, ErrNoEdge) {
			t.Errorf("no such edge: %v", err)
		}
		var peeks []*Peek
		for range peeksMax {
			p, err := out.Peek(edge)
			if err != nil {
				t.Fatal(err)
			}
			peeks = append(peeks, p)
		}
		if _, err := out.Peek(edge); !errors.Is(err, ErrBusy) {
			t.Errorf("one more: %v", err)
		}
		for _, p := range peeks[1:] {
			p.Close()
		}
		in, _ := r.sink("sink", &memory{})
		r.link(out, "tap", "sink", in, "b")
		const n = 3 * peekRecordsMax
		_, done := r.source(out, NewBudget(0), &swollen{numbers{n: n}})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		seen, missed := peeks[0].Take()
		if len(seen) != peekRecordsMax || missed != n-peekRecordsMax {
			t.Errorf("%d seen, %d missed of %d", len(seen), missed, n)
		}
		if string(seen[0].Body) != "record 0" || seen[0].ID.Seq != 0 || seen[2].ID.Seq != 2 {
			t.Errorf("the first is %+v", seen[0])
		}
		if seen[1].Bytes != PeekBytesMax+1 || len(seen[1].Body) != PeekBytesMax {
			t.Errorf("of %d bytes %d seen as %d", PeekBytesMax+1, len(seen[1].Body), seen[1].Bytes)
		}
		if seen, missed := peeks[0].Take(); len(seen) != 0 || missed != 0 {
			t.Errorf("again %d, %d", len(seen), missed)
		}
	})
}

// swollen is numbers of which the second is larger than a peek shows.
type swollen struct{ numbers }

func (r *swollen) Next(ctx context.Context) (Out, Mark, error) {
	out, mark, err := r.numbers.Next(ctx)
	if r.at == 2 {
		out.Body = make([]byte, PeekBytesMax+1)
	}
	return out, mark, err
}

// BenchmarkPeek compares a path at which somebody looks as often as a node does with one at which
// nobody looks: 128-byte records through memory, both in turn.
func BenchmarkPeek(b *testing.B) {
	for _, looks := range []bool{false, true} {
		b.Run(fmt.Sprintf("looks=%v", looks), func(b *testing.B) {
			r := newRig(b)
			defer r.stop()
			out := r.outlet("tap", NewBudget(0), topology.SendCopy, "sink")
			in := r.inlet(InletConfig{Role: "sink", Handler: NewSinkHandler(SinkHandlerConfig{Sink: nothing{}}), Serial: true})
			r.link(out, "tap", "sink", in, "b")
			if looks {
				p, err := out.Peek(topology.Edge{From: "tap", To: "sink"})
				if err != nil {
					b.Fatal(err)
				}
				r.group.Go(func() { // ended by the rig
					for tick := time.NewTicker(50 * time.Millisecond); ; p.Take() {
						select {
						case <-tick.C:
						case <-r.ctx.Done():
							return
						}
					}
				})
			}
			b.SetBytes(128)
			_, done := r.source(out, NewBudget(0), &repeated{n: b.N})
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// repeated is a Reader of n equal records of 128 bytes.
type repeated struct{ n int }

func (r *repeated) Next(context.Context) (Out, Mark, error) {
	if r.n == 0 {
		return Out{}, nil, io.EOF
	}
	r.n--
	return Out{Body: repeatedBody[:]}, nil, nil
}

func (r *repeated) Done(Mark, error) {}
func (r *repeated) Close() error     { return nil }

var repeatedBody [128]byte
