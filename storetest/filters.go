package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/postrider/postrider"
)

// The cases here come late: they take long, and what they need others check one by one.
var filterCases = []testCase{
	{name: "Deliveries/offset", run: deliveriesOffset, file: "query.go",
		says: "rows to skip, at most MaxOffset; not together with Cursor"},
	{name: "Stats/filters", run: statsFilters, file: "query.go",
		says: "StatsQuery selects what is counted; every field that is set narrows it."},
	{name: "Attempts/filters", run: attemptsFilters, file: "query.go",
		says: "AttemptQuery selects finished attempts; every field that is set narrows it."},
	{name: "Deliveries/filters", run: deliveriesFilters, file: "query.go",
		says: "DeliveryQuery selects deliveries; every field that is set narrows it. Newest first, unless Ascending: in the order in which they were committed."},
	{name: "Deliveries/filters-walk", run: filtersWalk, says: saysWalk},
}

// ask is a query that sets some filters, and the rows it has to answer, in their order.
type ask[Q, R any] struct {
	q     Q
	limit int
	want  []R
}

// tally is what a number of asks covered.
type tally struct {
	fields, pairs             map[string]bool
	queries, empty, ones, all int
}

func (t *tally) String() string {
	return fmt.Sprintf("%d queries cover %d fields alone and %d pairs; %d results are empty, %d are read in pages of 1; %d rows compared",
		t.queries, len(t.fields), len(t.pairs), t.empty, t.ones, t.all)
}

// asks calls f with n queries that together set each filter alone and each pair of filters, again and again with other
// values, and some more at once. What selected much three times makes room for the latter, since reading takes long.
func asks[Q, R any](l *ledger, filters []filter[Q, R], rows []R, n int, f func(ask[Q, R]) []R) *tally {
	var sets [][]int
	for i := range filters {
		sets = append(sets, []int{i})
	}
	for i := range filters {
		for j := range i {
			sets = append(sets, []int{i, j})
		}
	}
	wide := make([]int, len(sets))
	t := &tally{fields: map[string]bool{}, pairs: map[string]bool{}}
	for k := range n {
		set := sets[k%len(sets)]
		if wide[k%len(sets)] == 3 || k > n*4/5 {
			set = l.rnd.Perm(len(filters))[:3+l.rnd.IntN(3)]
		}
		a := ask[Q, R]{}
		r := rows[l.rnd.IntN(len(rows))]
		for _, i := range set {
			filters[i].set(l, &a.q, r)
			if l.rnd.IntN(5) == 0 {
				r = rows[l.rnd.IntN(len(rows))]
			}
		}
		for _, r := range rows {
			if !slices.ContainsFunc(set, func(i int) bool { return !filters[i].keep(&a.q, r) }) {
				a.want = append(a.want, r)
			}
		}
		a.limit = []int{0, 1000, 1000, 1 + len(a.want)/2 + l.rnd.IntN(5)}[l.rnd.IntN(4)]
		if a.limit = min(a.limit, postrider.MaxLimit); len(a.want) <= 30 && l.rnd.IntN(2) == 0 {
			a.limit = 1
		}
		want := f(a)
		if len(set) < 3 && len(want) > len(rows)/10 {
			wide[k%len(sets)]++
		}
		t.queries++
		t.all += len(want)
		if len(set) == 1 {
			t.fields[filters[set[0]].name] = true
		}
		if len(set) == 2 {
			t.pairs[filters[set[0]].name+"+"+filters[set[1]].name] = true
		}
		if len(want) == 0 {
			t.empty++
		} else if a.limit == 1 {
			t.ones++
		}
	}
	return t
}

// read returns all rows of a list, page by page.
func read[T any](x *suite, what string, limit int, page func(cursor string) (postrider.Page[T], error)) (all []T) {
	for cursor, n := "", 0; ; n++ {
		p, err := page(cursor)
		x.ok(what, err)
		if most := max(limit, 1); limit > 0 && len(p.Items) > most || len(p.Items) > postrider.MaxLimit {
			x.fail(fmt.Sprintf("at most %d rows of %s", limit, what), "%d", len(p.Items))
		}
		all = append(all, p.Items...)
		if p.Next == "" {
			return all
		}
		if n > 20_000 || p.Next == cursor {
			x.fail("a last page of "+what, "none after %d", n)
		}
		cursor = p.Next
	}
}

func deliveriesFilters(x *suite) {
	l := newLedger(x)
	l.fill(x.scaled(5_000))
	t := asks(l, deliveryFilters, l.rows, x.scaled(2_000), func(a ask[postrider.DeliveryQuery, *entry]) []*entry {
		want := a.want
		if !a.q.Ascending {
			want = slices.Clone(want)
			slices.Reverse(want)
		}
		want = want[min(a.q.Offset, len(want)):]
		what := fmt.Sprintf("the deliveries of %+v, %d a page", a.q, a.limit)
		q := a.q
		q.From, q.To, q.Limit = x.clock.bound(q.From), x.clock.bound(q.To), a.limit
		got := read(x, what, a.limit, func(cursor string) (postrider.Page[postrider.Delivery], error) {
			if q.Cursor = cursor; cursor != "" {
				q.Offset = 0
			}
			return x.s.Store.Deliveries(x.ctx, q) // unchecked, for speed: all of it is compared
		})
		l.sameRows(what, got, want)
		return want
	})
	x.t.Log("DeliveryQuery:", t)
}

// bound returns what the store calls the suite's instant, zero for zero.
func (c *clock) bound(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return c.stored(t)
}

// sameRows ends the case unless the deliveries are those of the entries, in their order.
func (l *ledger) sameRows(what string, got []postrider.Delivery, want []*entry) {
	for i := range min(len(got), len(want)) {
		if got[i].ID != want[i].ID {
			l.x.fail(fmt.Sprintf("%s: number %d of %d is %+v", what, i, len(want), want[i].Delivery), "%+v, of %d", got[i], len(got))
		}
		if wrong := l.differs(got[i], want[i]); wrong != "" {
			l.x.fail(fmt.Sprintf("%s: number %d as it was left", what, i), "%s", wrong)
		}
	}
	equal(l.x, "how many are "+what, len(got), len(want))
}

func deliveriesOffset(x *suite) {
	ids := x.send(x.hook("a"), 12)
	for _, limit := range []int{1, 5, 100} {
		for _, offset := range []int{0, 1, 5, 11, 12, 13, postrider.MaxOffset} {
			for _, ascending := range []bool{false, true} {
				q := postrider.DeliveryQuery{Offset: offset, Limit: limit, Ascending: ascending}
				what := fmt.Sprintf("deliveries of %+v", q)
				got := read(x, what, limit, func(cursor string) (postrider.Page[postrider.Delivery], error) {
					if q.Cursor = cursor; cursor != "" {
						q.Offset = 0
					}
					return x.s.Store.Deliveries(x.ctx, q) // unchecked, for speed: all of it is compared
				})
				want := slices.Clone(ids)
				if !ascending {
					slices.Reverse(want)
				}
				want = want[min(offset, len(want)):]
				equal(x, what, fmt.Sprint(idsOf(got, func(d postrider.Delivery) string { return d.ID })), fmt.Sprint(want))
			}
		}
	}
	page, err := x.s.Deliveries(x.ctx, postrider.DeliveryQuery{Limit: 1})
	x.ok("Deliveries", err)
	for _, q := range []postrider.DeliveryQuery{{Offset: 1, Limit: 1, Cursor: page.Next}, {Offset: -1}, {Offset: postrider.MaxOffset + 1}} {
		_, err := x.s.Deliveries(x.ctx, q)
		x.invalid(fmt.Sprintf("Deliveries of %+v", q), err)
	}
}

// trials returns the attempts of all rows, oldest first.
func (l *ledger) trials() (list []trial) {
	for _, e := range l.rows {
		for i := range e.attempts {
			list = append(list, trial{e, &e.attempts[i]})
		}
	}
	return list
}

func attemptsFilters(x *suite) {
	l := newLedger(x)
	l.fill(x.scaled(1_500))
	t := asks(l, attemptFilters, l.trials(), x.scaled(700), func(a ask[postrider.AttemptQuery, trial]) []trial {
		want := slices.Clone(a.want)
		slices.Reverse(want)
		what := fmt.Sprintf("the attempts of %+v, %d a page", a.q, a.limit)
		q := a.q
		q.Limit = a.limit
		got := read(x, what, a.limit, func(cursor string) (postrider.Page[postrider.Attempt], error) {
			q.Cursor = cursor
			return x.s.Store.Attempts(x.ctx, q)
		})
		for i := range min(len(got), len(want)) {
			if got[i].ID() != want[i].attempt.ID() {
				x.fail(fmt.Sprintf("%s: number %d of %d is %+v", what, i, len(want), *want[i].attempt), "%+v, of %d", got[i], len(got))
			}
			x.sameAttempt(got[i], *want[i].attempt)
		}
		equal(x, "how many are "+what, len(got), len(want))
		return want
	})
	x.t.Log("AttemptQuery:", t)
}

func statsFilters(x *suite) {
	l := newLedger(x)
	l.fill(500)
	queries, empty := 0, 0
	for _, hook := range append(l.hooks, &party{}, &party{Webhook: postrider.Webhook{ID: "nobody"}}) {
		for _, project := range []string{"", "p", "q", "r-1", "s"} {
			for _, owner := range []string{"", "one", "two", "Ow ner/3", "nobody"} {
				q := postrider.StatsQuery{WebhookID: hook.ID, Project: project, Owner: owner}
				got, err := x.s.Stats(x.ctx, q)
				if queries++; hook.ID == "nobody" {
					x.is(fmt.Sprintf("Stats of %+v", q), err, postrider.ErrNotFound)
					continue
				}
				x.ok("Stats", err)
				want := l.counts(func(p *party) bool {
					return (hook.ID == "" || p.ID == hook.ID) && (project == "" || p.Project == project) && (owner == "" || p.Owner == owner)
				})
				x.sameStats(fmt.Sprintf("Stats of %+v", q), got, want)
				if want == (postrider.Stats{}) {
					empty++
				}
			}
		}
	}
	x.t.Logf("StatsQuery: %d queries cover 3 fields in all ways; %d count nothing", queries, empty)
}

// counts returns the counts of some webhooks.
func (l *ledger) counts(of func(*party) bool) (s postrider.Stats) {
	for _, p := range l.hooks {
		if of(p) {
			s.Add(&p.pruned)
		}
	}
	for _, e := range l.rows {
		if !of(e.hook) {
			continue
		}
		switch e.Status {
		case postrider.StatusNew:
			s.New++
		case postrider.StatusInProcess:
			s.InProcess++
		case postrider.StatusDelivered:
			s.Delivered++
		case postrider.StatusCanceled:
			s.Canceled++
		case postrider.StatusFailed:
			s.Failed++
		}
		if e.claim != nil {
			s.InFlight++
		}
		if now := l.x.clock.Now(); !e.Status.Final() && !e.NextAt.After(now) && !l.parked(e) {
			if s.Due++; s.OldestDue.IsZero() || e.NextAt.Before(s.OldestDue) {
				s.OldestDue = e.NextAt
			}
		}
		e.countAttempts(&s)
	}
	return s
}
