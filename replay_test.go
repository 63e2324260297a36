package postrider_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/storetest"
)

// replay calls Replay and requires what it made and skipped.
func (b *bench) replay(r postrider.ReplayRequest, made, skipped int) {
	b.t.Helper()
	got, err := b.Replay(b.t.Context(), r)
	require.NoError(b.t, err)
	require.Equal(b.t, postrider.ReplayResult{Examined: made + skipped, Made: made, Skipped: skipped}, got)
}

// list returns all that a query selects, in the order of commits.
func (b *bench) list(q postrider.DeliveryQuery) (all []postrider.Delivery) {
	b.t.Helper()
	q.Ascending = true
	for v, err := range b.All(b.t.Context(), q) {
		require.NoError(b.t, err)
		all = append(all, v)
	}
	return all
}

// byType answers an event by its type: ok, fail, or hang for as long as the test runs.
func byType(ctx context.Context, r postrider.Request) (postrider.Response, error) {
	switch typ := r.EventID; {
	case strings.HasPrefix(typ, "ok"):
		return postrider.Response{Code: 200}, nil
	case strings.HasPrefix(typ, "fail"):
		return postrider.Response{Code: 500}, nil
	}
	return hang(ctx, r)
}

func TestReplayOfOneTwiceMakesTwo(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a")
		id := b.emit("e", "t")
		b.runFor(time.Second)
		one := postrider.ReplayRequest{Query: postrider.DeliveryQuery{ID: id}}
		b.replay(one, 1, 0)
		b.replay(one, 1, 0)
		b.runFor(time.Second)
		all := b.list(postrider.DeliveryQuery{})
		require.Len(t, all, 3)
		for _, v := range all[1:] {
			require.Equal(t, id, v.ReplayOf)
			require.Equal(t, "e", v.EventID)
			require.Equal(t, "a", v.WebhookID)
			require.Equal(t, postrider.StatusDelivered, v.Status)
			require.False(t, v.Test)
		}
		b.mu.Lock()
		require.Equal(t, []string{"e", "e", "e"}, []string{b.calls[0].event, b.calls[1].event, b.calls[2].event})
		b.mu.Unlock()

		b.replay(postrider.ReplayRequest{Query: postrider.DeliveryQuery{EventID: "e"}}, 1, 2) // replays are left out
		b.runFor(time.Second)
		b.replay(postrider.ReplayRequest{Query: postrider.DeliveryQuery{ID: all[1].ID}}, 1, 0) // unless named,
		b.runFor(time.Second)
		require.Len(t, b.list(postrider.DeliveryQuery{ReplayOf: all[1].ID}), 1)
		b.replay(postrider.ReplayRequest{Query: postrider.DeliveryQuery{ReplayOf: id}}, 1, 2) // and an event goes once in a run
		b.replay(postrider.ReplayRequest{Query: postrider.DeliveryQuery{ID: "nothing"}}, 0, 0)
	})
}

func TestReplayWithMissingRunTwiceAddsNothing(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		up := false
		b := newBench(t, store, postrider.Config{Retry: postrider.Schedule{time.Second}, BreakAfter: 1 << 20},
			func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
				if up {
					return postrider.Response{Code: 200}, nil
				}
				return byType(ctx, r)
			})
		b.hook("a", func(w *postrider.Webhook) { w.MaxInFlight = 1000 })
		b.emitMany(20, "ok")
		failed := b.emitMany(20, "fail")
		b.runFor(time.Minute)
		require.NoError(t, b.PauseWebhook(t.Context(), "a"))
		b.emitMany(1, "canceled")
		_, err := b.Cancel(t.Context(), postrider.DeliveryQuery{})
		require.NoError(t, err)
		b.emitMany(3, "ok-open")

		missing := postrider.ReplayRequest{Missing: true}
		b.replay(missing, 20, 0) // what is not FAILED is not looked at
		b.replay(missing, 0, 20) // on their way
		require.NoError(t, b.ResumeWebhook(t.Context(), "a"))
		b.runFor(time.Minute)
		for _, id := range failed {
			replays := b.list(postrider.DeliveryQuery{ReplayOf: id})
			require.Len(t, replays, 1)
			require.Equal(t, postrider.StatusFailed, replays[0].Status)
		}
		b.replay(missing, 20, 20) // failed again; the replays themselves are left out
		up = true
		b.runFor(time.Minute)
		b.replay(missing, 0, 40) // delivered now
		require.EqualValues(t, 20+20+1+3+2*20, b.stats("").Total())

		b.replay(postrider.ReplayRequest{Missing: true, Query: postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusDelivered}}}, 0, 0)
	})
}

func TestReplayToANewWebhook(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{Concurrency: 256}, answers(0, 200))
		b.hook("a", only)
		b.hook("b", func(w *postrider.Webhook) { w.Events = []string{"a"} })
		const events = 1300 // in three batches
		b.emitMany(events, "a")
		_, err := b.CreateWebhook(t.Context(), postrider.Webhook{ID: "other", Name: "other", Project: "p", URL: "https://p.example", Events: []string{"*"}})
		require.NoError(t, err)
		_, err = b.Emit(t.Context(), postrider.Event{ID: "a-7", Project: "p", Type: "a", Payload: []byte(`{}`)})
		require.NoError(t, err)
		b.hook("new", func(w *postrider.Webhook) { w.Events = []string{"nothing"} })

		to := postrider.ReplayRequest{To: "new"}
		dry := to
		dry.DryRun = true
		b.replay(dry, events, events) // each event is there twice
		require.Empty(t, b.list(postrider.DeliveryQuery{WebhookID: "new"}))
		b.replay(to, events, events)
		to.Missing = true
		b.replay(to, 0, 3*events) // all are on their way, itself included
		b.runFor(time.Minute)
		b.replay(to, 0, 3*events)
		to.Missing, to.Query.WebhookID = false, "a"
		b.replay(to, events, 0) // asked for once more

		seen := map[string]int{}
		for _, v := range b.list(postrider.DeliveryQuery{WebhookID: "new"}) {
			require.Empty(t, v.Project)
			seen[v.EventID]++
		}
		require.Len(t, seen, events)
		for id, n := range seen {
			require.Equal(t, 2, n, id)
		}

		to.Query = postrider.DeliveryQuery{Project: "p"}
		b.replay(to, 0, 0) // of another project than the webhook's
		_, err = b.Replay(t.Context(), postrider.ReplayRequest{To: "nobody"})
		require.ErrorIs(t, err, postrider.ErrNotFound)
		var failed *postrider.ReplayError
		require.False(t, errors.As(err, &failed), "nothing began")
		b.replay(postrider.ReplayRequest{To: "other"}, 1, 0)
		b.replay(postrider.ReplayRequest{To: "other"}, 1, 1) // the first replay is on its way to it
	})
}

func TestReplayLeavesOut(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{Retry: postrider.Schedule{time.Hour}}, byType)
		b.hook("a", only)
		b.hook("gone", only)
		b.emit("ok", "a")
		b.emit("ok-gone", "gone")
		b.emit("fail", "a") // will be IN_PROCESS
		_, err := store.Enqueue(t.Context(), []postrider.Item{{
			Event: postrider.Event{ID: "ok-test", Type: postrider.TypeTest, Time: time.Now(), Payload: []byte(`{}`)}, To: []string{"a"}, Test: true,
		}})
		require.NoError(t, err)
		b.runFor(time.Minute)
		require.NoError(t, b.DeleteWebhook(t.Context(), "gone"))

		b.replay(postrider.ReplayRequest{}, 1, 2)
		b.replay(postrider.ReplayRequest{Query: postrider.DeliveryQuery{Test: postrider.ChoiceNo, WebhookID: "gone"}}, 0, 1)
		b.replay(postrider.ReplayRequest{Query: postrider.DeliveryQuery{Test: postrider.ChoiceYes}}, 1, 0)
		tests := b.list(postrider.DeliveryQuery{EventID: "ok-test"})
		require.Len(t, tests, 2)
		require.True(t, tests[1].Test, "it stays a test")
		b.replay(postrider.ReplayRequest{Query: postrider.DeliveryQuery{WebhookName: "a", EventType: "a"}}, 1, 2) // one on its way, one replay

		_, err = b.Replay(t.Context(), postrider.ReplayRequest{Query: postrider.DeliveryQuery{WebhookName: "gone"}})
		require.ErrorIs(t, err, postrider.ErrNotFound)
		_, err = b.Replay(t.Context(), postrider.ReplayRequest{Query: postrider.DeliveryQuery{Limit: 1, Ascending: true, MinAttempts: -1}, Cursor: "x"})
		require.Equal(t, []string{
			"DeliveryQuery.Limit is 1, want none: all that the query selects is meant",
			"DeliveryQuery.MinAttempts is -1, want 0 to 2147483647",
			"DeliveryQuery.Ascending is true, want false: a replay has an order of its own",
		}, fields(t, err))
	})
}

func TestDryRunCountsWhatTheNextCallMakes(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		rng := rand.New(rand.NewPCG(seed, 0))
		b := newBench(t, store, postrider.Config{Retry: postrider.Schedule{time.Minute}, BreakAfter: 1 << 20, Concurrency: 500}, byType)
		hooks := []string{"a", "b", "c", "d"}
		for _, id := range hooks {
			b.hook(id, func(w *postrider.Webhook) { w.Events, w.MaxInFlight = []string{"*"}, 1000 })
		}
		for _, kind := range []string{"ok", "fail", "slow"} {
			b.emitMany(50, kind)
		}
		b.runFor(time.Hour)
		require.NoError(t, b.DeleteWebhook(t.Context(), "d"))
		for range 30 {
			r := postrider.ReplayRequest{Missing: rng.IntN(2) == 0, To: []string{"", "a", "b"}[rng.IntN(3)]}
			r.Query.WebhookID = append(hooks, "")[rng.IntN(5)]
			r.Query.EventType = []string{"", "ok", "f*", "slow"}[rng.IntN(4)]
			if rng.IntN(3) == 0 {
				r.Query.Statuses = []postrider.Status{postrider.Status(rng.IntN(5)), postrider.StatusFailed}
			}
			if all := b.list(postrider.DeliveryQuery{}); rng.IntN(4) == 0 {
				r.Query.ReplayOf = all[rng.IntN(len(all))].ReplayOf
			}
			total := b.stats("").Total()
			dry := r
			dry.DryRun = true
			want, err := b.Replay(t.Context(), dry)
			require.NoError(t, err)
			require.Equal(t, total, b.stats("").Total(), "a dry run makes nothing")
			got, err := b.Replay(t.Context(), r)
			require.NoError(t, err)
			require.Equal(t, want, got, "%+v", r)
			require.EqualValues(t, total+int64(got.Made), b.stats("").Total())
			if rng.IntN(5) == 0 {
				b.runFor(time.Hour)
			}
			_, err = b.Cancel(t.Context(), postrider.DeliveryQuery{EventType: "slow", WebhookID: hooks[rng.IntN(3)]})
			require.NoError(t, err)
		}
	})
}

// Each fault ends a replay with a cursor that leads on, and in the end there is one replay of each delivery: whether or
// not the calls that failed had done what they were asked.
func TestReplayThroughAFailingStore(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		rng := rand.New(rand.NewPCG(seed, 0))
		faults := storetest.NewFaults(store)
		b := newBench(t, faults, postrider.Config{MaxPending: 100_000, Concurrency: 500}, answers(0, 200))
		b.hook("a", func(w *postrider.Webhook) { w.MaxInFlight = 1000 })
		b.hook("b", only)
		ids := b.emitMany(1600, "t")
		b.runFor(time.Minute)
		for _, r := range []postrider.ReplayRequest{
			{Query: postrider.DeliveryQuery{WebhookName: "a"}},
			{Query: postrider.DeliveryQuery{WebhookName: "a", Test: postrider.ChoiceNo}, To: "b"},
			{Query: postrider.DeliveryQuery{WebhookName: "a"}, To: "b", Missing: true},
		} {
			total := int64(0)
			before := b.stats("").Total()
			fail := func() {
				method := []string{"Enqueue", "Enqueue", "Deliveries", "Webhook", "Webhooks", "Stats"}[rng.IntN(6)]
				faults.Fail(storetest.Fault{
					Method: method, When: storetest.When(rng.IntN(2)), Times: 1,
					Err: []error{postrider.ErrStore, postrider.ErrFull, context.DeadlineExceeded, errDisk}[rng.IntN(4)],
				})
			}
			r.Progress = func(postrider.ReplayResult) {
				if rng.IntN(2) == 0 {
					fail()
				}
			}
			if r.Missing {
				// What the request before has made is to be missed.
				_, err := b.Cancel(t.Context(), postrider.DeliveryQuery{WebhookID: "b"})
				require.NoError(t, err)
			}
			tries := 0
			for ; ; tries++ {
				switch {
				case tries < 4: // four batches at least, so that none of these calls gets by without one
					faults.Fail(storetest.Fault{Method: "Enqueue", When: storetest.When(rng.IntN(2)), Times: 1})
				case tries < 40:
					fail()
				default:
					r.Progress = nil
				}
				result, err := b.Replay(t.Context(), r)
				total += int64(result.Made)
				if err == nil {
					break
				}
				var failed *postrider.ReplayError
				require.ErrorAs(t, err, &failed)
				require.NotErrorIs(t, err, postrider.ErrInvalid)
				r.Cursor = failed.Cursor
				time.Sleep(time.Second) // so that Stats is asked again
			}
			for _, method := range []string{"Enqueue", "Deliveries", "Webhook", "Webhooks", "Stats"} {
				faults.Clear(method)
			}
			require.EqualValues(t, len(ids), b.stats("").Total()-before, "%+v", r.Query)
			require.LessOrEqual(t, total, int64(len(ids)))
			require.Greater(t, tries, 3)
			seen := map[string]int{}
			for _, v := range b.list(postrider.DeliveryQuery{WebhookID: r.To, Statuses: []postrider.Status{postrider.StatusNew}}) {
				if r.To != "" || v.WebhookID == "a" {
					seen[v.ReplayOf]++
				}
			}
			require.Len(t, seen, len(ids))
			for id, n := range seen {
				require.Equal(t, 1, n, id)
			}
		}
	})
}

func TestCursorOfAReplay(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{Concurrency: 500}, answers(0, 200))
		b.hook("a", func(w *postrider.Webhook) { w.MaxInFlight = 1000 })
		b.emitMany(1200, "t")
		b.runFor(time.Minute)
		ctx, cancel := context.WithCancel(t.Context())
		var progress []postrider.ReplayResult
		r := postrider.ReplayRequest{Query: postrider.DeliveryQuery{From: b.start.In(time.FixedZone("x", 3600))}}
		r.Progress = func(p postrider.ReplayResult) {
			progress = append(progress, p)
			cancel()
		}
		result, err := b.Replay(ctx, r)
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, "replay: context canceled")
		require.Equal(t, postrider.ReplayResult{Examined: 500, Made: 500}, result)
		require.Equal(t, []postrider.ReplayResult{result}, progress)
		var failed *postrider.ReplayError
		require.ErrorAs(t, err, &failed)

		for name, other := range map[string]postrider.ReplayRequest{
			"belongs to another request":   {Query: postrider.DeliveryQuery{From: b.start, WebhookID: "a"}, Cursor: failed.Cursor},
			"belongs to another  request":  {Query: r.Query, DryRun: true, Cursor: failed.Cursor},
			"belongs to another   request": {Query: r.Query, Missing: true, Cursor: failed.Cursor},
			"does not parse":               {Query: r.Query, Cursor: failed.Cursor[1:]},
			"does  not parse":              {Query: r.Query, Cursor: "bm90aGluZw"},
		} {
			_, err := b.Replay(t.Context(), other)
			require.Contains(t, fields(t, err)[0], "ReplayRequest.Cursor "+strings.Join(strings.Fields(name), " "))
		}

		r.Cursor, r.Progress = failed.Cursor, nil
		r.Query.From = r.Query.From.UTC() // the same instant is the same request
		b.replay(r, 700, 0)
		require.Len(t, b.list(postrider.DeliveryQuery{}), 2400)
		b.replay(r, 0, 700) // and once more the same way: they are made
	})
}

func TestReplayEndsAtTheNewestThereWas(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 200))
		b.hook("a", only)
		b.hook("b", only)
		ids := b.emitMany(600, "a")
		r := postrider.ReplayRequest{Query: postrider.DeliveryQuery{WebhookID: "a", Statuses: []postrider.Status{postrider.StatusNew}}, To: "b"}
		first := true
		r.Progress = func(postrider.ReplayResult) {
			if first {
				first = false
				// The newest is no longer selected, and there are newer ones.
				_, err := b.Cancel(t.Context(), postrider.DeliveryQuery{ID: ids[599]})
				require.NoError(t, err)
				time.Sleep(time.Millisecond)
				for i := range 700 {
					b.emit(fmt.Sprint("late-", i), "a")
				}
			}
		}
		b.replay(r, 599, 0)

		// Without To it never meets what it makes, though the clock stands still.
		b.replay(postrider.ReplayRequest{Query: postrider.DeliveryQuery{WebhookID: "b"}, To: "a"}, 599, 0)
		b.replay(postrider.ReplayRequest{To: "a"}, 599+1, 599+700+599) // of those on their way to it none
	})
}

// deleting is a store that deletes a webhook just before the first Enqueue from then on.
type deleting struct {
	postrider.Store
	id string
}

func (d *deleting) Enqueue(ctx context.Context, items []postrider.Item) ([]postrider.Receipt, error) {
	if d.id != "" {
		if err := d.DeleteWebhook(ctx, d.id); err != nil {
			return nil, err
		}
		d.id = ""
	}
	return d.Store.Enqueue(ctx, items)
}

func TestReplayWhileWebhooksAreDeleted(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		s := &deleting{Store: store}
		b := newBench(t, s, postrider.Config{Concurrency: 500}, answers(0, 200))
		all := func(w *postrider.Webhook) { w.MaxInFlight = 1000 }
		b.hook("a", all)
		b.hook("b", all)
		b.hook("c", all)
		b.emitMany(1000, "t")
		b.runFor(time.Minute)

		s.id = "c" // before the first batch is stored, and after it was put together
		b.replay(postrider.ReplayRequest{}, 2000, 1000)
		require.Len(t, b.list(postrider.DeliveryQuery{WebhookID: "c"}), 1000)

		_, err := b.Cancel(t.Context(), postrider.DeliveryQuery{})
		require.NoError(t, err)
		first := true
		r := postrider.ReplayRequest{Query: postrider.DeliveryQuery{WebhookID: "a"}, To: "b", Progress: func(postrider.ReplayResult) {
			if first {
				first = false
				require.NoError(t, b.DeleteWebhook(t.Context(), "b"))
			}
		}}
		result, err := b.Replay(t.Context(), r)
		require.ErrorIs(t, err, postrider.ErrNotFound, "nothing more can be made")
		require.Equal(t, 500, result.Made)
		var failed *postrider.ReplayError
		require.ErrorAs(t, err, &failed)
		r.Cursor = failed.Cursor
		_, err = b.Replay(t.Context(), r)
		require.ErrorIs(t, err, postrider.ErrNotFound)
	})
}

func TestReplayEndsWhenThereIsNoRoom(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{MaxPending: 600, Concurrency: 500}, answers(0, 200))
		b.hook("a", func(w *postrider.Webhook) { w.MaxInFlight = 1000 })
		for _, part := range []string{"x", "y"} {
			b.emitMany(600, part)
			b.runFor(time.Minute)
		}
		r := postrider.ReplayRequest{}
		for _, made := range []int{1000, 0} {
			result, err := b.Replay(t.Context(), r)
			require.ErrorIs(t, err, postrider.ErrFull)
			require.Equal(t, postrider.ReplayResult{Examined: made, Made: made}, result)
			var failed *postrider.ReplayError
			require.ErrorAs(t, err, &failed)
			r.Cursor = failed.Cursor
		}
		b.runFor(time.Minute)
		b.replay(r, 200, 0)
		b.runFor(time.Minute)
		require.Len(t, b.list(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusDelivered}}), 2400)
	})
}

func TestReplaysRespectTheWebhooksLimits(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(time.Second, 200))
		b.hook("a", func(w *postrider.Webhook) { w.MaxInFlight = 2 })
		b.emitMany(9, "t")
		b.runFor(time.Minute)
		before := len(b.times())
		b.replay(postrider.ReplayRequest{}, 9, 0)
		b.start = time.Now()
		b.runFor(time.Minute)
		require.Equal(t, seconds(0, 1, 1, 2, 2, 3, 3, 4, 4), b.times()[before:])
	})
}

func TestMissingRunTwiceAddsNoTest(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{}, answers(0, 500))
		b.hook("a")
		b.hook("b")
		_, err := b.SendTest(t.Context(), "a")
		require.NoError(t, err)
		for _, to := range []string{"", "b"} {
			r := postrider.ReplayRequest{Query: postrider.DeliveryQuery{WebhookID: "a", Test: postrider.ChoiceYes}, Missing: true, To: to}
			result, err := b.Replay(t.Context(), r)
			require.NoError(t, err)
			require.Equal(t, 1, result.Made, "to %q", to)
			result, err = b.Replay(t.Context(), r)
			require.NoError(t, err)
			require.Zero(t, result.Made, "to %q", to)
		}
	})
}

func TestReplayGoesOnOnlyWithWhatItSelected(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		faults := storetest.NewFaults(store)
		b := newBench(t, faults, postrider.Config{}, answers(0, 200))
		b.hook("a", only)
		b.hook("b", only)
		b.emitMany(3, "a")
		b.emitMany(3, "b")
		b.runFor(time.Minute)
		r := postrider.ReplayRequest{Query: postrider.DeliveryQuery{WebhookName: "a", WebhookID: "a"}}
		faults.Fail(storetest.Fault{Method: "Enqueue", Times: 1})
		_, err := b.Replay(t.Context(), r)
		var failed *postrider.ReplayError
		require.ErrorAs(t, err, &failed)
		r.Cursor = failed.Cursor
		for _, id := range []string{"a", "b"} { // the name goes to the other webhook, so that nothing has both
			_, err := b.UpdateWebhook(t.Context(), id, func(w *postrider.Webhook) error {
				w.Name = map[string]string{"a": "old", "b": "a"}[id]
				return nil
			})
			require.NoError(t, err)
		}
		b.replay(r, 0, 0)
	})
}

func TestDryRunThatWasCutOffCountsNothingTwice(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		faults := storetest.NewFaults(store)
		b := newBench(t, faults, postrider.Config{Concurrency: 500}, answers(0, 200))
		for _, id := range []string{"a", "b", "c"} { // a batch ends between the deliveries of an event
			b.hook(id, func(w *postrider.Webhook) { w.MaxInFlight = 1000 })
		}
		b.emitMany(300, "t")
		b.runFor(time.Minute)
		b.hook("d")
		r := postrider.ReplayRequest{To: "d", DryRun: true}
		r.Progress = func(postrider.ReplayResult) { faults.Fail(storetest.Fault{Method: "Deliveries", Times: 1}) }
		_, err := b.Replay(t.Context(), r)
		var failed *postrider.ReplayError
		require.ErrorAs(t, err, &failed)
		require.Empty(t, failed.Cursor, "it begins anew")
		r.Progress = nil
		b.replay(r, 300, 600)
		r.DryRun = false
		b.replay(r, 300, 600)
	})
}

func TestReplayToAWebhookDeletedAtTheEnd(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		s := &deleting{Store: store}
		b := newBench(t, s, postrider.Config{}, answers(0, 200))
		b.hook("a", only)
		b.hook("b", only)
		b.emitMany(5, "a")
		b.runFor(time.Minute)
		s.id = "b" // before the only batch is stored
		result, err := b.Replay(t.Context(), postrider.ReplayRequest{To: "b"})
		require.ErrorIs(t, err, postrider.ErrNotFound)
		require.Zero(t, result)
	})
}
