package postrider_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/storetest"
)

func TestMaxPendingRefusesBeforeTheDiskDoes(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{MaxPending: 5}, answers(time.Second, 200))
		b.hook("a", func(w *postrider.Webhook) { w.MaxInFlight = 1 })
		done := b.emit("done", "t")
		b.runFor(2 * time.Second)
		for _, id := range []string{"1", "2", "3", "4"} {
			b.emit(id, "t")
		}
		b.emitMany(3, "more") // one call may go past it by what it makes
		require.EqualValues(t, 7, b.stats("").Open())

		event := postrider.Event{ID: "x", Type: "t", Payload: []byte(`{}`)}
		r, err := b.Emit(t.Context(), event)
		require.ErrorIs(t, err, postrider.ErrFull)
		require.EqualError(t, err, `emit event "x": postrider: store is full: 7 deliveries are open, Config.MaxPending is 5`)
		require.Equal(t, postrider.Receipt{EventID: "x"}, r)
		all, err := b.EmitAll(t.Context(), []postrider.Event{event, event})
		require.ErrorIs(t, err, postrider.ErrFull)
		require.Len(t, all, 2)
		_, err = b.In(store).Emit(t.Context(), event)
		require.ErrorIs(t, err, postrider.ErrFull)
		made, err := b.Replay(t.Context(), postrider.ReplayRequest{Query: postrider.DeliveryQuery{ID: done}})
		require.ErrorIs(t, err, postrider.ErrFull)
		require.Zero(t, made)
		_, err = b.Emit(t.Context(), postrider.Event{ID: "y", Payload: []byte(`{}`)})
		require.ErrorIs(t, err, postrider.ErrInvalid, "what is wrong with an event is told first")
		require.EqualValues(t, 7, b.stats("").Open(), "nothing is stored")
		_, err = b.Event(t.Context(), "", "x")
		require.ErrorIs(t, err, postrider.ErrNotFound)

		stop := b.run()
		time.Sleep(2500 * time.Millisecond) // five are left
		_, err = b.Emit(t.Context(), event)
		require.ErrorIs(t, err, postrider.ErrFull)
		time.Sleep(500*time.Millisecond + 1) // and now four
		_, err = b.Emit(t.Context(), event)
		require.NoError(t, err, "it asks again before it refuses")
		_, err = b.Emit(t.Context(), event)
		require.ErrorIs(t, err, postrider.ErrFull)
		time.Sleep(time.Minute)
		_, err = b.Replay(t.Context(), postrider.ReplayRequest{Query: postrider.DeliveryQuery{ID: done}})
		require.NoError(t, err)
		require.NoError(t, stop())
	})
}

func TestMaxPendingAsksTheStoreRarely(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := storetest.NewFaults(memstore.New(memstore.Options{}))
		b := newBench(t, store, postrider.Config{MaxPending: 10_000}, answers(0, 200))
		b.hook("a")
		for i := range 4000 {
			b.emit("", "t")
			time.Sleep(time.Millisecond)
			require.Equal(t, 1+i/1000, store.Calls("Stats"))
		}
		store.Fail(storetest.Fault{Method: "Stats", Err: errDisk})
		_, err := b.Emit(t.Context(), postrider.Event{Type: "t", Payload: []byte(`{}`)})
		require.ErrorIs(t, err, errDisk)
		store.Clear("Stats")
		require.EqualValues(t, 4000, b.stats("").Open())
	})
}

// What is made counts at once, whatever makes it, and what is not made does not: an estimate that ran away would let
// the store fill up, or ask the store for every event.
func TestMaxPendingCountsWhatWasMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		faults := storetest.NewFaults(store)
		b := newBench(t, faults, postrider.Config{MaxPending: 100}, answers(0, 200))
		b.hook("a")
		b.emitMany(30, "t")
		b.emitMany(30, "t") // duplicates
		faults.Fail(storetest.Fault{Method: "Enqueue", Times: 1})
		_, err := b.EmitAll(t.Context(), []postrider.Event{{Type: "t", Payload: []byte(`{}`)}, {Type: "t", Payload: []byte(`{}`)}})
		require.ErrorIs(t, err, postrider.ErrStore)
		tx := store.Begin()
		_, err = b.In(tx).Emit(t.Context(), postrider.Event{ID: "in", Type: "t", Payload: []byte(`{}`)})
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		b.emitMany(68, "u")
		b.emit("last", "t")
		require.Equal(t, 1, faults.Calls("Stats"))
		_, err = b.Emit(t.Context(), postrider.Event{ID: "100", Type: "t", Payload: []byte(`{}`)})
		require.True(t, errors.Is(err, postrider.ErrFull))
		require.Equal(t, 2, faults.Calls("Stats"))
	})
}
