package postrider_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// answer is a Sender that answers every request with a code, without delay.
type answer int

func (a answer) Send(context.Context, postrider.Request) (postrider.Response, error) {
	return postrider.Response{Code: int(a)}, nil
}

func TestRunDeletesWhatRetentionIsOverFor(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		d, err := postrider.New(store, postrider.Config{Sender: answer(200)})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		live, err := d.CreateWebhook(ctx, postrider.Webhook{Name: "live", URL: "https://a.example", Events: []string{"*"}})
		require.NoError(t, err)
		paused, err := d.CreateWebhook(ctx, postrider.Webhook{Name: "paused", URL: "https://b.example", Events: []string{"*"}, State: postrider.StatePaused})
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()

		receipt, err := d.Emit(ctx, postrider.Event{ID: "e", Type: "t", Payload: []byte(`{}`)})
		require.NoError(t, err)
		time.Sleep(31*24*time.Hour - time.Minute)
		synctest.Wait()
		for _, id := range receipt.Deliveries {
			_, err := d.Delivery(ctx, id)
			require.NoError(t, err)
		}
		again, err := d.Emit(ctx, postrider.Event{ID: "e", Type: "t", Payload: []byte(`{}`)})
		require.NoError(t, err)
		require.True(t, again.Duplicate)

		time.Sleep(24 * time.Hour)
		synctest.Wait()
		page, err := d.Deliveries(ctx, postrider.DeliveryQuery{})
		require.NoError(t, err)
		require.Len(t, page.Items, 1, "what has not ended stays")
		require.Equal(t, paused.ID, page.Items[0].WebhookID)
		attempts, err := d.Attempts(ctx, postrider.AttemptQuery{})
		require.NoError(t, err)
		require.Empty(t, attempts.Items)
		stats, err := d.Stats(ctx, postrider.StatsQuery{WebhookID: live.ID})
		require.NoError(t, err)
		require.Equal(t, postrider.Stats{Pruned: 1, AttemptsOK: 1}, stats)
		_, err = d.Event(ctx, "", "e")
		require.NoError(t, err, "a delivery of it is open")

		require.NoError(t, d.ResumeWebhook(ctx, paused.ID))
		time.Sleep(32 * 24 * time.Hour)
		synctest.Wait()
		for _, id := range receipt.Deliveries {
			_, err := d.Delivery(ctx, id)
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
		_, err = d.Event(ctx, "", "e")
		require.ErrorIs(t, err, postrider.ErrNotFound)
		again, err = d.Emit(ctx, postrider.Event{ID: "e", Type: "t", Payload: []byte(`{}`)})
		require.NoError(t, err)
		require.False(t, again.Duplicate, "the ID is free again")
		cancel()
		require.NoError(t, <-ended)
	})
}

func TestRetentionForeverKeepsEverything(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		d, err := postrider.New(store, postrider.Config{Sender: answer(204), Retention: postrider.Forever})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		_, err = d.CreateWebhook(ctx, postrider.Webhook{Name: "w", URL: "https://a.example", Events: []string{"*"}})
		require.NoError(t, err)
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		_, err = d.Emit(ctx, postrider.Event{Type: "t", Payload: []byte(`{}`)})
		require.NoError(t, err)
		time.Sleep(20 * 365 * 24 * time.Hour)
		n, err := d.Prune(ctx)
		require.NoError(t, err)
		require.Zero(t, n)
		stats, err := d.Stats(ctx, postrider.StatsQuery{})
		require.NoError(t, err)
		require.EqualValues(t, 1, stats.Delivered)
		cancel()
		require.NoError(t, <-ended)
	})
}

func TestPruneWorksWithoutRun(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		d, err := postrider.New(store, postrider.Config{Sender: answer(200), Retention: time.Hour})
		require.NoError(t, err)
		_, err = d.CreateWebhook(t.Context(), postrider.Webhook{Name: "w", URL: "https://a.example", Events: []string{"*"}, MaxInFlight: 100})
		require.NoError(t, err)
		const events = 2500 // more than a batch
		for range events / 500 {
			batch := make([]postrider.Event, 500)
			for i := range batch {
				batch[i] = postrider.Event{Type: "t", Payload: []byte(`{}`)}
			}
			_, err := d.EmitAll(t.Context(), batch)
			require.NoError(t, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, d.Run(ctx))
		n, err := d.Prune(t.Context())
		require.NoError(t, err)
		require.Zero(t, n)
		time.Sleep(time.Hour)
		n, err = d.Prune(t.Context())
		require.NoError(t, err)
		require.Equal(t, events, n)
		for range d.All(t.Context(), postrider.DeliveryQuery{}) {
			t.Fatal("a delivery is left")
		}
	})
}

func TestAllGoesThroughEveryPage(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		d, err := postrider.New(store, postrider.Config{})
		require.NoError(t, err)
		w, err := d.CreateWebhook(t.Context(), postrider.Webhook{Project: "p", Name: "w", URL: "https://a.example", Events: []string{"*"}})
		require.NoError(t, err)
		var want []string
		for range 25 {
			receipt, err := d.Emit(t.Context(), postrider.Event{Project: "p", Type: "t", Payload: []byte(`{}`)})
			require.NoError(t, err)
			want = append(want, receipt.Deliveries...)
		}
		var got []string
		for v, err := range d.All(t.Context(), postrider.DeliveryQuery{Project: "p", WebhookName: "w", Ascending: true, Limit: 4}) {
			require.NoError(t, err)
			require.Equal(t, w.ID, v.WebhookID)
			got = append(got, v.ID)
			if len(got) == 10 { // the caller's code may write: nothing is held open
				_, err := d.Emit(t.Context(), postrider.Event{Project: "other", Type: "t", Payload: []byte(`{}`)})
				require.NoError(t, err)
			}
		}
		require.Equal(t, want, got)
		for v, err := range d.All(t.Context(), postrider.DeliveryQuery{Project: "p", Ascending: true, Limit: 4, Offset: 23}) {
			require.NoError(t, err)
			require.Contains(t, want[23:], v.ID)
		}
		for _, err := range d.All(t.Context(), postrider.DeliveryQuery{Project: "p", WebhookName: "nobody"}) {
			require.ErrorIs(t, err, postrider.ErrNotFound)
		}
	})
}
