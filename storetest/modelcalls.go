package storetest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

// The calls that the random case makes, each with what it does to the model.

func (m *model) create() {
	w := newHook(fmt.Sprint("hook-", len(m.names)))
	w.MaxInFlight = m.rnd.IntN(3) * 4
	w.Events = [][]string{{"*"}, {"a*"}, {"a.b", "c"}}[m.rnd.IntN(3)]
	w.Ordered = m.rnd.IntN(4) == 0
	if m.x.h.Advance == nil && m.rnd.IntN(3) == 0 {
		w.Failures, w.FailingSince = 8, m.x.clock.Now().Add(-3*time.Hour) // soon to be disabled
	}
	m.did("create %s %v, ordered %t", w.ID, w.Events, w.Ordered)
	m.x.ok("CreateWebhook", m.x.s.CreateWebhook(m.x.ctx, w))
	m.names = append(m.names, w.ID)
	w.Version = 1
	m.hooks[w.ID] = &w
}

func (m *model) remove() {
	if id, ok := pick(m, slices.Sorted(maps.Keys(m.hooks))); ok && len(m.hooks) > 1 {
		m.did("delete %s", id)
		m.x.ok("DeleteWebhook", m.x.s.DeleteWebhook(m.x.ctx, id))
		delete(m.hooks, id)
	}
}

// update changes a webhook, in the store and here.
func (m *model) update(f func(*postrider.Webhook)) {
	if id, ok := pick(m, slices.Sorted(maps.Keys(m.hooks))); ok {
		w := m.hooks[id]
		f(w)
		m.did("%s is %s, ordered %t", id, w.State, w.Ordered)
		m.x.update(id, f)
		w.Version++
	}
}

// pause enables a webhook that is paused or disabled, and now and then pauses one.
func (m *model) pause() {
	pause := m.rnd.IntN(3) == 0
	m.update(func(w *postrider.Webhook) {
		if w.Reason = ""; w.State != postrider.StateEnabled {
			w.State = postrider.StateEnabled
		} else if pause {
			w.State = postrider.StatePaused
		}
	})
}

func (m *model) order() { m.update(func(w *postrider.Webhook) { w.Ordered = !w.Ordered }) }

func (m *model) emit() {
	var items []postrider.Item
	for range 1 + m.rnd.IntN(3) {
		items = append(items, m.x.item(func(it *postrider.Item) {
			it.Event.Type = []string{"a", "a.b", "c", "d"}[m.rnd.IntN(4)]
			it.Event.OrderKey = []string{"", "", "k", "l"}[m.rnd.IntN(4)]
			it.Test = m.rnd.IntN(8) == 0
		}))
	}
	m.did("emit %d", len(items))
	for i, r := range m.x.enqueue(items...) {
		var want []string
		for _, id := range m.names {
			if w := m.hooks[id]; w != nil && w.Matches(items[i].Event.Type) {
				want = append(want, id)
			}
		}
		m.made(r, items[i], want)
		if len(want) > 0 {
			m.events = append(m.events, items[i].Event)
		}
	}
}

// made notes the deliveries of a receipt.
func (m *model) made(r postrider.Receipt, it postrider.Item, hooks []string) {
	equal(m.x, "Duplicate of what is new", r.Duplicate, false)
	equal(m.x, "deliveries in the receipt", len(r.Deliveries), len(hooks))
	now := m.x.clock.Now()
	for i, id := range r.Deliveries {
		m.rows = append(m.rows, &row{id: id, hook: hooks[i], event: it.Event.ID, lane: laneOf(m.hooks[hooks[i]], &it), created: now, due: now})
		m.stats.New++
	}
}

func (m *model) duplicate() {
	e, ok := pick(m, m.events)
	if !ok || !m.has(e.ID) {
		return
	}
	m.did("duplicate %s", e.ID)
	equal(m.x, "Duplicate of a stored event", m.x.enqueue(postrider.Item{Event: e})[0].Duplicate, true)
}

func (m *model) replay() {
	r, ok := pick(m, m.rows)
	if !ok || m.hooks[r.hook] == nil {
		return
	}
	it := postrider.Item{Event: postrider.Event{ID: r.event, Project: "p"}, To: []string{r.hook}, ReplayOf: r.id}
	it.Run = []string{"", runOne, runOne, runTwo}[m.rnd.IntN(4)]
	key := it.Run + " " + r.event + " " + r.hook
	has, known := m.runs[key]
	if it.Run != "" && known && !has {
		return
	}
	m.did("replay %s in the name of %q", r.id, it.Run)
	got := m.x.enqueue(it)[0]
	if it.Run != "" && has {
		equal(m.x, "Duplicate of a replay that its Run has made", got.Duplicate, true)
		equal(m.x, "deliveries of it", len(got.Deliveries), 0)
		return
	}
	m.made(got, it, it.To)
	if it.Run != "" {
		m.runs[key], m.rows[len(m.rows)-1].run = true, key
	}
}

func (m *model) complete() {
	held := m.claimed()
	m.rnd.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	held = held[:min(len(held), 1+m.rnd.IntN(4))]
	var outcomes []postrider.Outcome
	var after []func()
	for _, r := range held {
		o := m.x.again(*r.claim, time.Duration(m.rnd.IntN(5))*time.Hour)
		switch m.rnd.IntN(6) {
		case 0:
			o = m.x.failed(*r.claim)
		case 1:
			o = released(*r.claim)
		case 2, 3:
			o = m.x.delivered(*r.claim)
		}
		o.Webhook = m.bearing(r, &o)
		outcomes = append(outcomes, o)
		after = append(after, func() { m.outcome(r, o) })
	}
	m.did("complete %d", len(outcomes))
	m.x.complete(outcomes...)
	for _, f := range after {
		f()
	}
}

// bearing draws what an outcome does to its webhook.
func (m *model) bearing(r *row, o *postrider.Outcome) *postrider.WebhookChange {
	if o.Attempt == nil || m.rnd.IntN(3) == 0 {
		return nil
	}
	c := &postrider.WebhookChange{Failing: o.Attempt.Failed, Hold: time.Duration(m.rnd.IntN(8)/7) * 90 * time.Minute}
	switch n := m.rnd.IntN(10); {
	case n == 0:
		c.Window = m.rnd.IntN(3)
	case n == 1, m.x.h.Advance != nil: // where time passes by itself, the breaker's first hold is over any moment
		c.Aside = true
	default:
		c.Health = &postrider.Health{BreakAfter: 3, DisableAfter: 4 * time.Hour, MaxInFlight: 4}
		if !c.Failing && r.claim.Held >= r.claim.Webhook.Window {
			c.Health.Full = r.claim.Webhook.Window
		}
	}
	return c
}

func (m *model) outcome(r *row, o postrider.Outcome) {
	if w := m.hooks[r.hook]; w != nil && o.Webhook != nil {
		o.Webhook.Apply(w, m.x.clock.Now())
	}
	if o.Attempt == nil {
		m.free(r)
		return
	}
	r.claim = nil
	r.attempts++
	m.tries = append(m.tries, tallied{r.hook, o.Attempt.Failed, m.x.clock.Now()})
	if o.Attempt.Failed {
		m.stats.AttemptsFailed++
	} else {
		m.stats.AttemptsOK++
	}
	switch {
	case o.Status == postrider.StatusDelivered:
		m.end(r, o.Status)
	case r.canceled || m.hooks[r.hook] == nil:
		m.end(r, postrider.StatusCanceled)
	case o.Status == postrider.StatusInProcess:
		*m.stats.Count(r.status)--
		m.stats.InProcess++
		r.status, r.due = o.Status, m.x.clock.Now().Add(o.RetryIn)
	default:
		m.end(r, o.Status)
	}
}

// late completes claims whose lease is over.
func (m *model) late() {
	now := m.x.clock.Now()
	for _, r := range m.open(func(r *row) bool { return r.claim != nil && !r.until.After(now) }) {
		m.did("complete %s too late", r.id)
		equal(m.x, "n of an outcome that comes too late", m.x.record(withChange(m.x.delivered(*r.claim))), 0)
	}
	m.settle()
}

// settle claims nothing, so that the store notices leases that are over.
func (m *model) settle() {
	m.expire()
	limits := map[string]int{}
	for _, id := range m.names {
		limits[id] = 0
	}
	equal(m.x, "claims with Limits 0 of all webhooks", len(m.x.claim(1, func(r *postrider.ClaimRequest) { r.Limits = limits })), 0)
}

func (m *model) step() {
	d := time.Duration(1+m.rnd.IntN(3)) * time.Hour
	m.did("step %v", d)
	m.x.step(d)
	if m.rnd.IntN(3) > 0 {
		m.settle()
	} else {
		m.late()
	}
}

// choose draws a change and returns the deliveries that it is for.
func (m *model) choose(kind postrider.ChangeKind) (postrider.Change, []*row) {
	c := postrider.Change{Kind: kind, Age: time.Duration(m.rnd.IntN(6)/3*m.rnd.IntN(4)) * time.Hour}
	q := &c.Query
	switch m.rnd.IntN(3) {
	case 0:
		if r, ok := pick(m, m.rows); ok {
			q.ID = r.id
		}
	case 1:
		q.WebhookID, _ = pick(m, m.names)
	default:
		q.WebhookID, _ = pick(m, m.names)
		q.Statuses = []postrider.Status{postrider.StatusInProcess}
	}
	return c, m.open(func(r *row) bool {
		return m.old(r, c.Age) && q.Matches(&postrider.Delivery{ID: r.id, WebhookID: r.hook, Status: r.status})
	})
}

// old reports whether the delivery was made at least so long ago.
func (m *model) old(r *row, age time.Duration) bool {
	return !r.created.After(m.x.clock.Now().Add(-age))
}

func (m *model) cancel() {
	c, rows := m.choose(postrider.ChangeCancel)
	m.did("cancel %+v", c)
	_, more := m.x.change(c)
	equal(m.x, "more", more, false)
	m.cancelRows(rows)
}

func (m *model) cancelRows(rows []*row) {
	for _, r := range rows {
		if r.claim != nil {
			r.canceled = true
		} else {
			m.end(r, postrider.StatusCanceled)
		}
	}
}

func (m *model) due() {
	c, rows := m.choose(postrider.ChangeDue)
	m.did("due %+v", c)
	m.x.change(c)
	for _, r := range rows {
		if now := m.x.clock.Now(); r.claim == nil && r.due.After(now) {
			r.due = now
		}
	}
}

// sweep cancels what waits for deleted webhooks.
func (m *model) sweep() {
	age := time.Duration(m.rnd.IntN(2)*m.rnd.IntN(6)) * time.Hour
	m.did("sweep %v", age)
	_, more := m.x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true, Age: age})
	equal(m.x, "more", more, false)
	m.cancelRows(m.open(func(r *row) bool { return m.hooks[r.hook] == nil && m.old(r, age) }))
}

func (m *model) prune() {
	age := time.Duration(m.rnd.IntN(4)) * time.Hour
	limit := m.x.clock.Now().Add(-age)
	var keep []*row
	want := 0
	for _, r := range m.rows {
		if r.status.Final() && !r.ended.After(limit) {
			*m.stats.Count(r.status)--
			m.stats.Pruned++
			want++
			if r.run != "" {
				m.runs[r.run] = false
			}
			continue
		}
		keep = append(keep, r)
	}
	m.rows = keep
	m.did("prune %v", age)
	n, more := m.x.prune(age, 1000)
	equal(m.x, "n of Prune", n, want)
	equal(m.x, "more of Prune", more, false)
}

// reopen closes the store with nothing claimed, since a claim need not survive.
func (m *model) reopen() {
	if m.x.h.Reopen == nil {
		return
	}
	for _, r := range m.claimed() {
		m.x.complete(released(*r.claim))
		m.free(r)
	}
	m.settle()
	m.did("reopen")
	m.x.reopen()
}
