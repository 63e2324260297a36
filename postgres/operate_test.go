package postgres_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

func (d *desk) webhook(id string) postrider.Webhook {
	d.t.Helper()
	w, err := d.Webhook(d.t.Context(), id)
	require.NoError(d.t, err)
	return w
}

func (d *desk) stats(webhookID string) *postrider.Stats {
	d.t.Helper()
	s, err := d.Stats(d.t.Context(), postrider.StatsQuery{WebhookID: webhookID})
	require.NoError(d.t, err)
	return &s
}

// The breaker is of the store: it holds back every process, and one of them tries.
func TestBreakerOpensAfterTenFailuresAndTriesOnce(t *testing.T) {
	t.Parallel()
	o := settings(t)
	var up atomic.Bool
	var flying, beside atomic.Int64
	seen := &log{}
	answer := func(_ context.Context, r postrider.Request) (postrider.Response, error) {
		if n := flying.Add(1); n > 1 {
			beside.Add(1)
		}
		time.Sleep(10 * time.Millisecond)
		flying.Add(-1)
		if up.Load() {
			return postrider.Response{Code: 200}, nil
		}
		return postrider.Response{Code: 500}, nil
	}
	c := postrider.Config{Retry: postrider.Schedule{time.Second, time.Minute, time.Minute}}
	d := deskOn(t, open(t, o), c, seen, answer)
	d.hook("a")
	ids := d.emit("t", 30)
	stop := d.run()
	d.until("it opens", func() bool { return d.webhook("a").Trips == 1 })
	require.Len(t, seen.seen(""), 10)
	require.Zero(t, beside.Load(), "one at a time until the first success")
	w := d.webhook("a")
	require.Equal(t, 10, w.Failures)
	require.Equal(t, 1, w.Window)
	stop()

	other := deskOn(t, open(t, o), c, seen, answer)
	other.run()
	d.run()
	require.NoError(t, d.store.Age(t.Context(), time.Until(w.NotBefore)+time.Second))
	d.until("one tries, and fails", func() bool { return d.webhook("a").Trips == 2 })
	require.Len(t, seen.seen(""), 11)
	up.Store(true)
	require.NoError(t, d.store.Age(t.Context(), time.Hour))
	d.ends(postrider.StatusDelivered, ids...)
	w = d.webhook("a")
	require.Zero(t, w.Failures)
	require.Zero(t, w.Trips)
	require.Len(t, seen.seen(""), 11+30, "what failed once, and each once more")
}

func TestGoneDisablesUntilResumed(t *testing.T) {
	t.Parallel()
	var gone atomic.Bool
	gone.Store(true)
	d := newDesk(t, postrider.Config{}, func(context.Context, postrider.Request) (postrider.Response, error) {
		if gone.Load() {
			return postrider.Response{Code: 410}, nil
		}
		return postrider.Response{Code: 200}, nil
	})
	d.hook("a")
	ids := d.emit("t", 5)
	d.run()
	d.until("it is disabled", func() bool { return d.webhook("a").State == postrider.StateDisabled })
	require.NotEmpty(t, d.webhook("a").Reason)
	require.Len(t, d.seen(""), 1)
	ids = append(ids, d.emit("t", 1)...)
	require.Len(t, ids, 6, "new events still make deliveries")
	gone.Store(false)
	require.NoError(t, d.ResumeWebhook(t.Context(), "a"))
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := d.AwaitDelivery(ctx, id)
		cancel()
		require.NoError(t, err)
	}
	s := d.stats("a")
	require.EqualValues(t, 6, s.Delivered+s.Failed)
	require.GreaterOrEqual(t, s.Delivered, int64(5))
}

func TestRateLimitSpreadsRequests(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{}, codes(200))
	d.hook("a", func(w *postrider.Webhook) { w.RateLimit = postrider.RateLimit{N: 20, Per: time.Second} })
	ids := d.emit("t", 9)
	began := time.Now()
	d.run()
	d.ends(postrider.StatusDelivered, ids...)
	calls := d.seen("a")
	require.Len(t, calls, 9)
	require.GreaterOrEqual(t, calls[8].at.Sub(began), 8*50*time.Millisecond)
	for _, c := range calls {
		require.Equal(t, 1, c.Attempt, "to wait costs no attempt")
	}
}

func TestPausedKeepsAndResumedSends(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{}, codes(200))
	d.hook("paused", only)
	d.hook("other", only)
	require.NoError(t, d.PauseWebhook(t.Context(), "paused"))
	d.run()
	waits := d.emit("paused", 3)
	d.ends(postrider.StatusDelivered, d.emit("other", 3)...)
	require.Empty(t, d.seen("paused"))
	require.NoError(t, d.ResumeWebhook(t.Context(), "paused"))
	d.ends(postrider.StatusDelivered, waits...)
}

func TestRetryHastens(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{Retry: postrider.Schedule{time.Hour}}, codes(500, 200))
	d.hook("a")
	ids := d.emit("t", 1)
	d.run()
	d.until("it has failed", func() bool { return d.stats("").InProcess == 1 })
	require.NoError(t, d.Retry(t.Context(), ids[0]))
	d.ends(postrider.StatusDelivered, ids...)
	require.ErrorIs(t, d.Retry(t.Context(), ids[0]), postrider.ErrEnded)
	require.ErrorIs(t, d.Retry(t.Context(), "nothing"), postrider.ErrNotFound)
}

func TestCanceledIsNeverSent(t *testing.T) {
	t.Parallel()
	begun, let := make(chan struct{}, 10), make(chan struct{})
	d := newDesk(t, postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
		begun <- struct{}{}
		select {
		case <-let:
		case <-ctx.Done():
		}
		return postrider.Response{Code: map[string]int{"good": 200, "bad": 500}[r.WebhookID]}, ctx.Err()
	})
	for _, id := range []string{"good", "bad", "paused"} {
		d.hook(id, only)
	}
	require.NoError(t, d.PauseWebhook(t.Context(), "paused"))
	good, bad, waits := d.emit("good", 1), d.emit("bad", 1), d.emit("paused", 2500)
	stop := d.run()
	<-begun
	<-begun
	n, err := d.Cancel(t.Context(), postrider.DeliveryQuery{})
	require.NoError(t, err)
	require.Equal(t, 2502, n)
	close(let)
	d.ends(postrider.StatusDelivered, good...)
	d.ends(postrider.StatusCanceled, bad...)
	d.ends(postrider.StatusCanceled, waits[0], waits[len(waits)-1])
	require.NoError(t, d.ResumeWebhook(t.Context(), "paused"))
	d.ends(postrider.StatusDelivered, d.emit("good", 1)...)
	stop()
	require.Len(t, d.seen(""), 3)
	require.EqualValues(t, 2501, d.stats("").Canceled)
}

func TestDeletedWebhookIsLeftAlone(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{}, codes(200))
	d.hook("a", only)
	d.hook("b", only)
	waits := d.emit("a", 50)
	require.NoError(t, d.DeleteWebhook(t.Context(), "a"))
	d.run()
	d.ends(postrider.StatusDelivered, d.emit("b", 1)...)
	d.ends(postrider.StatusCanceled, waits...)
	require.Empty(t, d.seen("a"))
}

func TestReplaySendsAgain(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	d := newDesk(t, postrider.Config{Retry: postrider.Schedule{time.Millisecond}, BreakAfter: 1 << 20},
		func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			if r.WebhookID == "down" && !up.Load() {
				return postrider.Response{Code: 500}, nil
			}
			return postrider.Response{Code: 200}, nil
		})
	d.hook("down", only)
	d.hook("fine", only)
	d.run()
	failed, fine := d.emit("down", 7), d.emit("fine", 3)
	d.ends(postrider.StatusFailed, failed...)
	d.ends(postrider.StatusDelivered, fine...)
	up.Store(true)

	missing := postrider.ReplayRequest{Missing: true}
	r, err := d.Replay(t.Context(), missing)
	require.NoError(t, err)
	require.Equal(t, 7, r.Made)
	r, err = d.Replay(t.Context(), missing)
	require.NoError(t, err)
	require.Zero(t, r.Made, "once more adds nothing")
	for range 2 { // named, it is sent again each time
		r, err = d.Replay(t.Context(), postrider.ReplayRequest{Query: postrider.DeliveryQuery{ID: fine[0]}})
		require.NoError(t, err)
		require.Equal(t, 1, r.Made)
	}
	d.until("all have ended", func() bool { return d.stats("").Open() == 0 })
	again, err := d.Deliveries(t.Context(), postrider.DeliveryQuery{ReplayOf: fine[0]})
	require.NoError(t, err)
	require.Len(t, again.Items, 2)
	require.EqualValues(t, 3+2+7, d.stats("").Delivered)
	require.EqualValues(t, 7, d.stats("").Failed)
	first := d.seen("fine")[0]
	require.Equal(t, first.EventID, again.Items[0].EventID)
}

func TestSendTestWorksWithAndWithoutRun(t *testing.T) {
	t.Parallel()
	o := settings(t)
	d := deskOn(t, open(t, o), postrider.Config{}, &log{}, codes(418))
	other := deskOn(t, open(t, o), postrider.Config{}, &log{}, codes(200))
	d.hook("a")
	require.NoError(t, d.PauseWebhook(t.Context(), "a"))
	for run := range 2 {
		if run == 1 {
			d.run()
			other.run()
		}
		a, err := d.SendTest(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, 418, a.Code)
		v, err := d.Delivery(t.Context(), a.DeliveryID)
		require.NoError(t, err)
		require.True(t, v.Test)
		require.Equal(t, postrider.StatusFailed, v.Status)
	}
	require.Len(t, d.seen("a"), 2)
	require.Empty(t, other.seen("a"))
	require.Zero(t, d.webhook("a").Failures, "tests do not bear on its health")
}

func TestAwaitDeliverySeesWhatAnotherProcessEnds(t *testing.T) {
	t.Parallel()
	o := settings(t)
	here := deskOn(t, open(t, o), postrider.Config{}, &log{}, codes(200))
	there := deskOn(t, open(t, o), postrider.Config{}, &log{}, codes(500, 200))
	here.hook("a")
	ids := here.emit("t", 3)
	there.run()
	here.ends(postrider.StatusDelivered, ids...)
	require.Empty(t, here.seen(""))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := here.AwaitDelivery(ctx, ids[0])
	require.ErrorIs(t, err, context.Canceled)
}

func TestStatsEqualAWalk(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{Retry: postrider.Schedule{time.Millisecond}, BreakAfter: 1 << 20},
		func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			return postrider.Response{Code: map[byte]int{'0': 200, '1': 500, '2': 404}[r.EventID[0]]}, nil
		})
	d.hook("a")
	d.hook("b")
	d.hook("paused")
	require.NoError(t, d.PauseWebhook(t.Context(), "paused"))
	d.run()
	for i := range 60 {
		_, err := d.Emit(t.Context(), postrider.Event{
			ID: fmt.Sprintf("%d-%d", i%3, i), Project: "p", Type: "t", Payload: []byte(`{}`)})
		require.NoError(t, err)
	}
	d.until("a and b are done", func() bool { return d.stats("a").Open()+d.stats("b").Open() == 0 })
	_, err := d.Cancel(t.Context(), postrider.DeliveryQuery{WebhookID: "paused", EventID: "0-0", Project: "p"})
	require.NoError(t, err)
	for _, id := range []string{"", "a", "b", "paused"} {
		s, err := d.Stats(t.Context(), postrider.StatsQuery{WebhookID: id, Rates: true})
		require.NoError(t, err)
		var counted postrider.Stats
		attempts := 0
		for v, err := range d.All(t.Context(), postrider.DeliveryQuery{WebhookID: id}) {
			require.NoError(t, err)
			*counted.Count(v.Status)++
			attempts += v.Attempts
		}
		require.Equal(t, []int64{counted.New, counted.InProcess, counted.Delivered, counted.Canceled, counted.Failed},
			[]int64{s.New, s.InProcess, s.Delivered, s.Canceled, s.Failed}, id)
		require.Equal(t, counted.New, s.Due)
		rates := sum(s.Rates.Hours[:])
		require.EqualValues(t, attempts, rates.OK+rates.Failed)
		require.Equal(t, s.Delivered, rates.OK)
	}
}

func TestMaxPendingRefuses(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{MaxPending: 5}, codes(200))
	d.hook("a")
	d.emit("t", 5)
	_, err := d.Emit(t.Context(), postrider.Event{Project: "p", Type: "t", Payload: []byte(`{}`)})
	require.ErrorIs(t, err, postrider.ErrFull)
}

func TestRetentionPrunes(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{Retention: time.Hour}, codes(200))
	d.hook("a", only)
	d.hook("waits", only)
	require.NoError(t, d.PauseWebhook(t.Context(), "waits"))
	d.run()
	ids, waits := d.emit("a", 25), d.emit("waits", 5)
	d.ends(postrider.StatusDelivered, ids...)
	require.NoError(t, d.store.Age(t.Context(), 2*time.Hour))
	_, err := d.Prune(t.Context())
	require.NoError(t, err)
	for _, id := range ids {
		_, err := d.Delivery(t.Context(), id)
		require.ErrorIs(t, err, postrider.ErrNotFound)
	}
	for _, id := range waits {
		v, err := d.Delivery(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, postrider.StatusNew, v.Status)
	}
	require.EqualValues(t, 25, d.stats("").Pruned)
}
