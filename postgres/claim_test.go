package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// A Claim begins with webhooks that the one before saw. They may have changed since.
func TestClaimTrustsNothingItRemembers(t *testing.T) {
	t.Parallel()
	s := hooked(t, "a", "b", "c", "d")
	r := postrider.ClaimRequest{Max: 1, Lease: time.Hour}
	first, wait, err := s.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, first, 1)
	require.Zero(t, wait)
	require.Equal(t, "a", first[0].Delivery.WebhookID)
	w, err := s.Webhook(t.Context(), "b")
	require.NoError(t, err)
	w.State = postrider.StatePaused
	require.NoError(t, s.UpdateWebhook(t.Context(), w))
	require.NoError(t, s.DeleteWebhook(t.Context(), "c"))
	r.Max = 10
	second, wait, err := s.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, second, 1)
	require.Equal(t, "d", second[0].Delivery.WebhookID)
	require.InDelta(t, time.Hour, wait, float64(time.Minute), "until the first lease is over")
	n, err := s.Complete(t.Context(), []postrider.Outcome{delivered(first[0]), delivered(second[0])})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	third, wait, err := s.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Empty(t, third)
	require.Equal(t, postrider.Forever, wait)
}

// Of some hundred webhooks with something due, of which nothing may be claimed, a Claim finds the one that is open.
func TestClaimFindsTheOneBehindManyThatMayNot(t *testing.T) {
	t.Parallel()
	s := open(t, settings(t))
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	const many = 300
	for n := range many {
		require.NoError(t, s.CreateWebhook(t.Context(), hook(fmt.Sprint("w", n))))
	}
	_, err := s.Enqueue(t.Context(), []postrider.Item{event("e")})
	require.NoError(t, err)
	limits := map[string]int{}
	for n := range many {
		limits[fmt.Sprint("w", n)] = 0
	}
	r := postrider.ClaimRequest{Max: 10, Lease: time.Hour, Limits: limits}
	claims, _, err := s.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Empty(t, claims)
	delete(limits, "w290")
	claims, _, err = s.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, claims, 1)
	require.Equal(t, "w290", claims[0].Webhook.ID)
	r.Max, r.Limits, r.Each = 100, nil, 1
	seen := map[string]bool{}
	for range many / 100 {
		claims, _, err = s.Claim(t.Context(), r)
		require.NoError(t, err)
		for _, c := range claims {
			require.False(t, seen[c.Webhook.ID])
			seen[c.Webhook.ID] = true
		}
	}
	require.Len(t, seen, many-1)
}

// What is kept back by a limit is no reason to call again.
func TestClaimDoesNotComeBackForWhatItsLimitsKeepBack(t *testing.T) {
	t.Parallel()
	s := hooked(t, "a")
	items := make([]postrider.Item, 20)
	for i := range items {
		items[i] = event(fmt.Sprint("e", i))
	}
	_, err := s.Enqueue(t.Context(), items)
	require.NoError(t, err)
	r := postrider.ClaimRequest{Max: 100, Lease: time.Hour, MaxInFlight: 5}
	for _, want := range []int{5, 0} {
		claims, wait, err := s.Claim(t.Context(), r)
		require.NoError(t, err)
		require.Len(t, claims, want)
		require.Greater(t, wait, 59*time.Minute, "until the lease is over")
	}
	r.MaxInFlight, r.Limits = 0, map[string]int{"a": 3}
	claims, wait, err := s.Claim(t.Context(), r)
	require.NoError(t, err)
	require.Len(t, claims, 3)
	require.Greater(t, wait, 59*time.Minute)
}
