package postrider_test

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/memstore"
)

// opener makes a store whose clock is now.
type opener func(t testing.TB, now func() time.Time) postrider.Store

func openMemory(_ testing.TB, now func() time.Time) postrider.Store {
	return memstore.New(memstore.Options{Now: now})
}

func openBolt(t testing.TB, now func() time.Time) postrider.Store {
	s, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{Now: now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// onEachStore runs a test on every store.
func onEachStore(t *testing.T, test func(t *testing.T, open opener)) {
	t.Parallel()
	t.Run("memstore", func(t *testing.T) { t.Parallel(); test(t, openMemory) })
	t.Run("bolt", func(t *testing.T) { t.Parallel(); test(t, openBolt) })
}

// shelf is a dispatcher that does not run, on a store that is filled by hand.
type shelf struct {
	*postrider.Dispatcher
	t     testing.TB
	store postrider.Store

	mu  sync.Mutex
	now time.Time
}

var shelfStart = time.Date(2026, 2, 3, 4, 5, 6, 789_000_000, time.UTC)

// newShelf makes one. If wrap is not nil, the dispatcher sees the store through it.
func newShelf(t testing.TB, open opener, wrap func(postrider.Store) postrider.Store) *shelf {
	t.Helper()
	s := &shelf{t: t, now: shelfStart}
	s.store = open(t, func() time.Time {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.now
	})
	seen := s.store
	if wrap != nil {
		seen = wrap(seen)
	}
	d, err := postrider.New(seen, postrider.Config{})
	require.NoError(t, err)
	s.Dispatcher = d
	return s
}

func (s *shelf) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.now.Add(d)
}

// hook makes a webhook with this ID and name that takes every event of its project.
func (s *shelf) hook(id string, set ...func(*postrider.Webhook)) postrider.Webhook {
	s.t.Helper()
	w := postrider.Webhook{ID: id, Name: id, URL: "http://" + id + ".example/", Events: []string{"*"}}
	for _, f := range set {
		f(&w)
	}
	w, err := s.CreateWebhook(s.t.Context(), w)
	require.NoError(s.t, err)
	return w
}

func inProject(project, owner string) func(*postrider.Webhook) {
	return func(w *postrider.Webhook) { w.Project, w.Owner = project, owner }
}

// emit emits an event with this type and JSON payload, and returns the IDs of its deliveries.
func (s *shelf) emit(project, typ, payload string) []string {
	s.t.Helper()
	r, err := s.Emit(s.t.Context(), postrider.Event{Project: project, Type: typ, Time: shelfStart, Payload: []byte(payload)})
	require.NoError(s.t, err)
	require.NotEmpty(s.t, r.Deliveries)
	return r.Deliveries
}

// attempt records an attempt that took so long. A code of 0 is a time-out. An attempt has failed unless the delivery
// is delivered then.
func (s *shelf) attempt(id string, code int, took time.Duration, then postrider.Status) {
	s.t.Helper()
	ctx := s.t.Context()
	claims, _, err := s.store.Claim(ctx, postrider.ClaimRequest{Max: 1, Lease: time.Hour, Only: id})
	require.NoError(s.t, err)
	require.Len(s.t, claims, 1)
	c := claims[0]
	a := &postrider.Attempt{
		DeliveryID: id, WebhookID: c.Webhook.ID, Number: c.Delivery.Attempts + 1, StartedAt: s.now, FinishedAt: s.now.Add(took),
		Timestamp: s.now.Unix(), Code: code,
	}
	if then != postrider.StatusDelivered {
		a.Failed, a.Class, a.Error = true, postrider.ClassStatus, "status "+strconv.Itoa(code)
	}
	if code == 0 {
		a.Class, a.Error = postrider.ClassTimeout, postrider.ClassTimeout.Sentence()
	}
	o := postrider.Outcome{DeliveryID: id, Token: c.Token, Attempt: a, Status: then}
	if then == postrider.StatusInProcess {
		o.RetryIn = time.Minute
		a.NextAt = a.FinishedAt.Add(o.RetryIn)
	}
	n, err := s.store.Complete(ctx, []postrider.Outcome{o})
	require.NoError(s.t, err)
	require.Equal(s.t, 1, n)
}

// cancel cancels a delivery.
func (s *shelf) cancel(id string) {
	s.t.Helper()
	n, _, err := s.store.Change(s.t.Context(), postrider.Change{
		Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{ID: id}, Max: 10,
	})
	require.NoError(s.t, err)
	require.Equal(s.t, 1, n)
}

func asText(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// invalidNames returns the parameters that an error names.
func invalidNames(t testing.TB, err error) (names []string) {
	t.Helper()
	var v *postrider.ValidationError
	require.ErrorAs(t, err, &v)
	require.ErrorIs(t, err, postrider.ErrInvalid)
	for _, f := range v.Fields {
		require.NotEmpty(t, f.Reason)
		require.NotEmpty(t, f.Code)
		names = append(names, f.Name)
	}
	return names
}

// What stands between the store and the views in tests.
type fakeStore struct {
	postrider.Store
	event      func(id string) error
	delivery   func(id string) error
	deliveries func(postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error)
	attempts   func(postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error)
}

func (f *fakeStore) Event(ctx context.Context, project, id string) (postrider.Event, error) {
	if f.event != nil {
		if err := f.event(id); err != nil {
			return postrider.Event{}, err
		}
	}
	return f.Store.Event(ctx, project, id)
}

func (f *fakeStore) Delivery(ctx context.Context, id string) (postrider.Delivery, []postrider.Attempt, error) {
	if f.delivery != nil {
		if err := f.delivery(id); err != nil {
			return postrider.Delivery{}, nil, err
		}
	}
	return f.Store.Delivery(ctx, id)
}

func (f *fakeStore) Deliveries(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
	if f.deliveries != nil {
		return f.deliveries(q)
	}
	return f.Store.Deliveries(ctx, q)
}

func (f *fakeStore) Attempts(ctx context.Context, q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
	if f.attempts != nil {
		return f.attempts(q)
	}
	return f.Store.Attempts(ctx, q)
}

// stingy returns pages of at most two rows, and an empty one after each.
func stingy(s postrider.Store) postrider.Store {
	empty := false
	return &fakeStore{
		Store: s,
		deliveries: func(q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			if empty = !empty; empty && q.Cursor != "" {
				return postrider.Page[postrider.Delivery]{Next: q.Cursor}, nil
			}
			q.Limit = min(q.Limit, 2)
			return s.Deliveries(context.Background(), q)
		},
		attempts: func(q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
			if empty = !empty; empty && q.Cursor != "" {
				return postrider.Page[postrider.Attempt]{Next: q.Cursor}, nil
			}
			q.Limit = min(q.Limit, 2)
			return s.Attempts(context.Background(), q)
		},
	}
}

func TestViewsOfADeletedWebhook(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		ctx := t.Context()
		s := newShelf(t, open, nil)
		for _, id := range []string{"w", "bare"} {
			s.hook(id)
		}
		r, err := s.store.Enqueue(ctx, []postrider.Item{{
			Event: postrider.Event{ID: "e", Type: "x", Time: shelfStart, Payload: []byte(`{}`)}, To: []string{"w"},
		}})
		require.NoError(t, err)
		id := r[0].Deliveries[0]
		s.attempt(id, 200, 0, postrider.StatusDelivered)
		for _, w := range []string{"w", "bare"} {
			require.NoError(t, s.DeleteWebhook(ctx, w))
			_, err := s.History(ctx, w, postrider.HistoryQuery{})
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
		reachable := func(want error) {
			t.Helper()
			_, err := s.Dispatch(ctx, id)
			require.ErrorIs(t, err, want)
			_, err = s.WebhookEvent(ctx, "w", id+"-1")
			require.ErrorIs(t, err, want)
			list, err := s.Dispatches(ctx, postrider.DispatchQuery{WebhookID: "w"})
			require.ErrorIs(t, err, want)
			events, err := s.WebhookEvents(ctx, "w", postrider.WebhookEventQuery{})
			require.ErrorIs(t, err, want)
			if want == nil {
				require.Equal(t, 1, list.Count)
				require.Len(t, events.Items, 1)
			}
		}
		reachable(nil)
		_, err = s.Dispatches(ctx, postrider.DispatchQuery{WebhookID: "bare"})
		require.ErrorIs(t, err, postrider.ErrNotFound)

		s.pass(time.Hour)
		for more := true; more; {
			_, more, err = s.store.Prune(ctx, time.Minute, 10)
			require.NoError(t, err)
		}
		reachable(postrider.ErrNotFound)
	})
}

// TestViewsWhilePruning: an event or a delivery can be gone when its turn comes. The list is filled all the same.
func TestViewsWhilePruning(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		ctx := t.Context()
		f := &fakeStore{}
		s := newShelf(t, open, func(s postrider.Store) postrider.Store { f.Store = s; return f })
		s.hook("w")
		var ids []string
		for range 6 {
			id := s.emit("", "x", `{}`)[0]
			s.attempt(id, 500, 0, postrider.StatusInProcess)
			ids = append(ids, id)
		}
		del, _, err := s.store.Delivery(ctx, ids[4])
		require.NoError(t, err)
		goneEvent := func(id string) error {
			if id == del.EventID {
				return postrider.ErrNotFound
			}
			return nil
		}
		goneDelivery := func(id string) error {
			if id == ids[4] {
				return postrider.ErrNotFound
			}
			return nil
		}
		check := func(history bool) {
			t.Helper()
			if history {
				rows, err := s.History(ctx, "w", postrider.HistoryQuery{Limit: 3})
				require.NoError(t, err)
				require.Equal(t, []string{ids[5], ids[3], ids[2]}, []string{rows[0].ID, rows[1].ID, rows[2].ID})
			}
			list, err := s.Dispatches(ctx, postrider.DispatchQuery{Limit: 3, Desc: true})
			require.NoError(t, err)
			require.Equal(t, []string{ids[5], ids[3], ids[2]}, []string{list.Items[0].ID, list.Items[1].ID, list.Items[2].ID})
			events, err := s.WebhookEvents(ctx, "w", postrider.WebhookEventQuery{Limit: 3})
			require.NoError(t, err)
			require.Equal(t, []string{ids[5] + "-1", ids[3] + "-1", ids[2] + "-1"}, []string{events.Items[0].ID, events.Items[1].ID, events.Items[2].ID})
			_, err = s.Dispatch(ctx, ids[4])
			require.ErrorIs(t, err, postrider.ErrNotFound)
			_, err = s.WebhookEvent(ctx, "w", ids[4]+"-1")
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
		f.event = goneEvent
		check(true)
		f.event, f.delivery = nil, goneDelivery
		check(false)

		// Any other error is an error, and gives no half of a page.
		broken := func(string) error { return errDisk }
		fails := func() {
			t.Helper()
			list, err := s.Dispatches(ctx, postrider.DispatchQuery{})
			require.ErrorIs(t, err, errDisk)
			require.Zero(t, list)
			events, err := s.WebhookEvents(ctx, "w", postrider.WebhookEventQuery{})
			require.ErrorIs(t, err, errDisk)
			require.Zero(t, events)
			_, err = s.Dispatch(ctx, ids[0])
			require.ErrorIs(t, err, errDisk)
			_, err = s.WebhookEvent(ctx, "w", ids[0]+"-1")
			require.ErrorIs(t, err, errDisk)
		}
		f.event, f.delivery = broken, nil
		fails()
		rows, err := s.History(ctx, "w", postrider.HistoryQuery{})
		require.ErrorIs(t, err, errDisk)
		require.Nil(t, rows)
		f.event, f.delivery = nil, broken
		fails()
	})
}

func TestViewsStopWhenTheContextEnds(t *testing.T) {
	t.Parallel()
	pages := 0
	var cancel func()
	endless := func() string {
		if pages++; pages%3 == 0 {
			cancel()
		}
		if pages > 100 {
			panic("it does not stop")
		}
		return "more"
	}
	s := newShelf(t, openMemory, func(s postrider.Store) postrider.Store {
		return &fakeStore{
			Store: s,
			deliveries: func(postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
				return postrider.Page[postrider.Delivery]{Next: endless()}, nil
			},
			attempts: func(postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
				return postrider.Page[postrider.Attempt]{Next: endless()}, nil
			},
		}
	})
	s.hook("w")
	for _, call := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := s.History(ctx, "w", postrider.HistoryQuery{}); return err },
		func(ctx context.Context) error { _, err := s.Dispatches(ctx, postrider.DispatchQuery{}); return err },
		func(ctx context.Context) error {
			_, err := s.WebhookEvents(ctx, "w", postrider.WebhookEventQuery{})
			return err
		},
	} {
		var ctx context.Context
		ctx, cancel = context.WithCancel(t.Context())
		pages = 0
		err := call(ctx)
		cancel()
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 3, pages)
		require.False(t, errors.Is(err, postrider.ErrInvalid))
	}
}

// TestLastPageHasNoToken: also if the store does not know yet that nothing follows.
func TestLastPageHasNoToken(t *testing.T) {
	t.Parallel()
	s := newShelf(t, openMemory, func(s postrider.Store) postrider.Store {
		return &fakeStore{Store: s, attempts: func(q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
			if q.Cursor == "end" {
				return postrider.Page[postrider.Attempt]{}, nil
			}
			page, err := s.Attempts(context.Background(), q)
			if page.Next == "" {
				page.Next = "end"
			}
			return page, err
		}}
	})
	rows := 0
	for _, f := range stock(s, 10) {
		rows += len(f.attempts)
	}
	for _, limit := range []int{1, 5, rows, 200} {
		q := postrider.WebhookEventQuery{Limit: limit}
		for left := rows; left > 0; left -= limit {
			page, err := s.WebhookEvents(t.Context(), "w", q)
			require.NoError(t, err)
			require.Len(t, page.Items, min(left, limit))
			q.PaginationToken = page.NextPageToken
			require.Equal(t, left > limit, q.PaginationToken != "")
		}
	}
}
