package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/internal/cursor"
)

// scaled is a file with as many pending as finished deliveries.
type scaled struct {
	*history
	store *bolt.Store
	d     *postrider.Dispatcher
	next  int              // event
	again []postrider.Item // replays of what was enqueued last
	final bool             // nothing is left for a second attempt
	held  []postrider.Claim
}

func scaledPath(folder string, n int) string {
	return filepath.Join(folder, fmt.Sprintf("scale-%d.db", n))
}

// fewRows are the queries of which the smaller file has fewer than 100 rows.
var fewRows = map[string]int{
	"event that was replayed": 10, "replays": 10, "webhook and FAILED": 10, "owner and code 502": 10, "project and 2 attempts": 10,
	"webhook and failed": 10, "range of an hour": 10, "range of an hour, ascending": 10,
}

func newScaled(b *testing.B, folder string, n int) *scaled {
	b.Helper()
	f := &scaled{history: &history{
		path: scaledPath(folder, n), n: n, limits: fewRows, rnd: rand.New(rand.NewPCG(uint64(n), 2)),
		work: newWork(b, "http://127.0.0.1:1"), start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}}
	for i := range f.work.payloads {
		f.work.payloads[i] = []byte(fmt.Sprintf(`{"id":%d,"note":"%s"}`, 100+i, strings.Repeat("x", scalePayload-len(`{"id":100,"note":""}`))))
		require.Len(b, f.work.payloads[i], scalePayload)
	}
	for i := range hooks {
		w := f.work.webhooks[i]
		w.ID, w.Name = fmt.Sprintf("hook-%02d", i), fmt.Sprintf("name-%02d", i)
		w.Project, w.Owner = fmt.Sprintf("project-%d", i%projects), fmt.Sprintf("owner-%d", i%owners)
		w.Events = append(slices.Clone(types), fmt.Sprintf("%s%d", scaleEvents, i))
		f.hooks = append(f.hooks, w)
	}
	if _, err := os.Stat(f.path); err != nil {
		f.fill(b)
	}
	f.now, f.final = f.start.Add(2*historySpan), true
	f.sampleScaled(b)
	f.history.cursors = f.cursorsIn
	return f
}

// open opens the store at the benchmark's time: after everything in the file, in which the clock stands still.
func (f *scaled) open(b *testing.B) {
	b.Helper()
	var err error
	f.store, err = bolt.Open(f.path, bolt.Options{Now: func() time.Time { return f.now }})
	require.NoError(b, err)
	f.d, err = postrider.New(f.store, postrider.Config{Network: loopback})
	require.NoError(b, err)
}

func (f *scaled) close(b *testing.B) {
	b.Helper()
	require.NoError(b, f.store.Close())
	f.store, f.d = nil, nil
}

// fill makes the file: what has finished within the first span, what is pending within the next.
func (f *scaled) fill(b *testing.B) {
	began := time.Now()
	f.now = f.start
	f.open(b)
	defer f.close(b)
	for _, w := range f.hooks {
		require.NoError(b, f.store.CreateWebhook(b.Context(), w))
	}
	size := min(scaleBatch, max(f.n/1000, 10)) // events of one call are of one instant
	for _, finished := range []bool{true, false} {
		for made := 0; made < f.n; made += size {
			n := min(size, f.n-made)
			f.enqueue(b, n)
			for finished && f.finish(b, n) > 0 {
			}
			f.now = f.now.Add(historySpan / time.Duration(f.n) * time.Duration(n))
		}
	}
	b.Logf("%s: made in %v", filepath.Base(f.path), time.Since(began).Round(time.Second))
}

// enqueue makes n deliveries, some of them tests and some replays: whatever n is, one event in 1,000 is replayed by
// about 20 of those that follow.
func (f *scaled) enqueue(b *testing.B, n int) {
	items := make([]postrider.Item, n)
	for i := range items {
		w := &f.hooks[f.next%hooks]
		items[i] = postrider.Item{To: []string{w.ID}, Test: f.rnd.IntN(50) == 0, Event: postrider.Event{
			ID: fmt.Sprintf("event-%010d", f.next), Project: w.Project, Type: types[f.rnd.IntN(len(types))], Time: f.now,
			Payload: f.work.payloads[f.next%len(f.work.payloads)],
		}}
		if len(f.again) > 0 && f.rnd.IntN(50) == 0 {
			items[i] = f.again[i/scaleReplayed%len(f.again)]
		}
		f.next++
	}
	receipts, err := f.store.Enqueue(b.Context(), items)
	require.NoError(b, err)
	if f.next/scaleReplayed == (f.next-n)/scaleReplayed {
		return
	}
	f.again = f.again[:0]
	for i := 0; i < n; i += scaleReplayed {
		item := items[i]
		item.ReplayOf, item.Test = receipts[i].Deliveries[0], false
		f.again = append(f.again, item)
	}
}

// finish claims up to n deliveries, ends most of them, and returns how many there were.
func (f *scaled) finish(b *testing.B, n int) int {
	claims, _, err := f.store.Claim(b.Context(), postrider.ClaimRequest{Max: n, Lease: time.Hour})
	require.NoError(b, err)
	outcomes := make([]postrider.Outcome, len(claims))
	for i := range claims {
		outcomes[i] = f.outcome(&claims[i])
	}
	done, err := f.store.Complete(b.Context(), outcomes)
	require.NoError(b, err)
	require.Equal(b, len(claims), done)
	return len(claims)
}

// outcome ends a delivery, or leaves it for a second attempt. One of each kind that can be asked for comes in 50.
func (f *scaled) outcome(c *postrider.Claim) postrider.Outcome {
	o := postrider.Outcome{
		DeliveryID: c.Delivery.ID, Token: c.Token, Status: postrider.StatusDelivered,
		Attempt: &postrider.Attempt{
			DeliveryID: c.Delivery.ID, WebhookID: c.Delivery.WebhookID, Number: c.Delivery.Attempts + 1,
			StartedAt: f.now, FinishedAt: f.now.Add(40 * time.Millisecond), Timestamp: f.now.Unix(), Code: 200, Body: []byte(`{"ok":true}`),
		},
	}
	if c.Delivery.Attempts > 0 {
		return o
	}
	fails := func(status postrider.Status, code int, class postrider.Class) {
		o.Status = status
		o.Attempt.Failed, o.Attempt.Code, o.Attempt.Class, o.Attempt.Error = true, code, class, class.Sentence()
	}
	switch f.rnd.IntN(50) {
	case 0:
		fails(postrider.StatusFailed, 502, postrider.ClassStatus)
	case 1:
		fails(postrider.StatusFailed, 0, postrider.ClassTimeout)
	case 2:
		fails(postrider.StatusFailed, 404, postrider.ClassStatus)
	case 3:
		fails(postrider.StatusInProcess, 503, postrider.ClassStatus)
		if f.final {
			o.Status = postrider.StatusFailed
		}
	}
	return o
}

// sampleScaled notes some of what is in the file, and what its numbers go up to. So that a query has as many rows at both
// sizes, events have one delivery, and those that were replayed a full page of them: what is asked for at random times
// is the first of a call of Enqueue, which is more often one of these the larger such calls are.
func (f *scaled) sampleScaled(b *testing.B) {
	f.open(b)
	defer f.close(b)
	stats, err := f.store.Stats(b.Context(), postrider.StatsQuery{})
	require.NoError(b, err)
	b.Logf("%s: %d NEW, %d DELIVERED, %d FAILED, %d MiB", filepath.Base(f.path), stats.New, stats.Delivered, stats.Failed, fileSize(b, f.path)>>20)
	f.next = int(stats.Total() + stats.Pruned)
	for range 200 {
		page, err := f.store.Deliveries(b.Context(), postrider.DeliveryQuery{From: f.instant(), Ascending: true, Limit: 100})
		require.NoError(b, err)
		for i, d := range page.Items {
			if i%50 == 0 {
				f.ids = append(f.ids, d.ID)
				if f.deliveriesOf(b, d.EventID) == 1 {
					f.events = append(f.events, d.EventID)
				}
			}
			if d.ReplayOf != "" {
				f.origins = append(f.origins, d.ReplayOf)
				if f.deliveriesOf(b, d.EventID) == fewRows["event that was replayed"] {
					f.replayed = append(f.replayed, d.EventID)
				}
			}
		}
	}
}

// deliveriesOf returns how many deliveries an event has, a page of few rows at most.
func (f *scaled) deliveriesOf(b *testing.B, event string) int {
	page, err := f.store.Deliveries(b.Context(), postrider.DeliveryQuery{EventID: event, Limit: fewRows["event that was replayed"]})
	require.NoError(b, err)
	return len(page.Items)
}

// cursorsIn returns cursors at random places of a list of all deliveries. To walk there would take minutes.
func (f *scaled) cursorsIn(key uint64) []string {
	list := make([]string, 1000)
	for i := range list {
		list[i] = cursor.Encode(key, 1+f.rnd.Uint64N(uint64(2*f.n)), 1, 0)
	}
	return list
}

// workCalls returns the calls of a dispatcher. What is claimed by one is completed by the next.
func (f *scaled) workCalls(ctx context.Context) []call {
	event := func() postrider.Event {
		i := f.next % hooks
		f.next++
		return postrider.Event{Project: f.hooks[i].Project, Type: fmt.Sprintf("%s%d", scaleEvents, i), Payload: f.work.payloads[f.next%len(f.work.payloads)]}
	}
	claim := func(n int) func() (int, bool, error) {
		return func() (int, bool, error) {
			claims, _, err := f.store.Claim(ctx, postrider.ClaimRequest{Max: n, Lease: time.Hour})
			f.held = append(f.held, claims...)
			return len(claims), false, err
		}
	}
	complete := func() (int, bool, error) {
		outcomes := make([]postrider.Outcome, len(f.held))
		for i := range f.held {
			outcomes[i] = f.outcome(&f.held[i])
		}
		f.held = f.held[:0]
		n, err := f.store.Complete(ctx, outcomes)
		return n, false, err
	}
	return []call{
		{"Emit, generated ID", func() (int, bool, error) {
			_, err := f.d.Emit(ctx, event())
			return 1, false, err
		}},
		{"Claim of 1", claim(1)},
		{"Complete of 1", complete},
		{fmt.Sprintf("Claim of %d", scaleClaims), claim(scaleClaims)},
		{fmt.Sprintf("Complete of %d", scaleClaims), complete},
		{"Stats", func() (int, bool, error) {
			_, err := f.store.Stats(ctx, postrider.StatsQuery{Rates: true})
			return 1, false, err
		}},
		{"EmitAll of 1000, generated IDs", func() (int, bool, error) {
			list := make([]postrider.Event, batch)
			for i := range list {
				list[i] = event()
			}
			_, err := f.d.EmitAll(ctx, list)
			return len(list), false, err
		}},
	}
}

// released gives back what is claimed.
func (f *scaled) released() (outcomes []postrider.Outcome) {
	for _, c := range f.held {
		outcomes = append(outcomes, postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token})
	}
	f.held = nil
	return outcomes
}

// rowCalls returns the calls that read one row.
func (f *scaled) rowCalls(ctx context.Context) []call {
	return []call{
		{"Event", func() (int, bool, error) {
			i := f.rnd.IntN(len(f.ids))
			d, _, err := f.store.Delivery(ctx, f.ids[i])
			if err != nil {
				return 0, false, err
			}
			_, err = f.store.Event(ctx, d.Project, d.EventID)
			return 1, false, err
		}},
		{"Delivery", func() (int, bool, error) {
			_, _, err := f.store.Delivery(ctx, pick(f.history, f.ids))
			return 1, false, err
		}},
		{"Webhooks", func() (int, bool, error) {
			page, err := f.store.Webhooks(ctx, postrider.WebhookQuery{})
			return len(page.Items), page.Next != "", err
		}},
	}
}

// scaleChild makes the test binary a process that writes to the file of that name until it is killed.
const scaleChild = "POSTRIDER_BENCH_SCALE"

// killed lets another process write to the file, and kills it.
func (f *scaled) killed(b *testing.B) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", scaleChild, f.path))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // it ends with us
	require.NoError(b, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, err)
	require.Equal(b, "ready\n", line)
	require.NoError(b, cmd.Process.Kill())
	_ = cmd.Wait()
}

// writeUntilKilled is the process that is killed.
func writeUntilKilled(path string) error {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(2 * historySpan)
	store, err := bolt.Open(path, bolt.Options{Now: func() time.Time { return now }})
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	ctx := context.Background()
	for i := 0; ; i++ {
		items := make([]postrider.Item, 10)
		for j := range items {
			items[j] = postrider.Item{To: []string{"hook-00"}, Event: postrider.Event{
				ID: fmt.Sprintf("killed-%d-%d-%d", time.Now().UnixNano(), i, j), Project: "project-0", Type: types[0],
				Payload: bytes.Repeat([]byte("1"), scalePayload),
			}}
		}
		if _, err := store.Enqueue(ctx, items); err != nil {
			return err
		}
		claims, _, err := store.Claim(ctx, postrider.ClaimRequest{Max: len(items), Lease: time.Hour})
		if err != nil {
			return err
		}
		outcomes := make([]postrider.Outcome, len(claims))
		for i, c := range claims {
			outcomes[i] = postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token, Status: postrider.StatusDelivered, Attempt: &postrider.Attempt{
				DeliveryID: c.Delivery.ID, WebhookID: c.Delivery.WebhookID, Number: 1, StartedAt: now, FinishedAt: now, Code: 200,
			}}
		}
		if _, err := store.Complete(ctx, outcomes); err != nil {
			return err
		}
		if i == 100 {
			fmt.Println("ready")
		}
	}
}
