package postrider_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

func TestSlowRequestGivesItsWorkerBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{Concurrency: 1}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.WebhookID == "slow" {
				return hang(ctx, r)
			}
			return postrider.Response{Code: 200}, nil
		})
		b.hook("slow", only)
		b.hook("fast", only)
		b.emit("1", "slow")
		b.emit("2", "fast")
		stop := b.run()
		time.Sleep(2*time.Second - 1)
		synctest.Wait()
		require.Equal(t, seconds(0), b.times())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, seconds(0, 2), b.times())
		require.NoError(t, stop())
	})
}

func TestOneFreeWorkerIsUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.WebhookID != "h0" {
				return hang(ctx, r)
			}
			return postrider.Response{Code: 200}, sleep(ctx, 100*time.Millisecond)
		})
		for i := range 64 { // as many as there are workers
			name := fmt.Sprint("h", i)
			b.hook(name, only)
			b.emit(name, name)
		}
		b.emit("more", "h0")
		stop := b.run()
		time.Sleep(time.Second)
		require.Len(t, b.times(), 65)
		at := b.times()[64]
		require.GreaterOrEqual(t, at, 100*time.Millisecond)
		require.LessOrEqual(t, at, 102*time.Millisecond, "the completer may wait 2 ms for company")
		require.NoError(t, stop())
	})
}

func TestFullMaxSlowKeepsSlowWebhooksOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{Concurrency: 2, MaxSlow: 1}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.EventID == "warm" || r.WebhookID == "fast" {
				return postrider.Response{Code: 200}, nil
			}
			return hang(ctx, r)
		})
		b.hook("slow", only)
		b.hook("fast", only)
		stop := b.run()
		b.emit("warm", "slow") // from here on it may have many in flight
		synctest.Wait()
		b.emit("1", "slow")
		synctest.Wait()
		time.Sleep(2 * time.Second) // it is slow now, and fills MaxSlow
		b.emit("2", "slow")
		b.emit("3", "slow")
		synctest.Wait()
		require.Len(t, b.times(), 2, "a webhook with a slow request gets no more")
		b.emit("4", "fast")
		synctest.Wait()
		require.Len(t, b.times(), 3, "others do")
		time.Sleep(13*time.Second - 1)
		require.Len(t, b.times(), 3)
		time.Sleep(time.Nanosecond) // the slow one has failed: one at a time
		synctest.Wait()
		require.Len(t, b.times(), 4)
		require.NoError(t, stop())
		require.Equal(t, call{15 * time.Second, "slow", "2", 1}, b.calls[3])
	})
}

func TestOneRequestUntilItSucceeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(time.Second, 500, 200, 200, 200, 500, 500, 200))
		b.hook("a")
		for i := range 4 {
			b.emit(fmt.Sprint(i), "x")
		}
		stop := b.run()
		time.Sleep(4 * time.Second)
		require.Equal(t, seconds(0, 1, 2, 2), b.times(), "one at a time until the first success")
		b.emit("fails", "x")
		time.Sleep(1100 * time.Millisecond)
		for i := range 4 {
			b.emit(fmt.Sprint("more", i), "x")
		}
		time.Sleep(4500 * time.Millisecond)
		// The one that failed first is due again at 6 s.
		require.Equal(t, seconds(4, 5.1, 6.1, 7.1, 7.1, 7.1), b.times()[4:], "and again after a failure")
		require.NoError(t, stop())
	})
}

func TestMaxInFlightOfAHealthyWebhook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{MaxInFlight: 3}, answers(time.Second, 200))
		b.hook("a")
		for i := range 8 {
			b.emit(fmt.Sprint(i), "x")
		}
		b.runFor(10 * time.Second)
		require.Equal(t, seconds(0, 1, 1, 1, 2, 2, 2, 3), b.times())
	})
}

func TestConcurrencyBoundsRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{Concurrency: 40}, answers(time.Second, 200))
		for i := range 100 {
			name := fmt.Sprintf("h%d", i)
			b.hook(name, only)
			b.emit(name, name)
		}
		b.runFor(10 * time.Second)
		count := map[time.Duration]int{}
		for _, at := range b.times() {
			count[at.Truncate(100*time.Millisecond)]++
		}
		require.Equal(t, map[time.Duration]int{0: 40, time.Second: 40, 2 * time.Second: 20}, count)
	})
}

func TestLocalErrorIsNoAttemptAndPausesSending(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := 0
		b := newBench(t, nil, postrider.Config{}, func(context.Context, postrider.Request) (postrider.Response, error) {
			if n++; n <= 8 {
				return postrider.Response{}, &postrider.SendError{Class: postrider.ClassLocal, Err: errors.New("no descriptors")}
			}
			return postrider.Response{Code: 200}, nil
		})
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Minute)
		require.Equal(t, seconds(0, .1, .3, .7, 1.5, 3.1, 6.3, 11.3, 16.3), b.times())
		v, _ := b.delivery(id)
		require.Equal(t, postrider.StatusDelivered, v.Status)
		require.Equal(t, 1, v.Attempts)
	})
}

func TestPanickingSenderIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			if r.Attempt == 1 {
				panic("token=hidden")
			}
			return postrider.Response{Code: 200}, nil
		})
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Minute)
		require.Equal(t, seconds(0, 5), b.times())
		v, attempts := b.delivery(id)
		require.Equal(t, postrider.StatusDelivered, v.Status)
		require.Equal(t, "The request failed in the program that sends it", attempts[0].Error)
		require.Contains(t, b.log.String(), "where=Sender")
		require.NotContains(t, b.log.String(), "hidden")
	})
}

type panicking struct{}

func (panicking) Next(int) (time.Duration, bool) { panic("no") }

func TestPanickingRetryPolicyIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{Retry: panicking{}}, answers(0, 500, 200))
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Minute)
		require.Equal(t, seconds(0, 5), b.times())
		require.Equal(t, "DELIVERED", b.status(id))
	})
}

func TestClaimErrorsBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &faulty{Store: memstore.New(memstore.Options{})}
		start := time.Now()
		var at []time.Duration
		store.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
			if at = append(at, time.Since(start)); len(at) <= 7 {
				return nil, 0, errDisk
			}
			return store.Store.Claim(ctx, r)
		}
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Minute)
		require.Equal(t, seconds(0, .05, .15, .35, .75, 1.55, 2.55, 3.55), at[:8])
		require.Equal(t, "DELIVERED", b.status(id))
		require.Equal(t, 1, strings.Count(b.log.String(), "claiming fails"))
		require.Equal(t, 1, strings.Count(b.log.String(), "claiming works again"))
	})
}

func TestHangingStoreCallsAreGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &faulty{Store: memstore.New(memstore.Options{})}
		claims, completes := 0, 0
		store.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
			if claims++; claims == 1 {
				<-ctx.Done()
				return nil, 0, ctx.Err()
			}
			return store.Store.Claim(ctx, r)
		}
		store.complete = func(ctx context.Context, o []postrider.Outcome) (int, error) {
			if completes++; completes == 1 {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return store.Store.Complete(ctx, o)
		}
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(10*time.Second + 50*time.Millisecond + 10*time.Second + 50*time.Millisecond)
		require.Equal(t, seconds(10.05), b.times())
		require.Equal(t, "DELIVERED", b.status(id))
	})
}

func TestClosedStoreEndsRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, hang)
		b.hook("a")
		b.emit("e", "x")
		ended := make(chan error, 1)
		go func() { ended <- b.Run(t.Context()) }()
		time.Sleep(time.Second)
		require.NoError(t, b.store.Close())
		require.ErrorIs(t, <-ended, postrider.ErrClosed)
		require.Equal(t, time.Second, time.Since(b.start))
		require.ErrorIs(t, b.Run(t.Context()), postrider.ErrClosed)
	})
}

func TestSecondRunIsRefusedWhileOneWorks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		b.hook("a")
		stop := b.run()
		synctest.Wait()
		require.ErrorContains(t, b.Run(t.Context()), "runs already")
		require.NoError(t, stop())
		id := b.emit("e", "x")
		b.runFor(time.Second)
		require.Equal(t, "DELIVERED", b.status(id))

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, b.Run(ended))
	})
}

func TestWhatWaitsForADeletedWebhookIsCanceled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 500))
		b.hook("before", only)
		b.hook("during", only)
		var ids []string
		for i := range 1500 {
			ids = append(ids, b.emit(fmt.Sprint("b", i), "before"))
		}
		ids = append(ids, b.emit("d", "during"))
		require.NoError(t, b.DeleteWebhook(t.Context(), "before"))
		stop := b.run()
		synctest.Wait()
		require.Equal(t, "IN_PROCESS", b.status(ids[1500]))
		require.NoError(t, b.DeleteWebhook(t.Context(), "during"))
		synctest.Wait()
		for _, id := range ids {
			require.Equal(t, "CANCELED", b.status(id))
		}
		require.Len(t, b.times(), 1)
		require.ErrorIs(t, b.DeleteWebhook(t.Context(), "during"), postrider.ErrNotFound)
		require.NoError(t, stop())
	})
}

func TestPausedWebhookWaitsUntilItIsResumed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		b.hook("a")
		require.NoError(t, b.PauseWebhook(t.Context(), "a"))
		stop := b.run()
		id := b.emit("e", "x")
		time.Sleep(time.Hour)
		require.Empty(t, b.times())
		require.Equal(t, "NEW", b.status(id))
		require.NoError(t, b.ResumeWebhook(t.Context(), "a"))
		synctest.Wait()
		require.Equal(t, seconds(3600), b.times())
		require.NoError(t, stop())
	})
}

func TestChangeOfAWebhookCountsFromTheNextAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var urls []string
		b := newBench(t, nil, postrider.Config{}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			urls = append(urls, r.Method+" "+r.URL.String())
			return postrider.Response{Code: 500}, nil
		})
		b.hook("a")
		b.emit("e", "x")
		stop := b.run()
		time.Sleep(time.Second)
		_, err := b.UpdateWebhook(t.Context(), "a", func(w *postrider.Webhook) error {
			w.URL, w.Method = "https://new.example/", "PUT"
			return nil
		})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		require.NoError(t, stop())
		require.Equal(t, []string{"POST http://a.example/in?token=hidden", "PUT https://new.example/"}, urls)
		require.Equal(t, seconds(0, 5), b.times(), "the planned time stays")
	})
}

// Bad receivers, and what has piled up for them, must not make good ones wait. Time stands still in the bubble while
// the program computes, so that a delay is a delay of the engine's making.
func TestBadReceiversDoNotDelayGoodOnes(t *testing.T) {
	t.Parallel()
	worst := func(bad int) (delay time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex
			due := map[string]time.Time{}
			b := newBench(t, nil, postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
				switch {
				case strings.HasPrefix(r.WebhookID, "dead"):
					return hang(ctx, r)
				case strings.HasPrefix(r.WebhookID, "slow"):
					return postrider.Response{Code: 200}, sleep(ctx, 10*time.Second)
				}
				mu.Lock()
				delay = max(delay, time.Since(due[r.EventID]))
				mu.Unlock()
				return postrider.Response{Code: 200}, sleep(ctx, 20*time.Millisecond)
			})
			for i := range bad {
				name := fmt.Sprint("slow", i)
				if i%4 > 0 {
					name = fmt.Sprint("dead", i)
				}
				b.hook(name, only)
				for n := range 100 {
					b.emit(fmt.Sprint(name, "-", n), name)
				}
			}
			for i := range 90 {
				b.hook(fmt.Sprint("good", i), only)
			}
			stop := b.run()
			for n := range 60_000 / 10 { // an event every 10 ms, for a minute
				id := fmt.Sprint("e", n)
				mu.Lock()
				due[id] = time.Now()
				mu.Unlock()
				b.emit(id, fmt.Sprint("good", n%90))
				time.Sleep(10 * time.Millisecond)
			}
			require.NoError(t, stop())
		})
		return delay
	}
	require.Zero(t, worst(0))
	require.LessOrEqual(t, worst(40), time.Millisecond) // for which the completer may wait
}

func TestMoreWebhooksThanTheLoopRemembers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const hooks = 20_000
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		for i := range hooks {
			b.hook(fmt.Sprint("h", i))
		}
		b.emit("one", "x")
		stop := b.run()
		time.Sleep(time.Second)
		b.emit("two", "x")
		time.Sleep(time.Second)
		require.NoError(t, stop())
		s, err := b.Stats(t.Context(), postrider.StatsQuery{})
		require.NoError(t, err)
		require.EqualValues(t, 2*hooks, s.Delivered)
		require.Len(t, b.calls, 2*hooks)
	})
}
