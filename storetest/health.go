package storetest

import (
	"fmt"
	"time"

	"github.com/postrider/postrider"
)

// The breaker and disabling: a store applies them, in the transaction that records the outcome, to what it has. What a
// change makes of a webhook WebhookChange.Apply says; the cases compare with it, and then look at what is handed out.

const saysHealth = "A WebhookChange with Health, or Aside, does what its Apply makes of the webhook as it is at that moment."

var healthCases = []testCase{
	{name: "Health/trips", run: healthTrips, says: saysHealth},
	{name: "Health/open", run: healthOpen, says: saysHealth},
	{name: "Health/probe", run: healthProbe, says: saysHealth},
	{name: "Health/widens", run: healthWidens, says: saysHealth},
	{name: "Health/two-in-a-call", run: healthTwo, says: saysHealth},
	{name: "Health/as-it-is", run: healthAsItIs, says: saysHealth},
	{name: "Health/disables", run: healthDisables, says: saysHealth},
	{name: "Health/aside", run: healthAside, says: saysHealth},
}

// frail is a webhook whose breaker stays open for longer than the suite allows for time that passes by itself.
func (x *suite) frail(w *postrider.Webhook) {
	if x.h.Advance != nil {
		w.Trips = 4
	}
}

// bad is the outcome of a claim whose failure bears on the webhook.
func (x *suite) bad(c postrider.Claim, h postrider.Health) postrider.Outcome {
	o := x.failed(c)
	o.Webhook = &postrider.WebhookChange{Failing: true, Health: &h}
	return o
}

// good is the outcome of a claim whose success does, made at the edge of a window.
func (x *suite) good(c postrider.Claim, h postrider.Health, full int) postrider.Outcome {
	o := x.delivered(c)
	h.Full = full
	o.Webhook = &postrider.WebhookChange{Health: &h}
	return o
}

// applies records outcomes, each of a claim that is held, and ends the case unless their changes do to webhook "a", in
// their order, what Apply does. It returns the webhook.
func (x *suite) applies(what string, outcomes ...postrider.Outcome) postrider.Webhook {
	want := x.mine("a")
	x.complete(outcomes...)
	for _, o := range outcomes {
		if o.Webhook != nil {
			o.Webhook.Apply(&want, x.clock.Now())
		}
	}
	got := x.webhook("a")
	x.sameHealth("after "+what, got, want)
	return got
}

// mine returns the stored webhook with what a change sets of its times in the suite's.
func (x *suite) mine(id string) postrider.Webhook {
	w := x.webhook(id)
	w.NotBefore, w.FailingSince = x.clock.local(w.NotBefore), x.clock.local(w.FailingSince)
	return w
}

// sameHealth ends the case unless a stored webhook is, in all that a change sets, one whose times are the suite's.
func (x *suite) sameHealth(when string, got, want postrider.Webhook) {
	show := func(w postrider.Webhook) string {
		return fmt.Sprintf("window %d, %d failures, %d trips, %s %q, version %d", w.Window, w.Failures, w.Trips, w.State, w.Reason, w.Version)
	}
	equal(x, "the webhook "+when, show(got), show(want))
	x.instant("Webhook.NotBefore "+when, got.NotBefore, want.NotBefore)
	x.instant("Webhook.FailingSince "+when, got.FailingSince, want.FailingSince)
}

// reaches moves time to the webhook's NotBefore, nothing being handed out before.
func (x *suite) reaches(w postrider.Webhook) {
	wait := w.NotBefore.Sub(x.clock.stored(x.clock.Now()))
	if wait <= x.tick {
		x.fail("a NotBefore that is ahead", "%v", w.NotBefore)
	}
	x.claimsNothing("while the breaker is open")
	x.step(wait - x.tick)
	x.claimsNothing("just before the breaker may close")
	x.step(x.tick)
}

// take claims n deliveries of webhook "a".
func (x *suite) take(n int) []postrider.Claim {
	claims := x.claim(n)
	equal(x, "claims", len(claims), n)
	return claims
}

// trip opens the breaker of webhook "a", which has deliveries enough, and returns the webhook.
func (x *suite) trip(h postrider.Health) postrider.Webhook {
	var outcomes []postrider.Outcome
	for _, c := range x.take(h.BreakAfter) {
		outcomes = append(outcomes, x.bad(c, h))
	}
	return x.applies("as many failures as open the breaker", outcomes...)
}

func healthTrips(x *suite) {
	x.hook("a", x.frail)
	x.send("a", 6)
	h := postrider.Health{BreakAfter: 3, MaxInFlight: 8}
	for i, c := range x.take(3) {
		w := x.applies(fmt.Sprintf("failure %d of 3", i+1), x.bad(c, h))
		equal(x, "Webhook.Failures", w.Failures, i+1)
		if i < 2 {
			equal(x, "Webhook.Window before the breaker opens", w.Window, 0)
			equal(x, "Webhook.NotBefore being set before the breaker opens", w.NotBefore.IsZero(), true)
		}
	}
	w := x.webhook("a")
	equal(x, "Webhook.Window of a breaker that opened", w.Window, 1)
	x.reaches(w)
	equal(x, "claims when the breaker is half-open", len(x.claim(10)), 1)
	x.claimsNothing("while one request tries")
}

func healthOpen(x *suite) {
	x.hook("a", x.frail)
	x.send("a", 6)
	h := postrider.Health{BreakAfter: 2, MaxInFlight: 8}
	before := x.take(2)
	x.trip(h)
	x.step(x.tick)
	open := x.webhook("a")
	for _, c := range before {
		w := x.applies("a failure while the breaker is open", x.bad(c, h))
		equal(x, "Webhook.Trips after a failure while the breaker is open", w.Trips, open.Trips)
		equal(x, "Webhook.NotBefore having moved", w.NotBefore.Equal(open.NotBefore), true)
	}
	x.reaches(open)
	equal(x, "claims when the breaker is half-open", len(x.claim(10)), 1)
}

func healthProbe(x *suite) {
	x.hook("a", x.frail)
	x.send("a", 12)
	h := postrider.Health{BreakAfter: 2, MaxInFlight: 8}
	w := x.trip(h)
	for range 3 {
		last := w.Trips
		x.reaches(w)
		w = x.applies("a probe that failed", x.bad(x.claimOne(), h))
		equal(x, "Webhook.Trips after a probe that failed", w.Trips, last+1)
		equal(x, "Webhook.Window after a probe that failed", w.Window, 1)
	}
}

func healthWidens(x *suite) {
	x.hook("a", x.frail)
	x.send("a", 40)
	h := postrider.Health{BreakAfter: 2, MaxInFlight: 6}
	x.reaches(x.trip(h))
	w := x.applies("a probe that went well at the edge of its window", x.good(x.take(1)[0], h, 1))
	equal(x, "Webhook.Window", w.Window, 2)
	equal(x, "Webhook.Failures", w.Failures, 0)
	claims := x.claim(10)
	equal(x, "claims with a Window of 2", len(claims), 2)
	w = x.applies("a success at no edge", x.good(claims[0], h, 0))
	equal(x, "Webhook.Window", w.Window, 2)
	w = x.applies("a success at the edge of a window that was before", x.good(claims[1], h, 1))
	equal(x, "Webhook.Window", w.Window, 2)
	w = x.applies("a success at the edge", x.good(x.take(2)[0], h, 2))
	equal(x, "Webhook.Window", w.Window, 4)
	claims = x.claim(10)
	equal(x, "claims with a Window of 4 while 1 is held", len(claims), 3)
	w = x.applies("a success at the edge of a window whose double is past MaxInFlight", x.good(claims[2], h, 4))
	equal(x, "Webhook.Window that was given up", w.Window, 0)
	equal(x, "Webhook.Trips then", w.Trips, 0)
	equal(x, "claims without a Window while 3 are held", len(x.claim(10)), 10)
}

func healthTwo(x *suite) {
	x.hook("a", x.frail)
	x.send("a", 12)
	h := postrider.Health{BreakAfter: 4, MaxInFlight: 32}
	claims := x.take(5)
	stale := x.bad(claims[4], h)
	x.applies("a release", released(claims[4]))
	want := x.mine("a")
	n := x.record(x.bad(claims[0], h), stale, x.bad(claims[1], h), stale)
	equal(x, "n of two failures between stale ones", n, 2)
	for range 2 {
		x.bad(claims[0], h).Webhook.Apply(&want, x.clock.Now())
	}
	x.sameHealth("after two failures between stale ones", x.webhook("a"), want)
	w := x.applies("two failures in a call", x.bad(claims[2], h), x.bad(claims[3], h))
	equal(x, "Webhook.Failures", w.Failures, 4)
	equal(x, "Webhook.Window of a breaker that opened", w.Window, 1)
	x.reaches(w)
	x.applies("a probe that went well", x.good(x.take(1)[0], h, 1))
	claims = x.take(2)
	w = x.applies("two successes in a call, both at the edge of the window", x.good(claims[0], h, 2), x.good(claims[1], h, 2))
	equal(x, "Webhook.Window, doubled once", w.Window, 4)
	claims = x.take(3)
	x.applies("a failure and a success in a call", x.bad(claims[0], h), x.good(claims[1], h, 4))
	equal(x, "Webhook.Window after a failure and then a late success", x.webhook("a").Window, 1)
}

func healthAsItIs(x *suite) {
	x.hook("a", x.frail)
	x.send("a", 12)
	h := postrider.Health{BreakAfter: 2, MaxInFlight: 32}
	before := x.take(4)
	open := x.trip(h)
	x.update("a", func(w *postrider.Webhook) { w.URL, w.Owner = "https://example.com/new", "new" })
	w := x.applies("a success that was claimed before the breaker opened", x.good(before[0], h, 0))
	equal(x, "Webhook.Window after a late success", w.Window, 1)
	equal(x, "Webhook.NotBefore having moved after a late success", w.NotBefore.Equal(open.NotBefore), true)
	equal(x, "Webhook.URL, which was changed after the claim", w.URL, "https://example.com/new")
	equal(x, "Webhook.Owner, which was changed after the claim", w.Owner, "new")
	x.update("a", func(w *postrider.Webhook) { w.State = postrider.StatePaused })
	w = x.applies("a failure that was claimed before the webhook was paused", x.bad(before[1], h))
	equal(x, "Webhook.State of a webhook that was paused after the claim", w.State, postrider.StatePaused)
	x.update("a", func(w *postrider.Webhook) {
		w.State, w.NotBefore, w.Window, w.Trips = postrider.StateEnabled, time.Time{}, 0, 0
	})
	w = x.applies("a success that was claimed before the breaker was closed", x.good(before[2], h, 1))
	equal(x, "Webhook.Window of a breaker that was closed after the claim", w.Window, 0)
	equal(x, "claims when the breaker is closed", len(x.claim(5)), 5)
}

func healthDisables(x *suite) {
	x.hook("a", x.frail)
	h := postrider.Health{BreakAfter: 1 << 20, DisableAfter: 5 * time.Hour, MaxInFlight: 8}
	x.send("a", 30)
	x.applies("the first failure", x.bad(x.take(1)[0], h))
	x.applies("a success", x.good(x.take(1)[0], h, 0))
	x.step(6 * time.Hour)
	for i := range 10 {
		w := x.applies("a failure of a new row", x.bad(x.take(1)[0], h))
		equal(x, fmt.Sprintf("Webhook.State after %d failures within less than DisableAfter", i+1), w.State, postrider.StateEnabled)
	}
	x.applies("a success", x.good(x.take(1)[0], h, 0))
	for range 8 {
		x.applies("a failure of a new row", x.bad(x.take(1)[0], h))
	}
	if x.step(5 * time.Hour); x.h.Advance != nil {
		x.step(x.tick) // the row began a little later than the suite knows
	}
	w := x.applies("the ninth failure, after DisableAfter", x.bad(x.take(1)[0], h))
	equal(x, "Webhook.State after 9 failures", w.State, postrider.StateEnabled)
	w = x.applies("the tenth failure", x.bad(x.take(1)[0], h))
	equal(x, "Webhook.State after 10 failures and DisableAfter", w.State, postrider.StateDisabled)
	equal(x, "Webhook.Reason being set", w.Reason != "", true)
	x.claimsNothing("of a webhook that was disabled")
}

func healthAside(x *suite) {
	x.hook("a", x.frail)
	x.send("a", 12)
	h := postrider.Health{BreakAfter: 3, MaxInFlight: 8}
	claims := x.take(8)
	x.applies("two failures", x.bad(claims[0], h), x.bad(claims[1], h))
	aside := func(what string, c postrider.Claim, change postrider.WebhookChange) postrider.Webhook {
		o := x.failed(c)
		change.Aside = true
		o.Webhook = &change
		return x.applies(what, o)
	}
	w := aside("a change that is Aside", claims[2], postrider.WebhookChange{Failing: true, Window: 5, Health: &h})
	equal(x, "Webhook.Failures after a change that is Aside", w.Failures, 2)
	equal(x, "Webhook.Window after a change that is Aside", w.Window, 0)
	w = aside("a change without Failing that is Aside", claims[3], postrider.WebhookChange{Window: 5})
	equal(x, "Webhook.Failures after a change that is Aside", w.Failures, 2)
	w = aside("a change with Hold that is Aside", claims[4], postrider.WebhookChange{Hold: 2 * time.Hour})
	x.reaches(w)
	w = aside("a change with Disable that is Aside", x.take(1)[0], postrider.WebhookChange{Disable: "410 Gone"})
	equal(x, "Webhook.State", w.State, postrider.StateDisabled)
	x.claimsNothing("of a webhook that was disabled")
}

func reopenHealth(x *suite) {
	x.hook("a", x.frail)
	x.send("a", 12)
	h := postrider.Health{BreakAfter: 2, DisableAfter: 100 * time.Hour, MaxInFlight: 8}
	open := x.trip(h)
	before := x.mine("a")
	x.reopen()
	x.sameHealth("after the store was opened again", x.webhook("a"), before)
	x.reaches(open)
	w := x.applies("a probe that failed, the store having been opened again", x.bad(x.take(1)[0], h))
	equal(x, "Webhook.Trips", w.Trips, open.Trips+1)
	x.reopen()
	x.reaches(x.webhook("a"))
	x.applies("a probe that went well", x.good(x.take(1)[0], h, 1))
	x.reopen()
	equal(x, "claims with a Window of 2, the store having been opened again", len(x.claim(10)), 2)
}
