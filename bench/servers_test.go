package bench_test

import (
	"context"
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
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// servers is the processes that peers need, each started when it is first asked for.
type servers struct {
	postgres, redis *process
	databases       int
}

// process is a server that was started, or why it was not.
type process struct {
	err     error
	version string
	address string // a DSN or host:port
	pid     int    // its children are its too
	dir     string // of its files
	stop    func() error
}

func (s *servers) stop(b *testing.B) {
	for _, p := range []*process{s.postgres, s.redis} {
		if p != nil && p.err == nil {
			require.NoError(b, p.stop())
		}
	}
}

// versions names the servers that were started.
func (s *servers) versions() []string {
	list := required(map[string]string{
		"github.com/riverqueue/river": "River", "github.com/nats-io/nats-server/v2": "NATS server", "github.com/hibiken/asynq": "asynq",
		"go.etcd.io/bbolt": "bbolt", "github.com/valyala/fasthttp": "fasthttp",
	})
	if s.postgres != nil && s.postgres.err == nil {
		list = append(list, "PostgreSQL "+s.postgres.version)
	}
	if s.redis != nil && s.redis.err == nil {
		list = append(list, "Redis "+s.redis.version)
	}
	return list
}

// database returns an empty database on a temporary PostgreSQL server, with fsync on, default settings and 256 MB of
// shared_buffers.
func (s *servers) database(b *testing.B) (dsn string, drop func() error, err error) {
	if s.postgres == nil {
		s.postgres = startPostgres(b)
	}
	if s.postgres.err != nil {
		return "", nil, s.postgres.err
	}
	s.databases++
	name := "bench_" + strconv.Itoa(s.databases)
	if err := s.admin("CREATE DATABASE " + name); err != nil {
		return "", nil, err
	}
	dsn = strings.Replace(s.postgres.address, "dbname=postgres", "dbname="+name, 1)
	if quick() {
		return dsn, func() error { return nil }, nil // it goes with the server: dropping it costs a checkpoint
	}
	return dsn, func() error { return s.admin("DROP DATABASE " + name + " WITH (FORCE)") }, nil
}

// pool returns connections to an empty database, all of them open; the default number of the pool if conns is 0.
// remove closes them and drops the database.
func (s *servers) pool(b *testing.B, conns int32) (pool *pgxpool.Pool, remove func() error, err error) {
	dsn, drop, err := s.database(b)
	if err != nil {
		return nil, nil, err
	}
	c, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, nil, errors.Join(err, drop())
	}
	switch {
	case quick():
		c.MaxConns = 8 // each is a process to start
	case conns > 0:
		c.MaxConns = conns
	}
	if pool, err = pgxpool.NewWithConfig(b.Context(), c); err != nil {
		return nil, nil, errors.Join(err, drop())
	}
	remove = func() error {
		pool.Close()
		return drop()
	}
	var held []*pgxpool.Conn
	for range c.MaxConns {
		conn, e := pool.Acquire(b.Context())
		if e != nil {
			err = e
			break
		}
		held = append(held, conn)
	}
	for _, conn := range held {
		conn.Release()
	}
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return pool, remove, nil
}

// databaseSize returns how many bytes the tables and indexes of a database take; its log is everybody's.
func databaseSize(ctx context.Context, pool *pgxpool.Pool) (n int64, err error) {
	err = pool.QueryRow(ctx, `SELECT pg_database_size(current_database())`).Scan(&n)
	return n, err
}

func (s *servers) admin(sql string) error {
	conn, err := pgx.Connect(context.Background(), s.postgres.address)
	if err != nil {
		return err
	}
	_, err = conn.Exec(context.Background(), sql)
	return errors.Join(err, conn.Close(context.Background()))
}

func startPostgres(b *testing.B) *process {
	bin := postgresBinaries()
	if bin == "" {
		return &process{err: fmt.Errorf("PostgreSQL's server is %w", errAbsent)}
	}
	dir, err := os.MkdirTemp("", "postrider-bench-")
	if err != nil {
		return &process{err: err}
	}
	own, err := serverUser(dir)
	if err != nil {
		return &process{err: errors.Join(err, os.RemoveAll(dir))}
	}
	data := filepath.Join(dir, "data")
	run := func(name string, args ...string) error {
		log, err := os.CreateTemp(dir, name) // not a pipe: the server would keep it open
		if err != nil {
			return err
		}
		defer func() { _ = log.Close() }()
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = dir, own, log, log
		if err := cmd.Run(); err != nil {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("%s: %w\n%s", name, err, text)
		}
		return nil
	}
	port, err := freePort()
	if err == nil {
		err = run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
	}
	if err == nil {
		err = run("pg_ctl", "-D", data, "-w", "-l", filepath.Join(dir, "log"), "-o", fmt.Sprintf(
			"-c listen_addresses=127.0.0.1 -c port=%d -c unix_socket_directories=%s -c fsync=on -c shared_buffers=256MB",
			port, dir), "start")
	}
	if err != nil {
		return &process{err: errors.Join(err, os.RemoveAll(dir))}
	}
	p := &process{
		dir:     dir,
		address: fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable", port),
		stop: func() error {
			return errors.Join(run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"), os.RemoveAll(dir))
		},
	}
	pid, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return &process{err: errors.Join(err, p.stop())}
	}
	first, _, _ := strings.Cut(string(pid), "\n")
	if p.pid, err = strconv.Atoi(first); err != nil {
		return &process{err: errors.Join(err, p.stop())}
	}
	conn, err := pgx.Connect(b.Context(), p.address)
	if err != nil {
		return &process{err: errors.Join(err, p.stop())}
	}
	p.version = strings.Fields(conn.PgConn().ParameterStatus("server_version"))[0]
	if err := conn.Close(b.Context()); err != nil {
		return &process{err: errors.Join(err, p.stop())}
	}
	return p
}

// postgresBinaries returns the folder of the newest server that is installed, "" if there is none.
func postgresBinaries() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	more, _ := filepath.Glob("/usr/pgsql-*/bin/initdb")
	found = append(found, more...)
	slices.Sort(found)
	if path, err := exec.LookPath("initdb"); err == nil {
		found = append(found, path)
	}
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

// serverUser returns whom PostgreSQL is to run as, which refuses root, and gives that user the folder.
func serverUser(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		own := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		return own, os.Chown(dir, uid, gid)
	}
	return nil, errors.New("no user to run PostgreSQL as")
}

// emptyRedis returns the address of a Redis server that syncs its log at every write, with nothing in it.
func (s *servers) emptyRedis(b *testing.B) (addr string, err error) {
	if s.redis == nil {
		s.redis = startRedis(b)
	}
	if s.redis.err != nil {
		return "", s.redis.err
	}
	client := redis.NewClient(&redis.Options{Addr: s.redis.address})
	err = client.FlushAll(b.Context()).Err()
	return s.redis.address, errors.Join(err, client.Close())
}

func startRedis(b *testing.B) *process {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return &process{err: fmt.Errorf("redis-server is %w", errAbsent)}
	}
	port, err := freePort()
	if err != nil {
		return &process{err: err}
	}
	dir, err := os.MkdirTemp("", "postrider-bench-")
	if err != nil {
		return &process{err: err}
	}
	cmd := exec.Command(bin, "--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir, "--save", "",
		"--appendonly", "yes", "--appendfsync", "always")
	if err := cmd.Start(); err != nil {
		return &process{err: errors.Join(err, os.RemoveAll(dir))}
	}
	p := &process{
		address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), pid: cmd.Process.Pid, dir: dir,
		stop: func() error {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return os.RemoveAll(dir)
		},
	}
	client := redis.NewClient(&redis.Options{Addr: p.address})
	defer func() { _ = client.Close() }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		info, err := client.Info(b.Context(), "server").Result()
		if err == nil {
			_, rest, _ := strings.Cut(info, "redis_version:")
			p.version, _, _ = strings.Cut(rest, "\r")
			return p
		}
		if time.Now().After(deadline) {
			return &process{err: errors.Join(fmt.Errorf("redis-server: %w", err), p.stop())}
		}
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}
