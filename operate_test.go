package postrider_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// emitMany emits so many events of a type, with IDs that begin with it, and returns the IDs of their deliveries.
func (b *bench) emitMany(n int, typ string) (ids []string) {
	b.t.Helper()
	for first := 0; first < n; first += 1000 {
		var events []postrider.Event
		for i := first; i < min(first+1000, n); i++ {
			events = append(events, postrider.Event{ID: fmt.Sprint(typ, "-", i), Type: typ, Payload: []byte(`{}`)})
		}
		receipts, err := b.EmitAll(b.t.Context(), events)
		require.NoError(b.t, err)
		for _, r := range receipts {
			ids = append(ids, r.Deliveries...)
		}
	}
	return ids
}

// stats returns the counts of a webhook, or of all.
func (b *bench) stats(webhookID string) *postrider.Stats {
	b.t.Helper()
	s, err := b.Stats(b.t.Context(), postrider.StatsQuery{WebhookID: webhookID})
	require.NoError(b.t, err)
	return &s
}

func TestRetryMakesADeliveryDueNow(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(time.Second, 500, 200))
		b.hook("a")
		id := b.emit("e", "t")
		stop := b.run()
		time.Sleep(500 * time.Millisecond)
		require.NoError(t, b.Retry(t.Context(), id), "in flight: nothing to do")
		time.Sleep(1500 * time.Millisecond) // it has failed, and is planned for 6 s
		require.NoError(t, b.Retry(t.Context(), id))
		time.Sleep(2 * time.Second)
		require.Equal(t, "DELIVERED", b.status(id))
		require.Equal(t, seconds(0, 2), b.times())

		err := b.Retry(t.Context(), id)
		require.ErrorIs(t, err, postrider.ErrEnded)
		require.ErrorContains(t, err, "DELIVERED")
		require.ErrorIs(t, b.Retry(t.Context(), "nothing"), postrider.ErrNotFound)
		require.ErrorIs(t, b.Retry(t.Context(), ""), postrider.ErrNotFound)
		require.NoError(t, stop())
	})
}

func TestRetryDoesNotGoBeforeWhatHoldsADeliveryBack(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 500))
		b.hook("paused", only)
		b.hook("keyed", only)
		require.NoError(t, b.PauseWebhook(t.Context(), "paused"))
		waiting := b.emit("p", "paused")
		var keyed []string
		for _, id := range []string{"k1", "k2"} {
			r, err := b.Emit(t.Context(), postrider.Event{ID: id, Type: "keyed", OrderKey: "k", Payload: []byte(`{}`)})
			require.NoError(t, err)
			keyed = append(keyed, r.Deliveries...)
		}
		stop := b.run()
		time.Sleep(time.Second)
		require.NoError(t, b.Retry(t.Context(), waiting), "its webhook is paused")
		require.NoError(t, b.Retry(t.Context(), keyed[1]), "the first of its lane has not ended")
		time.Sleep(time.Second)
		require.Equal(t, seconds(0), b.times())
		require.NoError(t, b.Retry(t.Context(), keyed[0]))
		time.Sleep(time.Second)
		require.Equal(t, seconds(0, 2), b.times())
		require.NoError(t, stop())
		require.Equal(t, []string{"NEW", "IN_PROCESS", "NEW"}, []string{b.status(waiting), b.status(keyed[0]), b.status(keyed[1])})
	})
}

func TestCancelCancelsWhatTheQuerySelects(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		var notices notices
		b := newBench(t, store, postrider.Config{Observe: notices.add}, answers(0, 200))
		b.hook("a", only, func(w *postrider.Webhook) { w.Project = "p" })
		b.hook("b", only)
		_, err := b.Emit(t.Context(), postrider.Event{Project: "p", Type: "a", Payload: []byte(`{}`)})
		require.NoError(t, err)
		b.runFor(time.Second)
		require.NoError(t, b.PauseWebhook(t.Context(), "a"))
		var events []postrider.Event
		for range 2300 { // more than two batches
			events = append(events, postrider.Event{Project: "p", Type: "a", Payload: []byte(`{}`)})
		}
		_, err = b.EmitAll(t.Context(), events)
		require.NoError(t, err)
		other := b.emit("other", "b")

		q := postrider.DeliveryQuery{Project: "p", WebhookName: "a"}
		q.WebhookID = "b"
		n, err := b.Cancel(t.Context(), q)
		require.NoError(t, err)
		require.Zero(t, n, "no webhook is both")
		q.WebhookID = ""
		n, err = b.Cancel(t.Context(), q)
		require.NoError(t, err)
		require.Equal(t, 2300, n)
		n, err = b.Cancel(t.Context(), q)
		require.NoError(t, err)
		require.Zero(t, n)
		require.Equal(t, "NEW", b.status(other))
		s := b.stats("a")
		require.EqualValues(t, 1, s.Delivered)
		require.EqualValues(t, 2300, s.Canceled)
		require.Equal(t, []postrider.Notice{{Kind: postrider.NoticeCanceled, Project: "p", WebhookID: "a", Count: 2300}}, notices.of(postrider.NoticeCanceled))

		_, err = b.Cancel(t.Context(), postrider.DeliveryQuery{WebhookName: "nobody"})
		require.ErrorIs(t, err, postrider.ErrNotFound)
		_, err = b.Cancel(t.Context(), postrider.DeliveryQuery{Project: "a b", Limit: 10, Offset: 1, Cursor: "c"})
		require.Equal(t, []string{
			"DeliveryQuery.Offset is 1, want none: all that the query selects is meant",
			"DeliveryQuery.Limit is 10, want none: all that the query selects is meant",
			"DeliveryQuery.Cursor is set, want none: all that the query selects is meant",
			`DeliveryQuery.Project is "a b", want 1 to 64 of [a-zA-Z0-9_-], or empty`,
		}, fields(t, err))
	})
}

func TestCanceledDeliveryIsNeverSentAgain(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{MaxInFlight: 1}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.WebhookID == "good" {
				return postrider.Response{Code: 200}, sleep(ctx, 5*time.Second)
			}
			return postrider.Response{Code: 500}, sleep(ctx, 5*time.Second)
		})
		b.hook("good", only)
		b.hook("bad", only)
		good, bad := b.emitMany(2, "good"), b.emitMany(2, "bad")
		stop := b.run()
		time.Sleep(time.Second) // the first of each is in flight
		n, err := b.Cancel(t.Context(), postrider.DeliveryQuery{})
		require.NoError(t, err)
		require.Equal(t, 4, n, "what is in flight counts: it will end")
		n, err = b.Cancel(t.Context(), postrider.DeliveryQuery{})
		require.NoError(t, err)
		require.Zero(t, n)
		time.Sleep(30 * 24 * time.Hour)
		require.NoError(t, b.ResumeWebhook(t.Context(), "bad"))
		time.Sleep(time.Hour)
		require.NoError(t, stop())

		require.Equal(t, seconds(0, 0), b.times())
		require.Equal(t, []string{"DELIVERED", "CANCELED"}, []string{b.status(good[0]), b.status(good[1])})
		require.Equal(t, []string{"CANCELED", "CANCELED"}, []string{b.status(bad[0]), b.status(bad[1])})
		v, attempts := b.delivery(bad[0])
		require.Len(t, attempts, 1, "its attempt is recorded all the same")
		require.Equal(t, b.start.Add(5*time.Second).UTC(), v.FinishedAt)
	})
}

// changing is a store whose Change is replaced.
type changing struct {
	postrider.Store
	change func(context.Context, postrider.Change) (int, bool, error)
}

func (c *changing) Change(ctx context.Context, change postrider.Change) (int, bool, error) {
	return c.change(ctx, change)
}

func TestCancelThatIsInterrupted(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		calls, ending := 0, 2
		c := &changing{Store: store}
		c.change = func(ctx context.Context, change postrider.Change) (int, bool, error) {
			calls++
			require.LessOrEqual(t, change.Max, 1000)
			if calls == ending {
				return 0, false, errDisk
			}
			if calls == 4 {
				cancel()
			}
			return store.Change(context.WithoutCancel(ctx), change)
		}
		var notices notices
		b := newBench(t, c, postrider.Config{Observe: notices.add}, answers(0, 200))
		b.hook("a")
		b.emitMany(2500, "t")
		n, err := b.Cancel(ctx, postrider.DeliveryQuery{})
		require.ErrorIs(t, err, errDisk)
		require.Equal(t, 1000, n)
		calls, ending = 2, 0
		n, err = b.Cancel(ctx, postrider.DeliveryQuery{})
		require.NoError(t, err)
		require.Equal(t, 1500, n, "it goes on")
		require.EqualValues(t, 2500, b.stats("").Canceled)
		require.Len(t, notices.of(postrider.NoticeCanceled), 2)

		b.emitMany(3000, "u")
		calls = 3
		n, err = b.Cancel(ctx, postrider.DeliveryQuery{})
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 1000, n)
	})
}

func TestStaleOutcomeChangesNothing(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a")
		id := b.emit("e", "t")
		claims, _, err := store.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Minute}) // by another process
		require.NoError(t, err)
		require.Len(t, claims, 1)
		time.Sleep(time.Minute)
		b.runFor(time.Second)
		before, attempts := b.delivery(id)
		require.Equal(t, postrider.StatusDelivered, before.Status)
		hook, err := b.Webhook(t.Context(), "a")
		require.NoError(t, err)

		now := time.Now()
		n, err := store.Complete(t.Context(), []postrider.Outcome{{
			DeliveryID: id, Token: claims[0].Token, Status: postrider.StatusFailed,
			Attempt: &postrider.Attempt{DeliveryID: id, Number: 1, StartedAt: now, FinishedAt: now, Failed: true, Class: postrider.ClassTimeout, Error: "late"},
			Webhook: &postrider.WebhookChange{Disable: "stale"},
		}})
		require.NoError(t, err)
		require.Zero(t, n)
		after, again := b.delivery(id)
		require.Equal(t, before, after)
		require.Equal(t, attempts, again)
		same, err := b.Webhook(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, hook, same)
	})
}

func TestFinalStatusNeverChanges(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{Retry: postrider.Schedule{time.Second}}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			if r.WebhookID == "failed" {
				return postrider.Response{Code: 500}, nil
			}
			return postrider.Response{Code: 200}, nil
		})
		ids := map[string]string{}
		for _, name := range []string{"delivered", "canceled", "failed"} {
			b.hook(name, only)
			ids[name] = b.emit(name, name)
		}
		n, err := b.Cancel(t.Context(), postrider.DeliveryQuery{ID: ids["canceled"]})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		b.runFor(time.Minute)
		ended := map[string]postrider.Delivery{}
		for name, id := range ids {
			ended[name], _ = b.delivery(id)
		}
		require.Equal(t, postrider.StatusDelivered, ended["delivered"].Status)
		require.Equal(t, postrider.StatusCanceled, ended["canceled"].Status)
		require.Equal(t, postrider.StatusFailed, ended["failed"].Status)

		stop := b.run()
		for name, id := range ids {
			require.ErrorIs(t, b.Retry(t.Context(), id), postrider.ErrEnded, name)
			n, err := b.Cancel(t.Context(), postrider.DeliveryQuery{ID: id})
			require.NoError(t, err)
			require.Zero(t, n, name)
			claims, _, err := store.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Minute, Only: id})
			require.NoError(t, err)
			require.Empty(t, claims, name)
			r, err := b.Replay(t.Context(), postrider.ReplayRequest{Query: postrider.DeliveryQuery{ID: id}})
			require.NoError(t, err)
			require.Equal(t, 1, r.Made, name)
			require.NoError(t, b.PauseWebhook(t.Context(), name))
			require.NoError(t, b.ResumeWebhook(t.Context(), name))
		}
		n, err = b.Cancel(t.Context(), postrider.DeliveryQuery{})
		require.NoError(t, err)
		require.LessOrEqual(t, n, 3, "at most the replays")
		time.Sleep(time.Hour)
		for name, id := range ids {
			require.NoError(t, b.DeleteWebhook(t.Context(), name))
			time.Sleep(time.Hour)
			v, _ := b.delivery(id)
			require.Equal(t, ended[name], v)
		}
		require.NoError(t, stop())
	})
}

// The small form: that it holds for a million is measured elsewhere.
func TestDeletingAWebhookDoesNotTouchWhatWaits(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("dead", only, func(w *postrider.Webhook) { w.State = postrider.StatePaused })
		b.hook("live", only)
		const waiting = 20_000
		b.emitMany(waiting, "dead")
		require.NoError(t, b.DeleteWebhook(t.Context(), "dead"))
		require.EqualValues(t, waiting, b.stats("dead").New, "the call does not touch them")
		_, err := b.WebhookNamed(t.Context(), "", "dead")
		require.ErrorIs(t, err, postrider.ErrNotFound)

		live := b.emit("first", "live")
		stop := b.run()
		v, err := b.AwaitDelivery(t.Context(), live)
		require.NoError(t, err)
		require.Equal(t, postrider.StatusDelivered, v.Status)
		require.Equal(t, b.start.UTC(), v.FinishedAt, "others go on at once")
		time.Sleep(time.Minute)
		s := b.stats("dead")
		require.Zero(t, s.Open())
		require.EqualValues(t, waiting, s.Canceled)
		require.Len(t, b.times(), 1)
		require.NoError(t, stop())
	})
}

// Two Cancels at a time, each of which has to get past more than the store looks at in one call: none puts the other
// back to the beginning.
func TestCancelsAtTheSameTimeBothEnd(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("h")
		b.emitMany(25_000, "c")
		b.emit("a", "a")
		b.emit("b", "b")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		for _, typ := range []string{"a", "b"} {
			wg.Go(func() {
				if n, err := b.Cancel(ctx, postrider.DeliveryQuery{EventType: typ}); n != 1 || err != nil {
					t.Errorf("%s: canceled %d: %v", typ, n, err)
				}
			})
		}
		wg.Wait()
	})
}
