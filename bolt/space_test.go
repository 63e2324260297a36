package bolt_test

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// TestSpaceOfADelivery has deliveries of 1 KiB to 50 webhooks that are made and delivered in rolling batches. The first
// of them are not counted: until every webhook has some pages, part of these is empty.
func TestSpaceOfADelivery(t *testing.T) {
	t.Parallel()
	const hooks, batch, n = 50, 100, 20_000
	db, err := bbolt.Open(filepath.Join(t.TempDir(), "webhooks.db"), 0o600, &bbolt.Options{
		FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoSync: true, InitialMmapSize: 1 << 30,
	})
	require.NoError(t, err)
	store, err := bolt.New(db, bolt.Options{})
	require.NoError(t, err)
	for i := range hooks {
		require.NoError(t, store.CreateWebhook(t.Context(), webhookOf(i)))
	}
	payload := bytes.Repeat([]byte("x"), 1024)
	run := func(n int) {
		for made := 0; made < n; made += batch {
			items := make([]postrider.Item, batch)
			for i := range items {
				items[i] = postrider.Item{To: []string{webhookOf((made + i) % hooks).ID}, Event: postrider.Event{
					ID: uuid.Must(uuid.NewV7()).String(), Type: "invoice.created", Payload: payload, ContentType: "text/plain",
				}}
			}
			_, err := store.Enqueue(t.Context(), items)
			require.NoError(t, err)
			claims, _, err := store.Claim(t.Context(), postrider.ClaimRequest{Max: batch, Lease: time.Hour})
			require.NoError(t, err)
			outcomes := make([]postrider.Outcome, len(claims))
			for i, c := range claims {
				now := time.Now()
				outcomes[i] = postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token, Status: postrider.StatusDelivered, Attempt: &postrider.Attempt{
					DeliveryID: c.Delivery.ID, WebhookID: c.Webhook.ID, Number: 1, StartedAt: now, FinishedAt: now, Timestamp: now.Unix(), Code: 200, Body: []byte(`{"ok":true}`),
				}}
			}
			_, err = store.Complete(t.Context(), outcomes)
			require.NoError(t, err)
		}
	}
	size := func() (used, most float64) {
		require.NoError(t, db.View(func(tx *bbolt.Tx) error { most = float64(tx.Size()); return nil }))
		stats := db.Stats()
		return most - float64(stats.FreeAlloc), most
	}
	run(n)
	before, _ := size()
	run(n)
	used, most := size()
	each := (used - before) / n
	t.Logf("%.0f bytes a delivery, %.3f of it at most", each, most/used)
	require.LessOrEqual(t, each, 1750.0, "bytes a delivery")
	require.LessOrEqual(t, most/used, 1.15, "the high-water mark")
	require.NoError(t, store.Close())
	require.NoError(t, db.Close())
}
