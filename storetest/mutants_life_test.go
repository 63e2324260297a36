package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/storetest"
)

// The mutants of changes, the rules, and what comes with the harness.

// changes makes Change take what f makes of a valid change.
func (b *broken) changes(f func(*postrider.Change)) {
	b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
		if c.Validate() == nil {
			f(&c)
		}
		return b.Store.Change(ctx, c)
	}
}

// unbounded repeats a change until nothing is left.
func (b *broken) unbounded(ctx context.Context, c postrider.Change) (total int, more bool, err error) {
	for range 1000 {
		n, more, err := b.Store.Change(ctx, c)
		if total += n; err != nil || !more {
			return total, more, err
		}
	}
	return total, true, nil
}

var changeMutants = []mutant{
	{"Change/max", "no bound", func(b *broken) { b.change = b.unbounded }},
	{"Change/due", "not only that one", func(b *broken) {
		b.changes(func(c *postrider.Change) {
			if c.Kind == postrider.ChangeDue {
				c.Query.ID = ""
			}
		})
	}},
	{"Change/cancel", "ended when it was made", func(b *broken) {
		b.reads(func(d *postrider.Delivery, _ []postrider.Attempt) {
			if d.Status == postrider.StatusCanceled && d.Attempts == 0 {
				d.FinishedAt = d.CreatedAt
			}
		})
	}},
	{"Change/selects", "of every project", func(b *broken) {
		b.changes(func(c *postrider.Change) { c.Query.Project = "" })
	}},
	{"Change/deleted", "of every webhook", func(b *broken) {
		b.changes(func(c *postrider.Change) { c.Deleted = false })
	}},
	{"Change/age", "not looked at", func(b *broken) {
		b.changes(func(c *postrider.Change) {
			if !c.Deleted {
				c.Age = 0
			}
		})
	}},
	{"Change/age", "exactly so old left out", func(b *broken) {
		b.changes(func(c *postrider.Change) {
			if c.Age > 0 && !c.Deleted {
				c.Age += time.Microsecond
			}
		})
	}},
	{"Change/age", "since the last attempt", func(b *broken) {
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			if c.Validate() != nil || c.Age == 0 || c.Deleted {
				return b.Store.Change(ctx, c)
			}
			for _, d := range b.all(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusInProcess}, Ascending: true}) {
				if _, attempts, _ := b.Store.Delivery(ctx, d.ID); !attempts[len(attempts)-1].StartedAt.After(b.now().Add(-c.Age)) {
					if n, _, err := b.Store.Change(ctx, postrider.Change{Kind: c.Kind, Query: postrider.DeliveryQuery{ID: d.ID}, Max: 1}); n > 0 {
						return n, true, err
					}
				}
			}
			return 0, false, nil
		}
	}},
	{"Change/age-deleted", "not with Deleted", func(b *broken) {
		b.changes(func(c *postrider.Change) {
			if c.Deleted {
				c.Age = 0
			}
		})
	}},
	{"Change/ended", "counted", func(b *broken) {
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			d, _, _ := b.Store.Delivery(ctx, c.Query.ID)
			n, more, err := b.Store.Change(ctx, c)
			if d.Status.Final() {
				n++
			}
			return n, more, err
		}
	}},
	{"Change/more", "while one is claimed", func(b *broken) {
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			n, more, err := b.Store.Change(ctx, c)
			if err == nil && c.Kind == postrider.ChangeCancel && !c.Deleted {
				more = more || slices.ContainsFunc(b.all(c.Query), func(d postrider.Delivery) bool { return d.InFlight })
			}
			return n, more, err
		}
	}},
	{"Change/more", "false too early", func(b *broken) {
		calls := 0
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			n, more, err := b.Store.Change(ctx, c)
			calls++
			return n, more && calls != 3, err
		}
	}},
	{"Prune/age", "of any age", func(b *broken) {
		b.prune = func(ctx context.Context, _ time.Duration, most int) (int, bool, error) {
			return b.Store.Prune(ctx, 0, most)
		}
	}},
	{"Prune/age", "since it was made", func(b *broken) {
		b.prune = func(ctx context.Context, age time.Duration, most int) (int, bool, error) {
			for _, d := range b.all(postrider.DeliveryQuery{}) {
				if d.Status.Final() && !d.CreatedAt.After(b.now().Add(-age)) {
					return b.Store.Prune(ctx, 0, most)
				}
			}
			return b.Store.Prune(ctx, age, most)
		}
	}},
	{"Prune/attempts", "kept", func(b *broken) {
		var kept []postrider.Attempt
		b.prune = func(ctx context.Context, age time.Duration, most int) (int, bool, error) {
			page, _ := b.Store.Attempts(ctx, postrider.AttemptQuery{})
			kept = page.Items
			return b.Store.Prune(ctx, age, most)
		}
		b.attempts = func(ctx context.Context, q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
			page, err := b.Store.Attempts(ctx, q)
			page.Items = append(page.Items, kept...)
			return page, err
		}
	}},
	{"Prune/max", "no bound", func(b *broken) {
		b.prune = func(ctx context.Context, age time.Duration, _ int) (int, bool, error) {
			return b.Store.Prune(ctx, age, 1<<30)
		}
	}},
	{"Prune/events", "kept", func(b *broken) {
		kept := map[string]postrider.Event{}
		b.receipts(func(items []postrider.Item, list []postrider.Receipt) {
			for i, it := range items {
				if len(list[i].Deliveries) > 0 && it.ReplayOf == "" {
					kept[key(it.Event)] = it.Event
				}
			}
		})
		b.event = func(ctx context.Context, project, id string) (postrider.Event, error) {
			e, err := b.Store.Event(ctx, project, id)
			if k, ok := kept[project+"/"+id]; ok && err != nil {
				return k, nil
			}
			return e, err
		}
	}},
	{"Prune/events", "ID not free", func(b *broken) {
		seen := map[string]bool{}
		b.receipts(func(items []postrider.Item, list []postrider.Receipt) {
			for i, it := range items {
				list[i].Duplicate = list[i].Duplicate || it.ReplayOf == "" && seen[key(it.Event)]
				seen[key(it.Event)] = seen[key(it.Event)] || len(list[i].Deliveries) > 0
			}
		})
	}},
	{"Prune/open", "of deleted webhooks", func(b *broken) {
		b.prune = func(ctx context.Context, age time.Duration, most int) (int, bool, error) {
			_, _, _ = b.Store.Change(ctx, postrider.Change{Kind: postrider.ChangeCancel, Deleted: true, Max: 1000})
			return b.Store.Prune(ctx, age, most)
		}
	}},
}

var ruleMutants = []mutant{
	{"Rules/bounded", "all of a deleted webhook", func(b *broken) {
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			if c.Deleted {
				return b.unbounded(ctx, c)
			}
			return b.Store.Change(ctx, c)
		}
	}},
	{"Rules/clock", "created when it happened", func(b *broken) {
		b.reads(func(d *postrider.Delivery, _ []postrider.Attempt) {
			if e, err := b.Store.Event(context.Background(), d.Project, d.EventID); err == nil {
				d.CreatedAt = e.Time
			}
		})
	}},
	{"Rules/keeps-nothing", "the payload", func(b *broken) {
		kept := map[string][]byte{}
		b.receipts(func(items []postrider.Item, list []postrider.Receipt) {
			for i, it := range items {
				if len(list[i].Deliveries) > 0 && it.ReplayOf == "" {
					kept[key(it.Event)] = it.Event.Payload
				}
			}
		})
		b.event = func(ctx context.Context, project, id string) (postrider.Event, error) {
			e, err := b.Store.Event(ctx, project, id)
			if p, ok := kept[project+"/"+id]; ok && err == nil {
				e.Payload = p
			}
			return e, err
		}
	}},
	{"Rules/keeps-nothing", "the patterns", func(b *broken) {
		kept := map[string][]string{}
		b.stores(func(w *postrider.Webhook) { kept[w.ID] = w.Events })
		b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
			w, err := b.Store.Webhook(ctx, id)
			if list, ok := kept[id]; ok && err == nil && slices.Contains(list, "scribbled") {
				w.Events = list
			}
			return w, err
		}
	}},
	{"Rules/returns-own", "attempts", func(b *broken) {
		var last []postrider.Attempt
		b.reads(func(_ *postrider.Delivery, attempts []postrider.Attempt) { last = attempts })
		b.prune = func(ctx context.Context, age time.Duration, most int) (int, bool, error) {
			clear(last)
			return b.Store.Prune(ctx, age, most)
		}
	}},
	{"Rules/no-goroutines", "one", func(b *broken) { go func() { <-b.t.Context().Done() }() }},
	{"Rules/foreign", "an error of its own", func(b *broken) {
		b.delivery = func(ctx context.Context, id string) (postrider.Delivery, []postrider.Attempt, error) {
			if len(id) > 64 {
				return postrider.Delivery{}, nil, errors.New("the ID is too long")
			}
			return b.Store.Delivery(ctx, id)
		}
	}},
	{"Rules/context", "not looked at", func(b *broken) {
		b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
			return b.Store.Claim(context.WithoutCancel(ctx), r)
		}
	}},
	{"Rules/invalid", "without reasons", func(b *broken) {
		b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
			if r.Validate() != nil {
				return nil, 0, postrider.ErrInvalid
			}
			return b.Store.Claim(ctx, r)
		}
	}},
}

// tx is a transaction that is broken.
type tx struct {
	storetest.Tx
	enqueue  func(context.Context, []postrider.Item) ([]postrider.Receipt, error)
	commit   func() error
	rollback func() error
}

func (t *tx) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	return t.enqueue(ctx, items)
}
func (t *tx) Commit() error   { return t.commit() }
func (t *tx) Rollback() error { return t.rollback() }

// begins spoils each transaction.
func (b *broken) begins(f func(*tx)) {
	b.begin = func() storetest.Tx {
		inner := b.mem.Begin()
		t := &tx{Tx: inner, enqueue: inner.Enqueue, commit: inner.Commit, rollback: inner.Rollback}
		f(t)
		return t
	}
}

// holds notes the claims that are held.
func (b *broken) holds() map[string]postrider.Claim {
	held := map[string]postrider.Claim{}
	b.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
		for _, c := range claims {
			held[c.Delivery.ID] = c
		}
		return claims, wait
	})
	b.complete = func(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
		for _, o := range outcomes {
			delete(held, o.DeliveryID)
		}
		return b.Store.Complete(ctx, outcomes)
	}
	return held
}

// without makes Claim leave out what f says.
func (b *broken) without(claim func(context.Context, postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error), f func(string) bool) {
	b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
		claims, wait, err := claim(ctx, r)
		return slices.DeleteFunc(claims, func(c postrider.Claim) bool { return f(c.Delivery.ID) }), wait, err
	}
}

var lifeMutants = []mutant{
	{"Reopen/survives", "no count of the pruned", func(b *broken) {
		var lost int64
		b.reopened = func() {
			s, _ := b.Store.Stats(context.Background(), postrider.StatsQuery{})
			lost = s.Pruned
		}
		b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
			s, err := b.Store.Stats(ctx, q)
			s.Pruned = max(0, s.Pruned-lost)
			return s, err
		}
	}},
	{"Reopen/survives", "the last event lost", func(b *broken) {
		last, lost := "", ""
		b.receipts(func(items []postrider.Item, _ []postrider.Receipt) { last = items[len(items)-1].Event.ID })
		b.reopened = func() { lost = last }
		b.event = func(ctx context.Context, project, id string) (postrider.Event, error) {
			if id == lost && id != "" {
				return postrider.Event{}, postrider.ErrNotFound
			}
			return b.Store.Event(ctx, project, id)
		}
	}},
	{"Reopen/token", "from 1 again", func(b *broken) {
		n := 0
		b.retoken(func() string { n++; return fmt.Sprint(n) })
		b.reopened = func() { n = 0 }
	}},
	{"Reopen/claims", "held for ever", func(b *broken) {
		held := b.holds()
		frozen := map[string]bool{}
		b.reopened = func() {
			for id := range held {
				frozen[id] = true
			}
		}
		b.without(b.claim, func(id string) bool { return frozen[id] })
	}},
	{"Reopen/stale", "not fenced", func(b *broken) {
		reopened := false
		held := map[string]string{}
		b.reopened = func() { reopened = true }
		b.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
			for _, c := range claims {
				held[c.Delivery.ID] = c.Token
			}
			return claims, wait
		})
		b.outcomes(func(o *postrider.Outcome) {
			if reopened {
				o.Token = held[o.DeliveryID]
			}
		})
	}},
	{"Reopen/cursor", "of one life", func(b *broken) {
		life := 0
		b.reopened = func() { life++ }
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			prefix := fmt.Sprintf("%d.", life)
			if q.Cursor != "" {
				// What lacks the prefix is refused by the store.
				if own, ok := strings.CutPrefix(q.Cursor, prefix); ok && own != "" {
					q.Cursor = own
				} else {
					q.Cursor = "!" + q.Cursor
				}
			}
			page, err := b.Store.Deliveries(ctx, q)
			if page.Next != "" {
				page.Next = prefix + page.Next
			}
			return page, err
		}
	}},
	{"Tx/commit", "rolls back", func(b *broken) { b.begins(func(t *tx) { t.commit = t.Tx.Rollback }) }},
	{"Tx/rollback", "commits", func(b *broken) { b.begins(func(t *tx) { t.rollback = t.Tx.Commit }) }},
	{"Tx/duplicate", "not said", func(b *broken) {
		b.begins(func(t *tx) {
			t.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
				list, err := t.Tx.Enqueue(ctx, items)
				for i := range list {
					list[i].Duplicate = false
				}
				return list, err
			}
		})
	}},
	{"Tx/error", "one by one", func(b *broken) {
		b.begins(func(t *tx) { t.enqueue = b.oneByOne(t.Tx.Enqueue) })
	}},
	{"Tx/wait", "not told", func(b *broken) { b.deafTo(anyUpdate, anyOutcome, true) }},
	{"Shared/one-store", "webhooks kept by a handle", func(b *broken) {
		b.shared = func(*broken) {
			first := map[string]postrider.Webhook{}
			b.create = func(ctx context.Context, w postrider.Webhook) error {
				first[w.ID] = w
				return b.Store.CreateWebhook(ctx, w)
			}
			b.webhook = func(ctx context.Context, id string) (postrider.Webhook, error) {
				if w, ok := first[id]; ok {
					return w, nil
				}
				return b.Store.Webhook(ctx, id)
			}
		}
	}},
	{"Shared/one-caller", "claims by handle", func(b *broken) {
		held := b.holds()
		b.shared = func(other *broken) {
			other.claims(func(_ postrider.ClaimRequest, claims []postrider.Claim, wait time.Duration) ([]postrider.Claim, time.Duration) {
				for _, c := range held {
					claims = append(claims, c)
				}
				return claims, wait
			})
		}
	}},
	{"Shared/in-flight", "by handle", func(b *broken) {
		b.shared = func(other *broken) {
			other.request(func(r *postrider.ClaimRequest) {
				if r.MaxInFlight > 0 {
					r.Each, r.MaxInFlight = r.MaxInFlight, 0
				}
			})
		}
	}},
	{"Shared/lease", "never over for another handle", func(b *broken) {
		held := b.holds()
		b.shared = func(other *broken) {
			other.without(other.Store.Claim, func(id string) bool { _, ok := held[id]; return ok })
		}
	}},
	{"Long/random", "changes are lost after the 20th", func(b *broken) {
		calls := 0
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			if calls++; calls > 20 && c.Validate() == nil {
				return 0, false, nil
			}
			return b.Store.Change(ctx, c)
		}
	}},
	{"Long/concurrent", "two at once get the same", func(b *broken) {
		var callers atomic.Int32
		var last []postrider.Claim
		b.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
			alone := callers.Add(1) == 1
			defer callers.Add(-1)
			time.Sleep(50 * time.Microsecond) // so that others come
			claims, wait, err := b.Store.Claim(ctx, r)
			b.mu.Lock()
			defer b.mu.Unlock()
			before := last
			if len(claims) > 0 && strings.HasPrefix(claims[0].Webhook.ID, "hook-") {
				last = claims[:1:1]
			}
			if !alone {
				claims = append(claims, before...)
			}
			return claims, wait, err
		}
	}},
	{"Close/twice", "an error", func(b *broken) {
		closed := false
		b.shut = func() error {
			if closed {
				return postrider.ErrClosed
			}
			closed = true
			return b.Store.Close()
		}
	}},
	{"Close/closed", "still counts", func(b *broken) {
		b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
			s, err := b.Store.Stats(ctx, q)
			if errors.Is(err, postrider.ErrClosed) {
				return s, nil
			}
			return s, err
		}
	}},
	{"Close/waiting", "not released", func(b *broken) {
		var closed atomic.Bool
		b.shut = func() error { closed.Store(true); return b.Store.Close() }
		b.wait = func(ctx context.Context) error {
			before := closed.Load()
			err := b.Store.Wait(ctx)
			if errors.Is(err, postrider.ErrClosed) && !before {
				<-ctx.Done()
				return ctx.Err()
			}
			return err
		}
	}},
	{"Close/under-way", "cut off", func(b *broken) {
		var closed atomic.Bool
		b.shut = func() error {
			err := b.Store.Close()
			time.Sleep(10 * time.Millisecond)
			closed.Store(true)
			return err
		}
		b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
			before := closed.Load()
			list, err := b.Store.Enqueue(ctx, items)
			if errors.Is(err, postrider.ErrClosed) && !before {
				return nil, errors.New("the file is closed")
			}
			return list, err
		}
	}},
}
