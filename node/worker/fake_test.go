package worker

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"weir/stream"
)

// fakeEmitter keeps what is emitted.
type fakeEmitter struct {
	errs, noDead bool // an edge starts at port err; nobody keeps letters

	mu   sync.Mutex
	outs []stream.Out
}

func (f *fakeEmitter) Emit(_ context.Context, o stream.Out) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	o.Body = bytes.Clone(o.Body)
	f.outs = append(f.outs, o)
	return nil
}

func (f *fakeEmitter) EmitBatch(ctx context.Context, os []stream.Out) error {
	if os[0].Port == "err" && !f.errs || os[0].Port == "dead" && f.noDead {
		return fmt.Errorf("no: %w", stream.ErrNoEdge)
	}
	for _, o := range os {
		if err := f.Emit(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeEmitter) Offer(o stream.Out) error { return f.Emit(context.Background(), o) }
