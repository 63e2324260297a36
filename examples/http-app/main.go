// Http-app is a small shop. Its customers place orders, register webhooks for what happens to them, and look up what
// was sent. Orders, events and webhooks are in one bbolt file, and an order is stored together with its event.
//
//	go run ./examples/http-app -addr localhost:8080 -file shop.db
//
//	POST   /orders                          places an order and emits order.created
//	POST   /customers/{id}/webhooks         creates a webhook; the only answer that shows its secret
//	GET    /customers/{id}/webhooks         lists them
//	GET    /customers/{id}/webhooks/{name}  shows one
//	PUT    /customers/{id}/webhooks/{name}  changes its URL and events
//	DELETE /customers/{id}/webhooks/{name}
//	GET    /api/...                         the three documented views, see package httpapi
//	POST   /inbox                           stands for a customer's receiver
//
// Two customers exist, ann and bob, with the tokens ann-token and bob-token: Authorization: Bearer ann-token.
// docs/queries.md has a session with all of it, which main_test.go runs.
//
// Customers choose the URLs of their webhooks. Beside public ones they may name this machine, where the receivers of an
// example are; see Config.Network in run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/httpapi"
)

var errUsage = errors.New("wrong flags") // the flag package has said which

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from then on a signal kills

	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "http-app:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends. What is deferred runs from the last to the first: the order of shutting down.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("http-app", flag.ContinueOnError)
	flags.SetOutput(out)
	addr := flags.String("addr", "localhost:8080", "`address` to listen on")
	file := flags.String("file", "shop.db", "`path` of the bbolt file; made if there is none")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage
	}

	db, err := bbolt.Open(*file, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return fmt.Errorf("open %s: %w", *file, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }() // fourth

	store, err := bolt.New(db, bolt.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }() // third, after Run

	// For /inbox and the receivers of tests. A real shop leaves Network alone: no customer can call what is inside.
	loopback := postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}}
	d, err := postrider.New(store, postrider.Config{Network: loopback})
	if err != nil {
		return err
	}
	handler, err := routes(&shop{db: db, store: store, d: d})
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	running, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	go func() {
		failed <- server.Serve(listener)
		stop() // Run has no use without it
	}()
	fmt.Fprintf(out, "listening on http://%s\n", listener.Addr())

	// First: a signal ends ctx, and Run returns when what is in flight has finished. Second: orders are taken until
	// then, since they only have to be stored; the next start delivers them.
	err = d.Run(running)
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err = errors.Join(err, server.Shutdown(ending))
	if serving := <-failed; !errors.Is(serving, http.ErrServerClosed) {
		err = errors.Join(err, serving)
	}
	return err
}

// routes mounts the shop, and the views under /api.
func routes(s *shop) (http.Handler, error) {
	views, err := httpapi.New(s.d, httpapi.Options{Authorize: authorize, Challenge: challenge})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/api/", http.StripPrefix("/api", views))
	mux.HandleFunc("POST /orders", s.createOrder)
	mux.HandleFunc("POST /customers/{id}/webhooks", s.createWebhook)
	mux.HandleFunc("GET /customers/{id}/webhooks", s.listWebhooks)
	mux.HandleFunc("GET /customers/{id}/webhooks/{name}", s.showWebhook)
	mux.HandleFunc("PUT /customers/{id}/webhooks/{name}", s.changeWebhook)
	mux.HandleFunc("DELETE /customers/{id}/webhooks/{name}", s.deleteWebhook)
	mux.HandleFunc("POST /inbox", inbox)
	return mux, nil
}

// authorize says what the caller of a view may see: what is sent for this customer, to webhooks of this customer. A
// scope is enforced in the query, so that a row of somebody else is as if it did not exist.
func authorize(r *http.Request, _ httpapi.Permission) (httpapi.Scope, error) {
	id, ok := customer(r)
	if !ok {
		return httpapi.Scope{}, httpapi.ErrUnauthenticated
	}
	return httpapi.Scope{Project: id, Owner: id}, nil
}
