package bolt_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// TestQueriesAcrossWhatIsInMemory asks while part of the deliveries is in by and part is not, and that boundary moves.
func TestQueriesAcrossWhatIsInMemory(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.hook("a", "p", "one")
	s.hook("b", "p", "two")
	s.hook("c", "q", "one")
	ask := func() {
		t.Helper()
		require.NoError(t, s.Check())
		for _, limit := range []int{97, 1000} {
			s.selects(postrider.DeliveryQuery{Limit: limit}, anyRow)
			s.selects(postrider.DeliveryQuery{Limit: limit, WebhookID: "b"}, func(r *kept) bool { return r.hook == "b" })
			s.selects(postrider.DeliveryQuery{Limit: limit, Owner: "one"}, func(r *kept) bool { return r.hook != "b" })
			s.selects(postrider.DeliveryQuery{Limit: limit, EventType: "rare"}, func(r *kept) bool { return r.typ == "rare" })
			s.selects(postrider.DeliveryQuery{Limit: limit, Statuses: []postrider.Status{postrider.StatusNew}}, func(r *kept) bool { return r.status == postrider.StatusNew })
			s.selects(postrider.DeliveryQuery{Limit: limit, Code: postrider.CodeNone}, func(r *kept) bool { return r.status == postrider.StatusNew })
			s.selects(postrider.DeliveryQuery{Limit: limit, From: s.rows[len(s.rows)/3].created, To: s.rows[len(s.rows)/2].created}, func(r *kept) bool {
				return !r.created.Before(s.rows[len(s.rows)/3].created) && !r.created.After(s.rows[len(s.rows)/2].created)
			})
		}
	}
	boundaries := map[bool]int{}
	for i := range 9 {
		s.now = s.now.Add(time.Minute)
		var items []postrider.Item
		for j := range 500 {
			typ := "often"
			if j%100 == 7 {
				typ = "rare"
			}
			switch j % 3 {
			case 0:
				items = append(items, s.item("p", typ, "a"))
			case 1:
				items = append(items, s.item("p", typ, "a", "b"))
			default:
				items = append(items, s.item("q", typ, "c"))
			}
		}
		s.add(items...)
		boundaries[s.Entries()["by"] > 0 && s.Young() > 0]++
		if i%2 == 0 {
			s.end(300, delivered)
		}
		if i > 4 {
			ask()
		}
		if i == 7 {
			s.crash()
			ask()
		}
	}
	require.Greater(t, boundaries[true], 1, "no call came while deliveries were on both sides")
	require.NoError(t, s.Close())
	s.open()
	ask()
	for s.end(1000, delivered) > 0 {
	}
	ask()
	s.crash()
	ask()
}

// TestPrunedRowsAreGoneFromEverything prunes some, and in the end all, of deliveries that are in every index.
func TestPrunedRowsAreGoneFromEverything(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.hook("a", "p", "")
	s.hook("b", "p", "")
	var items []postrider.Item
	for i := range 120 {
		it := s.item("p", "t", "a", "b")
		it.Test = i%3 == 0
		items = append(items, it)
	}
	s.add(items...)
	var again []postrider.Item
	for i := range 30 {
		r := s.rows[i*5]
		again = append(again, postrider.Item{Event: postrider.Event{ID: r.event, Project: "p", Type: "t"}, To: []string{"b"}, ReplayOf: r.id})
	}
	s.add(again...)
	replays := s.rows[len(s.rows)-30:]
	events := map[string]bool{}
	for _, r := range s.rows {
		events[r.event] = true
	}
	var err error
	turn := 0
	some := func(*kept) (int, postrider.Status) {
		turn++
		switch turn % 7 {
		case 0:
			return 502, postrider.StatusFailed
		case 1:
			return 0, postrider.StatusFailed
		case 2:
			return 500, postrider.StatusInProcess
		case 3:
			return 301, postrider.StatusCanceled
		}
		return 200, postrider.StatusDelivered
	}
	for range 4 {
		s.now = s.now.Add(time.Hour)
		s.end(110, some)
		require.NoError(t, s.Check())
		for more := true; more; {
			var n int
			n, more, err = s.Prune(t.Context(), time.Minute, 17) // all but what ended just now
			require.NoError(t, err)
			require.LessOrEqual(t, n, 17)
			require.NoError(t, s.Check())
		}
		s.rows = slices.DeleteFunc(s.rows, func(r kept) bool { return r.status.Final() && r.ended.Before(s.now) })
		s.askPruned()
		s.crash()
		s.askPruned()
	}
	for s.now = s.now.Add(time.Hour); s.end(1000, delivered) > 0; {
	}
	gone := slices.Clone(s.rows)
	for more := true; more; {
		_, more, err = s.Prune(t.Context(), 0, 50)
		require.NoError(t, err)
	}
	s.rows = nil
	s.askPruned()
	for _, r := range slices.Concat(gone, replays) {
		_, _, err := s.Delivery(t.Context(), r.id)
		require.ErrorIs(t, err, postrider.ErrNotFound)
		got, _ := s.list(postrider.DeliveryQuery{ID: r.id})
		require.Empty(t, got)
	}
	for id := range events {
		_, err := s.Event(t.Context(), "p", id)
		require.ErrorIs(t, err, postrider.ErrNotFound)
	}
	for name, n := range s.Entries() {
		if name != "hook" && name != "stat" && name != "tally" {
			require.Zero(t, n, "entries of %s when all was pruned", name)
		}
	}
}

func (s *shelf) askPruned() {
	s.Helper()
	require.NoError(s, s.Check())
	s.selects(postrider.DeliveryQuery{}, anyRow)
	for _, code := range []string{"502", "500", "301", "none", "200", "5xx"} {
		s.selects(postrider.DeliveryQuery{Code: code}, func(r *kept) bool {
			last := 0
			for _, c := range r.codes {
				if c != 0 {
					last = c
				}
			}
			return code == "none" && last == 0 || fmt.Sprint(last) == code || fmt.Sprint(last/100, "xx") == code || code == "5xx" && last/100 == 5
		})
	}
	for status := postrider.StatusNew; status <= postrider.StatusFailed; status++ {
		s.selects(postrider.DeliveryQuery{Statuses: []postrider.Status{status}, WebhookID: "b"}, func(r *kept) bool { return r.hook == "b" && r.status == status })
	}
	s.selectsAttempts(postrider.AttemptQuery{Limit: 7}, func(*kept, int) bool { return true })
	s.selectsAttempts(postrider.AttemptQuery{Limit: 7, Code: "502"}, func(_ *kept, code int) bool { return code == 502 })
	stats := statsOf(s.T, s.Store)
	require.Equal(s, int64(len(s.rows)), stats.Total())
}

// TestRetriedRowsMoveInOdd looks after each attempt whether a delivery is found under what it has become and not under
// what it was.
func TestRetriedRowsMoveInOdd(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.hook("a", "p", "")
	s.hook("b", "p", "")
	s.add(s.item("p", "t", "a", "b"), s.item("p", "t", "a"))
	ask := func() {
		t.Helper()
		require.NoError(t, s.Check())
		for _, code := range []int{0, 200, 201, 404, 500, 502} {
			text := fmt.Sprint(code)
			if code == 0 {
				text = postrider.CodeNone
			}
			s.selects(postrider.DeliveryQuery{Code: text}, func(r *kept) bool {
				last := 0
				for _, c := range r.codes {
					if c != 0 {
						last = c
					}
				}
				return last == code
			})
			s.selectsAttempts(postrider.AttemptQuery{Code: text, Limit: 1}, func(_ *kept, c int) bool { return c == code })
		}
		for n := range 300 {
			if n < 8 || n > 250 {
				s.selects(postrider.DeliveryQuery{MinAttempts: n}, func(r *kept) bool { return len(r.codes) >= n })
			}
		}
		for status := postrider.StatusNew; status <= postrider.StatusFailed; status++ {
			s.selects(postrider.DeliveryQuery{Statuses: []postrider.Status{status}}, func(r *kept) bool { return r.status == status })
		}
	}
	ask()
	for i, code := range []int{500, 502, 0, 404, 404, 0} {
		s.end(3-i%2, func(*kept) (int, postrider.Status) { return code, postrider.StatusInProcess })
		ask()
	}
	s.crash()
	for range 255 { // more attempts than a key tells apart
		s.end(10, func(*kept) (int, postrider.Status) { return 500, postrider.StatusInProcess })
	}
	ask()
	s.end(1, delivered)
	ask()
	s.end(1, func(*kept) (int, postrider.Status) { return 0, postrider.StatusFailed })
	ask()
	n, _, err := s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Max: 10})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	for i := range s.rows {
		if !s.rows[i].status.Final() {
			s.rows[i].status = postrider.StatusCanceled
		}
	}
	ask()
}

// TestMoreWebhooksThanAreMerged asks for so many webhooks that events are walked, not webhooks.
func TestMoreWebhooksThanAreMerged(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	var all []string
	for i := range 70 {
		all = append(all, fmt.Sprintf("hook-%02d", 69-i))
		s.hook(all[i], "p", []string{"few", "many", "many"}[i%3])
	}
	s.hook("other", "q", "many")
	few := func(hook string) bool { return slices.Index(all, hook)%3 == 0 }
	for i := range 40 {
		s.now = s.now.Add(time.Second)
		s.add(s.item("p", "t", all...), s.item("p", fmt.Sprint("t", i%4), all[i]), s.item("q", "t", "other"))
	}
	for i := range 5 {
		if i > 0 {
			s.end(300, func(r *kept) (int, postrider.Status) {
				return []int{500, 502, 200}[len(r.event)*len(r.hook)*i%3], []postrider.Status{postrider.StatusFailed, postrider.StatusInProcess, postrider.StatusDelivered}[i%3]
			})
		}
		if i == 2 {
			require.NoError(t, s.DeleteWebhook(t.Context(), all[3]))
			s.crash()
		}
		require.NoError(t, s.Check())
		for _, limit := range []int{1000, 69, 7} {
			s.selects(postrider.DeliveryQuery{Limit: limit}, anyRow)
			s.selects(postrider.DeliveryQuery{Limit: limit, Project: "p"}, func(r *kept) bool { return r.project == "p" })
		}
		s.selects(postrider.DeliveryQuery{Owner: "few"}, func(r *kept) bool { return r.hook != "other" && few(r.hook) })
		s.selects(postrider.DeliveryQuery{Owner: "many"}, func(r *kept) bool { return r.hook == "other" || !few(r.hook) })
		s.selects(postrider.DeliveryQuery{Project: "p", EventType: "t2"}, func(r *kept) bool { return r.typ == "t2" })
		s.selects(postrider.DeliveryQuery{Project: "p", EventID: s.rows[0].event, Limit: 3}, func(r *kept) bool { return r.event == s.rows[0].event })
		for status := postrider.StatusNew; status <= postrider.StatusFailed; status++ {
			s.selects(postrider.DeliveryQuery{Project: "p", Statuses: []postrider.Status{status}}, func(r *kept) bool { return r.project == "p" && r.status == status })
		}
		s.selects(postrider.DeliveryQuery{Project: "p", MinAttempts: 2}, func(r *kept) bool { return r.project == "p" && len(r.codes) > 1 })
		s.selectsAttempts(postrider.AttemptQuery{Project: "p", Limit: 11}, func(r *kept, _ int) bool { return r.project == "p" })
		s.selectsAttempts(postrider.AttemptQuery{Project: "p", Limit: 11, Code: "502"}, func(r *kept, code int) bool { return r.project == "p" && code == 502 })
	}
}

// TestEventsNameWebhooksInAnyOrder sends to webhooks in another order than that of their creation.
func TestEventsNameWebhooksInAnyOrder(t *testing.T) {
	t.Parallel()
	for _, n := range []int{5, 70} {
		s := newShelf(t)
		var to []string
		for i := range n {
			to = append(to, fmt.Sprintf("hook-%02d", i))
			s.hook(to[i], "p", "")
		}
		slices.Reverse(to)
		for range 3 {
			_, err := s.Enqueue(t.Context(), []postrider.Item{s.item("p", "t", to...)})
			require.NoError(t, err)
		}
		for _, q := range []postrider.DeliveryQuery{{Project: "p"}, {EventID: "event-000002"}, {Project: "p", Statuses: []postrider.Status{postrider.StatusNew}}} {
			want := 3 * n
			if q.EventID != "" {
				want = n
			}
			for _, q.Limit = range []int{1000, 2} {
				for _, q.Ascending = range []bool{false, true} {
					got, _ := s.list(q)
					require.Len(t, got, want, "%d webhooks, %+v", n, q)
				}
			}
		}
	}
}

// TestRangesAmongEqualTimes bounds creation where many events have the same time.
func TestRangesAmongEqualTimes(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.hook("a", "p", "")
	s.hook("b", "p", "")
	start := s.now
	for i := range 12 {
		if i%3 == 2 {
			s.now = s.now.Add(time.Microsecond)
		}
		for range 1 + i%4 {
			s.add(s.item("p", "t", "a", "b"), s.item("p", "t", "b"))
		}
	}
	first := s.rows[0].created
	for from := time.Duration(-2); from < 7; from++ {
		for to := time.Duration(-2); to < 7; to++ {
			for _, beside := range []time.Duration{0, 1, -1, 999} {
				q := postrider.DeliveryQuery{From: first.Add(from*time.Microsecond + beside), To: first.Add(to * time.Microsecond)}
				if q.To.Before(q.From) {
					q.From, q.To = q.To, q.From
				}
				s.selects(q, func(r *kept) bool { return !r.created.Before(q.From) && !r.created.After(q.To) })
				q.WebhookID, q.Limit = "a", 2
				s.selects(q, func(r *kept) bool { return r.hook == "a" && !r.created.Before(q.From) && !r.created.After(q.To) })
			}
		}
	}
	far := []time.Time{time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)}
	s.selects(postrider.DeliveryQuery{From: far[0], To: far[1]}, anyRow)
	s.selects(postrider.DeliveryQuery{To: far[0]}, func(*kept) bool { return false })
	s.selects(postrider.DeliveryQuery{From: far[1]}, func(*kept) bool { return false })
	s.now = start.Add(-time.Hour) // a clock that was set back makes nothing older
	s.add(s.item("p", "t", "a"))
	s.rows[len(s.rows)-1].created = s.rows[len(s.rows)-2].created
	s.selects(postrider.DeliveryQuery{From: s.rows[len(s.rows)-1].created}, func(r *kept) bool { return r.created.Equal(s.rows[len(s.rows)-1].created) })
}

// TestPagesMayBeShort looks for little among much: a page ends when it has looked at enough, and its cursor goes on
// exactly there.
func TestPagesMayBeShort(t *testing.T) {
	t.Parallel()
	for _, webhooks := range []int{1, 66} { // those are walked by webhook, these by event
		s := newShelf(t)
		for i := range webhooks {
			s.hook(fmt.Sprint("hook-", i), "p", fmt.Sprint("owner-", i))
		}
		const n = 25_000
		for i := 0; i < n; i += 1000 {
			var items []postrider.Item
			for j := range 1000 {
				typ := "often"
				if (i+j)%6_000 == 17 {
					typ = "rare"
				}
				items = append(items, s.item("p", typ, fmt.Sprint("hook-", (i+j)%webhooks)))
			}
			s.add(items...)
			s.now = s.now.Add(time.Second)
			s.end(1000, func(r *kept) (int, postrider.Status) {
				if r.typ == "rare" {
					return 204, postrider.StatusDelivered
				}
				return delivered(r)
			})
		}
		rare := func(r *kept) bool { return r.typ == "rare" }
		none := func(*kept) bool { return false }
		// Passed over by their hash, or read and not taken.
		require.Positive(t, s.selects(postrider.DeliveryQuery{EventType: "rare"}, rare))
		s.selects(postrider.DeliveryQuery{EventType: "rare", Limit: 1}, rare)
		require.Positive(t, s.selects(postrider.DeliveryQuery{EventType: "missing"}, none))
		require.Positive(t, s.selects(postrider.DeliveryQuery{EventType: "r*"}, rare))
		require.Positive(t, s.selects(postrider.DeliveryQuery{EventType: "m*"}, none))
		require.Positive(t, s.selects(postrider.DeliveryQuery{Code: "204"}, rare))
		require.Positive(t, s.selects(postrider.DeliveryQuery{Code: "203"}, none))
		require.Positive(t, s.selectsAttempts(postrider.AttemptQuery{EventType: "rare", Limit: 100}, func(r *kept, _ int) bool { return rare(r) }))
		s.selectsAttempts(postrider.AttemptQuery{EventType: "rare", Limit: 1}, func(r *kept, _ int) bool { return rare(r) })
		require.Positive(t, s.selectsAttempts(postrider.AttemptQuery{EventType: "missing", Limit: 100}, func(*kept, int) bool { return false }))
		require.Positive(t, s.selectsAttempts(postrider.AttemptQuery{EventType: "r*", Limit: 100}, func(r *kept, _ int) bool { return rare(r) }))
		require.Positive(t, s.selectsAttempts(postrider.AttemptQuery{Code: "204", Limit: 3}, func(_ *kept, code int) bool { return code == 204 }))
		if webhooks > 1 {
			s.selects(postrider.DeliveryQuery{Owner: "owner-1", EventType: "often"}, func(r *kept) bool { return r.hook == "hook-1" && r.typ == "often" })
		}
		for _, offset := range []int{1, 999, 1000, 1001, 3_000, 24_999, 25_000} {
			got, _ := s.list(postrider.DeliveryQuery{Offset: offset, Limit: 1000, Ascending: true})
			require.Len(t, got, n-offset)
			if len(got) > 0 {
				require.Equal(t, s.rows[offset].id, got[0])
			}
		}
	}
}

// TestBacklogHidesNothing asks for what has been tried while much that is new waits in front of it: pages are full.
func TestBacklogHidesNothing(t *testing.T) {
	t.Parallel()
	for _, n := range []int{3, 100} { // more are walked in another way
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			hooks := []string{"a", "b", "c"}
			for len(hooks) < n {
				hooks = append(hooks, fmt.Sprint("d", len(hooks)))
			}
			backlogHidesNothing(t, hooks)
		})
	}
}

func backlogHidesNothing(t *testing.T, hooks []string) {
	s := newShelf(t)
	for _, id := range hooks {
		s.hook(id, "p", "")
	}
	add := func(n int) {
		for range n / 1000 {
			var items []postrider.Item
			for i := range 1000 {
				items = append(items, s.item("p", "t", hooks[i%len(hooks)]))
			}
			s.add(items...)
		}
	}
	add(1000)
	s.end(900, func(r *kept) (int, postrider.Status) {
		if r.hook == "b" {
			return 500, postrider.StatusInProcess
		}
		return delivered(r)
	})
	add(20_000)
	ask := func() {
		t.Helper()
		tried := func(r *kept) bool { return len(r.codes) > 0 }
		for _, q := range []postrider.DeliveryQuery{
			{MinAttempts: 1}, {MinAttempts: 1, Project: "p"}, {Statuses: []postrider.Status{postrider.StatusDelivered, postrider.StatusInProcess}},
		} {
			require.Zero(t, s.selects(q, tried), "%+v", q)
		}
		s.selects(postrider.DeliveryQuery{Limit: 1000, Statuses: []postrider.Status{postrider.StatusDelivered, postrider.StatusNew}}, func(r *kept) bool {
			return r.status == postrider.StatusDelivered || r.status == postrider.StatusNew
		})
		require.Zero(t, s.selects(postrider.DeliveryQuery{Code: "2xx"}, func(r *kept) bool { return r.status == postrider.StatusDelivered }))
		require.Zero(t, s.selectsAttempts(postrider.AttemptQuery{Limit: 100}, func(*kept, int) bool { return true }))
		require.Zero(t, s.selectsAttempts(postrider.AttemptQuery{Limit: 100, WebhookID: "c"}, func(r *kept, _ int) bool { return r.hook == "c" }))
	}
	ask()
	s.now = s.now.Add(time.Minute)
	s.end(1000, delivered) // those tried again are behind others now
	ask()
	s.crash()
	ask()
	n, _, err := s.Change(t.Context(), postrider.Change{Kind: postrider.ChangeCancel, Max: 100, Query: postrider.DeliveryQuery{ID: s.rows[15_000].id}})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	s.rows[15_000].status = postrider.StatusCanceled
	s.selects(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusDelivered, postrider.StatusCanceled}}, func(r *kept) bool { return r.status.Final() })
}

// TestReplaysAreFoundByTheirEvent replays events with one ID in several projects, and prunes the first of them.
func TestReplaysAreFoundByTheirEvent(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	projects := []string{"p", "p1", "q"}
	for _, p := range projects {
		s.hook(p+"-a", p, "")
		s.hook(p+"-b", p, "")
	}
	event := func(p, id string) postrider.Item {
		item := s.item(p, "t", p+"-a", p+"-b")
		item.Event.ID = id
		return item
	}
	s.add(event("p", "e"), event("p1", "e"), event("q", "e"), event("p", "e1"), event("q", "f"))
	first := slices.Clone(s.rows)
	for i := range 7 {
		var items []postrider.Item
		for j := range 500 {
			p := projects[(i+j)%len(projects)]
			item := event(p, "e")
			item.To = item.To[:1+j%2]
			item.ReplayOf = first[slices.IndexFunc(first, func(r kept) bool { return r.project == p })].id
			items = append(items, item)
		}
		s.add(items...)
		s.now = s.now.Add(time.Second)
	}
	ask := func() {
		t.Helper()
		require.NoError(t, s.Check())
		for _, id := range []string{"e", "e1", "f", "g"} {
			for _, limit := range []int{1, 33, 1000} {
				if limit > 1 || id != "e" {
					s.selects(postrider.DeliveryQuery{EventID: id, Limit: limit}, func(r *kept) bool { return r.event == id })
				}
				s.selects(postrider.DeliveryQuery{EventID: id, Limit: max(limit, 7), WebhookID: "p1-b"}, func(r *kept) bool { return r.event == id && r.hook == "p1-b" })
			}
			from, to := s.now.Add(-3*time.Second), s.now.Add(-2*time.Second)
			s.selects(postrider.DeliveryQuery{EventID: id, From: from, To: to}, func(r *kept) bool {
				return r.event == id && !r.created.Before(from) && !r.created.After(to)
			})
		}
	}
	ask()
	s.end(len(first), delivered)
	s.now = s.now.Add(time.Hour)
	for more := true; more; {
		var err error
		_, more, err = s.Prune(t.Context(), time.Minute, 1000)
		require.NoError(t, err)
	}
	s.rows = slices.DeleteFunc(s.rows, func(r kept) bool { return r.status.Final() })
	ask()
}
