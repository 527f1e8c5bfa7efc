package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

const (
	// socketPathMax is the longest path of a Unix socket on Linux, in bytes: sun_path holds 108
	// with the final zero (unix(7)).
	socketPathMax = 107
	// staleWait is how long a left-over socket may take to show that somebody still listens: a
	// local connect is answered by the kernel at once, and a new socket is listened on at once.
	staleWait = time.Second
)

// Dir is the folder in which nodes put their sockets and in which the command line looks for
// them: $XDG_RUNTIME_DIR/weir, else a folder of the user under the temporary directory. It may
// not exist yet: Listen makes it.
func Dir() string {
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" {
		return filepath.Join(d, "weir")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("weir-%d", os.Getuid()))
}

// Sockets lists the sockets in Dir on which a node listens, sorted. It removes those whose node
// was killed.
func Sockets() ([]string, error) {
	dir := Dir()
	paths, err := filepath.Glob(filepath.Join(dir, "*.sock"))
	if err != nil || len(paths) == 0 {
		return nil, err
	}
	if err := private(dir); err != nil {
		return nil, err
	}
	paths = slices.DeleteFunc(paths, func(path string) bool { return !live(path) })
	slices.Sort(paths)
	return paths, nil
}

// live reports whether somebody listens on the socket at path. One that nobody does, and that is
// not just being opened, it removes.
func live(path string) bool {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode()&os.ModeSocket == 0 {
		return false
	}
	c, err := net.DialTimeout("unix", path, staleWait)
	if err == nil {
		c.Close()
		return true
	}
	if errors.Is(err, syscall.ECONNREFUSED) && time.Since(fi.ModTime()) > staleWait {
		_ = os.Remove(path) // it stays, and is passed over
	}
	return !errors.Is(err, syscall.ECONNREFUSED)
}

// Listen opens a Unix socket at path with mode 0600, in a folder that only its owner can enter;
// it makes the folder if there is none and takes the place of a socket that nobody listens on.
func Listen(path string) (net.Listener, error) {
	if len(path) > socketPathMax {
		return nil, fmt.Errorf("socket %s: the path has %d bytes, a Unix socket's may have %d", path, len(path), socketPathMax)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the socket's folder: %w", err)
	}
	if err := private(dir); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open socket %s: %w", path, err)
	}
	// Until here the folder's mode alone keeps others out.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("open socket %s: %w", path, err)
	}
	return l, nil
}

// private refuses a folder that others can enter or that belongs to somebody else: in a shared
// temporary directory it may have been put there for us to find.
func private(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at the socket's folder: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.IsDir():
		return fmt.Errorf("%s is not a folder, so no socket can be in it", dir)
	case ok && st.Uid != uint32(os.Geteuid()):
		return fmt.Errorf("folder %s belongs to user %d, not to you: choose another with --socket", dir, st.Uid)
	case fi.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("folder %s is open to others (mode %04o): chmod 700 it, or choose another with --socket",
			dir, fi.Mode().Perm())
	}
	return nil
}

// removeStale removes the socket of a node that was killed, and nothing else.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at socket %s: %w", path, err)
	}
	if fi.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s is there and is not a socket: remove it or choose another path", path)
	}
	if c, err := net.DialTimeout("unix", path, staleWait); err == nil {
		c.Close()
		return fmt.Errorf("socket %s is in use by another node", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove a stale socket: %w", err)
	}
	return nil
}
