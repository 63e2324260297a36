package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/views"
)

// webhookEvents is page C.
var webhookEvents = view{
	permission: PermissionEventsRead,
	form:       &form{missing: "There is no such webhook or webhook event", body: webhookEventError},
	first:      "webhooks",
	endpoints: []endpoint{
		{
			path:  []string{"webhooks", "", "events", ""},
			serve: webhookEvent,
		}, {
			path:   []string{"webhooks", "", "events"},
			params: []string{"kind", "deliveryFailed", "limit", "paginationToken"},
			serve:  webhookEventPage,
		},
	},
}

func webhookEvent(ctx context.Context, c call) (any, error) {
	if err := c.err(); err != nil {
		return nil, err
	}
	if !possibleID(c.path[0]) || !possibleID(c.path[1]) {
		return nil, postrider.ErrNotFound
	}
	return c.viewer.WebhookEvent(ctx, c.path[0], c.path[1])
}

func webhookEventPage(ctx context.Context, c call) (any, error) {
	id := c.path[0]
	q := postrider.WebhookEventQuery{
		Kind:            c.eventType("kind"),
		Limit:           c.integer("limit", 0, 1, views.MaxWebhookEvents, ""),
		PaginationToken: c.token("paginationToken"),
	}
	switch c.oneOf("deliveryFailed", "true", "false") {
	case "true":
		q.DeliveryFailed = postrider.ChoiceYes
	case "false":
		q.DeliveryFailed = postrider.ChoiceNo
	}
	if len(c.problems) > 0 {
		c.judgeToken(ctx, id, q)
		return nil, c.err()
	}
	if !possibleID(id) {
		return nil, postrider.ErrNotFound
	}
	return c.viewer.WebhookEvents(ctx, id, q)
}

// judgeToken notes a token that is bad as well where other parameters are. What it must fit is kind and deliveryFailed:
// if one of them is bad, there is nothing to hold it against.
func (c *call) judgeToken(ctx context.Context, webhookID string, q postrider.WebhookEventQuery) {
	if q.PaginationToken == "" || slices.ContainsFunc(c.problems, func(f postrider.FieldError) bool {
		return f.Name == "kind" || f.Name == "deliveryFailed"
	}) {
		return
	}
	q.Limit = -1 // never valid: the token is judged, and no page is made
	_, err := c.viewer.WebhookEvents(ctx, webhookID, q)
	var bad *postrider.ValidationError
	if !errors.As(err, &bad) {
		return
	}
	for _, f := range bad.Fields {
		if f.Name == "paginationToken" {
			c.problems = append(c.problems, f)
		}
	}
}

func webhookEventError(f failure) any {
	problem := views.WebhookEventProblem{Status: f.status, Message: f.sentence()}
	switch f.status {
	case http.StatusBadRequest:
		problem.ID = views.WebhookEventInvalid
	case http.StatusUnauthorized:
		problem.ID = views.WebhookEventUnauthenticated
	case http.StatusForbidden:
		problem.ID = views.WebhookEventForbidden
	case http.StatusNotFound:
		problem.ID = views.WebhookEventNotFound
	case http.StatusMethodNotAllowed:
		problem.ID = views.WebhookEventMethod
	default:
		problem.ID = views.WebhookEventInternal
	}
	return views.WebhookEventError{Error: problem}
}
