package postrider

import (
	"context"
	"errors"

	"github.com/postrider/postrider/views"
)

// DispatchQuery selects dispatches.
type DispatchQuery struct {
	WebhookID string // "": of every webhook. A deleted one is found until its deliveries are pruned.
	Offset    int    // rows to skip, at most MaxOffset
	Limit     int    // at most 1,000, which stands for anything larger; 1,000 if zero
	Desc      bool   // newest first; otherwise in the order in which they were made
}

// Validate reports every problem of the query in a *ValidationError, by the names of the parameters: offset, limit.
func (q DispatchQuery) Validate() error {
	var p problems
	checkOffset(&p, q.Offset, "desc")
	if q.Limit < 0 {
		p.add("limit", CodeRange, "is %d, want 1 or more, of which at most %d are given", q.Limit, views.MaxDispatches)
	}
	return p.err()
}

// Dispatch returns the delivery with this ID, or ErrNotFound.
func (v Viewer) Dispatch(ctx context.Context, id string) (views.Dispatch, error) {
	del, attempts, err := v.delivery(ctx, id)
	if err != nil {
		return views.Dispatch{}, err
	}
	e, err := v.d.payloads().of(ctx, &del)
	if err == nil && e == nil {
		err = outside("delivery", id, ErrNotFound)
	}
	if err != nil {
		return views.Dispatch{}, err
	}
	return dispatch(&del, attempts, e), nil
}

// Dispatches returns a list of deliveries. Total comes from counters and may be a moment ahead of the rows.
func (v Viewer) Dispatches(ctx context.Context, q DispatchQuery) (views.DispatchList, error) {
	if err := q.Validate(); err != nil {
		return views.DispatchList{}, err
	}
	total, err := v.count(ctx, q.WebhookID)
	if err != nil {
		return views.DispatchList{}, err
	}
	if q.Limit == 0 || q.Limit > views.MaxDispatches {
		q.Limit = views.MaxDispatches
	}
	dq := DeliveryQuery{
		WebhookID: q.WebhookID, Project: v.scope.Project, Owner: v.scope.Owner, Ascending: !q.Desc, Offset: q.Offset,
	}
	fetch := func(limit int, cursor string) (Page[Delivery], error) {
		return v.d.deliveryPage(ctx, dq, limit, cursor)
	}
	events := v.d.payloads()
	items, _, err := fill(ctx, q.Limit, "", fetch, func(del *Delivery) (views.Dispatch, bool, error) {
		return v.row(ctx, events, del)
	})
	if err != nil {
		return views.DispatchList{}, err
	}
	return views.DispatchList{
		Total: total, Offset: q.Offset, Limit: q.Limit, Desc: q.Desc, Count: len(items), Items: items,
	}, nil
}

// row returns a delivery of a page, read again with its attempts; ok is false if it is gone.
func (v Viewer) row(ctx context.Context, events *payloads, del *Delivery) (row views.Dispatch, ok bool, err error) {
	e, err := events.of(ctx, del)
	if err != nil || e == nil {
		return views.Dispatch{}, false, err
	}
	if del.Attempts == 0 {
		return dispatch(del, nil, e), true, nil
	}
	now, attempts, err := v.delivery(ctx, del.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		return views.Dispatch{}, false, nil
	case err != nil:
		return views.Dispatch{}, false, err
	}
	return dispatch(&now, attempts, e), true, nil
}

func dispatch(del *Delivery, attempts []Attempt, e *Event) views.Dispatch {
	v := views.Dispatch{
		ID:        del.ID,
		UserID:    del.Owner,
		WebhookID: del.WebhookID,
		CreatedAt: views.Time{Time: del.CreatedAt.UTC()},
		Status:    dispatchStatus(del.Status),
		EventType: e.Type,
		EventData: e.Payload,
		Calls:     make([]views.Call, len(attempts)),
	}
	for i := range attempts {
		v.Calls[i] = dispatchCall(&attempts[i])
	}
	return v
}

func dispatchStatus(s Status) string {
	switch s {
	case StatusNew, StatusInProcess:
		return views.DispatchActive
	case StatusDelivered:
		return views.DispatchSucceeded
	}
	return views.DispatchFailed
}

func dispatchCall(a *Attempt) views.Call {
	c := views.Call{StartedAt: views.Time{Time: a.StartedAt.UTC()}, FinishedAt: views.Time{Time: a.FinishedAt.UTC()}}
	if a.Error != "" {
		c.ErrorMessage = &a.Error
	}
	if a.Code != 0 {
		c.ResponseStatus = &a.Code
	}
	if a.Code != 0 || len(a.Body) > 0 {
		body := string(a.Body)
		c.ResponseBody = &body
	}
	return c
}
