package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"weir/stream"
	"weir/topology"
)

// partition is what a tap reads; it outlives the tap. The workload's mu guards it.
type partition struct {
	name     string
	index    uint64
	since    time.Time // when it was first opened: record n is there n gaps later
	opens    uint64
	replaced bool   // with its next opening another comes in its place
	ended    bool   // all there is was read
	acked    bitset // records, by any opening
	again    bitset // records, by the last opening
	first    uint64 // record that the last opening began with
	read     uint64 // one more than the last record read
}

// number is the number of the partition's nth record among all.
func (p *partition) number(n uint64) uint64 { return p.index<<recordBits | n }

// mark is the place before the partition's nth record.
func (p *partition) mark(n uint64) stream.Mark {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, p.index), n)
}

// placeAt reads a mark.
func placeAt(at stream.Mark) (index, n uint64) {
	return binary.BigEndian.Uint64(at), binary.BigEndian.Uint64(at[8:])
}

// loadTap is a tap as one node has it.
type loadTap struct {
	w    *Workload
	id   topology.NodeID
	role Role
}

// Shared reports whether all nodes of the role see the same partitions.
func (t *loadTap) Shared() bool { return t.role.Shared }

// Replayable reports whether what was read can be read again.
func (t *loadTap) Replayable() bool { return !t.role.Live }

// Partitions are named by the tap and the node's place, its id without the count of starts, or, where
// all nodes see them, by the tap alone.
func (t *loadTap) Partitions(context.Context) (names []string, err error) {
	name := t.role.Name + "/" + placeOf(t.id)
	if t.role.Shared {
		name = t.role.Name + "/shared"
	}
	if t.role.Partitions <= 1 {
		return []string{name}, nil
	}
	for i := range t.role.Partitions {
		names = append(names, fmt.Sprintf("%s/%d", name, i+1))
	}
	return names, nil
}

func (t *loadTap) Open(_ context.Context, name string, at stream.Mark) (stream.Reader, error) {
	p, first, err := t.w.open(name, t.role.Live, at)
	return t.reader(name, p, first, err)
}

// Again opens a partition at its start, if it is the one of that mark.
func (t *loadTap) Again(_ context.Context, name string, at stream.Mark) (stream.Reader, error) {
	index, _ := placeAt(at)
	p, first, err := t.w.open(name, t.role.Live, (&partition{index: index}).mark(0))
	return t.reader(name, p, first, err)
}

func (t *loadTap) reader(name string, p *partition, first uint64, err error) (stream.Reader, error) {
	if err != nil {
		return nil, err
	}
	r := &loadReader{loadTap: t, p: p, opens: p.opens, next: first}
	t.w.history.Add(Event{Kind: EventOpened, Node: t.id, Text: name, Record: p.number(r.next), N: r.opens})
	return r, nil
}

// open begins to read a partition once more.
func (w *Workload) open(name string, live bool, at stream.Mark) (p *partition, first uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p = w.partitions[name]
	if p == nil || p.replaced && at == nil {
		p = &partition{name: name, index: w.inputs, since: time.Now()}
		w.partitions[name] = p
		w.inputs++
	}
	if at != nil {
		var index uint64
		if index, first = placeAt(at); p.replaced || index != p.index {
			return nil, 0, fmt.Errorf("%w: another input has the name %s", stream.ErrReset, name)
		}
	}
	if live {
		first = p.read
	}
	p.opens++
	p.ended, p.first, p.read, p.again = false, first, first, bitset{}
	return p, first, nil
}

// replace puts other inputs in the place of those that the tap of a member reads, for its next start.
func (w *Workload) replace(m *member) {
	t := &loadTap{w, topology.NodeID(m.name), w.roles[m.role]}
	if t.role.Kind != topology.KindTap {
		return // replace all: it reads nothing
	}
	names, _ := t.Partitions(context.Background()) // it never fails
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if p := w.partitions[name]; p != nil {
			p.replaced = true
		}
	}
}

// due waits until record n of a partition is there, for one that opened it; false: it never will be.
func (w *Workload) due(ctx context.Context, p *partition, opens, n uint64) (bool, error) {
	at := p.since.Add((time.Duration(n) * w.gap).Truncate(w.every))
	if wait := time.Until(at); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-w.stopped:
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	there := w.end.IsZero() || !at.After(w.end)
	if p.opens == opens { // nobody has taken it over
		p.ended = !there
		p.read = max(p.read, n)
	}
	if there {
		w.last = time.Now()
		if p.opens == opens {
			p.read = n + 1
		}
	}
	return there, nil
}

// ack notes a record of a partition that was opened so often.
func (w *Workload) ack(p *partition, opens, n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.acked.set(n)
	if p.opens == opens {
		p.again.set(n)
	}
}

// loadReader reads a partition: record n is there n gaps after the partition was first opened,
// so that a tap that comes late, or again, finds what it missed.
type loadReader struct {
	*loadTap
	p     *partition
	opens uint64
	next  uint64
}

func (r *loadReader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	there, err := r.w.due(ctx, r.p, r.opens, r.next)
	if err != nil {
		return stream.Out{}, nil, err
	}
	number := r.p.number(r.next)
	if !there {
		r.w.history.Add(Event{Kind: EventReadAll, Node: r.id, Record: number, N: r.opens})
		return stream.Out{}, nil, io.EOF
	}
	r.next++
	r.w.history.Add(Event{Kind: EventRead, Node: r.id, Record: number, N: r.opens, Text: r.p.name})
	return stream.Out{Body: r.w.body(number, tapOf(r.p.name))}, r.p.mark(r.next), nil
}

func (r *loadReader) Done(at stream.Mark, _ error) {
	_, n := placeAt(at)
	r.w.history.Add(Event{Kind: EventAcked, Node: r.id, Record: r.p.number(n - 1), N: r.opens, Text: r.p.name})
	r.w.ack(r.p, r.opens, n-1)
}

func (r *loadReader) Close() error { return nil }
