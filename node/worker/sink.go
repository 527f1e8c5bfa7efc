package worker

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"

	"weir/stream"
)

// NewSink looks the program up and returns a sink that runs it for each batch of records: their
// bodies, each with a newline, are its standard input, and it runs alone. Line, Frame, Procs, OK and
// Attempts do not apply. What it prints goes to the log, like its stderr.
//
// The ack: exit 0. Whether what it read is durable then, and what it does with a record that comes
// twice, is the program's business: a batch that it failed on is given to it again, in parts or in
// other company. Exit 75 has the sink wait, 65 says that a record of the batch is to blame, 126 and
// 127 stop the run, any other counts as an attempt of each record, which then comes alone. So does
// Deadline without a byte read or printed, after which it is killed.
func NewSink(cfg Config) (stream.Sink, error) {
	p, err := newProgram(cfg)
	if err != nil {
		return nil, err
	}
	return &sink{program: p, stdout: &limiter{log: p.stderr.log, stdout: true}}, nil
}

// sinkKeepMax is the largest batch whose memory is kept for the next, in bytes.
const sinkKeepMax = 4 << 20

type sink struct {
	*program
	stdout *limiter

	buf           []byte
	printed, errs tail
}

// Load has nothing: a program is not asked what it has seen.
func (*sink) Load(context.Context, uint64) ([]byte, error) { return nil, nil }

// Write runs the program to its end.
func (s *sink) Write(ctx context.Context, rs []stream.Record, _ stream.Seen) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.buf = s.buf[:0]
	for i := range rs {
		if i > 0 {
			s.buf = append(s.buf, '\n')
		}
		s.buf = append(s.buf, rs[i].Body...)
	}
	err := s.run(ctx, s.buf, rs[0].Attempt)
	if cap(s.buf) > sinkKeepMax {
		s.buf = nil
	}
	return err
}

// run runs one process with the text and a final newline.
func (s *sink) run(ctx context.Context, text []byte, attempt int) error {
	ctx, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	in := &input{body: text}
	s.printed.begin(s.stdout, func([]byte) {})
	s.errs.begin(s.stderr, func([]byte) {})
	cmd := s.command(ctx)
	cmd.Env = append(s.env, "WEIR_ATTEMPT="+strconv.Itoa(attempt))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &s.printed, &s.errs
	if err := s.start(cmd); err != nil {
		return err
	}
	stop := guard(s.deadline, func() int64 { return in.read() + s.printed.n.Load() + s.errs.n.Load() }, func() {
		kill(fmt.Errorf("it neither read nor printed a byte for %v, and was killed: raise deadline if it is slow", s.deadline))
	})
	err := s.wait(ctx, cmd)
	stop()
	s.printed.end()
	s.errs.end()
	var exit *exec.ExitError
	switch code := cmd.ProcessState.ExitCode(); {
	case ctx.Err() != nil:
		return fmt.Errorf("run %s: %w", s.name, context.Cause(ctx))
	case code == exitData:
		return stream.Poison(s.exitError(cmd.ProcessState, &s.errs))
	case code != 0:
		return s.exitError(cmd.ProcessState, &s.errs)
	case err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay):
		return fmt.Errorf("run %s: %w", s.name, err) // reading or writing a pipe
	}
	return nil
}

// Close has nothing to close: between Writes no process runs.
func (*sink) Close() error { return nil }
