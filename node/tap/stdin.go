package tap

import (
	"context"
	"fmt"
	"io"
	"os"

	"weir/stream"
)

// Stdin is a tap that reads r, once. It cannot be read again: what was read and not acked when
// the process ends is lost, and a mark is refused. Blocks end where what is there ends, so
// nothing waits for more to come.
//
// Where r is an *os.File (a pipe, a terminal, a socket, a file), Next ends when its context
// does, at once. The Read of any other reader is waited for. The tap never closes r.
func Stdin(r io.Reader, cfg Config) (stream.Tap, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("tap stdin: %w", err)
	}
	return &stdinTap{cfg: cfg, r: r}, nil
}

type stdinTap struct {
	scope
	cfg Config
	r   io.Reader
}

func (t *stdinTap) Partitions(context.Context) ([]string, error) {
	return []string{"stdin"}, nil
}

// Open starts reading. There is one standard input: it is opened once.
func (t *stdinTap) Open(_ context.Context, partition string, at stream.Mark) (stream.Reader, error) {
	if partition != "stdin" {
		return nil, fmt.Errorf("open tap stdin: it has no partition %s", partition)
	}
	if len(at) > 0 {
		return nil, fmt.Errorf("open tap %s: standard input cannot be read again from a mark", partition)
	}
	src := &stdin{r: t.r}
	if f, ok := t.r.(*os.File); ok {
		growPipe(f)
		src.file = f
	}
	return &reader{src: src, rule: t.cfg.rule(cutRead)}, nil
}

// stdin is the source of standard input.
type stdin struct {
	r     io.Reader
	file  *os.File // r, where it is a file
	taken int64    // bytes
}

// readMax is the most that is taken of standard input at once, in bytes: a block. Its rest is
// better off in the pipe, where the next block grows.
const readMax = blockMax

func (s *stdin) read(ctx context.Context, p []byte) (int, error) {
	if s.file != nil {
		if err := waitReadable(ctx, s.file); err != nil {
			return 0, fmt.Errorf("read stdin: %w", err)
		}
	}
	n, err := s.r.Read(p[:min(len(p), readMax)])
	if n > 0 {
		return n, nil // an error comes again, and an end too
	}
	return 0, err
}

// take has no mark to give.
func (s *stdin) take(p []byte) stream.Mark {
	s.taken += int64(len(p))
	return nil
}

func (s *stdin) at() (string, int64) { return "stdin", s.taken }

func (s *stdin) close() error { return nil }
