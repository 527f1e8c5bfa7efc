package worker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"weir/stream"
)

// Exit codes by which a shell, env or nice says that there was nothing to run (POSIX, Exit
// Status for Commands).
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// Exit codes by which a program says what its failure means (sysexits.h).
const (
	exitData     = 65 // EX_DATAERR: no attempt can help
	exitTempfail = 75 // EX_TEMPFAIL: later, and nobody is to blame
)

// ExitError says how a program ended that was not to end so.
type ExitError struct {
	Name   string         // of the program
	Code   int            // its exit code; -1: a signal ended it
	Signal syscall.Signal // that signal, or 0
	Last   string         // what it wrote to stderr at its end, at most 4 KiB
}

// Stderr is what the program wrote there at its end, for a dead letter.
func (e *ExitError) Stderr() string { return e.Last }

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit %d", e.Code)
	switch {
	case e.Code < 0:
		how = "killed by " + unix.SignalName(e.Signal)
		if e.Signal == syscall.SIGKILL { // not by us: then there is a better reason
			how += ", perhaps for want of memory"
		}
	case e.Code == exitNotFound:
		how += ", program not found"
	case e.Code == exitNotExecutable:
		how += ", program not executable"
	}
	if e.Last == "" {
		return e.Name + ": " + how
	}
	return e.Name + ": " + how + ": " + e.Last
}

// verdict says what the end of a process means for its record: nil acks.
func (p *program) verdict(ps *os.ProcessState, waitErr error, out *output, errs *tail) error {
	if out.full {
		return p.tooMuch()
	}
	if code := ps.ExitCode(); code < 0 || !p.ok[code] {
		err := p.exitError(ps, errs)
		if code == exitData {
			err = stream.Poison(err)
		}
		return err
	}
	if out.cut != nil {
		return fmt.Errorf("%s: exited, but %v later something it started still held its standard output: send that one's elsewhere", p.name, p.grace)
	}
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) && !errors.Is(waitErr, exec.ErrWaitDelay) {
		return fmt.Errorf("run %s: %w", p.name, waitErr) // reading or writing a pipe
	}
	return nil
}

func (p *program) tooMuch() error {
	return fmt.Errorf("%s: printed more than %d bytes for one record and was killed: raise record-max", p.name, p.outputMax-1)
}

// exitError is how a process ended: a *stream.ConfigError where there was nothing to run, a
// stream.Retry where it asks for that.
func (p *program) exitError(ps *os.ProcessState, errs *tail) error {
	e := &ExitError{Name: p.name, Code: ps.ExitCode(), Last: errs.last()}
	if ws, ok := ps.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	if e.Code == exitNotFound || e.Code == exitNotExecutable {
		return &stream.ConfigError{Err: e}
	}
	if e.Code == exitTempfail {
		return stream.Retry(0, e)
	}
	return e
}

// startError says why no process came to be: a *stream.ConfigError where none ever will, else a
// stream.Retry, as no record is to blame.
func (p *program) startError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return &stream.ConfigError{Err: fmt.Errorf("run %s: %s is no program for this machine: has it a #! line?", p.name, p.path)}
	case errors.Is(err, fs.ErrNotExist):
		// The file was there: so it is its directory or its interpreter that is not.
		return &stream.ConfigError{Err: fmt.Errorf("run %s: %w: the program, the interpreter in its #! line or its directory is gone", p.name, err)}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.E2BIG):
		return &stream.ConfigError{Err: fmt.Errorf("run %s: %w", p.name, err)}
	}
	return stream.Retry(0, fmt.Errorf("run %s: %w", p.name, err)) // no memory, no process left: for a while
}
