package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

// twin is one history in two stores. What the server's clock says the one in memory is told.
type twin struct {
	t        *testing.T
	now      time.Time
	here     *postrider.Dispatcher // on PostgreSQL
	there    *postrider.Dispatcher // in memory
	stores   [2]postrider.Store
	ids      []string // deliveries here
	renaming []string // pairs: the ID here, and there
}

func newTwin(t *testing.T) *twin {
	w := &twin{t: t, now: time.Now()}
	memory := memstore.New(memstore.Options{Now: func() time.Time { return w.now }})
	w.stores = [2]postrider.Store{open(t, settings(t)), memory}
	for i, d := range []**postrider.Dispatcher{&w.here, &w.there} {
		var err error
		*d, err = postrider.New(w.stores[i], postrider.Config{})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, w.stores[i].Close()) })
	}
	return w
}

func (w *twin) emit(e postrider.Event) (ids []string) {
	w.t.Helper()
	here, err := w.here.Emit(w.t.Context(), e)
	require.NoError(w.t, err)
	require.NotEmpty(w.t, here.Deliveries)
	d, err := w.here.Delivery(w.t.Context(), here.Deliveries[0])
	require.NoError(w.t, err)
	w.now = d.CreatedAt
	there, err := w.there.Emit(w.t.Context(), e)
	require.NoError(w.t, err)
	require.Len(w.t, there.Deliveries, len(here.Deliveries))
	for i := range here.Deliveries {
		w.renaming = append(w.renaming, here.Deliveries[i], there.Deliveries[i])
	}
	w.ids = append(w.ids, here.Deliveries...)
	return here.Deliveries
}

func (w *twin) other(id string) string { return strings.NewReplacer(w.renaming...).Replace(id) }

// attempt records the same attempt in both.
func (w *twin) attempt(id string, a postrider.Attempt, then postrider.Status) {
	w.t.Helper()
	const again = time.Minute
	for i, id := range []string{id, w.other(id)} {
		claims, _, err := w.stores[i].Claim(w.t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Hour, Only: id})
		require.NoError(w.t, err)
		require.Len(w.t, claims, 1)
		out := postrider.Outcome{DeliveryID: id, Token: claims[0].Token, Status: then, RetryIn: again}
		mine := a
		mine.DeliveryID, mine.Number, mine.WebhookID = id, claims[0].Delivery.Attempts+1, claims[0].Webhook.ID
		out.Attempt = &mine
		n, err := w.stores[i].Complete(w.t.Context(), []postrider.Outcome{out})
		require.NoError(w.t, err)
		require.Equal(w.t, 1, n)
		if i == 0 {
			d, err := w.here.Delivery(w.t.Context(), id)
			require.NoError(w.t, err)
			if w.now = d.FinishedAt; !then.Final() {
				w.now = d.NextAt.Add(-again)
			}
		}
	}
}

// same requires that a document is the same in both, but for the IDs of deliveries.
func (w *twin) same(what string, ask func(ctx context.Context, d *postrider.Dispatcher, id func(string) string) (any, error)) {
	w.t.Helper()
	text := func(d *postrider.Dispatcher, id func(string) string) string {
		v, err := ask(w.t.Context(), d, id)
		require.NoError(w.t, err, what)
		b, err := json.Marshal(v)
		require.NoError(w.t, err)
		return string(b)
	}
	here := text(w.here, func(id string) string { return id })
	require.Equal(w.t, text(w.there, w.other), w.other(here), what)
	require.NotContains(w.t, []string{"null", "[]", "{}"}, here, what)
}

// The three documented views show a history just as they do over the store in memory.
func TestViewsEqualThoseInMemory(t *testing.T) {
	t.Parallel()
	w := newTwin(t)
	hooks := []postrider.Webhook{
		{ID: "a", Project: "p", Name: "orders", Owner: "o", URL: "https://example.com/a", Events: []string{"*"}},
		{ID: "b", Project: "p", Name: "all", Owner: "o", URL: "https://example.com/b", Events: []string{"order.*"}, Ordered: true},
	}
	secret := postrider.NewSecret()
	for _, h := range hooks {
		h.Secrets = []postrider.Secret{secret}
		for _, d := range []*postrider.Dispatcher{w.here, w.there} {
			_, err := d.CreateWebhook(t.Context(), h)
			require.NoError(t, err)
		}
	}
	start := time.Date(2026, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	for i := range 24 {
		e := postrider.Event{
			ID: fmt.Sprint("e", i), Project: "p", Type: []string{"order.paid", "order.sent", "other"}[i%3], Time: start,
			Payload: fmt.Appendf(nil, `{"n": %d}`, i),
		}
		if i%8 == 7 {
			e.Payload, e.ContentType = []byte("\x00\xff not JSON"), "application/octet-stream"
		}
		for _, id := range w.emit(e)[:1] {
			at := start.Add(time.Duration(i) * time.Second)
			bad := postrider.Attempt{
				StartedAt: at, FinishedAt: at.Add(120 * time.Millisecond), Timestamp: at.Unix(), Failed: true, Code: 500 + i%4,
				Class: postrider.ClassStatus, Error: postrider.ClassStatus.Sentence(), Body: []byte("\x00\xfe{}"),
			}
			good := postrider.Attempt{StartedAt: at, FinishedAt: at.Add(time.Second), Timestamp: at.Unix(), Code: 204}
			switch i % 5 {
			case 0:
				w.attempt(id, good, postrider.StatusDelivered)
			case 1:
				w.attempt(id, bad, postrider.StatusInProcess)
				w.attempt(id, good, postrider.StatusDelivered)
			case 2:
				w.attempt(id, bad, postrider.StatusInProcess)
				w.attempt(id, bad, postrider.StatusFailed)
			case 3:
				w.attempt(id, bad, postrider.StatusInProcess)
			}
		}
	}
	type ask = func(ctx context.Context, d *postrider.Dispatcher, id func(string) string) (any, error)
	list := map[string]ask{}
	for name, q := range map[string]postrider.HistoryQuery{
		"all": {}, "page": {Offset: 3, Limit: 5}, "code": {ResponseCode: 501}, "event": {Event: "other"}, "attempts": {MinAttempts: 2},
		"failed": {Statuses: []postrider.Status{postrider.StatusFailed}}, "range": {From: w.now.Add(-time.Hour), To: w.now},
	} {
		q.Project = "p"
		list["history "+name] = func(ctx context.Context, d *postrider.Dispatcher, _ func(string) string) (any, error) {
			return d.History(ctx, "orders", q)
		}
	}
	for name, q := range map[string]postrider.DispatchQuery{
		"all": {}, "of a": {WebhookID: "a", Limit: 7}, "of b": {WebhookID: "b", Desc: true, Offset: 2},
	} {
		list["dispatches "+name] = func(ctx context.Context, d *postrider.Dispatcher, _ func(string) string) (any, error) {
			return d.Dispatches(ctx, q)
		}
	}
	for name, q := range map[string]postrider.WebhookEventQuery{
		"all": {Limit: 200}, "kind": {Kind: "order.sent"}, "failed": {DeliveryFailed: postrider.ChoiceYes},
		"good": {DeliveryFailed: postrider.ChoiceNo},
	} {
		list["webhook events "+name] = func(ctx context.Context, d *postrider.Dispatcher, _ func(string) string) (any, error) {
			return d.WebhookEvents(ctx, "a", q)
		}
	}
	for _, id := range w.ids {
		list["dispatch "+id] = func(ctx context.Context, d *postrider.Dispatcher, name func(string) string) (any, error) {
			return d.Dispatch(ctx, name(id))
		}
	}
	for what, ask := range list {
		w.same(what, ask)
	}
	page, err := w.here.WebhookEvents(t.Context(), "a", postrider.WebhookEventQuery{Limit: 200})
	require.NoError(t, err)
	require.Greater(t, len(page.Items), 20)
	for _, one := range page.Items {
		w.same("webhook event "+one.ID, func(ctx context.Context, d *postrider.Dispatcher, name func(string) string) (any, error) {
			return d.WebhookEvent(ctx, "a", name(one.ID))
		})
	}
}
