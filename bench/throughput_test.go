package bench_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

var (
	events = flag.Int("events", 40_000, "events of each part of the throughput benchmark")
	parts  = flag.String("parts", "bare,drain,fake,single,single64", "parts of the throughput benchmark to run")
)

const (
	hooks      = 50
	inFlight   = 64
	emitters   = 16
	batch      = 1000
	payloadLen = 1024
)

var types = []string{"invoice.created", "invoice.paid", "customer.updated", "payment.failed"}

// BenchmarkThroughput sends to one receiver in a second process, from here in turn
//
//	bare    a loop without a store: Transport.RoundTrip under a context deadline, the URL prepared, the same headers,
//	        a signature made for each request, 64 in flight: the yardstick
//	drain   a backlog on bolt, until every outcome is on disk
//	all     the EmitAll calls of 1000 that make this backlog, from one goroutine
//	fake    as drain, but the Sender answers at once: what is not HTTP
//	single  single Emits from 16 goroutines with delivery at once, from the first Emit until every outcome is on disk
//	single64  as single, from 64 goroutines
//
// and reports events a second, their ratio to bare, and allocations an event. There are 50 webhooks, each in a project
// of its own, so that an event is a delivery; 4 event types; payloads of 1 KiB of JSON; the default Config, but 64
// requests in flight to a webhook. A CPU profile tells the parts apart by the label part.
func BenchmarkThroughput(b *testing.B) {
	n, count := *events, *rounds
	if quick() {
		n, count = 2000, 1
	}
	n = max(n/batch, 1) * batch
	w := newWork(b, startReceiver(b))
	results := map[string]series{}
	for b.Loop() {
		for range count {
			w.round(b, n, results)
		}
	}
	bare, known := results["bare"], len(results["bare"]) > 0
	var text strings.Builder
	for _, part := range []string{"bare", "drain", "all", "fake", "single", "single64"} {
		rate := results[part]
		if len(rate) == 0 {
			continue
		}
		line := fmt.Sprintf("%s: %s events/s, %.1f µs of CPU here, %.1f allocations and %.0f bytes an event", part, rate,
			results[part+" cpu"].median(), results[part+" allocs"].median(), results[part+" bytes"].median())
		if known && part != "bare" {
			ratios := make(series, len(rate))
			for i := range rate {
				ratios[i] = rate[i] / bare[i]
			}
			line += fmt.Sprintf(", %.2f of bare", ratios.median())
			b.ReportMetric(ratios.median(), part+"/bare")
		}
		text.WriteString("- " + line + "\n")
		b.ReportMetric(rate.median(), part+"/s")
	}
	b.ReportMetric(0, "ns/op")
	publish(b, "throughput", text.String())
}

// work is what all parts share.
type work struct {
	webhooks []postrider.Webhook
	payloads [][]byte
}

func newWork(b *testing.B, base string) *work {
	b.Helper()
	w := &work{}
	for i := range hooks {
		w.webhooks = append(w.webhooks, postrider.Webhook{
			Project: fmt.Sprintf("tenant-%d", i),
			Name:    "all",
			URL:     fmt.Sprintf("%s/hooks/%d", base, i),
			Events:  types,
			Secrets: []postrider.Secret{postrider.NewSecret()},
		})
	}
	for i := range 64 {
		w.payloads = append(w.payloads, payload(b, i))
	}
	return w
}

// payload returns 1 KiB of JSON as events have it.
func payload(b *testing.B, i int) []byte {
	b.Helper()
	v := map[string]any{
		"id": uuid.NewString(), "object": "invoice", "amount_due": 1999 + i, "currency": "eur", "paid": i%2 == 0,
		"customer": map[string]any{"id": "cus_" + strconv.Itoa(i), "email": "someone@example.com", "tags": []string{"a", "b", "c"}},
		"lines":    []any{map[string]any{"sku": "A-1", "n": 3, "price": 12.5}, map[string]any{"sku": "B-2", "n": 1, "price": 0.25}},
		"note":     "",
	}
	short, err := json.Marshal(v)
	require.NoError(b, err)
	v["note"] = strings.Repeat("All is well. ", payloadLen)[:payloadLen-len(short)]
	full, err := json.Marshal(v)
	require.NoError(b, err)
	require.Len(b, full, payloadLen)
	return full
}

// event returns the event number i. Neighbours are of different webhooks and types.
func (w *work) event(i int) postrider.Event {
	return postrider.Event{
		Project: w.webhooks[i%hooks].Project,
		Type:    types[i/hooks%len(types)],
		Payload: w.payloads[i%len(w.payloads)],
	}
}

func (w *work) round(b *testing.B, n int, results map[string]series) {
	for _, part := range strings.Split(*parts, ",") {
		switch part {
		case "bare":
			w.bare(b, n, results)
		case "drain":
			w.drain(b, n, results)
		case "fake":
			w.fake(b, n, results)
		case "single":
			w.single(b, part, emitters, n, results)
		case "single64":
			w.single(b, part, 64, n, results)
		}
	}
}

// measure runs f and enters its rate and allocations.
func measure(results map[string]series, part string, n int, f func(ctx context.Context)) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	cpu := cpuTime(os.Getpid())
	start := time.Now()
	pprof.Do(context.Background(), pprof.Labels("part", part), f)
	took := time.Since(start)
	cpu = cpuTime(os.Getpid()) - cpu
	runtime.ReadMemStats(&after)
	add := func(name string, v float64) { results[name] = append(results[name], v) }
	add(part, float64(n)/took.Seconds())
	add(part+" cpu", float64(cpu.Nanoseconds())/1e3/float64(n))
	add(part+" allocs", float64(after.Mallocs-before.Mallocs)/float64(n))
	add(part+" bytes", float64(after.TotalAlloc-before.TotalAlloc)/float64(n))
}

// bare sends without a store.
func (w *work) bare(b *testing.B, n int, results map[string]series) {
	p := newPoster(b, w)
	defer p.close()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7()).String()
	}
	var next, failed atomic.Int64
	measure(results, "bare", n, func(ctx context.Context) {
		var loops sync.WaitGroup
		for range inFlight {
			loops.Go(func() {
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					if p.post(ctx, i%hooks, ids[i], w.payloads[i%len(w.payloads)]) != nil {
						failed.Add(1)
					}
				}
			})
		}
		loops.Wait()
	})
	require.Zero(b, failed.Load())
}

// open returns a dispatcher on a fresh file, with the webhooks in it.
func (w *work) open(b *testing.B) (d *postrider.Dispatcher, shut func()) {
	b.Helper()
	return w.openAt(b, filepath.Join(b.TempDir(), "webhooks.db"), nil)
}

// openAt is open with a path, and a Sender of one's own if it is not nil.
func (w *work) openAt(b *testing.B, path string, sender postrider.Sender) (d *postrider.Dispatcher, shut func()) {
	b.Helper()
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(b, err)
	d, err = postrider.New(store, postrider.Config{MaxInFlight: inFlight, Network: loopback, Sender: sender})
	require.NoError(b, err)
	for _, h := range w.webhooks {
		_, err := d.CreateWebhook(b.Context(), h)
		require.NoError(b, err)
	}
	return d, func() { require.NoError(b, store.Close()) }
}

// until returns once the store counts n deliveries as delivered.
func until(ctx context.Context, d *postrider.Dispatcher, n int) error {
	tick := time.NewTicker(5 * time.Millisecond) // to ask costs too
	defer tick.Stop()
	for {
		s, err := d.Stats(ctx, postrider.StatsQuery{})
		if err != nil || s.Delivered == int64(n) {
			return err
		}
		<-tick.C
	}
}

// drain emits a backlog, and then delivers it.
func (w *work) drain(b *testing.B, n int, results map[string]series) {
	d, shut := w.open(b)
	defer shut()
	var err error
	measure(results, "all", n, func(ctx context.Context) { err = w.backlog(ctx, d, n) })
	require.NoError(b, err)
	measure(results, "drain", n, func(ctx context.Context) {
		err = running(ctx, d, func() error { return until(ctx, d, n) })
	})
	require.NoError(b, err)
}

// backlog emits n events, 1000 a call.
func (w *work) backlog(ctx context.Context, d *postrider.Dispatcher, n int) error {
	list := make([]postrider.Event, batch)
	for i := 0; i < n; i += batch {
		for j := range list {
			list[j] = w.event(i + j)
		}
		if _, err := d.EmitAll(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

// answers is a Sender that answers everything with 200 at once.
type answers struct{}

func (answers) Send(context.Context, postrider.Request) (postrider.Response, error) {
	return postrider.Response{Code: 200}, nil
}

// fake is drain without HTTP.
func (w *work) fake(b *testing.B, n int, results map[string]series) {
	d, shut := w.openAt(b, filepath.Join(b.TempDir(), "webhooks.db"), answers{})
	defer shut()
	require.NoError(b, w.backlog(b.Context(), d, n))
	var err error
	measure(results, "fake", n, func(ctx context.Context) {
		err = running(ctx, d, func() error { return until(ctx, d, n) })
	})
	require.NoError(b, err)
}

// single emits from some goroutines while the dispatcher delivers.
func (w *work) single(b *testing.B, part string, emitters, n int, results map[string]series) {
	d, shut := w.open(b)
	defer shut()
	var err error
	var next, failed atomic.Int64
	measure(results, part, n, func(ctx context.Context) {
		err = running(ctx, d, func() error {
			var loops sync.WaitGroup
			for range emitters {
				loops.Go(func() {
					for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
						if _, err := d.Emit(ctx, w.event(i)); err != nil {
							failed.Add(1)
						}
					}
				})
			}
			loops.Wait()
			if failed.Load() > 0 {
				return fmt.Errorf("%d emits failed", failed.Load())
			}
			return until(ctx, d, n)
		})
	})
	require.NoError(b, err)
}

// running calls f while the dispatcher runs.
func running(ctx context.Context, d *postrider.Dispatcher, f func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- d.Run(ctx) }()
	err := f()
	cancel()
	if e := <-ran; err == nil {
		err = e
	}
	return err
}
