package storetest_test

import (
	"context"
	"time"

	"github.com/postrider/postrider"
)

// The mutants of what is due and of rates, and of the breaker.

// counts makes Stats return what f makes of its answer. open are the deliveries that have not ended and are counted.
func (b *broken) counts(f func(s *postrider.Stats, q postrider.StatsQuery, open []postrider.Delivery)) {
	b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
		s, err := b.Store.Stats(ctx, q)
		if err != nil {
			return s, err
		}
		var open []postrider.Delivery
		for _, d := range b.all(postrider.DeliveryQuery{WebhookID: q.WebhookID, Project: q.Project, Owner: q.Owner}) {
			if !d.Status.Final() {
				open = append(open, d)
			}
		}
		if f(&s, q, open); s.Due == 0 {
			s.OldestDue = time.Time{}
		}
		return s, nil
	}
}

// recorded is an attempt that was recorded.
type recorded struct {
	hook, delivery string
	failed         bool
	at, made       time.Time
}

// rates makes Stats count attempts where f puts them: so many minutes and hours ago; below 0 is nowhere.
func (b *broken) rates(f func(a recorded, now time.Time) (minutes, hours int)) (list *[]recorded) {
	list = new([]recorded)
	b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
		n, err := b.Store.Complete(ctx, outcomes)
		for _, o := range outcomes {
			if n == len(outcomes) && o.Attempt != nil {
				*list = append(*list, recorded{o.Attempt.WebhookID, o.DeliveryID, o.Attempt.Failed, b.now(), o.Attempt.StartedAt})
			}
		}
		return n, err
	}
	b.counts(func(s *postrider.Stats, q postrider.StatsQuery, _ []postrider.Delivery) {
		if s.Rates == nil || q != (postrider.StatsQuery{Rates: true}) {
			return
		}
		*s.Rates = postrider.Rates{}
		add := func(rates []postrider.Rate, ago int, failed bool) {
			if i := len(rates) - 1 - ago; ago >= 0 && i >= 0 && failed {
				rates[i].Failed++
			} else if ago >= 0 && i >= 0 {
				rates[i].OK++
			}
		}
		for _, a := range *list {
			minutes, hours := f(a, b.now())
			add(s.Rates.Minutes[:], minutes, a.failed)
			add(s.Rates.Hours[:], hours, a.failed)
		}
	})
	return list
}

// units returns how many minutes and hours of the clock lie between two times.
func units(now, at time.Time) (minutes, hours int) {
	return int(now.Truncate(time.Minute).Sub(at.Truncate(time.Minute)) / time.Minute), int(now.Truncate(time.Hour).Sub(at.Truncate(time.Hour)) / time.Hour)
}

var statsMutants = []mutant{
	{"Stats/due", "not of a paused webhook", func(b *broken) {
		b.counts(func(s *postrider.Stats, _ postrider.StatsQuery, open []postrider.Delivery) {
			for _, d := range open {
				if b.get(d.WebhookID).State == postrider.StatePaused {
					s.Due--
				}
			}
		})
	}},
	{"Stats/due", "not in flight", func(b *broken) {
		b.counts(func(s *postrider.Stats, _ postrider.StatsQuery, _ []postrider.Delivery) {
			s.Due = max(0, s.Due-s.InFlight)
		})
	}},
	{"Stats/due", "only new ones", func(b *broken) {
		b.counts(func(s *postrider.Stats, _ postrider.StatsQuery, _ []postrider.Delivery) { s.Due = min(s.Due, s.New) })
	}},
	{"Stats/due", "all that are open", func(b *broken) {
		b.counts(func(s *postrider.Stats, _ postrider.StatsQuery, _ []postrider.Delivery) { s.Due = s.Open() })
	}},
	{"Stats/due-minute", "to the microsecond", func(b *broken) {
		b.counts(func(s *postrider.Stats, _ postrider.StatsQuery, open []postrider.Delivery) {
			for _, d := range open {
				if minutes, _ := units(d.NextAt, b.now()); minutes == 0 && d.NextAt.After(b.now()) {
					s.Due--
				}
			}
		})
	}},
	{"Stats/due-minute", "a minute before", func(b *broken) {
		b.counts(func(s *postrider.Stats, _ postrider.StatsQuery, open []postrider.Delivery) {
			for _, d := range open {
				if minutes, _ := units(d.NextAt, b.now()); minutes == 1 {
					s.Due++
				}
			}
		})
	}},
	{"Stats/due-lane", "all of a lane", func(b *broken) {
		b.counts(func(s *postrider.Stats, q postrider.StatsQuery, open []postrider.Delivery) {
			s.Due += int64(len(open) - len(b.first(postrider.DeliveryQuery{WebhookID: q.WebhookID, Project: q.Project, Owner: q.Owner})))
		})
	}},
	{"Stats/due-lane", "the oldest of a lane, not its first", func(b *broken) {
		b.counts(func(s *postrider.Stats, _ postrider.StatsQuery, open []postrider.Delivery) {
			for _, d := range open {
				e, _ := b.Store.Event(context.Background(), d.Project, d.EventID)
				if s.Due > 0 && e.OrderKey != "" && d.NextAt.Before(s.OldestDue) {
					s.OldestDue = d.NextAt
				}
			}
		})
	}},
	{"Stats/oldest-due", "not in flight", func(b *broken) {
		b.counts(func(s *postrider.Stats, q postrider.StatsQuery, open []postrider.Delivery) {
			if s.InFlight != 1 || s.Due != 3 || s.New != 3 {
				return
			}
			s.OldestDue = time.Time{}
			for _, d := range open {
				if !d.InFlight && !d.NextAt.After(b.now()) && (s.OldestDue.IsZero() || d.NextAt.Before(s.OldestDue)) {
					s.OldestDue = d.NextAt
				}
			}
		})
	}},
	{"Stats/oldest-due", "of all webhooks", func(b *broken) {
		b.counts(func(s *postrider.Stats, q postrider.StatsQuery, _ []postrider.Delivery) {
			if all, err := b.Store.Stats(context.Background(), postrider.StatsQuery{}); err == nil && s.Due > 0 {
				s.OldestDue = all.OldestDue
			}
		})
	}},
	{"Stats/rates-asked", "always", func(b *broken) {
		b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
			s, err := b.Store.Stats(ctx, q)
			if s.Rates == nil && q.Project != "" && q.Owner == "" && q.WebhookID == "" {
				s.Rates = new(postrider.Rates)
			}
			return s, err
		}
	}},
	{"Stats/rates-asked", "by when they were made", func(b *broken) {
		b.rates(func(a recorded, now time.Time) (int, int) { return units(now, a.made) })
	}},
	{"Stats/rates-asked", "releases count", func(b *broken) {
		list := b.rates(func(a recorded, now time.Time) (int, int) { return units(now, a.at) })
		told := b.complete
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			n, err := told(ctx, outcomes)
			for _, o := range outcomes {
				if n > 0 && o.Attempt == nil {
					*list = append(*list, recorded{at: b.now(), made: b.now()})
				}
			}
			return n, err
		}
	}},
	{"Stats/rates-asked", "not of pruned ones", func(b *broken) {
		b.rates(func(a recorded, now time.Time) (int, int) {
			if _, _, err := b.Store.Delivery(context.Background(), a.delivery); err != nil {
				return -1, -1
			}
			return units(now, a.at)
		})
	}},
	{"Stats/rates-minutes", "the last 60 seconds", func(b *broken) {
		b.rates(func(a recorded, now time.Time) (int, int) {
			_, hours := units(now, a.at)
			if now.Sub(a.at) < time.Second {
				return 0, hours
			}
			return int(now.Sub(a.at) / time.Minute), hours
		})
	}},
	{"Stats/rates-minutes", "of two hours ago too", func(b *broken) {
		b.rates(func(a recorded, now time.Time) (int, int) {
			minutes, hours := units(now, a.at)
			return minutes % 120, hours
		})
	}},
	{"Stats/rates-minutes", "for 119 minutes", func(b *broken) {
		b.rates(func(a recorded, now time.Time) (int, int) {
			minutes, hours := units(now, a.at)
			if minutes > 118 {
				minutes = -1
			}
			return minutes, hours
		})
	}},
	{"Stats/rates-hours", "the last 60 minutes", func(b *broken) {
		b.rates(func(a recorded, now time.Time) (int, int) {
			minutes, hours := units(now, a.at)
			if now.Sub(a.at) < 24*time.Hour && hours == 1 && minutes == 1 {
				hours = 0
			}
			return minutes, hours
		})
	}},
	{"Stats/rates-hours", "of 31 days ago too", func(b *broken) {
		b.rates(func(a recorded, now time.Time) (int, int) {
			minutes, hours := units(now, a.at)
			return minutes, hours % 744
		})
	}},
	{"Stats/rates-hours", "for 30 days", func(b *broken) {
		b.rates(func(a recorded, now time.Time) (int, int) {
			minutes, hours := units(now, a.at)
			if hours >= 720 {
				hours = -1
			}
			return minutes, hours
		})
	}},
	{"Stats/rates-of", "of all webhooks", func(b *broken) {
		b.counts(func(s *postrider.Stats, q postrider.StatsQuery, _ []postrider.Delivery) {
			if all, err := b.Store.Stats(context.Background(), postrider.StatsQuery{Rates: true}); err == nil && q.Rates {
				s.Rates = all.Rates
			}
		})
	}},
	{"Stats/rates-of", "not of deleted webhooks", func(b *broken) {
		b.counts(func(s *postrider.Stats, q postrider.StatsQuery, _ []postrider.Delivery) {
			if q.Rates && q.WebhookID != "" && b.get(q.WebhookID).ID == "" {
				s.Rates = new(postrider.Rates)
			}
		})
	}},
	{"Reopen/rates", "forgotten", func(b *broken) {
		list := b.rates(func(a recorded, now time.Time) (int, int) { return units(now, a.at) })
		on := false
		told, stats := b.complete, b.stats
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			if !on {
				return b.Store.Complete(ctx, outcomes)
			}
			return told(ctx, outcomes)
		}
		b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
			if page, err := b.Store.Webhooks(ctx, postrider.WebhookQuery{}); !on || err != nil || len(page.Items) > 1 {
				return b.Store.Stats(ctx, q)
			}
			return stats(ctx, q)
		}
		b.reopened = func() { on, *list = true, nil }
	}},
	{"Reopen/survives", "what is due forgotten", func(b *broken) {
		on := false
		b.reopened = func() { on = true }
		b.counts(func(s *postrider.Stats, _ postrider.StatsQuery, _ []postrider.Delivery) {
			if on {
				s.Due, s.OldestDue = s.Due-min(s.Due, s.InProcess), time.Time{}
			}
		})
	}},
}

// healths makes Complete take what f makes of each change with Health.
func (b *broken) healths(f func(c *postrider.WebhookChange)) {
	b.outcomes(func(o *postrider.Outcome) {
		if o.Webhook != nil && o.Webhook.Health != nil && !o.Webhook.Aside && o.Validate() == nil {
			h := *o.Webhook.Health
			o.Webhook.Health = &h
			f(o.Webhook)
		}
	})
}

// healthOf notes what each change with Health found, and makes of the webhook what f makes of it after that.
func (b *broken) healthOf(f func(before postrider.Webhook, w *postrider.Webhook, c postrider.WebhookChange)) {
	b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
		before := map[string]postrider.Webhook{}
		for _, o := range outcomes {
			if o.Attempt != nil {
				before[o.Attempt.WebhookID] = b.get(o.Attempt.WebhookID)
			}
		}
		n, err := b.Store.Complete(ctx, outcomes)
		for _, o := range outcomes {
			if n == len(outcomes) && o.Attempt != nil && o.Webhook != nil && (o.Webhook.Health != nil || o.Webhook.Aside) {
				w := b.get(o.Attempt.WebhookID)
				f(before[w.ID], &w, *o.Webhook)
				_ = b.Store.UpdateWebhook(ctx, w)
			}
		}
		return n, err
	}
}

var healthMutants = []mutant{
	{"Health/trips", "no Health", func(b *broken) { b.healths(func(c *postrider.WebhookChange) { c.Health = nil }) }},
	{"Health/trips", "not counted as a change", func(b *broken) {
		b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
			w, err := b.Store.Webhook(ctx, id)
			if w.Failures > 0 && w.FailingSince.Equal(b.now()) && w.Failures == 2 {
				w.Version--
			}
			return w, err
		}
	}},
	{"Health/trips", "no Hold", func(b *broken) {
		b.healthOf(func(before postrider.Webhook, w *postrider.Webhook, _ postrider.WebhookChange) {
			w.NotBefore = before.NotBefore
		})
	}},
	{"Health/open", "each failure opens it again", func(b *broken) {
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			n, err := b.Store.Complete(ctx, outcomes)
			for _, o := range outcomes {
				if n == 1 && o.Webhook != nil && o.Webhook.Health != nil && o.Webhook.Failing {
					if w := b.get(o.Attempt.WebhookID); w.Failures > o.Webhook.Health.BreakAfter && w.Trips == 1 {
						w.NotBefore = b.now().Add(time.Minute)
						_ = b.Store.UpdateWebhook(ctx, w)
					}
				}
			}
			return n, err
		}
	}},
	{"Health/probe", "always as long", func(b *broken) {
		b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
			w, err := b.Store.Webhook(ctx, id)
			if w.ID == "a" && w.UpdatedAt.Equal(b.now()) {
				w.Trips = min(w.Trips, 1)
			}
			return w, err
		}
	}},
	{"Health/widens", "by every success", func(b *broken) {
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			own := make([]postrider.Outcome, len(outcomes))
			for i, o := range outcomes {
				if o.Webhook != nil && o.Webhook.Health != nil && !o.Webhook.Failing {
					c, h := *o.Webhook, *o.Webhook.Health
					h.Full = b.get(o.Attempt.WebhookID).Window
					c.Health, o.Webhook = &h, &c
				}
				own[i] = o
			}
			return b.Store.Complete(ctx, own)
		}
	}},
	{"Health/widens", "never given up", func(b *broken) {
		b.healths(func(c *postrider.WebhookChange) { c.Health.MaxInFlight = 1000 })
	}},
	{"Health/two-in-a-call", "only the last", func(b *broken) {
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			own := make([]postrider.Outcome, len(outcomes))
			for i, o := range outcomes {
				if i < len(outcomes)-1 && o.Webhook != nil && o.Webhook.Health != nil && o.Webhook.Health.MaxInFlight == 32 {
					o.Webhook = nil
				}
				own[i] = o
			}
			return b.Store.Complete(ctx, own)
		}
	}},
	{"Health/as-it-is", "as it was claimed", func(b *broken) {
		claimed := map[string]postrider.Webhook{}
		b.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			for _, c := range claims {
				claimed[c.Token] = c.Webhook
			}
			return claims, wait
		})
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			n, err := b.Store.Complete(ctx, outcomes)
			if n != 1 || len(outcomes) != 1 || outcomes[0].Webhook == nil || outcomes[0].Webhook.Health == nil || outcomes[0].Webhook.Failing {
				return n, err
			}
			w, now := claimed[outcomes[0].Token], b.get(outcomes[0].Attempt.WebhookID)
			if now.Owner == "new" {
				outcomes[0].Webhook.Apply(&w, b.now())
				w.Version = now.Version
				_ = b.Store.UpdateWebhook(ctx, w)
			}
			return n, err
		}
	}},
	{"Health/disables", "never", func(b *broken) { b.healths(func(c *postrider.WebhookChange) { c.Health.DisableAfter = 0 }) }},
	{"Health/aside", "not aside", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Webhook != nil {
				o.Webhook.Aside = false
			}
		})
	}},
	{"Health/aside", "no change at all", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Webhook != nil && o.Webhook.Aside {
				o.Webhook = nil
			}
		})
	}},
	{"Reopen/health", "forgotten", func(b *broken) {
		b.reopened = func() {
			page, err := b.Store.Webhooks(context.Background(), postrider.WebhookQuery{})
			if err != nil || len(page.Items) != 1 || page.Items[0].Trips == 0 {
				return
			}
			w := page.Items[0]
			w.Window, w.Trips, w.NotBefore = 0, 0, time.Time{}
			_ = b.Store.UpdateWebhook(context.Background(), w)
		}
	}},
}
