package main

import (
	"errors"

	"golang.org/x/sys/unix"

	"weir/node/spec"
)

// checkStdio refuses to run a pipeline whose tap or sink is a standard stream that was closed, as
// by `>&-`: all that it writes would be lost.
func checkStdio(f *spec.File) error {
	for _, r := range f.Roles {
		switch {
		case r.Tap != nil && r.Tap.Stdin && closed(unix.Stdin):
			return &exitError{exitFailed, errors.New("stdin is closed, or /dev/null opened for writing too, which looks the same: use </dev/null for no input")}
		case r.Sink != nil && r.Sink.Stdout && closed(unix.Stdout):
			return &exitError{exitDisk, errors.New("stdout is closed, or /dev/null opened for reading too, which looks the same: use >/dev/null to throw the output away")}
		}
	}
	return nil
}

// closed reports whether a standard stream was closed when the program started. Go's runtime then
// puts /dev/null in its place, open for both reading and writing (runtime/fds_unix.go), which a
// shell's redirection never is.
func closed(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return false // the first use says it
	}
	null := st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) // null(4)
	mode, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return null && err == nil && mode&unix.O_ACCMODE == unix.O_RDWR
}
