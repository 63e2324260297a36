package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postrider/postrider"
)

// checked is a store whose answers must not contradict themselves. It notes the first that does; safe for any
// goroutine.
type checked struct {
	postrider.Store
	book   *book // shared by the handles of a case
	closed atomic.Bool

	mu  sync.Mutex
	err error // guarded by mu
}

func (s *checked) problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *checked) note(call string, err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = fmt.Errorf("%s: %w", call, err)
	}
}

func (s *checked) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	before := s.book.holdings()
	claims, wait, err := s.Store.Claim(ctx, r)
	s.note("Claim", s.book.claimed(r, claims, before))
	for _, c := range claims {
		s.note("Claim", c.Delivery.Validate())
		s.note("Claim", c.Event.Validate())
		s.note("Claim", c.Webhook.Validate())
		if len(c.Token) < 1 || len(c.Token) > 64 {
			s.note("Claim", fmt.Errorf("a token of %d bytes, want 1 to 64", len(c.Token)))
		}
		if c.Delivery.Status.Final() {
			s.note("Claim", fmt.Errorf("delivery %s has ended: %s", c.Delivery.ID, c.Delivery.Status))
		}
		if c.Delivery.EventID != c.Event.ID || c.Delivery.Project != c.Event.Project || c.Delivery.WebhookID != c.Webhook.ID {
			s.note("Claim", fmt.Errorf("delivery %s with an event or a webhook that is not its own", c.Delivery.ID))
		}
	}
	if wait < 0 {
		s.note("Claim", fmt.Errorf("a wait of %v", wait))
	}
	return claims, wait, err
}

func (s *checked) Complete(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
	s.book.completed(outcomes)
	return s.Store.Complete(ctx, outcomes)
}

func (s *checked) CreateWebhook(ctx context.Context, w postrider.Webhook) error {
	s.book.stored(w)
	return s.Store.CreateWebhook(ctx, w)
}

func (s *checked) UpdateWebhook(ctx context.Context, w postrider.Webhook) error {
	s.book.stored(w)
	return s.Store.UpdateWebhook(ctx, w)
}

func (s *checked) Webhook(ctx context.Context, id string) (postrider.Webhook, error) {
	w, err := s.Store.Webhook(ctx, id)
	if err == nil {
		s.note("Webhook", w.Validate())
	}
	return w, err
}

func (s *checked) Event(ctx context.Context, project, id string) (postrider.Event, error) {
	e, err := s.Store.Event(ctx, project, id)
	if err == nil {
		s.note("Event", e.Validate())
	}
	return e, err
}

func (s *checked) Delivery(ctx context.Context, id string) (postrider.Delivery, []postrider.Attempt, error) {
	d, attempts, err := s.Store.Delivery(ctx, id)
	if err == nil {
		s.note("Delivery", d.Validate())
		if d.Attempts != len(attempts) {
			s.note("Delivery", fmt.Errorf("delivery %s counts %d attempts and has %d", id, d.Attempts, len(attempts)))
		}
	}
	for _, a := range attempts {
		s.note("Delivery", a.Validate())
	}
	return d, attempts, err
}

func (s *checked) Deliveries(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
	page, err := s.Store.Deliveries(ctx, q)
	for _, d := range page.Items {
		s.note("Deliveries", d.Validate())
	}
	return page, err
}

func (s *checked) Attempts(ctx context.Context, q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
	page, err := s.Store.Attempts(ctx, q)
	for _, a := range page.Items {
		s.note("Attempts", a.Validate())
	}
	return page, err
}

func (s *checked) Stats(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
	v, err := s.Store.Stats(ctx, q)
	if min(v.New, v.InProcess, v.Delivered, v.Canceled, v.Failed, v.InFlight, v.Due, v.Pruned, v.AttemptsOK, v.AttemptsFailed) < 0 {
		s.note("Stats", errors.New("a count below zero"))
	}
	if v.Rates != nil && !q.Rates {
		s.note("Stats", errors.New("there are Rates that were not asked for"))
	}
	if v.Due > v.Open() {
		s.note("Stats", fmt.Errorf("%d are due and %d open", v.Due, v.Open()))
	}
	if v.Due == 0 && !v.OldestDue.IsZero() {
		s.note("Stats", fmt.Errorf("none is due, the oldest since %v", v.OldestDue))
	}
	return v, err
}

func (s *checked) Close() error {
	s.closed.Store(true)
	return s.Store.Close()
}
