// Signed-body sends what some receivers expect instead of the headers of Standard Webhooks: the number of the attempt
// and its time inside the body, and "sha256=<hex>" over that body in a header. Config.Encode makes the body, and the
// webhook's scheme signs it. The receiver, in the same program, refuses the first attempt.
//
//	go run ./examples/signed-body
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

// signatureHeader carries what the receiver's sign returns.
const signatureHeader = "X-Signature"

// message is the body of an attempt. The receiver sees by timestampSent that it is not an old one sent again by
// somebody else, since whoever does not know the key cannot change it.
type message struct {
	ID              string          `json:"id"` // of the attempt
	Kind            string          `json:"kind"`
	Date            time.Time       `json:"date"` // when it happened
	DeliveryAttempt int             `json:"deliveryAttempt"`
	TimestampSent   int64           `json:"timestampSent"`     // Unix seconds
	RetryOf         string          `json:"retryOf,omitempty"` // the ID of the attempt before
	Data            json.RawMessage `json:"data"`
}

// encode is a Config.Encode. It is called for every attempt.
func encode(d postrider.Draft) (postrider.Body, error) {
	id := func(attempt int) string { return fmt.Sprintf("%s-%d", d.Delivery.ID, attempt) }
	m := message{
		ID: id(d.Attempt), Kind: d.Event.Type, Date: d.Event.Time,
		DeliveryAttempt: d.Attempt, TimestampSent: d.Time.Unix(), Data: d.Event.Payload,
	}
	if d.Attempt > 1 {
		m.RetryOf = id(d.Attempt - 1)
	}
	content, err := json.Marshal(m)
	return postrider.Body{Content: content, ContentType: "application/json"}, err
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "signed-body:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, w io.Writer) (err error) {
	out := log.New(w, "", 0) // the receiver prints too, at the same time

	secret := postrider.NewSecret() // which both sides know: its whole text is the key
	receiver := httptest.NewServer(&receiver{key: []byte(secret.Reveal()), out: out})
	defer receiver.Close()

	store := memstore.New(memstore.Options{}) // for an example; what is to survive belongs in a bolt.Store
	defer func() { err = errors.Join(err, store.Close()) }()

	// The receiver is on this machine, where no webhook may point otherwise.
	loopback := postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	d, err := postrider.New(store, postrider.Config{
		Encode:  encode,
		Network: loopback,
		Retry:   postrider.Schedule{time.Second, 2 * time.Second}, // the default goes on for three days
	})
	if err != nil {
		return err
	}
	if _, err := d.EnsureWebhook(ctx, postrider.Webhook{
		Name: "wallets", URL: receiver.URL, Events: []string{"wallet.*"},
		Secrets: []postrider.Secret{secret},
		Schemes: []postrider.Scheme{postrider.SchemeBody(signatureHeader)},
		Success: postrider.Success{Codes: []string{"200"}}, // such receivers promise no other
	}); err != nil {
		return err
	}

	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- d.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()

	event, err := postrider.NewEvent("", "wallet.transfer.completed", map[string]string{"transfer": "t-1234", "amount": "19.90"})
	if err != nil {
		return err
	}
	receipt, err := d.Emit(ctx, event)
	if err != nil {
		return err
	}
	delivery, err := d.AwaitDelivery(ctx, receipt.Deliveries[0])
	if err != nil {
		return err
	}
	out.Printf("sender    %s after %d attempts", delivery.Status, delivery.Attempts)
	if delivery.Status != postrider.StatusDelivered {
		return fmt.Errorf("the delivery is %s: %s", delivery.Status, delivery.LastError)
	}
	return nil
}
