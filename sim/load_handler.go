package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/stream"
	"weir/topology"
)

// loadHandler is a worker: one output for each record, or two.
type loadHandler struct {
	w     *Workload
	id    topology.NodeID
	role  Role
	emits bool
}

func (h *loadHandler) Handle(ctx context.Context, b *stream.Batch) error {
	return stream.Each(h.one).Handle(ctx, b)
}

var errPlanned = errors.New("the workload has it fail")

func (h *loadHandler) one(ctx context.Context, r stream.Record, e stream.Emitter) error {
	number, path, err := h.w.parse(r.Body)
	if err != nil {
		h.w.broken(h.id, h.role.Name, r.Body)
		return err
	}
	h.w.history.Add(Event{Kind: EventHandled, Node: h.id, Record: number, Leaf: hash(path), N: uint64(r.Attempt), Text: h.role.Name})
	path += ">" + h.role.Name
	chance := mix(mix(h.w.seed, number), hash(path))
	if err := sleep(ctx, h.w.takes(h.role, number, chance)); err != nil {
		return err
	}
	ill := h.w.ill(h.role, number, path)
	switch {
	case ill.poison:
		return poisoned(ill, chance)
	case ill.hangs, ill.kills:
		if ill.kills {
			h.w.strike(ctx, strike{h.id, number})
		}
		<-ctx.Done()
		return context.Cause(ctx)
	case r.Attempt <= ill.fails:
		return errPlanned
	case !h.emits:
		return nil
	}
	outs := []string{path}
	if ill.pair {
		outs = append(outs, path+second)
		if mix(chance, uint64(time.Now().UnixNano()))&1 == 0 { // FAULTS L2
			outs[0], outs[1] = outs[1], outs[0]
		}
	}
	for _, path := range outs {
		if err := e.Emit(ctx, stream.Out{Body: h.w.body(number, path)}); err != nil {
			return err
		}
	}
	return nil
}

// late notes the records of a batch whose handling was ended.
func (h *loadHandler) late(b *stream.Batch) {
	for i := range b.Records {
		if number, path, err := h.w.parse(b.Records[i].Body); err == nil {
			h.w.history.Add(Event{Kind: EventLate, Node: h.id, Record: number, Leaf: hash(path), Text: h.role.Name})
		}
	}
}

// poisoned is how an attempt at a poison record ends: by an error that says so, by another, or by a
// panic, always the same.
func poisoned(i ill, chance uint64) error {
	switch {
	case i.atOnce:
		return stream.Poison(errPlanned)
	case mix(chance, 5)%2 == 0:
		panic(fmt.Sprintf("planned, for a poison record: %v", errPlanned))
	}
	return errPlanned
}

// strike is a record's doing: it ends its node.
type strike struct {
	node   topology.NodeID
	record uint64
}

// strike has the director end the node, and returns when it is about to.
func (w *Workload) strike(ctx context.Context, s strike) {
	select {
	case w.strikes <- s:
	case <-ctx.Done():
	}
}

// takes is how long a role works on a record: between half and one and a half times what it takes on
// average, by the block that the tap read, or by the record's own chance.
func (w *Workload) takes(r Role, number, chance uint64) time.Duration {
	p, n := number>>recordBits, number&(1<<recordBits-1)
	block := mix(mix(w.seed, p), mix(hash(r.Name), uint64(time.Duration(n)*w.gap/w.every)))
	if block%takesMixed != 0 {
		chance = block
	}
	return time.Duration((0.5 + unit(chance)) * float64(r.Takes)).Round(max(r.Takes/takesGrains, 1))
}
