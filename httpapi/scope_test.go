package httpapi_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/httpapi"
)

func TestAuthorizeIsAskedBeforeAnythingIsRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reads := func() (n int) {
		for _, method := range []string{"Webhook", "Webhooks", "Event", "Delivery", "Deliveries", "Attempts", "Stats"} {
			n += w.store.Calls(method)
		}
		return n
	}
	before := reads()
	permissions := []httpapi.Permission{
		httpapi.PermissionHistoryRead, httpapi.PermissionDispatchesRead, httpapi.PermissionDispatchesRead,
		httpapi.PermissionDispatchesRead, httpapi.PermissionEventsRead, httpapi.PermissionEventsRead,
	}
	require.EqualValues(t, "Webhooks:Events:Read", httpapi.PermissionEventsRead)
	for _, c := range []struct {
		err    error
		status int
	}{
		{httpapi.ErrUnauthenticated, 401},
		{fmt.Errorf("token: %w", httpapi.ErrUnauthenticated), 401},
		{httpapi.ErrForbidden, 403},
		{fmt.Errorf("hunter2: %w", httpapi.ErrForbidden), 403},
		{errors.New("hunter2 at 10.0.0.1"), 500},
		{fmt.Errorf("hunter2: %w", postrider.ErrNotFound), 500},
		{&postrider.ValidationError{Fields: []postrider.FieldError{{Name: "hunter2"}}}, 500},
	} {
		for i, target := range w.endpoints() {
			asked := 0
			h := w.handler(t, func(o *httpapi.Options) {
				o.Internal = true
				o.Authorize = func(_ *http.Request, p httpapi.Permission) (httpapi.Scope, error) {
					asked++
					require.Equal(t, permissions[i], p)
					return httpapi.Scope{}, c.err
				}
			})
			a := ask(t, h, target+"?hunter2=1")
			require.Equal(t, c.status, a.status, "%v", c.err)
			require.Equal(t, 1, asked)
			require.NotContains(t, a.text, "hunter2")
		}
	}
	require.Equal(t, before, reads(), "nothing may be read")
	require.Contains(t, w.log.String(), "hunter2 at 10.0.0.1", "the operator is told")
}

func TestChallengeIsSentWith401(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	no := func(*http.Request, httpapi.Permission) (httpapi.Scope, error) {
		return httpapi.Scope{}, httpapi.ErrUnauthenticated
	}
	h := w.handler(t, func(o *httpapi.Options) { o.Authorize = no })
	require.Equal(t, "Bearer", unauthenticated(t, h).header.Get("WWW-Authenticate"))
	h = w.handler(t, func(o *httpapi.Options) { o.Authorize, o.Challenge = no, `Basic realm="a"` })
	require.Equal(t, `Basic realm="a"`, unauthenticated(t, h).header.Get("WWW-Authenticate"))
}

func unauthenticated(t *testing.T, h http.Handler) answered {
	a := ask(t, h, "/v2/webhook-dispatches")
	require.Equal(t, 401, a.status)
	return a
}

func TestPastEventsLookInTheProjectOfTheOptionsElseOfTheScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const target = "/events/v2/history/webhooks/orders"
	get := func(h http.Handler, scope string) answered {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Header.Set("Scope", scope)
		return do(t, h, r)
	}
	h := w.handler(t)
	require.Equal(t, "e8 e7 e6 e5 e4 e3 e2 e1", w.rows(t, get(h, "")))
	require.Equal(t, 404, get(h, "other/").status)
	h = w.handler(t, func(o *httpapi.Options) { o.Project = "" })
	require.Equal(t, "x2 x1", w.rows(t, get(h, "other/")))
	require.Equal(t, "e8 e7 e6 e5 e4 e3 e2 e1", w.rows(t, get(h, "pvc/ann")))
	require.Equal(t, 404, get(h, "").status, "the project without a name has no such webhook")
}

func TestScopeHidesWhatIsOutsideIt(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		h := w.handler(t)
		events := []string{"e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"}
		for _, c := range []struct {
			scope string
			sees  []string // owners
		}{
			{"", []string{"ann", "bob", "eve"}},
			{"pvc/", []string{"ann", "bob"}},
			{"/ann", []string{"ann"}},
			{"/eve", []string{"eve"}},
			{"pvc/ann", []string{"ann"}},
			{"pvc/eve", nil},
			{"other/ann", nil},
			{"nobody/", nil},
		} {
			get := func(target string) answered {
				r := httptest.NewRequest(http.MethodGet, target, nil)
				r.Header.Set("Scope", c.scope)
				return do(t, h, r)
			}
			total := 0
			for _, owner := range []string{"ann", "bob", "eve"} {
				want := 404
				if slices.Contains(c.sees, owner) {
					want = 200
				}
				of := events
				if owner == "eve" {
					of = []string{"x1", "x2"}
				}
				for _, event := range of {
					a := get("/v2/webhook-dispatches/" + w.ids[owner+" "+event])
					require.Equal(t, want, a.status, "%s sees %s %s", c.scope, owner, event)
					if want == 404 {
						none := get("/v2/webhook-dispatches/00000000-0000-7000-8000-000000000000")
						require.Equal(t, none.text, a.text, "it cannot be told from what never was")
					} else {
						total++
					}
				}
				require.Equal(t, want, get("/v2/webhooks/wh-"+owner+"/dispatches").status)
				require.Equal(t, want, get("/webhooks/wh-"+owner+"/events").status)
				if owner == "ann" {
					require.Equal(t, want, get("/webhooks/wh-ann/events/"+w.ids["ann e1"]+"-1").status)
					require.Equal(t, want, get("/events/v2/history/webhooks/orders").status)
					require.Equal(t, 404, get("/webhooks/wh-bob/events/"+w.ids["ann e1"]+"-1").status, "another webhook's")
				}
			}
			a := get("/v2/webhook-dispatches")
			require.Equal(t, 200, a.status)
			require.EqualValues(t, total, a.at("data", "total"), c.scope)
			require.EqualValues(t, total, a.at("data", "count"), c.scope)
		}
	})
}
