// Cluster is three processes on one database, each of which emits events and delivers those of all. One is killed with
// requests in flight; the others take over what it held once its lease is over, and nothing is lost.
//
//	go run ./examples/cluster
//
// It runs in the folder of the module postgres, and starts itself three times. POSTRIDER_POSTGRES names a database to
// use, as a DSN; without it a temporary server is started from the PostgreSQL that is installed. Of a database it uses
// one schema, which it makes, and drops at the end.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
	"github.com/postrider/postrider/postgres/internal/pgtest"
)

const (
	processes  = 3
	events     = 60                     // of each
	every      = 50 * time.Millisecond  // between two
	thinks     = 150 * time.Millisecond // the receiver, over each request
	maxTimeout = 2 * time.Second
	lease      = maxTimeout + 30*time.Second // how long a dispatcher may hold what it does not finish
)

// anywhereHere lets webhooks point at this machine, where no webhook may point otherwise.
var anywhereHere = postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f := func() error { return run(ctx, os.Stdout) }
	if name := os.Getenv(processEnv); name != "" {
		f = func() error { return work(ctx, name) }
	}
	if err := f(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// run is the parent: it makes the schema and the webhooks, receives, starts the others and kills one.
func run(ctx context.Context, w io.Writer) (err error) {
	out := log.New(w, "", log.Lmicroseconds)
	server, err := pgtest.Start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	pool, err := pgxpool.New(ctx, server.DSN)
	if err != nil {
		return err
	}
	defer pool.Close()
	o := postgres.Options{Schema: fmt.Sprint("cluster_", os.Getpid()), UnsafeNoFsync: server.Unsafe()}
	if err := postgres.Migrate(ctx, pool, o); err != nil {
		return err
	}
	defer func() {
		_, dropped := pool.Exec(context.WithoutCancel(ctx), "DROP SCHEMA "+o.Schema+" CASCADE")
		err = errors.Join(err, dropped)
	}()
	store, err := postgres.New(pool, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	d, err := postrider.New(store, postrider.Config{Network: anywhereHere})
	if err != nil {
		return err
	}

	r := newReceiver()
	defer r.Close()
	for _, name := range []string{"orders", "audit"} {
		// Room for what a dead process still holds: it counts until its lease is over.
		if _, err := d.EnsureWebhook(ctx, postrider.Webhook{
			Name: name, URL: r.URL + "/" + name, Events: []string{"*"}, MaxInFlight: 100,
		}); err != nil {
			return err
		}
	}
	var list []*process
	for n := range processes {
		p, err := start(ctx, fmt.Sprint(n+1), server.DSN, o)
		if err != nil {
			return err
		}
		defer p.end()
		list = append(list, p)
		out.Printf("process %s started", p.name)
	}
	return play(ctx, out, d, r, list)
}

// play kills the last process and watches what becomes of its work.
func play(ctx context.Context, out *log.Logger, d *postrider.Dispatcher, r *receiver, list []*process) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	victim := list[len(list)-1]
	if err := until(ctx, func() bool { return r.flying(victim.name) >= 5 && victim.emitted() >= events/3 }); err != nil {
		return fmt.Errorf("process %s gets nothing to do: %w", victim.name, err)
	}
	victim.kill()
	held := r.lose(victim.name)
	out.Printf("process %s killed: it had emitted %d events, and had %d requests in flight",
		victim.name, victim.emitted(), len(held))
	for _, p := range list[:len(list)-1] {
		if err := until(ctx, func() bool { return p.emitted() == events }); err != nil {
			return fmt.Errorf("process %s does not emit: %w", p.name, err)
		}
		out.Printf("process %s has emitted all its %d events", p.name, events)
	}
	out.Printf("the others go on; what process %s held comes back when its lease is over, %v after it was taken",
		victim.name, lease)
	for _, h := range held {
		var next request
		if err := until(ctx, func() (there bool) {
			next, there = r.answered(h.delivery)
			return there
		}); err != nil {
			return fmt.Errorf("delivery %s is not taken over: %w", h.delivery, err)
		}
		out.Printf("process %s took over delivery %s from process %s, %v after that had begun to send it",
			next.process, h.delivery, h.process, next.at.Sub(h.at).Round(10*time.Millisecond))
	}
	// Also what was answered and not recorded: it is sent twice.
	var s postrider.Stats
	if err := until(ctx, func() bool {
		var err error
		s, err = d.Stats(ctx, postrider.StatsQuery{})
		return err == nil && s.Open() == 0
	}); err != nil {
		return fmt.Errorf("%d deliveries are open: %w", s.Open(), err)
	}
	for _, p := range list[:len(list)-1] {
		if err := p.end(); err != nil {
			return fmt.Errorf("process %s: %w", p.name, err)
		}
		out.Printf("process %s stopped: it delivered %d", p.name, r.by(p.name))
	}
	if want := 2 * sum(list); r.done() < want || s.Delivered != s.Total() {
		return fmt.Errorf("%d deliveries arrived, want %d; %d of %d are DELIVERED", r.done(), want, s.Delivered, s.Total())
	}
	out.Printf("%d events emitted, %d deliveries made, %d delivered, %d sent twice",
		sum(list), s.Total(), s.Delivered, r.twice())
	return nil
}

func sum(list []*process) (n int) {
	for _, p := range list {
		n += p.emitted()
	}
	return n
}

// until waits for something to be so.
func until(ctx context.Context, so func() bool) error {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !so() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
