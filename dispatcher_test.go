package postrider_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

// fields returns what a *ValidationError says, a line for each field.
func fields(t *testing.T, err error) (lines []string) {
	t.Helper()
	require.ErrorIs(t, err, postrider.ErrInvalid)
	var invalid *postrider.ValidationError
	require.ErrorAs(t, err, &invalid)
	require.NotEmpty(t, invalid.Fields)
	for _, f := range invalid.Fields {
		require.NotEmpty(t, f.Code, f.Name)
		lines = append(lines, f.Name+" "+f.Reason)
		require.Contains(t, err.Error(), f.Name+" "+f.Reason)
	}
	return lines
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newDispatcher(t *testing.T, c postrider.Config) (*postrider.Dispatcher, *memstore.Store) {
	t.Helper()
	if c.Logger == nil {
		c.Logger = quiet()
	}
	store := memstore.New(memstore.Options{})
	d, err := postrider.New(store, c)
	require.NoError(t, err)
	return d, store
}

func TestNewReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	_, err := postrider.New(nil, postrider.Config{
		Retry:       postrider.Jitter(postrider.Schedule{time.Second, -time.Second}, 0.5),
		Timeout:     -1,
		MaxTimeout:  2 * time.Hour,
		Concurrency: -1,
		MaxInFlight: 10_001,
		MaxSlow:     1 << 17,
		Drain:       -time.Second,
		MaxPayload:  -1,
		BreakAfter:  1<<20 + 1, DisableAfter: -time.Hour, MaxPending: -1,
	})
	require.Equal(t, []string{
		"Store is nil, want a store",
		"Config.MaxTimeout is 2h0m0s, want 0 to 1h0m0s",
		"Config.Timeout is -1ns, want 0 to 1h0m0s",
		"Config.Concurrency is -1, want 0 to 65536",
		"Config.MaxInFlight is 10001, want 0 to 10000",
		"Config.MaxSlow is 131072, want 0 to 65536",
		"Config.Drain is -1s, want 0 or more",
		"Config.BreakAfter is 1048577, want 0 to 1048576",
		"Config.DisableAfter is -1h0m0s, want 0 or more",
		"Config.MaxPending is -1, want 0 or more",
		"Config.MaxPayload is -1, want 0 to 268435456",
		"Config.Retry[1] is -1s, want 0s to 8784h0m0s",
	}, fields(t, err))
}

func TestNewComparesTimeoutWithMaxTimeout(t *testing.T) {
	t.Parallel()
	store := memstore.New(memstore.Options{})
	_, err := postrider.New(store, postrider.Config{Timeout: 90 * time.Second})
	require.Equal(t, []string{"Config.Timeout is 1m30s, want at most Config.MaxTimeout, which is 1m0s"}, fields(t, err))
	_, err = postrider.New(store, postrider.Config{MaxTimeout: time.Second})
	require.NoError(t, err, "the default Timeout is no more than MaxTimeout")
	_, err = postrider.New(store, postrider.Config{Drain: postrider.Forever})
	require.NoError(t, err)
	_, err = postrider.New(store, postrider.Config{Retry: postrider.Exponential{Factor: 0.5}})
	require.Equal(t, []string{"Config.Retry.Factor is 0.5, want 1 to 1000"}, fields(t, err))
}

func TestEmitCompletesAnEvent(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	hook(t, d, "a")
	before := time.Now().Add(-time.Millisecond)
	payload := []byte(` {"a": "ü"} `)
	r, err := d.Emit(t.Context(), postrider.Event{Project: "p", Type: "x", Payload: payload})
	require.NoError(t, err)
	id, err := uuid.Parse(r.EventID)
	require.NoError(t, err)
	require.EqualValues(t, 7, id.Version())
	require.Len(t, r.Deliveries, 1)
	require.False(t, r.Duplicate)

	e, err := d.Event(t.Context(), "p", r.EventID)
	require.NoError(t, err)
	require.Equal(t, payload, e.Payload)
	require.WithinRange(t, e.Time, before, time.Now())
	require.Equal(t, time.UTC, e.Time.Location())
	v, err := d.Delivery(t.Context(), r.Deliveries[0])
	require.NoError(t, err)
	require.Equal(t, r.EventID, v.EventID)
	require.NoError(t, v.Validate())

	_, err = d.Event(t.Context(), "p", "nothing")
	require.ErrorIs(t, err, postrider.ErrNotFound)
	_, err = d.Delivery(t.Context(), "nothing")
	require.ErrorIs(t, err, postrider.ErrNotFound)
}

// hook makes a webhook of the project p with this name, for every event.
func hook(t *testing.T, d *postrider.Dispatcher, name string) postrider.Webhook {
	t.Helper()
	w, err := d.CreateWebhook(t.Context(), postrider.Webhook{Project: "p", Name: name, URL: "http://a.example/", Events: []string{"*"}})
	require.NoError(t, err)
	return w
}

func TestEmitIsIdempotent(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	hook(t, d, "a")
	e := postrider.Event{ID: "one", Project: "p", Type: "x", Payload: []byte("1")}
	_, err := d.Emit(t.Context(), e)
	require.NoError(t, err)
	e.Payload = []byte("2")
	r, err := d.Emit(t.Context(), e)
	require.NoError(t, err)
	require.True(t, r.Duplicate)
	require.Empty(t, r.Deliveries)
	stored, err := d.Event(t.Context(), "p", "one")
	require.NoError(t, err)
	require.Equal(t, "1", string(stored.Payload), "the first wins")
}

func TestEventWithoutAWebhookIsNotStored(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	for range 2 {
		r, err := d.Emit(t.Context(), postrider.Event{ID: "one", Project: "p", Type: "x", Payload: []byte("1")})
		require.NoError(t, err)
		require.Equal(t, postrider.Receipt{EventID: "one"}, r)
	}
}

func TestEmitRefusesBadEvents(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{MaxPayload: 1000})
	hook(t, d, "a")
	_, err := d.Emit(t.Context(), postrider.Event{
		ID: "a b", Project: strings.Repeat("p", 65), Type: "", Payload: []byte("{"), OrderKey: "a\x00b",
		Metadata: map[string]string{"": "x"}, Time: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC),
	})
	require.Equal(t, []string{
		`Event.ID is "a b", want 1 to 64 of [A-Za-z0-9_-], or empty`,
		`Event.Project is "` + strings.Repeat("p", 65) + `", want 1 to 64 of [a-zA-Z0-9_-], or empty`,
		`Event.Type is empty, want 1 to 128 of [A-Za-z0-9_.-]`,
		`Event.Time is in the year 10000, want 1 to 9999`,
		`Event.Payload is not valid JSON (1 bytes); set ContentType to send something else`,
		`Event.Metadata has the key "", want keys that are not empty, and keys and values in UTF-8`,
		`Event.OrderKey is "a\x00b", want at most 256 bytes of UTF-8 without control characters`,
	}, fields(t, err))

	long := []byte(`"` + strings.Repeat("x", 999) + `"`)
	r, err := d.Emit(t.Context(), postrider.Event{ID: "long", Project: "p", Type: "x", Payload: long})
	require.Equal(t, []string{"Event.Payload is 1001 bytes, want at most 1000"}, fields(t, err))
	require.Equal(t, postrider.Receipt{EventID: "long"}, r, "the ID is told also with an error")
	s, err := d.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.Zero(t, s)
}

func TestEmitAllIsAllOrNothing(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	hook(t, d, "a")
	events := make([]postrider.Event, 5)
	for i := range events {
		events[i] = postrider.Event{Project: "p", Type: "x", Payload: []byte("{}")}
	}
	events[1].ID = "one"
	events[3].Type, events[4].Payload = "a type", []byte("nope")
	receipts, err := d.EmitAll(t.Context(), events)
	require.Equal(t, []string{
		`events[3].Type is "a type", want 1 to 128 of [A-Za-z0-9_.-]`,
		`events[4].Payload is not valid JSON (4 bytes); set ContentType to send something else`,
	}, fields(t, err))
	require.Len(t, receipts, 5)
	for i, r := range receipts {
		require.NotEmpty(t, r.EventID)
		require.Empty(t, r.Deliveries)
		require.Zero(t, events[i].Time, "the caller's events are not changed")
	}
	require.Empty(t, events[0].ID)
	require.Equal(t, "one", receipts[1].EventID)
	s, err := d.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.Zero(t, s.New)

	events[3].Type, events[4].Payload, events[4].ID = "x", []byte("1"), "one"
	receipts, err = d.EmitAll(t.Context(), events)
	require.NoError(t, err)
	require.False(t, receipts[1].Duplicate)
	require.True(t, receipts[4].Duplicate, "the second of two in a call")

	receipts, err = d.EmitAll(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, receipts)
}

func TestEmitAllTakesTenThousandEvents(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	hook(t, d, "a")
	events := make([]postrider.Event, 10_001)
	for i := range events {
		events[i] = postrider.Event{Project: "p", Type: "x", Payload: []byte("1")}
	}
	receipts, err := d.EmitAll(t.Context(), events)
	require.Equal(t, []string{"events has 10001 events, want at most 10000 in a call"}, fields(t, err))
	require.Empty(t, receipts)
	s, err := d.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.Zero(t, s.New)
	receipts, err = d.EmitAll(t.Context(), events[:10_000])
	require.NoError(t, err)
	require.Len(t, receipts, 10_000)
}

func TestInEmitsInTheCallersTransaction(t *testing.T) {
	t.Parallel()
	d, store := newDispatcher(t, postrider.Config{})
	hook(t, d, "a")
	e := postrider.Event{ID: "one", Project: "p", Type: "x", Payload: []byte("1")}
	tx := store.Begin()
	r, err := d.In(tx).Emit(t.Context(), e)
	require.NoError(t, err)
	require.Len(t, r.Deliveries, 1)
	_, err = d.In(tx).EmitAll(t.Context(), []postrider.Event{{Type: ""}})
	require.ErrorIs(t, err, postrider.ErrInvalid)
	require.NoError(t, tx.Rollback())
	_, err = d.Event(t.Context(), "p", "one")
	require.ErrorIs(t, err, postrider.ErrNotFound)

	tx = store.Begin()
	_, err = d.In(tx).Emit(t.Context(), e)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	_, err = d.Event(t.Context(), "p", "one")
	require.NoError(t, err)
}

func TestNewEventID(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		make func() string
		want []string
	}{
		{"its own", func() string { return "mine" }, nil},
		{"empty", func() string { return "" }, []string{"Event.ID is empty as Config.NewEventID made it, want 1 to 64 of [A-Za-z0-9_-]"}},
		{"bad", func() string { return "a b" }, []string{`Event.ID is "a b", want 1 to 64 of [A-Za-z0-9_-], or empty`}},
		{"panic", func() string { panic("no") }, []string{"Event.ID is empty because Config.NewEventID panicked, want 1 to 64 of [A-Za-z0-9_-]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, _ := newDispatcher(t, postrider.Config{NewEventID: c.make})
			hook(t, d, "a")
			r, err := d.Emit(t.Context(), postrider.Event{Project: "p", Type: "x", Payload: []byte("1")})
			if c.want == nil {
				require.NoError(t, err)
				require.Equal(t, "mine", r.EventID)
				return
			}
			require.Equal(t, c.want, fields(t, err))
		})
	}
}

// enqueuer answers every call with an error, or with a receipt for each item.
type enqueuer struct{ err error }

func (q enqueuer) Enqueue(_ context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	if q.err != nil {
		return nil, q.err
	}
	return make([]postrider.Receipt, len(items)), nil
}

func TestEmitNamesTheEventAlsoWhenTheStoreFails(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	for _, failure := range []error{postrider.ErrFull, postrider.ErrClosed, context.Canceled, errors.New("disk")} {
		r, err := d.In(enqueuer{failure}).Emit(t.Context(), postrider.Event{Type: "x", Payload: []byte("1")})
		require.ErrorIs(t, err, failure)
		require.NotEmpty(t, r.EventID)
		all, err := d.In(enqueuer{failure}).EmitAll(t.Context(), []postrider.Event{{Type: "x", Payload: []byte("1")}})
		require.ErrorIs(t, err, failure)
		require.NotEmpty(t, all[0].EventID)
	}
}

func TestEmitAllocatesLittle(t *testing.T) {
	d, _ := newDispatcher(t, postrider.Config{})
	in := d.In(enqueuer{})
	e := postrider.Event{ID: "one", Project: "p", Type: "x", Payload: json.RawMessage(`{"a":1}`)}
	n := testing.AllocsPerRun(100, func() { _, _ = in.Emit(context.Background(), e) })
	require.LessOrEqual(t, n, 3.0)
}

func TestQueriesAreValidated(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	_, err := d.Deliveries(t.Context(), postrider.DeliveryQuery{Limit: 1001, Project: "a b", Statuses: []postrider.Status{9}})
	require.Equal(t, []string{
		`DeliveryQuery.Project is "a b", want 1 to 64 of [a-zA-Z0-9_-], or empty`,
		"DeliveryQuery.Statuses[0] is 9, want 0 to 4",
		"DeliveryQuery.Limit is 1001, want 0 to 1000",
	}, fields(t, err))
	_, err = d.Attempts(t.Context(), postrider.AttemptQuery{Limit: -1})
	require.ErrorIs(t, err, postrider.ErrInvalid)
	_, err = d.Webhooks(t.Context(), postrider.WebhookQuery{Limit: -1})
	require.ErrorIs(t, err, postrider.ErrInvalid)
	_, err = d.Deliveries(t.Context(), postrider.DeliveryQuery{Cursor: "nonsense"})
	require.ErrorIs(t, err, postrider.ErrInvalid)
}

func TestQueriesAnswer(t *testing.T) {
	t.Parallel()
	d, store := newDispatcher(t, postrider.Config{})
	w := hook(t, d, "a")
	for i := range 3 {
		_, err := d.Emit(t.Context(), postrider.Event{ID: fmt.Sprint(i), Project: "p", Type: "x", Payload: []byte("1")})
		require.NoError(t, err)
	}
	page, err := d.Deliveries(t.Context(), postrider.DeliveryQuery{WebhookID: w.ID, Limit: 2})
	require.NoError(t, err)
	require.Len(t, page.Items, 2)
	require.Equal(t, "2", page.Items[0].EventID)
	page, err = d.Deliveries(t.Context(), postrider.DeliveryQuery{WebhookID: w.ID, Limit: 2, Cursor: page.Next})
	require.NoError(t, err)
	require.Equal(t, "0", page.Items[0].EventID)
	s, err := d.Stats(t.Context(), postrider.StatsQuery{WebhookID: w.ID})
	require.NoError(t, err)
	require.EqualValues(t, 3, s.Open())
	attempts, err := d.Attempts(t.Context(), postrider.AttemptQuery{WebhookID: w.ID})
	require.NoError(t, err)
	require.Empty(t, attempts.Items)

	require.NoError(t, store.Close())
	_, err = d.Stats(t.Context(), postrider.StatsQuery{})
	require.ErrorIs(t, err, postrider.ErrClosed)
}

// What the package prints must not hold a secret, whatever the verb.
func TestSecretsDoNotPrint(t *testing.T) {
	t.Parallel()
	secret, err := postrider.ParseSecret(testSecret)
	require.NoError(t, err)
	w := postrider.Webhook{Name: "a", Secrets: []postrider.Secret{secret}}
	text, err := json.Marshal(w)
	require.NoError(t, err)
	var logged strings.Builder
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "webhook", w, "secret", secret)
	all := fmt.Sprintf("%v %+v %#v %s %q %x %d %v", w, w, w, secret, secret, secret, secret, &w) + string(text) + logged.String()
	require.NotRegexp(t, regexp.MustCompile(`MfKQ|4d664b51`), all)
	require.Contains(t, all, "[secret]")
	_, err = postrider.ParseSecret("whsec_MfKQ")
	require.ErrorIs(t, err, postrider.ErrInvalid)
	require.NotContains(t, err.Error(), "MfKQ")
}
