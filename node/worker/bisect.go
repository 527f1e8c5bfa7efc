package worker

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"weir/stream"
)

// Limits of a bisection. A line that fails among n takes 2 log2 n processes, 20 for a block of a
// thousand lines.
const (
	// splitsMax is how often parts of one block are halved; then what fails stays whole.
	splitsMax = 128
	// failsMax is how many parts may fail before the first one passes: a program that takes
	// nothing is not made to say so line by line.
	failsMax = 32
	// partDeadlineMin is the least time without progress that a part is given, unless the role's
	// deadline is shorter.
	partDeadlineMin = 30 * time.Second
	// reasonMax is how much of an error a letter of a line says in its header, in bytes: headers
	// are bounded all together (stream.Out).
	reasonMax = 1 << 10
)

// errTakesNothing ends a bisection whose parts all fail.
var errTakesNothing = errors.New("each part of the block fails")

// bisection runs a program on halves of a block that it failed on, and on halves of those, down to
// the lines that it fails on. What the parts that pass print is one output again, or several where
// they are too much for one record; the lines that fail go out on port dead.
type bisection struct {
	p    *program
	r    *stream.Record
	em   stream.Emitter
	out  *output // of one part
	said *errLines

	splits, fails int
	passed        bool
	text          []byte       // what the parts that passed printed, each with a final newline
	dead          []stream.Out // parts of the record's body
	first         error        // of the first of these
}

// run bisects the record, which failed with why and has so many lines; free is called when there
// are no more processes to run.
func (b *bisection) run(ctx context.Context, why error, lines int, free func()) error {
	*b.said = errLines{} // all that is said of each line is said again
	err := b.halve(ctx, b.r.Body, 1, lines, b.p.deadline)
	free()
	if errors.Is(err, errTakesNothing) {
		return why
	}
	if err == nil {
		err = b.flush(ctx)
	}
	if err == nil && len(b.dead) > 0 {
		err = b.em.EmitBatch(ctx, b.dead)
	}
	if errors.Is(err, stream.ErrNoEdge) { // nobody keeps letters
		return fmt.Errorf("line %s of it: %w", b.dead[0].Header[stream.HeaderLine], b.first)
	}
	return err
}

// halve tries both halves of a part whose first line has the number line.
func (b *bisection) halve(ctx context.Context, part []byte, line, lines int, deadline time.Duration) error {
	b.splits++
	at := 0
	for range lines / 2 {
		at += bytes.IndexByte(part[at:], '\n') + 1
	}
	deadline = max(deadline/2, min(partDeadlineMin, deadline)) // less to do
	if err := b.try(ctx, part[:at-1], line, lines/2, deadline); err != nil {
		return err
	}
	return b.try(ctx, part[at:], line+lines/2, lines-lines/2, deadline)
}

func (b *bisection) try(ctx context.Context, part []byte, line, lines int, deadline time.Duration) error {
	err := b.p.run(ctx, part, b.r.Attempt, deadline, b.out, b.said)
	switch {
	case err == nil:
		b.passed = true
		return b.keep(ctx)
	case !b.p.final(ctx, err, b.r.Attempt):
		return err
	}
	if b.fails++; b.fails >= failsMax && !b.passed {
		return errTakesNothing
	}
	if lines > 1 && b.splits < splitsMax {
		return b.halve(ctx, part, line, lines, deadline)
	}
	b.first = cmp.Or(b.first, err)
	b.dead = append(b.dead, b.letter(part, line, lines, err))
	return nil
}

// keep puts what the last part printed behind what the others did.
func (b *bisection) keep(ctx context.Context) error {
	printed := b.out.buf
	if len(printed) == 0 {
		return nil
	}
	if len(b.text)+len(printed)+1 > b.p.outputMax {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	b.text = append(b.text, printed...)
	if printed[len(printed)-1] != '\n' {
		b.text = append(b.text, '\n')
	}
	return nil
}

// flush hands on what was printed.
func (b *bisection) flush(ctx context.Context) error {
	if len(b.text) == 0 {
		return nil
	}
	body := b.text[:len(b.text)-1]
	b.text = b.text[:0] // Emit copies
	return b.em.Emit(ctx, stream.Out{Body: body, Key: b.r.Key, Header: b.r.Header})
}

// letter is the output for lines that the program fails on.
func (b *bisection) letter(part []byte, line, lines int, why error) stream.Out {
	number := strconv.Itoa(line)
	if lines > 1 {
		number = fmt.Sprintf("%d-%d", line, line+lines-1)
	}
	reason := why.Error()
	if len(reason) > reasonMax {
		reason = reason[:reasonMax]
	}
	header := maps.Clone(b.r.Header)
	if header == nil {
		header = make(map[string]string)
	}
	header[stream.HeaderLine], header[stream.HeaderReason] = number, reason
	header[stream.HeaderRole], header[stream.HeaderAttempts] = b.p.role, strconv.Itoa(b.r.Attempt)
	return stream.Out{Body: part, Key: b.r.Key, Header: header, Port: stream.PortDead}
}

// final reports whether err blames what the program was given, and for good: it said so, or this is
// the record's last attempt.
func (p *program) final(ctx context.Context, err error, attempt int) bool {
	if err == nil || ctx.Err() != nil {
		return false
	}
	code := stream.ExitCode(err)
	return code == exitData || code == 0 && attempt >= p.attempts
}
