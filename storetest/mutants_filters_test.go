package storetest_test

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/postrider/postrider"
)

// The mutants of filters: each field is ignored once. Where a case before fails on a field that is always ignored, it
// is ignored together with another.
var filterMutants = []mutant{
	{"Deliveries/filters", "ID ignored with EventType", ignores(func(q *postrider.DeliveryQuery) {
		if q.EventType != "" {
			q.ID = ""
		}
	})},
	{"Deliveries/filters", "WebhookID ignored with Test", ignores(func(q *postrider.DeliveryQuery) {
		if q.Test != 0 {
			q.WebhookID = ""
		}
	})},
	{"Deliveries/filters", "Project ignored with Owner", ignores(func(q *postrider.DeliveryQuery) {
		if q.Owner != "" {
			q.Project = ""
		}
	})},
	{"Deliveries/filters", "Owner ignored", ignores(func(q *postrider.DeliveryQuery) { q.Owner = "" })},
	{"Deliveries/filters", "EventType ignored", ignores(func(q *postrider.DeliveryQuery) { q.EventType = "" })},
	{"Deliveries/filters", "EventID ignored", ignores(func(q *postrider.DeliveryQuery) { q.EventID = "" })},
	{"Deliveries/filters", "Statuses ignored with Code", ignores(func(q *postrider.DeliveryQuery) {
		if q.Code != "" {
			q.Statuses = nil
		}
	})},
	{"Deliveries/filters", "Code ignored", ignores(func(q *postrider.DeliveryQuery) { q.Code = "" })},
	{"Deliveries/filters", "MinAttempts ignored", ignores(func(q *postrider.DeliveryQuery) { q.MinAttempts = 0 })},
	{"Deliveries/filters", "From ignored", ignores(func(q *postrider.DeliveryQuery) { q.From = time.Time{} })},
	{"Deliveries/filters", "To ignored", ignores(func(q *postrider.DeliveryQuery) { q.To = time.Time{} })},
	{"Deliveries/filters", "Test ignored", ignores(func(q *postrider.DeliveryQuery) { q.Test = postrider.ChoiceAny })},
	{"Deliveries/filters", "ReplayOf ignored", ignores(func(q *postrider.DeliveryQuery) { q.ReplayOf = "" })},
	{"Deliveries/filters", "Ascending ignored with From", ignores(func(q *postrider.DeliveryQuery) {
		if !q.From.IsZero() {
			q.Ascending = false
		}
	})},
	{"Deliveries/filters", "Offset ignored with MinAttempts", ignores(func(q *postrider.DeliveryQuery) {
		if q.MinAttempts > 0 {
			q.Offset = 0
		}
	})},
	{"Deliveries/offset", "ignored", ignores(func(q *postrider.DeliveryQuery) { q.Offset = 0 })},
	{"Deliveries/filters", "a type is a prefix", ignores(func(q *postrider.DeliveryQuery) {
		if q.EventType != "" {
			q.EventType = strings.TrimSuffix(q.EventType, "*") + "*"
		}
	})},
	{"Deliveries/filters", "a code is its class", ignores(func(q *postrider.DeliveryQuery) {
		if q.Code != "" && q.Code != postrider.CodeNone {
			q.Code = q.Code[:1] + "xx"
		}
	})},
	{"Deliveries/filters", "From excluded", drops(func(q *postrider.DeliveryQuery, d *postrider.Delivery) bool { return d.CreatedAt.Equal(q.From) })},
	{"Deliveries/filters", "To excluded", drops(func(q *postrider.DeliveryQuery, d *postrider.Delivery) bool { return d.CreatedAt.Equal(q.To) })},
	{"Deliveries/filters", "attempts exactly", drops(func(q *postrider.DeliveryQuery, d *postrider.Delivery) bool {
		return q.MinAttempts > 0 && d.Attempts != q.MinAttempts
	})},
	{"Deliveries/filters", "none is 0 attempts", drops(func(q *postrider.DeliveryQuery, d *postrider.Delivery) bool {
		return q.Code == postrider.CodeNone && d.Attempts > 0
	})},
	{"Deliveries/filters", "the event's own deliveries only", drops(func(q *postrider.DeliveryQuery, d *postrider.Delivery) bool {
		return q.EventID != "" && d.ReplayOf != ""
	})},
	{"Deliveries/offset", "with a cursor", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			if q.Cursor != "" {
				q.Offset = 0
			}
			return b.Store.Deliveries(ctx, q)
		}
	}},
	{"Attempts/filters", "DeliveryID ignored with Failed", ignoresOfAttempts(func(q *postrider.AttemptQuery) {
		if q.Failed != 0 {
			q.DeliveryID = ""
		}
	})},
	{"Attempts/filters", "WebhookID ignored with Code", ignoresOfAttempts(func(q *postrider.AttemptQuery) {
		if q.Code != "" {
			q.WebhookID = ""
		}
	})},
	{"Attempts/filters", "Project ignored", ignoresOfAttempts(func(q *postrider.AttemptQuery) { q.Project = "" })},
	{"Attempts/filters", "Owner ignored", ignoresOfAttempts(func(q *postrider.AttemptQuery) { q.Owner = "" })},
	{"Attempts/filters", "EventType ignored", ignoresOfAttempts(func(q *postrider.AttemptQuery) { q.EventType = "" })},
	{"Attempts/filters", "Failed ignored", ignoresOfAttempts(func(q *postrider.AttemptQuery) { q.Failed = postrider.ChoiceAny })},
	{"Attempts/filters", "Code ignored", ignoresOfAttempts(func(q *postrider.AttemptQuery) { q.Code = "" })},
	{"Attempts/filters", "Class ignored", ignoresOfAttempts(func(q *postrider.AttemptQuery) { q.Class = postrider.ClassNone })},
	{"Attempts/filters", "From ignored", ignoresOfAttempts(func(q *postrider.AttemptQuery) { q.From = time.Time{} })},
	{"Attempts/filters", "To ignored", ignoresOfAttempts(func(q *postrider.AttemptQuery) { q.To = time.Time{} })},
	{"Attempts/filters", "the last attempt only, with a code", func(b *broken) {
		b.attempts = func(ctx context.Context, q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
			page, err := b.Store.Attempts(ctx, q)
			if q.Code != "" {
				page.Items = slices.DeleteFunc(page.Items, func(a postrider.Attempt) bool {
					d, _, err := b.Store.Delivery(ctx, a.DeliveryID)
					return err == nil && a.Number != d.Attempts
				})
			}
			return page, err
		}
	}},
	{"Stats/filters", "WebhookID ignored with Owner", ignoresOfStats(func(q *postrider.StatsQuery) {
		if q.Owner != "" {
			q.WebhookID = ""
		}
	})},
	{"Stats/filters", "Project ignored", ignoresOfStats(func(q *postrider.StatsQuery) { q.Project = "" })},
	{"Stats/filters", "Owner ignored", ignoresOfStats(func(q *postrider.StatsQuery) { q.Owner = "" })},
	{"Stats/filters", "deleted webhooks left out", func(b *broken) {
		b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
			s, err := b.Store.Stats(ctx, q)
			if q.Project == "" || q.Rates || err != nil {
				return s, err
			}
			s = postrider.Stats{}
			page, err := b.Store.Webhooks(ctx, postrider.WebhookQuery{Project: q.Project, Owner: q.Owner})
			for _, w := range page.Items {
				if q.WebhookID == "" || q.WebhookID == w.ID {
					of, err := b.Store.Stats(ctx, postrider.StatsQuery{WebhookID: w.ID})
					if err != nil {
						return s, err
					}
					s.Add(&of)
				}
			}
			return s, err
		}
	}},
	{"Deliveries/filters-walk", "by row number with Owner", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (page postrider.Page[postrider.Delivery], err error) {
			if q.Owner == "" || q.Offset > 0 || q.Cursor != "" && !strings.HasPrefix(q.Cursor, "row-") {
				return b.Store.Deliveries(ctx, q)
			}
			if err := q.Validate(); err != nil {
				return page, err
			}
			return offset(b.all(q), q.Cursor, cmp.Or(q.Limit, postrider.DefaultLimit))
		}
	}},
	{"Deliveries/filters-walk", "attempts by row number with Failed", func(b *broken) {
		b.attempts = func(ctx context.Context, q postrider.AttemptQuery) (page postrider.Page[postrider.Attempt], err error) {
			if q.Failed == postrider.ChoiceAny {
				return b.Store.Attempts(ctx, q)
			}
			var all []postrider.Attempt
			each := q
			for each.Cursor, each.Limit = "", postrider.MaxLimit; ; {
				part, err := b.Store.Attempts(ctx, each)
				if err != nil {
					return page, err
				}
				all = append(all, part.Items...)
				if each.Cursor = part.Next; each.Cursor == "" {
					return offset(all, q.Cursor, cmp.Or(q.Limit, postrider.DefaultLimit))
				}
			}
		}
	}},
	{"Deliveries/filters-walk", "ends at a row that has left", func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			page, err := b.Store.Deliveries(ctx, q)
			// Only while rows end: a cursor that is a row which has left the list.
			if err == nil && len(q.Statuses) > 0 && q.Cursor != "" && b.note[q.Cursor] != "" {
				last, _, gone := b.Store.Delivery(ctx, b.note[q.Cursor])
				if gone == nil && !slices.Contains(q.Statuses, last.Status) {
					page.Items, page.Next = nil, ""
				}
			}
			if page.Next != "" && len(page.Items) > 0 {
				b.note[page.Next] = page.Items[len(page.Items)-1].ID
			}
			return page, err
		}
	}},
}

// ignores makes Deliveries take what f makes of its query.
func ignores(f func(*postrider.DeliveryQuery)) func(*broken) {
	return func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			f(&q)
			return b.Store.Deliveries(ctx, q)
		}
	}
}

// drops makes Deliveries leave out what f says.
func drops(f func(*postrider.DeliveryQuery, *postrider.Delivery) bool) func(*broken) {
	return func(b *broken) {
		b.deliveries = func(ctx context.Context, q postrider.DeliveryQuery) (postrider.Page[postrider.Delivery], error) {
			page, err := b.Store.Deliveries(ctx, q)
			page.Items = slices.DeleteFunc(page.Items, func(d postrider.Delivery) bool { return f(&q, &d) })
			return page, err
		}
	}
}

func ignoresOfAttempts(f func(*postrider.AttemptQuery)) func(*broken) {
	return func(b *broken) {
		b.attempts = func(ctx context.Context, q postrider.AttemptQuery) (postrider.Page[postrider.Attempt], error) {
			f(&q)
			return b.Store.Attempts(ctx, q)
		}
	}
}

func ignoresOfStats(f func(*postrider.StatsQuery)) func(*broken) {
	return func(b *broken) {
		b.stats = func(ctx context.Context, q postrider.StatsQuery) (postrider.Stats, error) {
			known := q
			if !q.Rates { // of which a case before knows
				f(&q)
			}
			if _, err := b.Store.Stats(ctx, postrider.StatsQuery{WebhookID: known.WebhookID}); errors.Is(err, postrider.ErrNotFound) {
				return postrider.Stats{}, err
			}
			return b.Store.Stats(ctx, q)
		}
	}
}
