package storetest_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/storetest"
)

// A mutant is a correct store with one clause broken. Every case of the suite has one or more, and is the first case
// that fails on them: what is wrong with a store is said by the case for it, not by one that happens to need it.
type mutant struct {
	kills string // the case
	name  string
	spoil func(*broken)
}

func TestMutants(t *testing.T) {
	t.Parallel()
	killed := map[string]bool{}
	for _, m := range allMutants() {
		killed[m.kills] = true
		t.Run(m.kills+"/"+m.name, func(t *testing.T) {
			t.Parallel()
			name, failure := storetest.FirstFailure(t, m.harness(), time.Second)
			assert.Equal(t, m.kills, name, "the first case to fail; it says:\n%s", failure)
			if name == m.kills {
				assert.Contains(t, failure, " says: ")
				assert.Contains(t, failure, "expected: ")
				assert.Contains(t, failure, "came: ")
			}
		})
	}
	for _, c := range storetest.Cases() {
		assert.True(t, killed[c.Name], "case %s has no mutant", c.Name)
	}
	t.Logf("%d cases, %d mutants", len(storetest.Cases()), len(allMutants()))
}

func allMutants() (list []mutant) {
	for _, part := range [][]mutant{enqueueMutants, claimMutants, heldMutants, completeMutants, waitMutants, webhookMutants, queryMutants, changeMutants, laneMutants, runMutants, statsMutants, healthMutants, ruleMutants, lifeMutants, filterMutants} {
		list = append(list, part...)
	}
	return list
}

// broken is a store in memory whose methods a mutant replaces, one or a few. What it replaced them with calls the
// correct store through Store.
type broken struct {
	postrider.Store
	mem *memstore.Store
	t   *testing.T
	now func() time.Time

	enqueue    func(context.Context, []postrider.Item) ([]postrider.Receipt, error)
	claim      func(context.Context, postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error)
	complete   func(context.Context, []postrider.Outcome) (int, error)
	wait       func(context.Context) error
	create     func(context.Context, postrider.Webhook) error
	update     func(context.Context, postrider.Webhook) error
	remove     func(context.Context, string) error
	webhook    func(context.Context, string) (postrider.Webhook, error)
	webhooks   func(context.Context, postrider.WebhookQuery) (postrider.Page[postrider.Webhook], error)
	event      func(context.Context, string, string) (postrider.Event, error)
	delivery   func(context.Context, string) (postrider.Delivery, []postrider.Attempt, error)
	deliveries func(context.Context, postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error)
	attempts   func(context.Context, postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error)
	stats      func(context.Context, postrider.StatsQuery) (postrider.Stats, error)
	change     func(context.Context, postrider.Change) (int, bool, error)
	prune      func(context.Context, time.Duration, int) (int, bool, error)
	shut       func() error

	reopened func()              // before the store is opened again
	begin    func() storetest.Tx // instead of Begin
	shared   func(other *broken) // spoils the other handle

	mu   sync.Mutex // for what mutants note when several goroutines call
	note map[string]string
}

func newBroken(t *testing.T, now func() time.Time) *broken {
	mem := memstore.New(memstore.Options{Now: now})
	b := &broken{Store: mem, mem: mem, t: t, now: now, note: map[string]string{}}
	b.reset()
	return b
}

// reset makes every method the correct one.
func (b *broken) reset() {
	s := b.Store
	b.enqueue, b.claim, b.complete, b.wait = s.Enqueue, s.Claim, s.Complete, s.Wait
	b.create, b.update, b.remove, b.webhook, b.webhooks = s.CreateWebhook, s.UpdateWebhook, s.DeleteWebhook, s.Webhook, s.Webhooks
	b.event, b.delivery, b.deliveries, b.attempts = s.Event, s.Delivery, s.Deliveries, s.Attempts
	b.stats, b.change, b.prune, b.shut = s.Stats, s.Change, s.Prune, s.Close
	b.reopened, b.shared = func() {}, func(*broken) {}
	b.begin = func() storetest.Tx { return b.mem.Begin() }
}

func (m mutant) harness() storetest.Harness {
	return storetest.Harness{
		Open: func(t *testing.T, now func() time.Time) postrider.Store {
			b := newBroken(t, now)
			m.spoil(b)
			return b
		},
		Reopen: func(_ *testing.T, s postrider.Store, _ func() time.Time) postrider.Store {
			s.(*broken).reopened()
			return s
		},
		Begin: func(_ *testing.T, s postrider.Store) storetest.Tx { return s.(*broken).begin() },
		Shared: func(_ *testing.T, s postrider.Store, _ func() time.Time) postrider.Store {
			b := s.(*broken)
			other := &broken{Store: b.Store, mem: b.mem, t: b.t, now: b.now, note: map[string]string{}}
			other.reset()
			other.shut = func() error { return nil }
			b.shared(other)
			return other
		},
	}
}

func (b *broken) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	return b.enqueue(ctx, items)
}

func (b *broken) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	return b.claim(ctx, r)
}

func (b *broken) Complete(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
	return b.complete(ctx, outcomes)
}

func (b *broken) Wait(ctx context.Context) error { return b.wait(ctx) }

func (b *broken) CreateWebhook(ctx context.Context, w postrider.Webhook) error {
	return b.create(ctx, w)
}

func (b *broken) UpdateWebhook(ctx context.Context, w postrider.Webhook) error {
	return b.update(ctx, w)
}

func (b *broken) DeleteWebhook(ctx context.Context, id string) error { return b.remove(ctx, id) }

func (b *broken) Webhook(ctx context.Context, id string) (postrider.Webhook, error) {
	return b.webhook(ctx, id)
}

func (b *broken) Webhooks(ctx context.Context, q postrider.WebhookQuery) (postrider.Page[postrider.Webhook], error) {
	return b.webhooks(ctx, q)
}

func (b *broken) Event(ctx context.Context, project, id string) (postrider.Event, error) {
	return b.event(ctx, project, id)
}

func (b *broken) Delivery(ctx context.Context, id string) (postrider.Delivery, []postrider.Attempt, error) {
	return b.delivery(ctx, id)
}

func (b *broken) Deliveries(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
	return b.deliveries(ctx, q)
}

func (b *broken) Attempts(ctx context.Context, q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
	return b.attempts(ctx, q)
}

func (b *broken) Stats(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
	return b.stats(ctx, q)
}

func (b *broken) Change(ctx context.Context, c postrider.Change) (int, bool, error) {
	return b.change(ctx, c)
}

func (b *broken) Prune(ctx context.Context, age time.Duration, most int) (int, bool, error) {
	return b.prune(ctx, age, most)
}

func (b *broken) Close() error { return b.shut() }

// get returns the webhook as the correct store has it.
func (b *broken) get(id string) postrider.Webhook {
	w, _ := b.Store.Webhook(context.Background(), id)
	return w
}

// all returns all deliveries that the query selects.
func (b *broken) all(q postrider.DeliveryQuery) (list []postrider.Delivery) {
	q.Limit, q.Cursor = postrider.MaxLimit, ""
	for {
		page, err := b.Store.Deliveries(context.Background(), q)
		if err != nil {
			return nil
		}
		list = append(list, page.Items...)
		if q.Cursor = page.Next; q.Cursor == "" {
			return list
		}
	}
}

// offset returns the page of all rows that begins where the cursor says, which counts rows: the mistake that makes
// rows move between pages.
func offset[T any](all []T, cursor string, limit int) (page postrider.Page[T], err error) {
	from := 0
	if cursor != "" {
		if _, err := fmt.Sscanf(cursor, "row-%d", &from); err != nil {
			return page, &postrider.ValidationError{Fields: []postrider.FieldError{{Name: "Cursor"}}}
		}
	}
	if limit == 0 {
		limit = postrider.DefaultLimit
	}
	all = all[min(from, len(all)):]
	if len(all) > limit {
		all, page.Next = all[:limit], fmt.Sprintf("row-%d", from+limit)
	}
	page.Items = all
	return page, nil
}

// retoken makes the store give out the tokens that f makes.
func (b *broken) retoken(f func() string) {
	b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
		claims, wait, err := b.Store.Claim(ctx, r)
		b.mu.Lock()
		defer b.mu.Unlock()
		for i := range claims {
			c := &claims[i]
			token := f()
			b.note[c.Delivery.ID+"/"+token] = c.Token
			c.Token = token
		}
		return claims, wait, err
	}
	b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
		b.mu.Lock()
		own := make([]postrider.Outcome, len(outcomes))
		for i, o := range outcomes {
			o.Token = b.note[o.DeliveryID+"/"+o.Token]
			own[i] = o
		}
		b.mu.Unlock()
		return b.Store.Complete(ctx, own)
	}
}

// outcomes makes Complete take what f makes of each outcome.
func (b *broken) outcomes(f func(*postrider.Outcome)) {
	b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
		own := make([]postrider.Outcome, len(outcomes))
		for i, o := range outcomes {
			if o.Attempt != nil {
				attempt := *o.Attempt
				o.Attempt = &attempt
			}
			if o.Webhook != nil {
				change := *o.Webhook
				o.Webhook = &change
			}
			f(&o)
			own[i] = o
		}
		return b.Store.Complete(ctx, own)
	}
}

// request makes Claim take what f makes of its request.
func (b *broken) request(f func(*postrider.ClaimRequest)) {
	b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
		f(&r)
		return b.Store.Claim(ctx, r)
	}
}

// claims makes Claim return what f makes of its answer.
func (b *broken) claims(f func(r postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration)) {
	b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
		claims, wait, err := b.Store.Claim(ctx, r)
		if err != nil {
			return nil, 0, err
		}
		claims, wait = f(r, claims, wait)
		return claims, wait, nil
	}
}

// items makes Enqueue take what f makes of each item.
func (b *broken) items(f func(*postrider.Item)) {
	b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
		own := append([]postrider.Item{}, items...)
		for i := range own {
			f(&own[i])
		}
		return b.Store.Enqueue(ctx, own)
	}
}

// receipts makes Enqueue return what f makes of its receipts.
func (b *broken) receipts(f func(items []postrider.Item, receipts []postrider.Receipt)) {
	b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
		receipts, err := b.Store.Enqueue(ctx, items)
		if err == nil {
			f(items, receipts)
		}
		return receipts, err
	}
}

// reads makes Delivery return what f makes of its answer.
func (b *broken) reads(f func(d *postrider.Delivery, attempts []postrider.Attempt)) {
	b.delivery = func(ctx context.Context, id string) (postrider.Delivery, []postrider.Attempt, error) {
		d, attempts, err := b.Store.Delivery(ctx, id)
		if err == nil {
			f(&d, attempts)
		}
		return d, attempts, err
	}
}

// stores makes CreateWebhook and UpdateWebhook take what f makes of the webhook.
func (b *broken) stores(f func(*postrider.Webhook)) {
	b.create = func(ctx context.Context, w postrider.Webhook) error { f(&w); return b.Store.CreateWebhook(ctx, w) }
	b.update = func(ctx context.Context, w postrider.Webhook) error { f(&w); return b.Store.UpdateWebhook(ctx, w) }
}

// deaf makes Wait ignore all that wakes it but calls of woke.
func (b *broken) deaf() (woke func()) {
	heard := false
	b.wait = func(ctx context.Context) error {
		for {
			if err := b.Store.Wait(ctx); err != nil {
				return err
			}
			b.mu.Lock()
			tell := heard
			heard = false
			b.mu.Unlock()
			if tell {
				return nil
			}
		}
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		heard = true
	}
}

// deafTo makes Wait ignore what the mutant does not pass on: each argument says whether a call wakes.
func (b *broken) deafTo(update func(old, w postrider.Webhook) bool, outcome func(postrider.Outcome) bool, change bool) {
	woke := b.deaf()
	b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
		woke()
		return b.Store.Enqueue(ctx, items)
	}
	b.update = func(ctx context.Context, w postrider.Webhook) error {
		if update(b.get(w.ID), w) {
			woke()
		}
		return b.Store.UpdateWebhook(ctx, w)
	}
	b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
		for _, o := range outcomes {
			if outcome(o) {
				woke()
			}
		}
		return b.Store.Complete(ctx, outcomes)
	}
	b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
		if change {
			woke()
		}
		return b.Store.Change(ctx, c)
	}
}

func key(e postrider.Event) string { return strings.Join([]string{e.Project, e.ID}, "/") }
