package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

const (
	saysPage   = "A page holds at most Limit rows that the query selects, in the order of commits, newest first or Ascending."
	saysWalk   = "Walking from page to page by Next meets every row that was there at the start and still is just once, also while rows are added and change their status."
	saysCursor = "A cursor that does not parse or belongs to another query is ErrInvalid."
	saysList   = "Attempts returns a page of finished attempts, under the same rules as Deliveries."
	saysEqual  = "They equal what a walk over all deliveries would count."
)

var queryCases = []testCase{
	{name: "Event/event", run: eventGet,
		says: "Event returns the event with this ID in the project, or ErrNotFound."},
	{name: "Delivery/attempts", run: deliveryGet,
		says: "Delivery returns the delivery and its attempts in their order, or ErrNotFound."},
	{name: "Deliveries/order", run: deliveriesOrder, says: saysPage},
	{name: "Deliveries/limit", run: deliveriesLimit, says: saysPage},
	{name: "Deliveries/default-limit", run: deliveriesDefaultLimit, file: "query.go",
		says: "rows of a page, at most MaxLimit; DefaultLimit if zero"},
	{name: "Deliveries/selects", run: deliveriesSelect, file: "query.go",
		says: "DeliveryQuery selects deliveries; every field that is set narrows it."},
	{name: "Deliveries/walk", run: deliveriesWalk, says: saysWalk},
	{name: "Deliveries/cursor", run: deliveriesCursor, says: saysCursor},
	{name: "Attempts/order", run: attemptsOrder, file: "query.go",
		says: "The newest delivery comes first, and of each delivery the newest attempt."},
	{name: "Attempts/walk", run: attemptsWalk, says: saysList},
	{name: "Attempts/cursor", run: attemptsCursor, says: saysList},
	{name: "Stats/walk", run: statsWalk, says: saysEqual},
	{name: "Stats/webhook", run: statsWebhook, file: "query.go",
		says: "StatsQuery selects what is counted; every field that is set narrows it."},
	{name: "Stats/counters", run: statsCounters,
		says: "Stats returns counts from counters, never from a scan."},
}

func eventGet(x *suite) {
	x.hook("a")
	x.hook("b", func(w *postrider.Webhook) { w.Project = "q" })
	it := x.item()
	other := it
	other.Event.Project, other.Event.Payload = "q", []byte(`"of q"`)
	x.enqueue(it, other)
	for _, want := range []postrider.Event{it.Event, other.Event} {
		got, err := x.s.Event(x.ctx, want.Project, want.ID)
		x.ok("Event", err)
		x.sameEvent(got, want)
	}
	for _, k := range [][2]string{{"", it.Event.ID}, {"r", it.Event.ID}, {"p", "nothing"}, {"p", ""}, {"pe", it.Event.ID[1:]}} {
		_, err := x.s.Event(x.ctx, k[0], k[1])
		x.is(fmt.Sprintf("Event %q of project %q", k[1], k[0]), err, postrider.ErrNotFound)
	}
}

func deliveryGet(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	for range 12 {
		x.complete(x.again(x.claimOne(), 0))
	}
	d, attempts := x.deliveryAttempts(id)
	equal(x, "Delivery.ID", d.ID, id)
	equal(x, "attempts", len(attempts), 12)
	for i, a := range attempts {
		equal(x, "Attempt.Number", a.Number, i+1)
		equal(x, "Attempt.DeliveryID", a.DeliveryID, id)
		equal(x, "Attempt.WebhookID", a.WebhookID, "a")
	}
	for _, id := range []string{"", "nothing", id + "0", id[1:], "00000000-0000-7000-8000-000000000000"} {
		_, _, err := x.s.Delivery(x.ctx, id)
		x.is(fmt.Sprintf("Delivery of %q", id), err, postrider.ErrNotFound)
	}
}

// both ends the case unless the query selects the deliveries want, given oldest first, by pages of many sizes.
func (x *suite) both(q postrider.DeliveryQuery, want []string) {
	for _, limit := range []int{0, 1, 2, 3, 1000} {
		q.Limit = limit
		q.Ascending = true
		what := fmt.Sprintf("deliveries of %+v", q)
		equal(x, what, fmt.Sprint(walk(x, deliveryPages(x, q), nil)), fmt.Sprint(want))
		q.Ascending = false
		newest := slices.Clone(want)
		slices.Reverse(newest)
		what = fmt.Sprintf("deliveries of %+v", q)
		equal(x, what, fmt.Sprint(walk(x, deliveryPages(x, q), nil)), fmt.Sprint(newest))
	}
}

func deliveriesOrder(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	var want []string
	for i := range 9 {
		want = append(want, x.send([]string{a, b}[i%2], 1)...)
		if i == 4 {
			x.step(time.Hour)
		}
	}
	x.both(postrider.DeliveryQuery{}, want)
	for _, c := range x.claim(4) {
		x.complete(x.delivered(c))
	}
	x.both(postrider.DeliveryQuery{}, want)
}

func deliveriesLimit(x *suite) {
	x.send(x.hook("a"), 5)
	for _, limit := range []int{1, 2, 4, 5, 1000} {
		for _, ascending := range []bool{false, true} {
			page, err := x.s.Deliveries(x.ctx, postrider.DeliveryQuery{Limit: limit, Ascending: ascending})
			x.ok("Deliveries", err)
			if len(page.Items) > limit {
				x.fail(fmt.Sprintf("at most %d rows", limit), "%d", len(page.Items))
			}
		}
	}
}

func deliveriesDefaultLimit(x *suite) {
	x.hook("a")
	items := make([]postrider.Item, postrider.DefaultLimit+1)
	for i := range items {
		items[i] = x.item()
	}
	x.enqueue(items...)
	page, err := x.s.Deliveries(x.ctx, postrider.DeliveryQuery{})
	x.ok("Deliveries", err)
	if len(page.Items) > postrider.DefaultLimit || page.Next == "" {
		x.fail(fmt.Sprintf("at most %d rows and a Next", postrider.DefaultLimit), "%d, Next %q", len(page.Items), page.Next)
	}
	for _, limit := range []int{-1, postrider.MaxLimit + 1} {
		_, err = x.s.Deliveries(x.ctx, postrider.DeliveryQuery{Limit: limit})
		x.invalid(fmt.Sprint("Deliveries with Limit ", limit), err)
		_, err := x.s.Attempts(x.ctx, postrider.AttemptQuery{Limit: limit})
		x.invalid(fmt.Sprint("Attempts with Limit ", limit), err)
		_, err = x.s.Webhooks(x.ctx, postrider.WebhookQuery{Limit: limit})
		x.invalid(fmt.Sprint("Webhooks with Limit ", limit), err)
	}
}

func deliveriesSelect(x *suite) {
	a, q := x.hook("a"), x.hook("q", func(w *postrider.Webhook) { w.Project = "q" })
	ids := x.send(a, 5)
	inQ := x.enqueue(x.item(func(it *postrider.Item) { it.Event.Project, it.To = "q", []string{q} }))[0].Deliveries
	ids = append(ids, inQ...)
	outcomes := []func(postrider.Claim) postrider.Outcome{
		x.delivered, x.failed,
		func(c postrider.Claim) postrider.Outcome { return x.again(c, time.Hour) },
		func(c postrider.Claim) postrider.Outcome {
			o := x.failed(c)
			o.Status = postrider.StatusCanceled
			return o
		},
	}
	for i, f := range outcomes {
		c := x.claim(1, only(ids[i]))
		equal(x, "claims with Only", len(c), 1)
		x.complete(f(c[0]))
	}
	const (
		fresh, open, done, off, bad = postrider.StatusNew, postrider.StatusInProcess, postrider.StatusDelivered, postrider.StatusCanceled, postrider.StatusFailed
	)
	selects := func(q postrider.DeliveryQuery, want ...int) {
		var list []string
		for _, i := range want {
			list = append(list, ids[i])
		}
		x.both(q, list)
	}
	status := func(s ...postrider.Status) postrider.DeliveryQuery { return postrider.DeliveryQuery{Statuses: s} }
	selects(postrider.DeliveryQuery{}, 0, 1, 2, 3, 4, 5)
	selects(status(done), 0)
	selects(status(bad), 1)
	selects(status(open), 2)
	selects(status(off), 3)
	selects(status(fresh), 4, 5)
	selects(status(fresh, open), 2, 4, 5)
	selects(status(bad, done, off), 0, 1, 3)
	selects(postrider.DeliveryQuery{WebhookID: a}, 0, 1, 2, 3, 4)
	selects(postrider.DeliveryQuery{WebhookID: q}, 5)
	selects(postrider.DeliveryQuery{WebhookID: a, Statuses: []postrider.Status{fresh, bad}}, 1, 4)
	selects(postrider.DeliveryQuery{Project: "p", Statuses: []postrider.Status{fresh}}, 4)
	selects(postrider.DeliveryQuery{Project: "q"}, 5)
	selects(postrider.DeliveryQuery{Project: "q", WebhookID: a})
	selects(postrider.DeliveryQuery{ID: ids[2]}, 2)
	selects(postrider.DeliveryQuery{ID: ids[2], Statuses: []postrider.Status{fresh}})
	selects(postrider.DeliveryQuery{ID: ids[2], WebhookID: a, Project: "p", Statuses: []postrider.Status{open}}, 2)
	selects(postrider.DeliveryQuery{ID: ids[2], WebhookID: q})
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, a))
	selects(postrider.DeliveryQuery{WebhookID: a}, 0, 1, 2, 3, 4)
}

// stir returns a function that adds rows and ends others each time it is called.
func (x *suite) stir(hook string) func() {
	return func() {
		x.send(hook, 1)
		for i, c := range x.claim(2) {
			if i == 0 {
				x.complete(x.delivered(c))
			} else {
				x.complete(x.again(c, 0))
			}
		}
		x.step(x.tick)
	}
}

func deliveriesWalk(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	for _, q := range []postrider.DeliveryQuery{
		{Limit: 3}, {Limit: 2, WebhookID: a}, {Limit: 1, Project: "p"}, {Limit: 5, Statuses: []postrider.Status{0, 1, 2, 3, 4}},
		{Limit: 3, Ascending: true}, {Limit: 2, Ascending: true, WebhookID: a},
	} {
		want := x.send(a, 8)
		if q.WebhookID == "" {
			want = append(want, x.send(b, 8)...)
		}
		if stir := x.stir(a); q.Ascending {
			// New rows come behind the walk, so that it would not end if they came for ever.
			n := 0
			x.meets(deliveryPages(x, q), want, func() {
				if n++; n < 5 {
					stir()
				}
			})
		} else {
			x.meets(deliveryPages(x, q), want, stir)
		}
	}
}

func deliveriesCursor(x *suite) {
	a := x.hook("a")
	x.send(a, 6)
	for _, c := range x.claim(3) {
		x.complete(x.again(c, time.Hour))
	}
	queries := []postrider.DeliveryQuery{
		{Limit: 2}, {Limit: 2, Ascending: true}, {Limit: 2, WebhookID: a}, {Limit: 2, Project: "p"},
		{Limit: 2, Statuses: []postrider.Status{postrider.StatusNew}}, {Limit: 2, Statuses: []postrider.Status{postrider.StatusInProcess}},
		{Limit: 2, Statuses: []postrider.Status{postrider.StatusNew, postrider.StatusInProcess}},
	}
	var cursors []string
	for _, q := range queries {
		_, next, err := deliveryPages(x, q)("")
		x.ok("Deliveries", err)
		cursors = append(cursors, next)
	}
	_, foreign, err := attemptPages(x, postrider.AttemptQuery{Limit: 2})("")
	x.ok("Attempts", err)
	for i, q := range queries {
		others := slices.Concat(cursors[:i], cursors[i+1:], []string{foreign})
		x.refuses(fmt.Sprintf("Deliveries of %+v", q), deliveryPages(x, q), others...)
	}
}

// attempted makes n deliveries for the webhook with 3 attempts each, and returns the IDs of the attempts in the order
// in which the list has them.
func (x *suite) attempted(hook string, n int) []string {
	var want []string
	for _, id := range x.send(hook, n) {
		for range 3 {
			c := x.claim(1, only(id))
			equal(x, "claims with Only", len(c), 1)
			o := x.again(c[0], 0)
			x.complete(o)
			want = append(want, o.Attempt.ID())
		}
	}
	slices.Reverse(want)
	return want
}

func attemptsOrder(x *suite) {
	wantA := x.attempted(x.hook("a"), 3)
	wantB := x.attempted(x.hook("b"), 2)
	x.send("b", 1)
	for _, limit := range []int{0, 1, 2, 3, 4, 1000} {
		lists := func(q postrider.AttemptQuery, want []string) {
			q.Limit = limit
			equal(x, fmt.Sprintf("attempts of %+v", q), fmt.Sprint(walk(x, attemptPages(x, q), nil)), fmt.Sprint(want))
		}
		lists(postrider.AttemptQuery{}, slices.Concat(wantB, wantA))
		lists(postrider.AttemptQuery{WebhookID: "a"}, wantA)
		lists(postrider.AttemptQuery{WebhookID: "b"}, wantB)
		d := x.deliveries(postrider.DeliveryQuery{WebhookID: "a"})[0].ID
		lists(postrider.AttemptQuery{DeliveryID: d}, wantA[:3])
		lists(postrider.AttemptQuery{DeliveryID: d, WebhookID: "a"}, wantA[:3])
		lists(postrider.AttemptQuery{DeliveryID: d, WebhookID: "b"}, nil)
	}
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	got := walk(x, attemptPages(x, postrider.AttemptQuery{WebhookID: "a"}), nil)
	equal(x, "attempts of a deleted webhook", fmt.Sprint(got), fmt.Sprint(wantA))
}

func attemptsWalk(x *suite) {
	a := x.hook("a")
	for _, q := range []postrider.AttemptQuery{{Limit: 2}, {Limit: 4}, {Limit: 3, WebhookID: a}} {
		want := x.attempted(a, 4)
		page, err := x.s.Attempts(x.ctx, q)
		x.ok("Attempts", err)
		if len(page.Items) > q.Limit {
			x.fail(fmt.Sprintf("at most %d rows", q.Limit), "%d", len(page.Items))
		}
		x.meets(attemptPages(x, q), want, x.stir(a))
	}
}

func attemptsCursor(x *suite) {
	a := x.hook("a")
	x.attempted(a, 3)
	_, deliveries, err := deliveryPages(x, postrider.DeliveryQuery{Limit: 2})("")
	x.ok("Deliveries", err)
	_, ofHook, err := attemptPages(x, postrider.AttemptQuery{Limit: 2, WebhookID: a})("")
	x.ok("Attempts", err)
	x.refuses("Attempts", attemptPages(x, postrider.AttemptQuery{Limit: 2}), deliveries, ofHook)
	_, all, err := attemptPages(x, postrider.AttemptQuery{Limit: 2})("")
	x.ok("Attempts", err)
	x.refuses("Attempts of a webhook", attemptPages(x, postrider.AttemptQuery{Limit: 2, WebhookID: a}), deliveries, all)
}

// counted returns what a walk over the deliveries of the query counts, but for what is due.
func (x *suite) counted(q postrider.DeliveryQuery) (s postrider.Stats) {
	for _, d := range x.deliveries(q) {
		*s.Count(d.Status)++
		if d.InFlight {
			s.InFlight++
		}
		_, attempts := x.deliveryAttempts(d.ID)
		for _, a := range attempts {
			if a.Failed {
				s.AttemptsFailed++
			} else {
				s.AttemptsOK++
			}
		}
	}
	return s
}

// variety leaves deliveries of every status, some of them claimed.
func (x *suite) variety(hooks ...string) {
	for _, hook := range hooks {
		ids := x.send(hook, 8)
		outcomes := []func(postrider.Claim) postrider.Outcome{
			x.delivered, x.failed, released,
			func(c postrider.Claim) postrider.Outcome { return x.again(c, time.Hour) },
			func(c postrider.Claim) postrider.Outcome {
				o := x.failed(c)
				o.Status = postrider.StatusCanceled
				return o
			},
		}
		for i, f := range outcomes {
			c := x.claim(1, only(ids[i]))
			equal(x, "claims with Only", len(c), 1)
			x.complete(f(c[0]))
		}
		equal(x, "claims with Only", len(x.claim(1, only(ids[3])))+len(x.claim(1, only(ids[6]))), 2)
		x.change(postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{ID: ids[7]}})
	}
}

func statsWalk(x *suite) {
	x.variety(x.hook("a"), x.hook("b"))
	want := postrider.Stats{New: 6, InProcess: 2, Delivered: 2, Canceled: 4, Failed: 2, InFlight: 4, AttemptsOK: 2, AttemptsFailed: 6}
	equal(x, "Stats", x.counts(), want)
	equal(x, "what a walk counts", x.counted(postrider.DeliveryQuery{}), want)
	x.step(2 * lease)
	equal(x, "claims of all that is due", len(x.claim(100)), 8)
	equal(x, "Stats when the leases were over and all is claimed", x.counts(), x.counted(postrider.DeliveryQuery{}))
}

func statsWebhook(x *suite) {
	x.variety(x.hook("a"))
	x.hook("b")
	of := func(id string) postrider.Stats { return undated(x.statsOf(postrider.StatsQuery{WebhookID: id})) }
	want := postrider.Stats{New: 3, InProcess: 1, Delivered: 1, Canceled: 2, Failed: 1, InFlight: 2, AttemptsOK: 1, AttemptsFailed: 3}
	equal(x, "Stats of a webhook", of("a"), want)
	equal(x, "Stats of a webhook without deliveries", of("b"), postrider.Stats{})
	x.send("b", 2)
	equal(x, "Stats of a webhook with 2 new deliveries", of("b"), postrider.Stats{New: 2})
	equal(x, "Stats of the webhook beside it", of("a"), want)
}

func statsCounters(x *suite) {
	x.send(x.hook("a"), 3)
	c := x.claim(3)
	equal(x, "claims", len(c), 3)
	x.complete(x.delivered(c[0]), x.failed(c[1]), x.again(c[2], time.Hour))
	x.step(time.Hour)
	_, _, err := x.s.Prune(x.ctx, 0, 100)
	x.ok("Prune", err)
	want := postrider.Stats{InProcess: 1, Pruned: 2, AttemptsOK: 1, AttemptsFailed: 2}
	equal(x, "Stats, which count the attempts of pruned deliveries too", x.counts(), want)
	equal(x, "Stats of the webhook", undated(x.statsOf(postrider.StatsQuery{WebhookID: "a"})), want)
}
