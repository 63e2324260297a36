package postrider_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// watched is an observer that keeps what it is told of.
type watched struct {
	mu    sync.Mutex
	start time.Time
	list  []postrider.Notice
}

func watch() *watched { return &watched{start: time.Now()} }

func (w *watched) observe(n postrider.Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, n)
}

// of returns the notices of a kind as text: when, and what this kind is about.
func (w *watched) of(kinds ...postrider.NoticeKind) (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.list {
		if !slices.Contains(kinds, n.Kind) {
			continue
		}
		s := fmt.Sprint(n.Time.Sub(w.start), " ", n.Kind)
		switch n.Kind {
		case postrider.NoticeWebhook:
			s = fmt.Sprint(s, " ", n.WebhookID, " ", n.Message)
			if n.Share > 0 {
				s = fmt.Sprint(s, " ", n.Share)
			}
		case postrider.NoticeCanceled:
			s = fmt.Sprint(s, " ", n.Count, " ", n.WebhookID)
		case postrider.NoticeStore:
			s = fmt.Sprint(s, " ", n.Message, " ", n.Err)
		default:
			s = fmt.Sprint(s, " ", n.EventID)
		}
		list = append(list, s)
	}
	return list
}

func TestGoneDisablesAtOnceAndWhatWaitsGoesOnWhenResumed(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		told := watch()
		var up atomic.Bool
		b := newBench(t, store, postrider.Config{Observe: told.observe}, func(context.Context, postrider.Request) (postrider.Response, error) {
			if up.Load() {
				return postrider.Response{Code: 200}, nil
			}
			return postrider.Response{Code: 410}, nil
		})
		b.hook("a")
		ids := b.fill(5, "x")
		stop := b.run()
		time.Sleep(24 * time.Hour)
		require.Equal(t, seconds(0), b.times())
		w := b.webhook("a")
		require.Equal(t, postrider.StateDisabled, w.State)
		require.Contains(t, w.Reason, "410")
		ids = append(ids, b.fill(5, "y")...)
		time.Sleep(24 * time.Hour)
		up.Store(true)
		require.NoError(t, b.ResumeWebhook(t.Context(), "a"))
		synctest.Wait()
		for _, id := range ids {
			require.Equal(t, "DELIVERED", b.status(id))
		}
		require.NoError(t, stop())
		require.Equal(t, []string{"0s WEBHOOK a webhook is disabled", "48h0m0s WEBHOOK a resumed"}, told.of(postrider.NoticeWebhook))
		require.Equal(t, 1, strings.Count(b.log.String(), "webhook is disabled"))
		require.Contains(t, b.log.String(), w.Reason)
	})
}

func TestWebhookThatOnlyFailsIsDisabled(t *testing.T) {
	t.Parallel()
	const h = time.Hour
	for _, c := range []struct {
		name     string
		schedule postrider.Schedule
		disabled time.Duration
		told     []string
	}{
		{"at the tenth failure", slices.Repeat(postrider.Schedule{h}, 30), 9 * h, []string{
			"3h0m0s WEBHOOK a webhook does nothing but fail and is going to be disabled 50",
			"4h0m0s WEBHOOK a webhook does nothing but fail and is going to be disabled 80",
			"9h0m0s WEBHOOK a webhook is disabled 100",
		}},
		{"at the first failure after DisableAfter", append(slices.Repeat(postrider.Schedule{time.Second}, 20), 4*h, 3*h, h), 7*h + 20*time.Second, []string{
			"4h0m20s WEBHOOK a webhook does nothing but fail and is going to be disabled 80",
			"7h0m20s WEBHOOK a webhook is disabled 100",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			eachBubble(t, func(t *testing.T, store postrider.Store) {
				told := watch()
				b := newBench(t, store, postrider.Config{DisableAfter: 5 * h, Observe: told.observe}, answers(0, 500))
				b.hook("a", func(w *postrider.Webhook) { w.Retry, w.BreakAfter = c.schedule, 1000 })
				id := b.emit("e", "x")
				stop := b.run()
				time.Sleep(c.disabled - 1)
				synctest.Wait()
				require.Equal(t, postrider.StateEnabled, b.webhook("a").State)
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				w := b.webhook("a")
				require.Equal(t, postrider.StateDisabled, w.State)
				require.Equal(t, "every attempt failed for 5h0m0s", w.Reason)
				sent := len(b.times())
				time.Sleep(100 * h)
				require.Len(t, b.times(), sent)
				require.Equal(t, "IN_PROCESS", b.status(id))
				require.NoError(t, stop())
				require.Equal(t, c.told, told.of(postrider.NoticeWebhook))
				require.Equal(t, len(c.told), strings.Count(b.log.String(), "level=WARN"))
			})
		})
	}
}

func TestSuccessStartsTheWayToDisablingAnew(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		told := watch()
		b := newBench(t, store, postrider.Config{DisableAfter: 10 * time.Hour, Observe: told.observe}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			if r.EventID == "good" {
				return postrider.Response{Code: 200}, nil
			}
			return postrider.Response{Code: 500}, nil
		})
		b.hook("a", func(w *postrider.Webhook) {
			w.Retry, w.BreakAfter = slices.Repeat(postrider.Schedule{time.Hour}, 17), 1000
		})
		b.emit("bad", "x")
		stop := b.run()
		time.Sleep(8*time.Hour + time.Minute)
		b.emit("good", "x")
		time.Sleep(20 * time.Hour)
		require.NoError(t, stop())
		require.Equal(t, postrider.StateEnabled, b.webhook("a").State)
		const warning = " WEBHOOK a webhook does nothing but fail and is going to be disabled "
		require.Equal(t, []string{"5h0m0s" + warning + "50", "8h0m0s" + warning + "80", "14h0m0s" + warning + "50", "17h0m0s" + warning + "80"},
			told.of(postrider.NoticeWebhook), "each once in each row of failures")
	})
}

func TestBreakerIsToldOf(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		told := watch()
		var up atomic.Bool
		b := newBench(t, store, postrider.Config{Observe: told.observe}, func(context.Context, postrider.Request) (postrider.Response, error) {
			if up.Load() {
				return postrider.Response{Code: 200}, nil
			}
			return postrider.Response{Code: 500}, nil
		})
		b.hook("a")
		b.fill(30, "x")
		stop := b.run()
		time.Sleep(50 * time.Second)
		up.Store(true)
		time.Sleep(time.Minute)
		require.NoError(t, stop())
		require.Equal(t, []string{
			"0s WEBHOOK a webhook fails, its breaker has opened",
			"10s WEBHOOK a webhook fails, its breaker has opened",
			"30s WEBHOOK a webhook fails, its breaker has opened",
			"1m10s WEBHOOK a webhook works again, its breaker has closed",
		}, told.of(postrider.NoticeWebhook))
		require.Equal(t, 1, strings.Count(b.log.String(), "breaker has opened"), "that it opens again is no news")
		require.Equal(t, 1, strings.Count(b.log.String(), "breaker has closed"))
		for _, n := range told.list {
			if n.Kind == postrider.NoticeWebhook {
				require.Equal(t, "a", n.Webhook.ID)
			}
		}
	})
}

func TestAttemptsAndEndsAreToldInOrder(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		told := watch()
		b := newBench(t, store, postrider.Config{Observe: told.observe}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			if r.WebhookID == "good" && r.Attempt == 2 {
				return postrider.Response{Code: 200}, nil
			}
			return postrider.Response{Code: 500}, nil
		})
		short := func(w *postrider.Webhook) { only(w); w.Retry = postrider.Schedule{time.Second} }
		b.hook("good", short)
		b.hook("bad", short)
		b.hook("deleted", short)
		b.emit("1", "good")
		bad := b.emit("2", "bad")
		b.emit("3", "deleted")
		stop := b.run()
		synctest.Wait()
		require.NoError(t, b.DeleteWebhook(t.Context(), "deleted"))
		time.Sleep(time.Minute)
		require.NoError(t, stop())
		of := func(event string) (kinds []string) {
			for _, n := range told.list {
				if n.EventID == event {
					kinds = append(kinds, n.Kind.String())
				}
			}
			return kinds
		}
		require.Equal(t, []string{"EMITTED", "ATTEMPTED", "ATTEMPTED", "DELIVERED"}, of("1"))
		require.Equal(t, []string{"EMITTED", "ATTEMPTED", "ATTEMPTED", "FAILED"}, of("2"))
		require.Equal(t, []string{"EMITTED", "ATTEMPTED"}, of("3"))
		require.Equal(t, []string{"0s CANCELED 1 "}, told.of(postrider.NoticeCanceled))
		last := told.list[slices.IndexFunc(told.list, func(n postrider.Notice) bool { return n.Kind == postrider.NoticeFailed })-1]
		require.Equal(t, 2, last.Attempt.Number)
		require.Equal(t, "bad", last.EventType)
		require.Equal(t, []string{last.DeliveryID, last.WebhookID}, []string{bad, "bad"})
		require.Equal(t, 500, last.Attempt.Code)
	})
}

func TestCanceledInFlightIsNotToldAsFailed(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		told := watch()
		b := newBench(t, store, postrider.Config{Observe: told.observe, Retry: postrider.Schedule{}}, answers(time.Second, 500))
		b.hook("a")
		id := b.emit("e", "x")
		stop := b.run()
		synctest.Wait()
		_, err := b.Cancel(t.Context(), postrider.DeliveryQuery{ID: id})
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		require.NoError(t, stop())
		require.Equal(t, "CANCELED", b.status(id))
		require.Equal(t, []string{"1s ATTEMPTED e"}, told.of(postrider.NoticeAttempted, postrider.NoticeFailed, postrider.NoticeDelivered))
	})
}

func TestOutcomesThatTheStoreDidNotTakeAreNotTold(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, inner postrider.Store) {
		store := &faulty{Store: inner}
		var broken atomic.Bool
		broken.Store(true)
		store.complete = func(ctx context.Context, o []postrider.Outcome) (int, error) {
			if broken.Load() {
				return 0, errDisk
			}
			return inner.Complete(ctx, o)
		}
		told := watch()
		b := newBench(t, store, postrider.Config{Observe: told.observe}, answers(0, 200))
		b.hook("a")
		b.emit("e", "x")
		stop := b.run()
		time.Sleep(4 * time.Minute) // the lease is over
		require.Empty(t, told.of(postrider.NoticeAttempted, postrider.NoticeDelivered))
		broken.Store(false)
		time.Sleep(time.Minute)
		require.NoError(t, stop())
		require.Len(t, b.times(), 1)
		require.Len(t, told.of(postrider.NoticeAttempted, postrider.NoticeDelivered), 2, "once its outcome was adopted")
		require.Equal(t, []string{
			"0s STORE outcomes cannot be recorded, nothing is sent meanwhile disk on fire",
			"4m0.55s STORE outcomes are recorded again <nil>",
		}, told.of(postrider.NoticeStore))
	})
}

func TestWhatWaitsForADisabledWebhookIsCanceledAfterRetention(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		told := watch()
		b := newBench(t, store, postrider.Config{Observe: told.observe}, answers(0, 410))
		b.hook("gone", only)
		b.hook("paused", only)
		require.NoError(t, b.PauseWebhook(t.Context(), "paused"))
		old := append(b.fill(2500, "gone"), b.emit("p", "paused"))
		stop := b.run()
		time.Sleep(10 * day)
		young := b.emit("young", "gone")
		time.Sleep(21*day - time.Minute)
		require.Equal(t, "IN_PROCESS", b.status(old[0]))
		require.Equal(t, "NEW", b.status(old[1]))
		time.Sleep(day + time.Minute)
		for _, id := range old[:2500] {
			require.Equal(t, "CANCELED", b.status(id))
		}
		require.Equal(t, "NEW", b.status(old[2500]), "paused: everything stays")
		require.Equal(t, "NEW", b.status(young))
		require.NoError(t, stop())
		count := 0
		for _, n := range told.list {
			if n.Kind == postrider.NoticeCanceled {
				require.Equal(t, "gone", n.WebhookID)
				count += n.Count
			}
		}
		require.Equal(t, 2500, count)
	})
}

func TestRetentionForeverCancelsNothing(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{Retention: postrider.Forever}, answers(0, 410))
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(1000 * 24 * time.Hour)
		require.Equal(t, "IN_PROCESS", b.status(id))
	})
}

func TestFailingWebhookIsMadeReadyOnce(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a", func(w *postrider.Webhook) { w.Secrets[0].ExpiresAt = time.Now().Add(time.Second) })
		stop := b.run()
		time.Sleep(time.Minute)
		b.emit("e", "x")
		time.Sleep(time.Hour)
		require.NoError(t, stop())
		require.Empty(t, b.times())
		require.Equal(t, 4, b.webhook("a").Failures)
		require.Equal(t, 1, strings.Count(b.log.String(), "no live secret"), "said once, though each failure makes a new Version")
	})
}

func TestDeletingAWebhookWithManyWaitingHoldsUpNobody(t *testing.T) {
	t.Parallel()
	eachBubble(t, func(t *testing.T, store postrider.Store) {
		const waiting = 20_000
		b := newBench(t, store, postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
			if r.WebhookID == "dead" {
				return postrider.Response{Code: 500}, nil
			}
			return postrider.Response{Code: 200}, nil
		})
		b.hook("dead", only)
		b.hook("good", only)
		b.fill(waiting, "dead")
		stop := b.run()
		time.Sleep(time.Second)
		require.NoError(t, b.DeleteWebhook(t.Context(), "dead"))
		id := b.emit("e", "good")
		synctest.Wait()
		require.Equal(t, time.Second, time.Since(b.start), "no time has passed")
		require.Equal(t, "DELIVERED", b.status(id))
		s, err := b.Stats(t.Context(), postrider.StatsQuery{WebhookID: "dead"})
		require.NoError(t, err)
		require.EqualValues(t, waiting, s.Canceled)
		require.NoError(t, stop())
	})
}
