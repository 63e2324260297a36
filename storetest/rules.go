package storetest

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/postrider/postrider"
)

const saysKeeps = "A store keeps no slice or map it is given, and returns none that it will write to."

var ruleCases = []testCase{
	{name: "Rules/bounded", run: rulesBounded,
		says: "Each call is atomic, and bounded: what could touch a million rows does a part and says whether there is more."},
	{name: "Rules/clock", run: rulesClock,
		says: "Durations come from the caller, instants from the store's own clock."},
	{name: "Rules/keeps-nothing", run: rulesKeepsNothing, says: saysKeeps},
	{name: "Rules/returns-own", run: rulesReturnsOwn, says: saysKeeps},
	{name: "Rules/no-goroutines", run: rulesNoGoroutines,
		says: "A store starts no goroutine that outlives the call."},
	{name: "Rules/foreign", run: rulesForeign,
		says: "IDs and cursors that cannot be the store's own are ErrNotFound and ErrInvalid, never another error."},
	{name: "Rules/invalid", run: rulesInvalid,
		says: "An argument with a Validate method that fails it is ErrInvalid with its *ValidationError, and nothing is done; webhooks and events the Dispatcher has checked."},
	{name: "Rules/context", run: rulesContext,
		says: "A context that has ended makes a call return its error."},
}

func rulesBounded(x *suite) {
	a := x.hook("a")
	items := make([]postrider.Item, 30)
	for i := range items {
		items[i] = x.item()
	}
	x.enqueue(items...)
	calls := func(what string, call func() (int, bool)) {
		total := 0
		for range 100 {
			n, more := call()
			if n > 7 {
				x.fail(what+" to do at most 7 in a call", "%d", n)
			}
			if total += n; !more {
				equal(x, "all that "+what+" did", total, 30)
				return
			}
		}
		x.fail(what+" to come to an end", "more after 100 calls")
	}
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, a))
	calls("Change", func() (int, bool) {
		return x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true, Max: 7})
	})
	calls("Prune", func() (int, bool) { return x.prune(0, 7) })
}

func rulesClock(x *suite) {
	a := x.hook("a")
	created := x.clock.Now()
	id := x.enqueue(x.item(func(it *postrider.Item) { it.Event.Time = created.Add(-50 * time.Hour) }))[0].Deliveries[0]
	x.step(time.Hour)
	x.instant("Webhook.CreatedAt", x.webhook(a).CreatedAt, created)
	x.instant("Webhook.UpdatedAt of a new webhook", x.webhook(a).UpdatedAt, created)
	updated := x.clock.Now()
	x.update(a, func(w *postrider.Webhook) { w.Owner = "new" })
	x.step(time.Hour)
	x.instant("Webhook.CreatedAt after an update", x.webhook(a).CreatedAt, created)
	x.instant("Webhook.UpdatedAt after an update", x.webhook(a).UpdatedAt, updated)
	d := x.delivery(id)
	x.instant("Delivery.CreatedAt", d.CreatedAt, created)
	x.instant("Delivery.NextAt", d.NextAt, created)
	x.instant("Delivery.FinishedAt of an open delivery", d.FinishedAt, time.Time{})
	o := x.delivered(x.claimOne())
	o.Attempt.StartedAt = o.Attempt.StartedAt.Add(-time.Hour)
	o.Attempt.FinishedAt = o.Attempt.StartedAt.Add(time.Minute)
	x.complete(o)
	ended := x.clock.Now()
	x.step(time.Hour)
	d = x.delivery(id)
	x.instant("Delivery.CreatedAt", d.CreatedAt, created)
	x.instant("Delivery.FinishedAt", d.FinishedAt, ended)
}

// rulesKeepsNothing writes to all that it gave to the store after each call.
func rulesKeepsNothing(x *suite) {
	w, want := fullHook(x), fullHook(x)
	w.State, want.State = postrider.StateEnabled, postrider.StateEnabled
	w.NotBefore, want.NotBefore = time.Time{}, time.Time{}
	x.ok("CreateWebhook", x.s.CreateWebhook(x.ctx, w))
	scribbleWebhook(&w)
	check := func(after string) {
		got := x.webhook("full")
		want.Version, want.CreatedAt, want.UpdatedAt = got.Version, got.CreatedAt, got.UpdatedAt
		if showWebhook(got) != showWebhook(want) {
			x.fail("the webhook as it was given to "+after+": "+showWebhook(want), "%s", showWebhook(got))
		}
	}
	check("CreateWebhook")
	w = fullHook(x)
	w.State, w.NotBefore, w.Version = postrider.StateEnabled, time.Time{}, 1
	x.ok("UpdateWebhook", x.s.UpdateWebhook(x.ctx, w))
	scribbleWebhook(&w)
	check("UpdateWebhook")

	fresh := func() postrider.Item {
		return postrider.Item{To: []string{"full"}, Event: postrider.Event{
			ID: "kept", Project: "p", Type: "t", Time: x.clock.Now(), Payload: []byte(`{"a":"bcd"}`), Metadata: map[string]string{"k": "v"},
		}}
	}
	items := []postrider.Item{fresh()}
	x.enqueue(items...)
	clear(items[0].Event.Payload)
	items[0].Event.Metadata["k"], items[0].Event.Metadata["new"] = "scribbled", "scribbled"
	items[0].To[0] = "scribbled"
	clear(items)
	e, err := x.s.Event(x.ctx, "p", "kept")
	x.ok("Event", err)
	x.sameEvent(e, fresh().Event)
	limits := map[string]int{"full": 1}
	claims := x.claim(1, func(r *postrider.ClaimRequest) { r.Limits = limits })
	equal(x, "claims", len(claims), 1)
	limits["full"] = 0
	x.sameEvent(claims[0].Event, fresh().Event)
	check("CreateWebhook")

	o := x.again(claims[0], 0)
	wantAttempt := *o.Attempt
	wantAttempt.Body = bytes.Clone(o.Attempt.Body)
	outcomes := []postrider.Outcome{o}
	x.complete(outcomes...)
	clear(o.Attempt.Body)
	*o.Attempt = postrider.Attempt{}
	clear(outcomes)
	_, attempts := x.deliveryAttempts(claims[0].Delivery.ID)
	equal(x, "attempts", len(attempts), 1)
	x.sameAttempt(attempts[0], wantAttempt)
}

func scribbleWebhook(w *postrider.Webhook) {
	w.Header["X-One"][0], w.Header["X-New"] = "scribbled", []string{"scribbled"}
	w.Events[0] = "scribbled"
	w.Retry[1] = time.Hour
	w.Success.Codes[0] = "500"
	clear(w.Secrets)
	clear(w.Schemes)
}

// rulesReturnsOwn keeps answers and looks whether later calls change them.
func rulesReturnsOwn(x *suite) {
	full := fullHook(x)
	full.State, full.NotBefore, full.Window, full.Ordered = postrider.StateEnabled, time.Time{}, 0, false
	x.ok("CreateWebhook", x.s.CreateWebhook(x.ctx, full))
	receipts := x.enqueue(x.item(), x.item(), x.item())
	claims := x.claim(10)
	equal(x, "claims", len(claims), 3)
	x.complete(x.again(claims[0], 0), x.again(claims[1], 0), x.again(claims[2], 0))
	id := claims[0].Delivery.ID
	w := x.webhook("full")
	e, err := x.s.Event(x.ctx, "p", claims[0].Event.ID)
	x.ok("Event", err)
	_, attempts := x.deliveryAttempts(id)
	page, err := x.s.Deliveries(x.ctx, postrider.DeliveryQuery{})
	x.ok("Deliveries", err)
	list, err := x.s.Attempts(x.ctx, postrider.AttemptQuery{})
	x.ok("Attempts", err)
	hooks, err := x.s.Webhooks(x.ctx, postrider.WebhookQuery{})
	x.ok("Webhooks", err)
	show := func() string {
		var b strings.Builder
		fmt.Fprintf(&b, "receipts %+v\nwebhook %s\nevent %+v\nattempts %+v\ndeliveries %+v\nlist %+v\n", receipts, showWebhook(w), e, attempts, page, list)
		for _, w := range hooks.Items {
			b.WriteString(showWebhook(w) + "\n")
		}
		for _, c := range claims {
			fmt.Fprintf(&b, "claim %+v %+v %s %s\n", c.Delivery, c.Event, c.Token, showWebhook(c.Webhook))
		}
		return b.String()
	}
	before := show()
	x.update("full", func(w *postrider.Webhook) {
		bare := newHook("full")
		bare.Version = w.Version
		*w = bare
	})
	for _, c := range x.claim(10) {
		o := x.delivered(c)
		o.Attempt.Body = []byte("other")
		x.complete(o)
	}
	x.send("full", 3)
	x.step(time.Hour)
	x.prune(0, 100)
	x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "full"))
	x.send(x.hook("b"), 3)
	x.claim(2)
	if after := show(); after != before {
		x.fail("what was returned to stay as it was:\n"+before, "%s", after)
	}
}

// rulesNoGoroutines runs a store under a label that goroutines inherit, and looks for ones that have it.
func rulesNoGoroutines(x *suite) {
	label := fmt.Sprintf("%p", x)
	pprof.Do(x.ctx, pprof.Labels("storetest", label), func(ctx context.Context) {
		x.s = x.open()
		x.send(x.hook("a"), 3)
		c := x.claim(2)
		equal(x, "claims", len(c), 2)
		x.complete(x.delivered(c[0]), x.again(c[1], time.Hour))
		x.update("a", func(w *postrider.Webhook) { w.Owner = "new" })
		x.deliveries(postrider.DeliveryQuery{})
		x.change(cancel(postrider.DeliveryQuery{}))
		x.prune(0, 10)
		x.ok("DeleteWebhook", x.s.DeleteWebhook(x.ctx, "a"))
	})
	// A goroutine that is about to end may be seen for a moment; one that stays does not end.
	var left string
	for end := time.Now().Add(min(x.patience, 2*time.Second)); time.Now().Before(end); settle() {
		if left = labelled(label); left == "" {
			return
		}
	}
	x.fail("no goroutine that a store started", "%s", left)
}

// labelled returns the stacks of goroutines that have the label, but for the caller's.
func labelled(label string) string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 1); err != nil {
		return ""
	}
	var found []string
	for _, stack := range strings.Split(b.String(), "\n\n") {
		if strings.Contains(stack, `"storetest":"`+label+`"`) {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}

// strange are IDs that no store gives, and some that it could nearly have given.
func strange(own string) []string {
	return []string{
		"", " ", "0", "-1", "nothing", "\x00", "\xff\xfe", "a/b", "a'b;--", "ё", strings.Repeat("x", 65), strings.Repeat("x", 5000),
		own + "x", own[:len(own)-1], strings.ToUpper(own) + "Z", "ffffffff-ffff-7fff-bfff-ffffffffffff", "00000000-0000-0000-0000-000000000000",
	}
}

func rulesForeign(x *suite) {
	a := x.hook("a")
	own := x.send(a, 3)[0]
	c := x.claim(1)
	for _, id := range strange(own) {
		is := func(call string, err error) {
			x.is(fmt.Sprintf("%s of %s", call, cut([]byte(id))), err, postrider.ErrNotFound)
		}
		maybe := func(call string, n int, err error) {
			if err != nil {
				is(call, err)
			}
			equal(x, fmt.Sprintf("rows of %s of %s", call, cut([]byte(id))), n, 0)
		}
		_, err := x.s.Webhook(x.ctx, id)
		is("Webhook", err)
		is("DeleteWebhook", x.s.DeleteWebhook(x.ctx, id))
		if w := newHook(id); w.Validate() == nil {
			w.Version = 1
			is("UpdateWebhook", x.s.UpdateWebhook(x.ctx, w))
		}
		_, err = x.s.Event(x.ctx, "p", id)
		is("Event", err)
		_, _, err = x.s.Delivery(x.ctx, id)
		is("Delivery", err)
		it := x.item(to(id))
		_, err = x.s.Enqueue(x.ctx, []postrider.Item{it})
		is("Enqueue to a webhook", err)
		o := x.delivered(c[0])
		o.DeliveryID, o.Attempt.DeliveryID = id, id
		if o.Validate() == nil {
			n, err := x.s.Complete(x.ctx, []postrider.Outcome{o})
			x.ok("Complete of a delivery that is not there", err)
			equal(x, "n of Complete of a delivery that is not there", n, 0)
		}
		if id == "" {
			continue
		}
		x.notOnly(id, "a delivery that is not there")
		page, err := x.s.Deliveries(x.ctx, postrider.DeliveryQuery{ID: id})
		maybe("Deliveries", len(page.Items), err)
		page, err = x.s.Deliveries(x.ctx, postrider.DeliveryQuery{WebhookID: id})
		maybe("Deliveries of a webhook", len(page.Items), err)
		list, err := x.s.Attempts(x.ctx, postrider.AttemptQuery{DeliveryID: id})
		maybe("Attempts", len(list.Items), err)
		list, err = x.s.Attempts(x.ctx, postrider.AttemptQuery{WebhookID: id})
		maybe("Attempts of a webhook", len(list.Items), err)
		n, _, err := x.s.Change(x.ctx, postrider.Change{Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{ID: id}, Max: 10})
		maybe("Change", n, err)
		stats, err := x.s.Stats(x.ctx, postrider.StatsQuery{WebhookID: id})
		maybe("Stats", int(stats.Open()), err)
	}
	x.hook("b")
	x.refuses("Webhooks", webhookPages(x, postrider.WebhookQuery{Limit: 1}))
}

func rulesContext(x *suite) {
	a := x.hook("a")
	ids := x.send(a, 1)
	over, cancel := context.WithCancel(x.ctx)
	cancel()
	_, err := x.s.Enqueue(over, []postrider.Item{x.item()})
	x.is("Enqueue", err, context.Canceled)
	_, _, err = x.s.Claim(over, postrider.ClaimRequest{Max: 1, Lease: lease})
	x.is("Claim", err, context.Canceled)
	_, err = x.s.Complete(over, []postrider.Outcome{released(x.claimOne())})
	x.is("Complete", err, context.Canceled)
	x.is("DeleteWebhook", x.s.DeleteWebhook(over, a), context.Canceled)
	_, err = x.s.Webhook(over, a)
	x.is("Webhook", err, context.Canceled)
	_, _, err = x.s.Delivery(over, ids[0])
	x.is("Delivery", err, context.Canceled)
	_, err = x.s.Deliveries(over, postrider.DeliveryQuery{})
	x.is("Deliveries", err, context.Canceled)
	_, _, err = x.s.Change(over, postrider.Change{Kind: postrider.ChangeCancel, Max: 1})
	x.is("Change", err, context.Canceled)
	_, _, err = x.s.Prune(over, 0, 1)
	x.is("Prune", err, context.Canceled)
	x.status(ids[0], postrider.StatusNew)
}

func rulesInvalid(x *suite) {
	x.send(x.hook("a"), 1)
	for _, r := range []postrider.ClaimRequest{
		{Lease: lease}, {Max: -1, Lease: lease}, {Max: 1}, {Max: 1, Lease: -1}, {Max: 1, Lease: postrider.Forever},
		{Max: 1, Lease: lease, MaxInFlight: -1}, {Max: 1, Lease: lease, Each: -1},
	} {
		claims, _, err := x.s.Claim(x.ctx, r)
		x.invalid(fmt.Sprintf("Claim with %+v", r), err)
		equal(x, "claims of an invalid request", len(claims), 0)
	}
	for _, q := range []postrider.DeliveryQuery{{Project: "!"}, {Statuses: []postrider.Status{9}}, {Limit: -1}} {
		_, err := x.s.Deliveries(x.ctx, q)
		x.invalid(fmt.Sprintf("Deliveries with %+v", q), err)
	}
	_, err := x.s.Webhooks(x.ctx, postrider.WebhookQuery{Project: "!"})
	x.invalid("Webhooks of the project !", err)
	x.claimOne()
}
