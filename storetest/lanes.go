package storetest

import (
	"fmt"
	"time"

	"github.com/postrider/postrider"
)

// The lanes: which delivery takes which, and what each waits for.

const (
	saysLane   = "A delivery takes a lane for good: its webhook's if that is Ordered, else that of the event's OrderKey at the webhook, else none."
	saysNoLane = "Replays and tests take none."
	saysTurn   = "Of one lane a delivery is handed out only when all that were committed before it have ended."
)

var laneCases = []testCase{
	{name: "Lanes/ordered", run: lanesOrdered, says: saysLane},
	{name: "Lanes/key", run: lanesKey, says: saysLane},
	{name: "Lanes/both", run: lanesBoth, says: saysLane},
	{name: "Lanes/for-good", run: lanesForGood, says: saysLane},
	{name: "Lanes/replays-and-tests", run: lanesReplays, says: saysNoLane},
	{name: "Lanes/retries", run: lanesRetries, says: saysTurn},
	{name: "Lanes/given-back", run: lanesGivenBack, says: saysTurn},
	{name: "Lanes/oldest-first", run: lanesOldestFirst, says: saysOldest},
	{name: "Lanes/only", run: lanesOnly, says: saysOnly},
	{name: "Lanes/wait", run: lanesWait, says: saysWait},
}

func inOrder(w *postrider.Webhook) { w.Ordered = true }

func keyed(key string) func(*postrider.Item) {
	return func(it *postrider.Item) { it.Event.OrderKey = key }
}

// lane stores n events with the key for the webhook, one a call, and returns their deliveries.
func (x *suite) lane(hook, key string, n int) (ids []string) {
	for range n {
		ids = append(ids, x.enqueue(x.item(to(hook), keyed(key)))[0].Deliveries...)
	}
	equal(x, "deliveries", len(ids), n)
	return ids
}

// goes ends the case unless just these deliveries can be claimed now, and returns their claims in this order.
func (x *suite) goes(when string, want ...string) []postrider.Claim {
	claims := map[string]postrider.Claim{}
	var got []string
	for _, c := range x.claim(100) {
		claims[c.Delivery.ID] = c
		got = append(got, c.Delivery.ID)
	}
	equal(x, "deliveries handed out "+when, sorted(got), sorted(append([]string{}, want...)))
	list := make([]postrider.Claim, len(want))
	for i, id := range want {
		list[i] = claims[id]
	}
	return list
}

// follow ends the case unless these deliveries go out one after another, each as soon as the one before is delivered.
// The first one can be claimed.
func (x *suite) follow(when string, ids ...string) {
	for i, id := range ids {
		c := x.goes(fmt.Sprintf("%s, number %d of %d", when, i+1, len(ids)), id)[0]
		x.claimsNothing("of a lane whose first delivery is held, " + when)
		x.complete(x.delivered(c))
	}
	x.claimsNothing("when all have ended, " + when)
}

func lanesOrdered(x *suite) {
	a, b := x.hook("a", inOrder), x.hook("b")
	ids := x.send(a, 2)
	for _, r := range x.enqueue(x.item(to(a)), x.item(to(a)), x.item(to(a))) {
		ids = append(ids, r.Deliveries...)
	}
	other := x.send(b, 2)
	first := x.goes("of a webhook that is Ordered and one that is not", ids[0], other[0], other[1])
	x.complete(x.delivered(first[0]))
	x.follow("of a webhook that is Ordered", ids[1:]...)
	more := x.send(a, 2)
	x.follow("of a lane that had been empty", more...)
}

func lanesKey(x *suite) {
	hooks := []string{x.hook("a"), x.hook("b")}
	of := map[string]map[string][]string{"a": {}, "b": {}}
	for range 2 {
		for _, key := range []string{"k", "K", "k ", ""} {
			for i, id := range x.enqueue(x.item(keyed(key)))[0].Deliveries {
				of[hooks[i]][key] = append(of[hooks[i]][key], id)
			}
		}
	}
	var want []string
	for _, keys := range of {
		for _, key := range []string{"k", "K", "k "} {
			want = append(want, keys[key][0])
		}
		want = append(want, keys[""]...)
	}
	claims := map[string]postrider.Claim{}
	for _, c := range x.goes("of two webhooks with three keys and two events without", want...) {
		claims[c.Delivery.ID] = c
	}
	x.claimsNothing("while the first of each key is held")
	for _, key := range []string{"k", "K", "k "} {
		for _, hook := range hooks {
			x.complete(x.delivered(claims[of[hook][key][0]]))
			x.follow(fmt.Sprintf("of the key %q at %s", key, hook), of[hook][key][1])
		}
	}
}

func lanesBoth(x *suite) {
	a := x.hook("a", inOrder)
	ids := x.lane(a, "k", 1)
	ids = append(ids, x.lane(a, "l", 1)...)
	ids = append(ids, x.lane(a, "", 1)...)
	ids = append(ids, x.lane(a, "k", 1)...)
	x.follow("of a webhook that is Ordered, with keys", ids...)
}

func lanesForGood(x *suite) {
	a := x.hook("a")
	is := func(ordered bool) { x.update(a, func(w *postrider.Webhook) { w.Ordered = ordered }) }
	free, keys := x.send(a, 2), x.lane(a, "k", 2)
	is(true)
	strict := x.send(a, 2)
	mixed := x.lane(a, "k", 1)
	is(false)
	late, lateKey := x.send(a, 2), x.lane(a, "k", 1)
	is(true)
	// Three lanes: none, that of the key, that of the webhook, as it was when each was stored.
	claims := x.goes("after Ordered was switched", free[0], free[1], keys[0], strict[0], late[0], late[1])
	x.complete(x.delivered(claims[0]), x.delivered(claims[1]), x.delivered(claims[4]), x.delivered(claims[5]))
	x.claimsNothing("while the first of two lanes are held")
	x.complete(x.delivered(claims[2]))
	x.follow("of the key's lane", keys[1], lateKey[0])
	is(false)
	x.complete(x.delivered(claims[3]))
	x.follow("of the webhook's lane", strict[1], mixed[0])
}

// replay stores a replay of the delivery to its webhook and returns the new one.
func (x *suite) replay(id string, edit ...func(*postrider.Item)) string {
	d := x.delivery(id)
	it := postrider.Item{Event: postrider.Event{ID: d.EventID, Project: d.Project}, To: []string{d.WebhookID}, ReplayOf: id}
	for _, f := range edit {
		f(&it)
	}
	ids := x.enqueue(it)[0].Deliveries
	equal(x, "deliveries of a replay", len(ids), 1)
	return ids[0]
}

func isTest(it *postrider.Item) { it.Test = true }

func lanesReplays(x *suite) {
	for _, key := range []string{"", "k"} {
		hook := x.hook("of-"+key, func(w *postrider.Webhook) { w.Ordered = key == "" })
		test := x.enqueue(x.item(to(hook), keyed(key), isTest))[0].Deliveries[0]
		ids := x.lane(hook, key, 2)
		claims := x.goes("with a test that was committed first", test, ids[0])
		replay := x.replay(ids[0])
		again := x.enqueue(x.item(to(hook), keyed(key), isTest))[0].Deliveries[0]
		x.goes("of a lane whose first delivery is held, but for replays and tests", replay, again)
		x.complete(x.delivered(claims[1]))
		x.follow("while replays and tests are held", ids[1])
		last := x.replay(ids[1])
		after := x.lane(hook, key, 1)[0]
		x.goes("with a replay that was committed first", last, after)
	}
}

func lanesRetries(x *suite) {
	a, b := x.hook("a", inOrder), x.hook("b")
	for _, lane := range []func() []string{func() []string { return x.send(a, 2) }, func() []string { return x.lane(b, "k", 2) }} {
		ids := lane()
		for _, in := range []time.Duration{2 * time.Hour, 0, time.Hour} {
			x.complete(x.again(x.goes("when the first of a lane is due", ids[0])[0], in))
			if in == 0 {
				continue
			}
			x.claimsNothing("of a lane whose first delivery waits for a retry")
			x.step(in - x.tick)
			x.claimsNothing("of a lane just before the retry is due")
			x.step(x.tick)
		}
		x.follow("after retries", ids...)
	}
}

func lanesGivenBack(x *suite) {
	ids := x.send(x.hook("a", inOrder), 2)
	x.complete(released(x.goes("at first", ids[0])[0]))
	lost := x.goes("after the first of the lane was released", ids[0])[0]
	x.step(lease - x.tick)
	x.claimsNothing("just before the lease is over")
	x.step(x.tick)
	held := x.goes("when the lease is over", ids[0])[0]
	equal(x, "n of the outcome of the lost claim", x.record(x.delivered(lost)), 0)
	x.claimsNothing("after the outcome of a lost claim")
	x.complete(x.delivered(held))
	x.follow("at last", ids[1])
}

func lanesOldestFirst(x *suite) {
	a := x.hook("a")
	ids := x.lane(a, "k", 3)
	x.step(time.Hour)
	ids = append(ids, x.send(a, 1)...)
	x.step(x.tick)
	ids = append(ids, x.send(a, 1)...)
	for _, want := range ids {
		c := x.claim(1)
		equal(x, "claims", len(c), 1)
		equal(x, "the delivery that is due longest, those of a lane in their turn", c[0].Delivery.ID, want)
		x.complete(x.delivered(c[0]))
	}
}

func lanesOnly(x *suite) {
	for _, key := range []string{"", "k"} {
		hook := x.hook("of-"+key, func(w *postrider.Webhook) { w.Ordered = key == "" })
		ids := x.lane(hook, key, 3)
		claimOnly := func(when string) postrider.Claim {
			claims := x.claim(1, only(ids[0]))
			equal(x, "claims with Only of the first of a lane "+when, len(claims), 1)
			return claims[0]
		}
		x.notOnly(ids[1], "the second of a lane")
		x.complete(x.again(claimOnly("that is new"), time.Hour))
		x.notOnly(ids[1], "the second of a lane whose first waits for a retry")
		x.update(hook, func(w *postrider.Webhook) { w.State = postrider.StatePaused })
		x.notOnly(ids[2], "the third of a lane of a webhook that is paused")
		c := claimOnly("that is not due, of a webhook that is paused")
		x.notOnly(ids[1], "the second of a lane whose first is held")
		x.complete(x.delivered(c))
		equal(x, "claims with Only of the second of a lane whose first has ended", len(x.claim(1, only(ids[1]))), 1)
		x.notOnly(ids[2], "the third of a lane whose second is held")
	}
}

func lanesWait(x *suite) {
	ids := x.lane(x.hook("a"), "k", 3)
	c, wait := x.claimWait(10)
	equal(x, "claims", len(c), 1)
	x.wait("when the first of a lane is held: the lease", wait, lease)
	x.complete(x.again(c[0], 3*time.Hour))
	_, wait = x.claimWait(10)
	x.wait("when the first of a lane waits for a retry", wait, 3*time.Hour)
	x.step(3 * time.Hour)
	x.complete(x.delivered(x.goes("when the retry is due", ids[0])[0]))
	x.complete(x.again(x.goes("after that", ids[1])[0], 5*time.Hour))
	_, wait = x.claimWait(10)
	x.wait("when the second of a lane waits for a retry", wait, 5*time.Hour)
}
