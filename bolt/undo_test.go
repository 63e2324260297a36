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
