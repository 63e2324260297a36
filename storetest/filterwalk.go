package storetest

import (
	"fmt"
	"slices"
	"strings"
)

// stroll is a walk through a list while its rows change.
type stroll struct {
	what      string
	list      pages
	ascending bool
	now       func() []string // what it selects at this moment, oldest first
	due       map[string]bool // what it has selected at every moment since its start
	met       []string
	cursor    string
	over      bool
}

// filtersWalk walks through many lists at once, a page of each in turn, while deliveries are added and end.
func filtersWalk(x *suite) {
	l := newLedger(x)
	l.fill(300)
	for range 30 {
		l.add(6)
	}
	var list []*stroll
	times := x.h.Advance == nil // else the store's instants move away from the bounds
	for _, set := range [][]string{
		{}, {"WebhookID"}, {"Project"}, {"Owner"}, {"EventType"}, {"Statuses"}, {"Code"}, {"MinAttempts"}, {"From"}, {"To"}, {"Test"},
		{"EventID"}, {"ReplayOf"}, {"Project", "Statuses"}, {"Owner", "Code"}, {"EventType", "MinAttempts"}, {"WebhookID", "Test"},
	} {
		if !times && (slices.Contains(set, "From") || slices.Contains(set, "To")) {
			continue
		}
		list = append(list, l.strollDeliveries(set), l.strollDeliveries(append(set, "Ascending")))
	}
	for _, set := range [][]string{
		{}, {"WebhookID"}, {"Project"}, {"Owner"}, {"EventType"}, {"Failed"}, {"Code"}, {"Class"}, {"Owner", "Failed"}, {"Project", "Code"},
	} {
		list = append(list, l.strollAttempts(set))
	}
	rounds, rows := 0, len(l.rows)
	for open := len(list); open > 0; rounds++ {
		open = 0
		for _, s := range list {
			if !s.over {
				s.page(x)
				open++
			}
		}
		// In ascending order new rows come behind the walk: they have to stop for it to end.
		if rounds < 40 {
			l.stir(rounds)
			for _, s := range list {
				s.keep()
			}
		}
	}
	met := 0
	for _, s := range list {
		met += len(s.met)
		for id := range s.due {
			if !slices.Contains(s.met, id) {
				x.fail(fmt.Sprintf("%s to meet every row that it selected all the time", s.what), "none of %s", id)
			}
		}
	}
	x.t.Logf("%d walks at once met %d rows in %d rounds, while %d deliveries became %d", len(list), met, rounds, rows, len(l.rows))
}

// stir adds deliveries and ends others.
func (l *ledger) stir(round int) {
	l.add(6)
	l.work(8)
	switch round % 4 {
	case 1:
		l.release()
	case 2:
		l.due(l.hooks[round%len(l.hooks)])
	}
}

// strollDeliveries returns a walk through the deliveries with these fields set.
func (l *ledger) strollDeliveries(set []string) *stroll {
	q, keep := some(l, deliveryFilters, l.rows, set)
	s := &stroll{what: fmt.Sprintf("a walk over the deliveries of %+v", q), ascending: q.Ascending}
	s.list = func(cursor string) ([]string, string, error) {
		q.Limit = 1 + l.rnd.IntN(9) // which may change from page to page
		return deliveryPages(l.x, q)(cursor)
	}
	s.now = func() (ids []string) {
		for _, e := range l.rows {
			if keep(e) {
				ids = append(ids, e.ID)
			}
		}
		return ids
	}
	s.keep()
	return s
}

func (l *ledger) strollAttempts(set []string) *stroll {
	q, keep := some(l, attemptFilters, l.trials(), set)
	s := &stroll{what: fmt.Sprintf("a walk over the attempts of %+v", q)}
	s.list = func(cursor string) ([]string, string, error) {
		q.Limit = 1 + l.rnd.IntN(9)
		return attemptPages(l.x, q)(cursor)
	}
	s.now = func() (ids []string) {
		for _, t := range l.trials() {
			if keep(t) {
				ids = append(ids, t.attempt.ID())
			}
		}
		return ids
	}
	s.keep()
	return s
}

// some returns a query with some fields set and what it keeps. It keeps more than a few rows, if a few tries find such.
func some[Q, R any](l *ledger, filters []filter[Q, R], rows []R, set []string) (q Q, keep func(R) bool) {
	for range 20 {
		var fresh Q
		q = fresh
		var chosen []filter[Q, R]
		r := rows[len(rows)-1-l.rnd.IntN(len(rows)/3)] // of the latest, many of which will change
		for _, f := range filters {
			if slices.Contains(set, f.name) {
				f.set(l, &q, r)
				chosen = append(chosen, f)
			}
		}
		keep = func(r R) bool {
			return !slices.ContainsFunc(chosen, func(f filter[Q, R]) bool { return !f.keep(&q, r) })
		}
		n := 0
		for _, r := range rows {
			if keep(r) {
				n++
			}
		}
		if n > 20 {
			break
		}
	}
	return q, keep
}

// keep forgets what the walk does not select any more.
func (s *stroll) keep() {
	now := map[string]bool{}
	for _, id := range s.now() {
		if s.due == nil || s.due[id] {
			now[id] = true
		}
	}
	s.due = now
}

// page reads the next page. It ends the case unless its rows are selected, in order, and were not met before.
func (s *stroll) page(x *suite) {
	ids, next, err := s.list(s.cursor)
	x.ok("the page behind "+fmt.Sprintf("%q", s.cursor), err)
	now := s.now()
	if !s.ascending {
		slices.Reverse(now)
	}
	at := 0
	for _, id := range ids {
		if slices.Contains(s.met, id) {
			x.fail(s.what+" to meet each row once", "%s twice", id)
		}
		i := slices.Index(now[at:], id)
		if i < 0 {
			x.fail(s.what+" to meet in their order rows that it selects", "%s, which is not of %s", id, strings.Join(now[at:], " "))
		}
		at += i + 1
	}
	s.met = append(s.met, ids...)
	if s.cursor, s.over = next, next == ""; len(s.met) > 10_000 {
		x.fail(s.what+" to end", "%d rows", len(s.met))
	}
}
