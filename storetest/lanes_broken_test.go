package storetest_test

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/postrider/postrider"
)

// lanes does by itself, slowly, what a store does about lanes, so that a mutant can do it otherwise. The store below
// knows of no lanes: it is not told what Ordered and OrderKey are.
type lanes struct {
	b *broken

	mu      sync.Mutex      // guards what follows: some cases have two goroutines
	on      bool            // there are lanes
	ordered map[string]bool // webhooks
	keys    map[string]string
	entered map[string]entered

	// lane names the lane of a delivery, "" if it has none. then is whether its webhook was Ordered when it was stored.
	lane func(e entered) string
	// opens reports whether a delivery lets those pass that come later in its lane.
	opens func(d postrider.Delivery) bool
	// only reports whether Only heeds lanes.
	only bool
	// rank orders what is handed out.
	rank func(claims []postrider.Claim)
}

// entered is a delivery when it was stored.
type entered struct {
	item postrider.Item
	hook string
	then bool
}

func (l *lanes) correct(e entered) string {
	switch {
	case e.item.Test || e.item.ReplayOf != "":
		return ""
	case e.then:
		return e.hook
	case e.item.Event.OrderKey != "":
		return e.hook + " " + e.item.Event.OrderKey
	}
	return ""
}

// withLanes puts lanes in place of the store's, after f has spoiled them.
func withLanes(f func(*lanes)) func(*broken) {
	return func(b *broken) {
		l := &lanes{b: b, ordered: map[string]bool{}, keys: map[string]string{}, entered: map[string]entered{}, only: true}
		l.lane, l.opens = l.correct, func(d postrider.Delivery) bool { return d.Status.Final() }
		l.rank = func([]postrider.Claim) {}
		b.create = func(ctx context.Context, w postrider.Webhook) error { return b.Store.CreateWebhook(ctx, l.strip(w)) }
		b.update = func(ctx context.Context, w postrider.Webhook) error { return b.Store.UpdateWebhook(ctx, l.strip(w)) }
		b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
			w, err := b.Store.Webhook(ctx, id)
			l.mu.Lock()
			defer l.mu.Unlock()
			w.Ordered = l.ordered[id]
			return w, err
		}
		b.webhooks = func(ctx context.Context, q postrider.WebhookQuery) (postrider.Page[postrider.Webhook], error) {
			page, err := b.Store.Webhooks(ctx, q)
			l.mu.Lock()
			defer l.mu.Unlock()
			for i := range page.Items {
				page.Items[i].Ordered = l.ordered[page.Items[i].ID]
			}
			return page, err
		}
		b.event = func(ctx context.Context, project, id string) (postrider.Event, error) {
			e, err := b.Store.Event(ctx, project, id)
			l.mu.Lock()
			defer l.mu.Unlock()
			e.OrderKey = l.keys[key(e)]
			return e, err
		}
		b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
			receipts, err := b.Store.Enqueue(ctx, l.bare(items))
			l.enter(items, receipts)
			return receipts, err
		}
		b.claim = l.claim
		b.counts(func(s *postrider.Stats, _ postrider.StatsQuery, open []postrider.Delivery) {
			l.mu.Lock()
			defer l.mu.Unlock()
			if !l.on {
				return
			}
			s.Due, s.OldestDue = 0, time.Time{}
			blocked := l.blocked()
			for _, d := range open {
				minutes, _ := units(d.NextAt, b.now())
				if blocked[d.ID] || minutes > 0 {
					continue
				}
				if s.Due++; !d.NextAt.After(b.now()) && (s.OldestDue.IsZero() || d.NextAt.Before(s.OldestDue)) {
					s.OldestDue = d.NextAt
				}
			}
		})
		b.begins(func(t *tx) {
			var after []func()
			t.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
				receipts, err := t.Tx.Enqueue(ctx, l.bare(items))
				after = append(after, func() { l.enter(items, receipts) })
				return receipts, err
			}
			t.commit = func() error {
				err := t.Tx.Commit()
				for _, f := range after {
					f()
				}
				return err
			}
		})
		f(l)
	}
}

func (l *lanes) strip(w postrider.Webhook) postrider.Webhook {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ordered[w.ID] = w.Ordered
	w.Ordered = false
	return w
}

func (l *lanes) bare(items []postrider.Item) []postrider.Item {
	own := slices.Clone(items)
	for i := range own {
		own[i].Event.OrderKey = ""
	}
	return own
}

func (l *lanes) enter(items []postrider.Item, receipts []postrider.Receipt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, r := range receipts {
		if it := items[i]; it.ReplayOf == "" && !r.Duplicate {
			l.keys[key(it.Event)] = it.Event.OrderKey
		}
		for _, id := range r.Deliveries {
			d, _, _ := l.b.Store.Delivery(context.Background(), id)
			l.entered[id] = entered{items[i], d.WebhookID, l.ordered[d.WebhookID]}
			l.on = l.on || l.correct(l.entered[id]) != ""
		}
	}
}

func (l *lanes) laneOf(id string) string {
	e, ok := l.entered[id]
	if !ok {
		return ""
	}
	return l.lane(e)
}

// blocked returns the deliveries that others of their lane hold back.
func (l *lanes) blocked() map[string]bool {
	shut, list := map[string]bool{}, map[string]bool{}
	for _, d := range l.b.all(postrider.DeliveryQuery{Ascending: true}) {
		lane := l.laneOf(d.ID)
		if lane == "" {
			continue
		}
		if shut[lane] {
			list[d.ID] = true
		}
		shut[lane] = shut[lane] || !l.opens(d)
	}
	return list
}

func (l *lanes) claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Validate() != nil || ctx.Err() != nil || !l.on {
		return l.b.Store.Claim(ctx, r)
	}
	// None, so that leases that are over are noticed, and the wait is that of what is not handed out.
	idle := postrider.ClaimRequest{Max: 1, Lease: time.Hour, Limits: map[string]int{}, MaxInFlight: r.MaxInFlight}
	for id := range l.ordered {
		idle.Limits[id] = 0
	}
	_, _, err := l.b.Store.Claim(ctx, idle)
	if err != nil {
		return nil, 0, err
	}
	blocked := l.blocked()
	if r.Only != "" {
		if l.only && blocked[r.Only] {
			return nil, postrider.Forever, nil
		}
		return l.b.Store.Claim(ctx, r)
	}
	most := r.Max
	r.Max = 1 << 20
	claims, _, err := l.b.Store.Claim(ctx, r)
	l.rank(claims)
	var kept []postrider.Claim
	held := map[string]int{}
	for _, c := range claims {
		base, ok := held[c.Webhook.ID]
		if !ok {
			base = c.Held - 1
		}
		if blocked[c.Delivery.ID] || len(kept) == most {
			_, _ = l.b.Store.Complete(ctx, []postrider.Outcome{{DeliveryID: c.Delivery.ID, Token: c.Token}})
			held[c.Webhook.ID] = base
			continue
		}
		held[c.Webhook.ID] = base + 1
		c.Held, c.Webhook.Ordered, c.Event.OrderKey = base+1, l.ordered[c.Webhook.ID], l.keys[key(c.Event)]
		kept = append(kept, c)
	}
	if len(kept) == most || err != nil {
		return kept, 0, err
	}
	_, wait, err := l.b.Store.Claim(ctx, idle)
	for _, d := range l.b.all(postrider.DeliveryQuery{}) {
		if in := d.NextAt.Sub(l.b.now()); !d.Status.Final() && !d.InFlight && !blocked[d.ID] && in > 0 {
			wait = min(wait, in)
		}
	}
	return kept, wait, err
}

// since makes lanes open to those that f says, from when a change of the kind was made on.
func (l *lanes) since(kind postrider.ChangeKind, f func(postrider.Delivery) bool) {
	changed := map[string]bool{}
	l.b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
		if c.Kind == kind && !c.Deleted {
			for _, d := range l.b.all(c.Query) {
				changed[d.ID] = changed[d.ID] || !d.Status.Final()
			}
		}
		return l.b.Store.Change(ctx, c)
	}
	l.opens = func(d postrider.Delivery) bool { return d.Status.Final() || changed[d.ID] && f(d) }
}
