// Package servertest runs servers of others for tests: a Redis and a Postgres of their own, on
// loopback, in a directory under the temporary one. Only tests import it. A server ends with its
// test, or with the test's process. The waits are polled: these servers tell nobody.
package servertest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// T is what a server needs of a *testing.T.
type T interface {
	Helper()
	Cleanup(func())
	Fatal(...any)
	Skip(...any)
}

// Server is a server that a test may stop, kill and start again, at the same address with the same
// data. One goroutine uses it.
type Server struct {
	Addr string // host:port
	Dir  string // its data, and what it logs

	t     T
	argv  []string
	cred  *syscall.Credential // nil: the test's own
	ready func() bool
	cmd   *exec.Cmd // nil: not running
}

// readyWithin is how long a server may take until it answers: Postgres after a kill -9 waits for
// its children to end and reads its log, on a machine that does other work.
const readyWithin = 30 * time.Second

// Redis starts a redis-server that writes each command to its disk before it answers.
func Redis(t T, args ...string) *Server {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	s := newServer(t)
	_, port, _ := net.SplitHostPort(s.Addr)
	s.argv = append([]string{path, "--port", port, "--bind", "127.0.0.1", "--dir", s.Dir,
		"--appendonly", "yes", "--appendfsync", "always", "--save", ""}, args...)
	s.ready = s.listens
	s.Start()
	return s
}

// PostgresPassword is that of the user weir of a Postgres.
const PostgresPassword = "pa55word"

// Postgres starts a Postgres with the database postgres, whose owner is the user weir.
func Postgres(t T) *Server {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // where Debian has it
	if len(found) == 0 {
		t.Skip("postgresql is not installed")
	}
	bin := filepath.Dir(found[len(found)-1])
	s := newServer(t)
	if os.Getuid() == 0 { // it refuses to run so
		s.giveTo(t, "postgres")
	}
	password, data := filepath.Join(s.Dir, "password"), filepath.Join(s.Dir, "data")
	if err := os.WriteFile(password, []byte(PostgresPassword), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := s.command(filepath.Join(bin, "initdb"), "-D", data, "-U", "weir", "-A", "scram-sha-256",
		"--pwfile", password, "-E", "UTF8", "--locale", "C", "--no-sync")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal("initdb: ", err, ": ", string(out))
	}
	_, port, _ := net.SplitHostPort(s.Addr)
	s.argv = []string{filepath.Join(bin, "postgres"), "-D", data, "-p", port, "-k", s.Dir,
		"-c", "listen_addresses=127.0.0.1", "-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "shared_buffers=16MB"}
	s.ready = func() bool {
		return exec.Command(filepath.Join(bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port).Run() == nil
	}
	s.Start()
	return s
}

// URL is the address of a Postgres with its user, or of a Redis.
func (s *Server) URL() string {
	if strings.HasSuffix(s.argv[0], "postgres") {
		return "postgres://weir:" + PostgresPassword + "@" + s.Addr + "/postgres"
	}
	return "redis://" + s.Addr
}

func newServer(t T) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir-server-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free now
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	s := &Server{t: t, Dir: dir, Addr: l.Addr().String()}
	t.Cleanup(func() {
		s.Kill()
		_ = os.RemoveAll(dir)
	})
	return s
}

// giveTo has the server run as the user.
func (s *Server) giveTo(t T, name string) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32) // on Unix these are numbers
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	s.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(s.Dir, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) command(argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.cred, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Start starts the server, again where it was killed, and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	log := filepath.Join(s.Dir, "log")
	for end := time.Now().Add(readyWithin); time.Now().Before(end); {
		out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			s.t.Fatal(err)
		}
		s.cmd = s.command(s.argv...)
		s.cmd.Stdout, s.cmd.Stderr = out, out
		err = s.cmd.Start()
		_ = out.Close() // the server has it
		if err != nil {
			s.t.Fatal(err)
		}
		for time.Now().Before(end) && s.alive() {
			if s.ready() {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		s.Kill() // it found its port or memory still taken: again
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(log)
	s.t.Fatal(fmt.Sprintf("%s does not answer: %s", filepath.Base(s.argv[0]), text))
}

// alive reports whether the process runs, and reaps one that has ended.
func (s *Server) alive() bool {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(s.cmd.Process.Pid, &status, syscall.WNOHANG, nil)
	return pid == 0 && err == nil
}

func (s *Server) listens() bool {
	c, err := net.DialTimeout("tcp", s.Addr, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// Kill ends the server as kill -9 does.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Freeze stops the server and its children without ending them, until Thaw.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw lets a frozen server go on.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	pid := s.cmd.Process.Pid
	pids := []int{pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		child, _ := strconv.Atoi(strings.Split(path, "/")[2])
		_, rest, _ := strings.Cut(string(text), ") ") // proc(5): pid (name) state ppid
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			pids = append(pids, child)
		}
	}
	for _, p := range pids {
		if err := syscall.Kill(p, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			s.t.Fatal(err)
		}
	}
}
