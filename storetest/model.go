package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/postrider/postrider"
)

// seedVar names the environment variable with the seed of the random case.
const seedVar = "STORETEST_SEED"

var longCases = []testCase{
	{name: "Long/concurrent", run: longConcurrent,
		says: "Methods may be called at the same time from any goroutine."},
	{name: "Long/random", run: longRandom,
		says: "It decides where things are kept and who may work on them; what to retry, when to give up and whom to slow down is the Dispatcher's."},
}

// model is what a store must agree with after any calls: small enough to be read, slow enough not to be used.
type model struct {
	x      *suite
	rnd    *rand.Rand
	rows   []*row
	hooks  map[string]*postrider.Webhook // those that are not deleted
	names  []string                      // all that ever were
	events []postrider.Event
	stats  postrider.Stats
	log    []string
}

// row is a delivery of the model.
type row struct {
	id, hook, event string
	status          postrider.Status
	attempts        int
	due, ended      time.Time
	canceled        bool // while it was claimed
	claim           *postrider.Claim
	until           time.Time // when the lease is over
}

// longRandom calls the store at random and compares it with the model. STORETEST_SEED repeats a run.
func longRandom(x *suite) {
	seed := uint64(1)
	if v := os.Getenv(seedVar); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		x.ok(seedVar+" as a number", err)
		seed = n
	}
	m := &model{x: x, rnd: rand.New(rand.NewPCG(seed, seed)), hooks: map[string]*postrider.Webhook{}}
	defer func() {
		if f, ok := recover().(failure); ok {
			last := m.log[max(0, len(m.log)-12):]
			panic(failure(fmt.Sprintf("%s\n%s=%d, step %d, the last calls:\n  %q", f, seedVar, seed, len(m.log), last)))
		}
	}()
	ops := []struct {
		weight int
		run    func()
	}{
		{20, m.emit}, {4, m.duplicate}, {3, m.replay}, {20, m.claim}, {24, m.complete}, {3, m.late}, {6, m.step}, {5, m.cancel},
		{5, m.due}, {5, m.pause}, {3, m.create}, {1, m.remove}, {2, m.sweep}, {3, m.prune}, {1, m.reopen},
	}
	total := 0
	for _, op := range ops {
		total += op.weight
	}
	m.create()
	m.create()
	for range 600 {
		n := m.rnd.IntN(total)
		for _, op := range ops {
			if n -= op.weight; n < 0 {
				op.run()
				break
			}
		}
		m.compare()
	}
}

func (m *model) did(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

// expire loses the claims whose lease is over. The store does it no later than at its next Claim.
func (m *model) expire() {
	for _, r := range m.rows {
		if r.claim != nil && !r.until.After(m.x.clock.Now()) {
			m.free(r)
		}
	}
}

// free ends a claim without an outcome.
func (m *model) free(r *row) {
	r.claim = nil
	if r.canceled || m.hooks[r.hook] == nil {
		m.end(r, postrider.StatusCanceled)
	}
}

func (m *model) end(r *row, s postrider.Status) {
	*m.stats.Count(r.status)--
	*m.stats.Count(s)++
	r.status, r.ended = s, m.x.clock.Now()
}

func (m *model) open(f func(*row) bool) []*row {
	var list []*row
	for _, r := range m.rows {
		if !r.status.Final() && f(r) {
			list = append(list, r)
		}
	}
	return list
}

func pick[T any](m *model, list []T) (v T, ok bool) {
	if len(list) == 0 {
		return v, false
	}
	return list[m.rnd.IntN(len(list))], true
}

func (m *model) create() {
	w := newHook(fmt.Sprint("hook-", len(m.names)))
	w.MaxInFlight = m.rnd.IntN(3) * 4
	w.Events = [][]string{{"*"}, {"a*"}, {"a.b", "c"}}[m.rnd.IntN(3)]
	m.did("create %s %v", w.ID, w.Events)
	m.x.ok("CreateWebhook", m.x.s.CreateWebhook(m.x.ctx, w))
	m.names = append(m.names, w.ID)
	m.hooks[w.ID] = &w
}

func (m *model) remove() {
	if id, ok := pick(m, slices.Sorted(maps.Keys(m.hooks))); ok && len(m.hooks) > 1 {
		m.did("delete %s", id)
		m.x.ok("DeleteWebhook", m.x.s.DeleteWebhook(m.x.ctx, id))
		delete(m.hooks, id)
	}
}

func (m *model) pause() {
	if id, ok := pick(m, slices.Sorted(maps.Keys(m.hooks))); ok {
		w := m.hooks[id]
		w.State ^= postrider.StatePaused
		m.did("%s is %s", id, w.State)
		m.x.update(id, func(stored *postrider.Webhook) { stored.State = w.State })
	}
}

func (m *model) emit() {
	var items []postrider.Item
	for range 1 + m.rnd.IntN(3) {
		items = append(items, m.x.item(func(it *postrider.Item) { it.Event.Type = []string{"a", "a.b", "c", "d"}[m.rnd.IntN(4)] }))
	}
	m.did("emit %d", len(items))
	for i, r := range m.x.enqueue(items...) {
		var want []string
		for _, id := range m.names {
			if w := m.hooks[id]; w != nil && w.Matches(items[i].Event.Type) {
				want = append(want, id)
			}
		}
		m.made(r, items[i].Event, want)
		if len(want) > 0 {
			m.events = append(m.events, items[i].Event)
		}
	}
}

// made notes the deliveries of a receipt.
func (m *model) made(r postrider.Receipt, e postrider.Event, hooks []string) {
	equal(m.x, "Duplicate of a new event", r.Duplicate, false)
	equal(m.x, "deliveries in the receipt", len(r.Deliveries), len(hooks))
	for i, id := range r.Deliveries {
		m.rows = append(m.rows, &row{id: id, hook: hooks[i], event: e.ID, due: m.x.clock.Now()})
		m.stats.New++
	}
}

func (m *model) has(event string) bool {
	return slices.ContainsFunc(m.rows, func(r *row) bool { return r.event == event })
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
	m.did("replay %s", r.id)
	e := postrider.Event{ID: r.event, Project: "p"}
	got := m.x.enqueue(postrider.Item{Event: e, To: []string{r.hook}, ReplayOf: r.id})[0]
	m.made(got, e, []string{r.hook})
}

func (m *model) claim() {
	m.expire()
	r := postrider.ClaimRequest{Max: 1 + m.rnd.IntN(8), Lease: time.Duration(1+m.rnd.IntN(4)) * time.Hour, MaxInFlight: m.rnd.IntN(4)}
	claims, wait, err := m.x.s.Claim(m.x.ctx, r)
	m.x.ok("Claim", err)
	m.did("claim %d of %d", len(claims), r.Max)
	now := m.x.clock.Now()
	// What could be handed out at most, by webhook.
	room, held := map[string]int{}, map[string]int{}
	for _, row := range m.open(func(r *row) bool { return r.claim != nil }) {
		held[row.hook]++
	}
	total := 0
	for id, w := range m.hooks {
		due := len(m.open(func(r *row) bool { return r.hook == id && r.claim == nil && !r.due.After(now) }))
		most := w.MaxInFlight
		if most == 0 {
			most = r.MaxInFlight
		}
		if room[id] = due; most > 0 {
			room[id] = max(0, min(due, most-held[id]))
		}
		if w.State != postrider.StateEnabled {
			room[id] = 0
		}
		total += room[id]
	}
	equal(m.x, "claims", len(claims), min(total, r.Max))
	for _, c := range claims {
		i := slices.IndexFunc(m.rows, func(r *row) bool { return r.id == c.Delivery.ID })
		if i < 0 || m.rows[i].claim != nil || m.rows[i].status.Final() || m.rows[i].due.After(now) {
			m.x.fail("a claim of a delivery that is due", "%s", c.Delivery.ID)
		}
		if room[c.Delivery.WebhookID]--; room[c.Delivery.WebhookID] < 0 {
			m.x.fail("no more claims of a webhook than it may have", "one more of %s", c.Delivery.WebhookID)
		}
		m.rows[i].claim, m.rows[i].until = &c, now.Add(r.Lease)
	}
	if len(claims) == r.Max {
		equal(m.x, "wait when Max was reached", wait, 0)
	}
}

func (m *model) claimed() []*row {
	now := m.x.clock.Now()
	return m.open(func(r *row) bool { return r.claim != nil && r.until.After(now) })
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
		outcomes = append(outcomes, o)
		after = append(after, func() { m.outcome(r, o) })
	}
	m.did("complete %d", len(outcomes))
	m.x.complete(outcomes...)
	for _, f := range after {
		f()
	}
}

func (m *model) outcome(r *row, o postrider.Outcome) {
	if o.Attempt == nil {
		m.free(r)
		return
	}
	r.claim = nil
	r.attempts++
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
		equal(m.x, "n of an outcome that comes too late", m.x.record(m.x.delivered(*r.claim)), 0)
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

func (m *model) query() (postrider.DeliveryQuery, []*row) {
	q := postrider.DeliveryQuery{}
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
	return q, m.open(func(r *row) bool {
		return q.Matches(&postrider.Delivery{ID: r.id, WebhookID: r.hook, Status: r.status})
	})
}

func (m *model) cancel() {
	q, rows := m.query()
	m.did("cancel %+v", q)
	_, more := m.x.change(cancel(q))
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
	q, rows := m.query()
	m.did("due %+v", q)
	m.x.change(postrider.Change{Kind: postrider.ChangeDue, Query: q})
	for _, r := range rows {
		if now := m.x.clock.Now(); r.claim == nil && r.due.After(now) {
			r.due = now
		}
	}
}

// sweep cancels what waits for deleted webhooks.
func (m *model) sweep() {
	m.did("sweep")
	_, more := m.x.change(postrider.Change{Kind: postrider.ChangeCancel, Deleted: true})
	equal(m.x, "more", more, false)
	m.cancelRows(m.open(func(r *row) bool { return m.hooks[r.hook] == nil }))
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

// compare ends the case unless the store holds what the model holds.
func (m *model) compare() {
	stats := m.stats
	stats.InFlight = int64(len(m.claimed()))
	equal(m.x, "Stats", m.x.stats(), stats)
	list := m.x.deliveries(postrider.DeliveryQuery{Ascending: true, Limit: 1000})
	equal(m.x, "deliveries", len(list), len(m.rows))
	for i, d := range list {
		r := m.rows[i]
		got := fmt.Sprintf("%s of %s to %s, %s, %d attempts, in flight %t", d.ID, d.EventID, d.WebhookID, d.Status, d.Attempts, d.InFlight)
		want := fmt.Sprintf("%s of %s to %s, %s, %d attempts, in flight %t", r.id, r.event, r.hook, r.status, r.attempts, r.claim != nil && !r.status.Final())
		equal(m.x, "delivery", got, want)
		if r.status.Final() {
			m.x.instant("Delivery.FinishedAt", d.FinishedAt, r.ended)
		} else {
			m.x.instant("Delivery.NextAt", d.NextAt, r.due)
		}
	}
}
