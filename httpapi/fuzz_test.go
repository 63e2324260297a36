package httpapi_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the fuzz targets ask for. A name of the world in a path, such as ann.e1, stands for the ID of that delivery,
// which is another one in each process that fuzzes.
var (
	fuzzPaths = []string{
		"/events/v2/history/webhooks/orders", "/events/v2/history/webhooks/stock", "/v2/webhook-dispatches/ann.e5",
		"/v2/webhook-dispatches/bob.e1", "/v2/webhook-dispatches/eve.x1", "/v2/webhook-dispatches", "/v2/webhooks/wh-ann/dispatches",
		"/v2/webhooks/wh-bob/dispatches", "/v2/webhooks/wh-eve/dispatches", "/webhooks/wh-ann/events/ann.e5-2", "/webhooks/wh-eve/events/ann.e1-1",
		"/webhooks/wh-ann/events", "/webhooks/wh-bob/events", "/webhooks/wh-eve/events",
	}
	fuzzQueries = []string{
		"", "limit=1&offset=1&desc=1", "limit=100&offset=0&responseCode=200&status=DELIVERED&event=order.created&minAttempts=1",
		"from=2026-03-01T10:00:00Z&to=2026-03-01T11:00:00%2B01:00", "status=NEW", "offset=100000&desc=true&limit=1000",
		"kind=order.paid&deliveryFailed=true&limit=200&paginationToken=AAAAAAAAAAAAAAA", "limit=1&limit=2&%zz;=&=&&x=%00",
	}
	fuzzScopes = []struct {
		scope  string
		owners []string // who are in it
	}{
		{"/ann", []string{"ann"}}, {"/bob", []string{"bob"}}, {"other/", []string{"eve"}}, {"pvc/ann", []string{"ann"}}, {"pvc/eve", nil},
	}
)

// fuzzed checks what must be true of the answer to any request. do checks the rest: no panic, a documented status, a
// body that is JSON.
func (w *world) fuzzed(t *testing.T, h http.Handler, path, query string, who uint8, method string) {
	scope := fuzzScopes[int(who)%len(fuzzScopes)]
	visible := 0
	for name, id := range w.ids {
		path = strings.ReplaceAll(path, strings.Replace(name, " ", ".", 1), id)
		if owner, _, _ := strings.Cut(name, " "); slices.Contains(scope.owners, owner) {
			visible++
		}
	}
	r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{"Scope": {scope.scope}}}
	if plain, err := url.PathUnescape(path); err == nil {
		r.URL.Path, r.URL.RawPath = plain, path
	}
	a := do(t, h, r.WithContext(t.Context()))
	if a.status != http.StatusOK {
		return // what it shows of the request is the caller's own
	}
	for name, id := range w.ids {
		if owner, _, _ := strings.Cut(name, " "); !slices.Contains(scope.owners, owner) {
			require.NotContains(t, a.text, id, "%s sees %s", scope.scope, name)
		}
	}
	if total, ok := a.at("data", "total").(float64); ok {
		require.LessOrEqual(t, int(total), visible, "nor is it counted")
	}
}

// FuzzPath asks for any path.
func FuzzPath(f *testing.F) {
	w := newWorld(f)
	h := w.handler(f)
	for i, path := range append(fuzzPaths, "//%2F/..", "", "*", "/v2/webhook-dispatches/%00", "/events/v2/history/webhooks/") {
		f.Add(path, fuzzQueries[i%len(fuzzQueries)], uint8(i), i%3 == 0)
	}
	f.Fuzz(func(t *testing.T, path, query string, who uint8, head bool) {
		method := http.MethodGet
		if head {
			method = http.MethodHead
		}
		w.fuzzed(t, h, path, query, who, method)
	})
}

// FuzzQuery asks every endpoint with any query string.
func FuzzQuery(f *testing.F) {
	w := newWorld(f)
	h := w.handler(f)
	for i, query := range fuzzQueries {
		f.Add(query, uint8(i))
	}
	f.Fuzz(func(t *testing.T, query string, who uint8) {
		for _, path := range fuzzPaths {
			w.fuzzed(t, h, path, query, who, http.MethodGet)
		}
	})
}
