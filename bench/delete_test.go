package bench_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// BenchmarkDelete measures what it takes to delete a webhook with a million deliveries waiting, and what the canceling
// of them costs others meanwhile: 100 live webhooks get 100 events a second together until the last is canceled.
func BenchmarkDelete(b *testing.B) {
	backlog, timeout := *waiting, time.Duration(0) // the default: what is in flight is canceled when it has timed out
	if quick() {
		backlog, timeout = 10_000, time.Second
	}
	for b.Loop() {
		ward := &ward{clinic: newClinic()}
		ward.Config.Handler = ward
		store, err := bolt.Open(filepath.Join(b.TempDir(), "webhooks.db"), bolt.Options{})
		require.NoError(b, err)
		d, err := postrider.New(store, postrider.Config{Drain: time.Nanosecond, Network: loopback})
		require.NoError(b, err)
		ward.enroll(b, d)
		w, err := d.CreateWebhook(b.Context(), postrider.Webhook{
			Name: "dead-0", URL: ward.URL + "/dead-0", Events: []string{"dead-0"}, Timeout: timeout,
		})
		require.NoError(b, err)
		for left := backlog; left > 0; left -= 10_000 {
			fill(b, d, "dead-0", min(left, 10_000))
		}
		var deleted, canceled time.Duration
		err = running(b.Context(), d, func() error {
			start := time.Now()
			if err := d.DeleteWebhook(b.Context(), w.ID); err != nil {
				return err
			}
			deleted = time.Since(start)
			for {
				if err := ward.feed(b.Context(), d, liveRate, liveRate, liveHooks); err != nil { // a second's events
					return err
				}
				s, err := d.Stats(b.Context(), postrider.StatsQuery{WebhookID: w.ID})
				if err != nil {
					return err
				}
				if s.Open() == 0 {
					canceled = time.Since(start)
					require.EqualValues(b, backlog, s.Canceled)
					return nil
				}
			}
		})
		require.NoError(b, err)
		latencies := ward.sorted()
		p50, p99 := micros(percentile(latencies, 0.5)), micros(percentile(latencies, 0.99))
		b.ReportMetric(micros(deleted), "delete-us")
		b.ReportMetric(canceled.Seconds(), "canceled-s")
		b.ReportMetric(p50, "p50-us")
		b.ReportMetric(p99, "p99-us")
		publish(b, "delete", fmt.Sprintf("%d deliveries waiting: DeleteWebhook took %.0f µs, until all were canceled %.1f s; "+
			"meanwhile events to others took %.0f µs (p50) and %.0f µs (p99) from Emit to receipt.", backlog, micros(deleted),
			canceled.Seconds(), p50, p99))
		ward.close()
		require.NoError(b, store.Close())
	}
}
