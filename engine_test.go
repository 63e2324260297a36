package postrider_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/signature"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// bench is a dispatcher on a store in memory, with a sender that notes when it sent what.
type bench struct {
	*postrider.Dispatcher
	t     *testing.T
	store postrider.Store
	start time.Time
	log   bytes.Buffer // what is logged above debug level; to be read when Run has returned

	mu    sync.Mutex
	calls []call
}

// call is one request that the sender got.
type call struct {
	at      time.Duration // since the bench was made
	webhook string
	event   string
	attempt int
}

// reply is what a sender does.
type reply func(ctx context.Context, r postrider.Request) (postrider.Response, error)

func newBench(t *testing.T, store postrider.Store, c postrider.Config, answer reply) *bench {
	t.Helper()
	if store == nil {
		store = memstore.New(memstore.Options{})
	}
	b := &bench{t: t, store: store, start: time.Now()}
	c.Sender = senderFunc(func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
		b.mu.Lock()
		b.calls = append(b.calls, call{time.Since(b.start), r.WebhookID, r.EventID, r.Attempt})
		b.mu.Unlock()
		return answer(ctx, r)
	})
	if c.Logger == nil {
		c.Logger = slog.New(slog.NewTextHandler(&b.log, nil))
	}
	if c.Retry == nil {
		c.Retry = postrider.DefaultSchedule()
	}
	d, err := postrider.New(store, c)
	require.NoError(t, err)
	b.Dispatcher = d
	return b
}

type senderFunc reply

func (f senderFunc) Send(ctx context.Context, r postrider.Request) (postrider.Response, error) {
	return f(ctx, r)
}

// hook makes a webhook with this ID and name that takes every event.
func (b *bench) hook(id string, set ...func(*postrider.Webhook)) postrider.Webhook {
	b.t.Helper()
	secret, err := postrider.ParseSecret(testSecret)
	require.NoError(b.t, err)
	w := postrider.Webhook{ID: id, Name: id, URL: "http://" + id + ".example/in?token=hidden", Events: []string{"*"}, Secrets: []postrider.Secret{secret}}
	for _, f := range set {
		f(&w)
	}
	w, err = b.CreateWebhook(b.t.Context(), w)
	require.NoError(b.t, err)
	return w
}

// only gives a webhook its own type of event, so that a test can say whom it emits to.
func only(w *postrider.Webhook) { w.Events = []string{w.ID} }

// emit emits an event with this ID and type, and returns its delivery's ID if there is just one.
func (b *bench) emit(id, typ string) string {
	b.t.Helper()
	r, err := b.Emit(b.t.Context(), postrider.Event{ID: id, Type: typ, Payload: []byte(`{}`)})
	require.NoError(b.t, err)
	if len(r.Deliveries) == 1 {
		return r.Deliveries[0]
	}
	return ""
}

// run starts Run in the bubble, and returns a function that ends it and waits for it.
func (b *bench) run() (stop func() error) {
	ctx, cancel := context.WithCancel(b.t.Context())
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = b.Run(ctx)
	}()
	stop = func() error {
		cancel()
		<-ended
		return err
	}
	b.t.Cleanup(func() { _ = stop() }) // if the test has failed
	return stop
}

// runFor runs for so long of the bubble's time, and then until Run returns.
func (b *bench) runFor(d time.Duration) {
	b.t.Helper()
	stop := b.run()
	time.Sleep(d)
	require.NoError(b.t, stop())
}

func (b *bench) times() (at []time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.calls {
		at = append(at, c.at)
	}
	return at
}

func (b *bench) delivery(id string) (postrider.Delivery, []postrider.Attempt) {
	b.t.Helper()
	v, attempts, err := b.store.Delivery(b.t.Context(), id)
	require.NoError(b.t, err)
	return v, attempts
}

func (b *bench) status(id string) string {
	b.t.Helper()
	v, _ := b.delivery(id)
	return v.Status.String()
}

// answers returns these codes in turn, and then the last one, each after the time given.
func answers(after time.Duration, codes ...int) reply {
	var mu sync.Mutex
	return func(ctx context.Context, _ postrider.Request) (postrider.Response, error) {
		mu.Lock()
		code := codes[0]
		if len(codes) > 1 {
			codes = codes[1:]
		}
		mu.Unlock()
		return postrider.Response{Code: code}, sleep(ctx, after)
	}
}

// hang answers nothing until its context ends.
func hang(ctx context.Context, _ postrider.Request) (postrider.Response, error) {
	<-ctx.Done()
	return postrider.Response{}, ctx.Err()
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// faulty is a store whose Claim and Complete are replaced if set.
type faulty struct {
	postrider.Store
	claim    func(context.Context, postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error)
	complete func(context.Context, []postrider.Outcome) (int, error)
}

func (f *faulty) Claim(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
	if f.claim != nil {
		return f.claim(ctx, r)
	}
	return f.Store.Claim(ctx, r)
}

func (f *faulty) Complete(ctx context.Context, o []postrider.Outcome) (int, error) {
	if f.complete != nil {
		return f.complete(ctx, o)
	}
	return f.Store.Complete(ctx, o)
}

var errDisk = errors.New("disk on fire")

func seconds(s ...float64) (d []time.Duration) {
	for _, v := range s {
		d = append(d, time.Duration(v*float64(time.Second)))
	}
	return d
}

func TestDefaultScheduleIsKeptToTheInstant(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 500))
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(100 * time.Hour)

		const h = time.Hour
		want := []time.Duration{0}
		for _, wait := range []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * h, 5 * h, 10 * h, 14 * h, 20 * h, 24 * h} {
			want = append(want, want[len(want)-1]+wait)
		}
		require.Equal(t, want, b.times())
		require.Equal(t, 75*time.Hour+35*time.Minute+5*time.Second, want[9])

		v, attempts := b.delivery(id)
		require.Equal(t, postrider.StatusFailed, v.Status)
		require.Equal(t, 10, v.Attempts)
		require.Equal(t, b.start.Add(want[9]).UTC(), v.FinishedAt)
		for i, a := range attempts {
			require.Equal(t, i+1, a.Number)
			require.Equal(t, b.start.Add(want[i]).UTC(), a.StartedAt)
			require.Equal(t, b.start.Add(want[i]).Unix(), a.Timestamp)
			require.Equal(t, postrider.ClassStatus, a.Class)
			require.Equal(t, "The endpoint answered 500, which is not a success", a.Error)
			if i < 9 {
				require.Equal(t, b.start.Add(want[i+1]).UTC(), a.NextAt)
			} else {
				require.Zero(t, a.NextAt)
			}
			require.NoError(t, a.Validate())
		}
	})
}

func TestDurationOfAnAttemptDelaysTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(1500*time.Millisecond, 500, 200))
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Minute)
		require.Equal(t, seconds(0, 6.5), b.times())
		v, attempts := b.delivery(id)
		require.Equal(t, postrider.StatusDelivered, v.Status)
		require.Equal(t, 1500*time.Millisecond, attempts[0].FinishedAt.Sub(attempts[0].StartedAt))
	})
}

func TestScheduleOfTheWebhookGoesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 500))
		b.hook("a", func(w *postrider.Webhook) { w.Retry = postrider.Schedule{0, 7 * time.Second} })
		id := b.emit("e", "x")
		b.runFor(time.Minute)
		require.Equal(t, seconds(0, 0, 7), b.times())
		require.Equal(t, "FAILED", b.status(id))
	})
}

func TestRetryAfterPutsADeliveryOff(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		code  int
		value string
		want  time.Duration
	}{
		{"seconds with 503", 503, "120", 120 * time.Second},
		{"seconds with 429", 429, "7", 7 * time.Second},
		{"never earlier than the schedule", 503, "1", 5 * time.Second},
		{"a date", 503, "Sat, 01 Jan 2000 00:10:00 GMT", 10 * time.Minute},
		{"a date in the past", 503, "Fri, 31 Dec 1999 00:10:00 GMT", 5 * time.Second},
		{"at most a day", 503, "999999999999", 24 * time.Hour},
		{"not with 500", 500, "120", 5 * time.Second},
		{"not with 302", 302, "120", 5 * time.Second},
		{"nonsense", 503, "soon", 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil, postrider.Config{}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
					if r.Attempt == 1 {
						return postrider.Response{Code: c.code, Header: http.Header{"Retry-After": {c.value, "1"}}}, nil
					}
					return postrider.Response{Code: 204}, nil
				})
				b.hook("a")
				id := b.emit("e", "x")
				b.runFor(48 * time.Hour)
				require.Equal(t, []time.Duration{0, c.want}, b.times())
				_, attempts := b.delivery(id)
				require.Equal(t, b.start.Add(c.want).UTC(), attempts[0].NextAt)
			})
		})
	}
}

func TestRetryAfterAddsNoAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{Retry: postrider.Schedule{}}, func(context.Context, postrider.Request) (postrider.Response, error) {
			return postrider.Response{Code: 503, Header: http.Header{"Retry-After": {"1"}}}, nil
		})
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Hour)
		require.Len(t, b.times(), 1)
		require.Equal(t, "FAILED", b.status(id))
	})
}

func TestTimeoutOfAnAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{Retry: postrider.Schedule{}}, hang)
		b.hook("default", only)
		b.hook("own", only, func(w *postrider.Webhook) { w.Timeout = 3 * time.Second })
		one, two := b.emit("1", "default"), b.emit("2", "own")
		b.runFor(time.Minute)
		for id, want := range map[string]time.Duration{one: 15 * time.Second, two: 3 * time.Second} {
			v, attempts := b.delivery(id)
			require.Equal(t, postrider.StatusFailed, v.Status)
			require.Equal(t, postrider.ClassTimeout, attempts[0].Class)
			require.Equal(t, "No answer within the time limit", attempts[0].Error)
			require.Equal(t, want, attempts[0].FinishedAt.Sub(attempts[0].StartedAt))
		}
	})
}

func TestEventEmittedWhileRunningGoesOutAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		b.hook("a")
		stop := b.run()
		time.Sleep(3 * time.Second)
		id := b.emit("e", "x")
		synctest.Wait()
		require.Equal(t, seconds(3), b.times())
		require.Equal(t, "DELIVERED", b.status(id))
		require.NoError(t, stop())
	})
}

func TestLostClaimIsSentWhenItsLeaseIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		b.hook("a")
		id := b.emit("e", "x")
		claims, _, err := b.store.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: 90 * time.Second})
		require.NoError(t, err)
		require.Len(t, claims, 1)
		b.runFor(5 * time.Minute)
		require.Equal(t, seconds(90), b.times())
		require.Equal(t, "DELIVERED", b.status(id))
	})
}

func TestUnrecordedOutcomeIsNotSentAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &faulty{Store: memstore.New(memstore.Options{})}
		var broken atomic.Bool
		broken.Store(true)
		store.complete = func(ctx context.Context, o []postrider.Outcome) (int, error) {
			if broken.Load() {
				return 0, errDisk
			}
			return store.Store.Complete(ctx, o)
		}
		b := newBench(t, store, postrider.Config{}, answers(0, 200, 500, 200))
		b.hook("a", only)
		b.hook("b", only)
		first, second := b.emit("1", "a"), b.emit("2", "b")
		stop := b.run()
		time.Sleep(time.Minute)
		third := b.emit("3", "a")
		time.Sleep(3 * time.Minute) // the leases of 90 s are over
		require.Equal(t, seconds(0, 0), b.times(), "nothing is sent while outcomes cannot be recorded")
		broken.Store(false)
		time.Sleep(time.Minute)

		// The third is sent as soon as a try of the completer succeeds, at most 1 s later; the retry of the one that
		// failed was planned long ago, and goes out then too.
		require.Equal(t, "DELIVERED", b.status(first))
		require.Equal(t, "DELIVERED", b.status(second))
		require.Equal(t, "DELIVERED", b.status(third))
		require.Len(t, b.times(), 4)
		v, _ := b.delivery(first)
		w, _ := b.delivery(second)
		require.Equal(t, 3, v.Attempts+w.Attempts, "one had to be tried twice")
		require.NoError(t, stop())
		for _, c := range b.calls[2:] {
			require.GreaterOrEqual(t, c.at, 4*time.Minute)
			require.LessOrEqual(t, c.at, 4*time.Minute+time.Second)
		}
		require.Equal(t, 1, strings.Count(b.log.String(), "outcomes cannot be recorded"), "logged once")
	})
}

func TestOutcomeThatWasRecordedInSpiteOfAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &faulty{Store: memstore.New(memstore.Options{})}
		calls := 0
		store.complete = func(ctx context.Context, o []postrider.Outcome) (int, error) {
			n, err := store.Store.Complete(ctx, o)
			if calls++; calls == 1 {
				return 0, errDisk
			}
			return n, err
		}
		b := newBench(t, store, postrider.Config{}, answers(0, 500, 200))
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Minute)
		require.Equal(t, seconds(0, 5), b.times())
		v, _ := b.delivery(id)
		require.Equal(t, 2, v.Attempts)
		require.Equal(t, postrider.StatusDelivered, v.Status)
	})
}

func TestInvalidOutcomeDoesNotHoldUpItsNeighbours(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &faulty{Store: memstore.New(memstore.Options{})}
		var bad string
		store.complete = func(ctx context.Context, o []postrider.Outcome) (int, error) {
			for i := range o {
				if o[i].DeliveryID == bad {
					return 0, &postrider.ValidationError{Fields: []postrider.FieldError{{Name: "Outcome", Reason: "is bad"}}}
				}
			}
			return store.Store.Complete(ctx, o)
		}
		b := newBench(t, store, postrider.Config{}, answers(time.Second, 200))
		ids := make([]string, 10)
		for i := range ids {
			name := fmt.Sprintf("h%d", i)
			b.hook(name, only)
			ids[i] = b.emit(name, name)
		}
		bad = ids[3]
		b.runFor(2 * time.Second)
		for i, id := range ids {
			if i != 3 {
				require.Equal(t, "DELIVERED", b.status(id))
			}
		}
		require.Equal(t, "NEW", b.status(bad))
		require.Contains(t, b.log.String(), "outcome is invalid and dropped")
	})
}

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
		require.LessOrEqual(t, at, 101*time.Millisecond, "the completer may wait 1 ms for company")
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

func TestRequestIsSignedByEveryLiveSecret(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got postrider.Request
		b := newBench(t, nil, postrider.Config{}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			got = r
			return postrider.Response{Code: 200}, nil
		})
		w := b.hook("a", func(w *postrider.Webhook) {
			gone, later := postrider.NewSecret(), postrider.NewSecret()
			gone.ExpiresAt = time.Now() // expired at this very moment
			later.ExpiresAt = time.Now().Add(time.Second)
			w.Secrets = []postrider.Secret{later, gone, w.Secrets[0]}
			w.Header = http.Header{"X-Team": {"a", "b"}, "user-agent": {"mine"}}
		})
		body := []byte(`{"a": 1 }`)
		_, err := b.Emit(t.Context(), postrider.Event{ID: "evt", Type: "x", Payload: body, ContentType: "application/json; charset=utf-8"})
		require.NoError(t, err)
		at := time.Now().Unix()
		b.runFor(time.Second)

		var want []string
		for _, i := range []int{0, 2} {
			key, err := signature.ParseKey(w.Secrets[i].Reveal())
			require.NoError(t, err)
			want = append(want, key.Sign("evt", at, body))
		}
		require.Equal(t, http.Header{
			"Content-Type":      {"application/json; charset=utf-8"},
			"User-Agent":        {"mine"},
			"Webhook-Id":        {"evt"},
			"Webhook-Timestamp": {fmt.Sprint(at)},
			"Webhook-Signature": {strings.Join(want, " ")},
			"X-Team":            {"a", "b"},
		}, got.Header)
		require.Equal(t, body, got.Body)
		require.Equal(t, "POST", got.Method)
	})
}

func TestNothingIsSentUnsigned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		b.hook("a", func(w *postrider.Webhook) { w.Secrets[0].ExpiresAt = time.Now() })
		id := b.emit("e", "x")
		b.runFor(time.Minute)
		require.Empty(t, b.times())
		v, attempts := b.delivery(id)
		require.Equal(t, postrider.StatusInProcess, v.Status)
		require.Equal(t, "The webhook has no secret that has not expired", attempts[0].Error)
		require.Equal(t, 1, strings.Count(b.log.String(), "no live secret"), "logged once for the webhook")
	})
}

func TestUnsendableWebhookIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		// Past the dispatcher, as another version might have stored it.
		require.NoError(t, b.store.CreateWebhook(t.Context(), postrider.Webhook{
			ID: "a", Name: "a", URL: "http://a.example/?token=hidden", Events: []string{"*"},
			Header: http.Header{"transfer-encoding": {"chunked"}}, Secrets: []postrider.Secret{postrider.NewSecret()},
		}))
		id := b.emit("e", "x")
		b.runFor(time.Second)
		require.Empty(t, b.times())
		_, attempts := b.delivery(id)
		require.Equal(t, "The URL or the headers of the webhook cannot be sent", attempts[0].Error)
		require.Contains(t, b.log.String(), "webhook cannot be sent to")
		require.NotContains(t, b.log.String(), "hidden")
	})
}

func TestSuccessRule(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		rule  postrider.Success
		resp  postrider.Response
		class postrider.Class
		code  int
	}{
		{"any 2xx", postrider.Success{}, postrider.Response{Code: 299}, postrider.ClassNone, 299},
		{"no 3xx", postrider.Success{}, postrider.Response{Code: 301}, postrider.ClassStatus, 301},
		{"its own codes", postrider.Success{Codes: []string{"3xx", "418"}}, postrider.Response{Code: 418}, postrider.ClassNone, 418},
		{"no others", postrider.Success{Codes: []string{"3xx", "418"}}, postrider.Response{Code: 200}, postrider.ClassStatus, 200},
		{"the header", postrider.Success{Header: "x-ok"}, postrider.Response{Code: 200, Header: http.Header{"X-Ok": {""}}}, postrider.ClassNone, 200},
		{"no header", postrider.Success{Header: "X-Ok"}, postrider.Response{Code: 200}, postrider.ClassRule, 200},
		{"no answer in it", postrider.Success{}, postrider.Response{}, postrider.ClassProtocol, 0},
		{"no code in it", postrider.Success{}, postrider.Response{Code: 2000}, postrider.ClassProtocol, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil, postrider.Config{}, func(context.Context, postrider.Request) (postrider.Response, error) { return c.resp, nil })
				b.hook("a", func(w *postrider.Webhook) { w.Success = c.rule })
				id := b.emit("e", "x")
				b.runFor(time.Second)
				_, attempts := b.delivery(id)
				require.Equal(t, c.class, attempts[0].Class)
				require.Equal(t, c.code, attempts[0].Code)
			})
		})
	}
}

func TestBodyOfACustomSenderIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		body := bytes.Repeat([]byte("x"), postrider.MaxBody+1)
		b := newBench(t, nil, postrider.Config{}, func(context.Context, postrider.Request) (postrider.Response, error) {
			return postrider.Response{Code: 200, Body: body}, nil
		})
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Second)
		_, attempts := b.delivery(id)
		require.Len(t, attempts[0].Body, postrider.MaxBody)
		require.True(t, attempts[0].Truncated)
	})
}

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

func TestClaimsThatArriveAfterTheEndAreReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &faulty{Store: memstore.New(memstore.Options{})}
		store.claim = func(ctx context.Context, r postrider.ClaimRequest) ([]postrider.Claim, time.Duration, error) {
			claims, wait, err := store.Store.Claim(ctx, r)
			time.Sleep(100 * time.Millisecond)
			return claims, wait, err
		}
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(50 * time.Millisecond)
		require.Empty(t, b.times())
		v, _ := b.delivery(id)
		require.False(t, v.InFlight)
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
