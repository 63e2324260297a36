package bench_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

var waiting = flag.Int("waiting", 1_000_000, "deliveries that wait behind the dead webhooks of the backlog benchmark")

const (
	deadHooks   = 30
	liveHooks   = 100
	liveRate    = 100 // events a second, to all live webhooks together
	quickToFail = 500 * time.Millisecond
)

// BenchmarkBacklog measures what a long backlog behind dead webhooks costs the others: 100 live webhooks get 100
// events a second together, once alone and once beside 30 that never answer, with a million due deliveries behind
// them. Half of the 30 time out after the default 15 s, and half after 0.5 s, so that their breakers trip within the
// run and try again. It reports the time from Emit to receipt, the most requests that were in flight at a dead
// webhook, the records that a trip wrote, and the largest heap.
func BenchmarkBacklog(b *testing.B) {
	count, backlog, length := *rounds, *waiting, 30*time.Second
	if quick() {
		count, backlog, length = 1, 3000, 3*time.Second
	}
	alone, beside := map[string]series{}, map[string]series{}
	for b.Loop() {
		for i := range count {
			first, second := 0, backlog
			if i%2 == 1 {
				first, second = second, first
			}
			for _, n := range []int{first, second} {
				if n == 0 {
					backlogged(b, 0, length, alone)
				} else {
					backlogged(b, n, length, beside)
				}
			}
		}
	}
	rows := []string{"p50-us", "p99-us", "max-us", "in-flight", "trips", "trip-records", "heap-MiB"}
	publish(b, "backlog", sideBySide(rows, fmt.Sprintf("beside %d waiting", backlog), alone, beside))
	b.ReportMetric(beside["p99-us"].median()/alone["p99-us"].median(), "beside/alone")
	b.ReportMetric(beside["heap-MiB"].median(), "heap-MiB")
	b.ReportMetric(beside["trip-records"].median(), "trip-records")
	b.ReportMetric(0, "ns/op")
}

func backlogged(b *testing.B, backlog int, length time.Duration, results map[string]series) {
	ward := &ward{clinic: newClinic()}
	ward.Config.Handler = ward
	defer ward.close()
	file, err := bolt.Open(filepath.Join(b.TempDir(), "webhooks.db"), bolt.Options{})
	require.NoError(b, err)
	store := &counting{Store: file, trips: map[string]int{}}
	defer func() { require.NoError(b, store.Close()) }()
	d, err := postrider.New(store, postrider.Config{Drain: time.Nanosecond, Network: loopback})
	require.NoError(b, err)
	ward.enroll(b, d)
	for i := range deadHooks {
		name := fmt.Sprintf("dead-%d", i)
		w := postrider.Webhook{Name: name, URL: ward.URL + "/" + name, Events: []string{name}}
		if i%2 == 1 {
			w.Timeout = quickToFail
		}
		_, err := d.CreateWebhook(b.Context(), w)
		require.NoError(b, err)
		for left := backlog / deadHooks; left > 0; left -= 10_000 {
			fill(b, d, name, min(left, 10_000))
		}
	}
	runtime.GC()
	stop := make(chan struct{})
	var watch sync.WaitGroup
	var heap uint64
	watch.Go(func() {
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			heap = max(heap, m.HeapAlloc)
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	n := int(length.Seconds() * liveRate)
	err = running(b.Context(), d, func() error { return ward.feed(b.Context(), d, n, liveRate, liveHooks) })
	close(stop)
	watch.Wait()
	require.NoError(b, err)
	latencies := ward.sorted()
	require.Len(b, latencies, n)
	at := func(share float64) float64 { return float64(latencies[int(share*float64(n-1))].Microseconds()) }
	trips, records := store.worst()
	for name, v := range map[string]float64{
		"p50-us": at(0.5), "p99-us": at(0.99), "max-us": at(1), "in-flight": float64(ward.most.Load()),
		"trips": float64(trips), "trip-records": float64(records), "heap-MiB": float64(heap) / (1 << 20),
	} {
		results[name] = append(results[name], v)
	}
}

// ward is a clinic that counts how many requests each dead webhook has in flight.
type ward struct {
	*clinic
	beds [deadHooks]atomic.Int64
	most atomic.Int64
}

func (w *ward) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var i int
	if _, err := fmt.Sscanf(r.URL.Path, "/dead-%d", &i); err != nil {
		w.clinic.ServeHTTP(rw, r)
		return
	}
	n := w.beds[i].Add(1)
	defer w.beds[i].Add(-1)
	for most := w.most.Load(); n > most && !w.most.CompareAndSwap(most, n); most = w.most.Load() {
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w.hang(r.Context(), time.Hour)
}

// enroll makes the live webhooks.
func (w *ward) enroll(b *testing.B, d *postrider.Dispatcher) {
	b.Helper()
	for i := range liveHooks {
		name := fmt.Sprintf("healthy-%d", i)
		_, err := d.CreateWebhook(b.Context(), postrider.Webhook{Name: name, URL: w.URL + "/" + name, Events: []string{name}})
		require.NoError(b, err)
	}
}

// counting is a store that counts what the tripping of a breaker writes: the outcomes and changes of the webhook in
// the call after which its breaker had tripped once more, and what was changed of it by other calls meanwhile.
type counting struct {
	postrider.Store

	mu      sync.Mutex
	trips   map[string]int // by webhook, as of the last look
	n       int
	records int // of the trip that wrote most
	changed int // by calls other than Complete
}

func (s *counting) Complete(ctx context.Context, outcomes []postrider.Outcome) (int, error) {
	records := map[string]int{}
	for i := range outcomes {
		if a := outcomes[i].Attempt; a != nil && outcomes[i].Webhook != nil {
			records[a.WebhookID] += 2 // the attempt with its delivery, and the webhook
		}
	}
	n, err := s.Store.Complete(ctx, outcomes)
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, written := range records {
		if w, err := s.Store.Webhook(ctx, id); err == nil && w.Trips > s.trips[id] {
			s.trips[id] = w.Trips
			s.n++
			s.records = max(s.records, written+s.changed)
		}
	}
	return n, err
}

func (s *counting) Change(ctx context.Context, c postrider.Change) (int, bool, error) {
	n, more, err := s.Store.Change(ctx, c)
	s.note(n)
	return n, more, err
}

func (s *counting) UpdateWebhook(ctx context.Context, w postrider.Webhook) error {
	s.note(1)
	return s.Store.UpdateWebhook(ctx, w)
}

func (s *counting) note(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed += n
}

func (s *counting) worst() (trips, records int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n, s.records
}
