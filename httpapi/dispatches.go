package httpapi

import (
	"context"
	"math"
	"net/http"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/views"
)

// dispatches is page B. Its errors are also what a path of no view is answered with.
var dispatches = view{
	permission: PermissionDispatchesRead,
	form:       &form{missing: "There is no such webhook or webhook dispatch", body: dispatchError},
	first:      "v2",
	endpoints: []endpoint{
		{
			path:  []string{"v2", "webhook-dispatches", ""},
			serve: dispatch,
		}, {
			path:   []string{"v2", "webhook-dispatches"},
			params: []string{"offset", "limit", "desc"},
			serve: func(ctx context.Context, c call) (any, error) {
				return dispatchList(ctx, c, "")
			},
		}, {
			path:   []string{"v2", "webhooks", "", "dispatches"},
			params: []string{"offset", "limit", "desc"},
			serve: func(ctx context.Context, c call) (any, error) {
				return dispatchList(ctx, c, c.path[0])
			},
		},
	},
}

func dispatch(ctx context.Context, c call) (any, error) {
	if err := c.err(); err != nil {
		return nil, err
	}
	if !possibleID(c.path[0]) {
		return nil, postrider.ErrNotFound
	}
	found, err := c.viewer.Dispatch(ctx, c.path[0])
	return views.Data[views.Dispatch]{Data: found}, err
}

// dispatchList serves the list of all dispatches, webhookID "", and that of one webhook.
func dispatchList(ctx context.Context, c call, webhookID string) (any, error) {
	q := postrider.DispatchQuery{
		WebhookID: webhookID,
		Offset:    c.offset("offset", "; to see further, use desc"),
		Limit:     c.integer("limit", 0, 1, math.MaxInt, ""), // more than views.MaxDispatches is cut to it
		Desc:      c.flag("desc"),
	}
	if err := c.err(); err != nil {
		return nil, err
	}
	if len(c.path) > 0 && !possibleID(webhookID) { // one that is empty would stand for all
		return nil, postrider.ErrNotFound
	}
	list, err := c.viewer.Dispatches(ctx, q)
	return views.Data[views.DispatchList]{Data: list}, err
}

func dispatchError(f failure) any {
	problem := views.DispatchProblem{Message: f.sentence()}
	switch f.status {
	case http.StatusBadRequest:
		problem.Type = views.DispatchInvalidInput
	case http.StatusUnauthorized:
		problem.Type = views.DispatchUnauthenticated
	case http.StatusForbidden:
		problem.Type = views.DispatchForbidden
	case http.StatusNotFound:
		problem.Type = views.DispatchNotFound
	case http.StatusMethodNotAllowed:
		problem.Type = views.DispatchMethodNotAllowed
	default:
		problem.Type = views.DispatchInternalError
	}
	return views.DispatchError{Error: problem}
}
