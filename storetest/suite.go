package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postrider/postrider"
)

// lease is how long cases hold claims unless they say otherwise.
const lease = time.Hour

// suite is what a case works with. Its methods end the case when something is not as it has to be; they are for the
// goroutine of the case, all but s and clock.
type suite struct {
	t        *testing.T
	h        Harness
	ctx      context.Context
	patience time.Duration
	brief    bool // long cases are done with less
	clock    *clock
	tick     time.Duration // the smallest step of time that the store can tell

	s       *checked   // the store, every answer of which is checked
	handles []*checked // all handles, the latest last
	book    *book      // what they have seen
	tx      *caseTx    // the last one
	n       int        // numbers events
}

// scaled returns how many of n a long case does.
func (x *suite) scaled(n int) int {
	if x.brief {
		return n / 8
	}
	return n
}

// failure ends a case.
type failure string

// fail ends the case: what was expected, and what came instead.
func (x *suite) fail(expected, came string, args ...any) {
	panic(failure("expected: " + expected + "\ncame:     " + fmt.Sprintf(came, args...)))
}

// ok ends the case if a call that has to succeed did not.
func (x *suite) ok(call string, err error) {
	if err != nil {
		x.fail(call+" to succeed", "%v", err)
	}
}

// is ends the case unless err is the target.
func (x *suite) is(call string, err, target error) {
	if !errors.Is(err, target) {
		x.fail(fmt.Sprintf("%s to answer %q", call, target), "%v", err)
	}
}

// invalid ends the case unless err is ErrInvalid with its *ValidationError.
func (x *suite) invalid(call string, err error) {
	var v *postrider.ValidationError
	if !errors.Is(err, postrider.ErrInvalid) || !errors.As(err, &v) || len(v.Fields) == 0 {
		x.fail(call+" to answer ErrInvalid with a *ValidationError", "%v", err)
	}
}

// equal ends the case unless got is want.
func equal[T comparable](x *suite, what string, got, want T) {
	if got != want {
		x.fail(fmt.Sprintf("%s: %v", what, want), "%v", got)
	}
}

// instant ends the case unless got, an instant of the store's, is want, one of the suite's; zero is only zero.
func (x *suite) instant(what string, got, want time.Time) {
	if got.IsZero() != want.IsZero() {
		x.fail(fmt.Sprintf("%s: %v", what, want), "%v", got)
	}
	if want.IsZero() {
		return
	}
	if x.h.Advance == nil && !got.Equal(want) || x.h.Advance != nil && got.Sub(x.clock.stored(want)).Abs() >= x.tick {
		x.fail(fmt.Sprintf("%s: %v", what, want), "%v", got)
	}
}

// wait ends the case unless got, a wait that Claim returned, is want.
func (x *suite) wait(what string, got, want time.Duration) {
	exact := x.h.Advance == nil || want == 0 || want == postrider.Forever
	if exact && got != want || !exact && (got > want || got <= want-x.tick) {
		x.fail(fmt.Sprintf("a wait of %v %s", want, what), "%v", got)
	}
}

// clock is the suite's time. It stands still until a case moves it.
type clock struct {
	mu    sync.Mutex
	t     time.Time
	moved time.Duration // by how much older the store's data was made: with Advance its instants are of real time
	own   bool          // the store measures with Now
}

func newClock(h Harness) *clock {
	if h.Advance != nil {
		return &clock{t: time.Now().UTC().Truncate(time.Microsecond)}
	}
	return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC), own: true}
}

// Now returns the suite's time.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// stored returns what the store calls the suite's instant t.
func (c *clock) stored(t time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own {
		return t
	}
	return t.Add(-c.moved)
}

// local returns what the suite calls the store's instant t.
func (c *clock) local(t time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.own || t.IsZero() {
		return t
	}
	return t.Add(c.moved)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
	c.moved += d
}

// step moves time.
func (x *suite) step(d time.Duration) {
	x.clock.move(d)
	if x.h.Advance != nil {
		x.h.Advance(x.t, x.s.Store, d)
	}
}

// older returns the delivery as it is read after a step by d: with Advance its times were moved.
func (x *suite) older(v postrider.Delivery, d time.Duration) postrider.Delivery {
	if x.h.Advance == nil {
		return v
	}
	for _, t := range []*time.Time{&v.CreatedAt, &v.NextAt, &v.FinishedAt} {
		if !t.IsZero() {
			*t = t.Add(-d)
		}
	}
	return v
}

// open returns a new store.
func (x *suite) open() *checked { return x.keep(x.h.Open(x.t, x.clock.Now)) }

// reopen closes the case's store and opens it again.
func (x *suite) reopen() {
	old := x.s
	old.closed.Store(true)
	x.book.forget() // a claim need not survive
	x.s = x.keep(x.h.Reopen(x.t, old.Store, x.clock.Now))
}

// share returns another handle on the case's store.
func (x *suite) share() *checked { return x.keep(x.h.Shared(x.t, x.s.Store, x.clock.Now)) }

func (x *suite) keep(s postrider.Store) *checked {
	c := &checked{Store: s, book: x.book}
	x.handles = append(x.handles, c)
	return c
}

// closeAll closes what the case left open, also after a failure.
func (x *suite) closeAll() {
	var err error
	if x.tx != nil && !x.tx.over {
		err = x.tx.Rollback() // a store that waits for it could not be closed
	}
	for i := len(x.handles) - 1; i >= 0; i-- {
		if s := x.handles[i]; !s.closed.Load() {
			err = errors.Join(err, s.Close())
		}
	}
	if r := recover(); r != nil {
		panic(r)
	}
	x.ok("Close after the case", err)
}

// verdict ends the case if an answer contradicted itself.
func (x *suite) verdict() {
	for _, s := range x.handles {
		if err := s.problem(); err != nil {
			x.fail("answers that do not contradict themselves (Validate)", "%v", err)
		}
	}
}

// hook stores a webhook that takes every event of project "p", after the edits, and returns its ID.
func (x *suite) hook(id string, edit ...func(*postrider.Webhook)) string {
	w := newHook(id)
	for _, f := range edit {
		f(&w)
	}
	x.ok("CreateWebhook", x.s.CreateWebhook(x.ctx, w))
	return w.ID
}

func newHook(id string) postrider.Webhook {
	return postrider.Webhook{
		ID: id, Project: "p", Name: "name-" + id, Owner: "owner-" + id, URL: "https://example.com/" + id, Events: []string{"*"},
	}
}

// webhook returns the stored webhook.
func (x *suite) webhook(id string) postrider.Webhook {
	w, err := x.s.Webhook(x.ctx, id)
	x.ok("Webhook", err)
	return w
}

// update changes the stored webhook.
func (x *suite) update(id string, f func(*postrider.Webhook)) {
	w := x.webhook(id)
	f(&w)
	x.ok("UpdateWebhook", x.s.UpdateWebhook(x.ctx, w))
}

// item returns a new event of project "p", type "t", for every webhook that matches.
func (x *suite) item(edit ...func(*postrider.Item)) postrider.Item {
	x.n++
	it := postrider.Item{Event: postrider.Event{
		ID: fmt.Sprintf("event-%04d", x.n), Project: "p", Type: "t", Time: x.clock.Now(), Payload: fmt.Appendf(nil, `{"n":%d}`, x.n),
	}}
	for _, f := range edit {
		f(&it)
	}
	return it
}

func to(hooks ...string) func(*postrider.Item) {
	return func(it *postrider.Item) { it.To = hooks }
}

// enqueue stores the items in one call.
func (x *suite) enqueue(items ...postrider.Item) []postrider.Receipt {
	receipts, err := x.s.Enqueue(x.ctx, items)
	x.ok("Enqueue", err)
	if len(receipts) != len(items) {
		x.fail(fmt.Sprintf("%d receipts", len(items)), "%d", len(receipts))
	}
	return receipts
}

// send stores n events for the webhook, one a call, and returns their deliveries.
func (x *suite) send(hook string, n int) []string {
	var ids []string
	for range n {
		got := x.enqueue(x.item(to(hook)))[0].Deliveries
		if len(got) != 1 {
			x.fail("one delivery", "%d", len(got))
		}
		ids = append(ids, got...)
	}
	return ids
}

// claim claims at most limit deliveries.
func (x *suite) claim(limit int, edit ...func(*postrider.ClaimRequest)) []postrider.Claim {
	claims, _ := x.claimWait(limit, edit...)
	return claims
}

func (x *suite) claimWait(limit int, edit ...func(*postrider.ClaimRequest)) ([]postrider.Claim, time.Duration) {
	r := postrider.ClaimRequest{Max: limit, Lease: lease}
	for _, f := range edit {
		f(&r)
	}
	claims, wait, err := x.s.Claim(x.ctx, r)
	x.ok("Claim", err)
	return claims, wait
}

func only(id string) func(*postrider.ClaimRequest) {
	return func(r *postrider.ClaimRequest) { r.Only = id }
}

// claimOne claims the one delivery that is due.
func (x *suite) claimOne() postrider.Claim {
	claims := x.claim(10)
	if len(claims) != 1 {
		x.fail("one claim", "%d claims", len(claims))
	}
	return claims[0]
}

// claimsNothing ends the case if there is something to claim.
func (x *suite) claimsNothing(when string) {
	if claims := x.claim(10); len(claims) > 0 {
		x.fail("nothing to be handed out "+when, "delivery %s", claims[0].Delivery.ID)
	}
}

// complete records outcomes of claims that are held.
func (x *suite) complete(outcomes ...postrider.Outcome) {
	if n := x.record(outcomes...); n != len(outcomes) {
		x.fail(fmt.Sprintf("Complete to record %d outcomes", len(outcomes)), "%d", n)
	}
}

// record records outcomes and returns how many the store took.
func (x *suite) record(outcomes ...postrider.Outcome) int {
	n, err := x.s.Complete(x.ctx, outcomes)
	x.ok("Complete", err)
	return n
}

// delivered is the outcome of a claim that went well.
func (x *suite) delivered(c postrider.Claim) postrider.Outcome {
	now := x.clock.Now()
	return postrider.Outcome{
		DeliveryID: c.Delivery.ID, Token: c.Token, Status: postrider.StatusDelivered,
		Attempt: &postrider.Attempt{
			DeliveryID: c.Delivery.ID, WebhookID: c.Delivery.WebhookID, Number: c.Delivery.Attempts + 1,
			StartedAt: now, FinishedAt: now.Add(30 * time.Millisecond), Timestamp: now.Unix(), Code: 200, Body: []byte("ok"),
		},
	}
}

// failed is the outcome of a claim that did not, and ends the delivery.
func (x *suite) failed(c postrider.Claim) postrider.Outcome {
	o := x.delivered(c)
	o.Status = postrider.StatusFailed
	o.Attempt.Failed, o.Attempt.Code, o.Attempt.Class, o.Attempt.Error = true, 500, postrider.ClassStatus, "no"
	return o
}

// again is the outcome of a claim that did not go well and is to be tried once more.
func (x *suite) again(c postrider.Claim, in time.Duration) postrider.Outcome {
	o := x.failed(c)
	o.Status, o.RetryIn, o.Attempt.NextAt = postrider.StatusInProcess, in, x.clock.Now().Add(in)
	return o
}

// released gives the claim back.
func released(c postrider.Claim) postrider.Outcome {
	return postrider.Outcome{DeliveryID: c.Delivery.ID, Token: c.Token}
}

// delivery returns the stored delivery.
func (x *suite) delivery(id string) postrider.Delivery {
	d, _ := x.deliveryAttempts(id)
	return d
}

func (x *suite) deliveryAttempts(id string) (postrider.Delivery, []postrider.Attempt) {
	d, attempts, err := x.s.Delivery(x.ctx, id)
	x.ok("Delivery", err)
	return d, attempts
}

// status ends the case unless the delivery has the status.
func (x *suite) status(id string, want postrider.Status) {
	equal(x, "the status of delivery "+id, x.delivery(id).Status, want)
}

// stats returns the store's counters.
func (x *suite) stats() postrider.Stats { return x.statsOf(postrider.StatsQuery{}) }

func (x *suite) statsOf(q postrider.StatsQuery) postrider.Stats {
	stats, err := x.s.Stats(x.ctx, q)
	x.ok("Stats", err)
	if q.Rates && stats.Rates == nil {
		x.fail(fmt.Sprintf("the Rates of %+v", q), "none")
	}
	return stats
}

// counts returns the store's counters but for what is due, which has cases of its own.
func (x *suite) counts() postrider.Stats { return undated(x.stats()) }

func undated(s postrider.Stats) postrider.Stats {
	s.Due, s.OldestDue = 0, time.Time{}
	return s
}

// sameStats ends the case unless the counters, which are without Rates, are the same.
func (x *suite) sameStats(what string, got, want postrider.Stats) {
	x.instant(what+": OldestDue", got.OldestDue, want.OldestDue)
	got.OldestDue, want.OldestDue = time.Time{}, time.Time{}
	equal(x, what, got, want)
}

// change changes deliveries and returns how many.
func (x *suite) change(c postrider.Change) (n int, more bool) {
	if c.Max == 0 {
		c.Max = 1000
	}
	n, more, err := x.s.Change(x.ctx, c)
	x.ok("Change", err)
	return n, more
}

func sorted(list []string) string {
	slices.Sort(list)
	return strings.Join(list, " ")
}
