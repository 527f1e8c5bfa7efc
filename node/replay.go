package node

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"weir/node/api"
	"weir/node/dead"
	"weir/stream"
)

const (
	// tellEvery is how often who waits for an injection is told how far it is.
	tellEvery = 250 * time.Millisecond
	// notesMax is how many reasons are told why letters stay.
	notesMax = 10
	// headerDead names the letter that a record was.
	headerDead = "weir-dead-id"
	// headersMax and headerBytesMax are the most that a record's headers may be (stream.Out).
	headersMax, headerBytesMax = 32, 4 << 10
)

// replay is letters of this node on their way into their roles again. A letter is gone when its
// record is acked end to end; a record that fails again makes another letter.
type replay struct {
	ls   *letters
	wake chan struct{} // a flag: acked is not empty

	mu    sync.Mutex
	out   api.Replayed
	acked []string
}

// answerReplay replays letters of this node and says how far it is until all are acked, or the
// asker has gone.
func (ls *letters) answerReplay(ctx context.Context, in json.RawMessage, tell func(any) error) error {
	var q deadQuery
	if err := json.Unmarshal(in, &q); err != nil {
		return err
	}
	t, err := ls.take(q)
	if err != nil {
		return err
	}
	defer ls.release(t.taken)
	r := &replay{ls: ls, wake: make(chan struct{}, 1)}
	r.out.Of = len(t.taken) + t.busy
	if t.busy > 0 {
		r.note("%d are being replayed or dropped already", t.busy)
	}
	roles := make(map[roleKey][]string)
	for _, id := range t.taken {
		roles[t.roles[id]] = append(roles[t.roles[id]], id)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	for _, key := range slices.SortedFunc(maps.Keys(roles), compareKeys) {
		group.Go(func() { r.run(ctx, key, roles[key]) }) // ended by ctx, or when all are acked
	}
	finished := make(chan struct{})
	go func() { // ended by those above
		defer close(finished)
		group.Wait()
	}()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.wake:
			r.drop()
			continue
		case <-tick.C:
			if err := tell(r.far()); err != nil {
				cancel() // the asker has gone
				<-finished
				r.drop()
				return err
			}
			continue
		case <-finished:
		}
		r.drop()
		return tell(r.far())
	}
}

// run replays letters of one role.
func (r *replay) run(ctx context.Context, key roleKey, ids []string) {
	n := r.ls.n
	p, _ := n.consensus.State().Pipeline(key.pipeline)
	in := &injection{pipeline: key.pipeline, role: key.role}
	in.reader = &letterReader{r: r, in: in, ids: ids, recordMax: p.RecordMax}
	err := n.injections.run(ctx, in)
	r.drop()
	again := 0
	if in.id.Gen != 0 {
		again = n.lettersOf(context.WithoutCancel(ctx), in.id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Again += again
	if err != nil && ctx.Err() == nil {
		r.noteLocked("%s/%s: %v", key.pipeline, key.role, err)
	}
}

// drop drops the letters that are acked.
func (r *replay) drop() {
	r.mu.Lock()
	ids := r.acked
	r.acked = nil
	r.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	n, err := r.ls.store.Drop(ids...)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Letters += n
	if err != nil {
		r.noteLocked("%d were replayed and are still there: %v", len(ids), err)
	}
}

func (r *replay) far() api.Replayed {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.out
	out.Notes = slices.Clone(out.Notes)
	return out
}

func (r *replay) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noteLocked(format, args...)
}

func (r *replay) noteLocked(format string, args ...any) {
	if len(r.out.Notes) < notesMax {
		r.out.Notes = append(r.out.Notes, fmt.Sprintf(format, args...))
	}
}

// letterReader reads letters, the oldest first; a mark is the place of a letter among ids.
type letterReader struct {
	r         *replay
	in        *injection
	ids       []string
	next      int
	recordMax int
}

func (lr *letterReader) Next(ctx context.Context) (stream.Out, stream.Mark, error) {
	for lr.next < len(lr.ids) {
		if ctx.Err() != nil {
			return stream.Out{}, nil, context.Cause(ctx)
		}
		at := lr.next
		lr.next++
		l, c, err := lr.r.ls.store.Get(lr.ids[at])
		switch most := max(lr.recordMax, 0); {
		case errors.Is(err, dead.ErrNone):
			continue
		case err != nil:
			lr.r.note("letter %s: %v", lr.ids[at], err)
			continue
		case l.Port != "":
			lr.r.note("letter %s is what role %s gave out by port %s, where no edge starts: there is no role to replay it into", l.ID, l.Role, l.Port)
			continue
		case len(c.Body) > most && (most > 0 || len(c.Body) > stream.RecordBytesMax):
			lr.r.note("letter %s has %d bytes, more than a record of the pipeline may have: raise record-max", l.ID, len(c.Body))
			continue
		}
		return stream.Out{Body: c.Body, Key: c.Key, Header: withID(c.Header, l.ID), Port: lr.in.port}, binary.AppendUvarint(nil, uint64(at)), nil
	}
	return stream.Out{}, nil, io.EOF
}

// withID adds the letter's id to the headers, where there is room for it.
func withID(h map[string]string, id string) map[string]string {
	bytes := len(headerDead) + len(id)
	for k, v := range h {
		bytes += len(k) + len(v)
	}
	if _, has := h[headerDead]; !has && (len(h) >= headersMax || bytes > headerBytesMax) {
		return h
	}
	h = maps.Clone(h)
	if h == nil {
		h = make(map[string]string)
	}
	h[headerDead] = id
	return h
}

func (lr *letterReader) Done(m stream.Mark, _ error) {
	at, _ := binary.Uvarint(m)
	lr.r.mu.Lock()
	lr.r.acked = append(lr.r.acked, lr.ids[at])
	lr.r.mu.Unlock()
	select {
	case lr.r.wake <- struct{}{}:
	default:
	}
}

func (lr *letterReader) Close() error { return nil }
