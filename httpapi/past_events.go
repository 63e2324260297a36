package httpapi

import (
	"context"
	"math"
	"net/http"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/views"
)

// pastEvents is page A.
var pastEvents = view{
	permission: PermissionHistoryRead,
	form:       &form{missing: "There is no such webhook", body: pastEventsError},
	first:      "events",
	endpoints: []endpoint{{
		path:   []string{"events", "v2", "history", "webhooks", ""},
		params: []string{"limit", "offset", "responseCode", "status", "event", "from", "to", "minAttempts"},
		serve:  history,
	}},
}

// history answers a name that no webhook can have with 400 and not with 404, since the page gives the name's grammar
// among the parameters; an empty one is such a name.
func history(ctx context.Context, c call) (any, error) {
	name := c.path[0]
	if !word(name, maxName, "_-") {
		c.addPath("name", "is %s, want 1 to %d of [a-zA-Z0-9_-]", quote(name), maxName)
	}
	q := postrider.HistoryQuery{
		Project:      c.project,
		Limit:        c.integer("limit", 0, 1, views.MaxPastEvents, ""),
		Offset:       c.offset("offset", "; to see further, use from and to"),
		ResponseCode: c.integer("responseCode", 0, 100, 599, ""),
		Statuses:     c.statuses("status"),
		Event:        c.eventType("event"),
		MinAttempts:  c.integer("minAttempts", 0, 0, math.MaxInt32, ""),
	}
	q.From, q.To = c.period("from", "to")
	if err := c.err(); err != nil {
		return nil, err
	}
	return c.viewer.History(ctx, name, q)
}

// statuses takes one status.
func (p *params) statuses(name string) []postrider.Status {
	all := []postrider.Status{
		postrider.StatusNew, postrider.StatusInProcess, postrider.StatusDelivered, postrider.StatusCanceled, postrider.StatusFailed,
	}
	words := make([]string, len(all))
	for i, s := range all {
		words[i] = s.String()
	}
	text := p.oneOf(name, words...)
	for _, s := range all {
		if s.String() == text {
			return []postrider.Status{s}
		}
	}
	return nil
}

func pastEventsError(f failure) any {
	body := views.PastEventsError{Message: f.message, Internal: f.internal}
	switch f.status {
	case http.StatusBadRequest:
		body.ErrorCode = views.PastEventsInvalid
	case http.StatusUnauthorized:
		body.ErrorCode = views.PastEventsUnauthenticated
	case http.StatusForbidden:
		body.ErrorCode = views.PastEventsForbidden
	case http.StatusNotFound:
		body.ErrorCode = views.PastEventsNotFound
	case http.StatusMethodNotAllowed:
		body.ErrorCode = views.PastEventsMethod
	default:
		body.ErrorCode = views.PastEventsInternal
	}
	for _, field := range f.fields {
		body.InvalidFields = append(body.InvalidFields, views.InvalidField{
			Name: field.Name, Reason: field.Reason, ErrorCode: field.Code,
		})
	}
	return body
}
