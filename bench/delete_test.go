package bench_test

import (
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
	backlog := *waiting
	if quick() {
		backlog = 10_000
	}
	for b.Loop() {
		ward := &ward{clinic: newClinic()}
		ward.Config.Handler = ward
		store, err := bolt.Open(filepath.Join(b.TempDir(), "webhooks.db"), bolt.Options{})
		require.NoError(b, err)
		d, err := postrider.New(store, postrider.Config{Drain: time.Nanosecond, Network: loopback})
		require.NoError(b, err)
		ward.enroll(b, d)
		w, err := d.CreateWebhook(b.Context(), postrider.Webhook{Name: "dead-0", URL: ward.URL + "/dead-0", Events: []string{"dead-0"}})
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
				if err := ward.emit(b.Context(), d, liveRate); err != nil { // a second's events
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
		b.ReportMetric(float64(deleted.Microseconds()), "delete-us")
		b.ReportMetric(canceled.Seconds(), "canceled-s")
		b.ReportMetric(float64(latencies[len(latencies)/2].Microseconds()), "p50-us")
		b.ReportMetric(float64(latencies[len(latencies)*99/100].Microseconds()), "p99-us")
		ward.close()
		require.NoError(b, store.Close())
	}
}
