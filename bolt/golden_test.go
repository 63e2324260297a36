package bolt_test

import (
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// golden makes the files in testdata anew. Those of a format that a release has written are never made anew: a change of
// the layout is a new format, with files of its own beside them.
var golden = flag.Bool("golden", false, "write the golden files of the present format")

// goldenClock stands still but for what the test adds.
type goldenClock struct{ at time.Time }

func (c *goldenClock) now() time.Time { return c.at }

func newGoldenClock() *goldenClock {
	return &goldenClock{time.Date(2026, 11, 22, 9, 30, 0, 123_456_000, time.UTC)}
}

// TestFilesOfEveryFormatAreRead opens a file as each format has left it, with every kind of row, and asks all there is
// to ask. Then the store goes on with it.
func TestFilesOfEveryFormatAreRead(t *testing.T) {
	t.Parallel()
	if *golden {
		writeGolden(t)
	}
	for format := 1; format <= bolt.Format; format++ {
		t.Run(fmt.Sprint(format), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "store.db")
			unpack(t, goldenFile(format), path)
			want, err := os.ReadFile(goldenFacts(format))
			require.NoError(t, err)
			clock := newGoldenClock()
			clock.at = clock.at.Add(time.Hour)
			s, err := bolt.Open(path, bolt.Options{Now: clock.now})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			require.JSONEq(t, string(want), string(facts(t, s)))
			goOn(t, s)
		})
	}
}

func goldenFile(format int) string {
	return filepath.Join("testdata", fmt.Sprintf("format%d.db.gz", format))
}

func goldenFacts(format int) string {
	return filepath.Join("testdata", fmt.Sprintf("format%d.json", format))
}

func unpack(t *testing.T, from, to string) {
	t.Helper()
	packed, err := os.Open(from)
	require.NoError(t, err)
	defer packed.Close()
	r, err := gzip.NewReader(packed)
	require.NoError(t, err)
	f, err := os.Create(to)
	require.NoError(t, err)
	_, err = io.Copy(f, r)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// writeGolden makes a file in the caller's own database: there it is small.
func writeGolden(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	clock := newGoldenClock()
	s, err := bolt.New(db, bolt.Options{Now: clock.now})
	require.NoError(t, err)
	fillGolden(t, s, clock)
	require.NoError(t, s.Close())
	require.NoError(t, db.Close())
	small := filepath.Join(t.TempDir(), "small.db")
	require.NoError(t, bolt.Compact(t.Context(), path, small))
	path = small

	plain, err := os.ReadFile(path)
	require.NoError(t, err)
	packed, err := os.Create(goldenFile(bolt.Format))
	require.NoError(t, err)
	w, err := gzip.NewWriterLevel(packed, gzip.BestCompression)
	require.NoError(t, err)
	_, err = w.Write(plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, packed.Close())

	db, err = bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("postrider")).ForEachBucket(func(name []byte) error {
			k, _ := tx.Bucket([]byte("postrider")).Bucket(name).Cursor().First()
			require.NotNil(t, k, "no row in %q", name)
			return nil
		})
	}))
	require.NoError(t, db.Close())

	clock.at = newGoldenClock().at.Add(time.Hour)
	s, err = bolt.Open(path, bolt.Options{Now: clock.now})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(goldenFacts(bolt.Format), facts(t, s), 0o644))
	require.NoError(t, s.Close())
}

// fillGolden makes at least one row of every bucket, and every kind of record.
func fillGolden(t *testing.T, s postrider.Store, clock *goldenClock) {
	t.Helper()
	ctx := t.Context()
	secret, err := postrider.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	old := secret
	old.ExpiresAt = clock.at.Add(24 * time.Hour)
	full := postrider.Webhook{
		ID: "wh-full", Project: "one", Name: "full", Owner: "owner", URL: "https://a.example/?x=1", Method: "PUT",
		Header: http.Header{"X-A": {"1", "2"}}, Events: []string{"invoice.*", "b"}, Secrets: []postrider.Secret{secret, old},
		Schemes: []postrider.Scheme{postrider.SchemeStandard}, Retry: postrider.Schedule{time.Second, time.Hour}, Timeout: time.Minute,
		Success: postrider.Success{Codes: []string{"2xx"}, Header: "X-Ok"}, MaxInFlight: 4,
		RateLimit: postrider.RateLimit{N: 1, Per: time.Second, Burst: 2}, BreakAfter: 3, Envelope: true,
	}
	plain := func(id, project string, ordered bool) postrider.Webhook {
		return postrider.Webhook{
			ID: id, Project: project, Name: id, URL: "https://b.example/", Events: []string{"*"}, Secrets: []postrider.Secret{secret}, Ordered: ordered,
		}
	}
	for _, w := range []postrider.Webhook{full, plain("wh-all", "one", false), plain("wh-ordered", "two", true), plain("wh-gone", "two", false)} {
		require.NoError(t, s.CreateWebhook(ctx, w))
	}
	fillBy(t, s)
	event := func(n int, project, typ string) postrider.Item {
		return postrider.Item{Event: postrider.Event{
			ID: fmt.Sprintf("event-%02d", n), Project: project, Type: typ, Time: clock.at.Add(-time.Minute),
			Payload: []byte(fmt.Sprintf(`{"n": %d}`, n)), ContentType: "application/json",
		}}
	}
	var items []postrider.Item
	for n := range 12 {
		items = append(items, event(n, "one", "invoice.paid"))
	}
	items[1].Event.Metadata = map[string]string{"k": "v", "": "ü"}
	items[2].Event.OrderKey, items[3].Event.OrderKey = "customer-7", "customer-7"
	items[4].Event.ContentType, items[4].Event.Payload = "application/octet-stream", []byte{0, 0xff, 10}
	items = append(items, event(20, "two", "b"), event(21, "two", "b"), event(22, "two", "c"))
	items = append(items, postrider.Item{Event: event(30, "one", postrider.TypeTest).Event, To: []string{"wh-all"}, Test: true})
	receipts, err := s.Enqueue(ctx, items)
	require.NoError(t, err)

	clock.at = clock.at.Add(time.Minute)
	claims, _, err := s.Claim(ctx, postrider.ClaimRequest{Max: 20, Lease: time.Minute})
	require.NoError(t, err)
	require.Len(t, claims, 20)
	var outcomes []postrider.Outcome
	for i, c := range claims {
		outcomes = append(outcomes, goldenOutcome(i, &c, clock.at))
	}
	n, err := s.Complete(ctx, outcomes)
	require.NoError(t, err)
	require.Equal(t, len(outcomes), n)

	clock.at = clock.at.Add(time.Minute)
	_, err = s.Enqueue(ctx, []postrider.Item{{
		Event: postrider.Event{ID: "event-00", Project: "one"}, ReplayOf: receipts[0].Deliveries[0], To: []string{"wh-all"},
		Run: "018f2c3e-0000-7000-8000-000000000001",
	}})
	require.NoError(t, err)
	require.NoError(t, s.DeleteWebhook(ctx, "wh-gone"))
	claims, _, err = s.Claim(ctx, postrider.ClaimRequest{Max: 1, Lease: time.Minute})
	require.NoError(t, err)
	require.Len(t, claims, 1)
	canceled, _, err := s.Change(ctx, postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{ID: claims[0].Delivery.ID}, Max: 10})
	require.NoError(t, err)
	require.Equal(t, 1, canceled)
	require.NoError(t, s.CreateWebhook(ctx, plain("wh-late", "one", false)))
}

// fillBy makes so many deliveries that some go to by, and deletes most of them again.
func fillBy(t *testing.T, s postrider.Store) {
	t.Helper()
	ctx := t.Context()
	require.NoError(t, s.CreateWebhook(ctx, postrider.Webhook{ID: "wh-many", Project: "three", Name: "many", URL: "https://c.example/", Events: []string{"*"}}))
	for n := range 5 {
		var items []postrider.Item
		for i := range 1000 {
			items = append(items, postrider.Item{Event: postrider.Event{ID: fmt.Sprintf("many-%04d", 1000*n+i), Project: "three", Type: "m"}})
		}
		_, err := s.Enqueue(ctx, items)
		require.NoError(t, err)
	}
	for range 5 {
		claims, _, err := s.Claim(ctx, postrider.ClaimRequest{Max: 1000, Lease: time.Minute})
		require.NoError(t, err)
		var outcomes []postrider.Outcome
		for i := range claims {
			outcomes = append(outcomes, goldenOutcome(0, &claims[i], claims[i].Delivery.CreatedAt))
		}
		_, err = s.Complete(ctx, outcomes)
		require.NoError(t, err)
	}
	n, _, err := s.Prune(ctx, 0, 4990)
	require.NoError(t, err)
	require.Equal(t, 4990, n)
}

// goldenOutcome returns one of several outcomes, with all that an attempt can hold.
func goldenOutcome(i int, c *postrider.Claim, at time.Time) postrider.Outcome {
	o := postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token, Status: postrider.StatusDelivered}
	o.Attempt = &postrider.Attempt{
		DeliveryID: c.Delivery.ID, WebhookID: c.Webhook.ID, Number: c.Delivery.Attempts + 1, StartedAt: at,
		FinishedAt: at.Add(time.Duration(i) * time.Millisecond), Timestamp: at.Unix(), Code: 200, Body: []byte("ok"),
	}
	switch a := o.Attempt; i % 4 {
	case 1:
		o.Status, o.RetryIn = postrider.StatusInProcess, time.Minute
		a.Failed, a.Code, a.Class, a.Error, a.NextAt = true, 503, postrider.ClassStatus, "the answer was 503", at.Add(time.Minute)
		o.Webhook = &postrider.WebhookChange{Failing: true, Window: 2}
	case 2:
		o.Status = postrider.StatusFailed
		a.Failed, a.Code, a.Body, a.Class, a.Error = true, 0, nil, postrider.ClassTimeout, postrider.ClassTimeout.Sentence()
	case 3:
		a.Truncated, a.Body = true, []byte{0xff, 0}
	}
	return o
}

// facts returns all that a store can be asked, as JSON.
func facts(t *testing.T, s postrider.Store) []byte {
	t.Helper()
	ctx := t.Context()
	all := map[string]any{}
	hooks, err := s.Webhooks(ctx, postrider.WebhookQuery{})
	require.NoError(t, err)
	for i := range hooks.Items { // JSON hides secrets
		for _, secret := range hooks.Items[i].Secrets {
			hooks.Items[i].Reason += " " + secret.Reveal()
		}
	}
	all["webhooks"] = hooks.Items
	for _, ascending := range []bool{false, true} {
		page, err := s.Deliveries(ctx, postrider.DeliveryQuery{Ascending: ascending})
		require.NoError(t, err)
		all[fmt.Sprintf("deliveries ascending %v", ascending)] = page.Items
	}
	for _, q := range []postrider.DeliveryQuery{
		{Test: postrider.ChoiceYes}, {Code: "503"}, {Code: postrider.CodeNone, MinAttempts: 1}, {Statuses: []postrider.Status{postrider.StatusInProcess}},
		{WebhookID: "wh-all"}, {EventType: "invoice.*"}, {EventID: "event-00", Project: "one"}, {Owner: "owner"},
	} {
		page, err := s.Deliveries(ctx, q)
		require.NoError(t, err)
		var ids []string
		for _, d := range page.Items {
			ids = append(ids, d.ID)
			event, err := s.Event(ctx, d.Project, d.EventID)
			require.NoError(t, err)
			all["event "+event.Project+" "+event.ID] = event
			_, attempts, err := s.Delivery(ctx, d.ID)
			require.NoError(t, err)
			all["attempts of "+d.ID] = attempts
		}
		all[fmt.Sprintf("%+v", q)] = ids
	}
	stats, err := s.Stats(ctx, postrider.StatsQuery{Rates: true})
	require.NoError(t, err)
	stats.Rates = nil // they depend on the clock's minute alone
	all["stats"] = stats
	text, err := json.MarshalIndent(all, "", "\t")
	require.NoError(t, err)
	return append(text, '\n')
}

// goOn shows that what waits is handed out, in its order, that keys are known, and that old rows are pruned.
func goOn(t *testing.T, s postrider.Store) {
	t.Helper()
	ctx := t.Context()
	receipts, err := s.Enqueue(ctx, []postrider.Item{
		{Event: postrider.Event{ID: "event-05", Project: "one", Type: "invoice.paid"}},
		{Event: postrider.Event{ID: "event-99", Project: "one", Type: "invoice.paid"}},
	})
	require.NoError(t, err)
	require.True(t, receipts[0].Duplicate)
	require.Len(t, receipts[1].Deliveries, 3)
	page, err := s.Deliveries(ctx, postrider.DeliveryQuery{Project: "one", EventID: "event-00", Ascending: true})
	require.NoError(t, err)
	receipts, err = s.Enqueue(ctx, []postrider.Item{{
		Event: postrider.Event{ID: "event-00", Project: "one"}, ReplayOf: page.Items[0].ID, To: []string{"wh-all"}, Run: "018f2c3e-0000-7000-8000-000000000001",
	}})
	require.NoError(t, err)
	require.True(t, receipts[0].Duplicate, "what the run has made is known")

	var turns []string
	for {
		claims, _, err := s.Claim(ctx, postrider.ClaimRequest{Max: 100, Lease: time.Minute})
		require.NoError(t, err)
		if len(claims) == 0 {
			break
		}
		for i := range claims {
			if c := &claims[i]; c.Webhook.ID == "wh-ordered" {
				turns = append(turns, c.Event.ID)
			}
			n, err := s.Complete(ctx, []postrider.Outcome{goldenOutcome(0, &claims[i], claims[i].Delivery.CreatedAt)})
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
	}
	require.Equal(t, []string{"event-21", "event-22"}, turns, "the first one had its turn")
	_, more, err := s.Change(ctx, postrider.Change{Kind: postrider.ChangeCancel, Deleted: true, Max: 100})
	require.NoError(t, err)
	require.False(t, more)
	for more = true; more; {
		_, more, err = s.Prune(ctx, 0, 1000)
		require.NoError(t, err)
	}
	stats, err := s.Stats(ctx, postrider.StatsQuery{})
	require.NoError(t, err)
	require.Equal(t, postrider.Stats{Pruned: 5035, AttemptsOK: 5028, AttemptsFailed: 10}, stats)
}
