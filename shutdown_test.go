package postrider_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

// rounds is how many shutdowns each test below sees, ten at a time.
func rounds() int {
	if testing.Short() {
		return 20
	}
	return 100
}

// shutdowns calls round so many times, ten at a time, and then looks for goroutines that are left. It is not to be
// called from a parallel test: their goroutines would be seen as well.
func shutdowns(t *testing.T, round func(t *testing.T, i int)) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	for next := 0; next < rounds(); next += 10 {
		var wg sync.WaitGroup
		for i := next; i < next+10; i++ {
			wg.Go(func() { t.Run(fmt.Sprint(i), func(t *testing.T) { round(t, i) }) })
		}
		wg.Wait()
	}
	goleak.VerifyNone(t, before)
}

// receiver counts what it gets by event.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	hits map[string]int
	got  chan struct{} // one for each hit
}

func newReceiver(handle http.HandlerFunc) *receiver {
	r := &receiver{hits: map[string]int{}, got: make(chan struct{}, 1<<10)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		r.mu.Lock()
		r.hits[req.Header.Get("Webhook-Id")]++
		r.mu.Unlock()
		r.got <- struct{}{}
		handle(w, req)
	}))
	return r
}

func (r *receiver) counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	counts := make(map[string]int, len(r.hits))
	for id, n := range r.hits {
		counts[id] = n
	}
	return counts
}

// loaded returns a dispatcher with the HTTP sender of its own, and a store with so many events for the URL.
func loaded(t *testing.T, c postrider.Config, to string, events int) (*postrider.Dispatcher, postrider.Store) {
	t.Helper()
	c.Logger, c.Network = slog.New(slog.DiscardHandler), loopback
	store := memstore.New(memstore.Options{})
	d, err := postrider.New(store, c)
	require.NoError(t, err)
	_, err = d.EnsureWebhook(t.Context(), postrider.Webhook{Name: "a", URL: to, Events: []string{"*"}, MaxInFlight: 16})
	require.NoError(t, err)
	for i := range events {
		_, err := d.Emit(t.Context(), postrider.Event{ID: fmt.Sprint(i), Type: "x", Payload: []byte(`{}`)})
		require.NoError(t, err)
	}
	return d, store
}

func start(d *postrider.Dispatcher) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

func stats(t *testing.T, d *postrider.Dispatcher) postrider.Stats {
	t.Helper()
	s, err := d.Stats(t.Context(), postrider.StatsQuery{})
	require.NoError(t, err)
	return s
}

func TestShutdownUnderLoadLosesAndRepeatsNothing(t *testing.T) {
	shutdowns(t, func(t *testing.T, i int) {
		const events = 60
		r := newReceiver(func(http.ResponseWriter, *http.Request) { <-time.After(50 * time.Millisecond) })
		defer r.Close()
		d, _ := loaded(t, postrider.Config{}, r.URL, events)
		stop := start(d)
		for range 1 + i%20 { // to end at another moment each time
			<-r.got
		}
		require.NoError(t, stop())
		require.Zero(t, stats(t, d).InFlight)

		stop = start(d)
		require.Eventually(t, func() bool { return stats(t, d).Delivered == events }, 20*time.Second, 5*time.Millisecond)
		require.NoError(t, stop())
		counts := r.counts()
		require.Len(t, counts, events)
		for id, n := range counts {
			require.Equal(t, 1, n, "event %s", id)
		}
	})
}

func TestShutdownCutsOffReceiversThatHang(t *testing.T) {
	shutdowns(t, func(t *testing.T, _ int) {
		const drain = 100 * time.Millisecond
		release := make(chan struct{})
		r := newReceiver(func(_ http.ResponseWriter, req *http.Request) {
			select {
			case <-release:
			case <-req.Context().Done():
			}
		})
		defer r.Close()
		d, _ := loaded(t, postrider.Config{Drain: drain}, r.URL, 1)
		for i := range 7 {
			name := fmt.Sprintf("h%d", i)
			_, err := d.EnsureWebhook(t.Context(), postrider.Webhook{Name: name, URL: r.URL, Events: []string{name}})
			require.NoError(t, err)
			_, err = d.Emit(t.Context(), postrider.Event{ID: name, Type: name, Payload: []byte(`{}`)})
			require.NoError(t, err)
		}
		stop := start(d)
		for range 8 { // the first webhook takes every event: one of its in flight, and seven others
			<-r.got
		}
		began := time.Now()
		require.NoError(t, stop())
		require.Less(t, time.Since(began), drain+time.Second)
		cut := r.counts()
		s := stats(t, d)
		require.Zero(t, s.InFlight)
		require.Zero(t, s.AttemptsFailed, "what was cut off does not count")
		require.EqualValues(t, 15, s.New)

		close(release)
		stop = start(d)
		require.Eventually(t, func() bool { return stats(t, d).Delivered == 15 }, 20*time.Second, 5*time.Millisecond)
		require.NoError(t, stop())
		again := 0
		for id, n := range cut {
			again += r.counts()[id] - n
		}
		require.GreaterOrEqual(t, again, 8, "each that was cut off was sent again")
	})
}
