package bench_test

import (
	"bytes"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

var manyHooks = flag.Int("webhooks", 100_000, "webhooks of the benchmark of many webhooks")

const spaceBatch = 100

// BenchmarkWebhooks has -webhooks of them in one file, half of them in one project, the others each in a project of its
// own with one more, and reports
//
//	match-one-us   Enqueue of an event of the large project that one of its webhooks wants, p50
//	match-none-us  the same of an event that none wants: the matching alone, since nothing is written
//	match-small-us the same in a small project
//	claim-us       Claim of 64 while every tenth webhook has three deliveries, p50
//	unfair         by how many deliveries a webhook was ahead of another at most, until each had had one
//	fan-out-ms     Enqueue of one event with 256 KiB to a tenth of the webhooks, p50
//	fan-out-B      bytes that it adds to the file for each of them, the payload included, before any is delivered
//	list-us        a page of all deliveries then, p50, new-us of those that are NEW, and stats-us Stats
//	open-ms        Open after Close
//	heap-MiB       with all that open
//
// With -benchtime 1x there are a hundredth of the webhooks.
func BenchmarkWebhooks(b *testing.B) {
	n, rounds := *manyHooks, 300
	if quick() {
		n, rounds = max(n/100, 100), 3
	}
	m := &metrics{}
	for b.Loop() {
		benchmarkWebhooks(b, m, n, rounds)
	}
	m.publish(b, "webhooks", fmt.Sprintf("%d webhooks", n))
}

// metrics are what a benchmark has measured, by unit, in the order in which they came.
type metrics struct {
	units  []string
	values map[string]float64
}

func (m *metrics) add(value float64, unit string) {
	if m.values == nil {
		m.values = map[string]float64{}
	}
	if _, again := m.values[unit]; !again {
		m.units = append(m.units, unit)
	}
	m.values[unit] = value
}

// publish reports them and writes them into a section.
func (m *metrics) publish(b *testing.B, section, title string) {
	b.Helper()
	var table strings.Builder
	writeHeading(&table, []string{title, ""})
	for _, unit := range m.units {
		writeRow(&table, []string{unit, strconv.FormatFloat(m.values[unit], 'g', 4, 64)})
		b.ReportMetric(m.values[unit], unit)
	}
	publish(b, section, table.String(), required(map[string]string{"go.etcd.io/bbolt": "bbolt"})...)
	b.ReportMetric(0, "ns/op")
}

func benchmarkWebhooks(b *testing.B, m *metrics, n, rounds int) {
	path := filepath.Join(b.TempDir(), "webhooks.db")
	createMany(b, path, n)
	start := time.Now()
	store, err := bolt.Open(path, bolt.Options{})
	require.NoError(b, err)
	m.add(micros(time.Since(start))/1e3, "open-ms")
	defer func() { require.NoError(b, store.Close()) }()
	m.add(float64(heap())/(1<<20), "heap-MiB")

	enqueue := func(project, eventType string, payload []byte) (time.Duration, int) {
		start := time.Now()
		receipts, err := store.Enqueue(b.Context(), []postrider.Item{{Event: postrider.Event{
			ID: uuid.Must(uuid.NewV7()).String(), Project: project, Type: eventType, Payload: payload, ContentType: "text/plain",
		}}})
		took := time.Since(start)
		require.NoError(b, err)
		return took, len(receipts[0].Deliveries)
	}
	small := make([]byte, scalePayload)
	p50 := func(name string, unit time.Duration, want int, f func(i int) (time.Duration, int)) {
		took := make([]time.Duration, rounds)
		for i := range took {
			var got int
			took[i], got = f(i)
			require.Equal(b, want, got, name)
		}
		slices.Sort(took)
		m.add(float64(took[rounds/2])/float64(unit), name)
	}
	p50("match-one-us", time.Microsecond, 1, func(i int) (time.Duration, int) { return enqueue("large", "type."+strconv.Itoa(i%(n/2)), small) })
	p50("match-none-us", time.Microsecond, 0, func(int) (time.Duration, int) { return enqueue("large", "other", small) })
	p50("match-small-us", time.Microsecond, 2, func(i int) (time.Duration, int) { return enqueue("small-"+strconv.Itoa(i%(n/4)), "any", small) })
	claimAll(b, store, nil)

	fair(b, m, store, n/10)

	before := highWater(b, path)
	shared := make([]byte, 256<<10)
	p50("fan-out-ms", time.Millisecond, n/10, func(int) (time.Duration, int) { return enqueue("large", "shared", shared) })
	m.add(float64(highWater(b, path)-before)/float64(rounds)/float64(n/10), "fan-out-B")

	list := func(q postrider.DeliveryQuery) (time.Duration, int) {
		start := time.Now()
		page, err := store.Deliveries(b.Context(), q)
		took := time.Since(start)
		require.NoError(b, err)
		return took, len(page.Items)
	}
	p50("list-us", time.Microsecond, queryLimit, func(int) (time.Duration, int) { return list(postrider.DeliveryQuery{}) })
	p50("new-us", time.Microsecond, queryLimit, func(int) (time.Duration, int) {
		return list(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusNew}})
	})
	p50("stats-us", time.Microsecond, rounds*(n/10), func(int) (time.Duration, int) {
		start := time.Now()
		stats, err := store.Stats(b.Context(), postrider.StatsQuery{})
		took := time.Since(start)
		require.NoError(b, err)
		return took, int(stats.New)
	})
}

// createMany makes the webhooks. Commits are not synced until it ends.
func createMany(b *testing.B, path string, n int) {
	b.Helper()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoSync: true, InitialMmapSize: 1 << 30})
	require.NoError(b, err)
	store, err := bolt.New(db, bolt.Options{})
	require.NoError(b, err)
	secret := postrider.NewSecret()
	for i := range n {
		w := postrider.Webhook{
			ID: "hook-" + strconv.Itoa(i), Project: "large", Name: strconv.Itoa(i), URL: "https://example.com/hooks/" + strconv.Itoa(i),
			Events: []string{"type." + strconv.Itoa(i)}, Secrets: []postrider.Secret{secret}, State: postrider.StateEnabled,
		}
		if i < n/10 {
			w.Events = append(w.Events, "shared")
		}
		if i >= n/2 {
			w.Project, w.Events = "small-"+strconv.Itoa((i-n/2)%(n/4)), []string{"*"}
		}
		require.NoError(b, store.CreateWebhook(b.Context(), w))
	}
	require.NoError(b, store.Close())
	require.NoError(b, db.Sync())
	db.NoFreelistSync = false // as Close of a store that has the file does
	require.NoError(b, db.Update(func(*bbolt.Tx) error { return nil }))
	require.NoError(b, db.Close())
}

// claimAll claims and completes what is due, 64 at a time, and tells each of these calls.
func claimAll(b *testing.B, store postrider.Store, each func(took time.Duration, claims []postrider.Claim)) {
	b.Helper()
	for {
		start := time.Now()
		claims, _, err := store.Claim(b.Context(), postrider.ClaimRequest{Max: scaleClaims, Lease: time.Hour})
		took := time.Since(start)
		require.NoError(b, err)
		if len(claims) == 0 {
			return
		}
		if each != nil {
			each(took, claims)
		}
		outcomes := make([]postrider.Outcome, len(claims))
		for i, c := range claims {
			outcomes[i] = postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token, Status: postrider.StatusDelivered, Attempt: &postrider.Attempt{
				DeliveryID: c.Delivery.ID, WebhookID: c.Delivery.WebhookID, Number: 1, StartedAt: start, FinishedAt: start, Timestamp: start.Unix(), Code: 200,
			}}
		}
		_, err = store.Complete(b.Context(), outcomes)
		require.NoError(b, err)
	}
}

// fair gives so many webhooks three deliveries each, one webhook after the other, and claims them all.
func fair(b *testing.B, m *metrics, store postrider.Store, n int) {
	var items []postrider.Item
	for i := range n {
		for range 3 {
			items = append(items, postrider.Item{To: []string{"hook-" + strconv.Itoa(i)}, Event: postrider.Event{
				ID: uuid.Must(uuid.NewV7()).String(), Project: "large", Type: "any", Payload: []byte("1"),
			}})
		}
	}
	for part := range slices.Chunk(items, 3000) {
		_, err := store.Enqueue(b.Context(), part)
		require.NoError(b, err)
	}
	had := map[string]int{}
	var took []time.Duration
	unfair := 0
	claimAll(b, store, func(t time.Duration, claims []postrider.Claim) {
		took = append(took, t)
		for _, c := range claims {
			had[c.Webhook.ID]++
			if len(had) < n {
				unfair = max(unfair, had[c.Webhook.ID])
			}
		}
	})
	require.Len(b, had, n)
	slices.Sort(took)
	m.add(micros(took[len(took)/2]), "claim-us")
	m.add(float64(unfair), "unfair")
}

// BenchmarkSpace makes and delivers 200,000 deliveries of 1 KiB to 50 webhooks in rolling batches, and reports the bytes
// of the pages in use by delivery, and the largest size of the file as a multiple of that. With -benchtime 1x there are
// 2,000 deliveries, of which much is pages that every webhook has.
func BenchmarkSpace(b *testing.B) {
	n := 200_000
	if quick() {
		n = 2_000
	}
	m := &metrics{}
	for b.Loop() {
		db, err := bbolt.Open(filepath.Join(b.TempDir(), "webhooks.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, InitialMmapSize: 1 << 30})
		require.NoError(b, err)
		store, err := bolt.New(db, bolt.Options{})
		require.NoError(b, err)
		for i := range hooks {
			require.NoError(b, store.CreateWebhook(b.Context(), postrider.Webhook{
				ID: fmt.Sprintf("hook-%d", i), Name: strconv.Itoa(i), URL: "https://example.com/", Events: []string{"*"}, State: postrider.StateEnabled,
			}))
		}
		payload := bytes.Repeat([]byte("x"), payloadLen)
		for made := 0; made < n; made += spaceBatch {
			items := make([]postrider.Item, spaceBatch)
			for i := range items {
				items[i] = postrider.Item{To: []string{fmt.Sprintf("hook-%d", i%hooks)}, Event: postrider.Event{
					ID: uuid.Must(uuid.NewV7()).String(), Type: types[i%len(types)], Payload: payload, ContentType: "text/plain",
				}}
			}
			_, err := store.Enqueue(b.Context(), items)
			require.NoError(b, err)
			claimAll(b, store, nil)
		}
		var size int64
		require.NoError(b, db.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil }))
		used := size - int64(db.Stats().FreeAlloc)
		m.add(float64(used)/float64(n), "B/delivery")
		m.add(float64(size)/float64(used), "high-water")
		require.NoError(b, store.Close())
		require.NoError(b, db.Close())
	}
	m.publish(b, "space", fmt.Sprintf("%d deliveries", n))
}
