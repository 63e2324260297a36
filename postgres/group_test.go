package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

// hooked returns a store with some webhooks, of which it knows.
func hooked(t *testing.T, ids ...string) *postgres.Store {
	t.Helper()
	s := open(t, settings(t))
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	for _, id := range ids {
		require.NoError(t, s.CreateWebhook(t.Context(), hook(id)))
	}
	_, err := s.Enqueue(t.Context(), []postrider.Item{event("first")})
	require.NoError(t, err)
	return s
}

func TestEmitsThatShareATransactionEachGetTheirOwnAnswer(t *testing.T) {
	t.Parallel()
	s := hooked(t, "a", "b")
	var all sync.WaitGroup
	var mu sync.Mutex
	fresh, twice := 0, 0
	for n := range 120 {
		all.Go(func() {
			it := event(fmt.Sprint("e", n))
			switch n % 4 {
			case 1: // for a webhook that is not there
				it.To = []string{"c"}
				_, err := s.Enqueue(t.Context(), []postrider.Item{it})
				require.ErrorIs(t, err, postrider.ErrNotFound)
				return
			case 2: // all under one ID
				it = event("same")
			case 3: // what no server stores
				it.Event.Type = "a\x00b"
				_, err := s.Enqueue(t.Context(), []postrider.Item{it})
				require.Error(t, err)
				return
			}
			r, err := s.Enqueue(t.Context(), []postrider.Item{it, event(fmt.Sprint("f", n))})
			require.NoError(t, err)
			require.Len(t, r, 2)
			require.Equal(t, it.Event.ID, r[0].EventID)
			require.Equal(t, fmt.Sprint("f", n), r[1].EventID)
			require.Len(t, r[1].Deliveries, 2)
			for _, id := range r[1].Deliveries {
				d, _, err := s.Delivery(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, r[1].EventID, d.EventID)
			}
			if n%4 == 2 {
				mu.Lock()
				defer mu.Unlock()
				if r[0].Duplicate {
					twice++
				} else {
					fresh++
				}
				return
			}
			require.False(t, r[0].Duplicate)
			require.Len(t, r[0].Deliveries, 2)
		})
	}
	all.Wait()
	require.Equal(t, []int{1, 29}, []int{fresh, twice})
	st, err := s.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	require.EqualValues(t, 2*(1+30+60+1), st.New)
}

// A caller's transaction that has emitted under an ID keeps others from that ID, and from nothing else.
func TestEventWhoseKeyIsLockedHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	s := hooked(t, "a")
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = s.Tx(tx).Enqueue(t.Context(), []postrider.Item{event("locked")})
	require.NoError(t, err)
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() {
			r, err := s.Enqueue(t.Context(), []postrider.Item{event("locked")})
			require.NoError(t, err)
			require.True(t, r[0].Duplicate)
		})
	}
	var others sync.WaitGroup
	for n := range 20 {
		others.Go(func() {
			r, err := s.Enqueue(t.Context(), []postrider.Item{event(fmt.Sprint("free", n))})
			require.NoError(t, err)
			require.False(t, r[0].Duplicate)
		})
	}
	others.Wait()
	require.NoError(t, tx.Commit(t.Context()))
	waiting.Wait()
}

// What is answered with success is there, whosever context ended.
func TestEmitWhoseContextEndsLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	s := hooked(t, "a")
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if n%2 == 0 {
				defer time.AfterFunc(time.Duration(n)*50*time.Microsecond, cancel).Stop()
			}
			it := event(fmt.Sprint("e", n))
			r, err := s.Enqueue(ctx, []postrider.Item{it})
			if n%2 == 0 && err != nil {
				require.ErrorIs(t, err, context.Canceled)
				return
			}
			require.NoError(t, err)
			require.False(t, r[0].Duplicate)
			d, _, err := s.Delivery(t.Context(), r[0].Deliveries[0])
			require.NoError(t, err)
			require.Equal(t, it.Event.ID, d.EventID)
		})
	}
	all.Wait()
}
