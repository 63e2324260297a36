package storetest_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/storetest"
)

// server is a store on a clock that the suite does not reach, as a database server's: real time. Advance makes all
// that it keeps older; here by moving the times on their way in and out.
type server struct {
	*memstore.Store
	moved *atomic.Int64
}

func (s *server) older(list ...*time.Time) { s.move(-s.moved.Load(), list) }
func (s *server) newer(list ...*time.Time) { s.move(s.moved.Load(), list) }

func (s *server) move(d int64, list []*time.Time) {
	for _, t := range list {
		if !t.IsZero() {
			*t = t.Add(time.Duration(d))
		}
	}
}

func (s *server) hook(w *postrider.Webhook) {
	s.older(&w.NotBefore, &w.FailingSince, &w.CreatedAt, &w.UpdatedAt)
}

func (s *server) row(d *postrider.Delivery) { s.older(&d.CreatedAt, &d.NextAt, &d.FinishedAt) }

func (s *server) CreateWebhook(ctx context.Context, w postrider.Webhook) error {
	s.newer(&w.NotBefore, &w.FailingSince)
	return s.Store.CreateWebhook(ctx, w)
}

func (s *server) UpdateWebhook(ctx context.Context, w postrider.Webhook) error {
	s.newer(&w.NotBefore, &w.FailingSince)
	return s.Store.UpdateWebhook(ctx, w)
}

func (s *server) Webhook(ctx context.Context, id string) (postrider.Webhook, error) {
	w, err := s.Store.Webhook(ctx, id)
	s.hook(&w)
	return w, err
}

func (s *server) Webhooks(ctx context.Context, q postrider.WebhookQuery) (postrider.Page[postrider.Webhook], error) {
	page, err := s.Store.Webhooks(ctx, q)
	for i := range page.Items {
		s.hook(&page.Items[i])
	}
	return page, err
}

func (s *server) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	claims, wait, err := s.Store.Claim(ctx, r)
	for i := range claims {
		s.row(&claims[i].Delivery)
		s.hook(&claims[i].Webhook)
	}
	return claims, wait, err
}

func (s *server) Delivery(ctx context.Context, id string) (postrider.Delivery, []postrider.Attempt, error) {
	d, attempts, err := s.Store.Delivery(ctx, id)
	s.row(&d)
	return d, attempts, err
}

func (s *server) Deliveries(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
	s.newer(&q.From, &q.To)
	page, err := s.Store.Deliveries(ctx, q)
	for i := range page.Items {
		s.row(&page.Items[i])
	}
	return page, err
}

func (s *server) Stats(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
	v, err := s.Store.Stats(ctx, q)
	s.older(&v.OldestDue)
	return v, err
}

func TestStoreOnAClockOfItsOwnPasses(t *testing.T) {
	t.Parallel()
	storetest.Run(t, storetest.Harness{
		Open: func(*testing.T, func() time.Time) postrider.Store {
			moved := new(atomic.Int64)
			now := func() time.Time { return time.Now().Add(time.Duration(moved.Load())) }
			return &server{memstore.New(memstore.Options{Now: now}), moved}
		},
		Advance: func(_ *testing.T, s postrider.Store, d time.Duration) { s.(*server).moved.Add(int64(d)) },
	})
}
