package storetest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/storetest"
)

func TestFaults(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	f := storetest.NewFaults(memstore.New(memstore.Options{}))
	defer f.Close()
	hook := postrider.Webhook{ID: "a", Name: "a", URL: "https://example.com", Events: []string{"*"}}
	require.NoError(t, f.CreateWebhook(ctx, hook))
	items := []postrider.Item{{Event: postrider.Event{ID: "e", Type: "t", Time: time.Now(), Payload: []byte(`{}`)}}}

	boom := errors.New("boom")
	f.Fail(storetest.Fault{Method: "Enqueue", Err: boom, Times: 1})
	_, err := f.Enqueue(ctx, items)
	require.ErrorIs(t, err, boom)
	_, err = f.Event(ctx, "", "e")
	require.ErrorIs(t, err, postrider.ErrNotFound, "nothing was done")

	f.Fail(storetest.Fault{Method: "Enqueue", When: storetest.After, Times: 2})
	for range 2 {
		_, err = f.Enqueue(ctx, items)
		require.ErrorIs(t, err, postrider.ErrStore)
	}
	receipts, err := f.Enqueue(ctx, items)
	require.NoError(t, err)
	require.True(t, receipts[0].Duplicate, "it was done")
	require.Equal(t, 4, f.Calls("Enqueue"))

	f.Fail(storetest.Fault{Method: "Stats", When: storetest.Hang})
	soon, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	_, err = f.Stats(soon, postrider.StatsQuery{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	f.Clear("Stats")
	_, err = f.Stats(ctx, postrider.StatsQuery{})
	require.NoError(t, err)
}

// Faults that are not asked for are none.
func TestFaultsPassTheSuite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, storetest.Harness{Open: func(_ *testing.T, now func() time.Time) postrider.Store {
		return storetest.NewFaults(memstore.New(memstore.Options{Now: now}))
	}})
}

func BenchmarkMemstore(b *testing.B) {
	storetest.Benchmark(b, func(*testing.B) postrider.Store { return memstore.New(memstore.Options{}) })
}
