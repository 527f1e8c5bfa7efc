package tap

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"

	"weir/stream"
)

// Generated says what a generator makes.
type Generated struct {
	Records int     // lines in all; 0 = without end
	Size    int     // bytes of a line without its newline; at least its number's 12
	Rate    float64 // lines a second; 0 = as fast as they are taken
}

// Validate returns the first error, with the field's name.
func (g Generated) Validate() error {
	switch {
	case g.Records < 0:
		return fmt.Errorf("field Records: %d is negative", g.Records)
	case g.Size < 0:
		return fmt.Errorf("field Size: %d is negative", g.Size)
	case g.Rate != 0 && !(g.Rate >= rateMin && g.Rate <= rateMax): // so NaN is refused
		return fmt.Errorf("field Rate: %v lines a second is not between %v and %v", g.Rate, rateMin, rateMax)
	}
	return nil
}

// Rates for which the arithmetic of times is exact, in lines a second: one in 11 days, and one
// a nanosecond.
const (
	rateMin = 1e-6
	rateMax = 1e9
)

// Times of a generator with a rate.
const (
	// catchUp is how much of the time in which nobody took lines is made up for at once: more
	// would be a burst that the rate was to prevent.
	catchUp = 100 * time.Millisecond
	// blockTime is how much time a block of lines holds: what it delays its first line by.
	blockTime = 100 * time.Millisecond
)

// Generate is a tap of numbered lines, `000000000001 xxx…`, from 1. It gives the same lines
// from the same mark. Blocks are counted in lines: g.Records are lines even there.
func Generate(g Generated, cfg Config) (stream.Tap, error) {
	if err := g.Validate(); err != nil {
		return nil, fmt.Errorf("tap generate: %w", err)
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap generate: %w", err)
	}
	if g.Size > cfg.recordMax() {
		return nil, fmt.Errorf("tap generate: Size: %d is more than a record may hold, %d bytes: raise record-max", g.Size, cfg.recordMax())
	}
	return &generateTap{scope: scope{replayable: true}, cfg: cfg, g: g}, nil
}

type generateTap struct {
	scope
	cfg Config
	g   Generated
}

func (t *generateTap) Partitions(context.Context) ([]string, error) {
	return []string{"generate"}, nil
}

// Open starts with the line at the mark; a rate counts from here.
func (t *generateTap) Open(_ context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	if partition != "generate" {
		return nil, fmt.Errorf("open tap generate: it has no partition %s", partition)
	}
	line := template(t.g.Size)
	r := t.cfg.rule(cutBlock)
	if t.cfg.Block && t.g.Rate > 0 {
		r.cut = cutFixed
		r.block = int(min(t.g.Rate*blockTime.Seconds()*float64(len(line)), blockMax))
	}
	from, err := r.resume(at, t.g.Size)
	if err != nil {
		return nil, fmt.Errorf("open tap %s: %w", partition, err)
	}
	src := &generator{
		g:     t.g,
		label: partition,
		line:  line,
		made:  from.before / int64(len(line)),
		place: from,
		pace:  pace{rate: t.g.Rate, began: time.Now()},
	}
	return &reader{src: src, rule: r, before: from.before}, nil
}

// numberDigits is how many digits a line's number has; it begins anew after them.
const numberDigits = 12

// template is a line of size bytes and its newline, its number to be written over.
func template(size int) []byte {
	line := make([]byte, max(size, numberDigits)+1)
	for i := range line {
		line[i] = 'x'
	}
	if size > numberDigits {
		line[numberDigits] = ' '
	}
	line[len(line)-1] = '\n'
	return line
}

// generator is the source of the lines.
type generator struct {
	g     Generated
	label string
	line  []byte // the present one
	rest  []byte // what of it was not read yet
	made  int64  // lines
	place place  // behind all that was taken
	mark  []byte // of that
	pace  pace
}

func (s *generator) read(ctx context.Context, p []byte) (int, error) {
	due, err := s.due(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) {
		if len(s.rest) == 0 {
			if due <= 0 {
				break
			}
			s.number()
			due--
		}
		m := copy(p[n:], s.rest)
		s.rest = s.rest[m:]
		n += m
	}
	return n, nil
}

// due returns how many lines may be made now; it waits for the first where there is a rate.
func (s *generator) due(ctx context.Context) (int, error) {
	due := math.MaxInt
	if s.g.Records > 0 {
		due = s.g.Records - int(s.made)
	}
	switch {
	case due <= 0 && len(s.rest) == 0:
		return 0, io.EOF
	case s.g.Rate == 0:
		return due, nil
	case len(s.rest) > 0: // it has been waited for
		return 0, nil
	}
	paced, err := s.pace.wait(ctx)
	return min(due, paced), err
}

// number makes the next line.
func (s *generator) number() {
	s.made++
	s.pace.taken++
	for i, v := numberDigits-1, s.made; i >= 0; i-- {
		s.line[i] = byte('0' + v%10)
		v /= 10
	}
	s.rest = s.line
}

func (s *generator) take(p []byte) stream.Mark {
	s.place.before += int64(len(p))
	s.mark = s.place.append(s.mark[:0])
	return s.mark
}

func (s *generator) at() (string, int64) { return s.label, s.place.before }

func (s *generator) close() error { return nil }

// pace says how many lines are due.
type pace struct {
	rate  float64 // lines a second
	began time.Time
	taken int64 // lines, those included that nobody took in time
}

// due is how many lines there are to take at now: the first at once, then one each 1/rate.
func (p *pace) due(now time.Time) int {
	due := int64(p.rate*now.Sub(p.began).Seconds()) + 1 - p.taken
	most := max(1, int64(p.rate*catchUp.Seconds()))
	if due > most {
		p.taken += due - most
		due = most
	}
	return int(due)
}

// wait returns how many lines are due once one is.
func (p *pace) wait(ctx context.Context) (int, error) {
	for {
		if n := p.due(time.Now()); n > 0 {
			return n, nil
		}
		at := p.began.Add(time.Duration(float64(p.taken) / p.rate * float64(time.Second)))
		timer := time.NewTimer(max(time.Until(at), time.Microsecond)) // at may be rounded down
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, context.Cause(ctx)
		}
	}
}
