package postrider_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

// distant is a store in memory of which Claim takes 10 ms, and returns what there was before it, in order of events' IDs.
func distant() *faulty {
	store := &faulty{Store: memstore.New(memstore.Options{})}
	store.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
		claims, wait, err := store.Store.Claim(ctx, r)
		slices.SortFunc(claims, func(a, b postrider.Claim) int { return cmp.Compare(a.Event.ID, b.Event.ID) })
		return claims, wait, slowly(ctx, 10*time.Millisecond, err)
	}
	return store
}

// slowly returns the error after a time, or that of ctx.
func slowly(ctx context.Context, d time.Duration, err error) error {
	if ended := sleep(ctx, d); ended != nil {
		return ended
	}
	return err
}

func TestClaimsForWorkersThatAreAboutToBeFree(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var busy, most, asked, calls atomic.Int64
		store := distant()
		claim := store.claim
		store.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
			calls.Add(1)
			asked.Store(max(asked.Load(), int64(r.Max)))
			return claim(ctx, r)
		}
		b := newBench(t, store, postrider.Config{Concurrency: 8, MaxInFlight: 100}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			most.Store(max(most.Load(), busy.Add(1)))
			defer busy.Add(-1)
			var n time.Duration
			_, _ = fmt.Sscan(r.EventID, &n)
			return postrider.Response{Code: 200}, sleep(ctx, (1+n%8)*time.Millisecond) // no two end at the same time
		})
		b.hook("a")
		for i := range 400 {
			b.emit(fmt.Sprint(i), "x")
		}
		stop := b.run()
		time.Sleep(5 * time.Second)
		require.NoError(t, stop())
		require.Len(t, b.times(), 400)
		require.EqualValues(t, 8, most.Load(), "requests at a time")
		require.EqualValues(t, 8, asked.Load(), "of a call")
		require.Less(t, calls.Load(), int64(70), "calls; 105 if each was for the workers that are free when it begins")
	})
}

// scene is a dispatcher with two workers that gets into this situation: of what its last Claim returned, one delivery waits,
// since e3 and e4 are in flight, from 3.021 and 3.031 s on. What becomes of those each test says. The Claim from 3.000 s on
// is for e1 and e2, the one from 3.011 on for e3, when e1 has ended, and the one from 3.021 on for e4, and for e5 since e2
// ended during the one before.
type scene struct {
	*bench
	store *faulty
	stop  func() error
	e5    string // the delivery that waits
}

func newScene(t *testing.T, c postrider.Config, reply func(ctx context.Context, event string) (postrider.Response, error)) *scene {
	s := &scene{store: distant()}
	c.Concurrency = 2
	s.bench = newBench(t, s.store, c, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
		switch {
		case strings.HasPrefix(r.EventID, "warm"):
			return postrider.Response{Code: 200}, nil
		case r.EventID == "e1":
			return postrider.Response{Code: 200}, sleep(ctx, time.Millisecond)
		case r.EventID == "e2":
			return postrider.Response{Code: 200}, sleep(ctx, 5*time.Millisecond)
		}
		return reply(ctx, r.EventID)
	})
	return s
}

// begin sends e1 to e5, all to one webhook or to one each, after something that shows that these are well. It returns at
// 3.035 s.
func (s *scene) begin(one bool) {
	s.stop = s.run()
	webhook := func(event string) string {
		if one {
			return "all"
		}
		return event
	}
	events := []string{"e1", "e2", "e3", "e4", "e5"}
	for _, event := range events {
		if id := webhook(event); event == "e1" || !one {
			s.hook(id, only)
			s.emit("warm-"+id, id)
		}
	}
	time.Sleep(3 * time.Second)
	_, err := s.EmitAll(s.t.Context(), []postrider.Event{
		{ID: "e1", Type: webhook("e1"), Payload: []byte(`{}`)},
		{ID: "e2", Type: webhook("e2"), Payload: []byte(`{}`)},
	})
	require.NoError(s.t, err)
	time.Sleep(5 * time.Millisecond)
	s.emit("e3", webhook("e3"))
	time.Sleep(10 * time.Millisecond)
	s.emit("e4", webhook("e4"))
	s.e5 = s.emit("e5", webhook("e5"))
	time.Sleep(20 * time.Millisecond)
	v, _ := s.delivery(s.e5)
	require.True(s.t, v.InFlight)
	require.Empty(s.t, s.sent("e5"))
}

// takes is a reply of 200 after a time for each event; the others hang.
func takes(ms map[string]time.Duration) func(context.Context, string) (postrider.Response, error) {
	return func(ctx context.Context, event string) (postrider.Response, error) {
		if d, ok := ms[event]; ok {
			return postrider.Response{Code: 200}, sleep(ctx, d*time.Millisecond)
		}
		return hang(ctx, postrider.Request{})
	}
}

func TestWhatIsClaimedAheadGoesToTheNextFreeWorker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, postrider.Config{}, takes(map[string]time.Duration{"e3": 30, "e5": 0}))
		s.begin(false)
		require.Equal(t, []time.Duration{3021 * time.Millisecond}, s.sent("e3"))
		require.Equal(t, []time.Duration{3031 * time.Millisecond}, s.sent("e4"))
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, []time.Duration{3051 * time.Millisecond}, s.sent("e5"), "when e3 has ended, without another Claim")
		require.NoError(t, s.stop())
	})
}

func TestWhatIsClaimedAheadIsNotSentToAWebhookThatFailed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, postrider.Config{}, func(ctx context.Context, event string) (postrider.Response, error) {
			switch event {
			case "e3":
				return postrider.Response{Code: 500}, sleep(ctx, 20*time.Millisecond) // until 3.041
			case "e4":
				return postrider.Response{Code: 200}, sleep(ctx, 69*time.Millisecond) // until 3.1
			}
			return postrider.Response{Code: 200}, nil
		})
		s.begin(true)
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, s.stop())
		at := s.sent("e5")
		require.Len(t, at, 1)
		require.GreaterOrEqual(t, at[0], 3100*time.Millisecond, "one request until it succeeds again")
	})
}

func TestWhatIsClaimedAheadGoesBackWhenOutcomesCannotBeRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, postrider.Config{}, takes(map[string]time.Duration{"e3": 30, "e4": 30, "e5": 0}))
		start := time.Now()
		s.store.complete = func(ctx context.Context, o []postrider.Outcome) (int, error) {
			if at := time.Since(start); at > 3*time.Second && at < 5*time.Second {
				return 0, slowly(ctx, 25*time.Millisecond, errDisk) // the first time from 3.011 or so
			}
			return s.store.Store.Complete(ctx, o)
		}
		s.begin(false)
		time.Sleep(10 * time.Second)
		require.NoError(t, s.stop())
		at := s.sent("e5")
		require.Len(t, at, 1)
		require.Greater(t, at[0], 5*time.Second)
	})
}

func TestWhatIsClaimedAheadGoesBackWhenAllWorkersHang(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, postrider.Config{MaxSlow: 1}, takes(map[string]time.Duration{"e5": 0}))
		s.hook("d", only)
		s.emit("hangs", "d") // until 15 s: from 2 s on it is all of MaxSlow
		s.begin(false)
		time.Sleep(10 * time.Second)
		require.Empty(t, s.sent("e5"))
		v, _ := s.delivery(s.e5)
		require.False(t, v.InFlight)
		require.NoError(t, s.stop())
	})
}

func TestWhatIsClaimedAheadGoesBackWhenRunEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, postrider.Config{}, takes(map[string]time.Duration{"e3": 100, "e4": 100, "e5": 0}))
		s.begin(false)
		require.NoError(t, s.stop())
		v, _ := s.delivery(s.e5)
		require.False(t, v.InFlight)
		require.Equal(t, postrider.StatusNew, v.Status)
		require.Empty(t, s.sent("e5"))
	})
}

// newCrowd is a dispatcher with eight workers that gets into this situation at 3.033 s: the last Claim returned z, to the
// webhook x, last of all and one too many; the others, a to the same webhook among them, are in flight. From 0.02 s on a
// request to another webhook hangs.
func newCrowd(t *testing.T, c postrider.Config, x func(*postrider.Webhook), events []string, reply reply) *bench {
	store := distant()
	c.Concurrency, c.MaxInFlight = 8, 100
	b := newBench(t, store, c, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
		switch n := strings.TrimPrefix(r.EventID, "all-"); {
		case strings.HasPrefix(r.EventID, "warm"):
			return postrider.Response{Code: 200}, nil
		case n == "0":
			return postrider.Response{Code: 200}, sleep(ctx, time.Millisecond)
		case len(n) == 1 && n >= "1" && n <= "7":
			return postrider.Response{Code: 200}, sleep(ctx, 8*time.Millisecond)
		}
		return reply(ctx, r)
	})
	b.hook("all", only)
	b.hook("x", only, x)
	b.hook("h", only)
	b.emit("warm", "all")
	stop := b.run()
	if c.MaxSlow > 0 {
		b.emit("hang", "h")
	}
	if slices.Contains(events, "a") {
		b.emit("warm-x", "x")
	}
	time.Sleep(3 * time.Second)
	b.fill(20, "all")
	time.Sleep(17 * time.Millisecond)
	for _, event := range events {
		b.emit(event, "x")
	}
	t.Cleanup(func() { require.NoError(t, stop()) })
	return b
}

func TestWhatIsClaimedAheadIsNotSentToAWebhookThatIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newCrowd(t, postrider.Config{}, func(*postrider.Webhook) {}, []string{"a", "z"}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.EventID == "a" {
				return postrider.Response{Code: 410}, sleep(ctx, 10*time.Millisecond)
			}
			return postrider.Response{Code: 200}, sleep(ctx, 100*time.Millisecond)
		})
		time.Sleep(5 * time.Second)
		require.Len(t, b.sent("a"), 1)
		require.Equal(t, postrider.StateDisabled, b.webhook("x").State)
		require.Empty(t, b.sent("z"))
	})
}

func TestWhatIsClaimedAheadIsNotSentToAWebhookThatIsPaused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newCrowd(t, postrider.Config{}, func(*postrider.Webhook) {}, []string{"z"}, func(ctx context.Context, _ postrider.Request) (postrider.Response, error) {
			return postrider.Response{Code: 200}, sleep(ctx, 1800*time.Millisecond)
		})
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, b.PauseWebhook(t.Context(), "x"))
		time.Sleep(time.Minute)
		require.Empty(t, b.sent("z"))
	})
}

func TestWhatGoesBackGivesItsTokenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newCrowd(t, postrider.Config{MaxSlow: 1}, limited(1, time.Hour, 0), []string{"z"}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.EventID == "z" {
				return postrider.Response{Code: 200}, nil
			}
			return hang(ctx, r)
		})
		time.Sleep(3 * time.Hour)
		require.Len(t, b.sent("z"), 1)
		require.Less(t, b.sent("z")[0], time.Minute)
	})
}

func TestTokensOfWhatIsClaimedAheadAreForNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newCrowd(t, postrider.Config{}, limited(10, time.Second, 0), []string{"z", "y"}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.EventID == "z" || r.EventID == "y" {
				return postrider.Response{Code: 200}, nil
			}
			return postrider.Response{Code: 200}, sleep(ctx, 50*time.Millisecond)
		})
		time.Sleep(time.Minute)
		require.GreaterOrEqual(t, (b.sent("y")[0] - b.sent("z")[0]).Abs(), 100*time.Millisecond)
	})
}

func TestFailureDuringAClaimDoesNotHideASuccess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, distant(), postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if strings.HasPrefix(r.EventID, "fails") && r.Attempt == 1 {
				return postrider.Response{Code: 500}, sleep(ctx, 5*time.Millisecond)
			}
			return postrider.Response{Code: 200}, nil
		})
		b.hook("x", only, func(w *postrider.Webhook) { w.BreakAfter = 2 })
		b.emit("warm", "x")
		stop := b.run()
		time.Sleep(3 * time.Second)
		b.emit("fails", "x")
		time.Sleep(11 * time.Millisecond)
		b.emit("succeeds", "x") // is claimed from 3.011 to 3.021; the failure lands at 3.015
		time.Sleep(100 * time.Millisecond)
		require.Zero(t, b.webhook("x").Failures)
		b.emit("fails-too", "x")
		time.Sleep(100 * time.Millisecond)
		require.Zero(t, b.webhook("x").Window, "two failures, but not in a row")
		require.NoError(t, stop())
	})
}
