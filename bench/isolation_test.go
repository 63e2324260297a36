package bench_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

const (
	healthyHooks = 90
	silentHooks  = 30
	slowHooks    = 10
	slowAnswer   = 10 * time.Second
	healthyRate  = 450 // events a second, to all healthy webhooks together
	healthyLoops = 9   // goroutines that emit them
)

// BenchmarkIsolation measures what bad receivers cost the others. 90 webhooks get events at a fixed rate, once alone
// and once beside 30 whose receiver never answers and 10 that take 10 s for each answer, with thousands of deliveries
// waiting behind each of the 40 from the start. It reports the time from Emit to receipt and the attempts a second of
// the 90, of both. Of the default Config nothing is changed: the 40 time out after 15 s.
func BenchmarkIsolation(b *testing.B) {
	count, backlog, length := *rounds, 2000, 30*time.Second
	if quick() {
		count, backlog, length = 1, 100, time.Second
	}
	alone, beside := map[string]series{}, map[string]series{}
	for b.Loop() {
		for i := range count {
			// In turn, so that neither is always the first.
			if i%2 == 0 {
				isolated(b, false, backlog, length, alone)
				isolated(b, true, backlog, length, beside)
			} else {
				isolated(b, true, backlog, length, beside)
				isolated(b, false, backlog, length, alone)
			}
		}
	}
	publish(b, "isolation", sideBySide([]string{"p50-us", "p99-us", "max-us", "attempts/s"}, "beside bad ones", alone, beside))
	ratios := make(series, len(alone["p99-us"]))
	for i := range ratios {
		ratios[i] = beside["p99-us"][i] / alone["p99-us"][i]
	}
	b.ReportMetric(alone["p99-us"].median(), "alone-p99-us")
	b.ReportMetric(beside["p99-us"].median(), "beside-p99-us")
	b.ReportMetric(beside["p99-us"].median()/alone["p99-us"].median(), "beside/alone")
	b.ReportMetric(0, "ns/op")
	b.Logf("p99 beside bad ones %.2f times that alone; by round %.2f", beside["p99-us"].median()/alone["p99-us"].median(), []float64(ratios))
}

// sideBySide is a table of what was measured without and with something.
func sideBySide(rows []string, with string, alone, beside map[string]series) string {
	var table strings.Builder
	writeHeading(&table, []string{"", "alone", with})
	for _, name := range rows {
		writeRow(&table, []string{name, alone[name].String(), beside[name].String()})
	}
	return table.String()
}

// isolated is one run.
func isolated(b *testing.B, bad bool, backlog int, length time.Duration, results map[string]series) {
	r := newClinic()
	defer r.close()
	store, err := bolt.Open(filepath.Join(b.TempDir(), "webhooks.db"), bolt.Options{})
	require.NoError(b, err)
	defer func() { require.NoError(b, store.Close()) }()
	d, err := postrider.New(store, postrider.Config{Drain: time.Nanosecond, Network: loopback})
	require.NoError(b, err)
	create := func(name string) {
		_, err := d.CreateWebhook(b.Context(), postrider.Webhook{Name: name, URL: r.URL + "/" + name, Events: []string{name}})
		require.NoError(b, err)
	}
	for i := range healthyHooks {
		create(fmt.Sprintf("healthy-%d", i))
	}
	if bad {
		for i := range silentHooks {
			create(fmt.Sprintf("silent-%d", i))
			fill(b, d, fmt.Sprintf("silent-%d", i), backlog)
		}
		for i := range slowHooks {
			create(fmt.Sprintf("slow-%d", i))
			fill(b, d, fmt.Sprintf("slow-%d", i), backlog)
		}
	}
	var took time.Duration
	n := int(length.Seconds() * healthyRate)
	err = running(b.Context(), d, func() error {
		start := time.Now()
		defer func() { took = time.Since(start) }()
		return r.feed(b.Context(), d, n, healthyRate, healthyHooks)
	})
	require.NoError(b, err)
	latencies := r.sorted()
	require.Len(b, latencies, n)
	at := func(share float64) float64 { return float64(latencies[int(share*float64(n-1))].Microseconds()) }
	add := func(name string, v float64) { results[name] = append(results[name], v) }
	add("p50-us", at(0.5))
	add("p99-us", at(0.99))
	add("max-us", at(1))
	add("attempts/s", float64(n)/took.Seconds())
}

func fill(b *testing.B, d *postrider.Dispatcher, typ string, n int) {
	b.Helper()
	list := make([]postrider.Event, n)
	for i := range list {
		list[i] = postrider.Event{Type: typ, Payload: []byte(`{"waiting":true}`)}
	}
	_, err := d.EmitAll(b.Context(), list)
	require.NoError(b, err)
}

// clinic is a receiver with healthy, slow and silent endpoints. It notes when a healthy one got which event first.
type clinic struct {
	*httptest.Server
	closing chan struct{}

	mu      sync.Mutex
	emitted map[string]time.Time
	took    []time.Duration
	all     chan struct{} // buffered(1): another receipt
}

func newClinic() *clinic {
	c := &clinic{closing: make(chan struct{}), emitted: map[string]time.Time{}, all: make(chan struct{}, 1)}
	c.Server = httptest.NewServer(c)
	return c
}

func (c *clinic) close() {
	close(c.closing)
	c.Server.Close()
}

func (c *clinic) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	_, _ = io.Copy(io.Discard, r.Body)
	switch {
	case strings.HasPrefix(r.URL.Path, "/healthy"):
		c.receipt(r.Header.Get("Webhook-Id"), now)
	case strings.HasPrefix(r.URL.Path, "/slow"):
		c.hang(r.Context(), slowAnswer)
	default:
		c.hang(r.Context(), time.Hour)
	}
}

func (c *clinic) hang(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-c.closing:
	}
}

func (c *clinic) receipt(id string, now time.Time) {
	c.mu.Lock()
	if at, ok := c.emitted[id]; ok {
		c.took = append(c.took, now.Sub(at))
		delete(c.emitted, id)
	}
	c.mu.Unlock()
	select {
	case c.all <- struct{}{}:
	default:
	}
}

func (c *clinic) received() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.took)
}

func (c *clinic) sorted() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(slices.Values(c.took))
}

// feed emits n events at the rate, to that many webhooks in turn, and returns when all were received. Their time runs
// from when pace says.
func (c *clinic) feed(ctx context.Context, d *postrider.Dispatcher, n, rate, hooks int) error {
	body := []byte(`{"note":"` + string(bytes.Repeat([]byte("x"), 1000)) + `"}`)
	unique, before := time.Now().UnixNano(), c.received()
	err := pace(ctx, n, rate, healthyLoops, func(i int, from time.Time) error {
		id := fmt.Sprintf("event-%d-%08d", unique, i)
		c.mu.Lock()
		c.emitted[id] = from
		c.mu.Unlock()
		_, err := d.Emit(ctx, postrider.Event{ID: id, Type: fmt.Sprintf("healthy-%d", i%hooks), Payload: body})
		return err
	})
	for err == nil && c.received() < before+n {
		<-c.all
	}
	return err
}
