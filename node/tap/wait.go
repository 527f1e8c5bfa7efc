package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// waitReadable returns when f has something to read or has ended, or with ctx's cause. It
// waits with poll(2) and not in read(2), which nothing interrupts for the pipes and terminals
// that other programs give us: those block, and making them non-blocking would change them
// for the others too. One thread of the system waits with it.
func waitReadable(ctx context.Context, f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	defer unix.Close(wake)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(wake, binary.NativeEndian.AppendUint64(nil, 1)) // an eventfd takes it
	})
	var pollErr error
	err = conn.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
		for {
			if _, pollErr = unix.Poll(fds, -1); !errors.Is(pollErr, unix.EINTR) {
				return
			}
		}
	})
	if !stop() {
		<-woken // before wake is closed and its number another file's
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, pollErr)
}

// pipeBytes is what we ask a pipe on standard input to hold, in bytes: two blocks, so that its
// writer goes on while one is handed over. It is the most that a user without privileges gets
// (/proc/sys/fs/pipe-max-size).
const pipeBytes = 1 << 20

// growPipe makes f, where it is a pipe, hold pipeBytes; refused, it stays as it was.
func growPipe(f *os.File) {
	if conn, err := f.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeBytes) })
	}
}
