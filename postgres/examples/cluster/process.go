package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

// What a process is told in its environment; the database it finds in POSTRIDER_POSTGRES.
const (
	processEnv = "POSTRIDER_CLUSTER_PROCESS"
	schemaEnv  = "POSTRIDER_CLUSTER_SCHEMA"
	unsafeEnv  = "POSTRIDER_CLUSTER_UNSAFE"
)

// work is one of the processes. It prints a line for every event that is stored.
func work(ctx context.Context, name string) (err error) {
	pool, err := pgxpool.New(ctx, os.Getenv("POSTRIDER_POSTGRES"))
	if err != nil {
		return err
	}
	defer pool.Close()
	store, err := postgres.New(pool, postgres.Options{Schema: os.Getenv(schemaEnv), UnsafeNoFsync: os.Getenv(unsafeEnv) != ""})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	d, err := postrider.New(store, postrider.Config{
		Sender: &named{postrider.HTTPSender{Network: anywhereHere}, name}, Network: anywhereHere,
		MaxTimeout: maxTimeout, Timeout: maxTimeout, Concurrency: 16,
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	pace := time.NewTicker(every)
	defer pace.Stop()
	for n := 0; ; {
		select {
		case err := <-ended:
			return err
		case <-pace.C:
		}
		if n == events {
			continue
		}
		// A process emits and delivers: whose event a delivery is does not matter.
		r, err := d.Emit(ctx, postrider.Event{ID: fmt.Sprintf("%s-%d", name, n), Type: "order.created", Payload: []byte(`{}`)})
		if err == nil && len(r.Deliveries) > 0 {
			fmt.Println(r.EventID)
		}
		if err == nil {
			n++
		}
	}
}

// named is a sender that says which process it is.
type named struct {
	postrider.HTTPSender
	name string
}

func (s *named) Send(ctx context.Context, r postrider.Request) (postrider.Response, error) {
	r.Header[headerProcess] = []string{s.name}
	r.Header[headerDelivery] = []string{r.DeliveryID}
	return s.HTTPSender.Send(ctx, r)
}

// process is one that the parent started.
type process struct {
	name  string
	cmd   *exec.Cmd
	lines atomic.Int64
	read  sync.WaitGroup
	end   func() error // asks it to end and waits for it; again the same
}

func start(ctx context.Context, name, dsn string, o postgres.Options) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.CommandContext(ctx, self)}
	p.cmd.Env = append(os.Environ(), "POSTRIDER_POSTGRES="+dsn, processEnv+"="+name, schemaEnv+"="+o.Schema)
	if o.UnsafeNoFsync {
		p.cmd.Env = append(p.cmd.Env, unsafeEnv+"=1")
	}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	p.read.Go(func() { p.count(out) })
	p.end = sync.OnceValue(func() error {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		p.read.Wait()
		return p.cmd.Wait()
	})
	return p, nil
}

func (p *process) count(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		p.lines.Add(1)
	}
}

// emitted returns how many events the process has stored.
func (p *process) emitted() int { return int(p.lines.Load()) }

// kill ends the process without notice, and returns when it is no more.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.end() // it says that it was killed
}
