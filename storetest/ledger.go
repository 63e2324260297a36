package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider"
)

// ledger fills a store with deliveries at random and keeps what must have become of each. Everything is drawn from
// its seed but the IDs of deliveries and the order of claims, which are the store's.
type ledger struct {
	x     *suite
	rnd   *rand.Rand
	hooks []*party
	rows  []*entry // in the order of commits
	byID  map[string]*entry
	lanes map[string][]*entry // those of a lane, in the order of commits
}

// party is a webhook.
type party struct {
	postrider.Webhook
	deleted bool
	pruned  postrider.Stats // what its pruned deliveries count
}

// entry is a delivery.
type entry struct {
	postrider.Delivery // as it must be returned, but for what is the webhook's
	rank               int
	hook               *party
	lane               string // "": none
	attempts           []postrider.Attempt
	claim              *postrider.Claim // nil unless it is in flight
	plan               []step           // attempts to come
	last               postrider.Status // after the last of them
}

// step is an attempt to come.
type step struct {
	code   int
	class  postrider.Class
	failed bool
	wait   time.Duration // until the next
}

const (
	ledgerLease = 10_000 * time.Hour
	ledgerGap   = 10 * time.Minute // at least so much lies between two times
)

var ledgerTypes = []string{"a", "a.b", "a.b.c", "ab", "b.x", "b-x", "c", "a_b"}

func newLedger(x *suite) *ledger {
	l := &ledger{x: x, rnd: rand.New(rand.NewPCG(3, 5)), byID: map[string]*entry{}, lanes: map[string][]*entry{}}
	for i := range 12 {
		w := newHook(fmt.Sprintf("hook-%02d", (i*7)%12))
		w.Project = []string{"p", "q", "r-1"}[i%3]
		w.Owner = []string{"one", "two", "", "Ow ner/3"}[i/2%4]
		w.Ordered = i == 4
		x.ok("CreateWebhook", x.s.CreateWebhook(x.ctx, w))
		l.hooks = append(l.hooks, &party{Webhook: w})
	}
	return l
}

// fill makes n deliveries, beside some that are pruned. All that can happen to one happens to many.
func (l *ledger) fill(n int) {
	for len(l.rows) < n/10 {
		l.add(min(n/50, n/10-len(l.rows)))
		l.work(n / 30)
	}
	l.prune()
	third := false
	for len(l.rows) < n {
		l.add(min(n/25, n-len(l.rows)))
		l.work(n / 15)
		if !third && len(l.rows) > n/3 {
			third = true
			l.remove(3)
			l.remove(8)
			l.sweep()
		}
	}
	l.remove(10)
	for l.work(1000) > 0 {
		l.x.step(time.Hour)
	}
	l.due(l.hooks[1])
	l.release()
	for i, p := range []*party{l.hooks[0], l.hooks[5], l.hooks[7]} {
		l.x.update(p.ID, func(w *postrider.Webhook) { w.Name, w.Owner = fmt.Sprint("renamed-", i), "two" })
		p.Name, p.Owner = fmt.Sprint("renamed-", i), "two"
	}
}

// add makes n deliveries in one call, after a step of time.
func (l *ledger) add(n int) {
	l.x.step(ledgerGap + time.Duration(l.rnd.IntN(3))*time.Hour)
	var items []postrider.Item
	var to [][]*party
	var twin, twinOf string
	for n > 0 {
		hooks := l.audience(1+l.rnd.IntN(min(n, 3)), "")
		var it postrider.Item
		switch old := l.any(); {
		case old != nil && l.rnd.IntN(12) == 0:
			hooks = l.audience(1, old.Project)
			it = postrider.Item{Event: postrider.Event{ID: old.EventID, Project: old.Project, Type: old.EventType}, ReplayOf: old.ID}
		default:
			it = l.x.item()
			it.Event.Type = ledgerTypes[l.rnd.IntN(len(ledgerTypes))]
			if l.rnd.IntN(8) == 0 {
				it.Event.OrderKey = fmt.Sprint("key-", l.rnd.IntN(10))
			}
			if l.rnd.IntN(8) == 0 && twin != "" && twinOf != hooks[0].Project {
				it.Event.ID, twin = twin, "" // the same in two projects
			} else {
				twin, twinOf = it.Event.ID, hooks[0].Project
			}
		}
		it.Event.Project = hooks[0].Project
		it.Test = l.rnd.IntN(9) == 0
		for _, p := range hooks {
			it.To = append(it.To, p.ID)
		}
		// The receipt is in the order of creation whatever the order here.
		slices.Reverse(it.To)
		items, to = append(items, it), append(to, hooks)
		n -= len(hooks)
	}
	for i, r := range l.x.enqueue(items...) {
		equal(l.x, "Duplicate of a new event", r.Duplicate, false)
		equal(l.x, "deliveries in the receipt", len(r.Deliveries), len(to[i]))
		for j, id := range r.Deliveries {
			l.made(id, items[i], to[i][j])
		}
	}
}

// audience returns at most n webhooks of one project, in the order of their creation.
func (l *ledger) audience(n int, project string) (hooks []*party) {
	for len(hooks) == 0 {
		of := project
		if of == "" {
			of = l.hooks[l.rnd.IntN(len(l.hooks))].Project
		}
		skip := l.rnd.IntN(3)
		for _, p := range l.hooks {
			if p.Project == of && !p.deleted && len(hooks) < n {
				if skip--; skip < 0 {
					hooks = append(hooks, p)
				}
			}
		}
	}
	return hooks
}

// any returns one of the rows, nil if there is none.
func (l *ledger) any() *entry {
	if len(l.rows) == 0 {
		return nil
	}
	return l.rows[l.rnd.IntN(len(l.rows))]
}

func (l *ledger) made(id string, it postrider.Item, p *party) {
	now := l.x.clock.Now()
	e := &entry{hook: p, rank: len(l.byID), Delivery: postrider.Delivery{
		ID: id, EventID: it.Event.ID, Project: it.Event.Project, EventType: it.Event.Type, WebhookID: p.ID,
		CreatedAt: now, NextAt: now, Test: it.Test, ReplayOf: it.ReplayOf,
	}}
	e.last, e.plan = l.fate()
	if e.lane = laneOf(&p.Webhook, &it); e.lane != "" {
		l.lanes[e.lane] = append(l.lanes[e.lane], e)
	}
	l.rows = append(l.rows, e)
	l.byID[id] = e
}

// laneOf names the lane that a delivery of the item takes at the webhook, "" if none.
func laneOf(w *postrider.Webhook, it *postrider.Item) string {
	switch {
	case it.Test || it.ReplayOf != "":
		return ""
	case w.Ordered:
		return w.ID
	case it.Event.OrderKey != "":
		return w.ID + " " + it.Event.OrderKey
	}
	return ""
}

// parked reports whether others of its lane come before a delivery that is open.
func (l *ledger) parked(e *entry) bool {
	i := slices.IndexFunc(l.lanes[e.lane], func(o *entry) bool { return !o.Status.Final() })
	return i >= 0 && l.lanes[e.lane][i] != e
}

// fate draws what is to become of a delivery.
func (l *ledger) fate() (last postrider.Status, plan []step) {
	few := 1 + l.rnd.IntN(5)
	switch n := l.rnd.IntN(100); {
	case n < 8:
		return postrider.StatusNew, nil
	case n < 16:
		return postrider.StatusInProcess, l.failures(few)
	case n < 70:
		return postrider.StatusDelivered, []step{l.success()}
	case n < 82:
		return postrider.StatusDelivered, append(l.failures(few-1), l.success())
	case n < 93:
		return postrider.StatusFailed, l.failures(few)
	}
	return postrider.StatusCanceled, l.failures(few)
}

func (l *ledger) success() step {
	// A success rule may take any code.
	return step{code: []int{200, 200, 200, 201, 204, 299, 302, 404}[l.rnd.IntN(8)]}
}

func (l *ledger) failures(n int) (plan []step) {
	for range n {
		plan = append(plan, []step{
			{500, postrider.ClassStatus, true, 0}, {502, postrider.ClassStatus, true, time.Hour}, {404, postrider.ClassStatus, true, 0},
			{0, postrider.ClassTimeout, true, time.Minute}, {0, postrider.ClassDNS, true, 0}, {200, postrider.ClassRule, true, time.Hour},
			{301, postrider.ClassStatus, true, 0}, {199, postrider.ClassStatus, true, 0}, {599, postrider.ClassReset, true, 0},
		}[l.rnd.IntN(9)])
	}
	return plan
}

// work claims at most limit deliveries, does the next attempt of those that have one planned, and returns how many
// claims it got. The others stay in flight.
func (l *ledger) work(limit int) int {
	l.x.step(ledgerGap)
	claims := l.x.claim(min(limit, 1000), func(r *postrider.ClaimRequest) { r.Lease = ledgerLease })
	var outcomes []postrider.Outcome
	for _, c := range claims {
		e := l.byID[c.Delivery.ID]
		if e == nil || e.claim != nil || e.Status.Final() {
			l.x.fail("a claim of a delivery that is open and not held", "%s", c.Delivery.ID)
		}
		if l.parked(e) {
			l.x.fail("a claim of the first of its lane", "%s", c.Delivery.ID)
		}
		if len(e.plan) > 0 {
			outcomes = append(outcomes, l.attempt(e, c))
		} else {
			e.claim = &c
		}
	}
	if len(outcomes) > 0 {
		l.x.complete(outcomes...)
	}
	return len(claims)
}

// attempt does the next attempt of a delivery.
func (l *ledger) attempt(e *entry, c postrider.Claim) postrider.Outcome {
	s := e.plan[0]
	e.plan = e.plan[1:]
	now := l.x.clock.Now()
	o := l.x.delivered(c)
	a := o.Attempt
	a.StartedAt = now.Add(time.Duration(l.rnd.IntN(1_000_000)) * time.Microsecond)
	a.FinishedAt = a.StartedAt.Add(time.Duration(1+l.rnd.IntN(5_000)) * time.Millisecond)
	a.Code, a.Class, a.Failed = s.code, s.class, s.failed
	if s.failed {
		a.Error, a.Body = strings.Repeat("no", 1+l.rnd.IntN(3)), nil
	}
	o.Status = e.last
	if len(e.plan) > 0 {
		o.Status = postrider.StatusInProcess
	}
	e.Attempts++
	e.LastTook = a.FinishedAt.Sub(a.StartedAt)
	if s.code != 0 {
		e.LastCode = s.code
	}
	if s.failed {
		e.LastClass, e.LastError = s.class, a.Error
	}
	e.Status, e.NextAt, e.FinishedAt = o.Status, time.Time{}, now
	if o.Status == postrider.StatusInProcess {
		if o.RetryIn = s.wait; len(e.plan) == 0 {
			o.RetryIn = time.Duration(l.rnd.IntN(2)) * ledgerLease
		}
		a.NextAt = now.Add(o.RetryIn)
		e.NextAt, e.FinishedAt = a.NextAt, time.Time{}
	}
	e.attempts = append(e.attempts, *a)
	return o
}

// cancel ends a delivery without an attempt.
func (l *ledger) cancel(e *entry) {
	e.Status, e.NextAt, e.FinishedAt, e.claim = postrider.StatusCanceled, time.Time{}, l.x.clock.Now(), nil
}

// remove deletes a webhook. What waits for it stays open.
func (l *ledger) remove(i int) {
	l.x.ok("DeleteWebhook", l.x.s.DeleteWebhook(l.x.ctx, l.hooks[i].ID))
	l.hooks[i].deleted = true
}

// sweep cancels what waits for deleted webhooks, and gives back what is in flight to them.
func (l *ledger) sweep() {
	l.x.step(ledgerGap)
	for more := true; more; {
		_, more = l.x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true})
	}
	var outcomes []postrider.Outcome
	for _, e := range l.rows {
		if e.hook.deleted && !e.Status.Final() {
			if e.claim != nil {
				outcomes = append(outcomes, released(*e.claim))
			}
			l.cancel(e)
		}
	}
	if len(outcomes) > 0 {
		l.x.complete(outcomes...)
	}
}

// prune takes away what has ended for some time.
func (l *ledger) prune() {
	const age = 2 * time.Hour
	l.x.step(ledgerGap)
	for more := true; more; {
		_, more = l.x.prune(age, 40)
	}
	l.rows = slices.DeleteFunc(l.rows, func(e *entry) bool {
		gone := e.Status.Final() && !e.FinishedAt.After(l.x.clock.Now().Add(-age))
		if gone {
			e.hook.pruned.Pruned++
			e.countAttempts(&e.hook.pruned)
		}
		return gone
	})
}

func (e *entry) countAttempts(s *postrider.Stats) {
	for _, a := range e.attempts {
		if a.Failed {
			s.AttemptsFailed++
		} else {
			s.AttemptsOK++
		}
	}
}

// due makes what waits for a webhook due.
func (l *ledger) due(p *party) {
	l.x.step(ledgerGap)
	for more := true; more; {
		_, more = l.x.change(postrider.Change{Kind: postrider.ChangeDue, Query: postrider.DeliveryQuery{WebhookID: p.ID}})
	}
	for _, e := range l.rows {
		if now := l.x.clock.Now(); e.hook == p && !e.Status.Final() && e.claim == nil && e.NextAt.After(now) {
			e.NextAt = now
		}
	}
}

// release gives back every second claim.
func (l *ledger) release() {
	var outcomes []postrider.Outcome
	for _, e := range l.rows {
		if e.claim != nil && !e.hook.deleted && l.rnd.IntN(2) == 0 {
			outcomes = append(outcomes, released(*e.claim))
			e.claim = nil
		}
	}
	if len(outcomes) > 0 {
		l.x.complete(outcomes...)
	}
}

// differs says in what a delivery that was returned is not as it must be, "" if it is.
func (l *ledger) differs(got postrider.Delivery, e *entry) string {
	want := e.Delivery
	want.WebhookName, want.Owner, want.InFlight = e.hook.Name, e.hook.Owner, e.claim != nil
	for _, t := range []struct {
		name      string
		got, want *time.Time
	}{{"CreatedAt", &got.CreatedAt, &want.CreatedAt}, {"NextAt", &got.NextAt, &want.NextAt}, {"FinishedAt", &got.FinishedAt, &want.FinishedAt}} {
		if !l.sameTime(*t.got, *t.want) {
			return fmt.Sprintf("%s %v, want %v", t.name, *t.got, *t.want)
		}
		*t.got = *t.want
	}
	if got != want {
		return fmt.Sprintf("%+v, want %+v", got, want)
	}
	return ""
}

// sameTime reports whether an instant of the store's is one of the suite's.
func (l *ledger) sameTime(got, want time.Time) bool {
	if l.x.h.Advance == nil || got.IsZero() || want.IsZero() {
		return got.Equal(want)
	}
	return got.Sub(l.x.clock.stored(want)).Abs() < l.x.tick
}
