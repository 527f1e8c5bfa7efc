package sim

import (
	"context"
	"encoding/binary"
	"io"

	"weir/stream"
	"weir/topology"
)

// loadTap is a tap with one partition.
type loadTap struct {
	w         *Workload
	id        topology.NodeID
	partition string
}

func (t *loadTap) Partitions(context.Context) ([]string, error) { return []string{t.partition}, nil }

func (t *loadTap) Open(_ context.Context, name string, at stream.Mark) (stream.Reader, error) {
	first := uint64(0)
	if len(at) == 8 {
		first = binary.BigEndian.Uint64(at)
	}
	p := t.w.open(name, first)
	r := &loadReader{loadTap: t, p: p, opens: p.opens, next: first}
	t.w.history.Add(Event{Kind: EventOpened, Node: t.id, Text: name, Record: p.number(r.next), N: p.opens})
	return r, nil
}

// number is the number of the partition's nth record among all.
func (p *partition) number(n uint64) uint64 { return p.index<<recordBits | n }

// loadReader reads a partition: record n is there n gaps after the partition was first opened,
// so that a tap that comes late, or again, finds what it missed.
type loadReader struct {
	*loadTap
	p     *partition
	opens uint64
	next  uint64
}

func (r *loadReader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	there, err := r.w.due(ctx, r.p, r.next)
	if err != nil {
		return stream.Out{}, nil, err
	}
	if !there {
		r.w.history.Add(Event{Kind: EventReadAll, Node: r.id, Record: r.p.number(r.next)})
		return stream.Out{}, nil, io.EOF
	}
	number := r.p.number(r.next)
	r.next++
	r.w.history.Add(Event{Kind: EventRead, Node: r.id, Record: number, Text: r.p.name})
	return stream.Out{Body: r.w.body(number, tapOf(r.p.name))}, binary.BigEndian.AppendUint64(nil, r.next), nil
}

func (r *loadReader) Done(at stream.Mark, _ error) {
	n := binary.BigEndian.Uint64(at) - 1
	r.w.history.Add(Event{Kind: EventAcked, Node: r.id, Record: r.p.number(n), Text: r.p.name})
	r.w.ack(r.p, r.opens, n)
}

func (r *loadReader) Close() error { return nil }
