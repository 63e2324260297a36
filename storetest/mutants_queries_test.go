package storetest_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider"
)

// The mutants of webhooks and queries.

var webhookMutants = []mutant{
	{"CreateWebhook/new", "never updated", func(b *broken) {
		b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
			w, err := b.Store.Webhook(ctx, id)
			w.UpdatedAt = time.Time{}
			return w, err
		}
		b.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			for i := range claims {
				claims[i].Webhook.UpdatedAt = time.Time{}
			}
			return claims, wait
		})
	}},
	{"CreateWebhook/exact", "no header", func(b *broken) { b.stores(func(w *postrider.Webhook) { w.Header = nil }) }},
	{"CreateWebhook/exact", "no secrets", func(b *broken) { b.stores(func(w *postrider.Webhook) { w.Secrets = nil }) }},
	{"CreateWebhook/exact", "schedule in seconds", func(b *broken) {
		b.stores(func(w *postrider.Webhook) {
			for i := range w.Retry {
				w.Retry = slices.Clone(w.Retry)
				w.Retry[i] = w.Retry[i].Truncate(time.Minute)
			}
		})
	}},
	{"CreateWebhook/exists", "taken", func(b *broken) {
		b.create = func(ctx context.Context, w postrider.Webhook) error {
			if err := b.Store.CreateWebhook(ctx, w); !errors.Is(err, postrider.ErrExists) {
				return err
			}
			return nil
		}
	}},
	{"UpdateWebhook/version", "not looked at", func(b *broken) {
		b.update = func(ctx context.Context, w postrider.Webhook) error {
			w.Version = b.get(w.ID).Version
			return b.Store.UpdateWebhook(ctx, w)
		}
	}},
	{"UpdateWebhook/replaces", "keeps the header", func(b *broken) {
		b.update = func(ctx context.Context, w postrider.Webhook) error {
			if w.Header == nil {
				w.Header = b.get(w.ID).Header
			}
			return b.Store.UpdateWebhook(ctx, w)
		}
	}},
	{"UpdateWebhook/stays", "CreatedAt as given", func(b *broken) {
		created := map[string]time.Time{}
		b.update = func(ctx context.Context, w postrider.Webhook) error {
			created[w.ID] = w.CreatedAt
			return b.Store.UpdateWebhook(ctx, w)
		}
		b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
			w, err := b.Store.Webhook(ctx, id)
			if t, ok := created[id]; ok {
				w.CreatedAt = t
			}
			return w, err
		}
	}},
	{"UpdateWebhook/exists", "not said", func(b *broken) {
		b.update = func(ctx context.Context, w postrider.Webhook) error {
			if err := b.Store.UpdateWebhook(ctx, w); !errors.Is(err, postrider.ErrExists) {
				return err
			}
			return nil
		}
	}},
	{"UpdateWebhook/not-found", "not said", func(b *broken) {
		b.update = func(ctx context.Context, w postrider.Webhook) error {
			if err := b.Store.UpdateWebhook(ctx, w); !errors.Is(err, postrider.ErrNotFound) {
				return err
			}
			return nil
		}
	}},
	{"DeleteWebhook/not-found", "not said", func(b *broken) {
		b.remove = func(ctx context.Context, id string) error {
			if err := b.Store.DeleteWebhook(ctx, id); !errors.Is(err, postrider.ErrNotFound) {
				return err
			}
			return nil
		}
	}},
	{"DeleteWebhook/away", "still read", func(b *broken) {
		gone := map[string]postrider.Webhook{}
		b.remove = func(ctx context.Context, id string) error {
			gone[id] = b.get(id)
			return b.Store.DeleteWebhook(ctx, id)
		}
		b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
			if w, ok := gone[id]; ok {
				return w, nil
			}
			return b.Store.Webhook(ctx, id)
		}
	}},
	{"DeleteWebhook/name", "not free", func(b *broken) {
		gone := map[string]bool{}
		b.remove = func(ctx context.Context, id string) error {
			gone[b.get(id).Name] = true
			return b.Store.DeleteWebhook(ctx, id)
		}
		b.create = func(ctx context.Context, w postrider.Webhook) error {
			if gone[w.Name] {
				return postrider.ErrExists
			}
			return b.Store.CreateWebhook(ctx, w)
		}
	}},
	{"DeleteWebhook/id", "free", func(b *broken) {
		gone := map[string]bool{}
		b.remove = func(ctx context.Context, id string) error { gone[id] = true; return b.Store.DeleteWebhook(ctx, id) }
		b.create = func(ctx context.Context, w postrider.Webhook) error {
			if gone[w.ID] {
				return nil
			}
			return b.Store.CreateWebhook(ctx, w)
		}
	}},
	{"DeleteWebhook/untouched", "canceled", func(b *broken) {
		b.remove = func(ctx context.Context, id string) error {
			if err := b.Store.DeleteWebhook(ctx, id); err != nil {
				return err
			}
			_, _, err := b.Store.Change(ctx, postrider.Change{Kind: postrider.ChangeCancel, Deleted: true, Max: 1000})
			return err
		}
	}},
	{"DeleteWebhook/deliveries", "not listed", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			if q.WebhookID != "" && b.get(q.WebhookID).ID == "" {
				return postrider.Page[postrider.Delivery]{}, nil
			}
			return b.Store.Deliveries(ctx, q)
		}
	}},
	{"Webhook/not-found", "by name too", func(b *broken) {
		b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
			page, _ := b.Store.Webhooks(ctx, postrider.WebhookQuery{Limit: postrider.MaxLimit})
			for _, w := range page.Items {
				if w.Name == id {
					return w, nil
				}
			}
			return b.Store.Webhook(ctx, id)
		}
	}},
	{"Webhooks/order", "by ID", func(b *broken) {
		b.webhooks = func(ctx context.Context, q postrider.WebhookQuery) (postrider.Page[postrider.Webhook], error) {
			page, err := b.Store.Webhooks(ctx, q)
			slices.SortFunc(page.Items, func(x, y postrider.Webhook) int { return strings.Compare(x.ID, y.ID) })
			return page, err
		}
	}},
	{"Webhooks/selects", "of every owner", func(b *broken) {
		b.webhooks = func(ctx context.Context, q postrider.WebhookQuery) (postrider.Page[postrider.Webhook], error) {
			q.Owner = ""
			return b.Store.Webhooks(ctx, q)
		}
	}},
	{"Webhooks/pages", "by row number", func(b *broken) {
		b.webhooks = func(ctx context.Context, q postrider.WebhookQuery) (page postrider.Page[postrider.Webhook], err error) {
			cursor, limit := q.Cursor, q.Limit
			if err := q.Validate(); err != nil {
				return page, err
			}
			q.Cursor, q.Limit = "", postrider.MaxLimit
			all, err := b.Store.Webhooks(ctx, q)
			if err != nil {
				return page, err
			}
			return offset(all.Items, cursor, limit)
		}
	}},
}

var queryMutants = []mutant{
	{"Event/event", "of any project", func(b *broken) {
		b.event = func(ctx context.Context, project, id string) (postrider.Event, error) {
			e, err := b.Store.Event(ctx, project, id)
			if errors.Is(err, postrider.ErrNotFound) {
				return b.Store.Event(ctx, "p", id)
			}
			return e, err
		}
	}},
	{"Delivery/attempts", "by ID as text", func(b *broken) {
		b.reads(func(_ *postrider.Delivery, attempts []postrider.Attempt) {
			slices.SortFunc(attempts, func(x, y postrider.Attempt) int { return strings.Compare(x.ID(), y.ID()) })
		})
	}},
	{"Deliveries/order", "never ascending", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			q.Ascending = false
			return b.Store.Deliveries(ctx, q)
		}
	}},
	{"Deliveries/limit", "one more", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			if q.Limit > 0 && q.Limit < postrider.MaxLimit {
				q.Limit++
			}
			return b.Store.Deliveries(ctx, q)
		}
	}},
	{"Deliveries/default-limit", "1000", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			if q.Limit == 0 {
				q.Limit = postrider.MaxLimit
			}
			return b.Store.Deliveries(ctx, q)
		}
	}},
	{"Deliveries/selects", "the first status", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			q.Statuses = q.Statuses[:min(len(q.Statuses), 1)]
			return b.Store.Deliveries(ctx, q)
		}
	}},
	{"Deliveries/walk", "by row number", func(b *broken) {
		b.deliveries = func(_ context.Context, q postrider.DeliveryQuery) (page postrider.Page[postrider.Delivery], err error) {
			if err := q.Validate(); err != nil {
				return page, err
			}
			return offset(b.all(q), q.Cursor, q.Limit)
		}
	}},
	{"Deliveries/cursor", "from the start instead", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			page, err := b.Store.Deliveries(ctx, q)
			if errors.Is(err, postrider.ErrInvalid) && q.Cursor != "" {
				q.Cursor = ""
				return b.Store.Deliveries(ctx, q)
			}
			return page, err
		}
	}},
	{"Attempts/order", "oldest first", func(b *broken) {
		b.attempts = func(ctx context.Context, q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
			page, err := b.Store.Attempts(ctx, q)
			slices.Reverse(page.Items)
			return page, err
		}
	}},
	{"Attempts/walk", "by row number", func(b *broken) {
		b.attempts = func(ctx context.Context, q postrider.AttemptQuery) (page postrider.Page[postrider.Attempt], err error) {
			if err := q.Validate(); err != nil {
				return page, err
			}
			cursor, limit := q.Cursor, q.Limit
			q.Cursor, q.Limit = "", postrider.MaxLimit
			all, err := b.Store.Attempts(ctx, q)
			if err != nil {
				return page, err
			}
			return offset(all.Items, cursor, limit)
		}
	}},
	{"Attempts/cursor", "from the start instead", func(b *broken) {
		b.attempts = func(ctx context.Context, q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
			page, err := b.Store.Attempts(ctx, q)
			if errors.Is(err, postrider.ErrInvalid) && q.Cursor != "" {
				q.Cursor = ""
				return b.Store.Attempts(ctx, q)
			}
			return page, err
		}
	}},
	{"Stats/walk", "not what a Change canceled", func(b *broken) {
		var lost int64
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			n, more, err := b.Store.Change(ctx, c)
			if c.Kind == postrider.ChangeCancel {
				lost += int64(n)
			}
			return n, more, err
		}
		b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
			s, err := b.Store.Stats(ctx, q)
			s.Canceled = max(0, s.Canceled-lost)
			return s, err
		}
	}},
	{"Stats/webhook", "of all", func(b *broken) {
		b.stats = func(ctx context.Context, _ postrider.StatsQuery) (postrider.Stats, error) {
			return b.Store.Stats(ctx, postrider.StatsQuery{})
		}
	}},
	{"Stats/counters", "from a scan", func(b *broken) {
		b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
			s, err := b.Store.Stats(ctx, q)
			if err != nil {
				return s, err
			}
			s.AttemptsOK, s.AttemptsFailed = 0, 0
			for _, d := range b.all(postrider.DeliveryQuery{WebhookID: q.WebhookID}) {
				_, attempts, _ := b.Store.Delivery(ctx, d.ID)
				for _, a := range attempts {
					if a.Failed {
						s.AttemptsFailed++
					} else {
						s.AttemptsOK++
					}
				}
			}
			return s, nil
		}
	}},
}
