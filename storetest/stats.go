package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

// What Stats says of time: what is due, since when, and how many attempts there were by the minute and hour.

const (
	saysDue    = "A delivery that waits for its turn in a lane is not due; one that waits for a retry is, from the beginning of the minute of its NextAt."
	saysOldDue = "OldestDue is the least NextAt of those that are due, in flight or not."
	saysRates  = "Rates are there only if the query asks for them, and count attempts by the minute and hour, in UTC, in which they were recorded."
)

var statsCases = []testCase{
	{name: "Stats/due", run: statsDue, file: "query.go",
		says: "Due is how many could be sent now if their webhooks let them, those in flight included."},
	{name: "Stats/due-minute", run: statsDueMinute, says: saysDue},
	{name: "Stats/due-lane", run: statsDueLane, says: saysDue},
	{name: "Stats/oldest-due", run: statsOldestDue, says: saysOldDue},
	{name: "Stats/rates-asked", run: ratesAsked, says: saysRates},
	{name: "Stats/rates-minutes", run: ratesMinutes, says: saysRates},
	{name: "Stats/rates-hours", run: ratesHours, says: saysRates},
	{name: "Stats/rates-of", run: ratesOf, says: saysRates},
}

// due ends the case unless so many are due, the oldest since then.
func (x *suite) due(when string, n int64, since time.Time) {
	s := x.stats()
	equal(x, "Stats.Due "+when, s.Due, n)
	x.instant("Stats.OldestDue "+when, s.OldestDue, since)
}

func statsDue(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	start := x.clock.Now()
	x.due("of a new store", 0, time.Time{})
	x.send(a, 3)
	x.send(b, 2)
	x.due("of 5 that are new", 5, start)
	x.step(time.Hour)
	x.update(b, func(w *postrider.Webhook) { w.State = postrider.StatePaused })
	x.due("when 2 of 5 wait for a webhook that is paused", 5, start)
	claims := x.claim(10)
	equal(x, "claims", len(claims), 3)
	x.due("when 3 of 5 are in flight", 5, start)
	x.complete(x.delivered(claims[0]), x.again(claims[1], 3*time.Hour), released(claims[2]))
	x.due("after one was delivered, one failed, one released", 3, start)
	x.update(a, func(w *postrider.Webhook) { w.NotBefore = x.clock.stored(x.clock.Now()).Add(90 * time.Hour) })
	x.due("with a NotBefore that is ahead", 3, start)
	x.step(3 * time.Hour)
	x.due("when a retry is due", 4, start)
	x.change(cancel(postrider.DeliveryQuery{WebhookID: b}))
	x.due("after 2 were canceled", 2, start)
	x.change(cancel(postrider.DeliveryQuery{WebhookID: a, Statuses: []postrider.Status{postrider.StatusNew}}))
	x.due("when a retry is left", 1, start.Add(4*time.Hour))
	x.complete(x.again(x.claim(1, only(claims[1].Delivery.ID))[0], 2*time.Hour))
	x.due("when it failed again", 0, time.Time{})
	x.change(postrider.Change{Kind: postrider.ChangeDue})
	x.due("after ChangeDue", 1, x.clock.Now())
	x.complete(x.failed(x.claim(1, only(claims[1].Delivery.ID))[0]))
	x.due("when all have ended", 0, time.Time{})
}

func statsDueMinute(x *suite) {
	a := x.hook("a")
	c := x.claim(1, only(x.send(a, 1)[0]))
	fresh := x.clock.Now()
	x.send(a, 1)
	x.complete(x.again(c[0], 3*time.Hour))
	d := x.deliveries(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusInProcess}})[0]
	next := x.clock.local(d.NextAt)
	// On a clock that is not the suite's there is a minute more of it than the suite has seen, at most.
	early := next.Truncate(time.Minute)
	if x.h.Advance != nil {
		early = fresh.Add(3*time.Hour - x.tick)
	}
	x.step(early.Sub(fresh) - x.tick)
	x.due("before the minute of a retry", 1, fresh)
	if x.h.Advance == nil {
		x.step(x.tick)
		x.due("from the beginning of the minute of a retry", 2, fresh)
		x.claim(1)
		x.claimsNothing("before a retry is due, in its minute")
	}
	x.step(next.Sub(x.clock.Now()))
	x.due("when the retry is due", 2, fresh)
}

func statsDueLane(x *suite) {
	start := x.clock.Now()
	a, b := x.hook("a", inOrder), x.hook("b")
	strict := x.send(a, 3)
	x.lane(b, "k", 3)
	x.due("of two lanes", 2, start)
	of := func(hook string, n int64) {
		equal(x, "Stats.Due of a webhook with a lane", x.statsOf(postrider.StatsQuery{WebhookID: hook}).Due, n)
	}
	of(a, 1)
	of(b, 1)
	x.step(time.Hour)
	late := x.clock.Now()
	single := x.lane(b, "l", 1)[0]
	claims := x.claim(10)
	equal(x, "claims", len(claims), 3)
	x.due("when the first of 3 lanes are in flight", 3, start)
	for _, c := range claims {
		if c.Delivery.ID != single {
			x.complete(x.again(c, 2*time.Hour))
		}
	}
	x.due("when the first of two lanes wait for a retry", 1, late)
	x.step(2 * time.Hour)
	x.due("when their retries are due", 3, late)
	x.change(cancel(one(strict[1])))
	x.due("after one behind the first of a lane was canceled", 3, late)
	x.change(cancel(one(strict[0])))
	x.due("after the first of a lane was canceled: the next is due since it was made", 3, start)
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, a))
	for more := true; more; {
		_, more = x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true})
	}
	x.due("after the webhook of a lane was deleted and the rest canceled", 2, late)
	x.complete(x.delivered(x.claim(1, only(single))[0]))
	x.change(cancel(postrider.DeliveryQuery{WebhookID: b, Statuses: []postrider.Status{postrider.StatusNew}}))
	x.due("when one retry is left", 1, late.Add(2*time.Hour))
}

func statsOldestDue(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	var starts []time.Time
	var ids []string
	for i := range 4 {
		starts = append(starts, x.clock.Now())
		ids = append(ids, x.send([]string{a, b}[i%2], 1)...)
		x.step(time.Hour)
	}
	of := func(hook string, since time.Time) {
		x.instant("Stats.OldestDue of a webhook", x.statsOf(postrider.StatsQuery{WebhookID: hook}).OldestDue, since)
	}
	of(a, starts[0])
	of(b, starts[1])
	x.complete(x.again(x.claim(1, only(ids[0]))[0], 5*time.Hour))
	x.due("when the first waits for a retry", 3, starts[1])
	of(a, starts[2])
	x.claim(1, only(ids[1]))
	x.due("when the second is in flight", 3, starts[1])
	x.change(cancel(one(ids[2])))
	of(a, time.Time{})
	x.change(postrider.Change{Kind: postrider.ChangeDue, Query: one(ids[0])})
	of(a, x.clock.Now())
	x.due("of all", 3, starts[1])
	x.step(lease)
	x.complete(x.delivered(x.claim(1, only(ids[1]))[0]))
	x.due("when the second was delivered", 2, starts[3])
}

// tallied is an attempt that was recorded.
type tallied struct {
	hook   string
	failed bool
	at     time.Time
}

// tries records attempts of the webhook now.
func (x *suite) tries(hook string, good, bad int) (list []tallied) {
	ids := x.send(hook, good+bad)
	for i, id := range ids {
		c := x.claim(1, only(id))
		equal(x, "claims with Only", len(c), 1)
		o := x.delivered(c[0])
		if i >= good {
			o = x.failed(c[0])
		}
		// When it was made plays no part.
		o.Attempt.StartedAt = o.Attempt.StartedAt.Add(-100 * time.Hour)
		o.Attempt.FinishedAt = o.Attempt.StartedAt
		x.complete(o)
		list = append(list, tallied{hook, i >= good, x.clock.Now()})
	}
	return list
}

// rates ends the case unless the rates of the query are those of the attempts.
func (x *suite) rates(when string, q postrider.StatsQuery, attempts []tallied) {
	q.Rates = true
	got := x.statsOf(q).Rates
	x.sameRates("Rates.Minutes "+when, got.Minutes[:], attempts, time.Minute)
	x.sameRates("Rates.Hours "+when, got.Hours[:], attempts, time.Hour)
}

func (x *suite) sameRates(what string, got []postrider.Rate, attempts []tallied, unit time.Duration) {
	// On a clock of its own the store may be a unit further than the suite.
	least, most := make([]postrider.Rate, len(got)+1), make([]postrider.Rate, len(got)+1)
	now := x.clock.Now()
	for _, a := range attempts {
		ago := int(now.Truncate(unit).Sub(a.at.Truncate(unit)) / unit)
		if x.h.Advance != nil {
			ago = int(now.Sub(a.at) / unit)
		}
		for _, list := range [][]postrider.Rate{most, least} {
			if i := len(got) - 1 - ago; i >= 0 && a.failed {
				list[i].Failed++
			} else if i >= 0 {
				list[i].OK++
			}
			if x.h.Advance != nil {
				ago++
			}
		}
	}
	if x.h.Advance == nil {
		for i := range got {
			if got[i] != most[i] {
				x.fail(fmt.Sprintf("%s: %+v at %d of %d", what, most[i], i, len(got)), "%+v", got[i])
			}
		}
		return
	}
	var sum, low, high postrider.Rate
	for i, r := range slices.Backward(got) {
		sum.OK, sum.Failed = sum.OK+r.OK, sum.Failed+r.Failed
		low.OK, low.Failed = low.OK+least[i].OK, low.Failed+least[i].Failed
		high.OK, high.Failed = high.OK+most[i].OK, high.Failed+most[i].Failed
		if sum.OK < low.OK || sum.OK > high.OK || sum.Failed < low.Failed || sum.Failed > high.Failed {
			x.fail(fmt.Sprintf("%s: from %+v to %+v at %d of %d and later", what, low, high, i, len(got)), "%+v", sum)
		}
	}
}

func ratesAsked(x *suite) {
	if x.stats().Rates != nil {
		x.fail("no Rates that were not asked for", "some")
	}
	a := x.hook("a")
	x.rates("of a new store", postrider.StatsQuery{}, nil)
	list := x.tries(a, 2, 1)
	x.rates("of 3 attempts", postrider.StatsQuery{}, list)
	for _, q := range []postrider.StatsQuery{{}, {WebhookID: a}, {Project: "p"}} {
		if x.statsOf(q).Rates != nil {
			x.fail(fmt.Sprintf("no Rates of %+v", q), "some")
		}
	}
	x.send(a, 1)
	x.complete(released(x.claimOne()))
	x.rates("after a release", postrider.StatsQuery{}, list)
	c := x.claimOne()
	x.change(cancel(postrider.DeliveryQuery{}))
	x.complete(x.failed(c))
	list = append(list, tallied{a, true, x.clock.Now()})
	x.rates("after the attempt of one that was canceled", postrider.StatsQuery{}, list)
	x.step(time.Minute)
	x.prune(0, 100)
	x.rates("after Prune", postrider.StatsQuery{}, list)
}

func ratesMinutes(x *suite) {
	a := x.hook("a")
	list := x.tries(a, 2, 1)
	check := func(when string) { x.rates(when, postrider.StatsQuery{}, list) }
	if x.h.Advance == nil {
		x.step(x.clock.Now().Truncate(time.Minute).Add(time.Minute - x.tick).Sub(x.clock.Now()))
		check("at the end of the minute")
		list = append(list, x.tries(a, 1, 1)...)
		x.step(x.tick)
		check("at the beginning of the next minute")
	}
	for i := range 6 {
		list = append(list, x.tries(a, i%3, 1)...)
		x.step(time.Duration(1+i*5) * time.Minute)
		check("as time moves")
	}
	for _, d := range []time.Duration{33, 10, 1, 1, 60, 1, 58, 1, 1} {
		x.step(d * time.Minute)
		check("after nothing for a time")
	}
	list = append(list, x.tries(a, 1, 2)...)
	check("after two hours without attempts")
	x.step(119 * time.Minute)
	check("119 minutes later")
	x.step(time.Minute)
	check("120 minutes later")
	list = append(list, x.tries(a, 1, 0)...)
	check("of the same place two hours later")
}

func ratesHours(x *suite) {
	a := x.hook("a")
	list := x.tries(a, 2, 1)
	check := func(when string) { x.rates(when, postrider.StatsQuery{}, list) }
	if x.h.Advance == nil {
		x.step(x.clock.Now().Truncate(time.Hour).Add(time.Hour - x.tick).Sub(x.clock.Now()))
		list = append(list, x.tries(a, 1, 1)...)
		check("at the end of the hour")
		x.step(x.tick)
		check("at the beginning of the next hour")
	}
	for _, d := range []time.Duration{1, 1, 22, 24, 100, 300, 200} {
		list = append(list, x.tries(a, 1, 1)...)
		x.step(d * time.Hour)
		check("as time moves")
	}
	for _, d := range []time.Duration{90, 4, 1, 1, 1, 50} {
		x.step(d * time.Hour)
		check("around 31 days later")
	}
	list = append(list, x.tries(a, 3, 1)...)
	x.step(743 * time.Hour)
	check("743 hours later")
	x.step(time.Hour)
	check("744 hours later")
	list = append(list, x.tries(a, 0, 2)...)
	check("of the same place 31 days later")
}

func ratesOf(x *suite) {
	x.hook("a")
	x.hook("b", func(w *postrider.Webhook) { w.Owner = "owner-a" })
	x.hook("q", func(w *postrider.Webhook) { w.Project = "q" })
	var list []tallied
	of := func(q postrider.StatsQuery, hooks ...string) {
		var part []tallied
		for _, a := range list {
			if slices.Contains(hooks, a.hook) {
				part = append(part, a)
			}
		}
		x.rates(fmt.Sprintf("of %+v", q), q, part)
	}
	for i := range 3 {
		list = append(list, x.tries("a", 1+i, 1)...)
		list = append(list, x.tries("b", 2, i)...)
		for range i + 1 {
			it := x.item(to("q"))
			it.Event.Project = "q"
			c := x.claim(1, only(x.enqueue(it)[0].Deliveries[0]))
			x.complete(x.delivered(c[0]))
			list = append(list, tallied{"q", false, x.clock.Now()})
		}
		x.step(40 * time.Minute)
	}
	of(postrider.StatsQuery{}, "a", "b", "q")
	of(postrider.StatsQuery{WebhookID: "a"}, "a")
	of(postrider.StatsQuery{WebhookID: "b"}, "b")
	of(postrider.StatsQuery{Project: "p"}, "a", "b")
	of(postrider.StatsQuery{Project: "q"}, "q")
	of(postrider.StatsQuery{Owner: "owner-a"}, "a", "b")
	of(postrider.StatsQuery{Owner: "owner-a", WebhookID: "b"}, "b")
	of(postrider.StatsQuery{Project: "q", WebhookID: "b"})
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "b"))
	of(postrider.StatsQuery{}, "a", "b", "q")
	of(postrider.StatsQuery{WebhookID: "b"}, "b")
}

func reopenRates(x *suite) {
	a := x.hook("a")
	list := x.tries(a, 2, 1)
	x.reopen()
	x.rates("after the store was opened again", postrider.StatsQuery{}, list)
	list = append(list, x.tries(a, 1, 2)...)
	x.rates("of the same minute, the store having been opened again in it", postrider.StatsQuery{}, list)
	x.step(3 * time.Hour)
	x.reopen()
	list = append(list, x.tries(a, 1, 0)...)
	x.rates("three hours later", postrider.StatsQuery{WebhookID: a}, list)
}
