package storetest

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postrider/postrider"
)

// filter is a field of a query Q over rows R, apart from what a store knows of it: a way to set it, near to what
// selects the row r, and what it keeps then.
type filter[Q, R any] struct {
	name string
	set  func(l *ledger, q *Q, r R)
	keep func(q *Q, r R) bool
}

var deliveryFilters = []filter[postrider.DeliveryQuery, *entry]{
	{"ID", func(_ *ledger, q *postrider.DeliveryQuery, e *entry) { q.ID = e.ID },
		func(q *postrider.DeliveryQuery, e *entry) bool { return e.ID == q.ID }},
	{"WebhookID", func(_ *ledger, q *postrider.DeliveryQuery, e *entry) { q.WebhookID = e.hook.ID },
		func(q *postrider.DeliveryQuery, e *entry) bool { return e.hook.ID == q.WebhookID }},
	{"Project", func(_ *ledger, q *postrider.DeliveryQuery, e *entry) { q.Project = e.hook.Project },
		func(q *postrider.DeliveryQuery, e *entry) bool { return e.hook.Project == q.Project }},
	{"Owner", func(_ *ledger, q *postrider.DeliveryQuery, e *entry) { q.Owner = owner(e) },
		func(q *postrider.DeliveryQuery, e *entry) bool { return e.hook.Owner == q.Owner }},
	{"EventType", func(l *ledger, q *postrider.DeliveryQuery, e *entry) { q.EventType = pattern(l, e) },
		func(q *postrider.DeliveryQuery, e *entry) bool { return ofType(q.EventType, e.EventType) }},
	{"EventID", func(_ *ledger, q *postrider.DeliveryQuery, e *entry) { q.EventID = e.EventID },
		func(q *postrider.DeliveryQuery, e *entry) bool { return e.EventID == q.EventID }},
	{"Statuses", func(l *ledger, q *postrider.DeliveryQuery, e *entry) {
		q.Statuses = []postrider.Status{e.Status}
		for l.rnd.IntN(3) == 0 {
			q.Statuses = append(q.Statuses, postrider.Status(l.rnd.IntN(5)))
		}
	}, func(q *postrider.DeliveryQuery, e *entry) bool {
		for _, s := range q.Statuses {
			if s == e.Status {
				return true
			}
		}
		return false
	}},
	{"Code", func(l *ledger, q *postrider.DeliveryQuery, e *entry) { q.Code = code(l, e.LastCode) },
		func(q *postrider.DeliveryQuery, e *entry) bool { return ofCode(q.Code, e.LastCode) }},
	{"MinAttempts", func(l *ledger, q *postrider.DeliveryQuery, e *entry) {
		q.MinAttempts = max(1, e.Attempts+1-l.rnd.IntN(3))
	}, func(q *postrider.DeliveryQuery, e *entry) bool { return len(e.attempts) >= q.MinAttempts }},
	{"From", func(l *ledger, q *postrider.DeliveryQuery, e *entry) {
		q.From, q.To = ordered(l.near(e.CreatedAt), q.To)
	},
		func(q *postrider.DeliveryQuery, e *entry) bool { return e.CreatedAt.Compare(q.From) >= 0 }},
	{"To", func(l *ledger, q *postrider.DeliveryQuery, e *entry) {
		q.From, q.To = ordered(q.From, l.near(e.CreatedAt))
	},
		func(q *postrider.DeliveryQuery, e *entry) bool { return e.CreatedAt.Compare(q.To) <= 0 }},
	{"Test", func(_ *ledger, q *postrider.DeliveryQuery, e *entry) { q.Test = choice(e.Test) },
		func(q *postrider.DeliveryQuery, e *entry) bool { return e.Test == (q.Test == postrider.ChoiceYes) }},
	{"ReplayOf", func(_ *ledger, q *postrider.DeliveryQuery, e *entry) {
		if q.ReplayOf = e.ReplayOf; q.ReplayOf == "" {
			q.ReplayOf = e.ID // some are replayed
		}
	}, func(q *postrider.DeliveryQuery, e *entry) bool { return e.ReplayOf == q.ReplayOf }},
	{"Ascending", func(_ *ledger, q *postrider.DeliveryQuery, _ *entry) { q.Ascending = true },
		func(*postrider.DeliveryQuery, *entry) bool { return true }},
	{"Offset", func(l *ledger, q *postrider.DeliveryQuery, _ *entry) {
		q.Offset = 1 + l.rnd.IntN([]int{2, 20, 1000, 6000}[l.rnd.IntN(4)])
	}, func(*postrider.DeliveryQuery, *entry) bool { return true }},
}

// trial is an attempt and its delivery.
type trial struct {
	*entry
	attempt *postrider.Attempt
}

var attemptFilters = []filter[postrider.AttemptQuery, trial]{
	{"DeliveryID", func(_ *ledger, q *postrider.AttemptQuery, t trial) { q.DeliveryID = t.ID },
		func(q *postrider.AttemptQuery, t trial) bool { return t.ID == q.DeliveryID }},
	{"WebhookID", func(_ *ledger, q *postrider.AttemptQuery, t trial) { q.WebhookID = t.hook.ID },
		func(q *postrider.AttemptQuery, t trial) bool { return t.hook.ID == q.WebhookID }},
	{"Project", func(_ *ledger, q *postrider.AttemptQuery, t trial) { q.Project = t.hook.Project },
		func(q *postrider.AttemptQuery, t trial) bool { return t.hook.Project == q.Project }},
	{"Owner", func(_ *ledger, q *postrider.AttemptQuery, t trial) { q.Owner = owner(t.entry) },
		func(q *postrider.AttemptQuery, t trial) bool { return t.hook.Owner == q.Owner }},
	{"EventType", func(l *ledger, q *postrider.AttemptQuery, t trial) { q.EventType = pattern(l, t.entry) },
		func(q *postrider.AttemptQuery, t trial) bool { return ofType(q.EventType, t.EventType) }},
	{"Failed", func(_ *ledger, q *postrider.AttemptQuery, t trial) { q.Failed = choice(t.attempt.Failed) },
		func(q *postrider.AttemptQuery, t trial) bool {
			return t.attempt.Failed == (q.Failed == postrider.ChoiceYes)
		}},
	{"Code", func(l *ledger, q *postrider.AttemptQuery, t trial) { q.Code = code(l, t.attempt.Code) },
		func(q *postrider.AttemptQuery, t trial) bool { return ofCode(q.Code, t.attempt.Code) }},
	{"Class", func(l *ledger, q *postrider.AttemptQuery, t trial) {
		if q.Class = t.attempt.Class; q.Class == postrider.ClassNone {
			q.Class = postrider.Class(1 + l.rnd.IntN(10))
		}
	}, func(q *postrider.AttemptQuery, t trial) bool { return t.attempt.Class == q.Class }},
	{"From", func(l *ledger, q *postrider.AttemptQuery, t trial) {
		q.From, q.To = ordered(l.near(t.attempt.StartedAt), q.To)
	},
		func(q *postrider.AttemptQuery, t trial) bool { return t.attempt.StartedAt.Compare(q.From) >= 0 }},
	{"To", func(l *ledger, q *postrider.AttemptQuery, t trial) {
		q.From, q.To = ordered(q.From, l.near(t.attempt.StartedAt))
	},
		func(q *postrider.AttemptQuery, t trial) bool { return t.attempt.StartedAt.Compare(q.To) <= 0 }},
}

func owner(e *entry) string {
	if e.hook.Owner == "" {
		return "nobody" // "" would be every owner
	}
	return e.hook.Owner
}

// pattern returns a type or a pattern that takes the type of the row.
func pattern(l *ledger, e *entry) string {
	if l.rnd.IntN(2) == 0 {
		return e.EventType
	}
	return e.EventType[:l.rnd.IntN(len(e.EventType)+1)] + "*"
}

func ofType(pattern, eventType string) bool {
	if stem := strings.TrimSuffix(pattern, "*"); stem != pattern {
		return len(eventType) >= len(stem) && eventType[:len(stem)] == stem
	}
	return eventType == pattern
}

// code returns what selects the code: itself or its class.
func code(l *ledger, code int) string {
	switch {
	case code == 0:
		return postrider.CodeNone
	case l.rnd.IntN(2) == 0:
		return strconv.Itoa(code)
	}
	return fmt.Sprintf("%dxx", code/100)
}

func ofCode(want string, code int) bool {
	text := fmt.Sprintf("%03d", code)
	return want == text || want == text[:1]+"xx" || want == "none" && code == 0
}

func choice(yes bool) postrider.Choice {
	if yes {
		return postrider.ChoiceYes
	}
	return postrider.ChoiceNo
}

// near returns a bound at an instant or beside it. On a clock that is not the suite's it lies between two instants.
func (l *ledger) near(t time.Time) time.Time {
	if l.x.h.Advance != nil {
		return t.Add(-ledgerGap / 2)
	}
	return t.Add([]time.Duration{0, 0, 1, -1, time.Microsecond, -time.Microsecond, time.Hour, -time.Hour}[l.rnd.IntN(8)])
}

// ordered swaps two bounds that are the wrong way round.
func ordered(from, to time.Time) (time.Time, time.Time) {
	if !from.IsZero() && !to.IsZero() && to.Before(from) {
		return to, from
	}
	return from, to
}
