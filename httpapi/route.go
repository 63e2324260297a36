package httpapi

import (
	"context"
	"net/url"
	"strings"

	"github.com/postrider/postrider"
)

// endpoint is one path of a view.
type endpoint struct {
	path   []string // its segments; "" stands for a parameter
	params []string // of the query string, in the order of the page
	serve  func(context.Context, call) (any, error)
}

// call is what an endpoint is called with.
type call struct {
	viewer  postrider.Viewer
	project string
	path    []string // the parameters of the path, in its order; any text
	*params
}

// view is the endpoints that share a permission and a form of errors.
type view struct {
	permission Permission
	form       *form
	first      string // the first segment of all its paths
	endpoints  []endpoint
}

var allViews = []*view{&pastEvents, &dispatches, &webhookEvents}

// route is where a path leads.
type route struct {
	*view              // whose errors are shown; never nil
	endpoint *endpoint // nil: there is none
	path     []string
}

// findRoute takes a path as it was escaped: a slash that is written %2F is part of its segment. There is no cleaning
// and no redirect: net/http's would not know of the prefix that was taken off.
func findRoute(escaped string) route {
	segments := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, s := range segments {
		text, err := url.PathUnescape(s)
		if err != nil {
			return route{view: &dispatches}
		}
		segments[i] = text
	}
	found := route{view: &dispatches}
	for _, v := range allViews {
		if v.first != segments[0] {
			continue
		}
		found.view = v
		for i := range v.endpoints {
			if path, ok := v.endpoints[i].match(segments); ok {
				found.endpoint, found.path = &v.endpoints[i], path
				return found
			}
		}
	}
	return found
}

// match returns the path's parameters if the segments are of this endpoint.
func (e *endpoint) match(segments []string) (path []string, ok bool) {
	if len(segments) != len(e.path) {
		return nil, false
	}
	for i, want := range e.path {
		if want != "" && segments[i] != want {
			return nil, false
		}
		if want == "" {
			path = append(path, segments[i])
		}
	}
	return path, true
}

// possibleID reports whether anything can have such an ID: a webhook, a delivery, or an attempt, whose ID is the longest.
func possibleID(id string) bool { return word(id, maxName+len("-2147483647"), "_-") }
