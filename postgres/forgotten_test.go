package postgres_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// inLanes returns an event of a type for each of n lanes.
func inLanes(n int, typ string) (items []postrider.Item) {
	for i := range n {
		it := event(fmt.Sprint(typ, i))
		it.Event.Type, it.Event.OrderKey = typ, fmt.Sprint("k", i)
		items = append(items, it)
	}
	return items
}

// Marks of lanes that a caller's transaction has locked, more than are looked at in one go, do not hide those behind them.
func TestLockedLanesHoldUpNoOthers(t *testing.T) {
	t.Parallel()
	s := open(t, fresh(t))
	require.NoError(t, s.CreateWebhook(t.Context(), hook("a")))
	const locked = 1001
	items := inLanes(locked, "head")
	for _, id := range []string{"z1", "z2"} {
		z := event(id)
		z.Event.OrderKey = "z"
		items = append(items, z)
	}
	_, err := s.Enqueue(t.Context(), items)
	require.NoError(t, err)
	request := postrider.ClaimRequest{Max: 5000, Lease: time.Hour}
	claims, _, err := s.Claim(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, locked+1, len(claims))
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = s.Tx(tx).Enqueue(t.Context(), inLanes(locked, "next"))
	require.NoError(t, err)
	var heads, z1 []postrider.Outcome
	for _, c := range claims {
		if c.Event.ID == "z1" {
			z1 = append(z1, delivered(c))
			continue
		}
		heads = append(heads, delivered(c))
	}
	for _, outcomes := range [][]postrider.Outcome{heads, z1} {
		n, err := s.Complete(t.Context(), outcomes)
		require.NoError(t, err)
		require.Equal(t, len(outcomes), n)
	}
	claims, _, err = s.Claim(t.Context(), request)
	require.NoError(t, err)
	require.Len(t, claims, 1, "while the transaction is open")
	require.Equal(t, "z2", claims[0].Event.ID)
	require.NoError(t, tx.Commit(t.Context()))
	claims, _, err = s.Claim(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, locked, len(claims))
}

// However many heads end at once, a Claim misses none of their next ones, and does not say to wait while there are more.
func TestEndsOfManyLanesAreSeenAtOnce(t *testing.T) {
	t.Parallel()
	const lanes, most = 2500, 2200
	for name, locked := range map[string]bool{"free": false, "locked when the heads end": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := fresh(t)
			here, there := open(t, o), open(t, o)
			require.NoError(t, here.CreateWebhook(t.Context(), hook("a")))
			_, err := here.Enqueue(t.Context(), inLanes(lanes, "head"))
			require.NoError(t, err)
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(t.Context()) }()
			_, err = here.Tx(tx).Enqueue(t.Context(), inLanes(lanes, "next"))
			require.NoError(t, err)
			if !locked {
				require.NoError(t, tx.Commit(t.Context()))
			}
			n, more, err := there.Change(t.Context(), postrider.Change{
				Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{EventType: "head"}, Max: lanes,
			})
			require.NoError(t, err)
			require.Equal(t, lanes, n)
			require.False(t, more)
			if locked {
				require.NoError(t, tx.Commit(t.Context()))
			}
			for left := lanes; left > 0; {
				claims, wait, err := here.Claim(t.Context(), postrider.ClaimRequest{Max: most, Lease: time.Hour})
				require.NoError(t, err)
				require.Equal(t, min(most, left), len(claims))
				for _, c := range claims {
					require.Equal(t, "next", c.Event.Type)
				}
				if left -= len(claims); left > 0 {
					require.Zero(t, wait)
				}
			}
		})
	}
}

// A store that outlives a failover does not take webhooks that were lost with it for those that were created since.
func TestWebhooksAfterALossAreNotTakenForOthers(t *testing.T) {
	t.Parallel()
	for name, numbers := range map[string]string{"other numbers": "CONTINUE", "the same numbers": "RESTART"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := fresh(t)
			s, other := open(t, o), open(t, o)
			request := postrider.ClaimRequest{Max: 10, Lease: time.Hour}
			sent := func(id string) postrider.Claim {
				receipts, err := s.Enqueue(t.Context(), []postrider.Item{event(id)})
				require.NoError(t, err)
				require.Len(t, receipts[0].Deliveries, 1)
				d, _, err := s.Delivery(t.Context(), receipts[0].Deliveries[0])
				require.NoError(t, err)
				require.Equal(t, id, d.EventID)
				claims, _, err := s.Claim(t.Context(), request)
				require.NoError(t, err)
				require.Len(t, claims, 1)
				require.Equal(t, d.ID, claims[0].Delivery.ID)
				require.Equal(t, d.WebhookID, claims[0].Webhook.ID)
				return claims[0]
			}
			require.NoError(t, other.CreateWebhook(t.Context(), hook("lost")))
			require.Equal(t, "https://example.com/lost", sent("1").Webhook.URL)
			_, err := pool.Exec(t.Context(), strings.ReplaceAll(`TRUNCATE ~.project, ~.hook, ~.hold, ~.event, ~.event_key,
				~.open, ~.lease, ~.tally, ~.tally_first `+numbers+` IDENTITY`, "~", o.Schema))
			require.NoError(t, err)
			require.NoError(t, other.CreateWebhook(t.Context(), hook("new")))
			require.Equal(t, "https://example.com/new", sent("2").Webhook.URL)
		})
	}
}

// What cannot be deleted because another transaction has locked its event keeps Prune from nothing else.
func TestOneLockedEventDoesNotEndAPrune(t *testing.T) {
	t.Parallel()
	s := open(t, fresh(t))
	require.NoError(t, s.CreateWebhook(t.Context(), hook("a")))
	const rounds, most = 5, 50
	var oldest string
	for round := range rounds {
		var items []postrider.Item
		for i := range most {
			items = append(items, event(fmt.Sprint(round, "-", i)))
		}
		receipts, err := s.Enqueue(t.Context(), items)
		require.NoError(t, err)
		if round == 0 {
			oldest = receipts[0].Deliveries[0]
		}
		claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: most, Lease: time.Hour})
		require.NoError(t, err)
		var outcomes []postrider.Outcome
		for _, c := range claims {
			outcomes = append(outcomes, delivered(c))
		}
		n, err := s.Complete(t.Context(), outcomes)
		require.NoError(t, err)
		require.Equal(t, most, n)
	}
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	replay := event("0-0")
	replay.ReplayOf, replay.To = oldest, []string{"a"}
	_, err = s.Tx(tx).Enqueue(t.Context(), []postrider.Item{replay})
	require.NoError(t, err)
	pruned := 0
	for calls, more := 1, true; more; calls++ {
		require.LessOrEqual(t, calls, 2*rounds, "it does not come to an end")
		var n int
		n, more, err = s.Prune(t.Context(), 0, most)
		require.NoError(t, err)
		pruned += n
	}
	require.Equal(t, rounds*most-1, pruned)
	_, _, err = s.Delivery(t.Context(), oldest)
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))
	n, more, err := s.Prune(t.Context(), 0, most)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.False(t, more)
}
