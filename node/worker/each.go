package worker

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"weir/stream"
)

// DeadlineEach is how long a program that is run for each record may neither read nor print a byte.
// Nothing is known of how long a stranger's program thinks: it is to end one that hangs, not one
// that is slow.
const DeadlineEach = 10 * time.Minute

// looks is how often within a deadline the signs of progress are compared: a program that hangs is
// ended an eighth of it later.
const looks = 8

// handle runs the program for one record.
func (p *program) handle(ctx context.Context, r stream.Record, em stream.Emitter) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	free := func() { <-p.slots } // Emit may block: another process may run meanwhile
	out := p.outputs.Get().(*output)
	defer func() {
		if out.reset() {
			p.outputs.Put(out)
		}
	}()
	var said errLines
	err := p.run(ctx, r.Body, r.Attempt, p.deadline, out, &said)
	if lines := bytes.Count(r.Body, newline) + 1; lines > 1 && p.final(ctx, err, r.Attempt) {
		b := bisection{p: p, r: &r, em: em, out: out, said: &said}
		err = b.run(ctx, err, lines, free)
	} else {
		free()
		if err == nil && len(out.buf) > 0 {
			err = em.Emit(ctx, stream.Out{Body: bytes.TrimSuffix(out.buf, newline), Key: r.Key, Header: r.Header})
		}
	}
	if err != nil {
		return err
	}
	return said.emit(ctx, &r, em)
}

// run runs one process to its end and leaves what it printed in out.
func (p *program) run(ctx context.Context, body []byte, attempt int, deadline time.Duration, out *output, said *errLines) error {
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	errs := p.tails.Get().(*tail)
	defer p.tails.Put(errs)
	errs.begin(p.stderr, said.add)

	in := &input{body: body}
	cmd := p.command(ctx)
	cmd.Env = append(p.env, "WEIR_ATTEMPT="+strconv.Itoa(attempt))
	cmd.Stdin = in
	cmd.Stdout = out
	cmd.Stderr = errs
	out.begin(p.outputMax, func() { _ = signalGroup(cmd, syscall.SIGKILL) })

	if err := p.start(cmd); err != nil {
		return err
	}
	stop := guard(deadline, func() int64 { return in.read() + out.n.Load() + errs.n.Load() }, func() {
		kill(fmt.Errorf("it neither read nor printed a byte for %v, and was killed: raise deadline if it is slow", deadline))
	})
	err := p.wait(ctx, cmd)
	stop()
	errs.end()
	if ctx.Err() != nil {
		return fmt.Errorf("run %s: %w", p.name, context.Cause(ctx))
	}
	return p.verdict(cmd.ProcessState, err, out, errs)
}

// guard calls late when signs, which grow, have stayed the same for limit, and an eighth of it more
// at most. The caller stops it; late is not called after that.
func guard(limit time.Duration, signs func() int64, late func()) (stop func()) {
	var timer *time.Timer
	seen, same := int64(-1), 0
	turn := make(chan struct{}, 1) // a lock that a look does not wait for: taken, it is over
	every := max(limit/looks, time.Millisecond)
	timer = time.AfterFunc(never, func() {
		select {
		case <-turn:
		default:
			return
		}
		now := signs()
		if same++; now != seen {
			seen, same = now, 0
		}
		if same < looks {
			timer.Reset(every)
		} else {
			late()
		}
		turn <- struct{}{}
	})
	turn <- struct{}{}
	timer.Reset(every)
	return func() { <-turn; timer.Stop() }
}
