package bolt_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// dueAt returns what a walk counts as due: new ones, and retries from the beginning of their minute; and the least
// NextAt of those that are due exactly.
func dueAt(list []postrider.Delivery, now time.Time) (due int64, oldest time.Time) {
	for _, d := range list {
		if d.Status.Final() {
			continue
		}
		if d.Status == postrider.StatusNew || !d.NextAt.Truncate(time.Minute).After(now) {
			due++
		}
		if !d.NextAt.After(now) && (oldest.IsZero() || d.NextAt.Before(oldest)) {
			oldest = d.NextAt
		}
	}
	return due, oldest
}

// turns returns the open deliveries of a list in the order of commits, but those that wait for their turn in a lane.
func turns(list []postrider.Delivery, lane func(postrider.Delivery) string) (open []postrider.Delivery) {
	taken := map[string]bool{}
	for _, d := range list {
		if l := lane(d); !d.Status.Final() && (l == "" || !taken[l]) {
			open = append(open, d)
			taken[l] = true
		}
	}
	return open
}

// books is a store and a naive model of what Stats counts by time.
type books struct {
	*testing.T
	*bolt.Store
	db       *bbolt.DB
	random   *rand.Rand
	now      time.Time
	path     string
	reopened int
	attempts []recorded
	keys     map[string]string // order keys by event
}

// recorded is an attempt.
type recorded struct {
	at     time.Time
	hook   int
	failed bool
}

const bookHooks = 6 // the last is Ordered

// project and owner of a webhook.
func project(hook int) string { return fmt.Sprint("p", hook%2) }
func owner(hook int) string   { return fmt.Sprint("o", hook%3) }

func newBooks(t *testing.T) *books {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	b := &books{T: t, random: rand.New(rand.NewPCG(seed, 0)), keys: map[string]string{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	b.path = filepath.Join(t.TempDir(), "0.db")
	b.open()
	t.Cleanup(b.close)
	for i := range bookHooks {
		require.NoError(t, b.CreateWebhook(t.Context(), postrider.Webhook{
			ID: fmt.Sprint("w", i), Name: fmt.Sprint("w", i), Project: project(i), Owner: owner(i), URL: "http://x.example", Events: []string{"*"},
			Ordered: i == bookHooks-1,
		}))
	}
	return b
}

// open opens the store without syncs, since there are thousands of commits and the machine does not fail here.
func (b *books) open() {
	var err error
	b.db, err = bbolt.Open(b.path, 0o600, &bbolt.Options{NoSync: true, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	require.NoError(b, err)
	b.Store, err = bolt.New(b.db, bolt.Options{Now: func() time.Time { return b.now }})
	require.NoError(b, err)
}

func (b *books) close() {
	require.NoError(b, b.Close())
	require.NoError(b, b.db.Close())
}

// crash goes on with what is in the file at this moment.
func (b *books) crash() {
	content, err := os.ReadFile(b.path)
	require.NoError(b, err)
	b.close()
	b.reopened++
	b.path = filepath.Join(filepath.Dir(b.path), fmt.Sprint(b.reopened, ".db"))
	require.NoError(b, os.WriteFile(b.path, content, 0o600))
	b.open()
}

// emit stores n events.
func (b *books) emit(n int) {
	items := make([]postrider.Item, n)
	for i := range items {
		items[i].Event = postrider.Event{
			ID: fmt.Sprintf("%016x", b.random.Uint64()), Project: fmt.Sprint("p", b.random.IntN(2)), Type: fmt.Sprint("t", b.random.IntN(3)),
			Payload: []byte(`{}`), Time: b.now,
		}
		if key := b.random.IntN(6); key < 3 {
			items[i].Event.OrderKey = fmt.Sprint("key-", key)
			b.keys[items[i].Event.ID] = items[i].Event.OrderKey
		}
	}
	_, err := b.Enqueue(b.Context(), items)
	require.NoError(b, err)
}

// emitEach stores an event of each project, and so one delivery for each webhook.
func (b *books) emitEach() {
	items := make([]postrider.Item, 2)
	for i := range items {
		items[i].Event = postrider.Event{ID: fmt.Sprintf("%016x", b.random.Uint64()), Project: project(i), Type: "t", Payload: []byte(`{}`), Time: b.now}
	}
	_, err := b.Enqueue(b.Context(), items)
	require.NoError(b, err)
}

// emitTo stores n events for one webhook and returns the IDs of the deliveries.
func (b *books) emitTo(hook int, typ string, n int) (ids []string) {
	items := make([]postrider.Item, n)
	for i := range items {
		items[i] = postrider.Item{To: []string{fmt.Sprint("w", hook)}, Event: postrider.Event{
			ID: fmt.Sprintf("%016x", b.random.Uint64()), Project: project(hook), Type: typ, Payload: []byte(`{}`), Time: b.now,
		}}
	}
	for part := range slices.Chunk(items, 5000) {
		receipts, err := b.Enqueue(b.Context(), part)
		require.NoError(b, err)
		for _, r := range receipts {
			ids = append(ids, r.Deliveries...)
		}
	}
	return ids
}

// send claims up to n and records what became of them.
func (b *books) send(n int, outcome func(postrider.Claim) postrider.Outcome) int {
	claims := claimed(b.T, b, postrider.ClaimRequest{Max: n})
	outcomes := make([]postrider.Outcome, len(claims))
	for i, c := range claims {
		outcomes[i] = outcome(c)
		var hook int
		_, err := fmt.Sscanf(c.Webhook.ID, "w%d", &hook)
		require.NoError(b, err)
		if a := outcomes[i].Attempt; a != nil {
			b.attempts = append(b.attempts, recorded{b.now, hook, a.Failed})
		}
	}
	completed(b.T, b, outcomes...)
	return len(claims)
}

func (b *books) anyOutcome(c postrider.Claim) postrider.Outcome {
	switch n := b.random.IntN(10); {
	case n < 4:
		return succeeded(c, b.now)
	case n < 5:
		o := retried(c, b.now, 0)
		o.Status = postrider.StatusFailed
		return o
	case n < 6:
		return postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token}
	default:
		return retried(c, b.now, time.Duration(b.random.Int64N(int64(3*time.Hour))))
	}
}

// change cancels some, or makes some due.
func (b *books) change() {
	c := postrider.Change{Kind: postrider.ChangeKind(b.random.IntN(2)), Max: 1 + b.random.IntN(20)}
	switch b.random.IntN(3) {
	case 0:
		c.Query.WebhookID = fmt.Sprint("w", b.random.IntN(bookHooks))
	case 1:
		c.Query.EventType = fmt.Sprint("t", b.random.IntN(3))
	case 2:
		c.Query.Statuses = []postrider.Status{postrider.StatusInProcess}
	}
	_, _, err := b.Change(b.Context(), c)
	require.NoError(b, err)
}

// walk returns the open deliveries of a webhook but those that wait for their turn in a lane.
func (b *books) walk(hook int) (list []postrider.Delivery) {
	for q := (postrider.DeliveryQuery{WebhookID: fmt.Sprint("w", hook), Ascending: true, Limit: postrider.MaxLimit}); ; {
		page, err := b.Deliveries(b.Context(), q)
		require.NoError(b, err)
		list = append(list, page.Items...)
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	return turns(list, func(d postrider.Delivery) string {
		if hook == bookHooks-1 {
			return "its own"
		}
		return b.keys[d.EventID]
	})
}

// rates counts the attempts of some webhooks.
func (b *books) rates(want func(hook int) bool) *postrider.Rates {
	var r postrider.Rates
	count := func(list []postrider.Rate, unit time.Duration, a recorded) {
		ago := int(b.now.Truncate(unit).Sub(a.at.Truncate(unit)) / unit)
		switch i := len(list) - 1 - ago; {
		case i < 0:
		case a.failed:
			list[i].Failed++
		default:
			list[i].OK++
		}
	}
	for _, a := range b.attempts {
		if want(a.hook) {
			count(r.Minutes[:], time.Minute, a)
			count(r.Hours[:], time.Hour, a)
		}
	}
	return &r
}

// compare compares Stats with a walk, for the whole store, each webhook, and by project and owner.
func (b *books) compare() {
	b.Helper()
	require.NoError(b, b.Check())
	lists := make([][]postrider.Delivery, bookHooks)
	for i := range lists {
		lists[i] = b.walk(i)
	}
	one := func(q postrider.StatsQuery, want func(hook int) bool) {
		b.Helper()
		var list []postrider.Delivery
		for i := range lists {
			if want(i) {
				list = append(list, lists[i]...)
			}
		}
		got, err := b.Stats(b.Context(), q)
		require.NoError(b, err)
		require.Nil(b, got.Rates)
		due, oldest := dueAt(list, b.now)
		require.Equal(b, due, got.Due, "Due of %+v at %v", q, b.now)
		require.Equal(b, oldest, got.OldestDue, "OldestDue of %+v at %v", q, b.now)
		q.Rates = true
		rated, err := b.Stats(b.Context(), q)
		require.NoError(b, err)
		require.Equal(b, b.rates(want), rated.Rates, "Rates of %+v at %v", q, b.now)
		rated.Rates = nil
		require.Equal(b, got, rated)
	}
	one(postrider.StatsQuery{}, func(int) bool { return true })
	for i := range bookHooks {
		one(postrider.StatsQuery{WebhookID: fmt.Sprint("w", i)}, func(hook int) bool { return hook == i })
	}
	for _, p := range []string{"p0", "p1"} {
		one(postrider.StatsQuery{Project: p}, func(hook int) bool { return project(hook) == p })
	}
	one(postrider.StatsQuery{Owner: "o1"}, func(hook int) bool { return owner(hook) == "o1" })
	one(postrider.StatsQuery{Project: "p1", Owner: "o2"}, func(hook int) bool { return project(hook) == "p1" && owner(hook) == "o2" })
	one(postrider.StatsQuery{Project: "none"}, func(int) bool { return false })
}

// TestStatsByTimeEqualAWalk does everything that changes what is due, over days, with steps of every length.
func TestStatsByTimeEqualAWalk(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	steps := []time.Duration{0, time.Microsecond, time.Second, 59 * time.Second, time.Minute, 7 * time.Minute, time.Hour, 5 * time.Hour, 40 * time.Hour}
	for n := range 400 {
		if step := steps[b.random.IntN(len(steps))]; step > 0 {
			b.now = b.now.Add(time.Duration(b.random.Int64N(int64(step))) + 1).Truncate(time.Microsecond)
		}
		b.emit(1 + b.random.IntN(6))
		b.send(1+b.random.IntN(30), b.anyOutcome)
		switch b.random.IntN(12) {
		case 0, 1:
			b.change()
		case 2:
			_, _, err := b.Prune(t.Context(), time.Duration(b.random.Int64N(int64(time.Hour))), 50)
			require.NoError(t, err)
		case 3:
			b.crash()
		}
		held := claimed(t, b, postrider.ClaimRequest{Max: 1 + b.random.IntN(5)})
		if n%4 == 0 {
			b.compare() // with some in flight
		}
		for _, c := range held {
			completed(t, b, postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token})
		}
	}
	b.compare()
	b.now = b.now.Add(100 * 24 * time.Hour)
	b.compare()
}

// TestRetriesBecomeDueAsTimePasses follows one retry: it counts from the beginning of its minute, and is the oldest
// from its very moment.
func TestRetriesBecomeDueAsTimePasses(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.emitTo(0, "a", 1)
	emitted := b.now
	stats := func() postrider.Stats { t.Helper(); return statsNow(t, b.Store, postrider.StatsQuery{}) }
	require.Equal(t, postrider.Stats{New: 1, Due: 1, OldestDue: emitted}, stats())
	held := claimed(t, b, postrider.ClaimRequest{Max: 1})
	require.Equal(t, postrider.Stats{New: 1, InFlight: 1, Due: 1, OldestDue: emitted}, stats(), "in flight")
	completed(t, b, retried(held[0], b.now, 10*time.Minute+30*time.Second))
	due := b.now.Add(10*time.Minute + 30*time.Second)
	waits := postrider.Stats{InProcess: 1, AttemptsFailed: 1}
	require.Equal(t, waits, stats())
	b.now = due.Truncate(time.Minute).Add(-time.Microsecond)
	require.Equal(t, waits, stats(), "just before its minute")
	b.now = due.Truncate(time.Minute)
	waits.Due = 1
	require.Equal(t, waits, stats(), "its minute has begun")
	b.now = due.Add(-time.Microsecond)
	b.crash()
	require.Equal(t, waits, stats(), "just before")
	b.now = due
	waits.OldestDue = due
	require.Equal(t, waits, stats(), "at its moment")
	b.now = due.Add(48 * time.Hour)
	require.Equal(t, waits, stats(), "days later")
	held = claimed(t, b, postrider.ClaimRequest{Max: 1})
	completed(t, b, succeeded(held[0], b.now))
	require.Equal(t, postrider.Stats{Delivered: 1, AttemptsOK: 1, AttemptsFailed: 1}, stats())
	require.Zero(t, b.Tallies()['d'])
}

func statsNow(t *testing.T, s postrider.Store, q postrider.StatsQuery) postrider.Stats {
	t.Helper()
	stats, err := s.Stats(t.Context(), q)
	require.NoError(t, err)
	return stats
}

// TestTalliesStayBounded works for weeks and counts rows: no more than a row of each webhook and of the store for each
// minute and hour that is kept.
func TestTalliesStayBounded(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	most := map[byte]int{}
	work := func(step time.Duration, n int) {
		for range n {
			b.now = b.now.Add(step)
			b.emitEach()
			require.Equal(t, bookHooks, b.send(100, func(c postrider.Claim) postrider.Outcome { return succeeded(c, b.now) }))
			for kind, n := range b.Tallies() {
				most[kind] = max(most[kind], n)
			}
		}
	}
	rows := bookHooks + 1
	work(time.Minute, 300)
	require.Greater(t, most['m'], 115*rows)
	work(time.Hour, 40*24)
	require.Greater(t, most['h'], 740*rows)
	work(time.Minute, 130)
	b.compare()
	for kind, kept := range map[byte]int{'m': 120, 'h': 744} {
		require.LessOrEqual(t, most[kind], kept*rows, "rows of %c", kind)
	}
	require.Zero(t, most['d'], "nothing was tried again")
	b.now = b.now.Add(1000 * 24 * time.Hour)
	work(time.Hour, 25)
	require.LessOrEqual(t, b.Tallies()['m']+b.Tallies()['h'], 30*rows, "what is over goes, a part each time")
	b.compare()
}

// TestSuccessesWriteNoTallies counts what a webhook that only succeeds writes within a minute: done rows, and for each
// commit its stat row and the store's.
func TestSuccessesWriteNoTallies(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.now = b.now.Add(30 * time.Second)
	send := func() map[string]int {
		return b.Written(func() {
			require.Equal(t, 3, b.send(3, func(c postrider.Claim) postrider.Outcome { return succeeded(c, b.now) }))
		})
	}
	b.emitTo(1, "t", 12)
	require.Equal(t, map[string]int{"done": 3, "stat": 2}, send())
	b.now = b.now.Add(time.Second)
	require.Equal(t, map[string]int{"done": 3, "stat": 2}, send(), "within the same minute")
	b.now = b.now.Add(time.Minute)
	require.Equal(t, map[string]int{"done": 3, "stat": 2, "tally": 2}, send(), "the minute before is over")
	b.now = b.now.Add(time.Hour)
	require.Equal(t, map[string]int{"done": 3, "stat": 2, "tally": 4}, send(), "the hour before is over too")
	b.compare()
}

// TestFailuresOfOneCommitShareTallies counts the rows that failures write: many of one webhook that are due in the same
// minutes write as many as one.
func TestFailuresOfOneCommitShareTallies(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	fail := func() int {
		return b.Written(func() {
			require.Equal(t, 100, b.send(100, func(c postrider.Claim) postrider.Outcome { return retried(c, b.now, 5*time.Second) }))
		})["tally"]
	}
	b.emitTo(1, "t", 100)
	require.Equal(t, 2, fail(), "the webhook's minute and the store's")
	b.now = b.now.Add(5 * time.Second)
	require.Zero(t, fail(), "the same minute, whose count is as before")
}

// TestRatesWhileTheClockGoesBack counts nothing twice and loses nothing when minutes come again.
func TestRatesWhileTheClockGoesBack(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.emitTo(1, "t", 40)
	start := b.now.Add(10 * time.Hour)
	for _, m := range []int{0, 5, 3, 5, 3, 4, 65, 5, 66} {
		b.now = start.Add(time.Duration(m) * time.Minute)
		b.send(4, func(c postrider.Claim) postrider.Outcome {
			o := retried(c, b.now, 0)
			o.Status = postrider.StatusFailed
			return o
		})
	}
	b.compare()
	got := statsNow(t, b.Store, postrider.StatsQuery{Rates: true})
	require.Equal(t, postrider.Rate{Failed: 12}, got.Rates.Minutes[119-61])
	require.Equal(t, postrider.Rate{Failed: 28}, got.Rates.Hours[742])
	require.Equal(t, postrider.Rate{Failed: 8}, got.Rates.Hours[743])
}

// TestOldestDueBehindManyCanceled looks for the oldest behind more canceled deliveries than one call goes through.
func TestOldestDueBehindManyCanceled(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	const n = 15_000
	start := b.now
	first := b.emitTo(0, "first", 1)
	b.now = b.now.Add(time.Hour)
	b.emitTo(0, "many", n)
	b.now = b.now.Add(time.Hour)
	b.emitTo(0, "last", 10)
	for more := true; more; {
		var err error
		_, more, err = b.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{EventType: "many"}, Max: 5000})
		require.NoError(t, err)
	}
	want := postrider.Stats{New: 11, Canceled: n, Due: 11, OldestDue: start}
	require.Equal(t, want, statsNow(t, b.Store, postrider.StatsQuery{}))
	_, _, err := b.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{ID: first[0]}, Max: 1})
	require.NoError(t, err)
	want.New, want.Canceled, want.Due = 10, n+1, 10
	want.OldestDue = start.Add(time.Hour)
	require.Equal(t, want, statsNow(t, b.Store, postrider.StatsQuery{}), "one call goes so far")
	want.OldestDue = start.Add(2 * time.Hour)
	require.Equal(t, want, statsNow(t, b.Store, postrider.StatsQuery{WebhookID: "w0"}), "the next goes on there")
	require.Equal(t, want, statsNow(t, b.Store, postrider.StatsQuery{}))
}

// TestOldestDuePassesOverParked looks behind a delivery that is parked in by and one that was ended out of turn.
func TestOldestDuePassesOverParked(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	var ids []string
	for i, key := range []string{"k", "", "k", ""} {
		e := postrider.Event{ID: fmt.Sprint("e", i), Project: "p0", Type: "t", Payload: []byte(`{}`), Time: b.now, OrderKey: key}
		receipts, err := b.Enqueue(t.Context(), []postrider.Item{{To: []string{"w0"}, Event: e}})
		require.NoError(t, err)
		ids = append(ids, receipts[0].Deliveries...)
		b.now = b.now.Add(time.Minute)
	}
	require.Equal(t, 1, b.send(1, func(c postrider.Claim) postrider.Outcome { return retried(c, b.now, time.Hour) }))
	_, _, err := b.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{ID: ids[1]}, Max: 1})
	require.NoError(t, err)
	_, _, err = b.Prune(t.Context(), 0, 10)
	require.NoError(t, err)
	require.Zero(t, b.Young())
	got := statsNow(t, b.Store, postrider.StatsQuery{})
	require.EqualValues(t, 1, got.Due)
	require.Equal(t, b.now.Add(-time.Minute), got.OldestDue)
}
