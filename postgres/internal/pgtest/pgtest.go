// Package pgtest finds a PostgreSQL server for tests: the one that POSTRIDER_POSTGRES names, a DSN, else a temporary one
// from the binaries that are installed.
package pgtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// ErrNone means that there is no server and none can be started.
var ErrNone = errors.New("POSTRIDER_POSTGRES is not set and no PostgreSQL is installed")

// Server is a running server.
type Server struct {
	DSN    string
	unsafe bool // it runs with fsync off
	port   int
	dir    string
	bin    string
	own    *syscall.SysProcAttr
}

// Unsafe reports whether the server was started with fsync off.
func (s *Server) Unsafe() bool { return s.unsafe }

// Start returns a server, which Stop has to end.
func Start() (*Server, error) {
	if dsn := os.Getenv("POSTRIDER_POSTGRES"); dsn != "" {
		return &Server{DSN: dsn}, nil
	}
	return Temporary(false)
}

// Temporary returns a server of its own, with fsync or, faster, without.
func Temporary(fsync bool) (*Server, error) {
	bin := binaries()
	if bin == "" {
		return nil, ErrNone
	}
	dir, err := os.MkdirTemp("", "postrider-postgres-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: bin, unsafe: !fsync}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// binaries returns the folder of the newest server that is installed, "" if there is none.
func binaries() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	more, _ := filepath.Glob("/usr/pgsql-*/bin/initdb")
	found = append(found, more...)
	slices.Sort(found)
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append([]string{path}, found...)
	}
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

func (s *Server) start() error {
	if os.Getuid() == 0 { // the server refuses root
		if err := s.giveAway(); err != nil {
			return err
		}
	}
	var err error
	if s.port, err = freePort(); err != nil {
		return err
	}
	if err := s.run("initdb", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		return err
	}
	s.DSN = fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable", s.port)
	return s.Launch()
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Launch starts a temporary server that Halt has stopped.
func (s *Server) Launch() error {
	options := []string{
		"-c listen_addresses=127.0.0.1", "-c port=" + strconv.Itoa(s.port), "-c unix_socket_directories=" + s.dir,
		"-c max_connections=200", "-c shared_buffers=256MB", "-c max_wal_size=4GB",
		"-c max_parallel_workers_per_gather=0", // the cores are the tests'
	}
	if s.unsafe {
		options = append(options, "-c fsync=off", "-c full_page_writes=off")
	}
	return s.run("pg_ctl", "-D", s.data(), "-w", "-l", filepath.Join(s.dir, "log"), "-o", strings.Join(options, " "), "start")
}

// Halt stops a temporary server at once, as if it had crashed: nothing is brought to an end.
func (s *Server) Halt() error {
	return s.run("pg_ctl", "-D", s.data(), "-w", "-m", "immediate", "stop")
}

// giveAway lets the server run as somebody who is not root.
func (s *Server) giveAway() error {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		s.own = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		return os.Chown(s.dir, uid, gid)
	}
	return errors.New("no user to run a server as")
}

func (s *Server) run(name string, args ...string) error {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.own
	// Not a pipe: the server would keep it open.
	log, err := os.CreateTemp(s.dir, name)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%s: %w\n%s", name, err, text)
	}
	return nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Stop ends a server that Start has started, and removes it.
func (s *Server) Stop() error {
	if s.dir == "" {
		return nil
	}
	return errors.Join(s.Halt(), os.RemoveAll(s.dir))
}
