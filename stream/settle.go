package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"weir/stream/wire"
)

// What becomes of records that a handler had: they are acked, go back to their sender, or are dead
// letters.

// excerptBytes is how much of a record the reason of a failure quotes.
const excerptBytes = 60

// laterSaid is how often it is said again that records are tried later.
const laterSaid = time.Minute

// errCondemned is the reason of a record that its sender has blamed too often.
var errCondemned = errors.New("its nodes died each time they had it in hand alone")

// finish settles what a handler had, and notes how long it took.
func (in *Inlet) finish(ctx context.Context, b *Batch, err error, took time.Duration) {
	b.close(err)
	handled, later := in.settle(ctx, b)
	b.release()
	in.mu.Lock()
	in.busy -= len(b.Records)
	in.idle++
	in.learn(handled, took)
	say := in.waits.note(later)
	in.work.Signal()
	in.mu.Unlock()
	if say {
		in.cfg.Log.Warn("role tries again", "role", in.cfg.Role, "err", later)
	}
}

// learn notes how long the handler takes for a record. Those that it gave back do not count: a refusal
// may take no time at all, and a hand that was given many for it works on them one after the other.
func (in *Inlet) learn(handled int, took time.Duration) {
	if handled == 0 {
		return
	}
	in.worked, in.last = true, took
	per := took / time.Duration(handled)
	in.service += (per - in.service) / 4
	if per > in.service { // slower than thought: believe it at once
		in.service = per
	}
}

// settle acks what was handled, and sees to what was not. It returns how many were, and the last Retry,
// nil: none.
func (in *Inlet) settle(ctx context.Context, b *Batch) (handled int, later error) {
	done := ackBatch{slabs: &in.cfg.Budget.slabs}
	for i, t := range b.trees {
		reason := b.emitters[i].nack
		r, seq := t.slab.owner.(*Receiver), t.seq
		if reason == nil {
			handled++
		}
		if reason == nil && b.emitters[i].strays != nil {
			in.buryStrays(ctx, b, i)
		}
		nacked := reason != nil && !in.refused(ctx, b, i, reason)
		if nacked {
			if _, retry := RetryAfter(reason); retry {
				later = reason
			}
		}
		t.nacked = nacked
		if !done.done(t) && !nacked { // its acks may have finished t by now
			r.handled(seq)
			if in.cfg.Hooks.has(BugAckEarly) {
				r.ack(seq, seq+1)
			}
		}
	}
	done.flush()
	return handled, later
}

// waits is why records are tried again later, for who looks.
type waits struct {
	why   error     // of the last batch
	until time.Time // they have come again by then, here or elsewhere
	said  time.Time
}

// note takes what a batch came to, nil: nothing of it is tried again. It reports whether that is to be
// logged: at once, and once in a while.
func (w *waits) note(later error) (say bool) {
	w.why = later
	if later == nil {
		return false
	}
	after, _ := RetryAfter(later)
	now := time.Now()
	w.until = now.Add(max(after, backoffMax) + time.Second)
	say = now.Sub(w.said) >= laterSaid
	if say {
		w.said = now
	}
	return say
}

// text is why records wait, "" where none does.
func (w *waits) text() string {
	if w.why == nil || time.Now().After(w.until) {
		return ""
	}
	return w.why.Error()
}

// refused sees to a record that was not handled. It reports whether the record has become a dead
// letter, which is acked when that is durable and what was made of the record is acked; otherwise
// its sender has it back.
func (in *Inlet) refused(ctx context.Context, b *Batch, i int, err error) (letter bool) {
	rec, t := &b.Records[i], b.trees[i]
	r := t.slab.owner.(*Receiver)
	n := wire.Nack{Seq: t.seq, Code: wire.CodeAttempt, Exit: uint64(ExitCode(err)), Reason: err.Error()}
	var config *ConfigError
	var retry *retryError
	var poison *poisonError
	switch {
	case ctx.Err() != nil: // the end of its link gives it back
		return false
	case errors.As(err, &config):
		n.Code, n.Reason = wire.CodeStop, fmt.Sprintf("role %s: %v", in.cfg.Role, err)
	case errors.As(err, &retry):
		n.Code, n.After = wire.CodeRetry, uint64(max(retry.after, 0)/time.Millisecond)
	case !errors.As(err, &poison) && rec.Attempt < in.cfg.Attempts:
	case in.keepsLetters():
		dead := *rec
		if poison != nil && poison.lines != nil {
			dead = poison.lines.of(dead)
		}
		in.bury(ctx, b, i, dead, err)
		return true
	case poison != nil:
		n.Code, n.Reason = wire.CodeStop, fmt.Sprintf("role %s cannot handle %s: %v", in.cfg.Role, describe(rec), err)
	default:
		n.Code, n.Reason = wire.CodeStop, fmt.Sprintf("role %s failed %d times on %s: %v", in.cfg.Role, in.cfg.Attempts, describe(rec), err)
	}
	r.nack(n)
	return false
}

// describe says which record it is, as far as a person needs it to find the record.
func describe(rec *Record) string {
	return fmt.Sprintf("record %d of its source, %s", rec.ID.Seq, excerpt(rec.Body))
}

// excerpt is the first line of a body, quoted.
func excerpt(body []byte) string {
	line, _, more := bytes.Cut(body, []byte{'\n'})
	if len(line) > excerptBytes {
		line, more = line[:excerptBytes], true
	}
	if more {
		return fmt.Sprintf("which begins %q", line)
	}
	return fmt.Sprintf("%q", line)
}
