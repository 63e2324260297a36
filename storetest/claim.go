package storetest

import (
	"fmt"
	"time"

	"github.com/postrider/postrider"
)

const (
	saysInFlight = "Of one webhook at most MaxInFlight are held at any time, over all callers; the webhook's own MaxInFlight goes before the request's, and a Window that is set and smaller before both."
	saysBlocked  = "Nothing of a webhook is handed out while it is paused, disabled or deleted, or its NotBefore is ahead."
	saysMost     = "At most Max are handed out, and of a webhook at most what Limits says, or else Each."
	saysToken    = "A token never repeats, also after the store was opened again."
	saysOnly     = "Only names one delivery, which is handed out if it is open and not held, due or not, whatever its webhook's state and limits; unless that webhook is deleted, or others of its lane come first."
	saysOldest   = "Of one webhook, the delivery that is due longest goes first."
	saysWait     = "wait is the time after which another call may find more without anything else happening, Forever if nothing waits for a time to come, 0 if Max was reached."
)

var claimCases = []testCase{
	{name: "Claim/due", run: claimDue,
		says: "Claim hands out deliveries that are due: each to one caller at a time, with the event and the webhook."},
	{name: "Claim/max", run: claimMax, says: saysMost},
	{name: "Claim/limits", run: claimLimits, says: saysMost},
	{name: "Claim/held", run: claimHeld,
		says: "A delivery that is claimed is not handed out again until the claim is completed or its lease is over."},
	{name: "Claim/lease", run: claimLease,
		says: "A claim whose lease is over is lost: the delivery is due at once and goes out again under another token."},
	{name: "Claim/not-before-due", run: claimNotBeforeDue,
		says: "A delivery that waits for its next attempt is not handed out before it is due."},
	{name: "Claim/token", run: claimToken, says: saysToken},
	{name: "Claim/oldest-first", run: claimOldestFirst, says: saysOldest},
	{name: "Claim/turns", run: claimTurns,
		says: "Webhooks take turns: a webhook with a long backlog does not keep the others waiting."},
	{name: "Claim/in-flight", run: claimInFlight, says: saysInFlight},
	{name: "Claim/in-flight-own", run: claimInFlightOwn, says: saysInFlight},
	{name: "Claim/window", run: claimWindow, says: saysInFlight},
	{name: "Claim/paused", run: claimPaused, says: saysBlocked},
	{name: "Claim/disabled", run: claimDisabled, says: saysBlocked},
	{name: "Claim/deleted", run: claimDeleted, says: saysBlocked},
	{name: "Claim/not-before", run: claimNotBefore, says: saysBlocked},
	{name: "Claim/only", run: claimOnly, says: saysOnly},
	{name: "Claim/only-held", run: claimOnlyHeld, says: saysOnly},
	{name: "Claim/only-deleted", run: claimOnlyDeleted, says: saysOnly},
	{name: "Claim/counted-nowhere", run: claimCountedNowhere,
		says: "A claim is counted nowhere until it is completed; Delivery.Status is as before, Delivery.InFlight is true."},
	{name: "Claim/wait", run: claimWaitTimes, says: saysWait},
	{name: "Claim/wait-max", run: claimWaitMax, says: saysWait},
	{name: "Claim/wait-forever", run: claimWaitForever, says: saysWait},
	{name: "Claim/wait-kept-back", run: claimWaitKeptBack,
		says: "Deliveries kept back by Limits, Each or MaxInFlight do not count for wait: they become due through the caller."},
}

func claimDue(x *suite) {
	x.hook("a")
	x.hook("b")
	it := x.item()
	want := map[string]bool{}
	for _, id := range x.enqueue(it)[0].Deliveries {
		want[id] = true
	}
	x.update("a", func(w *postrider.Webhook) { w.URL = "https://example.com/new" })
	claims := x.claim(10)
	equal(x, "claims", len(claims), 2)
	for _, c := range claims {
		if !want[c.Delivery.ID] {
			x.fail("each delivery once", "delivery %s again or of nobody", c.Delivery.ID)
		}
		delete(want, c.Delivery.ID)
		x.sameEvent(c.Event, it.Event)
		x.sameWebhook(c.Webhook, x.webhook(c.Delivery.WebhookID))
	}
	if claims[0].Token == claims[1].Token {
		x.fail("a token of its own for each claim", "twice %q", claims[0].Token)
	}
}

func claimMax(x *suite) {
	x.send(x.hook("a"), 3)
	x.send(x.hook("b"), 3)
	equal(x, "claims with Max 4 of 6 that are due", len(x.claim(4)), 4)
	equal(x, "claims with Max 1 of 2 that are due", len(x.claim(1)), 1)
	equal(x, "claims with Max 4 of 1 that is due", len(x.claim(4)), 1)
}

// perHook counts claims by webhook.
func perHook(claims []postrider.Claim) map[string]int {
	n := map[string]int{}
	for _, c := range claims {
		n[c.Delivery.WebhookID]++
	}
	return n
}

func claimLimits(x *suite) {
	for _, id := range []string{"a", "b", "c", "d"} {
		x.send(x.hook(id), 4)
	}
	n := perHook(x.claim(100, func(r *postrider.ClaimRequest) {
		r.Limits, r.Each = map[string]int{"a": 0, "b": 1, "c": 3, "elsewhere": 1}, 2
	}))
	equal(x, "claims of a webhook with Limits 0", n["a"], 0)
	equal(x, "claims of a webhook with Limits 1, Each 2", n["b"], 1)
	equal(x, "claims of a webhook with Limits 3, Each 2", n["c"], 3)
	equal(x, "claims of a webhook without Limits, Each 2", n["d"], 2)
	n = perHook(x.claim(100, func(r *postrider.ClaimRequest) { r.Limits = map[string]int{"a": 1} }))
	equal(x, "claims of a webhook with Limits 1", n["a"], 1)
	equal(x, "claims of a webhook without Limits, Each 0, and 2 due", n["d"], 2)
}

func claimHeld(x *suite) {
	x.send(x.hook("a"), 2)
	claims := x.claim(10)
	equal(x, "claims", len(claims), 2)
	x.claimsNothing("while all is claimed")
	x.step(lease - x.tick)
	x.claimsNothing("just before the lease is over")
	x.complete(x.delivered(claims[0]), x.delivered(claims[1]))
	x.step(2 * lease)
	x.claimsNothing("once all is delivered")
}

func claimLease(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	first := x.claimOne()
	x.step(lease)
	claims := x.claim(10)
	if len(claims) != 1 || claims[0].Delivery.ID != id {
		x.fail("delivery "+id+" to be handed out again when the lease is over", "%d claims", len(claims))
	}
	if claims[0].Token == first.Token {
		x.fail("another token", "the same: %q", first.Token)
	}
	x.step(lease - x.tick)
	x.claimsNothing("while the second lease lasts")
	x.step(x.tick)
	short := x.claim(10, func(r *postrider.ClaimRequest) { r.Lease = 10 * time.Minute })
	equal(x, "claims when the second lease is over", len(short), 1)
	x.step(10 * time.Minute)
	equal(x, "claims when a lease of 10 minutes is over", len(x.claim(10)), 1)
}

func claimNotBeforeDue(x *suite) {
	x.send(x.hook("a"), 1)
	x.complete(x.again(x.claimOne(), 3*time.Hour))
	x.claimsNothing("3 h before it is due")
	x.step(3*time.Hour - x.tick)
	x.claimsNothing("just before it is due")
}

func claimToken(x *suite) {
	x.send(x.hook("a"), 3)
	seen := map[string]bool{}
	note := func(claims []postrider.Claim) {
		for _, c := range claims {
			if seen[c.Token] {
				x.fail("a token that was never given before", "%q again", c.Token)
			}
			seen[c.Token] = true
		}
	}
	for range 50 {
		claims := x.claim(10)
		equal(x, "claims", len(claims), 3)
		note(claims)
		x.complete(x.again(claims[0], 0), x.again(claims[1], 0), x.again(claims[2], 0))
	}
	for range 5 {
		note(x.claim(10))
		x.step(lease)
	}
}

func claimOldestFirst(x *suite) {
	a := x.hook("a")
	late := x.send(a, 1)[0]
	x.complete(x.again(x.claimOne(), time.Hour))
	var want []string
	for range 4 {
		x.step(x.tick)
		want = append(want, x.send(a, 1)...)
	}
	x.step(3 * time.Hour)
	last := x.send(a, 1)[0]
	want = append(want, late, last)
	var got []string
	for _, limit := range []int{1, 1, 10} {
		for _, c := range x.claim(limit) {
			got = append(got, c.Delivery.ID)
		}
	}
	equal(x, "claims, the one that is due longest first", fmt.Sprint(got), fmt.Sprint(want))
}

func claimTurns(x *suite) {
	long, b, c := x.hook("long"), x.hook("b"), x.hook("c")
	x.send(long, 40)
	x.step(x.tick)
	x.send(b, 3)
	x.send(c, 3)
	n := perHook(x.claim(6))
	if n[b] == 0 || n[c] == 0 {
		x.fail("6 claims to hold some of each of 3 webhooks", "%v", n)
	}
	n = map[string]int{}
	for range 8 {
		for id, k := range perHook(x.claim(1)) {
			n[id] += k
		}
	}
	if n[b] == 0 || n[c] == 0 || n[long] == 0 {
		x.fail("8 single claims to hold some of each of 3 webhooks", "%v", n)
	}
}

func claimInFlight(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	x.send(a, 5)
	x.send(b, 5)
	most := func(r *postrider.ClaimRequest) { r.MaxInFlight = 2 }
	claims := x.claim(100, most)
	n := perHook(claims)
	if n[a] != 2 || n[b] != 2 {
		x.fail("2 claims of each webhook with MaxInFlight 2", "%v", n)
	}
	equal(x, "claims of a second caller while MaxInFlight are held", len(x.claim(100, most)), 0)
	x.complete(x.delivered(claims[0]))
	n = perHook(x.claim(100, most))
	if len(n) != 1 || n[claims[0].Delivery.WebhookID] != 1 {
		x.fail("1 claim of the webhook whose claim was completed", "%v", n)
	}
	n = perHook(x.claim(100, func(r *postrider.ClaimRequest) { r.MaxInFlight = 3 }))
	if n[a] != 1 || n[b] != 1 {
		x.fail("1 claim of each webhook with MaxInFlight 3 while 2 are held", "%v", n)
	}
	x.step(lease)
	n = perHook(x.claim(100, most))
	if n[a] != 2 || n[b] != 2 {
		x.fail("2 claims of each webhook when all leases are over", "%v", n)
	}
}

func claimInFlightOwn(x *suite) {
	more, less := x.hook("more", maxInFlight(3)), x.hook("less", maxInFlight(1))
	x.send(more, 5)
	x.send(less, 5)
	for range 2 {
		x.claim(100, func(r *postrider.ClaimRequest) { r.MaxInFlight = 2 })
	}
	n := map[string]int{}
	for _, d := range x.deliveries(postrider.DeliveryQuery{}) {
		if d.InFlight {
			n[d.WebhookID]++
		}
	}
	equal(x, "held of a webhook whose MaxInFlight is 3 with a request's 2", n[more], 3)
	equal(x, "held of a webhook whose MaxInFlight is 1 with a request's 2", n[less], 1)
	x.update(less, func(w *postrider.Webhook) { w.MaxInFlight = 4 })
	equal(x, "claims after the webhook's MaxInFlight went from 1 to 4", len(x.claim(100)), 3)
}

func maxInFlight(n int) func(*postrider.Webhook) {
	return func(w *postrider.Webhook) { w.MaxInFlight = n }
}

func claimWindow(x *suite) {
	small, wide := x.hook("small", maxInFlight(3)), x.hook("wide", maxInFlight(2))
	x.send(small, 5)
	x.send(wide, 5)
	x.update(small, func(w *postrider.Webhook) { w.Window = 1 })
	x.update(wide, func(w *postrider.Webhook) { w.Window = 4 })
	n := perHook(x.claim(100, func(r *postrider.ClaimRequest) { r.MaxInFlight = 5 }))
	equal(x, "claims of a webhook with Window 1 and MaxInFlight 3", n[small], 1)
	equal(x, "claims of a webhook with Window 4 and MaxInFlight 2", n[wide], 2)
	equal(x, "claims of a second caller", len(x.claim(100)), 0)
	x.update(small, func(w *postrider.Webhook) { w.Window = 0 })
	equal(x, "claims once the Window is 0 again", len(x.claim(100)), 2)
}

// claimBlocked checks that a webhook in a state keeps its deliveries.
func (x *suite) claimBlocked(state postrider.State) {
	x.hook("a", func(w *postrider.Webhook) { w.State = state })
	x.hook("b")
	x.enqueue(x.item())
	n := perHook(x.claim(10))
	equal(x, "claims of a webhook that is "+state.String(), n["a"], 0)
	equal(x, "claims of the webhook beside it", n["b"], 1)
	x.update("a", func(w *postrider.Webhook) { w.State = postrider.StateEnabled })
	equal(x, "claims once the webhook is enabled", len(x.claim(10)), 1)
	x.send("a", 2)
	x.update("a", func(w *postrider.Webhook) { w.State = state })
	x.claimsNothing("of a webhook that is " + state.String())
}

func claimPaused(x *suite) { x.claimBlocked(postrider.StatePaused) }

func claimDisabled(x *suite) { x.claimBlocked(postrider.StateDisabled) }

func claimDeleted(x *suite) {
	x.hook("a")
	x.hook("b")
	x.enqueue(x.item(), x.item())
	claims := x.claim(1, func(r *postrider.ClaimRequest) { r.Limits = map[string]int{"b": 0} })
	equal(x, "claims", len(claims), 1)
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	equal(x, "claims of a deleted webhook", perHook(x.claim(10))["a"], 0)
	x.step(lease)
	equal(x, "claims of a deleted webhook, the lease being over", perHook(x.claim(10))["a"], 0)
}

func claimNotBefore(x *suite) {
	at := x.clock.stored(x.clock.Now()).Add(3 * time.Hour)
	x.hook("a", func(w *postrider.Webhook) { w.NotBefore = at })
	id := x.send("a", 1)[0]
	x.claimsNothing("while NotBefore is ahead")
	x.step(3*time.Hour - x.tick)
	x.claimsNothing("just before NotBefore")
	x.step(x.tick)
	equal(x, "the delivery handed out at NotBefore", x.claimOne().Delivery.ID, id)
}

func claimOnly(x *suite) {
	for _, c := range []struct {
		name string
		edit func(*postrider.Webhook)
	}{
		{"enabled", func(*postrider.Webhook) {}},
		{"paused", func(w *postrider.Webhook) { w.State = postrider.StatePaused }},
		{"disabled", func(w *postrider.Webhook) { w.State, w.Reason = postrider.StateDisabled, "gone" }},
		{"held", func(w *postrider.Webhook) { w.NotBefore = x.clock.stored(x.clock.Now()).Add(time.Hour) }},
		{"narrow", maxInFlight(1)},
		{"windowed", func(w *postrider.Webhook) { w.Window = 1 }},
	} {
		id := x.hook(c.name, c.edit)
		deliveries := x.send(id, 3)
		for _, want := range deliveries[1:] {
			got := x.claim(10, only(want), func(r *postrider.ClaimRequest) { r.Limits = map[string]int{id: 0} })
			if len(got) != 1 || got[0].Delivery.ID != want {
				x.fail("Only to hand out just that delivery of a webhook that is "+c.name, "%d claims", len(got))
			}
		}
	}
	late := x.send(x.hook("late"), 1)[0]
	x.complete(x.again(x.claim(1, only(late))[0], time.Hour))
	equal(x, "claims with Only of a delivery that is not due", len(x.claim(1, only(late))), 1)
}

// notOnly ends the case if Only hands the delivery out; whether that is an error is left to the store.
func (x *suite) notOnly(id, what string) {
	claims, _, err := x.s.Claim(x.ctx, postrider.ClaimRequest{Max: 1, Lease: lease, Only: id})
	if len(claims) > 0 {
		x.fail("Only not to hand out "+what, "delivery %s", claims[0].Delivery.ID)
	}
	if err != nil {
		x.is("Claim with Only of "+what, err, postrider.ErrNotFound)
	}
}

func claimOnlyHeld(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	c := x.claimOne()
	x.notOnly(id, "a delivery that is held")
	x.complete(x.delivered(c))
	x.notOnly(id, "a delivery that has ended")
	x.notOnly("nothing", "a delivery that is not there")
}

func claimOnlyDeleted(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	x.notOnly(id, "a delivery whose webhook is deleted")
}

func claimCountedNowhere(x *suite) {
	x.send(x.hook("a"), 1)
	c := x.claimOne()
	d := x.delivery(c.Delivery.ID)
	equal(x, "Delivery.Status of a delivery that is claimed", d.Status, postrider.StatusNew)
	equal(x, "Delivery.InFlight of a delivery that is claimed", d.InFlight, true)
	equal(x, "Delivery.Attempts of a delivery that is claimed", d.Attempts, 0)
	equal(x, "Stats while it is claimed", x.counts(), postrider.Stats{New: 1, InFlight: 1})
	x.complete(x.again(c, 0))
	c = x.claimOne()
	d = x.delivery(c.Delivery.ID)
	equal(x, "Delivery.Status of a delivery that is claimed again", d.Status, postrider.StatusInProcess)
	equal(x, "Delivery.InFlight of a delivery that is claimed again", d.InFlight, true)
	equal(x, "Stats while it is claimed again", x.counts(), postrider.Stats{InProcess: 1, InFlight: 1, AttemptsFailed: 1})
	x.complete(x.delivered(c))
	equal(x, "Delivery.InFlight after the outcome", x.delivery(c.Delivery.ID).InFlight, false)
	equal(x, "Stats after the outcome", x.counts(), postrider.Stats{Delivered: 1, AttemptsOK: 1, AttemptsFailed: 1})
}

func claimWaitTimes(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	x.send(a, 1)
	c, wait := x.claimWait(10)
	equal(x, "claims", len(c), 1)
	x.wait("with a claim under a lease of that", wait, lease)
	x.complete(x.again(c[0], 5*time.Hour))
	_, wait = x.claimWait(10)
	x.wait("with a delivery that is due after that", wait, 5*time.Hour)
	x.step(time.Hour)
	_, wait = x.claimWait(10)
	x.wait("an hour later", wait, 4*time.Hour)
	x.update(b, func(w *postrider.Webhook) { w.NotBefore = x.clock.stored(x.clock.Now()).Add(3 * time.Hour) })
	x.send(b, 1)
	_, wait = x.claimWait(10)
	x.wait("with a webhook whose NotBefore is so far ahead", wait, 3*time.Hour)
	x.step(3 * time.Hour)
	c, wait = x.claimWait(10, func(r *postrider.ClaimRequest) { r.Lease = 2 * time.Hour })
	equal(x, "claims at NotBefore", len(c), 1)
	x.wait("with a delivery that is due before the lease is over", wait, time.Hour)
}

func claimWaitMax(x *suite) {
	a := x.hook("a")
	x.send(a, 3)
	_, wait := x.claimWait(2)
	x.wait("when Max was reached", wait, 0)
	_, wait = x.claimWait(1)
	x.wait("when Max was reached with the last that is due", wait, 0)
}

func claimWaitForever(x *suite) {
	forever := func(when string) {
		claims, wait := x.claimWait(10)
		equal(x, "claims", len(claims), 0)
		x.wait(when, wait, postrider.Forever)
	}
	forever("of a new store")
	x.hook("a")
	x.send(x.hook("b", func(w *postrider.Webhook) { w.State = postrider.StatePaused }), 1)
	x.send(x.hook("c"), 1)
	c := x.claimOne()
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, x.hook("d")))
	x.complete(x.delivered(c))
	forever("when what is left is paused")
}

func claimWaitKeptBack(x *suite) {
	a := x.hook("a")
	x.send(a, 3)
	_, wait := x.claimWait(10, func(r *postrider.ClaimRequest) { r.Limits = map[string]int{a: 0} })
	x.wait("when all is kept back by Limits", wait, postrider.Forever)
	c, wait := x.claimWait(10, func(r *postrider.ClaimRequest) { r.Each = 1 })
	equal(x, "claims with Each 1", len(c), 1)
	x.wait("when the rest is kept back by Each: the lease", wait, lease)
	_, wait = x.claimWait(10, func(r *postrider.ClaimRequest) { r.MaxInFlight = 1 })
	x.wait("when the rest is kept back by MaxInFlight: the lease", wait, lease)
}
