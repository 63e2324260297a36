package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

// calls are all methods but Close, by name, each with arguments that would do.
func (x *suite) calls(s postrider.Store, c postrider.Claim) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"Enqueue": func(ctx context.Context) error { _, err := s.Enqueue(ctx, []postrider.Item{x.item()}); return err },
		"Claim": func(ctx context.Context) error {
			_, _, err := s.Claim(ctx, postrider.ClaimRequest{Max: 1, Lease: lease})
			return err
		},
		"Complete": func(ctx context.Context) error {
			_, err := s.Complete(ctx, []postrider.Outcome{x.delivered(c)})
			return err
		},
		"Wait":          s.Wait,
		"CreateWebhook": func(ctx context.Context) error { return s.CreateWebhook(ctx, newHook("new")) },
		"UpdateWebhook": func(ctx context.Context) error { w := newHook("a"); w.Version = 1; return s.UpdateWebhook(ctx, w) },
		"DeleteWebhook": func(ctx context.Context) error { return s.DeleteWebhook(ctx, "a") },
		"Webhook":       func(ctx context.Context) error { _, err := s.Webhook(ctx, "a"); return err },
		"Webhooks":      func(ctx context.Context) error { _, err := s.Webhooks(ctx, postrider.WebhookQuery{}); return err },
		"Event":         func(ctx context.Context) error { _, err := s.Event(ctx, "p", c.Event.ID); return err },
		"Delivery":      func(ctx context.Context) error { _, _, err := s.Delivery(ctx, c.Delivery.ID); return err },
		"Deliveries":    func(ctx context.Context) error { _, err := s.Deliveries(ctx, postrider.DeliveryQuery{}); return err },
		"Attempts":      func(ctx context.Context) error { _, err := s.Attempts(ctx, postrider.AttemptQuery{}); return err },
		"Stats":         func(ctx context.Context) error { _, err := s.Stats(ctx, postrider.StatsQuery{}); return err },
		"Change":        func(ctx context.Context) error { _, _, err := s.Change(ctx, postrider.Change{Max: 1}); return err },
		"Prune":         func(ctx context.Context) error { _, _, err := s.Prune(ctx, 0, 1); return err },
	}
}

var closeCases = []testCase{
	{name: "Close/twice", run: closeTwice,
		says: "Close ends the store's use; a second call returns nil."},
	{name: "Close/closed", run: closeClosed,
		says: "After Close every method returns ErrClosed."},
	{name: "Close/waiting", run: closeWaiting,
		says: "It waits for calls that are under way, except Wait, which returns ErrClosed."},
	{name: "Close/under-way", run: closeUnderWay,
		says: "It waits for calls that are under way, except Wait, which returns ErrClosed."},
}

func closeTwice(x *suite) {
	x.send(x.hook("a"), 1)
	x.ok("Close", x.s.Close())
	for range 2 {
		x.ok("Close of a closed store", x.s.Close())
	}
}

func closeClosed(x *suite) {
	x.send(x.hook("a"), 2)
	c := x.claim(1)
	equal(x, "claims", len(c), 1)
	x.ok("Close", x.s.Close())
	calls := x.calls(x.s, c[0])
	names := make([]string, 0, len(calls))
	for name := range calls {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		ctx, cancel := context.WithTimeout(x.ctx, x.patience)
		err := calls[name](ctx)
		cancel()
		x.is(name+" of a closed store", err, postrider.ErrClosed)
	}
}

func closeWaiting(x *suite) {
	x.idle()
	ctx, cancel := context.WithTimeout(x.ctx, x.patience)
	defer cancel()
	got := make(chan error, 1)
	go func() {
		for {
			if err := x.s.Wait(ctx); err != nil {
				got <- err
				return
			}
		}
	}()
	settle()
	closed := make(chan error, 1)
	go func() { closed <- x.s.Close() }()
	select {
	case err := <-closed:
		x.ok("Close while a caller is in Wait", err)
	case <-ctx.Done():
		x.fail("Close not to wait for a caller in Wait", "no end of it")
	}
	x.is("Wait when the store is closed", <-got, postrider.ErrClosed)
}

// closeUnderWay closes the store while others call it: each call either did all it should, or is ErrClosed.
func closeUnderWay(x *suite) {
	x.hook("a")
	const callers = 8
	errs := make(chan error, callers)
	busy := make(chan struct{}, callers*2)
	for g := range callers {
		go func() {
			for i := 0; ; i++ {
				_, err := x.s.Enqueue(x.ctx, []postrider.Item{{Event: postrider.Event{
					ID: fmt.Sprintf("%d-%d", g, i), Project: "p", Type: "t", Time: x.clock.Now(), Payload: []byte(`{}`),
				}}})
				if err == nil && g%2 == 0 {
					_, _, err = x.s.Claim(x.ctx, postrider.ClaimRequest{Max: 1, Lease: lease})
				}
				if i == 0 {
					busy <- struct{}{}
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	for range callers {
		<-busy
	}
	x.ok("Close while calls are under way", x.s.Close())
	deadline := time.After(x.patience)
	for range callers {
		select {
		case err := <-errs:
			if !errors.Is(err, postrider.ErrClosed) {
				x.fail("calls that are under way to succeed, or to answer ErrClosed", "%v", err)
			}
		case <-deadline:
			x.fail("calls after Close to answer ErrClosed", "no end of them")
		}
	}
}
