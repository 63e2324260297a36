package httpapi_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/httpapi"
	"github.com/postrider/postrider/storetest"
)

const (
	pageA = "/events/v2/history/webhooks/orders"
	pageB = "/v2/webhook-dispatches"
	pageC = "/webhooks/wh-ann/events"
)

// The error bodies of the three views, to the letter.
func TestErrorBodies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answers := func(scope httpapi.Scope, err error) http.Handler {
		return w.handler(t, func(o *httpapi.Options) {
			o.Authorize = func(*http.Request, httpapi.Permission) (httpapi.Scope, error) { return scope, err }
		})
	}
	for _, c := range []struct {
		status        int
		a, b, c       string // the message
		codeA, typeB  string
		idC           string
		method, extra string
		err           error
	}{
		{status: 400, extra: "?limit=0&x=1", codeA: "invalid_parameters", typeB: "invalid-input", idC: "bad_request",
			a: "Invalid input",
			b: "Invalid input: limit is 0, want 1 or more; x is not a parameter here, want offset, limit, desc",
			c: "Invalid input: limit is 0, want 1 to 200; x is not a parameter here, want kind, deliveryFailed, limit, paginationToken"},
		{status: 401, err: httpapi.ErrUnauthenticated, codeA: "unauthenticated", typeB: "unauthenticated", idC: "unauthorized",
			a: "Authentication is required"},
		{status: 403, err: httpapi.ErrForbidden, codeA: "forbidden", typeB: "forbidden", idC: "forbidden", a: "The permission is missing"},
		{status: 404, codeA: "not_found", typeB: "record-not-found", idC: "not_found", extra: "/nothing/here", a: "There is nothing at this path"},
		{status: 405, method: http.MethodPost, codeA: "method_not_allowed", typeB: "method-not-allowed", idC: "method_not_allowed",
			a: "The method is not allowed here"},
	} {
		h := answers(httpapi.Scope{}, c.err)
		fields := `[]`
		if c.status == 400 {
			fields = `[{"name":"limit","reason":"is 0, want 1 to 100","errorCode":"out_of_range"},{"name":"x","reason":"is not a parameter here, ` +
				`want limit, offset, responseCode, status, event, from, to, minAttempts","errorCode":"unsupported"}]`
		}
		if c.b == "" {
			c.b, c.c = c.a, c.a
		}
		for target, want := range map[string]string{
			pageA: `{"message":"` + c.a + `","errorCode":"` + c.codeA + `","invalidFields":` + fields + `}`,
			pageB: `{"error":{"type":"` + c.typeB + `","message":"` + c.b + `"}}`,
			pageC: `{"error":{"id":"` + c.idC + `","status":` + strconv.Itoa(c.status) + `,"message":"` + c.c + `"}}`,
		} {
			method := c.method
			if method == "" {
				method = http.MethodGet
			}
			a := do(t, h, httptest.NewRequest(method, target+c.extra, nil))
			require.Equal(t, c.status, a.status, target+c.extra)
			require.Equal(t, want, a.text)
		}
	}
	h := w.handler(t)
	require.Equal(t, `{"message":"There is no such webhook","errorCode":"not_found","invalidFields":[]}`,
		ask(t, h, "/events/v2/history/webhooks/none").text)
	require.Equal(t, `{"error":{"type":"record-not-found","message":"There is no such webhook or webhook dispatch"}}`,
		ask(t, h, "/v2/webhooks/none/dispatches").text)
	require.Equal(t, `{"error":{"id":"not_found","status":404,"message":"There is no such webhook or webhook event"}}`,
		ask(t, h, "/webhooks/none/events").text)
}

func TestPathsThatLeadNowhereAre404(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.handler(t, func(o *httpapi.Options) {
		o.Authorize = func(*http.Request, httpapi.Permission) (httpapi.Scope, error) { return httpapi.Scope{}, nil }
	})
	e1 := w.ids["ann e1"]
	for _, target := range []string{
		"/", "//", "/v2", "/v2/", "/v1/webhook-dispatches", "/events", "/webhooks", "/webhooks/", "/webhooks/wh-ann", "/webhooks/wh-ann/",
		"/events/v2/history/webhooks", pageA + "/", "/" + pageA, pageA + "/x", strings.ToUpper(pageA), "/events/v2/history//webhooks/orders",
		pageB + "/", pageB + "//", pageB + "/" + e1 + "/", pageB + "/" + strings.ToUpper(e1), pageB + "/" + e1 + "%00", pageB + "/" + e1 + "%2F",
		pageB + "/none", pageB + "/" + strings.Repeat("a", 10_000), pageB + "/%2e%2e", pageB + "/..", "/./v2/webhook-dispatches",
		"/v2/webhooks//dispatches", "/v2/webhooks/dispatches", "/v2/webhooks/%2A/dispatches", "/v2/webhooks/none/dispatches",
		pageC + "/", pageC + "/" + e1, pageC + "/" + e1 + "-0", pageC + "/" + e1 + "-2", pageC + "/" + e1 + "-01", pageC + "/" + e1 + "--1",
		pageC + "/" + e1 + "-1-1", pageC + "/" + e1 + "-99999999999999999999", pageC + "/-1", "/webhooks//events", "/webhooks//events/" + e1 + "-1",
		"/webhooks/wh-bob/events/" + e1 + "-1", "/webhooks/%20/events", "/webhooks/WH-ANN/events", "/events/v2/history/webhooks/Orders",
	} {
		a := ask(t, h, target)
		require.Equal(t, 404, a.status, "%s: %s", target, a.text)
		require.Equal(t, strings.HasPrefix(target, "/events"), a.at("errorCode") != nil, "errors of past events are flat: %s", target)
		require.Equal(t, strings.HasPrefix(target, "/webhooks"), a.at("error", "id") != nil, "errors of webhook events have an id: %s", target)
	}
	for _, target := range []string{
		"/%65vents/v2/history/webhooks/orders", "/events/v2/history/webhooks/%6Frders", "/v2/webhook%2Ddispatches/" + e1,
		"/webhooks/wh%2dann/events/" + strings.Replace(e1, "-", "%2D", 1) + "-1",
	} {
		require.Equal(t, 200, ask(t, h, target).status, target)
	}
	for _, path := range []string{"", "*", "v2/webhook-dispatches"} { // what StripPrefix or OPTIONS * can leave
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path = path
		require.Equal(t, map[bool]int{true: 200, false: 404}[path != "" && path != "*"], do(t, h, r).status)
	}
}

func TestOnlyGetAndHeadAreAllowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.handler(t, func(o *httpapi.Options) {
		o.Authorize = func(*http.Request, httpapi.Permission) (httpapi.Scope, error) {
			return httpapi.Scope{}, httpapi.ErrForbidden
		}
	})
	for _, target := range w.endpoints() {
		for _, method := range []string{
			http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions, http.MethodTrace, "PURGE", "get",
		} {
			require.Equal(t, 405, do(t, h, httptest.NewRequest(method, target, nil)).status)
			require.Equal(t, 404, do(t, h, httptest.NewRequest(method, target+"/x/y", nil)).status)
		}
	}
}

func TestHeadHasTheHeadersOfGet(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.handler(t)
	no := w.handler(t, func(o *httpapi.Options) {
		o.Authorize = func(*http.Request, httpapi.Permission) (httpapi.Scope, error) {
			return httpapi.Scope{}, httpapi.ErrUnauthenticated
		}
	})
	server := httptest.NewServer(h)
	defer server.Close()
	for _, target := range append(w.endpoints(), pageA+"?limit=0", "/nothing", pageB+"/none") {
		for _, h := range []http.Handler{h, no} {
			get := do(t, h, httptest.NewRequest(http.MethodGet, target, nil))
			head := do(t, h, httptest.NewRequest(http.MethodHead, target, nil))
			require.Equal(t, get.status, head.status)
			require.Equal(t, get.header, head.header)
		}
		resp, err := server.Client().Head(server.URL + target)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, ask(t, h, target).header.Get("Content-Length"), resp.Header.Get("Content-Length"))
	}
}

func TestA500LeaksNothing(t *testing.T) {
	t.Parallel()
	for _, internal := range []bool{false, true} {
		for _, method := range []string{"Webhook", "Webhooks", "Event", "Delivery", "Deliveries", "Attempts", "Stats"} {
			w := newWorld(t)
			h := w.handler(t, func(o *httpapi.Options) { o.Internal = internal })
			w.store.Fail(storetest.Fault{Method: method, Err: errors.New("hunter2 at 10.0.0.1")})
			failed := 0
			for _, target := range w.endpoints() {
				w.log.Reset()
				a := ask(t, h, target)
				if a.status == 200 {
					continue
				}
				failed++
				require.Equal(t, 500, a.status)
				id := regexp.MustCompile(`^Something went wrong; the operator finds it under ([0-9a-f]{16})$`).FindStringSubmatch(a.message())
				require.NotNil(t, id, a.text)
				require.Contains(t, w.log.String(), "id="+id[1])
				require.Contains(t, w.log.String(), "hunter2 at 10.0.0.1")
				require.Contains(t, w.log.String(), "level=ERROR")
				require.Contains(t, []any{"internal_error", nil}, a.at("errorCode"))
				require.Contains(t, []any{"internal-server-error", nil}, a.at("error", "type"))
				require.Contains(t, []any{500.0, nil}, a.at("error", "status"))
				if internal && strings.HasPrefix(target, "/events") {
					require.Contains(t, a.at("internal"), "hunter2", "for the operator")
					continue
				}
				require.NotContains(t, a.text, "hunter2")
				require.NotContains(t, a.text, "internal\"")
			}
			require.NotZero(t, failed, "no endpoint calls %s", method)
		}
	}
}

func TestInternalTellsTheOperatorMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.handler(t, func(o *httpapi.Options) { o.Internal = true })
	require.Contains(t, ask(t, h, "/events/v2/history/webhooks/none").at("internal"), `webhook named "none"`)
	require.Contains(t, ask(t, h, pageA+"?limit=0").at("internal"), "limit is 0")
	require.Nil(t, ask(t, h, pageA+"/x").at("internal"))
}

func TestPanicsAre500(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var value any
	h := w.handler(t, func(o *httpapi.Options) {
		o.Authorize = func(*http.Request, httpapi.Permission) (httpapi.Scope, error) { panic(value) }
	})
	for _, value = range []any{"hunter2", errors.New("hunter2"), httpapi.ErrForbidden, postrider.ErrNotFound} {
		w.log.Reset()
		a := ask(t, h, pageB)
		require.Equal(t, 500, a.status)
		require.NotContains(t, a.text, "hunter2")
		require.Contains(t, w.log.String(), "panic: ")
		require.Contains(t, w.log.String(), "errors_test.go", "with the stack")
	}
	value = http.ErrAbortHandler
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, pageB, nil))
	}, "it is net/http's own")
}

func TestWhoHasGoneIsNoErrorOfTheOperator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.handler(t, func(o *httpapi.Options) {
		o.Logger = slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	w.store.Fail(storetest.Fault{Method: "Stats", When: storetest.Hang})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := do(t, h, httptest.NewRequestWithContext(ctx, http.MethodGet, pageB, nil))
	require.Equal(t, 500, a.status)
	require.Contains(t, w.log.String(), "level=DEBUG")
	require.NotContains(t, w.log.String(), "level=ERROR")
}
