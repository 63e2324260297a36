package storetest

import (
	"fmt"
	"time"

	"github.com/postrider/postrider"
)

// How a lane goes on when one of its deliveries ends, and what of lanes survives.

var laneEndCases = []testCase{
	{name: "Lanes/failed", run: lanesFailed, says: saysTurn},
	{name: "Lanes/canceled", run: lanesCanceled, says: saysTurn},
	{name: "Lanes/canceled-held", run: lanesCanceledHeld, says: saysTurn},
	{name: "Lanes/canceled-all", run: lanesCanceledAll, says: saysMore},
	{name: "Lanes/due", run: lanesDue, says: saysTurn},
	{name: "Lanes/deleted", run: lanesDeleted, says: saysBlocked},
	{name: "Lanes/wakes", run: lanesWakes, says: saysWakes},
}

func lanesFailed(x *suite) {
	ids := x.send(x.hook("a", inOrder), 4)
	x.complete(x.failed(x.goes("at first", ids[0])[0]))
	canceled := x.failed(x.goes("after the first of a lane failed", ids[1])[0])
	canceled.Status = postrider.StatusCanceled
	x.complete(canceled)
	x.complete(x.failed(x.goes("after the second was canceled by its outcome", ids[2])[0]))
	x.follow("after the third failed", ids[3])
}

func one(id string) postrider.DeliveryQuery { return postrider.DeliveryQuery{ID: id} }

func lanesCanceled(x *suite) {
	for _, key := range []string{"", "k"} {
		hook := x.hook("of-"+key, func(w *postrider.Webhook) { w.Ordered = key == "" })
		ids := x.lane(hook, key, 7)
		x.change(cancel(one(ids[0])))
		head := x.goes("after the first of a lane was canceled while it was new", ids[1])[0]
		x.complete(x.again(head, time.Hour))
		x.change(cancel(one(ids[2])))
		x.claimsNothing("after one in the middle of a lane was canceled, while the first waits for a retry")
		x.change(cancel(one(ids[1])))
		head = x.goes("after the first of a lane was canceled while it waited for a retry", ids[3])[0]
		x.change(cancel(one(ids[4])))
		x.change(cancel(one(ids[6])))
		x.claimsNothing("after two behind the first of a lane were canceled, while it is held")
		x.complete(x.delivered(head))
		x.follow("when the first ended, of those that are not canceled", ids[5])
		more := x.lane(hook, key, 1)
		x.follow("of a lane whose last delivery had been canceled", more...)
	}
}

func lanesCanceledHeld(x *suite) {
	ids := x.send(x.hook("a", inOrder), 4)
	head := x.goes("at first", ids[0])[0]
	x.change(cancel(one(ids[0])))
	x.claimsNothing("of a lane whose first delivery was canceled while it is held")
	x.complete(x.again(head, 0))
	x.status(ids[0], postrider.StatusCanceled)
	head = x.goes("when the outcome of a canceled one arrived", ids[1])[0]
	x.change(cancel(one(ids[1])))
	x.complete(released(head))
	x.status(ids[1], postrider.StatusCanceled)
	x.goes("when a canceled one was released", ids[2])
	x.change(cancel(one(ids[2])))
	x.claimsNothing("of a lane whose first delivery was canceled while it is held")
	x.step(lease)
	// The call that ends it may hand out the next one, or say that another call will.
	claims, wait := x.claimWait(10)
	if len(claims) == 0 {
		x.wait("when a lost claim of a canceled delivery has made room", wait, 0)
		claims = x.claim(10)
	}
	x.status(ids[2], postrider.StatusCanceled)
	equal(x, "claims when the lease of a canceled one is over", len(claims), 1)
	equal(x, "the delivery handed out then", claims[0].Delivery.ID, ids[3])
}

func lanesCanceledAll(x *suite) {
	a, b := x.hook("a", inOrder), x.hook("b")
	ids := x.send(a, 5)
	for range 3 {
		ids = append(ids, x.lane(b, "k", 1)...)
	}
	total := 0
	for calls := 0; ; calls++ {
		if calls > 100 {
			x.fail("more false in the end", "true after %d calls", calls)
		}
		n, more := x.change(postrider.Change{Kind: postrider.ChangeCancel, Max: 2})
		if total += n; !more {
			break
		}
	}
	equal(x, "deliveries canceled, those of lanes too", total, len(ids))
	for _, id := range ids {
		x.status(id, postrider.StatusCanceled)
	}
	x.claimsNothing("when all are canceled")
	x.follow("after all before were canceled", x.lane(b, "k", 2)...)
}

func lanesDue(x *suite) {
	ids := x.send(x.hook("a", inOrder), 3)
	x.complete(x.again(x.goes("at first", ids[0])[0], time.Hour))
	x.change(postrider.Change{Kind: postrider.ChangeDue, Query: one(ids[1])})
	x.claimsNothing("of a lane whose second delivery was made due")
	n, _ := x.change(postrider.Change{Kind: postrider.ChangeDue, Query: postrider.DeliveryQuery{WebhookID: "a"}})
	if n < 1 {
		x.fail("a Change of the first of a lane", "%d", n)
	}
	x.follow("after ChangeDue", ids...)
}

func lanesDeleted(x *suite) {
	a, b := x.hook("a"), x.hook("b")
	x.lane(a, "k", 4)
	other := x.lane(b, "k", 2)
	claims := x.claim(10)
	equal(x, "claims", len(claims), 2)
	held := map[string]postrider.Claim{claims[0].Webhook.ID: claims[0], claims[1].Webhook.ID: claims[1]}
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, a))
	x.claimsNothing("of a lane whose webhook is deleted")
	for more, calls := true, 0; more; calls++ {
		if calls > 100 {
			x.fail("more false in the end", "true after %d calls", calls)
		}
		_, more = x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true, Max: 1})
	}
	x.complete(x.again(held[a], 0))
	for i, d := range x.deliveries(postrider.DeliveryQuery{WebhookID: a, Ascending: true}) {
		equal(x, fmt.Sprintf("the status of number %d of a lane whose webhook is deleted", i+1), d.Status, postrider.StatusCanceled)
		x.notOnly(d.ID, "a delivery of a lane whose webhook is deleted")
	}
	x.complete(x.delivered(held[b]))
	x.follow("of the same key at another webhook", other[1])
}

func lanesWakes(x *suite) {
	ids := x.lane(x.hook("a"), "k", 2)
	x.complete(x.again(x.goes("at first", ids[0])[0], time.Hour))
	x.idle()
	x.change(cancel(one(ids[0])))
	x.woken("a Change canceled the first of a lane")
}

var reopenMoreCases = []testCase{
	{name: "Reopen/lanes", run: reopenLanes, need: canReopen, says: saysTurn},
	{name: "Reopen/lanes-for-good", run: reopenLanesForGood, need: canReopen, says: saysLane},
	{name: "Reopen/run", run: reopenRun, need: canReopen, says: saysRun},
	{name: "Reopen/health", run: reopenHealth, need: canReopen, says: saysHealth},
	{name: "Reopen/rates", run: reopenRates, need: canReopen, says: saysRates},
}

func reopenLanes(x *suite) {
	for _, key := range []string{"", "k"} {
		hook := x.hook("of-"+key, func(w *postrider.Webhook) { w.Ordered = key == "" })
		ids := x.lane(hook, key, 6)
		x.complete(x.delivered(x.goes("at first", ids[0])[0]))
		x.change(cancel(one(ids[2])))
		x.reopen()
		head := x.goes("after the store was opened again: it was its turn before", ids[1])[0]
		x.complete(x.again(head, 2*time.Hour))
		x.reopen()
		x.claimsNothing("after the store was opened again, while the first of a lane waits for a retry")
		x.notOnly(ids[3], "the second of a lane")
		x.step(2 * time.Hour)
		head = x.goes("when the retry is due", ids[1])[0]
		x.complete(x.failed(head))
		x.goes("when the first failed", ids[3])
		x.reopen() // with a claim that is held, and need not survive
		x.step(lease)
		head = x.goes("when every lease is over", ids[3])[0]
		more := x.lane(hook, key, 1)
		x.complete(x.delivered(head))
		x.follow("after the store was opened again", ids[4], ids[5], more[0])
	}
}

func reopenLanesForGood(x *suite) {
	a := x.hook("a")
	free := x.send(a, 2)
	x.update(a, inOrder)
	strict := x.send(a, 2)
	x.update(a, func(w *postrider.Webhook) { w.Ordered = false })
	late := x.send(a, 2)
	x.reopen()
	x.goes("after Ordered was switched and the store opened again", free[0], free[1], strict[0], late[0], late[1])
}

var txMoreCases = []testCase{
	{name: "Tx/lanes", run: txLanes, need: canBegin, says: saysTurn},
	{name: "Tx/lanes-rollback", run: txLanesRollback, need: canBegin, says: saysTurn},
	{name: "Tx/run", run: txRun, need: canBegin, says: saysRun},
}

func txLanes(x *suite) {
	a := x.hook("a", inOrder)
	b := x.hook("b")
	x.enqueue(x.item(keyed("k")))
	tx := x.begin()
	x.enqueueIn(tx, x.item(keyed("k")), x.item(keyed("k")))
	x.enqueueIn(tx, x.item(keyed("l")))
	x.ok("Commit", tx.Commit())
	x.enqueue(x.item(keyed("k")))
	var of [2][]string
	for i, hook := range []string{a, b} {
		for _, d := range x.deliveries(postrider.DeliveryQuery{WebhookID: hook, Ascending: true}) {
			of[i] = append(of[i], d.ID)
		}
	}
	l := of[1][3] // of the key l
	claims := x.goes("after the commit", of[0][0], of[1][0], l)
	x.complete(x.delivered(claims[2]), x.delivered(claims[0]))
	x.follow("of a webhook that is Ordered, after the commit", of[0][1:]...)
	x.complete(x.delivered(claims[1]))
	x.follow("of a key, after the commit", of[1][1], of[1][2], of[1][4])
}

func txLanesRollback(x *suite) {
	a := x.hook("a", inOrder)
	first := x.send(a, 1)
	tx := x.begin()
	x.enqueueIn(tx, x.item(), x.item())
	x.ok("Rollback", tx.Rollback())
	x.follow("after the rollback", append(first, x.send(a, 1)...)...)
	tx = x.begin()
	x.enqueueIn(tx, x.item())
	x.ok("Rollback", tx.Rollback())
	x.follow("after the rollback in an empty lane", x.send(a, 2)...)
}

var sharedMoreCases = []testCase{
	{name: "Shared/lanes", run: sharedLanes, need: canShare, says: saysTurn},
	{name: "Shared/held", run: sharedHeld, need: canShare, says: saysHeld},
}

func sharedLanes(x *suite) {
	other := x.share()
	a := x.hook("a", inOrder)
	ids := x.send(a, 1)
	x.as(other, func() { ids = append(ids, x.send(a, 2)...) })
	head := x.goes("through the first handle", ids[0])[0]
	x.as(other, func() { x.claimsNothing("through another handle while the first of the lane is held") })
	x.complete(x.delivered(head))
	x.as(other, func() { head = x.goes("through another handle when the first has ended", ids[1])[0] })
	x.claimsNothing("while another handle holds the first of the lane")
	x.as(other, func() { x.complete(x.delivered(head)) })
	x.follow("through the first handle", ids[2])
}
