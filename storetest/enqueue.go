package storetest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	"github.com/postrider/postrider"
)

var enqueueCases = []testCase{
	{name: "Enqueue/receipts", run: enqueueReceipts,
		says: "Enqueue stores each item's event and makes its deliveries, and returns one receipt per item, in their order."},
	{name: "Enqueue/receipt-order", run: enqueueReceiptOrder,
		says: "the IDs of the deliveries that were made, in the order of the webhooks' creation"},
	{name: "Enqueue/exact", run: enqueueExact,
		says: "Payload and every other field of an event come back exactly as they were given, times to the microsecond."},
	{name: "Enqueue/delivery", run: enqueueDelivery, file: "delivery.go",
		says: "Delivery is one event on its way to one webhook."},
	{name: "Enqueue/due", run: enqueueDue,
		says: "Each delivery is due at once and carries the item's Test and ReplayOf."},
	{name: "Enqueue/all-matching", run: enqueueMatching,
		says: "An item whose To is nil goes to every webhook of the event's project whose patterns match its type, paused and disabled ones too, deleted ones never."},
	{name: "Enqueue/to", run: enqueueTo,
		says: "An item whose To is set goes to just those webhooks; one that is not in the event's project is ErrNotFound."},
	{name: "Enqueue/atomic", run: enqueueAtomic,
		says: "All items of a call are stored, or none: an error leaves nothing behind."},
	{name: "Enqueue/duplicate", run: enqueueDuplicate,
		says: "An event whose project and ID are stored already is a duplicate: nothing is stored for it, and its receipt says so."},
	{name: "Enqueue/duplicate-in-call", run: enqueueDuplicateInCall,
		says: "The same holds for the second of two in one call."},
	{name: "Enqueue/no-match", run: enqueueNoMatch,
		says: "An event that goes to no webhook is not stored and makes no later event a duplicate."},
	{name: "Enqueue/replay", run: enqueueReplay,
		says: "An item with ReplayOf makes new deliveries of a stored event, else ErrNotFound, and is never a duplicate."},
	{name: "Enqueue/error", run: enqueueError,
		says: "Besides the errors above it returns ErrFull and ErrClosed (nothing was stored), and any other error, a context's included, leaves the outcome unknown: the caller may call again with the same IDs."},
}

func enqueueReceipts(x *suite) {
	x.hook("a")
	x.hook("b")
	items := []postrider.Item{x.item(), x.item(to("a")), x.item()}
	want := []int{2, 1, 2}
	for i, r := range x.enqueue(items...) {
		equal(x, "Receipt.EventID", r.EventID, items[i].Event.ID)
		equal(x, "Receipt.Duplicate of a new event", r.Duplicate, false)
		equal(x, "deliveries in the receipt of "+r.EventID, len(r.Deliveries), want[i])
		if _, err := x.s.Event(x.ctx, "p", r.EventID); err != nil {
			x.fail("event "+r.EventID+" to be stored", "%v", err)
		}
		for _, id := range r.Deliveries {
			equal(x, "the event of delivery "+id, x.delivery(id).EventID, r.EventID)
		}
	}
}

func enqueueReceiptOrder(x *suite) {
	hooks := []string{"m", "z", "a", "k"}
	for _, id := range hooks {
		x.hook(id)
	}
	r := x.enqueue(x.item())[0]
	equal(x, "deliveries", len(r.Deliveries), len(hooks))
	for i, id := range r.Deliveries {
		equal(x, "the webhook of the delivery", x.delivery(id).WebhookID, hooks[i])
	}
}

// exactEvents are events whose bytes and times are easily damaged.
func exactEvents() []postrider.Event {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	text := func(payload string) postrider.Event {
		return postrider.Event{Payload: []byte(payload), ContentType: "text/plain; charset=utf-8"}
	}
	events := []postrider.Event{
		{Payload: all, ContentType: "application/octet-stream"},
		{Payload: []byte("\xff\xfe\x00 not UTF-8 \xc3"), ContentType: "application/octet-stream"},
		{Payload: []byte("{ \"b\" : 1.0 ,\n\t\"a\":\"\\u0000<>&\" }\n")},
		{Payload: []byte(`{}`), Metadata: map[string]string{"traceparent": "00-1-2-01", "empty": "", "ключ": "значение\x00\n"}},
		{Payload: []byte(`null`), Metadata: map[string]string{}, OrderKey: "ключ/1 "},
		{Payload: []byte(`[]`), Time: time.Date(2026, 1, 2, 3, 4, 5, 678901999, time.FixedZone("east", 3600))},
		{Payload: []byte(`[]`), Time: time.Date(1, 1, 1, 0, 0, 1, 0, time.UTC)},
		{Payload: []byte(`[]`), Time: time.Date(1969, 12, 31, 23, 59, 59, 999999000, time.UTC)},
		{Payload: []byte(`[]`), Time: time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)},
		{Payload: []byte(`1`), Type: strings.Repeat("T", 128), ID: strings.Repeat("i", 64)},
		{Payload: bytes.Repeat([]byte("0123456789abcdef"), 1<<14), ContentType: "application/octet-stream"},
		text(""), text("\r\n"), text(" "),
	}
	return events
}

func enqueueExact(x *suite) {
	x.hook("a")
	for i, e := range exactEvents() {
		it := x.item()
		e.Project = "p"
		if e.ID == "" {
			e.ID = it.Event.ID
		}
		if e.Type == "" {
			e.Type = "t"
		}
		if e.Time.IsZero() {
			e.Time = it.Event.Time
		}
		it.Event = e
		x.enqueue(it)
		got, err := x.s.Event(x.ctx, "p", e.ID)
		x.ok("Event", err)
		x.sameEvent(got, e)
		claims := x.claim(10)
		if len(claims) != 1 {
			x.fail("one claim of event "+e.ID, "%d, in round %d", len(claims), i)
		}
		x.sameEvent(claims[0].Event, e)
	}
}

// sameEvent ends the case unless got is what was given. A payload or metadata without content may come back nil.
func (x *suite) sameEvent(got, want postrider.Event) {
	equal(x, "Event.ID", got.ID, want.ID)
	equal(x, "Event.Project", got.Project, want.Project)
	equal(x, "Event.Type", got.Type, want.Type)
	equal(x, "Event.ContentType", got.ContentType, want.ContentType)
	equal(x, "Event.OrderKey", got.OrderKey, want.OrderKey)
	if !bytes.Equal(got.Payload, want.Payload) {
		x.fail("the payload "+cut(want.Payload), "%s", cut(got.Payload))
	}
	if !maps.Equal(got.Metadata, want.Metadata) {
		x.fail("the metadata of event "+want.ID, "%q instead of %q", got.Metadata, want.Metadata)
	}
	equal(x, "Event.Time in microseconds since 1970", got.Time.UnixMicro(), want.Time.UnixMicro())
	equal(x, "Event.Time.IsZero", got.Time.IsZero(), want.Time.IsZero())
}

func cut(b []byte) string {
	q := func(b []byte) string { return strings.ToValidUTF8(string(b), "?") }
	if len(b) > 60 {
		return q(b[:60]) + "..."
	}
	return q(b)
}

func enqueueDelivery(x *suite) {
	x.hook("a")
	it := x.item()
	d := x.delivery(x.enqueue(it)[0].Deliveries[0])
	equal(x, "Delivery.EventID", d.EventID, it.Event.ID)
	equal(x, "Delivery.Project", d.Project, "p")
	equal(x, "Delivery.EventType", d.EventType, "t")
	equal(x, "Delivery.WebhookID", d.WebhookID, "a")
	equal(x, "Delivery.WebhookName", d.WebhookName, "name-a")
	equal(x, "Delivery.Owner", d.Owner, "owner-a")
	equal(x, "Delivery.Status", d.Status, postrider.StatusNew)
	equal(x, "Delivery.InFlight", d.InFlight, false)
	equal(x, "Delivery.Attempts", d.Attempts, 0)
	equal(x, "Delivery.LastCode", d.LastCode, 0)
	equal(x, "Delivery.LastClass", d.LastClass, postrider.ClassNone)
	x.update("a", func(w *postrider.Webhook) { w.Name, w.Owner = "renamed", "somebody" })
	d = x.delivery(d.ID)
	equal(x, "Delivery.WebhookName as it is now", d.WebhookName, "renamed")
	equal(x, "Delivery.Owner as it is now", d.Owner, "somebody")
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	d = x.delivery(d.ID)
	equal(x, "Delivery.WebhookName of a deleted webhook", d.WebhookName, "renamed")
	equal(x, "Delivery.Owner of a deleted webhook", d.Owner, "somebody")
}

func enqueueDue(x *suite) {
	x.hook("a")
	first := x.enqueue(x.item())[0].Deliveries[0]
	test := x.enqueue(x.item(func(it *postrider.Item) { it.Test = true }))[0].Deliveries[0]
	replay := x.enqueue(postrider.Item{
		Event: postrider.Event{ID: x.delivery(first).EventID, Project: "p"}, To: []string{"a"}, ReplayOf: first, Test: true,
	})[0].Deliveries[0]
	for _, want := range []struct {
		id       string
		test     bool
		replayOf string
	}{{first, false, ""}, {test, true, ""}, {replay, true, first}} {
		d := x.delivery(want.id)
		equal(x, "Delivery.Test", d.Test, want.test)
		equal(x, "Delivery.ReplayOf", d.ReplayOf, want.replayOf)
		x.instant("Delivery.NextAt", d.NextAt, x.clock.Now())
	}
	due := map[string]bool{}
	for _, c := range x.claim(10) {
		due[c.Delivery.ID] = true
	}
	for _, id := range []string{first, test, replay} {
		if !due[id] {
			x.fail("delivery "+id+" to be handed out at once", "it was not")
		}
	}
}

func enqueueMatching(x *suite) {
	patterns := map[string][]string{
		"exact": {"order.paid"}, "prefix": {"order.*"}, "all": {"*"}, "bare": {"order*"}, "many": {"x", "y", "order.paid"},
		"other": {"order.pai"}, "longer": {"order.paid.*"}, "case": {"Order.paid"},
	}
	for _, id := range []string{"exact", "prefix", "all", "bare", "many", "other", "longer", "case"} {
		x.hook(id, func(w *postrider.Webhook) { w.Events = patterns[id] })
	}
	x.hook("paused", func(w *postrider.Webhook) { w.State = postrider.StatePaused })
	x.hook("disabled", func(w *postrider.Webhook) { w.State, w.Reason = postrider.StateDisabled, "gone" })
	x.hook("foreign", func(w *postrider.Webhook) { w.Project = "q" })
	x.hook("nobody", func(w *postrider.Webhook) { w.Project = "" })
	x.hook("deleted")
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "deleted"))
	goes := func(typ, want string) {
		r := x.enqueue(x.item(func(it *postrider.Item) { it.Event.Type = typ }))[0]
		var hooks []string
		for _, id := range r.Deliveries {
			hooks = append(hooks, x.delivery(id).WebhookID)
		}
		if got := sorted(hooks); got != want {
			x.fail("an event of type "+typ+" to go to "+want, "%s", got)
		}
	}
	goes("order.paid", "all bare disabled exact many paused prefix")
	goes("order.", "all bare disabled paused prefix")
	goes("orders", "all bare disabled paused")
	x.update("other", func(w *postrider.Webhook) { w.Events = []string{"zzz"} })
	goes("zzz", "all disabled other paused")
	r := x.enqueue(x.item(func(it *postrider.Item) { it.Event.Project = "" }))[0]
	if len(r.Deliveries) != 1 || x.delivery(r.Deliveries[0]).WebhookID != "nobody" {
		x.fail("an event without a project to go to the webhook without one", "%d deliveries", len(r.Deliveries))
	}
}

func enqueueTo(x *suite) {
	x.hook("a")
	x.hook("b", func(w *postrider.Webhook) { w.Events, w.State = []string{"other"}, postrider.StatePaused })
	x.hook("c")
	x.hook("foreign", func(w *postrider.Webhook) { w.Project = "q" })
	x.hook("deleted")
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "deleted"))
	r := x.enqueue(x.item(to("a", "b")))[0]
	var hooks []string
	for _, id := range r.Deliveries {
		hooks = append(hooks, x.delivery(id).WebhookID)
	}
	equal(x, "the webhooks of an item whose To is a and b", sorted(hooks), "a b")
	for _, id := range []string{"foreign", "deleted", "nowhere", ""} {
		_, err := x.s.Enqueue(x.ctx, []postrider.Item{x.item(to("a", id))})
		x.is("Enqueue to the webhook "+id, err, postrider.ErrNotFound)
	}
	r = x.enqueue(x.item(to()), x.item(func(it *postrider.Item) { it.To = []string{} }))[1]
	equal(x, "deliveries of an item whose To is set and empty", len(r.Deliveries), 0)
}

func enqueueAtomic(x *suite) {
	x.hook("a")
	first, bad, last := x.item(), x.item(to("nowhere")), x.item()
	_, err := x.s.Enqueue(x.ctx, []postrider.Item{first, bad, last})
	x.is("Enqueue to a webhook that is not there", err, postrider.ErrNotFound)
	for _, it := range []postrider.Item{first, bad, last} {
		_, err := x.s.Event(x.ctx, "p", it.Event.ID)
		x.is("Event of a call that failed", err, postrider.ErrNotFound)
	}
	page, err := x.s.Deliveries(x.ctx, postrider.DeliveryQuery{})
	x.ok("Deliveries", err)
	equal(x, "deliveries after a call that failed", len(page.Items), 0)
	equal(x, "Stats after a call that failed", x.counts(), postrider.Stats{})
	x.claimsNothing("after a call that failed")
	for _, r := range x.enqueue(first, last) {
		equal(x, "Duplicate of an event whose call had failed", r.Duplicate, false)
	}
}

func enqueueDuplicate(x *suite) {
	x.hook("a")
	x.hook("q", func(w *postrider.Webhook) { w.Project = "q" })
	it := x.item()
	first := x.enqueue(it)[0]
	second := it
	second.Event.Payload, second.Event.Type, second.To = []byte(`"other"`), "other", []string{"a"}
	fresh := x.item()
	got := x.enqueue(second, fresh)
	equal(x, "Receipt.Duplicate", got[0].Duplicate, true)
	equal(x, "Receipt.EventID of a duplicate", got[0].EventID, it.Event.ID)
	equal(x, "deliveries of a duplicate", len(got[0].Deliveries), 0)
	equal(x, "Receipt.Duplicate of the new event beside it", got[1].Duplicate, false)
	e, err := x.s.Event(x.ctx, "p", it.Event.ID)
	x.ok("Event", err)
	x.sameEvent(e, it.Event)
	equal(x, "deliveries stored", x.stats().New, 2)
	foreign := it
	foreign.Event.Project = "q"
	equal(x, "Duplicate of the same ID in another project", x.enqueue(foreign)[0].Duplicate, false)
	c := x.claim(10, only(first.Deliveries[0]))[0]
	x.complete(x.delivered(c))
	equal(x, "Duplicate of an event that was delivered", x.enqueue(it)[0].Duplicate, true)
}

func enqueueDuplicateInCall(x *suite) {
	x.hook("a")
	it := x.item()
	second := it
	second.Event.Payload = []byte(`"other"`)
	got := x.enqueue(x.item(), it, second)
	equal(x, "Duplicate of the first", got[1].Duplicate, false)
	equal(x, "Duplicate of the second of two in one call", got[2].Duplicate, true)
	equal(x, "deliveries of the second", len(got[2].Deliveries), 0)
	equal(x, "deliveries stored", x.stats().New, 2)
	e, err := x.s.Event(x.ctx, "p", it.Event.ID)
	x.ok("Event", err)
	x.sameEvent(e, it.Event)
}

func enqueueNoMatch(x *suite) {
	x.hook("a", func(w *postrider.Webhook) { w.Events = []string{"other"} })
	it := x.item()
	got := x.enqueue(it, it)
	for _, r := range got {
		equal(x, "Receipt.EventID of an event that goes nowhere", r.EventID, it.Event.ID)
		equal(x, "deliveries of an event that goes nowhere", len(r.Deliveries), 0)
		equal(x, "Duplicate of an event that goes nowhere", r.Duplicate, false)
	}
	_, err := x.s.Event(x.ctx, "p", it.Event.ID)
	x.is("Event of an event that went nowhere", err, postrider.ErrNotFound)
	x.hook("b")
	r := x.enqueue(it)[0]
	equal(x, "Duplicate of an event that went nowhere before", r.Duplicate, false)
	equal(x, "deliveries once a webhook matches", len(r.Deliveries), 1)
}

func enqueueReplay(x *suite) {
	x.hook("a")
	it := x.item(func(it *postrider.Item) { it.Event.Type = "kept" })
	first := x.enqueue(it)[0].Deliveries[0]
	x.hook("b", func(w *postrider.Webhook) { w.Events = []string{"kept"} })
	x.hook("c", func(w *postrider.Webhook) { w.Events = []string{"other"} })
	again := postrider.Item{Event: postrider.Event{ID: it.Event.ID, Project: "p"}, ReplayOf: first}
	toC := again
	toC.To = []string{"c"}
	want := []string{"a b", "c", "a b"}
	for i, r := range x.enqueue(again, toC, again) {
		equal(x, "Duplicate of a replay", r.Duplicate, false)
		var hooks []string
		for _, id := range r.Deliveries {
			d := x.delivery(id)
			equal(x, "the event of a replay", d.EventID, it.Event.ID)
			equal(x, "the type of a replay", d.EventType, "kept")
			hooks = append(hooks, d.WebhookID)
		}
		equal(x, "the webhooks of a replay", sorted(hooks), want[i])
	}
	e, err := x.s.Event(x.ctx, "p", it.Event.ID)
	x.ok("Event", err)
	x.sameEvent(e, it.Event)
	for _, e := range []postrider.Event{{ID: "nothing", Project: "p"}, {ID: it.Event.ID, Project: "q"}} {
		_, err := x.s.Enqueue(x.ctx, []postrider.Item{{Event: e, To: []string{"a"}, ReplayOf: first}})
		x.is("Enqueue with ReplayOf of an event that is not stored", err, postrider.ErrNotFound)
	}
}

func enqueueError(x *suite) {
	x.hook("a")
	ended, cancel := context.WithCancel(x.ctx)
	cancel()
	it := x.item()
	if _, err := x.s.Enqueue(ended, []postrider.Item{it}); err != nil && !errors.Is(err, context.Canceled) {
		x.fail("Enqueue with a context that has ended to answer its error or nil", "%v", err)
	}
	x.enqueue(it)
	equal(x, "deliveries after calling again", x.stats().New, 1)
	equal(x, "deliveries handed out after calling again", len(x.claim(10)), 1)
}
