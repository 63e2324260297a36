package memstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

// Canceling behind a delivery that is claimed took time in the square of the lane's length.
func TestCancelingALongLane(t *testing.T) {
	t.Parallel()
	s := memstore.New(memstore.Options{})
	require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}, Ordered: true}))
	emit := func(from, to int) {
		items := make([]postrider.Item, to-from)
		for i := range items {
			items[i].Event = postrider.Event{ID: fmt.Sprint(from + i), Type: "t", Time: time.Now()}
		}
		_, err := s.Enqueue(t.Context(), items)
		require.NoError(t, err)
	}
	const n = 200_000
	emit(0, n)
	first, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 10, Lease: time.Hour})
	require.NoError(t, err)
	require.Len(t, first, 1)
	made, more, err := s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Max: 10_000})
	require.NoError(t, err)
	require.Equal(t, 10_000, made)
	require.True(t, more)
	emit(n, n+100_000)
	_, err = s.Complete(t.Context(), []postrider.Outcome{{DeliveryID: first[0].Delivery.ID, Token: first[0].Token}})
	require.NoError(t, err)
	st, err := s.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.EqualValues(t, 1, st.Due, "the one that has its turn")
	next, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 10, Lease: time.Hour})
	require.NoError(t, err)
	require.Len(t, next, 1)
	require.Equal(t, fmt.Sprint(10_000), next[0].Event.ID)
}
