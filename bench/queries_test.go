package bench_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/internal/cursor"
)

var (
	deliveries = flag.Int("deliveries", 1_000_000, "finished deliveries in the file of the query benchmark")
	keepFile   = flag.String("history", "", "file of the query benchmark: made if it is not there, and kept")
	queryParts = flag.String("queryparts", "calls,growth,drain", "parts of the query benchmark to run")
)

const (
	queryLimit  = 100
	queryBound  = 5 * time.Millisecond // of the p99 of every call
	growthBound = 0.01                 // by how much more of its size the file may grow because of a walk
	historySpan = 30 * 24 * time.Hour
	projects    = 10
	owners      = 25
)

// BenchmarkQueries fills a file with finished deliveries (50 webhooks, 4 types, 1 KiB of payload; 1 % FAILED, 3 % with
// a second attempt, 0.01 % with the code 502) and then
//
//	calls   measures one call of each query, 100 rows a page, and reports p50 and p99 in microseconds
//	growth  makes 100,000 commits, alone and beside a walk over all deliveries, and reports by how much the file grew
//	drain   measures what BenchmarkThroughput calls bare and drain, so that both stand in one table: neither may be
//	        won at the cost of the other
//
// With -benchtime 1x there are a thousandth of the deliveries.
func BenchmarkQueries(b *testing.B) {
	n, calls := *deliveries, 1000
	if quick() {
		n, calls = max(n/1000, 500), 10
	}
	h := newHistory(b, n)
	h.sample(b)
	b.Run("Calls", func(b *testing.B) {
		if !strings.Contains(*queryParts, "calls") {
			b.Skip("not of -queryparts")
		}
		for b.Loop() {
			h.calls(b, calls)
		}
		b.ReportMetric(0, "ns/op")
	})
	b.Run("Growth", func(b *testing.B) {
		if !strings.Contains(*queryParts, "growth") {
			b.Skip("not of -queryparts")
		}
		for b.Loop() {
			h.growth(b, max(n/10, 100))
		}
		b.ReportMetric(0, "ns/op")
	})
}

// history is a file of finished deliveries, and what can be asked for.
type history struct {
	path     string
	n        int
	rnd      *rand.Rand
	start    time.Time
	now      time.Time
	hooks    []postrider.Webhook
	work     *work
	ids      []string // of some deliveries
	events   []string // of some deliveries
	replayed []string // some events that were
	origins  []string // deliveries that were replayed
	last     postrider.Receipt
	lastTo   postrider.Item
	cursors  func(key uint64) []string // of a query's pages; nil: they are walked to
	limits   map[string]int            // rows a page of some queries, if other than queryLimit
}

func newHistory(b *testing.B, n int) *history {
	b.Helper()
	h := &history{
		path: *keepFile, n: n, rnd: rand.New(rand.NewPCG(1, 2)), work: newWork(b, "http://127.0.0.1:1"),
		start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if h.path == "" {
		h.path = filepath.Join(b.TempDir(), "webhooks.db")
	}
	for i := range hooks {
		w := h.work.webhooks[i]
		w.ID, w.Name = fmt.Sprintf("hook-%02d", i), fmt.Sprintf("name-%02d", i)
		w.Project, w.Owner = fmt.Sprintf("project-%d", i%projects), fmt.Sprintf("owner-%d", i%owners)
		h.hooks = append(h.hooks, w)
	}
	if _, err := os.Stat(h.path); err != nil {
		h.make(b)
	}
	h.now = h.start.Add(2 * historySpan)
	return h
}

// make fills the file.
func (h *history) make(b *testing.B) {
	store, err := bolt.Open(h.path, bolt.Options{Now: func() time.Time { return h.now }})
	require.NoError(b, err)
	h.now = h.start
	for _, w := range h.hooks {
		require.NoError(b, store.CreateWebhook(b.Context(), w))
	}
	began := time.Now()
	for made, part := 0, max(min(batch, h.n/10), 1); made < h.n; made += part {
		h.fill(b, store, min(part, h.n-made), made)
		h.now = h.start.Add(historySpan / time.Duration(h.n) * time.Duration(made+part))
	}
	require.NoError(b, store.Close())
	b.Logf("made in %v", time.Since(began).Round(time.Second))
}

// fill makes deliveries and ends them. The events of a call are of the same instant.
func (h *history) fill(b *testing.B, store postrider.Store, n, from int) {
	items := make([]postrider.Item, n)
	for i := range items {
		w := &h.hooks[(from+i)%hooks]
		e := postrider.Event{
			ID: fmt.Sprintf("event-%08d", from+i), Project: w.Project, Type: types[h.rnd.IntN(len(types))], Time: h.now,
			Payload: h.work.payloads[i%len(h.work.payloads)],
		}
		items[i] = postrider.Item{Event: e, To: []string{w.ID}, Test: h.rnd.IntN(1000) == 0}
		if len(h.last.Deliveries) > 0 && (i == 0 || h.rnd.IntN(1000) == 0) {
			items[i] = h.lastTo
			items[i].ReplayOf = h.last.Deliveries[0]
		}
	}
	receipts, err := store.Enqueue(b.Context(), items)
	require.NoError(b, err)
	h.last, h.lastTo = receipts[n-1], items[n-1]
	outcomes := make([]postrider.Outcome, 0, n)
	for {
		claims, _, err := store.Claim(b.Context(), postrider.ClaimRequest{Max: batch, Lease: time.Hour})
		require.NoError(b, err)
		if len(claims) == 0 {
			return
		}
		outcomes = outcomes[:0]
		for i := range claims {
			outcomes = append(outcomes, h.outcome(&claims[i]))
		}
		_, err = store.Complete(b.Context(), outcomes)
		require.NoError(b, err)
	}
}

// sample notes some of what is in the file.
func (h *history) sample(b *testing.B) {
	store, err := bolt.Open(h.path, bolt.Options{})
	require.NoError(b, err)
	defer func() { require.NoError(b, store.Close()) }()
	stats, err := store.Stats(b.Context(), postrider.StatsQuery{})
	require.NoError(b, err)
	require.Equal(b, int64(h.n), stats.Delivered+stats.Failed)
	info, err := os.Stat(h.path)
	require.NoError(b, err)
	b.Logf("%d deliveries, %d FAILED, %d attempts, in a file of %d MiB", stats.Total(), stats.Failed, stats.AttemptsOK+stats.AttemptsFailed, info.Size()>>20)
	for range 500 {
		q := postrider.DeliveryQuery{From: h.instant(), Ascending: true, Limit: 100}
		page, err := store.Deliveries(b.Context(), q)
		require.NoError(b, err)
		for i, d := range page.Items {
			if i%50 == 0 {
				h.ids, h.events = append(h.ids, d.ID), append(h.events, d.EventID)
			}
			if d.ReplayOf != "" {
				h.origins, h.replayed = append(h.origins, d.ReplayOf), append(h.replayed, d.EventID)
			}
		}
	}
}

// outcome ends a delivery, or leaves it for a second attempt.
func (h *history) outcome(c *postrider.Claim) postrider.Outcome {
	d := &c.Delivery
	o := postrider.Outcome{
		DeliveryID: d.ID, Token: c.Token, Status: postrider.StatusDelivered,
		Attempt: &postrider.Attempt{
			DeliveryID: d.ID, WebhookID: d.WebhookID, Number: d.Attempts + 1, StartedAt: h.now, FinishedAt: h.now.Add(40 * time.Millisecond),
			Timestamp: h.now.Unix(), Code: 200, Body: []byte(`{"ok":true}`),
		},
	}
	fails := func(status postrider.Status, code int, class postrider.Class) postrider.Outcome {
		o.Status = status
		o.Attempt.Failed, o.Attempt.Code, o.Attempt.Class, o.Attempt.Error = true, code, class, class.Sentence()
		return o
	}
	switch p := h.rnd.IntN(10_000); {
	case d.Attempts > 0:
		return o
	case p == 0:
		return fails(postrider.StatusFailed, 502, postrider.ClassStatus)
	case p < 10:
		return fails(postrider.StatusFailed, 0, postrider.ClassTimeout)
	case p < 50:
		return fails(postrider.StatusFailed, 404, postrider.ClassStatus)
	case p < 100:
		return fails(postrider.StatusFailed, 500, postrider.ClassStatus)
	case p < 400:
		return fails(postrider.StatusInProcess, 503, postrider.ClassStatus)
	}
	return o
}

// call is one query to be measured. It returns how many rows came, and whether others follow.
type call struct {
	name string
	run  func() (rows int, more bool, err error)
}

// instant returns a time at which deliveries were made.
func (h *history) instant() time.Time {
	return h.start.Add(time.Duration(h.rnd.Int64N(int64(historySpan))))
}

// cursors walks through a list and returns the cursors of its pages.
func cursors(b *testing.B, next func(cursor string) (string, int, error), n int) (list []string) {
	rows := 0
	for cursor := ""; ; {
		following, got, err := next(cursor)
		require.NoError(b, err)
		if rows += got; following == "" {
			require.GreaterOrEqual(b, rows, n)
			return list
		}
		list, cursor = append(list, following), following
	}
}

func pick[T any](h *history, list []T) T { return list[h.rnd.IntN(len(list))] }

// deliveryCalls returns the queries of deliveries.
func (h *history) deliveryCalls(ctx context.Context, b *testing.B, store postrider.Store) []call {
	list := func(name string, q func() postrider.DeliveryQuery) call {
		return call{"deliveries, " + name, func() (int, bool, error) {
			query := q()
			query.Limit = cmp.Or(h.limits[name], queryLimit)
			page, err := store.Deliveries(ctx, query)
			return len(page.Items), page.Next != "", err
		}}
	}
	fixed := func(name string, q postrider.DeliveryQuery) call {
		return list(name, func() postrider.DeliveryQuery { return q })
	}
	status := func(s ...postrider.Status) postrider.DeliveryQuery { return postrider.DeliveryQuery{Statuses: s} }
	middle := func(q postrider.DeliveryQuery) []string {
		if h.cursors != nil {
			return h.cursors(cursor.Deliveries(q))
		}
		q.Limit = min(postrider.MaxLimit, h.n/10)
		return cursors(b, func(cursor string) (string, int, error) {
			q.Cursor = cursor
			page, err := store.Deliveries(ctx, q)
			return page.Next, len(page.Items), err
		}, h.n)
	}
	down, up := middle(postrider.DeliveryQuery{}), middle(postrider.DeliveryQuery{Ascending: true})
	type dq = postrider.DeliveryQuery
	return []call{
		fixed("first page", dq{}),
		fixed("first page, ascending", dq{Ascending: true}),
		list("page in the middle", func() dq { return dq{Cursor: pick(h, down)} }),
		list("page in the middle, ascending", func() dq { return dq{Ascending: true, Cursor: pick(h, up)} }),
		list("offset of at most 1,000", func() dq { return dq{Offset: 1 + h.rnd.IntN(1000)} }),
		fixed("offset of 100,000", dq{Offset: min(postrider.MaxOffset, h.n)}),
		list("ID", func() dq { return dq{ID: pick(h, h.ids)} }),
		list("webhook", func() dq { return dq{WebhookID: pick(h, h.hooks).ID} }),
		list("project", func() dq { return dq{Project: pick(h, h.hooks).Project} }),
		list("owner", func() dq { return dq{Owner: pick(h, h.hooks).Owner} }),
		list("type", func() dq { return dq{EventType: types[h.rnd.IntN(len(types))]} }),
		fixed("type with *", dq{EventType: "invoice.*"}),
		fixed("type that is not there", dq{EventType: "order.created"}),
		fixed("type with * that is not there", dq{EventType: "order.*"}),
		list("event", func() dq { return dq{EventID: pick(h, h.events)} }),
		list("event that was replayed", func() dq { return dq{EventID: pick(h, h.replayed)} }),
		fixed("NEW", status(postrider.StatusNew)),
		fixed("IN_PROCESS", status(postrider.StatusInProcess)),
		fixed("DELIVERED", status(postrider.StatusDelivered)),
		fixed("CANCELED", status(postrider.StatusCanceled)),
		fixed("FAILED", status(postrider.StatusFailed)),
		fixed("DELIVERED or FAILED", status(postrider.StatusDelivered, postrider.StatusFailed)),
		fixed("code 502", dq{Code: "502"}),
		fixed("code 404", dq{Code: "404"}),
		fixed("code 200", dq{Code: "200"}),
		fixed("code 204", dq{Code: "204"}),
		fixed("code 2xx", dq{Code: "2xx"}),
		fixed("code 3xx", dq{Code: "3xx"}),
		fixed("code 5xx", dq{Code: "5xx"}),
		fixed("code none", dq{Code: postrider.CodeNone}),
		fixed("1 attempt at least", dq{MinAttempts: 1}),
		fixed("2 attempts at least", dq{MinAttempts: 2}),
		fixed("3 attempts at least", dq{MinAttempts: 3}),
		list("from", func() dq { return dq{From: h.instant()} }),
		list("to", func() dq { return dq{To: h.instant()} }),
		list("range of an hour", func() dq { from := h.instant(); return dq{From: from, To: from.Add(time.Hour)} }),
		list("range of an hour, ascending", func() dq { from := h.instant(); return dq{From: from, To: from.Add(time.Hour), Ascending: true} }),
		fixed("test", dq{Test: postrider.ChoiceYes}),
		fixed("not test", dq{Test: postrider.ChoiceNo}),
		list("replays", func() dq { return dq{ReplayOf: pick(h, h.origins)} }),
		list("webhook and FAILED", func() dq {
			q := status(postrider.StatusFailed)
			q.WebhookID = pick(h, h.hooks).ID
			return q
		}),
		list("owner and code 502", func() dq { return dq{Owner: pick(h, h.hooks).Owner, Code: "502"} }),
		list("project and 2 attempts", func() dq { return dq{Project: pick(h, h.hooks).Project, MinAttempts: 2} }),
	}
}

// attemptCalls returns the queries of attempts.
func (h *history) attemptCalls(ctx context.Context, b *testing.B, store postrider.Store) []call {
	type aq = postrider.AttemptQuery
	list := func(name string, q func() aq) call {
		return call{"attempts, " + name, func() (int, bool, error) {
			query := q()
			query.Limit = cmp.Or(h.limits[name], queryLimit)
			page, err := store.Attempts(ctx, query)
			return len(page.Items), page.Next != "", err
		}}
	}
	fixed := func(name string, q aq) call { return list(name, func() aq { return q }) }
	q := aq{Limit: min(postrider.MaxLimit, h.n/10)}
	var down []string
	if h.cursors != nil {
		down = h.cursors(cursor.Attempts(q))
	} else {
		down = cursors(b, func(cursor string) (string, int, error) {
			q.Cursor = cursor
			page, err := store.Attempts(ctx, q)
			return page.Next, len(page.Items), err
		}, h.n)
	}
	return []call{
		fixed("first page", aq{}),
		list("page in the middle", func() aq { return aq{Cursor: pick(h, down)} }),
		list("delivery", func() aq { return aq{DeliveryID: pick(h, h.ids)} }),
		list("webhook", func() aq { return aq{WebhookID: pick(h, h.hooks).ID} }),
		list("project", func() aq { return aq{Project: pick(h, h.hooks).Project} }),
		list("owner", func() aq { return aq{Owner: pick(h, h.hooks).Owner} }),
		list("type", func() aq { return aq{EventType: types[h.rnd.IntN(len(types))]} }),
		fixed("type with *", aq{EventType: "invoice.*"}),
		fixed("failed", aq{Failed: postrider.ChoiceYes}),
		fixed("not failed", aq{Failed: postrider.ChoiceNo}),
		fixed("code 502", aq{Code: "502"}),
		fixed("code 200", aq{Code: "200"}),
		fixed("code 204", aq{Code: "204"}),
		fixed("code 5xx", aq{Code: "5xx"}),
		fixed("code none", aq{Code: postrider.CodeNone}),
		fixed("class TIMEOUT", aq{Class: postrider.ClassTimeout}),
		fixed("class DNS", aq{Class: postrider.ClassDNS}),
		list("from", func() aq { return aq{From: h.instant()} }),
		list("to", func() aq { return aq{To: h.instant()} }),
		list("range of an hour", func() aq { from := h.instant(); return aq{From: from, To: from.Add(time.Hour)} }),
		list("range of a minute", func() aq { from := h.instant(); return aq{From: from, To: from.Add(time.Minute)} }),
		list("webhook and failed", func() aq { return aq{WebhookID: pick(h, h.hooks).ID, Failed: postrider.ChoiceYes} }),
	}
}

// calls measures one call of each query, in turn, so that a disturbance hits all.
func (h *history) calls(b *testing.B, rounds int) {
	store, err := bolt.Open(h.path, bolt.Options{})
	require.NoError(b, err)
	defer func() { require.NoError(b, store.Close()) }()
	list := append(h.deliveryCalls(b.Context(), b, store), h.attemptCalls(b.Context(), b, store)...)
	took := make([][]time.Duration, len(list))
	rows, short := make([]int, len(list)), make([]int, len(list))
	for round := range rounds + rounds/10 {
		for i, c := range list {
			start := time.Now()
			n, more, err := c.run()
			t := time.Since(start)
			require.NoError(b, err, c.name)
			if round < rounds/10 {
				continue // to warm up
			}
			took[i] = append(took[i], t)
			rows[i] += n
			if more && n < queryLimit {
				short[i]++
			}
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "one call of each query, %d rows a page, %d deliveries, %d calls each\n", queryLimit, h.n, rounds)
	fmt.Fprintf(&table, "%-42s %8s %8s %8s %7s %6s\n", "", "p50 µs", "p99 µs", "max µs", "rows", "short")
	worst := time.Duration(0)
	for i, c := range list {
		slices.Sort(took[i])
		at := func(share float64) time.Duration { return took[i][int(share*float64(len(took[i])-1))] }
		mark := ""
		if at(0.99) > queryBound {
			mark = "  over " + queryBound.String()
		}
		fmt.Fprintf(&table, "%-42s %8d %8d %8d %7.1f %5.0f%%%s\n", c.name, at(0.5).Microseconds(), at(0.99).Microseconds(), at(1).Microseconds(),
			float64(rows[i])/float64(rounds), 100*float64(short[i])/float64(rounds), mark)
		worst = max(worst, at(0.99))
	}
	b.ReportMetric(float64(worst.Microseconds()), "worst-p99-us")
	if strings.Contains(*queryParts, "drain") {
		table.WriteString(h.drain(b))
	}
	publish(b, "queries", "```text\n"+table.String()+"```")
}

// drain returns a line with the drain of BenchmarkThroughput.
func (h *history) drain(b *testing.B) string {
	n, count := *events, *rounds
	if quick() {
		n, count = 2000, 1
	}
	w := newWork(b, startReceiver(b))
	results := map[string]series{}
	for range count {
		w.bare(b, n, results)
		w.drain(b, n, results)
	}
	ratios := make(series, count)
	for i := range ratios {
		ratios[i] = results["drain"][i] / results["bare"][i]
	}
	b.ReportMetric(ratios.median(), "drain/bare")
	return fmt.Sprintf("drain of the same build and format: %s events/s, %.2f of bare (%.2f to %.2f)", results["drain"],
		ratios.median(), slices.Min(ratios), slices.Max(ratios))
}

// growth makes the same commits twice, the second time beside a walk over all deliveries.
func (h *history) growth(b *testing.B, commits int) {
	before, alone, _ := h.grow(b, commits, false)
	_, beside, met := h.grow(b, commits, true)
	more := float64(beside-alone) / float64(before+alone)
	b.Logf("%d commits made the file of %.1f MiB grow by %.2f MiB, and by %.2f MiB beside a walk that met %d deliveries: %+.3f %% of its size",
		commits, mib(before), mib(alone), mib(beside), met, 100*more)
	b.ReportMetric(100*more, "%-more")
	if before > 64<<20 { // a few pages more are much of a small file
		require.LessOrEqual(b, more, growthBound, "the share by which a walk makes the file grow")
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// grow makes commits in a copy of the file and returns the size of what is in use before, and by how much it grew: the
// file itself grows in steps. Commits are not synced, which changes nothing of it.
func (h *history) grow(b *testing.B, commits int, walk bool) (before, grown int64, met int) {
	path := filepath.Join(b.TempDir(), "copy.db")
	copyFile(b, h.path, path)
	defer os.Remove(path)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoSync: true, InitialMmapSize: 4 << 30,
	})
	require.NoError(b, err)
	defer func() { require.NoError(b, db.Close()) }()
	now := h.now
	store, err := bolt.New(db, bolt.Options{Now: func() time.Time { return now }})
	require.NoError(b, err)
	size := func() (n int64) {
		require.NoError(b, db.View(func(tx *bbolt.Tx) error { n = tx.Size(); return nil }))
		return n
	}
	before = size()
	// A page for every so many commits, so that the walk takes as long as they do.
	pages := h.n/postrider.MaxLimit + 1
	turn := make(chan struct{}, 1)
	walked := make(chan error, 1)
	go func() {
		walked <- func() error {
			if !walk {
				return nil
			}
			q := postrider.DeliveryQuery{Limit: postrider.MaxLimit}
			for range turn {
				page, err := store.Deliveries(b.Context(), q)
				if err != nil {
					return err
				}
				met += len(page.Items)
				if q.Cursor = page.Next; q.Cursor == "" {
					return nil
				}
			}
			return nil
		}()
	}()
	for i := range commits {
		h.commit(b, store, i)
		if walk && i%max(commits/pages, 1) == 0 {
			select {
			case turn <- struct{}{}:
			default:
			}
		}
	}
	grown = size() - before
	close(turn)
	require.NoError(b, <-walked)
	if walk {
		require.GreaterOrEqual(b, met, h.n*9/10, "deliveries that were met while commits were made")
	}
	return before, grown, met
}

// commit makes one commit: events are enqueued, and what is due is delivered, in turn.
func (h *history) commit(b *testing.B, store postrider.Store, i int) {
	if i%2 == 0 {
		w := &h.hooks[i/2%hooks]
		_, err := store.Enqueue(b.Context(), []postrider.Item{{To: []string{w.ID}, Event: postrider.Event{
			ID: fmt.Sprintf("later-%08d", i), Project: w.Project, Type: types[i/2%len(types)], Time: h.now, Payload: h.work.payloads[i%len(h.work.payloads)],
		}}})
		require.NoError(b, err)
		return
	}
	claims, _, err := store.Claim(b.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Hour})
	require.NoError(b, err)
	require.Len(b, claims, 1)
	c := &claims[0]
	n, err := store.Complete(b.Context(), []postrider.Outcome{{
		DeliveryID: c.Delivery.ID, Token: c.Token, Status: postrider.StatusDelivered,
		Attempt: &postrider.Attempt{
			DeliveryID: c.Delivery.ID, WebhookID: c.Delivery.WebhookID, Number: 1, StartedAt: h.now, FinishedAt: h.now, Code: 200,
		},
		Webhook: &postrider.WebhookChange{},
	}})
	require.NoError(b, err)
	require.Equal(b, 1, n)
}

func copyFile(b *testing.B, from, to string) {
	b.Helper()
	source, err := os.Open(from)
	require.NoError(b, err)
	defer source.Close()
	target, err := os.Create(to)
	require.NoError(b, err)
	_, err = io.Copy(target, source)
	require.NoError(b, err)
	require.NoError(b, target.Close())
}
