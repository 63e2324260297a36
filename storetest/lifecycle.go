package storetest

import (
	"fmt"
	"time"

	"github.com/postrider/postrider"
)

const saysTx = "A Store is one; so is what a store's Tx returns, for the caller's own transaction."

func canReopen(h Harness) bool { return h.Reopen != nil }

var reopenCases = []testCase{
	{name: "Reopen/survives", run: reopenSurvives, need: canReopen,
		says: "A nil error means that what was stored survives a crash, if the store survives crashes at all."},
	{name: "Reopen/token", run: reopenToken, need: canReopen, says: saysToken},
	{name: "Reopen/claims", run: reopenClaims, need: canReopen,
		says: "A claim whose lease is over is lost: the delivery is due at once and goes out again under another token."},
	{name: "Reopen/stale", run: reopenStale, need: canReopen, says: saysStale},
	{name: "Reopen/cursor", run: reopenCursor, need: canReopen, says: saysWalk},
}

func reopenSurvives(x *suite) {
	a, b := x.hook("a"), x.hook("b", func(w *postrider.Webhook) { w.State = postrider.StatePaused })
	x.ok("CreateWebhook", x.s.CreateWebhook(x.ctx, fullHook(x)))
	gone := x.hook("gone")
	x.send(gone, 1)
	x.variety(a)
	x.claimRelease()
	x.send(b, 1)
	x.changes(postrider.WebhookChange{Hold: 3 * time.Hour, Window: 5, Failing: true})
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, gone))
	x.step(time.Hour)
	x.prune(0, 1)
	x.end(b, 1)
	it := x.item(to(a), func(it *postrider.Item) { it.Event.Metadata = map[string]string{"k": "v"} })
	x.enqueue(it)
	show := func() (lines []string) {
		for _, w := range []string{a, b, "full"} {
			lines = append(lines, "webhook "+showWebhook(x.webhook(w)))
		}
		for _, d := range x.deliveries(postrider.DeliveryQuery{}) {
			d.InFlight = false // a claim need not survive
			_, attempts := x.deliveryAttempts(d.ID)
			lines = append(lines, fmt.Sprintf("delivery %+v", d), fmt.Sprintf("attempts %+v", attempts))
			e, err := x.s.Event(x.ctx, d.Project, d.EventID)
			x.ok("Event", err)
			lines = append(lines, fmt.Sprintf("event %+v %+v", e, e.Metadata))
		}
		stats := x.statsOf(postrider.StatsQuery{Rates: true})
		rates := *stats.Rates
		stats.InFlight, stats.Rates = 0, nil
		if x.h.Advance != nil { // a minute of the store's own may end meanwhile
			stats.Due, stats.OldestDue = 0, time.Time{}
			rates = postrider.Rates{}
		}
		return append(lines, fmt.Sprintf("stats %+v", stats), fmt.Sprintf("rates %v", rates), "webhooks "+x.listWebhooks(postrider.WebhookQuery{}))
	}
	for range 2 {
		before := show()
		x.reopen()
		after := show()
		equal(x, "rows after the store was opened again", len(after), len(before))
		for i := range before {
			equal(x, "after the store was opened again", after[i], before[i])
		}
	}
	x.sameReceipt(it)
	w := newHook(gone)
	x.is("CreateWebhook with the ID of a deleted one", x.s.CreateWebhook(x.ctx, w), postrider.ErrExists)
	before := x.stats().New
	x.send(b, 2)
	equal(x, "new deliveries after the store was opened again", x.stats().New, before+2)
}

// claimRelease lets every lease end and gives all claims back, so that nothing is claimed.
func (x *suite) claimRelease() {
	x.step(2 * lease)
	for _, c := range x.claim(1000) {
		x.complete(released(c))
	}
}

// sameReceipt ends the case unless the item is a duplicate.
func (x *suite) sameReceipt(it postrider.Item) {
	equal(x, "Duplicate of an event that was stored before", x.enqueue(it)[0].Duplicate, true)
}

func reopenToken(x *suite) {
	x.send(x.hook("a"), 3)
	seen := map[string]bool{}
	for range 4 {
		for range 5 {
			claims := x.claim(10)
			equal(x, "claims", len(claims), 3)
			for _, c := range claims {
				if seen[c.Token] {
					x.fail("a token that was never given before", "%q again", c.Token)
				}
				seen[c.Token] = true
				x.complete(x.again(c, 0))
			}
		}
		x.reopen()
	}
}

func reopenStale(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	lost := x.claimOne()
	x.reopen()
	x.step(lease)
	held := x.claimOne()
	x.unchanged("an outcome of a claim from before", id, "a", func() {
		equal(x, "n of an outcome of a claim from before", x.record(withChange(x.delivered(lost))), 0)
	})
	x.complete(x.delivered(held))
}

func reopenClaims(x *suite) {
	ids := x.send(x.hook("a"), 3)
	x.claim(2)
	x.reopen()
	x.step(lease)
	equal(x, "claims once every lease is over", len(x.claim(10)), len(ids))
}

func reopenCursor(x *suite) {
	a := x.hook("a")
	want := x.send(a, 9)
	stir := x.stir(a)
	x.meets(deliveryPages(x, postrider.DeliveryQuery{Limit: 2}), want, func() { stir(); x.reopen() })
}

func canBegin(h Harness) bool { return h.Begin != nil }

var txCases = []testCase{
	{name: "Tx/commit", run: txCommit, need: canBegin, says: saysTx},
	{name: "Tx/rollback", run: txRollback, need: canBegin, says: saysTx},
	{name: "Tx/duplicate", run: txDuplicate, need: canBegin,
		says: "An event whose project and ID are stored already is a duplicate: nothing is stored for it, and its receipt says so."},
	{name: "Tx/error", run: txError, need: canBegin,
		says: "All items of a call are stored, or none: an error leaves nothing behind."},
	{name: "Tx/wait", run: txWait, need: canBegin, says: saysWakes},
}

// caseTx is a transaction that the suite rolls back if its case ends before it does.
type caseTx struct {
	Tx
	over bool
}

func (t *caseTx) Commit() error {
	err := t.Tx.Commit()
	t.over = t.over || err == nil
	return err
}

func (t *caseTx) Rollback() error {
	t.over = true
	return t.Tx.Rollback()
}

func (x *suite) begin() Tx {
	x.tx = &caseTx{Tx: x.h.Begin(x.t, x.s.Store)}
	return x.tx
}

func (x *suite) enqueueIn(tx Tx, items ...postrider.Item) []postrider.Receipt {
	receipts, err := tx.Enqueue(x.ctx, items)
	x.ok("Enqueue in a transaction", err)
	equal(x, "receipts", len(receipts), len(items))
	return receipts
}

func txCommit(x *suite) {
	x.hook("a")
	x.hook("b")
	items := []postrider.Item{x.item(), x.item(to("b")), x.item()}
	tx := x.begin()
	receipts := x.enqueueIn(tx, items[:2]...)
	receipts = append(receipts, x.enqueueIn(tx, items[2])...)
	x.ok("Commit", tx.Commit())
	for i, want := range []int{2, 1, 2} {
		equal(x, "Receipt.EventID", receipts[i].EventID, items[i].Event.ID)
		equal(x, "deliveries in the receipt", len(receipts[i].Deliveries), want)
		e, err := x.s.Event(x.ctx, "p", items[i].Event.ID)
		x.ok("Event after Commit", err)
		x.sameEvent(e, items[i].Event)
		for _, id := range receipts[i].Deliveries {
			equal(x, "the event of the delivery", x.delivery(id).EventID, items[i].Event.ID)
		}
	}
	equal(x, "Stats.New after Commit", x.stats().New, 5)
	equal(x, "claims after Commit", len(x.claim(10)), 5)
}

func txRollback(x *suite) {
	x.hook("a")
	it := x.item()
	tx := x.begin()
	id := x.enqueueIn(tx, it)[0].Deliveries[0]
	x.ok("Rollback", tx.Rollback())
	_, err := x.s.Event(x.ctx, "p", it.Event.ID)
	x.is("Event after Rollback", err, postrider.ErrNotFound)
	_, _, err = x.s.Delivery(x.ctx, id)
	x.is("Delivery after Rollback", err, postrider.ErrNotFound)
	equal(x, "Stats after Rollback", x.counts(), postrider.Stats{})
	x.claimsNothing("after Rollback")
	equal(x, "Duplicate of an event that was rolled back", x.enqueue(it)[0].Duplicate, false)
	equal(x, "claims", len(x.claim(10)), 1)
}

func txDuplicate(x *suite) {
	x.hook("a")
	before, in := x.item(), x.item()
	x.enqueue(before)
	tx := x.begin()
	equal(x, "Duplicate of an event stored before the transaction", x.enqueueIn(tx, before)[0].Duplicate, true)
	equal(x, "Duplicate of the first of two in a transaction", x.enqueueIn(tx, in)[0].Duplicate, false)
	equal(x, "Duplicate of the second of two in a transaction", x.enqueueIn(tx, in)[0].Duplicate, true)
	x.ok("Commit", tx.Commit())
	x.sameReceipt(in)
	equal(x, "deliveries stored", x.stats().New, 2)
}

func txError(x *suite) {
	x.hook("a")
	kept, lost := x.item(), x.item()
	tx := x.begin()
	x.enqueueIn(tx, kept)
	_, err := tx.Enqueue(x.ctx, []postrider.Item{lost, x.item(to("nowhere"))})
	x.is("Enqueue in a transaction to a webhook that is not there", err, postrider.ErrNotFound)
	// A database may refuse to go on after an error; what it must not do is to store a part of the call.
	if err := tx.Commit(); err != nil {
		x.ok("Rollback", tx.Rollback())
	}
	_, err = x.s.Event(x.ctx, "p", lost.Event.ID)
	x.is("Event of a call that failed", err, postrider.ErrNotFound)
	equal(x, "Duplicate of an event whose call had failed", x.enqueue(lost)[0].Duplicate, false)
}

func txWait(x *suite) {
	a := x.hook("a")
	x.idle()
	tx := x.begin()
	x.enqueueIn(tx, x.item(to(a)))
	x.ok("Commit", tx.Commit())
	x.woken("a commit of the caller's transaction")
}

func canShare(h Harness) bool { return h.Shared != nil }

var sharedCases = []testCase{
	{name: "Shared/one-store", run: sharedOne, need: canShare,
		says: "Store keeps webhooks, events, deliveries and attempts, and hands out deliveries that are due."},
	{name: "Shared/one-caller", run: sharedOneCaller, need: canShare,
		says: "Claim hands out deliveries that are due: each to one caller at a time, with the event and the webhook."},
	{name: "Shared/in-flight", run: sharedInFlight, need: canShare, says: saysInFlight},
	{name: "Shared/lease", run: sharedLease, need: canShare,
		says: "A claim whose lease is over is lost: the delivery is due at once and goes out again under another token."},
}

// as lets f work with another handle.
func (x *suite) as(s *checked, f func()) {
	own := x.s
	defer func() { x.s = own }()
	x.s = s
	f()
}

func sharedOne(x *suite) {
	other := x.share()
	x.hook("a")
	it := x.item()
	id := x.enqueue(it)[0].Deliveries[0]
	x.as(other, func() {
		equal(x, "the webhook through the other handle", x.webhook("a").Name, "name-a")
		equal(x, "the delivery through the other handle", x.delivery(id).EventID, it.Event.ID)
		x.sameReceipt(it)
		x.update("a", func(w *postrider.Webhook) { w.Owner = "other" })
		x.complete(x.delivered(x.claimOne()))
	})
	equal(x, "the webhook after the other handle's update", x.webhook("a").Owner, "other")
	x.status(id, postrider.StatusDelivered)
	equal(x, "Stats", x.counts(), postrider.Stats{Delivered: 1, AttemptsOK: 1})
}

func sharedOneCaller(x *suite) {
	other := x.share()
	x.send(x.hook("a"), 4)
	mine := x.claim(2)
	equal(x, "claims", len(mine), 2)
	x.as(other, func() {
		theirs := x.claim(10)
		equal(x, "claims of the other handle while 2 of 4 are held", len(theirs), 2)
		for _, c := range theirs {
			if c.Delivery.ID == mine[0].Delivery.ID || c.Delivery.ID == mine[1].Delivery.ID {
				x.fail("each delivery to one caller", "%s to two", c.Delivery.ID)
			}
		}
	})
	x.claimsNothing("while all is claimed through two handles")
}

func sharedInFlight(x *suite) {
	other := x.share()
	x.send(x.hook("a"), 9)
	most := func(r *postrider.ClaimRequest) { r.MaxInFlight = 3 }
	mine := x.claim(2, most)
	equal(x, "claims", len(mine), 2)
	x.as(other, func() {
		equal(x, "claims of the other handle with MaxInFlight 3 while 2 are held", len(x.claim(10, most)), 1)
	})
	x.complete(x.delivered(mine[0]))
	x.as(other, func() {
		equal(x, "claims of the other handle when 1 of 3 was completed", len(x.claim(10, most)), 1)
	})
	equal(x, "claims with MaxInFlight 3 while 3 are held", len(x.claim(10, most)), 0)
}

func sharedLease(x *suite) {
	other := x.share()
	id := x.send(x.hook("a"), 1)[0]
	lost := x.claimOne()
	x.as(other, func() { x.claimsNothing("while the first handle holds it") })
	x.step(lease)
	x.as(other, func() {
		c := x.claimOne()
		equal(x, "the delivery that the other handle claims", c.Delivery.ID, id)
		equal(x, "the same token", c.Token == lost.Token, false)
	})
	equal(x, "n of the outcome that comes too late", x.record(x.delivered(lost)), 0)
}
