package postrider_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// way is how a list is walked through.
type way struct {
	name string
	// rows returns the IDs of what the list shows of these deliveries, in its order.
	rows func(facts []fact) []string
	// page returns the rows of a page of at most limit, behind so many rows or the token, and the next token.
	page func(d *postrider.Dispatcher, limit, behind int, token string) (ids []string, next string, err error)
	// grows: what is added can come behind the place where the walk is, so that it meets that too.
	grows bool
}

// waysOf returns every list that can be walked while rows are added. Pages by offset shift if rows are added in front,
// so that the past events are walked up to a time, and the dispatches in ascending order.
func waysOf(until time.Time) []way {
	ctx := context.Background()
	ids := func(facts []fact) (list []string) {
		for _, f := range facts {
			list = append(list, f.id)
		}
		return list
	}
	attempts := func(facts []fact) (list []string) {
		for _, f := range slices.Backward(facts) {
			for i := range slices.Backward(f.attempts) {
				list = append(list, (&postrider.Attempt{DeliveryID: f.id, Number: i + 1}).ID())
			}
		}
		return list
	}
	return []way{
		{
			"past events up to a time",
			func(facts []fact) []string { l := ids(facts); slices.Reverse(l); return l },
			func(d *postrider.Dispatcher, limit, behind int, _ string) ([]string, string, error) {
				rows, err := d.History(ctx, "w", postrider.HistoryQuery{Project: "p", Limit: limit, Offset: behind, To: until})
				return idsOf(rows, pastID), "", err
			},
			false,
		},
		{
			"dispatches", ids,
			func(d *postrider.Dispatcher, limit, behind int, _ string) ([]string, string, error) {
				list, err := d.Dispatches(ctx, postrider.DispatchQuery{WebhookID: "w", Limit: limit, Offset: behind})
				return idsOf(list.Items, dispatchID), "", err
			},
			true,
		},
		{
			"dispatches of all webhooks", ids,
			func(d *postrider.Dispatcher, limit, behind int, _ string) ([]string, string, error) {
				list, err := d.Within(postrider.Scope{Project: "p"}).Dispatches(ctx, postrider.DispatchQuery{Limit: limit, Offset: behind})
				return idsOf(list.Items, dispatchID), "", err
			},
			true,
		},
		{
			"webhook events", attempts,
			func(d *postrider.Dispatcher, limit, _ int, token string) ([]string, string, error) {
				page, err := d.WebhookEvents(ctx, "w", postrider.WebhookEventQuery{Limit: limit, PaginationToken: token})
				return idsOf(page.Items, eventID), page.NextPageToken, err
			},
			true,
		},
	}
}

// TestWalksThroughTheViews: page by page every row that was there at the start is met once, and in its order, while
// rows are added and end; also over a store whose own pages are short.
func TestWalksThroughTheViews(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		for _, wrap := range []func(postrider.Store) postrider.Store{nil, stingy} {
			s := newShelf(t, open, wrap)
			facts := stock(s, 24)
			for _, w := range waysOf(facts[len(facts)-1].created) {
				for _, limit := range []int{1, 3, 24, 100} {
					walked := slices.Clone(facts) // as of the start of this walk
					if !strings.HasPrefix(w.name, "past") {
						walked = everything(t, s)
					}
					want := w.rows(walked)
					got := walkAll(t, s, w, limit)
					once := slices.Sorted(slices.Values(got))
					require.Len(t, slices.Compact(once), len(got), "%s, %d a page: a repeat", w.name, limit)
					added := slices.DeleteFunc(slices.Clone(got), func(id string) bool { return slices.Contains(want, id) })
					if limit == 1 || !w.grows {
						require.Equal(t, w.grows, len(added) > 0, "%s, %d a page: %v", w.name, limit, added)
					}
					there := slices.DeleteFunc(got, func(id string) bool { return !slices.Contains(want, id) })
					require.Equal(t, want, there, "%s, %d a page", w.name, limit)
				}
			}
		}
	})
}

// everything returns what there is of webhook w now.
func everything(t *testing.T, s *shelf) (facts []fact) {
	q := postrider.DeliveryQuery{WebhookID: "w", Ascending: true, Limit: 1000}
	for {
		page, err := s.store.Deliveries(t.Context(), q)
		require.NoError(t, err)
		for _, d := range page.Items {
			facts = append(facts, fact{id: d.ID, attempts: make([]bool, d.Attempts)})
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return facts
		}
	}
}

// walkAll walks through a list. After each of its first pages deliveries are added, and of those that were there the
// oldest that is open ends: it is ahead of a walk from the newest.
func walkAll(t *testing.T, s *shelf, w way, limit int) (got []string) {
	token := ""
	for n := 0; ; n++ {
		ids, next, err := w.page(s.Dispatcher, limit, len(got), token)
		require.NoError(t, err)
		require.LessOrEqual(t, len(ids), limit)
		got = append(got, ids...)
		byToken := w.name == "webhook events"
		if byToken && next == "" || !byToken && len(ids) < limit {
			return got
		}
		require.Len(t, ids, limit, "%s: only the last page may be short", w.name)
		token = next
		if n < 5 {
			s.attempt(s.emit("p", "x", `{}`)[0], 200, 0, postrider.StatusDelivered)
			s.attempt(s.emit("p", "x", `{}`)[0], 500, 0, postrider.StatusInProcess)
			s.cancel(s.emit("p", "x", `{}`)[0])
			open, err := s.store.Deliveries(t.Context(), postrider.DeliveryQuery{
				WebhookID: "w", Statuses: []postrider.Status{postrider.StatusInProcess}, Ascending: true,
			})
			require.NoError(t, err)
			s.attempt(open.Items[0].ID, 0, time.Second, postrider.StatusFailed)
		}
		s.pass(time.Second)
	}
}
