package storetest_test

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/postrider/postrider"
)

// The mutants of Complete and Wait.

var completeMutants = []mutant{
	{"Complete/count", "not the failed", func(b *broken) {
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			n, err := b.Store.Complete(ctx, outcomes)
			for _, o := range outcomes {
				if o.Status == postrider.StatusFailed && n > 0 {
					n--
				}
			}
			return n, err
		}
	}},
	{"Complete/one-step", "no change of the webhook", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Attempt != nil {
				o.Webhook = nil
			}
		})
	}},
	{"Complete/attempt", "a short body", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Attempt != nil {
				o.Attempt.Body = o.Attempt.Body[:min(len(o.Attempt.Body), 1024)]
			}
		})
	}},
	{"Complete/attempt", "no plan", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Attempt != nil {
				o.Attempt.NextAt = time.Time{}
			}
		})
	}},
	{"Complete/last", "code of the last attempt", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			page, err := b.Store.Deliveries(ctx, q)
			for i := range page.Items {
				d := &page.Items[i]
				if _, attempts, _ := b.Store.Delivery(ctx, d.ID); len(attempts) > 0 {
					d.LastCode = attempts[len(attempts)-1].Code
				}
			}
			return page, err
		}
	}},
	{"Complete/last", "no error after a success", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			page, err := b.Store.Deliveries(ctx, q)
			for i := range page.Items {
				if d := &page.Items[i]; d.Status == postrider.StatusDelivered {
					d.LastClass, d.LastError = postrider.ClassNone, ""
				}
			}
			return page, err
		}
	}},
	{"Complete/retry-in", "at most 30 days", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) { o.RetryIn = min(o.RetryIn, 30*24*time.Hour) })
	}},
	{"Complete/stale", "taken after the lease", func(b *broken) {
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			n, err := b.Store.Complete(ctx, outcomes)
			if err != nil || n > 0 || len(outcomes) != 1 || outcomes[0].Attempt == nil {
				return n, err
			}
			o := outcomes[0]
			claims, _, _ := b.Store.Claim(ctx, postrider.ClaimRequest{Max: 1, Lease: time.Hour, Only: o.DeliveryID})
			if len(claims) == 0 {
				return n, err
			}
			o.Token = claims[0].Token
			return b.Store.Complete(ctx, []postrider.Outcome{o})
		}
	}},
	{"Complete/stale", "not fenced", func(b *broken) {
		b.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			for _, c := range claims {
				b.note[c.Delivery.ID] = c.Token
			}
			return claims, wait
		})
		b.outcomes(func(o *postrider.Outcome) { o.Token = b.note[o.DeliveryID] })
	}},
	{"Complete/twice", "counted twice", func(b *broken) {
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (n int, err error) {
			for i := range outcomes {
				if err := outcomes[i].Validate(); err != nil {
					return 0, err
				}
			}
			recorded := map[string]bool{}
			for _, o := range outcomes {
				k, err := b.Store.Complete(ctx, []postrider.Outcome{o})
				if err != nil {
					return n, err
				}
				if k == 0 && recorded[o.Token] {
					k = 1
				}
				n += k
				recorded[o.Token] = k > 0
			}
			return n, nil
		}
	}},
	{"Complete/release", "counts as an attempt", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Attempt == nil && o.DeliveryID != "" {
				now := b.now()
				o.Status, o.RetryIn = postrider.StatusInProcess, 0
				o.Attempt = &postrider.Attempt{DeliveryID: o.DeliveryID, Number: 1, StartedAt: now, FinishedAt: now, Failed: true, Class: postrider.ClassLocal}
			}
		})
	}},
	{"Complete/release-change", "not applied", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Attempt == nil {
				o.Webhook = nil
			}
		})
	}},
	{"Complete/release-change", "judged", func(b *broken) {
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			for _, o := range outcomes {
				if o.RetryIn < 0 {
					return 0, &postrider.ValidationError{Fields: []postrider.FieldError{{Name: "RetryIn"}}}
				}
			}
			return b.Store.Complete(ctx, outcomes)
		}
	}},
	{"Complete/final", "canceled with the webhook", func(b *broken) {
		gone := map[string]bool{}
		b.remove = func(ctx context.Context, id string) error { gone[id] = true; return b.Store.DeleteWebhook(ctx, id) }
		b.reads(func(d *postrider.Delivery, _ []postrider.Attempt) {
			if gone[d.WebhookID] && d.Status.Final() {
				d.Status = postrider.StatusCanceled
			}
		})
	}},
	{"Complete/canceled", "also if delivered", func(b *broken) {
		b.afterCancel(func(o *postrider.Outcome) {
			if o.Attempt != nil {
				o.Status = postrider.StatusCanceled
			}
		})
	}},
	{"Complete/deleted", "also if delivered", func(b *broken) {
		gone := false
		b.remove = func(ctx context.Context, id string) error { gone = true; return b.Store.DeleteWebhook(ctx, id) }
		b.outcomes(func(o *postrider.Outcome) {
			if gone && o.Attempt != nil {
				o.Status = postrider.StatusCanceled
			}
		})
	}},
	{"Complete/canceled-attempt", "not recorded", func(b *broken) {
		b.afterCancel(func(o *postrider.Outcome) {
			if o.Status != postrider.StatusDelivered {
				o.Attempt = nil
			}
		})
	}},
	{"Complete/hold", "shortens", func(b *broken) {
		b.afterChange(func(w *postrider.Webhook, c postrider.WebhookChange) {
			if c.Hold > 0 {
				w.NotBefore = b.now().Add(c.Hold)
			}
		})
	}},
	{"Complete/hold", "not applied", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Webhook != nil {
				o.Webhook.Hold = 0
			}
		})
	}},
	{"Complete/window", "not back to 0", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Webhook != nil && o.Attempt != nil {
				o.Webhook.Window = cmp.Or(o.Webhook.Window, b.get(o.Attempt.WebhookID).Window)
			}
		})
	}},
	{"Complete/failing", "not cleared", func(b *broken) {
		b.outcomes(func(o *postrider.Outcome) {
			if o.Webhook != nil && !o.Webhook.Failing {
				o.Webhook = nil
			}
		})
	}},
	{"Complete/failing", "since the last", func(b *broken) {
		b.afterChange(func(w *postrider.Webhook, c postrider.WebhookChange) {
			if c.Failing {
				w.FailingSince = b.now()
			}
		})
	}},
	{"Complete/disable", "no reason", func(b *broken) {
		b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
			w, err := b.Store.Webhook(ctx, id)
			w.Reason = ""
			return w, err
		}
	}},
	{"Complete/invalid", "the others are recorded", func(b *broken) {
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			var good []postrider.Outcome
			var bad error
			for _, o := range outcomes {
				if err := o.Validate(); err != nil {
					bad = err
				} else {
					good = append(good, o)
				}
			}
			n, err := b.Store.Complete(ctx, good)
			if bad != nil {
				return 0, bad
			}
			return n, err
		}
	}},
	{"Complete/error", "released", func(b *broken) {
		b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
			if ctx.Err() == nil {
				return b.Store.Complete(ctx, outcomes)
			}
			for _, o := range outcomes {
				o.Attempt = nil
				_, _ = b.Store.Complete(context.Background(), []postrider.Outcome{o})
			}
			return 0, ctx.Err()
		}
	}},
}

// afterCancel makes Complete take what f makes of each outcome once something was canceled.
func (b *broken) afterCancel(f func(*postrider.Outcome)) {
	canceled := false
	b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
		canceled = canceled || c.Kind == postrider.ChangeCancel
		return b.Store.Change(ctx, c)
	}
	b.outcomes(func(o *postrider.Outcome) {
		if canceled {
			f(o)
		}
	})
}

// afterChange makes of a webhook what f makes of it after each change.
func (b *broken) afterChange(f func(*postrider.Webhook, postrider.WebhookChange)) {
	b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
		n, err := b.Store.Complete(ctx, outcomes)
		for _, o := range outcomes {
			if n == len(outcomes) && o.Webhook != nil && o.Attempt != nil {
				w := b.get(o.Attempt.WebhookID)
				f(&w, *o.Webhook)
				_ = b.Store.UpdateWebhook(ctx, w)
			}
		}
		return n, err
	}
}

func resumes(old, w postrider.Webhook) bool {
	return old.State != postrider.StateEnabled && w.State == postrider.StateEnabled
}

func anyOutcome(postrider.Outcome) bool { return true }

func anyUpdate(_, _ postrider.Webhook) bool { return true }

var waitMutants = []mutant{
	{"Wait/never-misses", "only what comes later", func(b *broken) {
		b.wait = func(ctx context.Context) error {
			gone, cancel := context.WithCancel(ctx)
			defer cancel()
			time.AfterFunc(time.Millisecond, cancel)
			for b.Store.Wait(gone) == nil { // a signal from before
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return b.Store.Wait(ctx)
		}
	}},
	{"Wait/enqueue", "only what came before", func(b *broken) {
		b.wait = func(ctx context.Context) error {
			soon, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
			defer cancel()
			err := b.Store.Wait(soon)
			if errors.Is(err, context.DeadlineExceeded) {
				<-ctx.Done()
			}
			return err
		}
	}},
	{"Wait/resumed", "not told", func(b *broken) {
		b.deafTo(func(old, w postrider.Webhook) bool { return !resumes(old, w) }, anyOutcome, true)
	}},
	{"Wait/changed", "not told", func(b *broken) { b.deafTo(resumes, anyOutcome, true) }},
	{"Wait/completed", "not told", func(b *broken) {
		b.deafTo(anyUpdate, func(o postrider.Outcome) bool { return o.Attempt == nil }, true)
	}},
	{"Wait/released", "not told", func(b *broken) {
		b.deafTo(anyUpdate, func(o postrider.Outcome) bool { return o.Attempt != nil }, true)
	}},
	{"Wait/due", "not told", func(b *broken) { b.deafTo(anyUpdate, anyOutcome, false) }},
}
