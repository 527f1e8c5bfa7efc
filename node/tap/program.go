package tap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"weir/stream"
)

const (
	// restartMin and restartMax are how long a program that failed is left alone.
	restartMin = 100 * time.Millisecond
	restartMax = 30 * time.Second
	// programRest is how long what a program left behind may hold its output after it ended.
	programRest = 2 * time.Second
)

// Program is a tap of the lines that a program prints; run runs it once, and is called by one goroutine.
// Where it ends with nil the tap has ended; a *stream.ConfigError ends it too, and after any other error the
// program is started again, after 100 ms to 30 s: what it prints then are further records. Blocks end where
// what is there ends, so nothing waits for more to come.
//
// A program cannot be read again: what it printed and nobody had acked is lost with the node. When the tap is
// closed the program is ended.
func Program(name string, run func(ctx context.Context, stdout *os.File) error, cfg Config) (stream.Tap, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap program: %w", err)
	}
	return &programTap{cfg: cfg, name: name, run: run}, nil
}

type programTap struct {
	scope
	cfg  Config
	name string
	run  func(ctx context.Context, stdout *os.File) error
}

func (t *programTap) Partitions(context.Context) ([]string, error) {
	return []string{t.name}, nil
}

// Open readies the program; the first Next starts it.
func (t *programTap) Open(ctx context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	if len(at) > 0 {
		return nil, fmt.Errorf("open tap %s: what a program printed cannot be read again from a mark", partition)
	}
	src := &program{tap: t}
	src.ctx, src.cancel = context.WithCancel(context.WithoutCancel(ctx)) // until Close
	return &reader{src: src, rule: t.cfg.rule(cutRead)}, nil
}

// program is the source of a program.
type program struct {
	tap    *programTap
	ctx    context.Context // of its processes
	cancel context.CancelFunc

	out    *os.File      // what the process prints; nil: none was started
	result chan error    // of length 1: why the process ended
	ended  chan struct{} // closed then
	began  time.Time
	pause  time.Duration // the last one before a start
	taken  int64         // bytes
}

func (s *program) read(ctx context.Context, p []byte) (int, error) {
	if s.out == nil {
		if err := s.start(ctx); err != nil {
			return 0, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = s.out.SetReadDeadline(time.Unix(1, 0)) })
	n, err := s.out.Read(p[:min(len(p), readMax)])
	if !stop() && n == 0 {
		return 0, context.Cause(ctx)
	}
	if n > 0 {
		return n, nil
	}
	if err != io.EOF && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, fmt.Errorf("read what %s prints: %w", s.tap.name, err)
	}
	return 0, s.over()
}

// start starts a process, when its time has come.
func (s *program) start(ctx context.Context) error {
	if s.pause > 0 {
		timer := time.NewTimer(s.pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("read what %s prints: %w", s.tap.name, err)
	}
	growPipe(r)
	s.out, s.began = r, time.Now()
	result, ended := make(chan error, 1), make(chan struct{})
	s.result, s.ended = result, ended
	go func() { // ended by the process's end, or by close
		result <- s.tap.run(s.ctx, w)
		// What it left behind may hold the other end.
		_ = r.SetReadDeadline(time.Now().Add(programRest))
		_ = w.Close()
		close(ended)
	}()
	return nil
}

// over decides what follows a process whose output has ended: another, or what the error says.
func (s *program) over() error {
	<-s.ended
	err := <-s.result
	_ = s.out.Close() // it was read
	s.out = nil
	var config *stream.ConfigError
	switch {
	case err == nil:
		return io.EOF
	case errors.As(err, &config):
		return err
	case time.Since(s.began) > restartMax:
		s.pause = 0
	}
	s.pause = min(max(2*s.pause, restartMin), restartMax)
	s.tap.cfg.log().Warn("a program that is read has failed: it is started again", "program", s.tap.name, "after", s.pause, "err", err)
	return errTurn
}

func (s *program) take(p []byte) stream.Mark {
	s.taken += int64(len(p))
	return nil
}

func (s *program) at() (string, int64) { return "what " + s.tap.name + " prints", s.taken }

// close ends the process and waits for it.
func (s *program) close() error {
	s.cancel()
	if s.out != nil {
		<-s.ended
		_ = s.out.Close() // nobody reads on
		s.out = nil
	}
	return nil
}
