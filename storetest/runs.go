package storetest

import (
	"fmt"

	"github.com/postrider/postrider"
)

const saysRun = "An item with a Run makes no delivery for a webhook for which that Run has made one of the event already; if there is none left to make, its receipt says Duplicate."

const (
	runOne = "018f0000-0000-7000-8000-000000000001"
	runTwo = "018f0000-0000-7000-8000-000000000002"
)

var runCases = []testCase{
	{name: "Runs/once", run: runsOnce, says: saysRun},
	{name: "Runs/ended", run: runsEnded, says: saysRun},
	{name: "Runs/in-call", run: runsInCall, says: saysRun},
	{name: "Runs/some", run: runsSome, says: saysRun},
	{name: "Runs/other", run: runsOther, says: saysRun},
}

// ofRun returns the replay of a delivery in the name of a run, to these webhooks.
func (x *suite) ofRun(run, id string, hooks ...string) postrider.Item {
	d := x.delivery(id)
	return postrider.Item{Event: postrider.Event{ID: d.EventID, Project: d.Project}, To: hooks, ReplayOf: id, Run: run}
}

// goesTo ends the case unless the receipt is of an event that went to just these webhooks, in this order.
func (x *suite) goesTo(what string, r postrider.Receipt, hooks ...string) {
	equal(x, "Receipt.Duplicate of "+what, r.Duplicate, len(hooks) == 0)
	var got []string
	for _, id := range r.Deliveries {
		got = append(got, x.delivery(id).WebhookID)
	}
	equal(x, "the webhooks of "+what, fmt.Sprint(got), fmt.Sprint(hooks))
}

func runsOnce(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	it := x.ofRun(runOne, id, "a")
	x.goesTo("a replay of a new Run", x.enqueue(it)[0], "a")
	for range 2 {
		r := x.enqueue(it)[0]
		x.goesTo("the same again", r)
		equal(x, "Receipt.EventID of it", r.EventID, it.Event.ID)
	}
	equal(x, "deliveries stored", x.stats().New, 2)
	equal(x, "deliveries that can be claimed", len(x.claim(10)), 2)
}

func runsEnded(x *suite) {
	id := x.send(x.hook("a"), 1)[0]
	it := x.ofRun(runOne, id, "a")
	x.goesTo("a replay of a new Run", x.enqueue(it)[0], "a")
	claims := x.claim(10)
	equal(x, "claims", len(claims), 2)
	x.complete(x.failed(claims[0]), x.failed(claims[1]))
	x.goesTo("the same when the first has ended", x.enqueue(it)[0])
}

func runsInCall(x *suite) {
	x.hook("a")
	x.hook("b")
	id := x.enqueue(x.item())[0].Deliveries[0]
	r := x.enqueue(x.ofRun(runOne, id, "a"), x.ofRun(runOne, id, "b"), x.ofRun(runOne, id, "a", "b"), x.item())
	x.goesTo("the first of a call", r[0], "a")
	x.goesTo("the second, to another webhook", r[1], "b")
	x.goesTo("the third, of the same Run to both", r[2])
	x.goesTo("a new event beside them", r[3], "a", "b")
}

func runsSome(x *suite) {
	for _, id := range []string{"a", "b", "c"} {
		x.hook(id)
	}
	id := x.enqueue(x.item())[0].Deliveries[0]
	x.goesTo("a replay of a new Run to one", x.enqueue(x.ofRun(runOne, id, "b"))[0], "b")
	x.goesTo("a replay to two of which one has it", x.enqueue(x.ofRun(runOne, id, "a", "b"))[0], "a")
	x.goesTo("a replay to all of which two have it", x.enqueue(x.ofRun(runOne, id))[0], "c")
	x.goesTo("a replay to all when all have it", x.enqueue(x.ofRun(runOne, id))[0])
}

func runsOther(x *suite) {
	a := x.hook("a")
	x.hook("q", func(w *postrider.Webhook) { w.Project = "q" })
	first, second := x.send(a, 1)[0], x.send(a, 1)[0]
	e := x.item(to("q"))
	e.Event.ID, e.Event.Project = x.delivery(first).EventID, "q"
	foreign := x.enqueue(e)[0].Deliveries[0]
	replay := x.enqueue(x.ofRun(runOne, first, a))[0].Deliveries[0]
	x.goesTo("a replay of another Run", x.enqueue(x.ofRun(runTwo, first, a))[0], a)
	x.goesTo("a replay of another event in the same Run", x.enqueue(x.ofRun(runOne, second, a))[0], a)
	x.goesTo("a replay of another project's event with the same ID", x.enqueue(x.ofRun(runOne, foreign, "q"))[0], "q")
	for range 2 {
		x.goesTo("a replay without a Run", x.enqueue(x.ofRun("", first, a))[0], a)
	}
	x.goesTo("a replay in the same Run of the replay", x.enqueue(x.ofRun(runOne, replay, a))[0])
}

func reopenRun(x *suite) {
	x.hook("a")
	x.hook("b")
	id := x.enqueue(x.item())[0].Deliveries[0]
	x.enqueue(x.ofRun(runOne, id, "a"))
	x.reopen()
	x.goesTo("a replay in the same Run after the store was opened again", x.enqueue(x.ofRun(runOne, id, "a"))[0])
	x.goesTo("a replay to two of which one has it", x.enqueue(x.ofRun(runOne, id, "a", "b"))[0], "b")
	x.goesTo("a replay of another Run", x.enqueue(x.ofRun(runTwo, id, "a"))[0], "a")
}

func txRun(x *suite) {
	a := x.hook("a")
	id := x.send(a, 1)[0]
	it := x.ofRun(runOne, id, a)
	tx := x.begin()
	equal(x, "deliveries of a replay in a transaction", len(x.enqueueIn(tx, it)[0].Deliveries), 1)
	x.ok("Rollback", tx.Rollback())
	tx = x.begin()
	r := append(x.enqueueIn(tx, it), x.enqueueIn(tx, it)...)
	equal(x, "Duplicate of a replay whose Run was rolled back", r[0].Duplicate, false)
	equal(x, "Duplicate of the same again in a transaction", r[1].Duplicate, true)
	x.ok("Commit", tx.Commit())
	x.goesTo("the same after the commit", x.enqueue(it)[0])
	equal(x, "deliveries stored", x.stats().New, 2)
}
