package bolt_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// ticker is a clock for tests.
type ticker struct{ micros atomic.Int64 }

func newTicker() *ticker {
	c := &ticker{}
	c.micros.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro())
	return c
}

func (c *ticker) Now() time.Time       { return time.UnixMicro(c.micros.Load()).UTC() }
func (c *ticker) Step(d time.Duration) { c.micros.Add(d.Microseconds()) }

func storeWith(t *testing.T, now func() time.Time, hooks ...string) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(filepath.Join(t.TempDir(), "store.db"), bolt.Options{Now: now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	for _, id := range hooks {
		require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: id, Name: id, URL: "http://x.example", Events: []string{"*"}}))
	}
	return s
}

// sendTo stores n events of a type that go to one webhook and returns the IDs of the deliveries.
func sendTo(t *testing.T, s postrider.Enqueuer, hook, typ string, now time.Time, n int) (ids []string) {
	t.Helper()
	items := make([]postrider.Item, n)
	for i := range items {
		items[i] = postrider.Item{To: []string{hook}, Event: postrider.Event{ID: fmt.Sprintf("%016x", rand.Uint64()), Type: typ, Payload: []byte(`{}`), Time: now}}
	}
	receipts, err := s.Enqueue(t.Context(), items)
	require.NoError(t, err)
	for _, r := range receipts {
		ids = append(ids, r.Deliveries...)
	}
	require.Len(t, ids, n)
	return ids
}

func claimed(t *testing.T, s postrider.Store, r postrider.ClaimRequest) []postrider.Claim {
	t.Helper()
	r.Lease = time.Hour
	claims, _, err := s.Claim(t.Context(), r)
	require.NoError(t, err)
	return claims
}

func succeeded(c postrider.Claim, now time.Time) postrider.Outcome {
	a := &postrider.Attempt{DeliveryID: c.Delivery.ID, Number: c.Delivery.Attempts + 1, StartedAt: now, FinishedAt: now, Code: 200}
	return postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token, Attempt: a, Status: postrider.StatusDelivered}
}

func retried(c postrider.Claim, now time.Time, in time.Duration) postrider.Outcome {
	o := succeeded(c, now)
	o.Attempt.Failed, o.Attempt.Class, o.Attempt.Code = true, postrider.ClassStatus, 500
	o.Status, o.RetryIn = postrider.StatusInProcess, in
	return o
}

func completed(t *testing.T, s postrider.Store, outcomes ...postrider.Outcome) {
	t.Helper()
	n, err := s.Complete(t.Context(), outcomes)
	require.NoError(t, err)
	require.Equal(t, len(outcomes), n)
}

// Every field of the query of a Change narrows it.
func TestChangeHonoursEveryFieldOfItsQuery(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	for name, q := range map[string]postrider.DeliveryQuery{
		"type":     {EventType: "b"},
		"prefix":   {EventType: "b*"},
		"event":    {EventID: "nothing"},
		"owner":    {Owner: "nobody"},
		"code":     {Code: "404"},
		"attempts": {MinAttempts: 2},
		"from":     {From: clock.Now().Add(time.Hour)},
		"to":       {To: clock.Now().Add(-time.Hour)},
		"test":     {Test: postrider.ChoiceYes},
		"replay":   {ReplayOf: "019ca945-0a7b-7061-b997-ea014ea43290"},
	} {
		t.Run(name, func(t *testing.T) {
			s := storeWith(t, clock.Now, "w")
			sendTo(t, s, "w", "a", clock.Now(), 3)
			c := claimed(t, s, postrider.ClaimRequest{Max: 1})
			completed(t, s, retried(c[0], clock.Now(), time.Hour))
			for _, kind := range []postrider.ChangeKind{postrider.ChangeDue, postrider.ChangeCancel} {
				n, more, err := s.Change(t.Context(), postrider.Change{Kind: kind, Query: q, Max: 100})
				require.NoError(t, err)
				require.False(t, more)
				require.Zero(t, n, "kind %d changed what its query does not select", kind)
			}
		})
	}
}

// TestChangeReachesWhatItSelectsBehindManyOthers: a call may be short, but calls while there is more get there.
func TestChangeReachesWhatItSelectsBehindManyOthers(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	s := storeWith(t, clock.Now, "w")
	for range 25 {
		sendTo(t, s, "w", "a", clock.Now(), 1000)
	}
	want := sendTo(t, s, "w", "b", clock.Now(), 3)
	total := 0
	for range 20 {
		n, more, err := s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{EventType: "b"}, Max: 100})
		require.NoError(t, err)
		if total += n; !more {
			break
		}
	}
	require.Equal(t, len(want), total)
	stats, err := s.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.EqualValues(t, 3, stats.Canceled)
}

// One call of Claim looks again when it had to read from the file; the limits hold for the call.
func TestLimitsHoldForAllOfAClaim(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	for name, r := range map[string]postrider.ClaimRequest{
		"Each":   {Max: 10, Each: 1},
		"Limits": {Max: 10, Limits: map[string]int{"a": 1, "b": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			s, err := bolt.Open(path, bolt.Options{Now: clock.Now})
			require.NoError(t, err)
			for _, id := range []string{"a", "b"} {
				require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: id, Name: id, URL: "http://x.example", Events: []string{"*"}}))
			}
			sendTo(t, s, "b", "x", clock.Now(), 1)
			completed(t, s, retried(claimed(t, s, postrider.ClaimRequest{Max: 1})[0], clock.Now(), 0))
			sendTo(t, s, "a", "x", clock.Now(), 5)
			require.NoError(t, s.Close())
			s, err = bolt.Open(path, bolt.Options{Now: clock.Now})
			require.NoError(t, err)
			got := map[string]int{}
			for _, c := range claimed(t, s, r) {
				got[c.Webhook.ID]++
			}
			require.Equal(t, map[string]int{"a": 1, "b": 1}, got)
			require.NoError(t, s.Close())
		})
	}
}

func TestManyReleasedAreNotForgotten(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	s := storeWith(t, clock.Now, "w")
	const n = 5000
	for range n / 500 {
		sendTo(t, s, "w", "a", clock.Now(), 500)
	}
	claims := claimed(t, s, postrider.ClaimRequest{Max: n})
	require.Len(t, claims, n)
	outcomes := make([]postrider.Outcome, n)
	for i, c := range claims {
		outcomes[i] = postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token}
	}
	completed(t, s, outcomes...)
	c := claimed(t, s, postrider.ClaimRequest{Max: 1})
	completed(t, s, retried(c[0], clock.Now(), time.Minute))
	require.Len(t, claimed(t, s, postrider.ClaimRequest{Max: 2 * n}), n-1)
	clock.Step(time.Minute)
	require.Len(t, claimed(t, s, postrider.ClaimRequest{Max: 2 * n}), 1)
}

// TestNothingIsForgottenWhileManyClaim drains a backlog, fresh and waiting, with several callers at once.
func TestNothingIsForgottenWhileManyClaim(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	path := filepath.Join(t.TempDir(), "store.db")
	for round := range 15 {
		s, err := bolt.Open(path, bolt.Options{Now: clock.Now})
		require.NoError(t, err)
		if round == 0 {
			require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}}))
		}
		sendTo(t, s, "w", "a", clock.Now(), 300)
		for _, c := range claimed(t, s, postrider.ClaimRequest{Max: 1000}) {
			completed(t, s, retried(c, clock.Now(), time.Hour))
			clock.Step(time.Millisecond)
		}
		clock.Step(2 * time.Hour)
		require.NoError(t, s.Close())
		s, err = bolt.Open(path, bolt.Options{Now: clock.Now})
		require.NoError(t, err)
		var callers sync.WaitGroup
		var open atomic.Int64
		open.Store(300)
		for worker := range 6 {
			callers.Go(func() {
				for idle := 0; open.Load() > 0 && idle < 2000; {
					claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 1 + worker*7, Lease: time.Hour})
					if err != nil {
						t.Error(err)
						return
					}
					if len(claims) == 0 {
						idle++
						time.Sleep(100 * time.Microsecond)
						continue
					}
					idle = 0
					for _, c := range claims {
						o := succeeded(c, clock.Now())
						if c.Delivery.Attempts < 4 {
							o = retried(c, clock.Now(), 0)
						}
						n, err := s.Complete(t.Context(), []postrider.Outcome{o})
						if err != nil || n != 1 {
							t.Error(n, err)
							return
						}
						clock.Step(time.Microsecond)
						if o.Status == postrider.StatusDelivered {
							open.Add(-1)
						}
					}
				}
			})
		}
		callers.Wait()
		require.Zero(t, open.Load(), "round %d: deliveries that are due and are not handed out", round)
		require.NoError(t, s.Close())
	}
}

// A store may be closed while the caller has a transaction open and others wait for it.
func TestCloseDoesNotBlockTheCallersTransaction(t *testing.T) {
	t.Parallel()
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "app.db"), 0o600, nil)
	require.NoError(t, err)
	s, err := bolt.New(db, bolt.Options{})
	require.NoError(t, err)
	tx, err := db.Begin(true)
	require.NoError(t, err)
	created := make(chan error, 1)
	go func() {
		created <- s.CreateWebhook(context.Background(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}})
	}()
	time.Sleep(50 * time.Millisecond) // it waits for the transaction
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	time.Sleep(50 * time.Millisecond) // it waits for the call
	enqueued := make(chan error, 1)
	go func() {
		_, err := s.Tx(tx).Enqueue(context.Background(), []postrider.Item{{Event: postrider.Event{ID: "e", Type: "a", Time: time.Now()}}})
		enqueued <- err
	}()
	select {
	case err := <-enqueued:
		if err != nil {
			require.ErrorIs(t, err, postrider.ErrClosed)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Enqueue waits for Close, which waits for CreateWebhook, which waits for the transaction")
	}
	require.NoError(t, tx.Rollback())
	require.NoError(t, <-created)
	require.NoError(t, <-closed)
	require.NoError(t, db.Close())
}

// With a clock that was set back a new delivery is due in the future. Making it due leaves nothing behind in the file
// that a later Change takes for an open delivery.
func TestDueAfterTheClockWentBack(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	s := storeWith(t, clock.Now, "w")
	sendTo(t, s, "w", "a", clock.Now(), 1)
	clock.Step(-time.Hour)
	id := sendTo(t, s, "w", "a", clock.Now(), 1)[0]
	n, _, err := s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeDue, Query: postrider.DeliveryQuery{ID: id}, Max: 1})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	c := claimed(t, s, postrider.ClaimRequest{Max: 10})
	require.Len(t, c, 1)
	require.Equal(t, id, c[0].Delivery.ID)
	completed(t, s, succeeded(c[0], clock.Now()))
	_, _, err = s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Max: 100})
	require.NoError(t, err)
	d, _, err := s.Delivery(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, postrider.StatusDelivered, d.Status, "a final status never changes")
	stats, err := s.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.Equal(t, postrider.Stats{Delivered: 1, Canceled: 1, AttemptsOK: 1}, stats)
}
