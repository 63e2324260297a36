package storetest_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider"
)

// The mutants of Enqueue and Claim.

var enqueueMutants = []mutant{
	{"Enqueue/receipts", "reversed", func(b *broken) {
		b.receipts(func(_ []postrider.Item, r []postrider.Receipt) { slices.Reverse(r) })
	}},
	{"Enqueue/receipt-order", "reversed", func(b *broken) {
		b.receipts(func(_ []postrider.Item, list []postrider.Receipt) {
			for _, r := range list {
				slices.Reverse(r.Deliveries)
			}
		})
	}},
	{"Enqueue/exact", "payload made UTF-8", func(b *broken) {
		b.items(func(it *postrider.Item) { it.Event.Payload = bytes.ToValidUTF8(it.Event.Payload, []byte("?")) })
	}},
	{"Enqueue/exact", "payload ends at NUL", func(b *broken) {
		b.items(func(it *postrider.Item) { it.Event.Payload, _, _ = bytes.Cut(it.Event.Payload, []byte{0}) })
	}},
	{"Enqueue/exact", "payload compacted", func(b *broken) {
		b.items(func(it *postrider.Item) { it.Event.Payload = bytes.ReplaceAll(it.Event.Payload, []byte(" "), nil) })
	}},
	{"Enqueue/exact", "time to the millisecond", func(b *broken) {
		b.items(func(it *postrider.Item) { it.Event.Time = it.Event.Time.Truncate(time.Millisecond) })
	}},
	{"Enqueue/exact", "time since 1970", func(b *broken) {
		b.items(func(it *postrider.Item) {
			if it.Event.Time.Before(time.Unix(0, 0)) {
				it.Event.Time = time.Unix(0, 0)
			}
		})
	}},
	{"Enqueue/exact", "no metadata", func(b *broken) {
		b.items(func(it *postrider.Item) { it.Event.Metadata = nil })
	}},
	{"Enqueue/exact", "no content type at Claim", func(b *broken) {
		b.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			for i := range claims {
				claims[i].Event.ContentType = ""
			}
			return claims, wait
		})
	}},
	{"Enqueue/delivery", "no owner", func(b *broken) {
		b.reads(func(d *postrider.Delivery, _ []postrider.Attempt) { d.Owner = "" })
	}},
	{"Enqueue/due", "no test", func(b *broken) { b.items(func(it *postrider.Item) { it.Test = false }) }},
	{"Enqueue/all-matching", "not the paused", func(b *broken) {
		b.enqueueMatching(func(w *postrider.Webhook, e *postrider.Event) bool {
			return w.State == postrider.StateEnabled && w.Matches(e.Type)
		})
	}},
	{"Enqueue/all-matching", "prefix without star", func(b *broken) {
		b.enqueueMatching(func(w *postrider.Webhook, e *postrider.Event) bool {
			return w.Matches(e.Type) || strings.HasPrefix(e.Type, w.Events[0])
		})
	}},
	{"Enqueue/to", "unknown ones passed over", func(b *broken) {
		b.items(func(it *postrider.Item) {
			if it.To != nil {
				it.To = slices.DeleteFunc(slices.Clone(it.To), func(id string) bool { return b.get(id).Project != it.Event.Project })
			}
		})
	}},
	{"Enqueue/to", "empty is all", func(b *broken) {
		b.items(func(it *postrider.Item) {
			if len(it.To) == 0 {
				it.To = nil
			}
		})
	}},
	{"Enqueue/atomic", "one by one", func(b *broken) { b.enqueue = b.oneByOne(b.Store.Enqueue) }},
	{"Enqueue/duplicate", "not said", func(b *broken) {
		b.receipts(func(_ []postrider.Item, list []postrider.Receipt) {
			for i := range list {
				list[i].Duplicate = false
			}
		})
	}},
	{"Enqueue/duplicate", "over all projects", func(b *broken) {
		seen := map[string]string{}
		b.receipts(func(items []postrider.Item, list []postrider.Receipt) {
			for i, it := range items {
				if p, ok := seen[it.Event.ID]; ok && p != it.Event.Project && it.ReplayOf == "" {
					list[i].Duplicate = true
				}
				seen[it.Event.ID] = it.Event.Project
			}
		})
	}},
	{"Enqueue/duplicate-in-call", "stored", func(b *broken) {
		b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
			own := slices.Clone(items)
			seen := map[string]bool{}
			for i := range own {
				if e := &own[i].Event; own[i].ReplayOf == "" {
					if seen[key(*e)] {
						e.ID += "-2"
					}
					seen[key(*e)] = true
				}
			}
			receipts, err := b.Store.Enqueue(ctx, own)
			for i := range receipts {
				receipts[i].EventID = items[i].Event.ID
			}
			return receipts, err
		}
	}},
	{"Enqueue/no-match", "makes a duplicate", func(b *broken) {
		seen := map[string]bool{}
		b.receipts(func(items []postrider.Item, list []postrider.Receipt) {
			for i, it := range items {
				if seen[key(it.Event)] {
					list[i].Duplicate = true
				}
				if len(list[i].Deliveries) == 0 {
					seen[key(it.Event)] = true
				}
			}
		})
	}},
	{"Enqueue/replay", "of no event", func(b *broken) {
		b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
			receipts, err := b.Store.Enqueue(ctx, items)
			if errors.Is(err, postrider.ErrNotFound) && items[0].ReplayOf != "" {
				return make([]postrider.Receipt, len(items)), nil
			}
			return receipts, err
		}
	}},
	{"Enqueue/replay", "not to new webhooks", func(b *broken) {
		b.items(func(it *postrider.Item) {
			if it.ReplayOf != "" && it.To == nil {
				d, _, _ := b.Store.Delivery(context.Background(), it.ReplayOf)
				it.To = []string{d.WebhookID}
			}
		})
	}},
	{"Enqueue/error", "stored twice", func(b *broken) {
		b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
			if ctx.Err() == nil {
				return b.Store.Enqueue(ctx, items)
			}
			own := slices.Clone(items)
			own[0].Event.ID += "-1"
			_, _ = b.Store.Enqueue(context.Background(), own)
			return nil, ctx.Err()
		}
	}},
}

// enqueueMatching makes events go to the webhooks that f picks.
func (b *broken) enqueueMatching(f func(*postrider.Webhook, *postrider.Event) bool) {
	b.items(func(it *postrider.Item) {
		if it.To != nil || it.ReplayOf != "" {
			return
		}
		it.To = []string{}
		page, _ := b.Store.Webhooks(context.Background(), postrider.WebhookQuery{Limit: postrider.MaxLimit})
		for _, w := range page.Items {
			if w.Project == it.Event.Project && f(&w, &it.Event) {
				it.To = append(it.To, w.ID)
			}
		}
	})
}

func (b *broken) oneByOne(enqueue func(context.Context, []postrider.Item) ([]postrider.Receipt, error)) func(context.Context, []postrider.Item) ([]postrider.Receipt, error) {
	return func(ctx context.Context, items []postrider.Item) (list []postrider.Receipt, err error) {
		for i := range items {
			r, err := enqueue(ctx, items[i:i+1])
			if err != nil {
				return nil, err
			}
			list = append(list, r...)
		}
		return list, nil
	}
}

// helds makes Claim say what f makes of Held.
func (b *broken) helds(f func(r postrider.ClaimRequest, claims []postrider.Claim)) {
	b.claims(func(r postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
		f(r, claims)
		return claims, wait
	})
}

var heldMutants = []mutant{
	{"Held/claims", "of all of the call", func(b *broken) {
		b.helds(func(_ postrider.ClaimRequest, claims []postrider.Claim) {
			most := map[string]int{}
			for _, c := range claims {
				most[c.Webhook.ID] = max(most[c.Webhook.ID], c.Held)
			}
			for i, c := range claims {
				claims[i].Held = most[c.Webhook.ID]
			}
		})
	}},
	{"Held/ends", "what was held once", func(b *broken) {
		once := map[string]int{}
		b.helds(func(r postrider.ClaimRequest, claims []postrider.Claim) {
			if r.MaxInFlight > 0 || r.Only != "" {
				return
			}
			for i, c := range claims {
				// Ends are seen only when nothing is left.
				if c.Held == 1 {
					once[c.Webhook.ID] = 0
				}
				once[c.Webhook.ID] = max(once[c.Webhook.ID]+1, c.Held)
				if c.Webhook.MaxInFlight == 0 && c.Webhook.Window == 0 {
					claims[i].Held = once[c.Webhook.ID]
				}
			}
		})
	}},
	{"Held/webhooks", "of all webhooks", func(b *broken) {
		b.helds(func(r postrider.ClaimRequest, claims []postrider.Claim) {
			before := 0
			hooks := map[string]bool{}
			for i, c := range claims {
				if hooks[c.Webhook.ID] = true; len(hooks) > 1 && c.Webhook.MaxInFlight == 0 && r.Max == 10 {
					claims[i].Held += before
				}
				before++
			}
		})
	}},
	{"Held/only", "by itself", func(b *broken) {
		b.helds(func(r postrider.ClaimRequest, claims []postrider.Claim) {
			for i, c := range claims {
				if r.Only != "" && c.Webhook.ID == "a" && c.Webhook.MaxInFlight == 1 {
					claims[i].Held = 1
				}
			}
		})
	}},
}

var claimMutants = []mutant{
	{"Claim/due", "webhook as it was", func(b *broken) {
		b.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			for i := range claims {
				claims[i].Webhook.URL = "https://example.com/" + claims[i].Webhook.ID
			}
			return claims, wait
		})
	}},
	{"Claim/due", "one token for all", func(b *broken) { b.retoken(func() string { return "token" }) }},
	{"Claim/max", "one more", func(b *broken) { b.request(func(r *postrider.ClaimRequest) { r.Max++ }) }},
	{"Claim/limits", "no Limits", func(b *broken) { b.request(func(r *postrider.ClaimRequest) { r.Limits = nil }) }},
	{"Claim/limits", "no Each", func(b *broken) { b.request(func(r *postrider.ClaimRequest) { r.Each = 0 }) }},
	{"Claim/limits", "Each on top of Limits", func(b *broken) {
		b.request(func(r *postrider.ClaimRequest) {
			limits := map[string]int{}
			for id, n := range r.Limits {
				if limits[id] = n; r.Each > 0 {
					limits[id] = min(n, r.Each)
				}
			}
			r.Limits = limits
		})
	}},
	{"Claim/held", "handed out again", func(b *broken) {
		var last []postrider.Claim
		b.claims(func(r postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			if len(claims) == 0 && r.Only == "" {
				return last, wait
			}
			last = claims[:1:1]
			return claims, wait
		})
	}},
	{"Claim/lease", "never over", func(b *broken) {
		b.request(func(r *postrider.ClaimRequest) {
			if r.Validate() == nil {
				r.Lease = 50 * 365 * 24 * time.Hour
			}
		})
	}},
	{"Claim/lease", "the same token again", func(b *broken) {
		b.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			for i, c := range claims {
				claims[i].Token = cmp.Or(b.note[c.Delivery.ID], c.Token)
				b.note[c.Delivery.ID] = claims[i].Token
			}
			return claims, wait
		})
	}},
	{"Claim/not-before-due", "at once", func(b *broken) { b.outcomes(func(o *postrider.Outcome) { o.RetryIn = 0 }) }},
	{"Claim/token", "of two digits", func(b *broken) {
		n := 0
		b.retoken(func() string { n++; return fmt.Sprintf("%02d", n%100) })
	}},
	{"Claim/oldest-first", "newest first", func(b *broken) {
		b.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			held := map[string][]int{}
			for _, c := range claims {
				held[c.Webhook.ID] = append(held[c.Webhook.ID], c.Held)
			}
			slices.Reverse(claims)
			for i, c := range claims {
				claims[i].Held, held[c.Webhook.ID] = held[c.Webhook.ID][0], held[c.Webhook.ID][1:]
			}
			return claims, wait
		})
	}},
	{"Claim/turns", "oldest of all first", func(b *broken) {
		b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
			if r.Validate() != nil || r.Only != "" {
				return b.Store.Claim(ctx, r)
			}
			most := r.Max
			r.Max = 1 << 20
			claims, wait, err := b.Store.Claim(ctx, r)
			slices.SortStableFunc(claims, func(x, y postrider.Claim) int { return x.Delivery.NextAt.Compare(y.Delivery.NextAt) })
			if len(claims) >= most {
				wait = 0
			}
			for _, c := range claims[min(most, len(claims)):] {
				_, _ = b.Store.Complete(ctx, []postrider.Outcome{{DeliveryID: c.Delivery.ID, Token: c.Token}})
			}
			return claims[:min(most, len(claims))], wait, err
		}
	}},
	{"Claim/in-flight", "by call", func(b *broken) {
		b.request(func(r *postrider.ClaimRequest) {
			if r.MaxInFlight > 0 {
				r.Each, r.MaxInFlight = r.MaxInFlight, 0
			}
		})
	}},
	{"Claim/in-flight-own", "not kept", func(b *broken) { b.stores(func(w *postrider.Webhook) { w.MaxInFlight = 0 }) }},
	{"Claim/window", "not kept", func(b *broken) { b.stores(func(w *postrider.Webhook) { w.Window = 0 }) }},
	{"Claim/window", "before a smaller MaxInFlight", func(b *broken) {
		b.stores(func(w *postrider.Webhook) {
			if w.Window > w.MaxInFlight {
				w.MaxInFlight = w.Window
			}
		})
	}},
	{"Claim/paused", "enabled", func(b *broken) { b.enables(postrider.StatePaused) }},
	{"Claim/disabled", "enabled", func(b *broken) { b.enables(postrider.StateDisabled) }},
	{"Claim/deleted", "only hidden", func(b *broken) {
		hidden := map[string]bool{}
		b.remove = func(ctx context.Context, id string) error {
			w := b.get(id)
			w.Events = []string{"nothing"}
			hidden[id] = true
			return b.Store.UpdateWebhook(ctx, w)
		}
		b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
			for _, it := range items {
				if slices.ContainsFunc(it.To, func(id string) bool { return hidden[id] }) {
					return nil, postrider.ErrNotFound
				}
			}
			return b.Store.Enqueue(ctx, items)
		}
	}},
	{"Claim/not-before", "not kept", func(b *broken) { b.stores(func(w *postrider.Webhook) { w.NotBefore = time.Time{} }) }},
	{"Claim/only", "not of a paused one", func(b *broken) {
		b.notOnly(func(d postrider.Delivery, w postrider.Webhook) bool { return w.State == postrider.StatePaused })
	}},
	{"Claim/only", "not before it is due", func(b *broken) {
		b.notOnly(func(d postrider.Delivery, _ postrider.Webhook) bool { return d.NextAt.After(b.now()) })
	}},
	{"Claim/only", "within Limits", func(b *broken) {
		b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
			if r.Only != "" && len(r.Limits) > 0 {
				return nil, postrider.Forever, nil
			}
			return b.Store.Claim(ctx, r)
		}
	}},
	{"Claim/only-held", "handed out again", func(b *broken) {
		given := map[string]postrider.Claim{}
		b.claims(func(r postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			if c, ok := given[r.Only]; ok && len(claims) == 0 {
				claims = append(claims, c)
			}
			for _, c := range claims {
				given[c.Delivery.ID] = c
			}
			return claims, wait
		})
	}},
	{"Claim/only-deleted", "handed out", func(b *broken) {
		kept := map[string][]postrider.Claim{}
		b.remove = func(ctx context.Context, id string) error {
			for _, d := range b.all(postrider.DeliveryQuery{WebhookID: id}) {
				kept[d.ID], _, _ = b.Store.Claim(ctx, postrider.ClaimRequest{Max: 1, Lease: time.Hour, Only: d.ID})
			}
			return b.Store.DeleteWebhook(ctx, id)
		}
		b.claims(func(r postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			if len(claims) == 0 && r.Only != "" {
				claims = kept[r.Only]
			}
			return claims, wait
		})
	}},
	{"Claim/counted-nowhere", "not in flight", func(b *broken) {
		b.reads(func(d *postrider.Delivery, _ []postrider.Attempt) { d.InFlight = false })
	}},
	{"Claim/counted-nowhere", "counted as in process", func(b *broken) {
		b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
			s, err := b.Store.Stats(ctx, q)
			n := min(s.InFlight, s.New)
			s.New, s.InProcess = s.New-n, s.InProcess+n
			return s, err
		}
	}},
	{"Claim/wait", "too long", func(b *broken) {
		b.waits(func(_ postrider.ClaimRequest, wait time.Duration) time.Duration {
			if wait > 0 && wait < postrider.Forever {
				wait += time.Microsecond
			}
			return wait
		})
	}},
	{"Claim/wait", "not for a lease", func(b *broken) {
		b.waits(func(_ postrider.ClaimRequest, wait time.Duration) time.Duration {
			if wait == time.Hour {
				wait = postrider.Forever
			}
			return wait
		})
	}},
	{"Claim/wait-max", "the lease", func(b *broken) {
		b.waits(func(r postrider.ClaimRequest, wait time.Duration) time.Duration { return cmp.Or(wait, r.Lease) })
	}},
	{"Claim/wait-forever", "a day", func(b *broken) {
		b.waits(func(_ postrider.ClaimRequest, wait time.Duration) time.Duration { return min(wait, 24*time.Hour) })
	}},
	{"Claim/wait-kept-back", "a second", func(b *broken) {
		b.waits(func(r postrider.ClaimRequest, wait time.Duration) time.Duration {
			if r.Limits != nil || r.Each > 0 || r.MaxInFlight > 0 {
				wait = min(wait, time.Second)
			}
			return wait
		})
	}},
}

func (b *broken) enables(state postrider.State) {
	b.stores(func(w *postrider.Webhook) {
		if w.State == state {
			w.State = postrider.StateEnabled
		}
	})
}

// notOnly makes Only refuse what f says.
func (b *broken) notOnly(f func(postrider.Delivery, postrider.Webhook) bool) {
	b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
		if r.Only != "" {
			if d, _, err := b.Store.Delivery(ctx, r.Only); err == nil && f(d, b.get(d.WebhookID)) {
				return nil, postrider.Forever, nil
			}
		}
		return b.Store.Claim(ctx, r)
	}
}

func (b *broken) waits(f func(postrider.ClaimRequest, time.Duration) time.Duration) {
	b.claims(func(r postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
		return claims, f(r, wait)
	})
}
