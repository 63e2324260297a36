package postrider

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/postrider/postrider/views"
)

// HistoryQuery selects from the past events of a webhook; every field that is set narrows it.
type HistoryQuery struct {
	Project      string    // of the webhook; if empty, the project of the Scope
	Limit        int       // 1 to 100; 100 if zero
	Offset       int       // rows to skip, at most MaxOffset
	ResponseCode int       // the last one received, 100 to 599; zero: any or none
	Statuses     []Status  // one of these
	Event        string    // the type of the event
	From, To     time.Time // created at or after From, at or before To; zero: no bound. A To in whole milliseconds includes all of the last one.
	MinAttempts  int       // finished attempts, at least
}

// Validate reports every problem of the query in a *ValidationError, by the names of the parameters: limit, offset,
// responseCode, status, event, from, to, minAttempts, and project.
func (q HistoryQuery) Validate() error {
	var p problems
	q.check(&p)
	return p.err()
}

func (q *HistoryQuery) check(p *problems) {
	checkProject(p, "project", q.Project)
	if q.Limit != 0 {
		within(p, "limit", q.Limit, 1, views.MaxPastEvents)
	}
	checkOffset(p, q.Offset, "from and to")
	if q.ResponseCode != 0 {
		within(p, "responseCode", q.ResponseCode, 100, 599)
	}
	for _, s := range q.Statuses {
		if int(s) >= len(statusText) {
			p.add("status", CodeRange, "is %d, want 0 to %d", s, len(statusText)-1)
		}
	}
	checkType(p, "event", q.Event)
	checkTime(p, "from", q.From)
	checkTime(p, "to", q.To)
	if !q.From.IsZero() && !q.To.IsZero() && q.To.Before(q.From) {
		p.add("to", CodeRange, "is %s, want not before from, %s", q.To.Format(time.RFC3339Nano), q.From.Format(time.RFC3339Nano))
	}
	within(p, "minAttempts", q.MinAttempts, 0, 1<<31-1)
}

// checkOffset notes an offset out of bounds, and what to do instead of a large one.
func checkOffset(p *problems, offset int, instead string) {
	if offset < 0 || offset > MaxOffset {
		p.add("offset", CodeRange, "is %d, want 0 to %d; to see further, use %s", offset, MaxOffset, instead)
	}
}

// checkType notes what cannot be the type of an event. A pattern is none.
func checkType(p *problems, name, eventType string) {
	if eventType != "" && !word(eventType, 1, maxType, "_.-") {
		p.add(name, CodeFormat, "is %s, want 1 to %d of [A-Za-z0-9_.-]", quote(eventType), maxType)
	}
}

// History returns the past events of the webhook with this name, newest first. A project that is not the scope's is
// ErrNotFound.
func (v Viewer) History(ctx context.Context, name string, q HistoryQuery) ([]views.PastEvent, error) {
	var p problems
	if !word(name, 1, maxID, "_-") {
		p.add("name", CodeFormat, "is %s, want 1 to %d of [a-zA-Z0-9_-]", quote(name), maxID)
	}
	q.check(&p)
	if err := p.err(); err != nil {
		return nil, err
	}
	if q.Project == "" {
		q.Project = v.scope.Project
	}
	w, err := v.webhookNamed(ctx, q.Project, name)
	if err != nil {
		return nil, err
	}
	dq := DeliveryQuery{
		WebhookID: w.ID, Project: v.scope.Project, Owner: v.scope.Owner, EventType: q.Event, Statuses: q.Statuses,
		MinAttempts: q.MinAttempts, From: q.From, To: endOfMilli(q.To), Offset: q.Offset,
	}
	if q.ResponseCode != 0 {
		dq.Code = strconv.Itoa(q.ResponseCode)
	}
	if q.Limit == 0 {
		q.Limit = views.MaxPastEvents
	}
	fetch := func(limit int, cursor string) (Page[Delivery], error) {
		return v.d.deliveryPage(ctx, dq, limit, cursor)
	}
	events := v.d.payloads()
	list, _, err := fill(ctx, q.Limit, "", fetch, func(del *Delivery) (views.PastEvent, bool, error) {
		e, err := events.of(ctx, del)
		if err != nil || e == nil {
			return views.PastEvent{}, false, err
		}
		return pastEvent(del, e), true, nil
	})
	return list, err
}

// webhookNamed returns the webhook in the scope that has this name in the project.
func (v Viewer) webhookNamed(ctx context.Context, project, name string) (Webhook, error) {
	for page, err := range v.d.webhookPages(ctx, WebhookQuery{Project: project, Owner: v.scope.Owner, Name: name}) {
		if err != nil {
			return Webhook{}, err
		}
		for i := range page {
			// The query's empty project stands for every project.
			if w := &page[i]; w.Project == project && w.Name == name && v.scope.sees(w.Project, w.Owner) {
				return *w, nil
			}
		}
	}
	return Webhook{}, outside("webhook named", name, ErrNotFound)
}

// deliveryPage returns the page of the query that begins at the cursor.
func (d *Dispatcher) deliveryPage(ctx context.Context, q DeliveryQuery, limit int, cursor string) (Page[Delivery], error) {
	q.Limit, q.Cursor = limit, cursor
	if cursor != "" {
		q.Offset = 0 // the cursor knows what is still to be skipped
	}
	page, err := d.store.Deliveries(ctx, q)
	if err != nil {
		return Page[Delivery]{}, fmt.Errorf("deliveries: %w", err)
	}
	return page, nil
}

// endOfMilli returns the last microsecond of a whole millisecond, and any other time as it is: created shows no more
// than milliseconds, and what is shown as created at a time is to be found at or before it.
func endOfMilli(t time.Time) time.Time {
	if t.IsZero() || t.Nanosecond()%int(time.Millisecond) != 0 {
		return t
	}
	return t.Add(time.Millisecond - time.Microsecond)
}

func pastEvent(del *Delivery, e *Event) views.PastEvent {
	v := views.PastEvent{
		ID:               del.ID,
		Source:           views.Source{ID: e.ID, Project: e.Project, Event: e.Type, Payload: e.Payload},
		Attempts:         del.Attempts,
		LastResponseCode: del.LastCode,
		Status:           del.Status.String(),
		LastError:        del.LastError,
		Created:          views.Time{Time: del.CreatedAt.UTC()},
		WebhookName:      del.WebhookName,
	}
	if del.Attempts > 0 {
		took := del.LastTook.Milliseconds()
		v.LastResponseTime = &took
	}
	return v
}
