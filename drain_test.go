package postrider_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

func TestDrainLetsRequestsFinish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(8*time.Second, 200))
		b.hook("a")
		one, two := b.emit("1", "x"), b.emit("2", "x")
		b.runFor(time.Second)
		require.Equal(t, 8*time.Second, time.Since(b.start), "no longer than the request")
		require.Equal(t, "DELIVERED", b.status(one))
		require.Equal(t, "NEW", b.status(two))
		require.Equal(t, seconds(0), b.times(), "nothing is begun after the end")
	})
}

func TestDrainCutsOffSlowRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{Drain: 3 * time.Second}, hang)
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Second)
		require.Equal(t, 4*time.Second, time.Since(b.start))
		v, attempts := b.delivery(id)
		require.Equal(t, postrider.StatusNew, v.Status)
		require.False(t, v.InFlight)
		require.Empty(t, attempts, "not counted")

		b.runFor(time.Second)
		require.Equal(t, []call{{0, "a", "e", 1}, {4 * time.Second, "a", "e", 1}}, b.calls)
	})
}

func TestSenderThatIgnoresItsContextIsLeftBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		b := newBench(t, nil, postrider.Config{Drain: 3 * time.Second}, func(context.Context, postrider.Request) (postrider.Response, error) {
			<-release
			return postrider.Response{Code: 200}, nil
		})
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Second)
		require.Equal(t, 4*time.Second+350*time.Millisecond, time.Since(b.start))
		v, _ := b.delivery(id)
		require.False(t, v.InFlight, "its claim is released")
		require.Contains(t, b.log.String(), "senders do not return")
		close(release)
		synctest.Wait()
		require.Equal(t, "NEW", b.status(id), "its late answer counts no more")
	})
}

func TestShutdownIsBoundedWhenTheStoreHangs(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"claim", "complete"} {
		t.Run(which, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := &faulty{Store: memstore.New(memstore.Options{})}
				if which == "claim" {
					store.claim = func(ctx context.Context, _ postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
						<-ctx.Done()
						return nil, 0, ctx.Err()
					}
				} else {
					store.complete = func(ctx context.Context, _ []postrider.Outcome) (int, error) {
						<-ctx.Done()
						return 0, ctx.Err()
					}
				}
				b := newBench(t, store, postrider.Config{Drain: 3 * time.Second}, answers(0, 200))
				b.hook("a")
				b.emit("e", "x")
				b.runFor(time.Second)
				require.LessOrEqual(t, time.Since(b.start), 5*time.Second)
				if which == "complete" {
					require.Contains(t, b.log.String(), "outcomes could not be recorded")
				}
			})
		})
	}
}

// A Claim that is cut may have claimed something, which then waits until its lease is over.
func TestClaimsThatArriveAfterTheEndAreReleased(t *testing.T) {
	t.Parallel()
	for _, when := range []struct{ drain, claim time.Duration }{
		{50 * time.Millisecond, 150 * time.Millisecond},
		{0, 9 * time.Second}, // it is 10 s then
	} {
		synctest.Test(t, func(t *testing.T) {
			store := &faulty{Store: memstore.New(memstore.Options{})}
			store.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
				claims, wait, err := store.Store.Claim(ctx, r)
				if err := sleep(ctx, when.claim); err != nil {
					return nil, 0, err
				}
				return claims, wait, err
			}
			b := newBench(t, store, postrider.Config{Drain: when.drain}, answers(0, 200))
			b.hook("a")
			id := b.emit("e", "x")
			b.runFor(50 * time.Millisecond)
			require.Equal(t, when.claim, time.Since(b.start))
			require.Empty(t, b.times())
			v, _ := b.delivery(id)
			require.False(t, v.InFlight)
		})
	}
}
