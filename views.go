package postrider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/postrider/postrider/views"
)

// Scope limits what is seen to one project, one owner, or one owner's webhooks of one project. An empty field limits
// nothing: the zero Scope sees everything, the project without a name included.
type Scope struct {
	Project string
	Owner   string // Webhook.Owner as it is now
}

func (s Scope) sees(project, owner string) bool {
	return (s.Project == "" || s.Project == project) && (s.Owner == "" || s.Owner == owner)
}

// Viewer has the documented views within a Scope. What is outside it is ErrNotFound, in lists absent and not counted:
// it cannot be told from what never was. Methods may be called from any goroutine.
type Viewer struct {
	d     *Dispatcher
	scope Scope
}

// Within returns the views of what is in the scope.
func (d *Dispatcher) Within(s Scope) Viewer { return Viewer{d, s} }

// History returns the past events of the webhook with this name, newest first: one for each delivery. ErrNotFound: no
// webhook has this name now. It is page A of package views.
func (d *Dispatcher) History(ctx context.Context, name string, q HistoryQuery) ([]views.PastEvent, error) {
	return d.Within(Scope{}).History(ctx, name, q)
}

// Dispatch returns the delivery with this ID as page B of package views shows it, or ErrNotFound.
func (d *Dispatcher) Dispatch(ctx context.Context, id string) (views.Dispatch, error) {
	return d.Within(Scope{}).Dispatch(ctx, id)
}

// Dispatches returns a list of deliveries as page B of package views shows them. ErrNotFound: no such webhook.
func (d *Dispatcher) Dispatches(ctx context.Context, q DispatchQuery) (views.DispatchList, error) {
	return d.Within(Scope{}).Dispatches(ctx, q)
}

// WebhookEvent returns the attempt with this ID, of a delivery to this webhook, as page C of package views shows it,
// or ErrNotFound.
func (d *Dispatcher) WebhookEvent(ctx context.Context, webhookID, id string) (views.WebhookEvent, error) {
	return d.Within(Scope{}).WebhookEvent(ctx, webhookID, id)
}

// WebhookEvents returns a page of the attempts made for a webhook, as page C of package views shows them, newest
// first. ErrNotFound: no such webhook.
func (d *Dispatcher) WebhookEvents(ctx context.Context, webhookID string, q WebhookEventQuery) (views.WebhookEventPage, error) {
	return d.Within(Scope{}).WebhookEvents(ctx, webhookID, q)
}

// delivery returns a delivery in the scope with its attempts.
func (v Viewer) delivery(ctx context.Context, id string) (Delivery, []Attempt, error) {
	del, attempts, err := v.d.store.Delivery(ctx, id)
	if err == nil && !v.scope.sees(del.Project, del.Owner) {
		err = ErrNotFound
	}
	if err != nil {
		return Delivery{}, nil, outside("delivery", id, err)
	}
	return del, attempts, nil
}

// count returns how many deliveries in the scope there are, of one webhook or, if webhookID is empty, of all. A deleted
// webhook is found as long as it has deliveries: whether one that has none was in the scope, nobody can tell.
func (v Viewer) count(ctx context.Context, webhookID string) (int64, error) {
	known := webhookID == ""
	if !known {
		w, err := v.d.store.Webhook(ctx, webhookID)
		known = err == nil
		if known && !v.scope.sees(w.Project, w.Owner) {
			err = ErrNotFound
		}
		if err != nil && (known || !errors.Is(err, ErrNotFound)) {
			return 0, outside("webhook", webhookID, err)
		}
	}
	st, err := v.d.store.Stats(ctx, StatsQuery{WebhookID: webhookID, Project: v.scope.Project, Owner: v.scope.Owner})
	if err == nil && !known && st.Total() == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return 0, outside("webhook", webhookID, err)
	}
	return st.Total(), nil
}

// outside returns the error for something that was looked up by its ID. One that is ErrNotFound reads the same whether
// it is absent, or outside the scope.
func outside(what, id string, err error) error {
	if errors.Is(err, ErrNotFound) {
		err = ErrNotFound
	}
	return fmt.Errorf("%s %s: %w", what, quote(id), err)
}

// fill asks for one page after the other until it has limit rows, or there are no more. Rows that show reports to be
// gone are left out. next is the cursor behind the last row, "" if there was nothing more.
func fill[T, V any](
	ctx context.Context, limit int, cursor string,
	fetch func(limit int, cursor string) (Page[T], error), show func(*T) (v V, ok bool, err error),
) (rows []V, next string, err error) {
	rows = []V{}
	for {
		page, err := fetch(limit-len(rows), cursor)
		if err != nil {
			return nil, "", err
		}
		for i := range page.Items {
			v, ok, err := show(&page.Items[i])
			if err != nil {
				return nil, "", err
			}
			if ok {
				rows = append(rows, v)
			}
		}
		if len(rows) >= limit || page.Next == "" {
			return rows, page.Next, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, "", err
		}
		cursor = page.Next
	}
}

// payloads finds the events of a page's rows, each once. Rows of one event share its bytes.
type payloads struct {
	store  Store
	events map[[2]string]*Event // by project and ID; nil where there is none
}

func (d *Dispatcher) payloads() *payloads {
	return &payloads{store: d.store, events: map[[2]string]*Event{}}
}

// of returns the event of a delivery, its payload as JSON without white space, nil if it is not JSON. The event is nil
// if it was pruned since the delivery was read.
func (p *payloads) of(ctx context.Context, del *Delivery) (*Event, error) {
	key := [2]string{del.Project, del.EventID}
	e, ok := p.events[key]
	if ok {
		return e, nil
	}
	found, err := p.store.Event(ctx, del.Project, del.EventID)
	switch {
	case err == nil:
		found.Payload = asJSON(found.ContentType, found.Payload)
		e = &found
	case !errors.Is(err, ErrNotFound):
		return nil, fmt.Errorf("event %s: %w", quote(del.EventID), err)
	}
	p.events[key] = e
	return e, nil
}

// asJSON returns a copy of a payload as the same JSON value, or nil if it is none: by its type, or by what it holds.
func asJSON(contentType string, payload []byte) json.RawMessage {
	if !saysJSON(contentType) {
		return nil
	}
	var b bytes.Buffer
	b.Grow(len(payload))
	if json.Compact(&b, payload) != nil {
		return nil
	}
	if !utf8.Valid(b.Bytes()) { // which encoding/json lets pass, and other parsers do not
		return bytes.ToValidUTF8(b.Bytes(), []byte("\uFFFD"))
	}
	return b.Bytes()
}
