package bolt_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
)

// keyed stores n events with an order key for one webhook, in calls of 1,000, and returns the IDs of the deliveries.
func keyed(t *testing.T, s postrider.Enqueuer, hook, key, typ string, now time.Time, n int) (ids []string) {
	t.Helper()
	for n > 0 {
		items := make([]postrider.Item, min(n, 1000))
		for i := range items {
			id := fmt.Sprintf("%s-%s-%s-%06d", hook, key, typ, n-i)
			items[i] = postrider.Item{To: []string{hook}, Event: postrider.Event{ID: id, Type: typ, Payload: []byte(`1`), Time: now, OrderKey: key}}
		}
		receipts, err := s.Enqueue(t.Context(), items)
		require.NoError(t, err)
		for _, r := range receipts {
			ids = append(ids, r.Deliveries...)
		}
		n -= len(items)
	}
	return ids
}

func reopened(t *testing.T, s *bolt.Store, path string, now func() time.Time) *bolt.Store {
	t.Helper()
	require.NoError(t, s.Close())
	checkFile(t, path)
	s, err := bolt.Open(path, bolt.Options{Now: now})
	require.NoError(t, err)
	require.NoError(t, s.Check())
	return s
}

// What is parked costs claims nothing, neither fresh nor after a restart; each end promotes one.
func TestParkedAreNotReadByClaims(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := bolt.Open(path, bolt.Options{Now: clock.Now})
	require.NoError(t, err)
	require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}}))
	const n = 10_000
	ids := keyed(t, s, "w", "k", "a", clock.Now(), n+1)
	next := 0
	turns := func(count int) {
		t.Helper()
		for range count {
			clock.Step(time.Second)
			c := claimed(t, s, postrider.ClaimRequest{Max: 10})
			require.Len(t, c, 1)
			require.Equal(t, ids[next], c[0].Delivery.ID)
			at, reads := s.Walk("w")
			require.Equal(t, uint64(n+2), at)
			require.False(t, reads, "the next claim has to read")
			completed(t, s, succeeded(c[0], clock.Now()))
			next++
		}
	}
	turns(100)
	require.NoError(t, s.Check())
	require.Equal(t, uint64(n+1), s.Ended("w"), "no restart looks at what was parked again")

	s = reopened(t, s, path, clock.Now)
	at, reads := s.Walk("w")
	require.Equal(t, uint64(n+2), at)
	require.True(t, reads, "of what was promoted")
	turns(100)
	require.Equal(t, n-200, s.Entries()["lane"]-1)
	require.NoError(t, s.Close())
	checkFile(t, path)
}

// A lane that is stuck does not hold back the mark, and what is parked there is found all the same.
func TestStuckLaneLeavesTheRestartShort(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := bolt.Open(path, bolt.Options{Now: clock.Now})
	require.NoError(t, err)
	require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}}))
	stuck := keyed(t, s, "w", "k", "a", clock.Now(), 20)
	completed(t, s, retried(claimed(t, s, postrider.ClaimRequest{Max: 1})[0], clock.Now(), 1000*time.Hour))
	for range 10 { // more than stays in memory
		sendTo(t, s, "w", "b", clock.Now(), 1000)
		var outcomes []postrider.Outcome
		for _, c := range claimed(t, s, postrider.ClaimRequest{Max: 1000}) {
			outcomes = append(outcomes, succeeded(c, clock.Now()))
		}
		completed(t, s, outcomes...)
	}
	require.Equal(t, s.LastSeq(), s.Ended("w"))
	s = reopened(t, s, path, clock.Now)
	require.Empty(t, claimed(t, s, postrider.ClaimRequest{Max: 10}))
	_, reads := s.Walk("w")
	require.False(t, reads)
	page, err := s.Deliveries(t.Context(), postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusNew}, Ascending: true})
	require.NoError(t, err)
	require.Len(t, page.Items, 19)
	for i, d := range page.Items {
		require.Equal(t, stuck[i+1], d.ID)
	}
	require.Empty(t, page.Next)

	n, _, err := s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{ID: stuck[0]}, Max: 1})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	s = reopened(t, s, path, clock.Now)
	c := claimed(t, s, postrider.ClaimRequest{Max: 10})
	require.Len(t, c, 1)
	require.Equal(t, stuck[1], c[0].Delivery.ID)
	require.NoError(t, s.Close())
	checkFile(t, path)
}

// Whoever cancels a whole lane, in however many calls, gives nobody a turn on the way.
func TestCancelingALanePromotesNothing(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	for name, c := range map[string]postrider.Change{
		"of a webhook":         {Query: postrider.DeliveryQuery{WebhookID: "w"}},
		"of a type":            {Query: postrider.DeliveryQuery{EventType: "a"}},
		"of deleted webhooks":  {Deleted: true},
		"of what is old":       {Age: time.Hour},
		"of what is new to us": {Query: postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusNew}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const n = 3_000
			s := storeWith(t, clock.Now, "w")
			keyed(t, s, "w", "k", "a", clock.Now().Add(-time.Hour), n)
			if c.Deleted {
				require.NoError(t, s.DeleteWebhook(t.Context(), "w"))
			}
			c.Kind, c.Max = postrider.ChangeCancel, 1000
			if c.Age > 0 {
				c.Age = time.Nanosecond
				_, more, err := s.Change(t.Context(), c)
				require.NoError(t, err)
				require.False(t, more)
				require.EqualValues(t, n, statsOf(t, s).New, "all of it was made just now")
				c.Age = 0
			}
			total := 0
			for more := true; more; {
				var made int
				var err error
				made, more, err = s.Change(t.Context(), c)
				require.NoError(t, err)
				total += made
				require.Zero(t, s.Entries()["retry"])
			}
			require.Equal(t, n, total)
			require.Zero(t, s.Entries()["lane"])
			require.NoError(t, s.Check())
		})
	}
}

// TestChangeReachesWhatIsParkedBehindManyOthers: as for those without a lane, a call may be short.
func TestChangeReachesWhatIsParkedBehindManyOthers(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	s := storeWith(t, clock.Now, "w")
	keyed(t, s, "w", "k", "a", clock.Now(), 12_000)
	keyed(t, s, "w", "k", "b", clock.Now(), 3)
	keyed(t, s, "w", "l", "b", clock.Now(), 3)
	total := 0
	for range 20 {
		n, more, err := s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{EventType: "b"}, Max: 100})
		require.NoError(t, err)
		if total += n; !more {
			break
		}
	}
	require.Equal(t, 6, total)
	require.EqualValues(t, 6, statsOf(t, s).Canceled)
	require.NoError(t, s.Check())
}

// Many callers at once: of a lane never two are in flight, and each comes after the one that was stored before it.
func TestLanesWithManyCallers(t *testing.T) {
	t.Parallel()
	const streams, each = 6, 60
	s := storeWith(t, time.Now, "w", "x")
	var mu sync.Mutex
	last := map[string]int{}  // by webhook and key
	busy := map[string]bool{} // likewise
	left := streams * each * 2
	var all sync.WaitGroup
	for i := range streams {
		all.Go(func() {
			for n := range each {
				e := postrider.Event{ID: fmt.Sprintf("%d-%03d", i, n), Type: "a", Payload: []byte("1"), Time: time.Now(), OrderKey: fmt.Sprint("key-", i), Metadata: map[string]string{"n": fmt.Sprint(n)}}
				if _, err := s.Enqueue(t.Context(), []postrider.Item{{Event: e}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for worker := range 4 {
		all.Go(func() {
			for {
				mu.Lock()
				over := left == 0
				mu.Unlock()
				if over || t.Failed() {
					return
				}
				claims, _, err := s.Claim(t.Context(), postrider.ClaimRequest{Max: 3, Lease: time.Hour})
				if err != nil {
					t.Error(err)
					return
				}
				outcomes := make([]postrider.Outcome, len(claims))
				mu.Lock()
				for i, c := range claims {
					lane := c.Webhook.ID + " " + c.Event.OrderKey
					var n int
					_, _ = fmt.Sscan(c.Event.Metadata["n"], &n)
					if busy[lane] || n != last[lane] {
						t.Errorf("%s: %d is handed out, %d is next, and one is in flight: %t", lane, n, last[lane], busy[lane])
					}
					busy[lane] = true
					outcomes[i] = succeeded(c, time.Now())
					if (n+worker)%5 == 0 && c.Delivery.Attempts == 0 {
						outcomes[i] = retried(c, time.Now(), 0)
					}
				}
				// They count as over before they are, so that nobody may be faster than this list.
				for i, c := range claims {
					lane := c.Webhook.ID + " " + c.Event.OrderKey
					busy[lane] = false
					if outcomes[i].Status.Final() {
						last[lane]++
						left--
					}
				}
				mu.Unlock()
				if n, err := s.Complete(t.Context(), outcomes); err != nil || n != len(outcomes) {
					t.Errorf("%d of %d: %v", n, len(outcomes), err)
				}
			}
		})
	}
	all.Wait()
	require.EqualValues(t, streams*each*2, statsOf(t, s).Delivered)
	require.NoError(t, s.Check())
}

func TestRunReplaysOnce(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := bolt.Open(path, bolt.Options{Now: clock.Now})
	require.NoError(t, err)
	for _, id := range []string{"v", "w"} {
		require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: id, Name: id, URL: "http://x.example", Events: []string{"*"}}))
	}
	receipts, err := s.Enqueue(t.Context(), []postrider.Item{{Event: postrider.Event{ID: "e", Type: "a", Payload: []byte("1"), Time: clock.Now()}, Run: "first"}})
	require.NoError(t, err)
	origin := receipts[0].Deliveries[0]
	replay := func(run string, to ...string) postrider.Item {
		return postrider.Item{Event: postrider.Event{ID: "e"}, ReplayOf: origin, Run: run, To: to}
	}
	send := func(items ...postrider.Item) (made []int) {
		t.Helper()
		receipts, err := s.Enqueue(t.Context(), items)
		require.NoError(t, err)
		for _, r := range receipts {
			require.Equal(t, len(r.Deliveries) == 0, r.Duplicate)
			made = append(made, len(r.Deliveries))
		}
		return made
	}
	const uuid = "019ca945-0a7b-7061-b997-ea014ea43290"
	require.Equal(t, []int{1, 1, 0, 0}, send(replay(uuid, "w"), replay(uuid), replay(uuid), replay(uuid, "v", "w")), "in one call")
	require.Equal(t, []int{0}, send(replay(uuid)), "in another")
	require.Equal(t, []int{2, 2}, send(replay(""), replay("")), "without a run")
	require.Equal(t, []int{2, 0}, send(replay("any text"), replay("any text")))
	require.Equal(t, []int{2}, send(replay("first")), "a replay")
	s = reopened(t, s, path, clock.Now)
	require.Equal(t, []int{0, 0, 0}, send(replay("any text"), replay(uuid, "w"), replay("first")))
	require.Equal(t, []int{2}, send(replay("019CA945-0A7B-7061-B997-EA014EA43290")), "another text is another run")
	require.NoError(t, s.Check())
	require.NoError(t, s.Close())
}

// A change that runs, or an entry that turns out to be out of date, is not a claim.
func TestHeldCountsClaimsAlone(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := bolt.Open(path, bolt.Options{Now: clock.Now})
	require.NoError(t, err)
	require.NoError(t, s.CreateWebhook(t.Context(), postrider.Webhook{ID: "w", Name: "w", URL: "http://x.example", Events: []string{"*"}}))
	ids := sendTo(t, s, "w", "a", clock.Now(), 6)
	for _, c := range claimed(t, s, postrider.ClaimRequest{Max: 6}) { // all but the first and the fourth end
		if id := c.Delivery.ID; id != ids[0] && id != ids[3] {
			completed(t, s, succeeded(c, clock.Now()))
		}
	}
	s = reopened(t, s, path, clock.Now)
	sendTo(t, s, "w", "a", clock.Now(), 1)
	var held []int
	for _, c := range claimed(t, s, postrider.ClaimRequest{Max: 10}) {
		held = append(held, c.Held)
	}
	require.Equal(t, []int{1, 2, 3}, held)
	require.NoError(t, s.Close())
}

// What is parked is due already. Only once it has its turn, and if the clock went back, is there something to hasten.
func TestDueInALaneAfterTheClockWentBack(t *testing.T) {
	t.Parallel()
	clock := newTicker()
	s := storeWith(t, clock.Now, "w")
	clock.Step(time.Hour)
	ids := keyed(t, s, "w", "k", "a", clock.Now(), 3)
	clock.Step(-time.Hour)
	due := func(q postrider.DeliveryQuery, want int) {
		t.Helper()
		n, more, err := s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeDue, Query: q, Max: 10})
		require.NoError(t, err)
		require.False(t, more)
		require.Equal(t, want, n)
	}
	turn := func(want string) {
		t.Helper()
		c := claimed(t, s, postrider.ClaimRequest{Max: 10})
		require.Len(t, c, 1)
		require.Equal(t, want, c[0].Delivery.ID)
		completed(t, s, succeeded(c[0], clock.Now()))
		require.NoError(t, s.Check())
	}
	due(postrider.DeliveryQuery{ID: ids[1]}, 0)
	require.Empty(t, claimed(t, s, postrider.ClaimRequest{Max: 10}))
	due(postrider.DeliveryQuery{ID: ids[0]}, 1)
	turn(ids[0])
	require.Empty(t, claimed(t, s, postrider.ClaimRequest{Max: 10}))
	due(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusInProcess}}, 0)
	due(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusNew}}, 1)
	turn(ids[1])
	clock.Step(time.Hour)
	turn(ids[2])
}
