package storetest

import (
	"fmt"
	"time"

	"github.com/postrider/postrider"
)

const (
	saysMore  = "more false means that nothing was left when the call ended."
	saysPrune = "Prune deletes at most max deliveries that ended at least age ago, with their attempts, and events without deliveries, whose IDs are then free again."
)

var changeCases = []testCase{
	{name: "Change/max", run: changeMax,
		says: "Change does one thing to open deliveries, to at most c.Max of them, and says whether there may be more to do."},
	{name: "Change/due", run: changeDue,
		says: "ChangeDue makes those that wait due now."},
	{name: "Change/cancel", run: changeCancel,
		says: "ChangeCancel cancels them; one that is claimed ends when its outcome arrives or, once its lease is over, at the next Claim."},
	{name: "Change/selects", run: changeSelects, file: "query.go",
		says: "DeliveryQuery selects deliveries; every field that is set narrows it."},
	{name: "Change/deleted", run: changeDeleted,
		says: "those of deleted webhooks instead of Query; only with ChangeCancel"},
	{name: "Change/age", run: changeAge,
		says: "An Age leaves out what was created less than so long ago."},
	{name: "Change/age-deleted", run: changeAgeDeleted, says: "only what was created at least so long ago; 0: however young"},
	{name: "Change/ended", run: changeEnded,
		says: "Ended deliveries never change and are not counted in n."},
	{name: "Change/more", run: changeMore, says: saysMore},
	{name: "Prune/age", run: pruneAge, says: saysPrune},
	{name: "Prune/attempts", run: pruneAttempts, says: saysPrune},
	{name: "Prune/max", run: pruneMax, says: saysPrune},
	{name: "Prune/events", run: pruneEvents, says: saysPrune},
	{name: "Prune/open", run: pruneOpen,
		says: "It never deletes a delivery that has not ended."},
}

func cancel(q postrider.DeliveryQuery) postrider.Change {
	return postrider.Change{Kind: postrider.ChangeCancel, Query: q}
}

// waiting returns n deliveries of the webhook that wait for their next attempt.
func (x *suite) waiting(hook string, n int) []string {
	ids := x.send(hook, n)
	for _, id := range ids {
		c := x.claim(1, only(id))
		equal(x, "claims with Only", len(c), 1)
		x.complete(x.again(c[0], 10*time.Hour))
	}
	return ids
}

func changeMax(x *suite) {
	x.waiting(x.hook("a"), 7)
	for _, c := range []postrider.Change{{Kind: postrider.ChangeDue, Max: 3}, {Kind: postrider.ChangeCancel, Max: 3}} {
		n, more := x.change(c)
		if n < 1 || n > 3 {
			x.fail("a Change of at most 3", "%d", n)
		}
		equal(x, "more after 3 of 7", more, true)
	}
	equal(x, "deliveries canceled by a Change with Max 3", x.stats().Canceled, 3)
	equal(x, "deliveries made due by a Change with Max 3", len(x.claim(100)) <= 3, true)
	for _, c := range []postrider.Change{{Max: 0}, {Max: -1}, {Max: 10_001}, {Kind: 2, Max: 1}, {Max: 1, Deleted: true}, {Max: 1, Query: postrider.DeliveryQuery{Project: "!"}}} {
		n, _, err := x.s.Change(x.ctx, c)
		x.invalid(fmt.Sprintf("Change with %+v", c), err)
		equal(x, "n of an invalid Change", n, 0)
	}
}

func changeDue(x *suite) {
	ids := x.waiting(x.hook("a"), 3)
	x.claimsNothing("that waits")
	x.step(time.Hour)
	n, _ := x.change(postrider.Change{Kind: postrider.ChangeDue, Query: postrider.DeliveryQuery{ID: ids[1]}})
	equal(x, "n of a Change of one", n, 1)
	d := x.delivery(ids[1])
	x.instant("Delivery.NextAt", d.NextAt, x.clock.Now())
	equal(x, "Delivery.Status", d.Status, postrider.StatusInProcess)
	equal(x, "the delivery handed out", x.claimOne().Delivery.ID, ids[1])
	n, _ = x.change(postrider.Change{Kind: postrider.ChangeDue})
	equal(x, "n of a Change of the two that still wait, one being claimed", n, 2)
	equal(x, "claims", len(x.claim(10)), 2)
}

func changeCancel(x *suite) {
	ids := append(x.waiting(x.hook("a"), 1), x.send("a", 3)...)
	claims := x.claim(2)
	equal(x, "claims", len(claims), 2)
	x.step(x.tick)
	x.change(cancel(postrider.DeliveryQuery{}))
	held := map[string]bool{claims[0].Delivery.ID: true, claims[1].Delivery.ID: true}
	for _, id := range ids {
		d := x.delivery(id)
		if held[id] {
			equal(x, "the status of a canceled delivery that is claimed", d.Status, postrider.StatusNew)
			continue
		}
		equal(x, "the status of a canceled delivery", d.Status, postrider.StatusCanceled)
		x.instant("Delivery.FinishedAt", d.FinishedAt, x.clock.Now())
		x.instant("Delivery.NextAt", d.NextAt, time.Time{})
	}
	x.complete(x.again(claims[0], time.Hour))
	x.status(claims[0].Delivery.ID, postrider.StatusCanceled)
	x.step(lease)
	x.claimsNothing("that was canceled")
	x.status(claims[1].Delivery.ID, postrider.StatusCanceled)
}

func changeSelects(x *suite) {
	a, q := x.hook("a"), x.hook("q", func(w *postrider.Webhook) { w.Project = "q" })
	of := map[string][]string{"new": x.send(a, 2), "waiting": x.waiting(a, 2)}
	for range 2 {
		r := x.enqueue(x.item(func(it *postrider.Item) { it.Event.Project, it.To = "q", []string{q} }))
		of["q"] = append(of["q"], r[0].Deliveries...)
	}
	gone := 0
	cancels := func(query postrider.DeliveryQuery, want int) {
		n, more := x.change(cancel(query))
		equal(x, fmt.Sprintf("n of a Change of %+v", query), n, want)
		equal(x, "more", more, false)
		gone += want
		equal(x, "Stats.Canceled", x.stats().Canceled, int64(gone))
	}
	cancels(postrider.DeliveryQuery{ID: "nothing"}, 0)
	cancels(postrider.DeliveryQuery{WebhookID: "nothing"}, 0)
	cancels(postrider.DeliveryQuery{WebhookID: a, Project: "q"}, 0)
	cancels(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusDelivered}}, 0)
	cancels(postrider.DeliveryQuery{ID: of["new"][0]}, 1)
	cancels(postrider.DeliveryQuery{Project: "q", Limit: 1}, 2)
	cancels(postrider.DeliveryQuery{Statuses: []postrider.Status{postrider.StatusInProcess}}, 2)
	cancels(postrider.DeliveryQuery{WebhookID: a}, 1)
	for _, id := range of["q"] {
		x.status(id, postrider.StatusCanceled)
	}
}

func changeDeleted(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	x.send(a, 3)
	c := x.claim(1)
	keep := x.send(b, 2)
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, a))
	total := 0
	for range 20 {
		n, more := x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true, Max: 1})
		if total += n; !more {
			break
		}
	}
	for _, d := range x.deliveries(postrider.DeliveryQuery{WebhookID: a}) {
		want := postrider.StatusCanceled
		if d.ID == c[0].Delivery.ID {
			want = postrider.StatusNew
		}
		equal(x, "the status of a delivery of a deleted webhook", d.Status, want)
	}
	for _, id := range keep {
		x.status(id, postrider.StatusNew)
	}
	x.complete(released(c[0]))
	x.status(c[0].Delivery.ID, postrider.StatusCanceled)
}

func changeAge(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	for _, kind := range []postrider.ChangeKind{postrider.ChangeDue, postrider.ChangeCancel} {
		var ids []string
		for range 3 {
			ids = append(ids, x.waiting(a, 1)...)
			ids = append(ids, x.waiting(b, 1)...)
			x.step(time.Hour)
		}
		touches := func(age time.Duration, want int) {
			total := 0
			for more, calls := true, 0; more; calls++ {
				if calls > 100 {
					x.fail("more false in the end", "true after %d calls", calls)
				}
				var n int
				n, more = x.change(postrider.Change{Kind: kind, Age: age, Max: 1})
				total += n
			}
			equal(x, fmt.Sprintf("n of Changes with Age %v", age), total, want)
		}
		// They are 3 h, 2 h and 1 h old.
		touches(3*time.Hour+x.tick, 0)
		touches(3*time.Hour, 2)
		touches(2*time.Hour+x.tick, 0)
		// An attempt makes it no younger.
		c := x.claim(1, only(ids[2]))
		equal(x, "claims with Only", len(c), 1)
		x.complete(x.again(c[0], 10*time.Hour))
		touches(2*time.Hour, 2)
		touches(100*365*24*time.Hour, 0)
		if kind == postrider.ChangeCancel {
			x.status(ids[3], postrider.StatusCanceled)
			x.status(ids[4], postrider.StatusInProcess)
		}
		touches(0, 2)
		x.change(cancel(postrider.DeliveryQuery{}))
	}
}

func changeAgeDeleted(x *suite) {
	a := x.hook("a")
	early := x.send(a, 1)[0]
	x.step(time.Hour)
	late := x.send(a, 1)[0]
	x.step(time.Hour)
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, a))
	n, more := x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true, Age: 2 * time.Hour})
	equal(x, "n of a Change of deleted webhooks with an Age", n, 1)
	equal(x, "more", more, false)
	x.status(early, postrider.StatusCanceled)
	x.status(late, postrider.StatusNew)
	n, _, err := x.s.Change(x.ctx, postrider.Change{Kind: postrider.ChangeCancel, Age: -1, Max: 10})
	x.invalid("Change with an Age below 0", err)
	equal(x, "n of an invalid Change", n, 0)
	n, _ = x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true})
	equal(x, "n of a Change without an Age", n, 1)
}

func changeEnded(x *suite) {
	x.send(x.hook("a"), 3)
	claims := x.claim(10)
	equal(x, "claims", len(claims), 3)
	x.complete(x.delivered(claims[0]), x.failed(claims[1]), x.again(claims[2], time.Hour))
	before := []postrider.Delivery{x.delivery(claims[0].Delivery.ID), x.delivery(claims[1].Delivery.ID)}
	for _, kind := range []postrider.ChangeKind{postrider.ChangeDue, postrider.ChangeCancel} {
		n, _ := x.change(postrider.Change{Kind: kind})
		equal(x, "n of a Change of 3 of which 2 have ended", n, 1)
		for _, d := range before {
			n, _ := x.change(postrider.Change{Kind: kind, Query: postrider.DeliveryQuery{ID: d.ID}})
			equal(x, "n of a Change of one that has ended", n, 0)
			if after := x.delivery(d.ID); after != d {
				x.fail(fmt.Sprintf("an ended delivery to stay %+v", d), "%+v", after)
			}
		}
	}
}

func changeMore(x *suite) {
	a := x.hook("a")
	for _, kind := range []postrider.ChangeKind{postrider.ChangeDue, postrider.ChangeCancel} {
		x.waiting(a, 10)
		x.claim(2)
		total := 0
		for calls := 0; ; calls++ {
			if calls > 100 {
				x.fail("more false in the end", "true after %d calls", calls)
			}
			n, more := x.change(postrider.Change{Kind: kind, Max: 3})
			if total += n; !more {
				break
			}
		}
		if kind == postrider.ChangeDue {
			equal(x, "deliveries made due when more is false", total, 10)
			continue
		}
		for _, d := range x.deliveries(postrider.DeliveryQuery{}) {
			if !d.Status.Final() && !d.InFlight {
				x.fail("nothing left to cancel when more is false", "delivery %s is %s", d.ID, d.Status)
			}
		}
	}
	n, more := x.change(postrider.Change{Kind: postrider.ChangeDue})
	equal(x, "n when nothing is left", n, 0)
	equal(x, "more when nothing is left", more, false)
}

// end makes n deliveries of the webhook that end now.
func (x *suite) end(hook string, n int) []string {
	ids := x.send(hook, n)
	for _, id := range ids {
		c := x.claim(1, only(id))
		equal(x, "claims with Only", len(c), 1)
		x.complete(x.delivered(c[0]))
	}
	return ids
}

func (x *suite) prune(age time.Duration, most int) (int, bool) {
	n, more, err := x.s.Prune(x.ctx, age, most)
	x.ok("Prune", err)
	return n, more
}

// pruned ends the case unless the delivery is gone, or is there.
func (x *suite) pruned(id string, want bool) {
	_, _, err := x.s.Delivery(x.ctx, id)
	if want {
		x.is("Delivery of one that was pruned", err, postrider.ErrNotFound)
	} else {
		x.ok("Delivery of one that was not pruned", err)
	}
}

func pruneAge(x *suite) {
	a := x.hook("a")
	early := x.end(a, 1)[0]
	x.step(time.Hour)
	late := x.end(a, 1)[0]
	x.step(2*time.Hour - x.tick)
	prune := func(age time.Duration, want int) {
		n, more := x.prune(age, 100)
		equal(x, fmt.Sprintf("n of Prune of %v", age), n, want)
		equal(x, "more of Prune", more, false)
	}
	prune(3*time.Hour, 0)
	prune(postrider.Forever, 0)
	x.step(x.tick)
	prune(3*time.Hour, 1)
	x.pruned(early, true)
	x.pruned(late, false)
	prune(2*time.Hour, 1)
	x.pruned(late, true)
	equal(x, "deliveries listed", len(x.deliveries(postrider.DeliveryQuery{})), 0)
	equal(x, "Stats.Pruned", x.stats().Pruned, 2)
	canceled := x.send(a, 1)[0]
	x.step(time.Hour)
	x.change(cancel(postrider.DeliveryQuery{}))
	x.step(time.Hour - x.tick)
	prune(time.Hour, 0)
	x.pruned(canceled, false)
	x.step(x.tick)
	prune(time.Hour, 1)
	x.pruned(canceled, true)
}

func pruneAttempts(x *suite) {
	a := x.hook("a")
	id := x.end(a, 1)[0]
	x.prune(0, 100)
	for _, q := range []postrider.AttemptQuery{{}, {DeliveryID: id}, {WebhookID: a}} {
		page, err := x.s.Attempts(x.ctx, q)
		if err == nil && len(page.Items) > 0 {
			x.fail("no attempts of a pruned delivery", "%d", len(page.Items))
		}
	}
}

func pruneMax(x *suite) {
	x.end(x.hook("a"), 7)
	n, more := x.prune(0, 3)
	if n < 1 || n > 3 {
		x.fail("Prune of at most 3", "%d", n)
	}
	equal(x, "more after 3 of 7", more, true)
	equal(x, "Stats.Pruned", x.stats().Pruned, int64(n))
	total := n
	for calls := 0; more; calls++ {
		if calls > 100 {
			x.fail("more false in the end", "true after %d calls", calls)
		}
		n, more = x.prune(0, 3)
		total += n
	}
	equal(x, "deliveries pruned when more is false", total, 7)
	equal(x, "deliveries left", len(x.deliveries(postrider.DeliveryQuery{})), 0)
}

func pruneEvents(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	alone, both := x.item(to(a)), x.item(to(a, b))
	x.enqueue(alone, both)
	for range 2 {
		c := x.claim(1, func(r *postrider.ClaimRequest) { r.Limits = map[string]int{b: 0} })
		equal(x, "claims", len(c), 1)
		x.complete(x.delivered(c[0]))
	}
	n, _ := x.prune(0, 100)
	equal(x, "n of Prune", n, 2)
	_, err := x.s.Event(x.ctx, "p", alone.Event.ID)
	x.is("Event without deliveries after Prune", err, postrider.ErrNotFound)
	e, err := x.s.Event(x.ctx, "p", both.Event.ID)
	x.ok("Event with a delivery left after Prune", err)
	x.sameEvent(e, both.Event)
	equal(x, "Duplicate of an event that still has a delivery", x.enqueue(both)[0].Duplicate, true)
	alone.Event.Payload = []byte(`"again"`)
	equal(x, "Duplicate of an event whose ID is free again", x.enqueue(alone)[0].Duplicate, false)
	e, err = x.s.Event(x.ctx, "p", alone.Event.ID)
	x.ok("Event", err)
	x.sameEvent(e, alone.Event)
}

func pruneOpen(x *suite) {
	a := x.hook("a")
	ids := append(x.waiting(a, 1), x.send(a, 2)...)
	equal(x, "claims", len(x.claim(1)), 1)
	x.update(a, func(w *postrider.Webhook) { w.State = postrider.StatePaused })
	x.step(1000 * time.Hour)
	n, more := x.prune(0, 100)
	equal(x, "n of Prune of deliveries that have not ended", n, 0)
	equal(x, "more", more, false)
	for _, id := range ids {
		x.pruned(id, false)
	}
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, a))
	n, _ = x.prune(0, 100)
	equal(x, "n of Prune of deliveries of a deleted webhook that have not ended", n, 0)
}
