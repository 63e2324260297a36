package postrider_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/memstore"
)

// eachBubble runs a test on an empty store of each kind, in a bubble.
func eachBubble(t *testing.T, test func(t *testing.T, store postrider.Store)) {
	t.Helper()
	eachStore(t, func(t *testing.T, open func(t *testing.T) postrider.Store) {
		synctest.Test(t, func(t *testing.T) { test(t, open(t)) })
	})
}

// eachRestart is eachBubble for tests that end a process: restart gives what the next one opens.
func eachRestart(t *testing.T, test func(t *testing.T, store postrider.Store, restart func(postrider.Store) postrider.Store)) {
	t.Helper()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			// Claims that were held are released by Run; nothing else of a process is kept.
			test(t, memstore.New(memstore.Options{}), func(s postrider.Store) postrider.Store { return s })
		})
	})
	t.Run("bolt", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			open := func() postrider.Store {
				s, err := bolt.Open(path, bolt.Options{})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, s.Close()) })
				return s
			}
			test(t, open(), func(s postrider.Store) postrider.Store {
				require.NoError(t, s.Close())
				return open()
			})
		})
	})
}

// fill emits n events of a type in one step, and returns their deliveries' IDs if each has just one.
func (b *bench) fill(n int, typ string, set ...func(i int, e *postrider.Event)) (ids []string) {
	b.t.Helper()
	for from := 0; from < n; from += 10_000 {
		var events []postrider.Event
		for i := from; i < min(n, from+10_000); i++ {
			e := postrider.Event{ID: fmt.Sprint(typ, "-", i), Type: typ, Payload: []byte(`{}`)}
			for _, f := range set {
				f(i, &e)
			}
			events = append(events, e)
		}
		receipts, err := b.EmitAll(b.t.Context(), events)
		require.NoError(b.t, err)
		for _, r := range receipts {
			ids = append(ids, r.Deliveries...)
		}
	}
	return ids
}

func (b *bench) webhook(id string) postrider.Webhook {
	b.t.Helper()
	w, err := b.store.Webhook(b.t.Context(), id)
	require.NoError(b.t, err)
	return w
}

func TestBreakerTripsHoldsAndTriesOnce(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 500))
		b.hook("a")
		b.fill(30, "x")
		b.runFor(31 * time.Minute)
		want := append(make([]time.Duration, 10), seconds(10, 30, 70, 150, 310, 630, 1230, 1830)...)
		require.Equal(t, want, b.times())
		w := b.webhook("a")
		require.Equal(t, 18, w.Failures)
		require.Equal(t, 9, w.Trips)
		require.Equal(t, 1, w.Window)
		require.Equal(t, b.start.UTC(), w.FailingSince)
		require.Equal(t, b.start.Add(2430*time.Second).UTC(), w.NotBefore)
	})
}

func TestBreakerTripsAfterWhatTheWebhookOrTheConfigSays(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{BreakAfter: 4}, answers(0, 500))
		b.hook("config", only)
		b.hook("own", only, func(w *postrider.Webhook) { w.BreakAfter = 1 })
		b.fill(10, "config")
		b.fill(10, "own")
		b.runFor(9 * time.Second)
		count := map[string]int{}
		for _, c := range b.calls {
			count[c.webhook]++
		}
		require.Equal(t, map[string]int{"config": 4, "own": 1}, count)
	})
}

func TestSuccessBetweenFailuresKeepsTheBreakerClosed(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		var n atomic.Int64
		b := newBench(t, store, postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.EventID == "warm" {
				return postrider.Response{Code: 200}, nil
			}
			i := n.Add(1)
			// All are in flight when the first fails; they end in turn, every other one failed.
			err := sleep(ctx, time.Duration(i)*10*time.Millisecond)
			return postrider.Response{Code: 200 + 300*int(i%2)}, err
		})
		b.hook("a", func(w *postrider.Webhook) { w.MaxInFlight = 40; w.Retry = postrider.Schedule{time.Hour} })
		b.emit("warm", "w")
		stop := b.run()
		synctest.Wait()
		b.fill(40, "x")
		time.Sleep(time.Second)
		require.Len(t, b.times(), 41)
		w := b.webhook("a")
		require.Zero(t, w.Window)
		require.Zero(t, w.Failures, "the last one succeeded")
		require.NoError(t, stop())
	})
}

func TestBreakerRecoversByDoublingItsWindow(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		var up atomic.Bool
		b := newBench(t, store, postrider.Config{MaxInFlight: 16}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if !up.Load() {
				return postrider.Response{Code: 500}, nil
			}
			return postrider.Response{Code: 200}, sleep(ctx, time.Second)
		})
		b.hook("a")
		b.fill(80, "x")
		stop := b.run()
		time.Sleep(5 * time.Second)
		up.Store(true)
		time.Sleep(time.Minute)
		require.NoError(t, stop())
		count := map[time.Duration]int{}
		for _, at := range b.times() {
			count[at]++
		}
		s := time.Second
		require.Equal(t, map[time.Duration]int{0: 10, 10 * s: 1, 11 * s: 2, 12 * s: 4, 13 * s: 8, 14 * s: 16, 15 * s: 16, 16 * s: 16, 17 * s: 16, 18 * s: 1}, count)
		w := b.webhook("a")
		require.Zero(t, w.Window)
		require.Zero(t, w.Trips)
	})
}

func TestWidenedBreakerOpensAgainForLonger(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{Retry: postrider.Schedule{time.Hour}}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			if r.EventID == "x-10" {
				return postrider.Response{Code: 200}, nil
			}
			return postrider.Response{Code: 500}, nil
		})
		b.hook("a")
		b.fill(20, "x")
		b.runFor(time.Minute)
		// The eleventh is the probe, which succeeds; of the two after it the first one to fail opens for 20 s, and then
		// for 40 s.
		require.Equal(t, append(make([]time.Duration, 10), seconds(10, 10, 10, 30)...), b.times())
	})
}

func TestLittleTrafficClosesTheBreakerInTime(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		var up atomic.Bool
		b := newBench(t, store, postrider.Config{BreakAfter: 1, Retry: postrider.Schedule{10 * time.Second}}, func(context.Context, postrider.Request) (postrider.Response, error) {
			if up.Load() {
				return postrider.Response{Code: 200}, nil
			}
			return postrider.Response{Code: 500}, nil
		})
		b.hook("a")
		stop := b.run()
		b.emit("fails", "x")
		synctest.Wait()
		up.Store(true)
		time.Sleep(10 * time.Second) // the probe
		synctest.Wait()
		require.Equal(t, 2, b.webhook("a").Window)
		version := b.webhook("a").Version
		time.Sleep(10*time.Minute - 1)
		b.emit("early", "x")
		synctest.Wait()
		require.Equal(t, version, b.webhook("a").Version, "such a success costs no write")
		time.Sleep(time.Nanosecond)
		b.emit("late", "x")
		synctest.Wait()
		w := b.webhook("a")
		require.Zero(t, w.Window)
		require.Zero(t, w.Trips)
		require.NoError(t, stop())
	})
}

func TestOpenBreakerSurvivesARestart(t *testing.T) {
	t.Parallel()
	eachRestart(t, func(t *testing.T, store postrider.Store, restart func(postrider.Store) postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 500))
		b.hook("a")
		b.fill(30, "x")
		b.runFor(15 * time.Second)
		require.Equal(t, append(make([]time.Duration, 10), seconds(10)...), b.times())
		time.Sleep(time.Second)
		next := newBench(t, restart(store), postrider.Config{}, answers(0, 500))
		next.runFor(time.Minute)
		require.Equal(t, seconds(14, 54), next.times(), "at 30 s, and 40 s after it")
	})
}

func TestResumeWebhookClosesTheBreaker(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 500))
		b.hook("a")
		b.fill(30, "x")
		stop := b.run()
		time.Sleep(12 * time.Second) // opened for the second time, until 30 s
		require.NoError(t, b.ResumeWebhook(t.Context(), "a"))
		time.Sleep(9 * time.Second)
		require.Equal(t, seconds(0, 10, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12), b.times()[9:], "ten again, and 10 s")
		require.NoError(t, stop())
	})
}

func TestReplaysAndTestsDoNotBearOnTheBreaker(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		var up atomic.Bool
		up.Store(true)
		b := newBench(t, store, postrider.Config{BreakAfter: 2, Retry: postrider.Schedule{}}, func(context.Context, postrider.Request) (postrider.Response, error) {
			if up.Load() {
				return postrider.Response{Code: 200}, nil
			}
			return postrider.Response{Code: 500}, nil
		})
		w := b.hook("a")
		id := b.emit("e", "x")
		stop := b.run()
		synctest.Wait()
		version := w.Version
		up.Store(false)
		for range 5 {
			_, err := store.Enqueue(t.Context(), []postrider.Item{{Event: postrider.Event{ID: "e"}, ReplayOf: id, To: []string{"a"}}})
			require.NoError(t, err)
		}
		b.Dispatcher.SendTest(t.Context(), "a")
		time.Sleep(time.Second)
		require.Len(t, b.times(), 7)
		require.Equal(t, version, b.webhook("a").Version)

		// A replay that is the probe decides all the same: else the breaker would try replays without end.
		b.emit("1", "x")
		b.emit("2", "x")
		synctest.Wait()
		require.Equal(t, 1, b.webhook("a").Trips)
		_, err := store.Enqueue(t.Context(), []postrider.Item{{Event: postrider.Event{ID: "e"}, ReplayOf: id, To: []string{"a"}}})
		require.NoError(t, err)
		time.Sleep(11 * time.Second)
		require.Equal(t, 2, b.webhook("a").Trips)
		require.NoError(t, stop())
	})
}

func TestRetryAfterHoldsTheWebhookForAnHourAtMost(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{"90": 90 * time.Second, "3600": time.Hour, "999999": time.Hour} {
		t.Run(value, func(t *testing.T) {
			t.Parallel()
			eachBubble(t, func(t *testing.T, store postrider.Store) {
				b := newBench(t, store, postrider.Config{}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
					if r.EventID == "first" && r.Attempt == 1 {
						return postrider.Response{Code: 429, Header: http.Header{"Retry-After": {value}}}, nil
					}
					return postrider.Response{Code: 200}, nil
				})
				b.hook("a")
				first := b.emit("first", "x")
				b.emit("second", "x")
				b.runFor(25 * time.Hour)
				asked, err := time.ParseDuration(value + "s")
				require.NoError(t, err)
				asked = min(asked, 24*time.Hour)
				at := map[string]time.Duration{}
				for _, c := range b.calls[1:] {
					at[c.event] = c.at
				}
				require.Equal(t, map[string]time.Duration{"first": asked, "second": want}, at)
				require.Equal(t, "DELIVERED", b.status(first))
			})
		})
	}
}

// hourOfDeath checks what the store hands out and what it is told while a webhook fails and recovers. Of its own it
// counts what is held.
type hourOfDeath struct {
	postrider.Store
	t *testing.T

	mu     sync.Mutex
	held   map[string]int // by token: how many were held with it
	recent []int          // windows, each time that it changed
}

func (s *hourOfDeath) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	claims, wait, err := s.Store.Claim(ctx, r)
	for _, c := range claims {
		s.held[c.Token] = 0
		s.held[c.Token] = len(s.held)
		if c.Webhook.Window > 0 && len(s.held) > c.Webhook.Window {
			s.t.Errorf("%d held, the window is %d", len(s.held), c.Webhook.Window)
		}
	}
	return claims, wait, err
}

func (s *hourOfDeath) Complete(ctx context.Context, o []postrider.Outcome) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, err := s.Store.Webhook(ctx, "a")
	if err != nil {
		return 0, err
	}
	n, err := s.Store.Complete(ctx, o)
	if err != nil {
		return n, err
	}
	after, err := s.Store.Webhook(ctx, "a")
	if after.Window != before.Window {
		s.recent = append(s.recent, after.Window)
		atEdge := false
		for i := range o {
			atEdge = atEdge || o[i].Attempt != nil && !o[i].Attempt.Failed && s.held[o[i].Token] >= before.Window
		}
		if after.Window != 1 && !atEdge {
			s.t.Errorf("the window went from %d to %d without a success at its edge", before.Window, after.Window)
		}
	}
	for i := range o {
		delete(s.held, o[i].Token)
	}
	return n, err
}

func TestEndpointThatWasDownForAnHour(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, inner postrider.Store) {
		const events = 10_000
		store := &hourOfDeath{Store: inner, t: t, held: map[string]int{}}
		var mu sync.Mutex
		delivered := map[string]int{}
		flying, most := 0, 0
		start := time.Now()
		b := newBench(t, store, postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if time.Since(start) < time.Hour {
				return postrider.Response{Code: 503}, sleep(ctx, 10*time.Millisecond)
			}
			mu.Lock()
			delivered[r.EventID]++
			flying++
			most = max(most, flying)
			mu.Unlock()
			defer func() {
				mu.Lock()
				flying--
				mu.Unlock()
			}()
			return postrider.Response{Code: 200}, sleep(ctx, 10*time.Millisecond)
		})
		b.hook("a")
		b.fill(events, "x")
		b.runFor(24 * time.Hour)
		require.Len(t, delivered, events)
		for id, n := range delivered {
			require.Equal(t, 1, n, id)
		}
		require.Equal(t, 8, most)
		require.Equal(t, []int{1, 2, 4, 0}, store.recent)
		s := stats(t, b.Dispatcher)
		require.EqualValues(t, events, s.Delivered)
		require.EqualValues(t, len(b.calls), s.AttemptsOK+s.AttemptsFailed, "all that was sent is recorded")
		require.Less(t, len(b.calls), events+30, "few requests while it was down")
	})
}

func TestNothingIsSentWhileAFailureIsUnrecorded(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, inner postrider.Store) {
		store := &faulty{Store: inner}
		store.complete = func(ctx context.Context, o []postrider.Outcome) (int, error) {
			if err := sleep(ctx, time.Second); err != nil {
				return 0, err
			}
			return inner.Complete(ctx, o)
		}
		b := newBench(t, store, postrider.Config{BreakAfter: 3}, answers(0, 500))
		b.hook("a")
		b.fill(20, "x")
		b.runFor(20 * time.Second)
		require.Equal(t, seconds(0, 1, 2, 13), b.times(), "the third opens it at 3 s")
	})
}
