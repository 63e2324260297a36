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

// A Change that finds a claim live marks its delivery, and the end of the claim ends it: also if the claim's time is over
// before the Change is committed, which a trigger sees to here.
func TestCancelWhileALeaseRunsOut(t *testing.T) {
	t.Parallel()
	o := fresh(t)
	s, other := open(t, o), open(t, o)
	require.NoError(t, s.CreateWebhook(t.Context(), hook("a")))
	_, err := s.Enqueue(t.Context(), []postrider.Item{event("e")})
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `CREATE FUNCTION `+o.Schema+`.slow() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_sleep(2); RETURN NEW; END $$;
		CREATE TRIGGER slow BEFORE UPDATE ON `+o.Schema+`.open FOR EACH ROW WHEN (NEW.canceled) EXECUTE FUNCTION `+o.Schema+`.slow()`)
	require.NoError(t, err)
	claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Second})
	require.NoError(t, err)
	require.Len(t, claims, 1)
	changed := make(chan error, 1)
	go func() {
		n, _, err := s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Max: 10})
		if err == nil && n != 1 {
			err = fmt.Errorf("canceled %d", n)
		}
		changed <- err
	}()
	for over := false; !over; { // claims go on all the while
		select {
		case err := <-changed:
			require.NoError(t, err)
			over = true
		case <-time.After(50 * time.Millisecond):
		}
		more, _, err := other.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Second})
		require.NoError(t, err)
		require.Empty(t, more)
	}
	_, wait, err := other.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Second})
	require.NoError(t, err)
	require.Equal(t, postrider.Forever, wait, "nothing is left that could be claimed")
	d, _, err := s.Delivery(t.Context(), claims[0].Delivery.ID)
	require.NoError(t, err)
	require.Equal(t, postrider.StatusCanceled, d.Status)
}
