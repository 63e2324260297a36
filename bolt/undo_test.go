//go:build linux

package bolt_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// A Change that goes on where an earlier one stopped may promote a delivery and cancel it at once. If there is no
// commit the delivery waits for its turn as before.
func TestPromotedAndCanceledInVainStaysParked(t *testing.T) {
	t.Parallel()
	db := newDisk(t)
	synctest.Test(t, func(t *testing.T) {
		s, err := bolt.New(db.DB, bolt.Options{})
		require.NoError(t, err)
		require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}}))
		sendTo(t, s, "w", "a", time.Now(), 10_000)
		first := keyed(t, s, "w", "k", "b", time.Now(), 1)
		change := postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{EventType: "b"}, Max: 100}
		n, more, err := s.Change(t.Context(), change)
		require.NoError(t, err)
		require.Zero(t, n)
		require.True(t, more, "it has looked at 10,000 others")
		parked := keyed(t, s, "w", "k", "b", time.Now(), 2)[:1]

		db.fill()
		_, _, err = s.Change(t.Context(), change)
		require.ErrorIs(t, err, postrider.ErrFull)
		db.mend()
		time.Sleep(time.Second)

		var ids []string
		for _, c := range claimed(t, s, postrider.ClaimRequest{Max: 20_000}) {
			ids = append(ids, c.Delivery.ID)
		}
		require.Equal(t, 10_001, len(ids))
		require.True(t, slices.Contains(ids, first[0]))
		require.False(t, slices.Contains(ids, parked[0]), "the first of its lane has not ended")
		require.NoError(t, s.Check())
		require.NoError(t, s.Close())
	})
}

// A delivery that was canceled while it was claimed, and whose lease is over, ends at the next Claim. Until there is one
// that finds room it stays as it was, and nothing of its lane gets its turn.
func TestCanceledWhileClaimedEndsAtTheClaimThatFindsRoom(t *testing.T) {
	t.Parallel()
	db := newDisk(t)
	synctest.Test(t, func(t *testing.T) {
		s, err := bolt.New(db.DB, bolt.Options{})
		require.NoError(t, err)
		require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}}))
		ids := keyed(t, s, "w", "k", "a", time.Now(), 2)
		lost := claimed(t, s, postrider.ClaimRequest{Max: 2})
		require.Len(t, lost, 1)
		change := postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{ID: ids[0]}, Max: 1}
		n, _, err := s.Change(t.Context(), change)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		asItWas := func() {
			t.Helper()
			d, _, err := s.Delivery(t.Context(), ids[0])
			require.NoError(t, err)
			require.Equal(t, postrider.StatusNew, d.Status)
			require.True(t, d.InFlight)
			require.NoError(t, s.Check())
		}
		time.Sleep(time.Hour)
		asItWas()

		outcome := succeeded(lost[0], time.Now())
		db.fill()
		for range 2 {
			for _, call := range []func() error{
				func() error {
					_, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 2, Lease: time.Hour})
					return err
				},
				func() error { _, err := s.Complete(t.Context(), []postrider.Outcome{outcome}); return err },
				func() error { _, _, err := s.Change(t.Context(), change); return err },
			} {
				require.ErrorIs(t, call(), postrider.ErrFull)
				asItWas()
				time.Sleep(time.Second)
			}
		}
		db.mend()
		asItWas()

		next := claimed(t, s, postrider.ClaimRequest{Max: 2})
		require.Len(t, next, 1)
		require.Equal(t, ids[1], next[0].Delivery.ID)
		require.Equal(t, 1, next[0].Held)
		d, _, err := s.Delivery(t.Context(), ids[0])
		require.NoError(t, err)
		require.Equal(t, postrider.StatusCanceled, d.Status)
		require.False(t, d.InFlight)
		n, err = s.Complete(t.Context(), []postrider.Outcome{outcome})
		require.NoError(t, err)
		require.Zero(t, n, "its lease was over before its outcome came")
		completed(t, s, succeeded(next[0], time.Now()))
		require.Equal(t, postrider.Stats{Delivered: 1, Canceled: 1, AttemptsOK: 1}, statsOf(t, s))
		require.NoError(t, s.Check())
		require.NoError(t, s.Close())
	})
}
