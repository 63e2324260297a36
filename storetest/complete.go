package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

const (
	saysEnds  = "An outcome of a delivery that was canceled meanwhile, or whose webhook was deleted, ends it: StatusDelivered stands, everything else, a release too, becomes StatusCanceled."
	saysStale = "The outcome of a claim that is no longer held changes nothing and is not counted in n."
)

var completeCases = []testCase{
	{name: "Complete/count", run: completeCount,
		says: "Complete records what became of claims, and returns how many outcomes it recorded, releases included."},
	{name: "Complete/one-step", run: completeOneStep,
		says: "Attempt, status, next due time, counters and the webhook's change are recorded in one step."},
	{name: "Complete/attempt", run: completeAttempt, file: "delivery.go",
		says: "Attempt is one HTTP call that finished."},
	{name: "Complete/last", run: completeLast, file: "delivery.go",
		says: "the most recent status code that was received, also if a later attempt got none; 0: none"},
	{name: "Complete/retry-in", run: completeRetryIn,
		says: "With StatusInProcess the delivery is due again after RetryIn."},
	{name: "Complete/stale", run: completeStale, says: saysStale},
	{name: "Complete/twice", run: completeTwice, says: saysStale},
	{name: "Complete/release", run: completeRelease,
		says: "An outcome without an Attempt releases the claim: the delivery is as it was before, with the due time it had."},
	{name: "Complete/release-change", run: completeReleaseChange,
		says: "nil: released, not counted; the fields below but Webhook are then not read"},
	{name: "Complete/final", run: completeFinal,
		says: "A final status never changes."},
	{name: "Complete/canceled", run: completeCanceled, says: saysEnds},
	{name: "Complete/deleted", run: completeDeleted, says: saysEnds},
	{name: "Complete/canceled-attempt", run: completeCanceledAttempt,
		says: "Its attempt is recorded all the same."},
	{name: "Complete/hold", run: completeHold,
		says: "A WebhookChange sets NotBefore, but never to an earlier time than it has."},
	{name: "Complete/window", run: completeWindow,
		says: "A WebhookChange sets the webhook's Window."},
	{name: "Complete/failing", run: completeFailing,
		says: "A WebhookChange with Failing counts a failure and starts FailingSince; one without clears both."},
	{name: "Complete/disable", run: completeDisable,
		says: "A WebhookChange with Disable disables the webhook with that reason."},
	{name: "Complete/invalid", run: completeInvalid,
		says: "An invalid outcome is ErrInvalid for the whole call."},
	{name: "Complete/error", run: completeError,
		says: "After any error the claims are still held, or recorded: calling again with the same outcomes is safe."},
}

func completeCount(x *suite) {
	x.send(x.hook("a"), 3)
	claims := x.claim(10)
	equal(x, "claims", len(claims), 3)
	equal(x, "n of Complete", x.record(x.delivered(claims[0]), x.failed(claims[1]), x.again(claims[2], time.Hour)), 3)
	x.status(claims[0].Delivery.ID, postrider.StatusDelivered)
	x.status(claims[1].Delivery.ID, postrider.StatusFailed)
	x.status(claims[2].Delivery.ID, postrider.StatusInProcess)
	equal(x, "n of Complete without outcomes", x.record(), 0)
}

func completeOneStep(x *suite) {
	x.send(x.hook("a"), 1)
	c := x.claimOne()
	o := x.again(c, time.Hour)
	o.Webhook = &postrider.WebhookChange{Failing: true, Disable: "gone"}
	x.complete(o)
	d, attempts := x.deliveryAttempts(c.Delivery.ID)
	equal(x, "the attempts stored", len(attempts), 1)
	equal(x, "Delivery.Attempts", d.Attempts, 1)
	equal(x, "Delivery.Status", d.Status, postrider.StatusInProcess)
	equal(x, "a next due time", d.NextAt.IsZero(), false)
	equal(x, "Stats", x.counts(), postrider.Stats{InProcess: 1, AttemptsFailed: 1})
	equal(x, "Webhook.State", x.webhook("a").State, postrider.StateDisabled)
}

func completeAttempt(x *suite) {
	x.send(x.hook("a"), 1)
	var want []postrider.Attempt
	for i, edit := range []func(*postrider.Attempt){
		func(a *postrider.Attempt) { a.Body, a.Truncated = bytes.Repeat([]byte("\x00\xff\n"), 5000), true },
		func(a *postrider.Attempt) {
			a.Code, a.Class, a.Error, a.Body = 0, postrider.ClassTimeout, "No answer", nil
		},
		func(a *postrider.Attempt) { a.NextAt = time.Time{} },
		func(a *postrider.Attempt) { a.FinishedAt = a.StartedAt.Add(time.Minute + time.Microsecond) },
	} {
		o := x.again(x.claimOne(), 0)
		o.Attempt.Timestamp += int64(i)
		edit(o.Attempt)
		x.complete(o)
		want = append(want, *o.Attempt)
		x.step(x.tick)
	}
	o := x.delivered(x.claimOne())
	o.Attempt.Code, o.Attempt.Body = 204, nil
	x.complete(o)
	want = append(want, *o.Attempt)
	_, got := x.deliveryAttempts(o.DeliveryID)
	equal(x, "attempts", len(got), len(want))
	for i := range want {
		x.sameAttempt(got[i], want[i])
	}
	page, err := x.s.Attempts(x.ctx, postrider.AttemptQuery{DeliveryID: o.DeliveryID})
	x.ok("Attempts", err)
	equal(x, "attempts of the list", len(page.Items), len(want))
	slices.SortFunc(page.Items, func(a, b postrider.Attempt) int { return a.Number - b.Number })
	for i := range want {
		x.sameAttempt(page.Items[i], want[i])
	}
}

func (x *suite) sameAttempt(got, want postrider.Attempt) {
	show := func(a postrider.Attempt) string {
		return fmt.Sprintf("%s of %s, %d to %d, signed %d, failed %t, code %d, class %s, error %q, %d bytes, truncated %t, next %d (%t)",
			a.ID(), a.WebhookID, a.StartedAt.UnixMicro(), a.FinishedAt.UnixMicro(), a.Timestamp, a.Failed, a.Code, a.Class, a.Error,
			len(a.Body), a.Truncated, a.NextAt.UnixMicro(), a.NextAt.IsZero())
	}
	equal(x, "attempt", show(got), show(want))
	if !bytes.Equal(got.Body, want.Body) {
		x.fail("the body "+cut(want.Body), "%s", cut(got.Body))
	}
}

func completeLast(x *suite) {
	x.send(x.hook("a"), 1)
	last := func(code int, class postrider.Class, text string, took time.Duration) {
		d := x.deliveries(postrider.DeliveryQuery{})[0]
		equal(x, "Delivery.LastCode", d.LastCode, code)
		equal(x, "Delivery.LastClass", d.LastClass, class)
		equal(x, "Delivery.LastError", d.LastError, text)
		equal(x, "Delivery.LastTook", d.LastTook, took)
	}
	o := x.again(x.claimOne(), 0)
	x.complete(o)
	last(500, postrider.ClassStatus, "no", 30*time.Millisecond)
	o = x.again(x.claimOne(), 0)
	o.Attempt.Code, o.Attempt.Class, o.Attempt.Error = 0, postrider.ClassTimeout, "none"
	o.Attempt.FinishedAt = o.Attempt.StartedAt.Add(time.Second)
	x.complete(o)
	last(500, postrider.ClassTimeout, "none", time.Second)
	x.complete(x.delivered(x.claimOne()))
	last(200, postrider.ClassTimeout, "none", 30*time.Millisecond)
}

func completeRetryIn(x *suite) {
	x.send(x.hook("a"), 1)
	for _, in := range []time.Duration{5 * time.Hour, 0, 40 * 24 * time.Hour} {
		c := x.claimOne()
		x.complete(x.again(c, in))
		x.instant("Delivery.NextAt", x.delivery(c.Delivery.ID).NextAt, x.clock.Now().Add(in))
		x.step(in)
	}
	equal(x, "Attempts of the delivery handed out after its last RetryIn", x.claimOne().Delivery.Attempts, 3)
}

// unchanged ends the case if f changes anything of the delivery, its webhook or the counters.
func (x *suite) unchanged(what, delivery, hook string, f func()) {
	show := func() string {
		d, attempts := x.deliveryAttempts(delivery)
		w := x.webhook(hook)
		return fmt.Sprintf("%+v, %d attempts, window %d, %d failures since %v, not before %v, %s %q, stats %+v",
			d, len(attempts), w.Window, w.Failures, w.FailingSince, w.NotBefore, w.State, w.Reason, x.stats())
	}
	before := show()
	f()
	if after := show(); after != before {
		x.fail(what+" to leave all as it was: "+before, "%s", after)
	}
}

// withChange adds a change of the webhook that would be seen.
func withChange(o postrider.Outcome) postrider.Outcome {
	o.Webhook = &postrider.WebhookChange{Hold: time.Hour, Window: 7, Failing: true, Disable: "stale"}
	return o
}

func completeStale(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	lost := x.claimOne()
	x.step(lease)
	x.claim(10, func(r *postrider.ClaimRequest) { r.Limits = map[string]int{"a": 0} })
	ignored := func(when string, o postrider.Outcome) {
		x.unchanged(when, id, "a", func() {
			equal(x, "n of "+when, x.record(withChange(o)), 0)
		})
	}
	ignored("an outcome whose lease is over", x.delivered(lost))
	held := x.claimOne()
	ignored("an outcome of the caller before", x.delivered(lost))
	ignored("a release by the caller before", released(lost))
	forged := held
	forged.Token = "forged"
	ignored("an outcome with a token of nobody's", x.delivered(forged))
	forged.Token = ""
	ignored("an outcome without a token", x.delivered(forged))
	x.claimsNothing("while the second caller holds it")
	equal(x, "n of stale outcomes beside one that is held",
		x.record(x.delivered(lost), x.again(held, 2*time.Hour), x.failed(lost)), 1)
	x.status(id, postrider.StatusInProcess)
	ignored("an outcome that was recorded before", x.delivered(held))
	unknown := x.delivered(held)
	unknown.DeliveryID, unknown.Attempt.DeliveryID = "nothing", "nothing"
	ignored("an outcome of a delivery that is not there", unknown)
}

func completeTwice(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	c := x.claimOne()
	equal(x, "n of two outcomes of one claim in one call", x.record(x.again(c, time.Hour), withChange(x.delivered(c))), 1)
	d, attempts := x.deliveryAttempts(id)
	equal(x, "the status after the first of two outcomes", d.Status, postrider.StatusInProcess)
	equal(x, "attempts after two outcomes of one claim", len(attempts), 1)
	equal(x, "Webhook.Window after a change that came second", x.webhook("a").Window, 0)
	equal(x, "Stats after two outcomes of one claim", x.counts(), postrider.Stats{InProcess: 1, AttemptsFailed: 1})
}

func completeRelease(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	release := func() {
		before := x.delivery(id)
		stats := x.counts()
		c := x.claimOne()
		x.step(x.tick)
		before = x.older(before, x.tick)
		equal(x, "n of a release", x.record(released(c)), 1)
		if after := x.delivery(id); after != before {
			x.fail(fmt.Sprintf("the delivery as it was before: %+v", before), "%+v", after)
		}
		equal(x, "Stats after a release", x.counts(), stats)
	}
	release()
	release()
	x.complete(x.again(x.claimOne(), time.Hour))
	x.step(time.Hour)
	release()
	equal(x, "the delivery handed out after a release", x.claimOne().Delivery.ID, id)
}

func completeReleaseChange(x *suite) {
	x.send(x.hook("a"), 1)
	o := released(x.claimOne())
	o.Status, o.RetryIn = postrider.StatusFailed, -1
	o.Webhook = &postrider.WebhookChange{Failing: true, Disable: "gone"}
	x.complete(o)
	d, attempts := x.deliveryAttempts(o.DeliveryID)
	equal(x, "the status after a release", d.Status, postrider.StatusNew)
	equal(x, "attempts after a release", len(attempts), 0)
	equal(x, "Webhook.State after a release with Disable", x.webhook("a").State, postrider.StateDisabled)
}

func completeFinal(x *suite) {
	ids := x.send(x.hook("a"), 3)
	claims := x.claim(10)
	equal(x, "claims", len(claims), 3)
	canceled := x.failed(claims[2])
	canceled.Status = postrider.StatusCanceled
	x.complete(x.delivered(claims[0]), x.failed(claims[1]), canceled)
	var before []postrider.Delivery
	for i, want := range []postrider.Status{postrider.StatusDelivered, postrider.StatusFailed, postrider.StatusCanceled} {
		d := x.delivery(claims[i].Delivery.ID)
		equal(x, "the status", d.Status, want)
		equal(x, "NextAt of a delivery that has ended is zero", d.NextAt.IsZero(), true)
		before = append(before, d)
	}
	x.record(x.again(claims[0], 0), x.delivered(claims[1]), released(claims[2]))
	x.step(2 * lease)
	x.claimsNothing("that has ended")
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	x.claimsNothing("that has ended")
	for _, d := range before {
		d = x.older(d, 2*lease)
		if after := x.delivery(d.ID); after != d {
			x.fail(fmt.Sprintf("a delivery that has ended to stay as it was: %+v", d), "%+v", after)
		}
	}
	equal(x, "deliveries", len(ids), 3)
}

// ends claims four deliveries of webhook "a", runs meanwhile, and completes them in four ways.
func (x *suite) ends(meanwhile func()) []postrider.Claim {
	x.send(x.hook("a"), 4)
	claims := x.claim(10)
	equal(x, "claims", len(claims), 4)
	meanwhile()
	for _, c := range claims {
		x.status(c.Delivery.ID, postrider.StatusNew)
	}
	x.complete(x.delivered(claims[0]), x.failed(claims[1]), x.again(claims[2], 0), released(claims[3]))
	return claims
}

func (x *suite) endStatuses(claims []postrider.Claim) {
	x.status(claims[0].Delivery.ID, postrider.StatusDelivered)
	for i, what := range []string{"failed", "to be tried again", "released"} {
		d := x.delivery(claims[i+1].Delivery.ID)
		equal(x, "the status after an outcome that was "+what, d.Status, postrider.StatusCanceled)
		x.instant("Delivery.FinishedAt", d.FinishedAt, x.clock.Now())
	}
	x.step(2 * lease)
	x.claimsNothing("that has ended")
}

func completeCanceled(x *suite) {
	x.endStatuses(x.ends(func() {
		x.change(postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{WebhookID: "a"}})
	}))
}

func completeDeleted(x *suite) {
	x.endStatuses(x.ends(func() { x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a")) }))
}

func completeCanceledAttempt(x *suite) {
	claims := x.ends(func() {
		x.change(postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{WebhookID: "a"}})
	})
	for i, want := range []int{1, 1, 1, 0} {
		_, attempts := x.deliveryAttempts(claims[i].Delivery.ID)
		equal(x, "attempts of a delivery that was canceled meanwhile", len(attempts), want)
	}
	stats := x.stats()
	equal(x, "Stats.AttemptsOK", stats.AttemptsOK, 1)
	equal(x, "Stats.AttemptsFailed", stats.AttemptsFailed, 2)
}

// changes completes one delivery of webhook "a" with the change.
func (x *suite) changes(c postrider.WebhookChange) postrider.Webhook {
	id := x.send("a", 1)[0]
	claims := x.claim(1, only(id))
	equal(x, "claims with Only", len(claims), 1)
	o := x.failed(claims[0])
	o.Webhook = &c
	x.complete(o)
	return x.webhook("a")
}

func completeHold(x *suite) {
	x.hook("a")
	hold := func(d time.Duration) postrider.Webhook {
		return x.changes(postrider.WebhookChange{Hold: d, Failing: true})
	}
	x.instant("NotBefore without a Hold", hold(0).NotBefore, time.Time{})
	end := x.clock.Now().Add(3 * time.Hour)
	x.instant("NotBefore after a Hold of 3 h", hold(3*time.Hour).NotBefore, end)
	x.instant("NotBefore after a Hold of 1 h", hold(time.Hour).NotBefore, end)
	x.step(time.Hour)
	x.instant("NotBefore after a Hold of 1 h an hour later", hold(time.Hour).NotBefore, end)
	x.instant("NotBefore after a Hold of 0", hold(0).NotBefore, end)
	end = x.clock.Now().Add(4 * time.Hour)
	x.instant("NotBefore after a Hold of 4 h", hold(4*time.Hour).NotBefore, end)
	id := x.send("a", 1)[0]
	x.step(4*time.Hour - x.tick)
	x.claimsNothing("just before the Hold is over")
	x.step(x.tick)
	equal(x, "the delivery handed out when the Hold is over", x.claimOne().Delivery.ID, id)
}

func completeWindow(x *suite) {
	x.hook("a")
	for _, n := range []int{1, 3, 0, 2} {
		w := x.changes(postrider.WebhookChange{Window: n, Failing: true})
		equal(x, "Webhook.Window", w.Window, n)
	}
	x.send("a", 5)
	equal(x, "claims with a Window of 2", len(x.claim(10)), 2)
}

func completeFailing(x *suite) {
	x.hook("a")
	for range 2 {
		start := x.clock.Now()
		for i := range 3 {
			w := x.changes(postrider.WebhookChange{Failing: true})
			equal(x, "Webhook.Failures", w.Failures, i+1)
			x.instant("Webhook.FailingSince", w.FailingSince, start)
			x.step(time.Hour)
		}
		w := x.changes(postrider.WebhookChange{})
		equal(x, "Webhook.Failures after a change without Failing", w.Failures, 0)
		x.instant("Webhook.FailingSince after a change without Failing", w.FailingSince, time.Time{})
	}
}

func completeDisable(x *suite) {
	x.hook("a")
	w := x.changes(postrider.WebhookChange{Failing: true})
	equal(x, "Webhook.State without Disable", w.State, postrider.StateEnabled)
	w = x.changes(postrider.WebhookChange{Failing: true, Disable: "410 Gone"})
	equal(x, "Webhook.State", w.State, postrider.StateDisabled)
	equal(x, "Webhook.Reason", w.Reason, "410 Gone")
	w = x.changes(postrider.WebhookChange{Failing: true})
	equal(x, "Webhook.State after a change without Disable", w.State, postrider.StateDisabled)
	equal(x, "Webhook.Reason after a change without Disable", w.Reason, "410 Gone")
	x.send("a", 1)
	x.claimsNothing("of a webhook that was disabled")
}

func completeInvalid(x *suite) {
	x.send(x.hook("a"), 2)
	claims := x.claim(10)
	equal(x, "claims", len(claims), 2)
	good, bad := x.delivered(claims[0]), x.delivered(claims[1])
	for name, spoil := range map[string]func(o *postrider.Outcome){
		"StatusNew":      func(o *postrider.Outcome) { o.Status = postrider.StatusNew },
		"no such status": func(o *postrider.Outcome) { o.Status = 9 },
		"RetryIn below 0": func(o *postrider.Outcome) {
			o.Status, o.RetryIn = postrider.StatusInProcess, -1
		},
		"an attempt of another delivery": func(o *postrider.Outcome) { o.Attempt.DeliveryID = good.DeliveryID },
		"an attempt without a number":    func(o *postrider.Outcome) { o.Attempt.Number = 0 },
		"a Window below 0":               func(o *postrider.Outcome) { o.Webhook = &postrider.WebhookChange{Window: -1} },
		"a Hold below 0":                 func(o *postrider.Outcome) { o.Webhook = &postrider.WebhookChange{Hold: -1} },
		"Health without BreakAfter": func(o *postrider.Outcome) {
			o.Webhook = &postrider.WebhookChange{Health: &postrider.Health{MaxInFlight: 1}}
		},
		"Health without MaxInFlight": func(o *postrider.Outcome) {
			o.Webhook = &postrider.WebhookChange{Health: &postrider.Health{BreakAfter: 1}}
		},
	} {
		o := bad
		attempt := *bad.Attempt
		o.Attempt = &attempt
		spoil(&o)
		n, err := x.s.Complete(x.ctx, []postrider.Outcome{good, o})
		x.invalid("Complete with "+name, err)
		equal(x, "n of Complete with "+name, n, 0)
		x.status(good.DeliveryID, postrider.StatusNew)
		equal(x, "Stats after Complete with "+name, x.counts(), postrider.Stats{New: 2, InFlight: 2})
	}
	x.complete(good, bad)
}

func completeError(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	o := x.delivered(x.claimOne())
	ended, cancel := context.WithCancel(x.ctx)
	cancel()
	n, err := x.s.Complete(ended, []postrider.Outcome{o})
	if err != nil && !errors.Is(err, context.Canceled) {
		x.fail("Complete with a context that has ended to answer its error or nil", "%v", err)
	}
	x.claimsNothing("after an error of Complete")
	if again := x.record(o); n+again > 1 {
		x.fail("the outcome to be counted once", "%d, then %d", n, again)
	}
	d, attempts := x.deliveryAttempts(id)
	equal(x, "the status after calling again", d.Status, postrider.StatusDelivered)
	equal(x, "attempts after calling again", len(attempts), 1)
}
