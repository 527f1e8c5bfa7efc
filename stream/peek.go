package stream

import (
	"bytes"
	"errors"
	"maps"
	"slices"

	"weir/stream/wire"
	"weir/topology"
)

const (
	// peekRecordsMax is how many records a Peek keeps between two Takes, PeekBytesMax how much of
	// each body, in bytes: what a person reads, at a cost that the path does not feel.
	peekRecordsMax = 64
	PeekBytesMax   = 4 << 10
	// peeksMax is how many may look at one edge at once.
	peeksMax = 16
)

// Peek is a look at the records that go out on one edge, some of them where there are many. It never
// holds up any.
type Peek struct {
	o *Outlet
	e *outEdge

	// The outlet's mu guards these.
	seen   []Peeked
	missed uint64
}

// Peeked is a record as a Peek saw it.
type Peeked struct {
	ID    ID // without Sum
	Out      // its Body is cut to PeekBytesMax
	Bytes int
}

// Peek begins to look at an edge; Close ends it. ErrNoEdge: none goes out there; ErrBusy: too many
// look.
func (o *Outlet) Peek(edge topology.Edge) (*Peek, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.find(edge)
	switch {
	case e == nil:
		return nil, o.noEdge(edge.Port)
	case len(e.peeks) == peeksMax:
		return nil, errPeeks
	}
	p := &Peek{o: o, e: e}
	e.peeks = append(e.peeks, p)
	return p, nil
}

var errPeeks = errors.Join(ErrBusy, errors.New("as many as may look at this edge already do"))

// Take returns what was seen since the last Take, and how many records went by unseen.
func (p *Peek) Take() (seen []Peeked, missed uint64) {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	seen, missed = p.seen, p.missed
	p.seen, p.missed = nil, 0
	return seen, missed
}

// Close ends the look.
func (p *Peek) Close() {
	p.o.mu.Lock()
	defer p.o.mu.Unlock()
	p.e.peeks = slices.DeleteFunc(p.e.peeks, func(x *Peek) bool { return x == p })
}

// see copies a record if there is room; the caller has the outlet's mu.
func (p *Peek) see(r *wire.Record) {
	if len(p.seen) == peekRecordsMax {
		p.missed++
		return
	}
	p.seen = append(p.seen, Peeked{
		ID:    ID{Source: r.Source, Gen: r.Gen, Seq: r.Seq, Path: r.Path},
		Out:   Out{Body: bytes.Clone(r.Body[:min(len(r.Body), PeekBytesMax)]), Key: bytes.Clone(r.Key), Header: maps.Clone(r.Header)},
		Bytes: len(r.Body),
	})
}
