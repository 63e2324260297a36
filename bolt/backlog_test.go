package bolt_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// TestBacklogBeyondMemory drains far more than a store keeps in memory, fresh and waiting for retries, with closed and
// crashed stores in between: each delivery is handed out until it is delivered, the fresh ones of a webhook in order.
func TestBacklogBeyondMemory(t *testing.T) {
	t.Parallel()
	const events, batch = 14_000, 500
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	folder := t.TempDir()
	path := filepath.Join(folder, "0.db")
	s, err := bolt.Open(path, bolt.Options{Now: clock})
	require.NoError(t, err)
	for i, pattern := range []string{"*", "even", "odd"} {
		require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: fmt.Sprint("w", i), Name: fmt.Sprint("w", i), URL: "http://x.example", Events: []string{pattern}}))
	}
	left := map[string]string{} // webhook by delivery
	for i := 0; i < events; i += batch {
		items := make([]postrider.Item, batch)
		for j := range items {
			typ := []string{"even", "odd"}[(i+j)%2]
			items[j].Event = postrider.Event{ID: fmt.Sprintf("%06d", i+j), Type: typ, Payload: []byte(`{}`), Time: now}
		}
		receipts, err := s.Enqueue(t.Context(), items)
		require.NoError(t, err)
		for _, r := range receipts {
			require.Len(t, r.Deliveries, 2)
			left[r.Deliveries[0]] = "w0"
			left[r.Deliveries[1]] = ""
		}
	}
	reopen := func(n int) {
		if random.IntN(2) == 0 {
			require.NoError(t, s.Close())
		} else { // what is in the file is all that a crash leaves
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.NoError(t, s.Close())
			require.NoError(t, os.Remove(path))
			path = filepath.Join(folder, fmt.Sprint(n, ".db"))
			require.NoError(t, os.WriteFile(path, b, 0o600))
			checkFile(t, path)
		}
		s, err = bolt.Open(path, bolt.Options{Now: clock})
		require.NoError(t, err)
	}
	last := map[string]string{}
	for n := 1; len(left) > 0; n++ {
		if n%200 == 0 {
			reopen(n)
			clear(last)
		}
		claims, wait, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 200, Lease: time.Hour})
		require.NoError(t, err)
		if len(claims) == 0 {
			require.Less(t, wait, postrider.Forever, "%d are left", len(left))
			now = now.Add(wait)
			continue
		}
		outcomes := make([]postrider.Outcome, len(claims))
		for i, c := range claims {
			if _, ok := left[c.Delivery.ID]; !ok {
				t.Fatalf("%s was handed out though it had ended", c.Delivery.ID)
			}
			if c.Delivery.Attempts == 0 && last[c.Webhook.ID] != "" {
				require.Greater(t, c.Event.ID, last[c.Webhook.ID], "order of %s", c.Webhook.ID)
			}
			if c.Delivery.Attempts == 0 {
				last[c.Webhook.ID] = c.Event.ID
			}
			a := &postrider.Attempt{DeliveryID: c.Delivery.ID, Number: c.Delivery.Attempts + 1, StartedAt: now, FinishedAt: now, Code: 200}
			outcomes[i] = postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token, Attempt: a, Status: postrider.StatusDelivered}
			if c.Delivery.Attempts == 0 && random.IntN(3) > 0 {
				a.Failed, a.Class, a.Code = true, postrider.ClassStatus, 500
				outcomes[i].Status = postrider.StatusInProcess
				outcomes[i].RetryIn = time.Duration(random.IntN(40)+1) * 10 * time.Minute
				continue
			}
			delete(left, c.Delivery.ID)
		}
		got, err := s.Complete(t.Context(), outcomes)
		require.NoError(t, err)
		require.Equal(t, len(outcomes), got)
	}
	stats, err := s.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.EqualValues(t, 2*events, stats.Delivered)
	require.Zero(t, stats.Open())
	walked := 0
	for q := (postrider.DeliveryQuery{Limit: 1000}); ; {
		page, err := s.Deliveries(t.Context(), q)
		require.NoError(t, err)
		walked += len(page.Items)
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	require.Equal(t, 2*events, walked)
	require.NoError(t, s.Close())
	checkFile(t, path)
}

// Canceling in parts takes as long for the last part as for the first, although the first delivery is claimed all the
// while: each call goes on where the one before it stopped.
func TestCancelingABacklogDoesNotBeginAnewEachTime(t *testing.T) {
	t.Parallel()
	store, err := bolt.Open(filepath.Join(t.TempDir(), "webhooks.db"), bolt.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, store.CreateWebhook(t.Context(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}}))
	const n = 60_000
	for from := 0; from < n; from += 10_000 {
		sendTo(t, store, "w", "a", time.Now(), 10_000)
	}
	claims := claimed(t, store, postrider.ClaimRequest{Max: 1})
	require.Len(t, claims, 1)
	require.NoError(t, store.DeleteWebhook(t.Context(), "w"))
	canceled, calls := 0, 0
	for more := true; more; calls++ {
		k, rest, err := store.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Deleted: true, Max: 1000})
		require.NoError(t, err)
		canceled, more = canceled+k, rest
	}
	require.Equal(t, n-1, canceled)
	require.LessOrEqual(t, calls, n/1000+2)
	require.NoError(t, store.Check())
}
