package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"weir/stream/wire"
)

// Batch is what a handler is given: at least one record, at most its capacity. Its methods
// are safe for concurrent use until Handle returns.
type Batch struct {
	Records []Record

	in       *Inlet
	outlet   *Outlet // nil: a sink
	lone     bool    // its record is given to the handler alone: it has failed before
	suspects bool    // its records are, all of one link
	trees    []*tree
	claims   []uint64
	blocks   []*block // what the records are parts of
	bytes    int      // of bodies
	items    []item

	steps atomic.Uint64 // calls of Progress

	mu       sync.Mutex
	sending  int        // outputs that are handed on just now, or wait for credit
	emitters []*emitter // at least as many as Records; reused with their buffers
}

// Len is the number of records.
func (b *Batch) Len() int { return len(b.Records) }

// To hands on what is made of record i. Keep it no longer than Handle runs: emitters are used
// again.
func (b *Batch) To(i int) Emitter { return b.emitters[i] }

// Nack says that record i alone was not handled. A Retry comes again later, a Poison is a dead
// letter; else it has failed, goes to another node and is given to its handler alone, and is a dead
// letter when it has failed too often.
func (b *Batch) Nack(i int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.emitters[i]; !e.closed {
		e.nack = err
	}
}

// Progress says that the handler works on, where its role has a deadline and neither outputs nor
// nacks show that it does.
func (b *Batch) Progress() { b.steps.Add(1) }

// Each is a Handler that calls f for one record after the other of a batch; its error nacks
// that record alone.
func Each(f func(context.Context, Record, Emitter) error) Handler { return each(f) }

type each func(context.Context, Record, Emitter) error

func (f each) Handle(ctx context.Context, b *Batch) error {
	for i, r := range b.Records {
		if err := f(ctx, r, b.To(i)); err != nil {
			b.Nack(i, err)
		}
		if b.in != nil && b.in.cfg.Deadline > 0 {
			b.Progress()
		}
	}
	return nil
}

// emitter is the Emitter of one record of a batch. The newest output is held back until the
// next comes or the handler returns, because its path says whether it is the last one; so the
// last outputs of a batch leave together, under one lock. The batch's mu guards it.
type emitter struct {
	b *Batch
	i int

	held    Out    // its slices are parts of buf
	buf     []byte // kept from batch to batch
	spare   []byte // another, for an output on its way
	has     bool
	ordinal int // of the held output
	nack    error
	closed  bool
	strays  []Out // outputs for ports without an edge: letters, once the record is handled
	stray   int   // bytes of these
}

// straysMax is how many outputs of one record may be for ports without an edge.
const straysMax = 256

// heldBytesMax is the most that an emitter's buffers keep between batches, in bytes; those of
// a lone record may keep a block.
const heldBytesMax = 4 << 10

func (b *Batch) reset() {
	b.Records, b.trees, b.claims, b.blocks, b.bytes = b.Records[:0], b.trees[:0], b.claims[:0], b.blocks[:0], 0
	b.lone, b.suspects = false, false
}

// release lets go of what the records are parts of.
func (b *Batch) release() {
	for _, bl := range b.blocks {
		bl.release(b.in.cfg.Budget)
	}
}

// add takes the peeked record of a block.
func (b *Batch) add(bl *block) {
	w := &bl.rec
	i := len(b.Records)
	b.Records = append(b.Records, Record{
		ID:      ID{Source: w.Source, Gen: w.Gen, Seq: w.Seq, Path: w.Path},
		From:    bl.r.key.edge.From,
		Attempt: int(w.Attempt),
		Out:     Out{Body: w.Body, Key: w.Key, Header: w.Header},
	})
	b.trees = append(b.trees, bl.take())
	b.claims = append(b.claims, w.Claim)
	b.bytes += len(w.Body)
	if i == len(b.emitters) {
		b.emitters = append(b.emitters, &emitter{b: b, i: i})
	}
	e := b.emitters[i]
	e.has, e.nack, e.closed, e.ordinal = false, nil, false, -1
	if e.strays != nil {
		e.strays, e.stray = nil, 0
	}
}

// item is an output as it goes to the outlet.
func (e *emitter) item(o *Out, ordinal int, last bool) item {
	id := &e.b.Records[e.i].ID
	return item{
		rec: wire.Record{
			Source: id.Source, Gen: id.Gen, Claim: e.b.claims[e.i], Seq: id.Seq,
			Path:    childPath(id.Path, e.b.outlet.path, ordinal, last),
			Attempt: 1, Key: o.Key, Body: o.Body, Header: o.Header,
		},
		port: o.Port,
		t:    e.b.trees[e.i],
	}
}

// hold keeps a copy of o as the newest output.
func (e *emitter) hold(o *Out) {
	e.buf = append(append(e.buf[:0], o.Body...), o.Key...)
	n := len(o.Body)
	e.held = Out{Body: e.buf[:n:n], Header: maps.Clone(o.Header), Port: o.Port}
	if o.Key != nil {
		e.held.Key = e.buf[n:]
	}
	e.has = true
	e.ordinal++
}

// ready checks that o may be emitted.
func (e *emitter) ready(o *Out) error {
	if e.closed {
		return ErrClosed
	}
	if e.b.outlet == nil {
		return ErrNoEdge
	}
	return e.b.outlet.check(o)
}

// astray keeps an output that ready refused because no edge starts at its port: it will be a dead
// letter if these are kept. The caller has the batch's mu.
func (e *emitter) astray(o *Out, err error) error {
	if !errors.Is(err, ErrNoEdge) || o.Port == "" || o.Port == PortErr || e.b.outlet == nil || e.b.in.cfg.Dead == nil {
		return err
	}
	if e.stray += len(o.Body); len(e.strays) == straysMax || e.stray > e.b.in.cfg.RecordMax {
		return fmt.Errorf("more than %d outputs or %d bytes of one record: %w", straysMax, e.b.in.cfg.RecordMax, err)
	}
	e.strays = append(e.strays, Out{Body: slices.Clone(o.Body), Key: slices.Clone(o.Key), Header: maps.Clone(o.Header), Port: o.Port})
	return nil
}

func (e *emitter) Emit(ctx context.Context, o Out) error {
	e.b.mu.Lock()
	if err := e.ready(&o); err != nil {
		err = e.astray(&o, err)
		e.b.mu.Unlock()
		return err
	}
	if !e.has {
		e.hold(&o)
		e.b.mu.Unlock()
		return nil
	}
	items := [1]item{e.item(&e.held, e.ordinal, false)}
	sent := e.buf
	e.buf, e.spare = e.spare, nil
	e.hold(&o)
	return e.send(ctx, items[:], sent)
}

// send hands items on; the caller has the batch's mu, which send gives up. While it lasts, the
// input counts as with the handler, even when that returns meanwhile. An output that is lost here
// must not be missed by an ack, so an error is the record's.
func (e *emitter) send(ctx context.Context, items []item, sent []byte) error {
	t := items[0].t
	atomic.AddInt32(&t.left, 1)
	e.b.sending++
	e.b.mu.Unlock()
	err := e.b.outlet.emit(ctx, items)
	e.b.mu.Lock()
	e.b.sending--
	if e.closed {
		e.spare = nil
	} else if e.spare = sent; err != nil && e.nack == nil {
		e.nack = err
	}
	e.b.mu.Unlock()
	done := ackBatch{slabs: &e.b.outlet.cfg.Budget.slabs}
	done.done(t)
	done.flush()
	return err
}

func (e *emitter) EmitBatch(ctx context.Context, os []Out) error {
	if len(os) == 0 {
		return nil
	}
	e.b.mu.Lock()
	for i := range os {
		err := e.ready(&os[i])
		if err == nil {
			continue
		}
		if err = e.astray(&os[i], err); err == nil {
			os = slices.Delete(slices.Clone(os), i, i+1)
			e.b.mu.Unlock()
			return e.EmitBatch(ctx, os)
		}
		e.b.mu.Unlock()
		return err
	}
	items := make([]item, 0, len(os))
	if e.has {
		items = append(items, e.item(&e.held, e.ordinal, false))
		e.buf = nil // the item has it
	}
	last := len(os) - 1
	for i := range os[:last] {
		e.ordinal++
		items = append(items, e.item(&os[i], e.ordinal, false))
	}
	e.hold(&os[last])
	if len(items) == 0 {
		e.b.mu.Unlock()
		return nil
	}
	return e.send(ctx, items, nil)
}

func (e *emitter) Offer(o Out) error {
	e.b.mu.Lock()
	defer e.b.mu.Unlock()
	if err := e.ready(&o); err != nil {
		return e.astray(&o, err)
	}
	if e.has {
		before := e.item(&e.held, e.ordinal, false)
		if err := e.b.outlet.offer(&before); err != nil {
			e.b.Progress() // it is not the handler that stands still
			return err
		}
	} else if !e.b.outlet.Writable() {
		e.b.Progress()
		return ErrBusy
	}
	e.hold(&o)
	return nil
}

// flush hands on the held outputs of all records that were not nacked.
func (b *Batch) flush(ctx context.Context) error {
	b.mu.Lock()
	b.items = b.items[:0]
	for _, e := range b.emitters[:len(b.Records)] {
		if e.has && e.nack == nil {
			b.items = append(b.items, e.item(&e.held, e.ordinal, true))
		}
	}
	b.mu.Unlock()
	if len(b.items) == 0 {
		return nil
	}
	return b.outlet.emit(ctx, b.items)
}

// close ends the batch's emitters, notes err as the reason of all that were not nacked alone,
// and drops large buffers. A Poison among several is not known to be each of them.
func (b *Batch) close(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var poison *poisonError
	if len(b.Records) > 1 && errors.As(err, &poison) {
		err = poison.error
	}
	for i, e := range b.emitters[:len(b.Records)] {
		e.closed = true
		if e.nack == nil {
			e.nack = err
		}
		if i > 0 && cap(e.buf)+cap(e.spare) > heldBytesMax {
			e.buf, e.spare, e.held = nil, nil, Out{}
		}
	}
}
