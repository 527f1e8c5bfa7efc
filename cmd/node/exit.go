package main

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/spf13/cobra"

	"weir/node/api"
	"weir/node/spec"
)

// The exit codes (DESIGN 9). Those from 65 to 78 are sysexits.h's, those above 128 the shell's.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitWouldChange = 3
	exitData        = 65
	exitUnreachable = 69
	exitDisk        = 74
	exitBusy        = 75
	exitConfig      = 78
	exitInterrupted = 130
	exitReaderGone  = 141
)

// exitError is how a verb ends when not well. Without an Err there is nothing to print.
type exitError struct {
	Code int
	Err  error
}

func (e *exitError) Error() string {
	if e.Err == nil {
		return "exit"
	}
	return e.Err.Error()
}
func (e *exitError) Unwrap() error { return e.Err }

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// verb makes a RunE of f: its error carries an exit code, which tells it from a mistake in the
// flags.
func verb(f func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		return withCode(f(cmd, args))
	}
}

// withCode gives err the exit code that its kind has.
func withCode(err error) error {
	var (
		tagged      *exitError
		coded       interface{ ExitCode() int } // of a tap, a sink or a program
		unreachable *api.UnreachableError
		badFile     *spec.Error
		notYet      *spec.NotYetError
		path        *fs.PathError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tagged):
		return tagged
	case errors.As(err, &coded) && coded.ExitCode() == exitReaderGone:
		return &exitError{Code: exitReaderGone}
	case errors.As(err, &coded) && coded.ExitCode() > 0:
		return &exitError{coded.ExitCode(), err}
	case errors.Is(err, syscall.EPIPE): // stdout's reader has gone, as after `| head`
		return &exitError{Code: exitReaderGone}
	case errors.As(err, &path) && path.Op == "write": // stdout is full
		return &exitError{exitDisk, err}
	case errors.Is(err, syscall.EADDRINUSE):
		return &exitError{exitBusy, err}
	case errors.Is(err, errInterrupted), errors.Is(err, context.Canceled):
		return &exitError{Code: exitInterrupted}
	case errors.As(err, &unreachable):
		return &exitError{exitUnreachable, err}
	case errors.As(err, &badFile), errors.As(err, &notYet):
		return &exitError{exitConfig, err}
	case errors.Is(err, api.ErrAddress):
		return &exitError{exitUsage, err}
	}
	return &exitError{exitFailed, err}
}
