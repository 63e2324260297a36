package postrider_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// counted counts the calls of Claim.
type counted struct {
	postrider.Store
	mu    sync.Mutex
	calls int
}

func (c *counted) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	return c.Store.Claim(ctx, r)
}

func (c *counted) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

func limited(n int, per time.Duration, burst int) func(*postrider.Webhook) {
	return func(w *postrider.Webhook) { w.RateLimit = postrider.RateLimit{N: n, Per: per, Burst: burst} }
}

func TestRateLimitIsKeptToTheInstant(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		rate postrider.RateLimit
		want []time.Duration
	}{
		{"one at a time", postrider.RateLimit{N: 1, Per: 10 * time.Second}, seconds(0, 10, 20, 30, 40, 50, 60, 70)},
		{"burst", postrider.RateLimit{N: 2, Per: time.Second, Burst: 4}, seconds(0, 0, 0, 0, .5, 1, 1.5, 2)},
		{"not a whole number of nanoseconds", postrider.RateLimit{N: 3, Per: time.Second}, []time.Duration{
			0, 333333334, 666666667, time.Second, 1333333334, 1666666667, 2 * time.Second, 2333333334,
		}},
		{"rarely", postrider.RateLimit{N: 1, Per: 24 * time.Hour}, seconds(0, 86400, 2*86400, 3*86400, 4*86400, 5*86400, 6*86400, 7*86400)},
		{"hardly a limit", postrider.RateLimit{N: 1_000_000, Per: time.Millisecond, Burst: 10_000}, make([]time.Duration, 8)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachBubble(t, func(t *testing.T, store postrider.Store) {
				claims := &counted{Store: store}
				b := newBench(t, claims, postrider.Config{}, answers(0, 200))
				b.hook("a", func(w *postrider.Webhook) { w.RateLimit = c.rate })
				b.fill(8, "x")
				b.runFor(8 * 24 * time.Hour)
				require.Equal(t, c.want, b.times())
			})
		})
	}
}

func TestRateLimitCostsNoPollAndNoWorker(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		claims := &counted{Store: store}
		b := newBench(t, claims, postrider.Config{Concurrency: 1}, answers(0, 200))
		b.hook("slow", only, limited(1, time.Minute, 0))
		b.hook("free", only)
		b.fill(100, "slow")
		b.fill(100, "free")
		stop := b.run()
		synctest.Wait()
		require.Len(t, b.times(), 101, "the one worker is for the other webhook")
		before := claims.count()
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		require.Len(t, b.times(), 151)
		// For each token one call that finds something, and as for every request one each when it has ended, when its
		// outcome was recorded, and when the store says so.
		require.LessOrEqual(t, claims.count()-before, 4*50)
		v, err := b.Stats(t.Context(), postrider.StatsQuery{WebhookID: "slow"})
		require.NoError(t, err)
		require.EqualValues(t, 51, v.AttemptsOK, "waiting costs no attempt")
		require.NoError(t, stop())
	})
}

func TestUnusedTokensAreKeptUpToTheBurst(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a", limited(1, time.Second, 5))
		stop := b.run()
		b.fill(5, "x")
		time.Sleep(3500 * time.Millisecond) // three and a half tokens
		b.fill(5, "y")
		time.Sleep(time.Hour)
		b.fill(8, "z")
		time.Sleep(time.Hour)
		require.NoError(t, stop())
		h := 3603.5
		require.Equal(t, seconds(0, 0, 0, 0, 0, 3.5, 3.5, 3.5, 4, 5, h, h, h, h, h, h+1, h+2, h+3), b.times())
	})
}

func TestTokensThatCameMeanwhileAreUsedAtOnce(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.EventID[0] == 'x' {
				return postrider.Response{Code: 200}, nil
			}
			return postrider.Response{Code: 200}, sleep(ctx, 10*time.Second)
		})
		b.hook("a", limited(1, time.Minute, 3))
		stop := b.run()
		b.fill(3, "x")
		time.Sleep(time.Hour)
		b.fill(4, "y")
		time.Sleep(time.Hour)
		require.NoError(t, stop())
		require.Equal(t, seconds(0, 0, 0, 3600, 3600, 3600, 3660), b.times())
	})
}

func TestRateLimitsOfManyWebhooks(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		want := map[string][]time.Duration{}
		for i := range 50 {
			name := fmt.Sprint("h", i)
			every := time.Duration(i+1) * 100 * time.Millisecond
			b.hook(name, only, limited(1, every, 0))
			b.fill(10, name)
			for n := range 10 {
				want[name] = append(want[name], time.Duration(n)*every)
			}
		}
		b.runFor(time.Minute)
		got := map[string][]time.Duration{}
		for _, c := range b.calls {
			got[c.webhook] = append(got[c.webhook], c.at)
		}
		require.Equal(t, want, got)
	})
}

func TestChangeOfARateLimitCountsAtOnce(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a", limited(1, 24*time.Hour, 0))
		b.fill(20, "x")
		stop := b.run()
		set := func(f func(*postrider.Webhook)) {
			_, err := b.UpdateWebhook(t.Context(), "a", func(w *postrider.Webhook) error { f(w); return nil })
			require.NoError(t, err)
		}
		time.Sleep(10 * time.Second)
		set(limited(1, 2*time.Second, 3)) // no token is there yet
		time.Sleep(5 * time.Second)
		set(limited(1, 10*time.Second, 3))
		time.Sleep(25 * time.Second)
		set(limited(0, 0, 0))
		time.Sleep(time.Second)
		require.NoError(t, stop())
		require.Equal(t, append(seconds(0, 12, 14, 25, 35), slices.Repeat(seconds(40), 15)...), b.times())
	})
}

func TestRateLimitHoldsWhileRequestsFail(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{Retry: postrider.Schedule{}}, answers(300*time.Millisecond, 500))
		b.hook("a", limited(1, time.Second, 3), func(w *postrider.Webhook) { w.BreakAfter = 100 })
		b.fill(7, "x")
		b.runFor(time.Minute)
		// One in flight at a time, and of the burst three at once.
		require.Equal(t, seconds(0, .3, .6, 1, 2, 3, 4), b.times())
	})
}

func TestManyRateLimitsAreNotForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		// More webhooks than the loop remembers, all with a token in a day: forgetting one would refill its bucket.
		const hooks = 20_000
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		for i := range hooks {
			b.hook(fmt.Sprint("h", i), limited(1, 24*time.Hour, 0))
		}
		b.emit("one", "x")
		b.emit("two", "x")
		b.runFor(23 * time.Hour)
		require.Len(t, b.calls, hooks)
		seen := map[string]int{}
		for _, c := range b.calls {
			seen[c.webhook]++
		}
		require.Len(t, seen, hooks)
	})
}

// lateUpdate is a store whose UpdateWebhook returns some time after the change was made.
type lateUpdate struct{ postrider.Store }

func (s lateUpdate) UpdateWebhook(ctx context.Context, w postrider.Webhook) error {
	err := s.Store.UpdateWebhook(ctx, w)
	time.Sleep(time.Millisecond)
	return err
}

func TestChangeOfARateLimitWakesTheLoop(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, lateUpdate{store}, postrider.Config{}, answers(0, 200))
		b.hook("a", limited(1, 24*time.Hour, 0))
		b.fill(3, "x")
		stop := b.run()
		time.Sleep(10 * time.Second)
		_, err := b.UpdateWebhook(t.Context(), "a", func(w *postrider.Webhook) error {
			w.RateLimit = postrider.RateLimit{}
			return nil
		})
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.NoError(t, stop())
		require.Equal(t, seconds(0, 10.001, 10.001), b.times())
	})
}
