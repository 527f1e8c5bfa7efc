package worker

import (
	"context"
	"fmt"
	"os"
)

// Prints returns what runs the program once, with nothing to read: what it prints goes to stdout, a file
// that the caller closes. It returns when the process has ended, nil for one of the codes that OK has, and
// ends its group with ctx. Errors are those of New's handler: a *stream.ConfigError where there is
// nothing to run. One goroutine uses it.
func Prints(cfg Config) (func(ctx context.Context, stdout *os.File) error, error) {
	p, err := newProgram(cfg)
	if err != nil {
		return nil, err
	}
	errs := new(tail)
	return func(ctx context.Context, stdout *os.File) error {
		cmd := p.command(ctx)
		cmd.Stdout, cmd.Stderr = stdout, errs
		errs.begin(p.stderr, func([]byte) {})
		if err := p.start(cmd); err != nil {
			return err
		}
		_ = p.wait(ctx, cmd) // the state says it too
		errs.end()
		code := cmd.ProcessState.ExitCode()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("run %s: %w", p.name, context.Cause(ctx))
		case code < 0 || !p.ok[code]:
			return p.exitError(cmd.ProcessState, errs)
		}
		return nil
	}, nil
}
