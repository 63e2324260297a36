package storetest_test

import (
	"context"
	"slices"
	"time"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/storetest"
)

// The mutants of lanes and of runs.

var laneMutants = []mutant{
	{"Lanes/ordered", "no lane", withLanes(func(l *lanes) {
		l.lane = func(e entered) string { e.then = false; return l.correct(e) }
	})},
	{"Lanes/key", "no lane", withLanes(func(l *lanes) {
		l.lane = func(e entered) string { e.item.Event.OrderKey = ""; return l.correct(e) }
	})},
	{"Lanes/key", "one lane of all keys", withLanes(func(l *lanes) {
		l.lane = func(e entered) string {
			if e.item.Event.OrderKey != "" {
				e.item.Event.OrderKey = "key"
			}
			return l.correct(e)
		}
	})},
	{"Lanes/key", "over all webhooks", withLanes(func(l *lanes) {
		l.lane = func(e entered) string {
			if e.item.Event.OrderKey != "" {
				e.hook = ""
			}
			return l.correct(e)
		}
	})},
	{"Lanes/key", "no key is a key", withLanes(func(l *lanes) {
		keyed := false
		l.lane = func(e entered) string {
			if keyed = keyed || e.item.Event.OrderKey == "K"; keyed {
				e.item.Event.OrderKey += "-"
			}
			return l.correct(e)
		}
	})},
	{"Lanes/both", "the key's", withLanes(func(l *lanes) {
		l.lane = func(e entered) string {
			e.then = e.then && e.item.Event.OrderKey == ""
			return l.correct(e)
		}
	})},
	{"Lanes/for-good", "as Ordered is now", withLanes(func(l *lanes) {
		l.lane = func(e entered) string { e.then = l.ordered[e.hook]; return l.correct(e) }
	})},
	{"Lanes/for-good", "until Ordered is switched off", withLanes(func(l *lanes) {
		l.lane = func(e entered) string { e.then = e.then && l.ordered[e.hook]; return l.correct(e) }
	})},
	{"Lanes/replays-and-tests", "tests take one", withLanes(func(l *lanes) {
		l.lane = func(e entered) string { e.item.Test = false; return l.correct(e) }
	})},
	{"Lanes/replays-and-tests", "replays take one", withLanes(func(l *lanes) {
		l.lane = func(e entered) string { e.item.ReplayOf = ""; return l.correct(e) }
	})},
	{"Lanes/retries", "a retry lets others pass", withLanes(func(l *lanes) {
		l.opens = func(d postrider.Delivery) bool {
			return d.Status.Final() || d.Status == postrider.StatusInProcess && !d.InFlight
		}
	})},
	{"Lanes/retries", "until it is due", withLanes(func(l *lanes) {
		l.opens = func(d postrider.Delivery) bool { return d.Status.Final() || d.NextAt.After(l.b.now()) }
	})},
	{"Lanes/given-back", "goes to the end", withLanes(func(l *lanes) {
		given := map[string]bool{}
		l.opens = func(d postrider.Delivery) bool {
			given[d.ID] = given[d.ID] || d.InFlight
			return d.Status.Final() || given[d.ID] && !d.InFlight && d.Attempts == 0
		}
	})},
	{"Lanes/oldest-first", "since its turn", withLanes(func(l *lanes) {
		l.rank = func(claims []postrider.Claim) {
			slices.SortStableFunc(claims, func(x, y postrider.Claim) int { return len(l.laneOf(x.Delivery.ID)) - len(l.laneOf(y.Delivery.ID)) })
		}
	})},
	{"Lanes/only", "out of turn", withLanes(func(l *lanes) { l.only = false })},
	{"Lanes/wait", "for those behind the first", func(b *broken) {
		b.waits(func(_ postrider.ClaimRequest, wait time.Duration) time.Duration {
			for _, d := range b.all(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusNew}}) {
				if e, _ := b.Store.Event(context.Background(), d.Project, d.EventID); e.OrderKey != "" && wait == 3*time.Hour {
					return 0
				}
			}
			return wait
		})
	}},
	{"Lanes/failed", "holds the others", withLanes(func(l *lanes) {
		l.opens = func(d postrider.Delivery) bool { return d.Status.Final() && d.Status != postrider.StatusFailed }
	})},
	{"Lanes/failed", "canceled by its outcome, holds the others", withLanes(func(l *lanes) {
		l.opens = func(d postrider.Delivery) bool {
			return d.Status.Final() && (d.Status != postrider.StatusCanceled || d.Attempts == 0)
		}
	})},
	{"Lanes/canceled", "holds the others", withLanes(func(l *lanes) {
		l.opens = func(d postrider.Delivery) bool {
			return d.Status.Final() && (d.Status != postrider.StatusCanceled || d.Attempts > 0)
		}
	})},
	{"Lanes/canceled", "lets the next go, whoever comes first", withLanes(func(l *lanes) {
		canceled := map[string]bool{}
		l.b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			before := l.blocked()
			if lane := l.laneOf(c.Query.ID); c.Kind == postrider.ChangeCancel && before[c.Query.ID] {
				canceled[lane] = true
			}
			return l.b.Store.Change(ctx, c)
		}
		l.opens = func(d postrider.Delivery) bool {
			return d.Status.Final() || canceled[l.laneOf(d.ID)] && d.Attempts > 0
		}
	})},
	{"Lanes/canceled-held", "lets the next go at once", withLanes(func(l *lanes) {
		l.since(postrider.ChangeCancel, func(d postrider.Delivery) bool { return true })
	})},
	{"Lanes/canceled-all", "only the first of a lane", func(b *broken) {
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			if c.Kind != postrider.ChangeCancel || c.Deleted || c.Query.ID != "" || c.Max != 2 {
				return b.Store.Change(ctx, c)
			}
			n := 0
			for _, id := range b.first(c.Query) {
				k, _, _ := b.Store.Change(ctx, postrider.Change{Kind: c.Kind, Query: postrider.DeliveryQuery{ID: id}, Max: 1})
				n += k
			}
			return min(n, c.Max), false, nil
		}
	}},
	{"Lanes/due", "goes ahead", withLanes(func(l *lanes) {
		l.b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			e := l.entered[c.Query.ID]
			if c.Kind == postrider.ChangeDue && l.blocked()[c.Query.ID] {
				e.item.Test = true
				l.entered[c.Query.ID] = e
			}
			return l.b.Store.Change(ctx, c)
		}
	})},
	{"Lanes/deleted", "only the first of a lane", func(b *broken) {
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			if !c.Deleted || c.Max != 1 || c.Validate() != nil {
				return b.Store.Change(ctx, c)
			}
			for _, id := range b.first(postrider.DeliveryQuery{}) {
				d, _, _ := b.Store.Delivery(ctx, id)
				if b.get(d.WebhookID).ID == "" && !d.InFlight {
					n, _, err := b.Store.Change(ctx, postrider.Change{Kind: c.Kind, Query: postrider.DeliveryQuery{ID: id}, Max: 1})
					return n, true, err
				}
			}
			return 0, false, nil
		}
	}},
	{"Lanes/wakes", "not told of what is canceled", func(b *broken) {
		b.deafTo(anyUpdate, anyOutcome, true)
		told := b.change
		b.change = func(ctx context.Context, c postrider.Change) (int, bool, error) {
			if c.Kind == postrider.ChangeCancel {
				return b.Store.Change(ctx, c)
			}
			return told(ctx, c)
		}
	}},
	{"Reopen/lanes", "forgotten", withLanes(func(l *lanes) {
		l.b.reopened = func() { clear(l.entered) }
	})},
	{"Reopen/lanes", "the turn forgotten", withLanes(func(l *lanes) {
		passed := map[string]bool{}
		l.b.reopened = func() {
			for id := range l.blocked() {
				passed[l.laneOf(id)] = true
			}
		}
		l.opens = func(d postrider.Delivery) bool { return d.Status.Final() && !passed[l.laneOf(d.ID)] }
	})},
	{"Reopen/lanes-for-good", "as Ordered was then", withLanes(func(l *lanes) {
		l.b.reopened = func() {
			for id, e := range l.entered {
				e.then = l.ordered[e.hook]
				l.entered[id] = e
			}
		}
	})},
	{"Tx/lanes", "none", withLanes(func(l *lanes) {
		l.b.begins(func(t *tx) {
			t.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
				return t.Tx.Enqueue(ctx, l.bare(items))
			}
		})
	})},
	{"Tx/lanes-rollback", "holds the others", func(b *broken) {
		stuck := map[string]bool{}
		b.begins(func(t *tx) {
			hooks := map[string]bool{}
			t.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
				for _, w := range []string{"a", "b"} {
					hooks[w] = true
				}
				return t.Tx.Enqueue(ctx, items)
			}
			t.rollback = func() error {
				for w := range hooks {
					stuck[w] = b.get(w).Ordered
				}
				return t.Tx.Rollback()
			}
		})
		b.request(func(r *postrider.ClaimRequest) {
			for w := range stuck {
				if stuck[w] {
					r.Limits = map[string]int{w: 0}
				}
			}
		})
	}},
	{"Shared/lanes", "by handle", func(b *broken) {
		withLanes(func(*lanes) {})(b)
		b.shared = func(*broken) {} // it knows of none
	}},
	{"Shared/held", "by handle", func(b *broken) {
		b.shared = func(other *broken) {
			n := 0
			other.helds(func(r postrider.ClaimRequest, claims []postrider.Claim) {
				for i := range claims {
					if n++; r.Max == 2 {
						claims[i].Held = n
					}
				}
			})
		}
	}},
}

// first returns the open deliveries that are first of their lane, or have none, as the correct store has them.
func (b *broken) first(q postrider.DeliveryQuery) (ids []string) {
	seen := map[string]bool{}
	q.Ascending = true
	for _, d := range b.all(q) {
		if d.Status.Final() {
			continue
		}
		e, _ := b.Store.Event(context.Background(), d.Project, d.EventID)
		lane := d.ID
		if b.get(d.WebhookID).Ordered {
			lane = d.WebhookID
		} else if e.OrderKey != "" {
			lane = d.WebhookID + e.OrderKey
		}
		if !seen[lane] {
			ids = append(ids, d.ID)
		}
		seen[lane] = true
	}
	return ids
}

// replays makes Enqueue take what f makes of each replay with a Run.
func (b *broken) replays(f func(*postrider.Item)) {
	b.items(func(it *postrider.Item) {
		if it.Run != "" {
			f(it)
		}
	})
}

const otherRun = "018f0000-0000-7000-8000-0000000000ff"

var runMutants = []mutant{
	{"Runs/once", "not looked at", func(b *broken) { b.replays(func(it *postrider.Item) { it.Run = "" }) }},
	{"Runs/once", "not said", func(b *broken) {
		b.receipts(func(items []postrider.Item, list []postrider.Receipt) {
			for i, it := range items {
				list[i].Duplicate = list[i].Duplicate && it.Run == ""
			}
		})
	}},
	{"Runs/ended", "once more", func(b *broken) {
		b.replays(func(it *postrider.Item) {
			for _, d := range b.all(postrider.DeliveryQuery{ReplayOf: it.ReplayOf}) {
				if d.Status.Final() {
					it.Run = otherRun
				}
			}
		})
	}},
	{"Runs/in-call", "not seen", func(b *broken) {
		b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
			own := slices.Clone(items)
			for i := range own {
				if i == 2 && own[i].Run != "" {
					own[i].Run = otherRun
				}
			}
			return b.Store.Enqueue(ctx, own)
		}
	}},
	{"Runs/some", "all or none", func(b *broken) {
		given := map[string]bool{}
		b.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
			own := slices.Clone(items)
			var none []int
			for i, it := range items {
				if it.Run == "" {
					continue
				}
				for _, id := range it.To {
					k := it.Run + it.Event.ID + id
					if given[k] && len(items) == 1 {
						own[i].To, none = []string{}, append(none, i)
					}
					given[k] = true
				}
			}
			list, err := b.Store.Enqueue(ctx, own)
			for _, i := range none {
				list[i].Duplicate = true
			}
			return list, err
		}
	}},
	{"Runs/other", "any Run", func(b *broken) { b.replays(func(it *postrider.Item) { it.Run = otherRun }) }},
	{"Runs/other", "no Run is a Run", func(b *broken) {
		runs := false
		b.items(func(it *postrider.Item) {
			if runs = runs || it.Run != ""; runs && it.ReplayOf != "" && it.Run == "" {
				it.Run = otherRun
			}
		})
	}},
	{"Runs/other", "by the delivery", func(b *broken) {
		b.replays(func(it *postrider.Item) {
			if d, _, _ := b.Store.Delivery(context.Background(), it.ReplayOf); d.ReplayOf != "" {
				it.Run = otherRun
			}
		})
	}},
	{"Reopen/run", "forgotten", func(b *broken) {
		life := ""
		b.reopened = func() { life = "-" }
		b.replays(func(it *postrider.Item) { it.Run += life })
	}},
	{"Tx/run", "kept after a rollback", func(b *broken) {
		lost := map[string]bool{}
		b.begins(func(t *tx) {
			var runs []string
			t.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
				list, err := t.Tx.Enqueue(ctx, items)
				for i := range list {
					runs = append(runs, items[i].Run)
					list[i].Duplicate = list[i].Duplicate || items[i].Run != "" && lost[items[i].Run]
				}
				return list, err
			}
			t.rollback = func() error {
				for _, run := range runs {
					lost[run] = true
				}
				return t.Tx.Rollback()
			}
		})
	}},
	{"Tx/run", "not seen in the transaction", func(b *broken) {
		b.begins(func(t *tx) {
			t.enqueue = func(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
				list, err := t.Tx.Enqueue(ctx, items)
				for i := range list {
					list[i].Duplicate = list[i].Duplicate && items[i].Run == ""
				}
				return list, err
			}
		})
	}},
}

var _ storetest.Tx = (*tx)(nil)
