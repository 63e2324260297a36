package postrider_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/storetest"
)

func TestAwaitDeliveryReturnsWhenTheEndIsRecorded(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{Retry: postrider.Schedule{time.Hour}}, answers(3*time.Second, 500, 200))
		b.hook("a")
		id := b.emit("e", "t")
		stop := b.run()
		var waiters sync.WaitGroup
		for i := range 5 {
			waiters.Go(func() {
				time.Sleep(time.Duration(i) * 7 * time.Millisecond)
				v, err := b.AwaitDelivery(t.Context(), id)
				if err != nil || v.Status != postrider.StatusDelivered || v.Attempts != 2 {
					t.Errorf("waiter %d got %v %v", i, v.Status, err)
				}
				if at := time.Since(b.start); at != time.Hour+6*time.Second {
					t.Errorf("waiter %d returned after %v", i, at)
				}
			})
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := b.AwaitDelivery(impatient, id)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(b.start))
		waiters.Wait()

		v, err := b.AwaitDelivery(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, postrider.StatusDelivered, v.Status)
		require.Equal(t, time.Hour+6*time.Second, time.Since(b.start), "it has ended: at once")
		_, err = b.AwaitDelivery(t.Context(), "nothing")
		require.ErrorIs(t, err, postrider.ErrNotFound)
		require.NoError(t, stop())
	})
}

func TestAwaitDeliveryFindsWhatEndsElsewhere(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a")
		// It looks after 0, 10, 30, 70, 150, 310, 630, 1270, 2270, ... ms: later than the last by a second at most.
		for _, c := range []struct{ end, found time.Duration }{
			{100 * time.Millisecond, 150 * time.Millisecond},
			{time.Second, 1270 * time.Millisecond},
			{time.Hour, time.Hour + 270*time.Millisecond},
		} {
			id := b.emit("", "t")
			start := time.Now()
			canceled := make(chan error, 1)
			time.AfterFunc(c.end, func() {
				_, err := b.Cancel(context.Background(), postrider.DeliveryQuery{ID: id})
				canceled <- err
			})
			v, err := b.AwaitDelivery(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, postrider.StatusCanceled, v.Status)
			require.Equal(t, c.found, time.Since(start))
			require.NoError(t, <-canceled)
		}
	})
}

func TestAwaitDeliveryReturnsErrorsOfTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		b.hook("a")
		id := b.emit("e", "t")
		time.AfterFunc(time.Second, func() { _ = b.store.Close() })
		_, err := b.AwaitDelivery(t.Context(), id)
		require.ErrorIs(t, err, postrider.ErrClosed)
	})
}

// Many wait for many, come and go, while Run ends the deliveries: nobody is forgotten, and nobody is woken late.
func TestManyAwaitDeliveries(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 0))
		b := newBench(t, nil, postrider.Config{MaxInFlight: 1}, answers(10*time.Millisecond, 200))
		b.hook("a")
		ids := b.emitMany(300, "t")
		stop := b.run()
		var waiters sync.WaitGroup
		for range 2000 {
			id, limit := ids[rng.IntN(len(ids))], time.Duration(rng.IntN(4000))*time.Millisecond
			waiters.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				v, err := b.AwaitDelivery(ctx, id)
				switch {
				case errors.Is(err, context.DeadlineExceeded):
				case err != nil || v.Status != postrider.StatusDelivered:
					t.Errorf("got %v %v", v.Status, err)
				case !v.FinishedAt.Equal(time.Now().Truncate(time.Microsecond)):
					t.Errorf("ended at %v, returned at %v", v.FinishedAt, time.Now())
				}
			})
		}
		waiters.Wait()
		require.NoError(t, stop())
	})
}

// An outcome that the store did not take wakes whoever waits, and so does its record under the next claim.
func TestAwaitDeliveryReturnsWhenALostOutcomeIsRecorded(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		faults := storetest.NewFaults(store)
		b := newBench(t, faults, postrider.Config{}, answers(0, 200))
		b.hook("a")
		id := b.emit("e", "t")
		faults.Fail(storetest.Fault{Method: "Complete"})
		stop := b.run()
		time.AfterFunc(91*time.Second+123*time.Millisecond, func() { faults.Clear("Complete") }) // the lease is over
		v, err := b.AwaitDelivery(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, time.Now().UTC().Truncate(time.Microsecond), v.FinishedAt)
		require.Len(t, b.times(), 1)
		require.NoError(t, stop())
	})
}
