package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"

	"weir/stream/wire"
)

// Dead letters: what a role cannot handle goes out by its port dead, or where no edge starts there to
// whoever keeps letters, and is acked when it is safe there. Meanwhile other records go on.

const (
	// PortDead is the port by which records leave that a role cannot handle.
	PortDead = "dead"
	// PortErr is the port by which what a program writes to stderr leaves. These are no records of
	// anyone's: where no edge starts there they are not kept.
	PortErr = "err"
	// lettersMax is how many letters of an inlet wait at once for their place; the next one holds up
	// the handling goroutine that made it. Enough to share a store's fsync, few enough to hold.
	lettersMax = 16
	// letterRetry is the pause after a letter was not taken.
	letterRetry = time.Second
	// letterReasonMax is how much of a reason goes into a header, in bytes, and letterReasonMin how
	// much before the record's own headers give way.
	letterReasonMax = 1 << 10
	letterReasonMin = 128
	// letterOrdinal is the ordinal of a record that leaves by the port dead; outputs that are letters
	// have those below it, others those from 0 on.
	letterOrdinal = -1
)

// Headers of a record that leaves by the port dead. HeaderReason is also what a handler may give an
// output as the reason for which it is a dead letter.
const (
	HeaderReason   = "weir-reason"
	HeaderRole     = "weir-role"
	HeaderAttempts = "weir-attempts"
)

// letter is a dead letter on its way to its place.
type letter struct {
	Letter
	claim uint64
	t     *tree // of its record; the letter counts as an output of it
}

// keepsLetters reports whether there is a place for dead letters at all.
func (in *Inlet) keepsLetters() bool {
	return in.cfg.Dead != nil || in.cfg.Outlet != nil && in.cfg.Outlet.carries(PortDead)
}

// bury makes a dead letter of record i of a batch, which it copies, and brings it to its place. It
// waits only where too many letters do.
func (in *Inlet) bury(ctx context.Context, b *Batch, i int, rec Record, err error) {
	t := b.trees[i]
	l := &letter{t: t, claim: b.claims[i], Letter: Letter{
		Pipeline: t.slab.owner.(*Receiver).hello.Pipeline, Role: in.cfg.Role, Record: rec, Reason: err.Error(),
	}}
	l.Record.Body, l.Record.Key, l.Record.Header = slices.Clone(rec.Body), slices.Clone(rec.Key), maps.Clone(rec.Header)
	var said interface{ Stderr() string }
	if errors.As(err, &said) {
		l.Stderr = said.Stderr()
	}
	atomic.AddInt32(&t.left, 1)
	if in.cfg.Hooks.has(BugDeadDrop) {
		in.buried(t)
		return
	}
	select {
	case in.letters <- struct{}{}:
	case <-ctx.Done():
		return // never acked: the end of its link gives it back
	}
	in.group.Go(func() { // ended by ctx or a place
		defer func() { <-in.letters }()
		if in.deliver(ctx, l) {
			in.dead.Add(1)
			in.buried(t)
		}
	})
}

// buryStrays makes letters of what was made of record i for ports without an edge. They have IDs as
// other outputs of it do.
func (in *Inlet) buryStrays(ctx context.Context, b *Batch, i int) {
	for k, o := range b.emitters[i].strays {
		rec := b.Records[i]
		rec.ID.Path = childPath(rec.ID.Path, b.outlet.path, letterOrdinal-1-k, false)
		rec.ID.Sum = xxh3.Hash(o.Body)
		rec.Out = o
		reason := cmp.Or(o.Header[HeaderReason], fmt.Sprintf("no edge starts at port %s of role %s", o.Port, in.cfg.Role))
		in.bury(ctx, b, i, rec, errors.New(reason))
	}
}

// buried takes from a tree what a letter held of it.
func (in *Inlet) buried(t *tree) {
	done := ackBatch{slabs: &in.cfg.Budget.slabs}
	done.done(t)
	done.flush()
}

// deliver tries until the letter is safe; false when ctx is done before.
func (in *Inlet) deliver(ctx context.Context, l *letter) bool {
	for said := false; ; said = true {
		err := in.place(ctx, l)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if !said {
			in.cfg.Log.Warn("dead letter waits for a place", "role", l.Role, "record", l.Record.ID.Seq, "err", err)
		}
		pause := time.NewTimer(letterRetry)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return false
		}
	}
}

// place hands a letter on: by the port dead where an edge starts there, if it is of a record that
// was given to the role, and not an output for a port of its own.
func (in *Inlet) place(ctx context.Context, l *letter) error {
	if o := in.cfg.Outlet; o != nil && l.Record.Port == "" && o.carries(PortDead) {
		id := &l.Record.ID
		it := item{port: PortDead, t: l.t, rec: wire.Record{
			Source: id.Source, Gen: id.Gen, Claim: l.claim, Seq: id.Seq,
			Path:    childPath(id.Path, o.path, letterOrdinal, true),
			Attempt: 1, Key: l.Record.Key, Body: l.Record.Body, Header: l.header(),
		}}
		if err := o.emit(ctx, []item{it}); !errors.Is(err, ErrNoEdge) {
			return err
		}
	}
	if in.cfg.Dead == nil {
		return fmt.Errorf("port %s: %w", PortDead, ErrNoEdge)
	}
	return in.cfg.Dead(ctx, l.Letter)
}

// header is the record's headers and why it is a letter, cut to what a record may have: the reason
// first, then, where that is not enough, all that the record brought.
func (l *letter) header() map[string]string {
	reason := l.Reason[:min(len(l.Reason), letterReasonMax)]
	own := l.Record.Header
	for {
		h := map[string]string{HeaderRole: l.Role, HeaderAttempts: strconv.Itoa(l.Record.Attempt), HeaderReason: reason}
		for k, v := range own {
			if _, ours := h[k]; !ours {
				h[k] = v
			}
		}
		r := wire.Record{Header: h}
		switch {
		case r.Check() == nil:
			return h
		case len(reason) > letterReasonMin:
			reason = reason[:max(len(reason)/2, letterReasonMin)]
		case own != nil:
			own = nil
		default:
			return nil
		}
	}
}

// InletStats is what an inlet counts.
type InletStats struct {
	Dead        uint64 // letters made
	DeadWaiting int    // letters that have no place yet
	Stuck       int    // handlers that made no progress for too long and have not returned
	Hangs       bool   // these are as many as the role may have: it takes little more, or nothing
	Waits       string // why records are tried again later, by a Retry; "" where none is
}

// Stats returns the counts.
func (in *Inlet) Stats() InletStats {
	in.mu.Lock()
	defer in.mu.Unlock()
	return InletStats{in.dead.Load(), len(in.letters), in.stuck, in.stuck >= in.most(), in.waits.text()}
}
