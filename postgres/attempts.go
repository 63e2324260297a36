package postgres

import (
	"cmp"
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/internal/cursor"
)

// stride is how many deliveries a page of attempts looks at in one go, and strides how often it does.
const (
	stride  = 250
	strides = 8
)

// Attempts returns a page of attempts: those of the deliveries that may have such, the newest first.
func (s *Store) Attempts(ctx context.Context, q postrider.AttemptQuery) (page postrider.Page[postrider.Attempt], err error) {
	if err := q.Validate(); err != nil {
		return page, err
	}
	// The position is the last attempt that was returned, or the number 0 of a delivery that is done with.
	var high, low, number uint64
	set, err := cursor.Decode(q.Cursor, cursor.Attempts(q), &high, &low, &number)
	if err != nil {
		return page, err
	}
	if err := s.enter(ctx); err != nil {
		return page, err
	}
	defer s.leave()
	limit := cmp.Or(q.Limit, postrider.DefaultLimit)
	of := q.Deliveries()
	at := position(high, low)
	for range strides {
		w := walk{filter: newFilter(&of)}
		if set {
			w.after, w.including = &at, number > 0
		}
		deliveries, edge, err := s.walk(ctx, &w, stride)
		if err != nil {
			return page, err
		}
		list, err := s.attemptsOf(ctx, deliveries)
		if err != nil {
			return page, err
		}
		for i := range list {
			a := &list[i]
			id, _ := parseUID(a.DeliveryID)
			if number > 0 && id == at && uint64(a.Number) >= number || !q.Matches(a) {
				continue
			}
			if len(page.Items) == limit {
				page.Next = attemptCursor(&q, at, number)
				return page, nil
			}
			page.Items = append(page.Items, *a)
			at, number = id, uint64(a.Number)
		}
		switch {
		case edge.Valid:
			at = edge
		case len(deliveries) == stride:
			at, _ = parseUID(deliveries[stride-1].ID)
		default:
			return page, nil
		}
		set, number = true, 0
	}
	page.Next = attemptCursor(&q, at, number)
	return page, nil
}

func attemptCursor(q *postrider.AttemptQuery, at uid, number uint64) string {
	high, low := halves(at)
	return cursor.Encode(cursor.Attempts(*q), high, low, number)
}

// attemptsOf returns the attempts of deliveries, the newest first.
func (s *Store) attemptsOf(ctx context.Context, deliveries []postrider.Delivery) ([]postrider.Attempt, error) {
	if len(deliveries) == 0 {
		return nil, nil
	}
	ids, hooks := make([]uid, len(deliveries)), map[string]string{}
	for i := range deliveries {
		ids[i], _ = parseUID(deliveries[i].ID)
		hooks[deliveries[i].ID] = deliveries[i].WebhookID
	}
	return ask(ctx, s, attemptsSQL, func(row pgx.CollectableRow) (a postrider.Attempt, err error) {
		var id uid
		var number int
		var body []byte
		if err := row.Scan(&id, &number, &body); err != nil {
			return a, err
		}
		a.DeliveryID = textOf(id)
		a.WebhookID = hooks[a.DeliveryID]
		return a, a.UnmarshalBinary(body)
	}, ids)
}
