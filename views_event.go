package postrider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/postrider/postrider/views"
)

// WebhookEventQuery selects from the attempts made for a webhook.
type WebhookEventQuery struct {
	Kind            string // the type of the event; "": of every type
	DeliveryFailed  Choice // ChoiceYes: attempts that failed
	Limit           int    // 1 to 200; 50 if zero
	PaginationToken string // NextPageToken of the same query within the same Scope; "": from the start
}

// Validate reports every problem of the query in a *ValidationError, by the names of the parameters: kind,
// deliveryFailed, limit. A paginationToken is judged by the call that uses it.
func (q WebhookEventQuery) Validate() error {
	var p problems
	checkType(&p, "kind", q.Kind)
	within(&p, "deliveryFailed", int(q.DeliveryFailed), 0, int(ChoiceNo))
	if q.Limit != 0 {
		within(&p, "limit", q.Limit, 1, views.MaxWebhookEvents)
	}
	return p.err()
}

// WebhookEvent returns the attempt with this ID, or ErrNotFound, also if it was not made for this webhook.
func (v Viewer) WebhookEvent(ctx context.Context, webhookID, id string) (views.WebhookEvent, error) {
	deliveryID, number, ok := parseAttemptID(id)
	if !ok {
		return views.WebhookEvent{}, outside("attempt", id, ErrNotFound)
	}
	del, attempts, err := v.delivery(ctx, deliveryID)
	if err != nil {
		return views.WebhookEvent{}, outside("attempt", id, err)
	}
	if del.WebhookID != webhookID {
		return views.WebhookEvent{}, outside("attempt", id, ErrNotFound)
	}
	for i := range attempts {
		if a := &attempts[i]; a.Number == number {
			e, err := v.d.payloads().of(ctx, &del)
			if err == nil && e == nil {
				err = ErrNotFound
			}
			if err != nil {
				return views.WebhookEvent{}, outside("attempt", id, err)
			}
			return webhookEvent(a, e), nil
		}
	}
	return views.WebhookEvent{}, outside("attempt", id, ErrNotFound)
}

// parseAttemptID takes the ID of an attempt apart. Only what Attempt.ID returns parses.
func parseAttemptID(id string) (deliveryID string, number int, ok bool) {
	i := strings.LastIndexByte(id, '-')
	if i < 1 {
		return "", 0, false
	}
	n, err := strconv.ParseInt(id[i+1:], 10, 32)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != id[i+1:] {
		return "", 0, false
	}
	return id[:i], int(n), true
}

// WebhookEvents returns a page of the attempts made for a webhook: the newest delivery first, and of each the newest
// attempt. A deleted webhook is found until its deliveries are pruned.
func (v Viewer) WebhookEvents(ctx context.Context, webhookID string, q WebhookEventQuery) (views.WebhookEventPage, error) {
	aq := AttemptQuery{
		WebhookID: webhookID, Project: v.scope.Project, Owner: v.scope.Owner, EventType: q.Kind, Failed: q.DeliveryFailed,
	}
	fetch := func(limit int, cursor string) (Page[Attempt], error) {
		aq.Limit, aq.Cursor = limit, cursor
		page, err := v.d.store.Attempts(ctx, aq)
		if err != nil {
			return Page[Attempt]{}, fmt.Errorf("attempts: %w", err)
		}
		return page, nil
	}
	if bad, ok := q.Validate().(*ValidationError); ok {
		// A token is of a valid query. If it is only the limit that is not valid, the store must say.
		if q.PaginationToken != "" {
			if _, err := fetch(1, q.PaginationToken); errors.Is(err, ErrInvalid) {
				bad.Fields = append(bad.Fields, badToken)
			}
		}
		return views.WebhookEventPage{}, bad
	}
	if webhookID == "" { // to count, it would stand for all
		return views.WebhookEventPage{}, outside("webhook", webhookID, ErrNotFound)
	}
	if _, err := v.count(ctx, webhookID); err != nil {
		return views.WebhookEventPage{}, err
	}
	events := v.d.payloads()
	var del Delivery // of the row before: attempts of one delivery follow each other
	show := func(a *Attempt) (row views.WebhookEvent, ok bool, err error) {
		if del.ID != a.DeliveryID {
			del, _, err = v.delivery(ctx, a.DeliveryID)
		}
		if err != nil {
			return row, false, unlessGone(err)
		}
		e, err := events.of(ctx, &del)
		if err != nil || e == nil {
			return row, false, err
		}
		return webhookEvent(a, e), true, nil
	}
	items, next, err := fill(ctx, cmp.Or(q.Limit, views.DefaultWebhookEvents), q.PaginationToken, fetch, show)
	if err != nil {
		return views.WebhookEventPage{}, tokenError(err)
	}
	if next != "" {
		// A store may not know yet that nothing follows; the last page is to have no token.
		more, _, err := fill(ctx, 1, next, fetch, func(*Attempt) (struct{}, bool, error) { return struct{}{}, true, nil })
		if err != nil {
			return views.WebhookEventPage{}, err
		}
		if len(more) == 0 {
			next = ""
		}
	}
	return views.WebhookEventPage{Items: items, NextPageToken: next}, nil
}

// unlessGone returns nil for ErrNotFound.
func unlessGone(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// tokenError names the parameter where a store refused a cursor: everything else of the query was valid.
func tokenError(err error) error {
	if !errors.Is(err, ErrInvalid) {
		return err
	}
	return &ValidationError{Fields: []FieldError{badToken}}
}

var badToken = FieldError{
	Name: "paginationToken", Code: CodeFormat, Reason: "is not a nextPageToken of the same query, want one or none",
}

func webhookEvent(a *Attempt, e *Event) views.WebhookEvent {
	v := views.WebhookEvent{
		ID:              a.ID(),
		Kind:            e.Type,
		Date:            views.Time{Time: e.Time.UTC()},
		DeliveryFailed:  a.Failed,
		DeliveryAttempt: a.Number,
		TimestampSent:   a.Timestamp,
		Status:          a.Class.String(),
		Error:           a.Error,
		NextAttemptDate: views.Time{Time: a.NextAt.UTC()},
		Data:            e.Payload,
	}
	if a.Code != 0 {
		v.Status = strconv.Itoa(a.Code)
	}
	if a.Number > 1 {
		v.RetryOf = (&Attempt{DeliveryID: a.DeliveryID, Number: a.Number - 1}).ID()
	}
	return v
}
