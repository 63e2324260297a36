// Quickstart sends one webhook to a receiver in the same program. The receiver refuses it once, so that there is a
// retry to see.
//
//	go run ./examples/quickstart
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/signature"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run does everything. What it defers runs in the opposite order, which is the right one: Run ends, then the receiver,
// then the store is closed, then its file is removed.
func run(ctx context.Context, w io.Writer) (err error) {
	out := log.New(w, "", 0) // the receiver prints too, at the same time

	folder, err := os.MkdirTemp("", "postrider-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)

	store, err := bolt.Open(filepath.Join(folder, "webhooks.db"), bolt.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	d, err := postrider.New(store, postrider.Config{
		Retry: postrider.Schedule{time.Second, 2 * time.Second}, // the default goes on for three days
		// The receiver is on this machine, where no webhook may point otherwise.
		Network: postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}},
	})
	if err != nil {
		return err
	}

	secret := postrider.NewSecret()
	receiver, err := startReceiver(secret, out)
	if err != nil {
		return err
	}
	defer receiver.Close()

	// Two webhooks want different events. EnsureWebhook creates or updates, so it may run at every start.
	for name, pattern := range map[string]string{"orders": "order.*", "invoices": "invoice.*"} {
		if _, err := d.EnsureWebhook(ctx, postrider.Webhook{
			Name: name, URL: receiver.URL, Events: []string{pattern}, Secrets: []postrider.Secret{secret},
		}); err != nil {
			return err
		}
	}

	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()

	event, err := postrider.NewEvent("", "order.created", map[string]any{"order": 1234, "total": "19.90"})
	if err != nil {
		return err
	}
	receipt, err := d.Emit(ctx, event) // nil: the event is on disk and will be delivered, whatever happens now
	if err != nil {
		return err
	}
	out.Printf("emitted   event %s for %d of 2 webhooks", receipt.EventID, len(receipt.Deliveries))

	delivery, err := await(ctx, d, receipt.Deliveries[0], out)
	if err != nil {
		return err
	}
	return report(ctx, d, delivery, w)
}

// startReceiver starts what is usually somebody else's program. It answers 500 to the first request.
func startReceiver(secret postrider.Secret, out *log.Logger) (*httptest.Server, error) {
	verifier, err := signature.NewVerifier(secret.Reveal())
	if err != nil {
		return nil, err
	}
	var requests atomic.Int64
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err == nil {
			err = verifier.Verify(r.Header, body)
		}
		switch {
		case err != nil:
			http.Error(w, "not a webhook of ours", http.StatusUnauthorized)
		case requests.Add(1) == 1:
			out.Printf("receiver  signature good, but out of order today: 500")
			http.Error(w, "out of order", http.StatusInternalServerError)
		default:
			out.Printf("receiver  signature good, received %s: 200", body)
		}
	})), nil
}

// await returns the delivery once it has ended, and prints the retry while it waits for it.
func await(ctx context.Context, d *postrider.Dispatcher, id string, out *log.Logger) (postrider.Delivery, error) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	tried := 0
	for {
		delivery, err := d.Delivery(ctx, id)
		if err != nil || delivery.Status.Final() {
			return delivery, err
		}
		if delivery.Attempts > tried {
			tried = delivery.Attempts
			out.Printf("retry     attempt %d got %d, the next one is due in %v",
				tried, delivery.LastCode, time.Until(delivery.NextAt).Round(10*time.Millisecond))
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return postrider.Delivery{}, ctx.Err()
		}
	}
}

// report prints the delivery and its attempts, oldest first.
func report(ctx context.Context, d *postrider.Dispatcher, v postrider.Delivery, w io.Writer) error {
	page, err := d.Attempts(ctx, postrider.AttemptQuery{DeliveryID: v.ID})
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nDELIVERY\tEVENT\tWEBHOOK\tATTEMPTS\tSTATUS")
	fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", v.ID, v.EventType, v.WebhookName, v.Attempts, v.Status)
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(table, "\nATTEMPT\tSTARTED\tTOOK\tCODE\tERROR")
	for i := len(page.Items) - 1; i >= 0; i-- {
		a := page.Items[i]
		fmt.Fprintf(table, "%d\t%s\t%v\t%d\t%s\n", a.Number, a.StartedAt.Format("15:04:05.000"),
			a.FinishedAt.Sub(a.StartedAt).Round(10*time.Microsecond), a.Code, a.Error)
	}
	return table.Flush()
}
