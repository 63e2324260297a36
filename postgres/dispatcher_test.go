package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/postgres"
)

// A bubble cannot wait for a server: the tests of the dispatcher run in real time, with short schedules. None asserts
// that something is quick; patience only ends a test that fails. It is longer than a lease or two: where the server is
// slow, a dispatcher that is stopped leaves some behind.
const (
	patience = 2 * time.Minute
	longest  = 5 * time.Second // Config.MaxTimeout, for a lease of 35 s
)

// reply plays a receiver.
type reply func(ctx context.Context, r postrider.Request) (postrider.Response, error)

// desk is a dispatcher on a store, whose receivers the test plays.
type desk struct {
	*postrider.Dispatcher
	t     *testing.T
	store *postgres.Store
	*log
}

// log is what the receivers saw.
type log struct {
	mu    sync.Mutex
	calls []call // in the order of their beginnings
}

type call struct {
	postrider.Request
	at   time.Time
	code int
	done bool
}

// newDesk returns a desk on a store of its own.
func newDesk(t *testing.T, c postrider.Config, answer reply) *desk {
	t.Helper()
	return deskOn(t, open(t, settings(t)), c, &log{}, answer)
}

func deskOn(t *testing.T, store *postgres.Store, c postrider.Config, l *log, answer reply) *desk {
	t.Helper()
	c.Sender = senderFunc(func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
		l.mu.Lock()
		n := len(l.calls)
		l.calls = append(l.calls, call{Request: r, at: time.Now()})
		l.mu.Unlock()
		resp, err := answer(ctx, r)
		l.mu.Lock()
		l.calls[n].code, l.calls[n].done = resp.Code, true
		l.mu.Unlock()
		return resp, err
	})
	if c.Retry == nil {
		c.Retry = postrider.Schedule{20 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond}
	}
	c.Timeout, c.MaxTimeout = longest, longest
	c.Logger = slog.New(slog.DiscardHandler)
	d, err := postrider.New(store, c)
	require.NoError(t, err)
	return &desk{d, t, store, l}
}

type senderFunc func(ctx context.Context, r postrider.Request) (postrider.Response, error)

func (f senderFunc) Send(ctx context.Context, r postrider.Request) (postrider.Response, error) {
	return f(ctx, r)
}

// codes answers with them in turn, for each delivery anew; the last stays.
func codes(list ...int) reply {
	return func(_ context.Context, r postrider.Request) (postrider.Response, error) {
		code := list[min(r.Attempt, len(list))-1]
		return postrider.Response{Code: code, Body: fmt.Appendf(nil, "answer %d", r.Attempt)}, nil
	}
}

func hang(ctx context.Context, _ postrider.Request) (postrider.Response, error) {
	<-ctx.Done()
	return postrider.Response{}, ctx.Err()
}

func (d *desk) hook(id string, edit ...func(*postrider.Webhook)) postrider.Webhook {
	d.t.Helper()
	w, err := d.CreateWebhook(d.t.Context(), hook(id, edit...))
	require.NoError(d.t, err)
	return w
}

// only has a webhook get what is of the type that is its ID.
func only(w *postrider.Webhook) { w.Events = []string{w.ID} }

// emit emits n events of a type, with IDs that begin with it, and returns the IDs of the deliveries.
func (d *desk) emit(typ string, n int) (ids []string) {
	d.t.Helper()
	events := make([]postrider.Event, n)
	for i := range events {
		events[i] = postrider.Event{Project: "p", Type: typ, Payload: []byte(`{}`)}
	}
	receipts, err := d.EmitAll(d.t.Context(), events)
	require.NoError(d.t, err)
	for _, r := range receipts {
		ids = append(ids, r.Deliveries...)
	}
	return ids
}

// run runs the dispatcher until stop is called, at the latest at the end of the test.
func (d *desk) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(d.t, <-ended)
	})
	d.t.Cleanup(stop)
	return stop
}

// ends waits for deliveries to end and requires that they do so with the status.
func (d *desk) ends(status postrider.Status, ids ...string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	for _, id := range ids {
		v, err := d.AwaitDelivery(ctx, id)
		require.NoError(d.t, err)
		require.Equal(d.t, status.String(), v.Status.String(), "%+v", v)
	}
}

// until waits for something to be so.
func (d *desk) until(what string, so func() bool) {
	d.t.Helper()
	require.Eventually(d.t, so, patience, 5*time.Millisecond, what)
}

// seen returns the calls so far, of one webhook unless the ID is empty.
func (l *log) seen(webhookID string) (list []call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.calls {
		if webhookID == "" || c.WebhookID == webhookID {
			list = append(list, c)
		}
	}
	return list
}

func TestAttemptsAndAnswersAreRecorded(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{}, codes(500, 404, 200))
	d.hook("a", func(w *postrider.Webhook) { w.Header = map[string][]string{"X-Own": {"1"}} })
	ids := d.emit("t", 1)
	d.run()
	d.ends(postrider.StatusDelivered, ids...)
	v, attempts, err := d.store.Delivery(t.Context(), ids[0])
	require.NoError(t, err)
	require.Equal(t, 3, v.Attempts)
	require.Len(t, attempts, 3)
	for i, code := range []int{500, 404, 200} {
		a := &attempts[i]
		require.Equal(t, i+1, a.Number)
		require.Equal(t, code, a.Code)
		require.Equal(t, fmt.Sprint("answer ", i+1), string(a.Body))
		require.Equal(t, code != 200, a.Failed)
		require.Equal(t, code != 200, !a.NextAt.IsZero())
		if i > 0 {
			wait := 20 * time.Millisecond << (i - 1)
			require.GreaterOrEqual(t, a.StartedAt.Sub(attempts[i-1].StartedAt), wait)
		}
	}
	for _, c := range d.seen("") {
		require.Equal(t, "1", c.Header.Get("X-Own"))
		require.NotEmpty(t, c.Header.Get("Webhook-Signature"))
		require.Equal(t, v.EventID, c.Header.Get("Webhook-Id"))
	}
	page, err := d.Attempts(t.Context(), postrider.AttemptQuery{DeliveryID: ids[0]})
	require.NoError(t, err)
	require.Len(t, page.Items, 3)
	require.Equal(t, attempts[2], page.Items[0], "the newest first")
}

func TestDeliveryFailsWhenItsScheduleIsOver(t *testing.T) {
	t.Parallel()
	d := newDesk(t, postrider.Config{}, codes(503))
	d.hook("a")
	ids := d.emit("t", 1)
	d.run()
	d.ends(postrider.StatusFailed, ids...)
	v, err := d.Delivery(t.Context(), ids[0])
	require.NoError(t, err)
	require.Equal(t, 4, v.Attempts)
	require.Equal(t, 503, v.LastCode)
	require.Equal(t, postrider.ClassStatus, v.LastClass)
	require.Len(t, d.seen(""), 4)
}

func TestEmittedTwiceIsDeliveredOnce(t *testing.T) {
	t.Parallel()
	o := settings(t)
	here := deskOn(t, open(t, o), postrider.Config{}, &log{}, codes(200))
	there := deskOn(t, open(t, o), postrider.Config{}, here.log, codes(200))
	here.hook("a")
	here.hook("b")
	const events, emitters = 20, 8
	var wg sync.WaitGroup
	var mu sync.Mutex
	made := map[string]int{}
	for g := range emitters {
		wg.Go(func() {
			for i := range events {
				d := []*desk{here, there}[(g+i)%2]
				r, err := d.Emit(t.Context(), postrider.Event{ID: fmt.Sprint(i), Project: "p", Type: "t", Payload: []byte(`{}`)})
				if err != nil {
					t.Errorf("emit: %v", err)
					return
				}
				mu.Lock()
				for _, id := range r.Deliveries {
					made[id]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, made, 2*events)
	here.run()
	there.run()
	for id := range made {
		here.ends(postrider.StatusDelivered, id)
	}
	require.Len(t, here.seen(""), 2*events)
}

func TestShutdownDrainsCutsOffAndReleases(t *testing.T) {
	t.Parallel()
	cut := true
	c := postrider.Config{Drain: 500 * time.Millisecond}
	d := newDesk(t, c, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
		if r.WebhookID == "silent" && cut {
			return hang(ctx, r)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
		return postrider.Response{Code: 200}, ctx.Err()
	})
	d.hook("slow", only)
	d.hook("silent", only)
	slow, silent := d.emit("slow", 1), d.emit("silent", 1)
	stop := d.run()
	d.until("both are under way", func() bool { return len(d.seen("")) == 2 })
	stop()
	d.ends(postrider.StatusDelivered, slow...)
	v, err := d.Delivery(t.Context(), silent[0])
	require.NoError(t, err)
	require.Equal(t, postrider.StatusNew, v.Status)
	require.False(t, v.InFlight, "it is given back: nobody waits for a lease")
	require.Zero(t, v.Attempts)

	cut = false // nothing runs
	d.run()
	d.ends(postrider.StatusDelivered, silent...)
	require.Len(t, d.seen("silent"), 2)
	require.Equal(t, 1, d.seen("silent")[1].Attempt, "what was cut off is not counted")
}

func TestSilentReceiversHoldUpNobody(t *testing.T) {
	t.Parallel()
	let := make(chan struct{})
	c := postrider.Config{Concurrency: 8}
	d := newDesk(t, c, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
		if r.WebhookID != "healthy" {
			select {
			case <-let:
			case <-ctx.Done():
				return postrider.Response{}, ctx.Err()
			}
		}
		return postrider.Response{Code: 200}, nil
	})
	d.hook("healthy", only)
	var silent []string
	for i := range 20 {
		id := fmt.Sprint("silent", i)
		d.hook(id, only)
		silent = append(silent, d.emit(id, 10)...)
	}
	healthy := d.emit("healthy", 50)
	d.run()
	d.ends(postrider.StatusDelivered, healthy...)
	for i := range 20 {
		require.LessOrEqual(t, len(d.seen(fmt.Sprint("silent", i))), 1, "until the first success one at a time")
	}
	close(let)
	d.ends(postrider.StatusDelivered, silent...)
	require.Len(t, d.seen(""), 250, "nothing was sent twice")
}

// Two dispatchers are two processes to the store, whether or not they share a pool. One is stopped and started again.
func TestDispatchersShareTheWork(t *testing.T) {
	t.Parallel()
	for _, pools := range []int{1, 2} {
		t.Run(fmt.Sprint(pools, " pools"), func(t *testing.T) {
			t.Parallel()
			const hooks, events, most = 4, 100, 3
			o := settings(t)
			var mu sync.Mutex
			flying, worst := map[string]int{}, 0
			seen := &log{}
			answer := func(_ context.Context, r postrider.Request) (postrider.Response, error) {
				mu.Lock()
				flying[r.WebhookID]++
				worst = max(worst, flying[r.WebhookID])
				mu.Unlock()
				time.Sleep(2 * time.Millisecond)
				mu.Lock()
				flying[r.WebhookID]--
				mu.Unlock()
				return postrider.Response{Code: 200}, nil
			}
			stores := []*postgres.Store{open(t, o), open(t, o)}
			if pools == 2 {
				var err error
				stores[1], err = postgres.New(anotherPool(t), o)
				require.NoError(t, err)
			}
			var desks []*desk
			for _, s := range stores {
				desks = append(desks, deskOn(t, s, postrider.Config{MaxInFlight: most}, seen, answer))
			}
			for i := range hooks {
				desks[0].hook(fmt.Sprint("h", i))
			}
			ids := desks[0].emit("t", events/2)
			stop := desks[0].run()
			desks[1].run()
			ids = append(ids, desks[1].emit("t", events/2)...)
			desks[0].until("some have ended", func() bool { return len(seen.seen("")) > hooks*events/4 })
			stop()
			desks[0].run()
			desks[0].ends(postrider.StatusDelivered, ids...)
			require.Len(t, ids, hooks*events)
			require.Len(t, seen.seen(""), hooks*events, "nothing was sent twice")
			require.LessOrEqual(t, worst, most, "in flight at one webhook, over both")
		})
	}
}

// What a store has forgotten with its process, another one finds.
func TestRestartGoesOnWithWhatWaits(t *testing.T) {
	t.Parallel()
	o := settings(t)
	var first *desk
	var ids []string
	for run, code := range []int{500, 200} {
		s := open(t, o)
		c := postrider.Config{Retry: postrider.Schedule{time.Second, time.Second}}
		d := deskOn(t, s, c, &log{}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			return postrider.Response{Code: code}, nil
		})
		if run == 0 {
			first = d
			d.hook("a")
			ids = d.emit("t", 5)
		}
		stop := d.run()
		if run == 0 {
			d.until("each was tried once", func() bool { return len(d.seen("")) == len(ids) })
		} else {
			d.ends(postrider.StatusDelivered, ids...)
			for _, c := range d.seen("") {
				require.Equal(t, 2, c.Attempt)
			}
		}
		stop()
		require.NoError(t, s.Close())
	}
	_, err := first.Delivery(t.Context(), ids[0])
	require.ErrorIs(t, err, postrider.ErrClosed)
}
