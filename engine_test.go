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

// sent returns when requests with an event began.
func (b *bench) sent(event string) (at []time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.calls {
		if c.event == event {
			at = append(at, c.at)
		}
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
