package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/httpapi"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/storetest"
)

// start is when the first event of the world is emitted; one comes each second.
var start = time.Date(2026, 3, 1, 10, 0, 0, 123456000, time.UTC)

// world is a store with three webhooks: orders of ann and stock of bob in the project pvc, which get the events e1 to e8,
// and orders of eve in the project other, which gets x1 and x2.
type world struct {
	store *storetest.Faults
	d     *postrider.Dispatcher
	now   time.Time
	log   bytes.Buffer
	ids   map[string]string // of deliveries, by webhook and event: "ann e1"
}

// The world's deliveries to ann; bob's and eve's are all NEW.
//
//	e1 order.created  DELIVERED   200
//	e2 order.created  FAILED      503, 500
//	e3 order.paid     CANCELED
//	e4 order.paid     IN_PROCESS  TIMEOUT
//	e5 order.created  IN_PROCESS  503, 502, TIMEOUT
//	e6 order.created  NEW
//	e7 order.note     FAILED      599           a payload that is not JSON
//	e8 order.created  IN_PROCESS  100
func newWorld(t testing.TB) *world {
	return newWorldOn(t, func(now func() time.Time) postrider.Store { return memstore.New(memstore.Options{Now: now}) })
}

// onEveryStore runs a test in a world of each store.
func onEveryStore(t *testing.T, test func(*testing.T, *world)) {
	t.Parallel()
	t.Run("memstore", func(t *testing.T) {
		t.Parallel()
		test(t, newWorld(t))
	})
	t.Run("bolt", func(t *testing.T) {
		t.Parallel()
		test(t, newWorldOn(t, func(now func() time.Time) postrider.Store {
			store, err := bolt.Open(filepath.Join(t.TempDir(), "webhooks.db"), bolt.Options{Now: now})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, store.Close()) })
			return store
		}))
	})
}

func newWorldOn(t testing.TB, open func(now func() time.Time) postrider.Store) *world {
	w := &world{now: start, ids: map[string]string{}}
	w.store = storetest.NewFaults(open(func() time.Time { return w.now }))
	d, err := postrider.New(w.store, postrider.Config{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	w.d = d
	for _, hook := range []postrider.Webhook{
		{ID: "wh-ann", Owner: "ann", Project: "pvc", Name: "orders", Events: []string{"order.*"}},
		{ID: "wh-bob", Owner: "bob", Project: "pvc", Name: "stock", Events: []string{"order.*"}},
		{ID: "wh-eve", Owner: "eve", Project: "other", Name: "orders", Events: []string{"*"}},
	} {
		hook.URL = "https://example.com/" + hook.Name
		_, err := d.CreateWebhook(t.Context(), hook)
		require.NoError(t, err)
	}
	for i, typ := range []string{
		"order.created", "order.created", "order.paid", "order.paid", "order.created", "order.created", "order.note", "order.created",
	} {
		e := postrider.Event{
			ID: "e" + strconv.Itoa(i+1), Project: "pvc", Type: typ, Time: w.now, Payload: []byte(`{"n":1.00,"a":"<&>","n":2}`),
		}
		if typ == "order.note" {
			e.Payload, e.ContentType = []byte("not JSON"), "text/plain"
		}
		w.emit(t, e, "ann", "bob")
	}
	for _, id := range []string{"x1", "x2"} {
		w.emit(t, postrider.Event{ID: id, Project: "other", Type: "secret.eve", Payload: []byte(`{"eve":true}`)}, "eve")
	}
	w.attempts(t, "e1", postrider.StatusDelivered, 200)
	w.attempts(t, "e2", postrider.StatusFailed, 503, 500)
	_, _, err = w.store.Change(t.Context(), postrider.Change{
		Kind: postrider.ChangeCancel, Query: postrider.DeliveryQuery{ID: w.ids["ann e3"]}, Max: 1,
	})
	require.NoError(t, err)
	w.attempts(t, "e4", postrider.StatusInProcess, 0)
	w.attempts(t, "e5", postrider.StatusInProcess, 503, 502, 0)
	w.attempts(t, "e7", postrider.StatusFailed, 599)
	w.attempts(t, "e8", postrider.StatusInProcess, 100)
	return w
}

func (w *world) emit(t testing.TB, e postrider.Event, owners ...string) {
	receipt, err := w.d.Emit(t.Context(), e)
	require.NoError(t, err)
	require.Len(t, receipt.Deliveries, len(owners))
	for _, id := range receipt.Deliveries {
		v, err := w.d.Delivery(t.Context(), id)
		require.NoError(t, err)
		require.Contains(t, owners, v.Owner)
		w.ids[v.Owner+" "+e.ID] = id
	}
	w.now = w.now.Add(time.Second)
}

// attempts makes attempts of ann's delivery of an event, of which the last one leaves it in the status. The code 0 is a
// time-out.
func (w *world) attempts(t testing.TB, event string, last postrider.Status, codes ...int) {
	id := w.ids["ann "+event]
	for i, code := range codes {
		claims, _, err := w.store.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Minute, Only: id})
		require.NoError(t, err)
		require.Len(t, claims, 1)
		a := postrider.Attempt{
			DeliveryID: id, WebhookID: "wh-ann", Number: i + 1, StartedAt: w.now, FinishedAt: w.now.Add(25 * time.Millisecond),
			Timestamp: w.now.Unix(), Code: code, Body: []byte("answer"),
		}
		status := last
		if i < len(codes)-1 {
			status = postrider.StatusInProcess
		}
		switch {
		case code == 0:
			a.Failed, a.Class, a.Body = true, postrider.ClassTimeout, nil
		case status != postrider.StatusDelivered:
			a.Failed, a.Class = true, postrider.ClassStatus
		}
		a.Error = a.Class.Sentence()
		if status == postrider.StatusInProcess {
			a.NextAt = w.now.Add(time.Minute)
		}
		n, err := w.store.Complete(t.Context(), []postrider.Outcome{{
			DeliveryID: id, Token: claims[0].Token, Attempt: &a, Status: status, RetryIn: time.Minute,
		}})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		w.now = w.now.Add(2 * time.Minute)
	}
}

// handler returns the handler for callers whose scope is what the header Scope says: "project/owner", each of them may
// be empty. Without the header they see everything.
func (w *world) handler(t testing.TB, change ...func(*httpapi.Options)) http.Handler {
	o := httpapi.Options{
		Project: "pvc",
		Logger:  slog.New(slog.NewTextHandler(&w.log, nil)),
		Authorize: func(r *http.Request, _ httpapi.Permission) (httpapi.Scope, error) {
			project, owner, _ := strings.Cut(r.Header.Get("Scope"), "/")
			return httpapi.Scope{Project: project, Owner: owner}, nil
		},
	}
	for _, f := range change {
		f(&o)
	}
	h, err := httpapi.New(w.d, o)
	require.NoError(t, err)
	return h
}

// answered is an answer, and the parts of it that tests ask for.
type answered struct {
	status int
	header http.Header
	text   string
	json   any
}

// ask makes a GET request.
func ask(t testing.TB, h http.Handler, target string) answered {
	return do(t, h, httptest.NewRequest(http.MethodGet, target, nil))
}

// do makes a request and checks what is true of every answer.
func do(t testing.TB, h http.Handler, r *http.Request) answered {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	a := answered{status: rec.Code, header: rec.Result().Header, text: rec.Body.String()}
	what := fmt.Sprintf("%s %s: %d %s", r.Method, r.URL, a.status, a.text)
	require.Contains(t, []int{200, 400, 401, 403, 404, 405, 500}, a.status, what)
	require.Equal(t, "application/json; charset=utf-8", a.header.Get("Content-Type"), what)
	require.Equal(t, "no-store", a.header.Get("Cache-Control"), what)
	require.Equal(t, "nosniff", a.header.Get("X-Content-Type-Options"), what)
	require.Equal(t, a.status == http.StatusMethodNotAllowed, a.header.Get("Allow") == "GET, HEAD", what)
	require.Equal(t, a.status == http.StatusUnauthorized, a.header.Get("WWW-Authenticate") != "", what)
	if r.Method == http.MethodHead {
		require.Empty(t, a.text, what)
		return a
	}
	require.Equal(t, strconv.Itoa(len(a.text)), a.header.Get("Content-Length"), what)
	require.NoError(t, json.Unmarshal([]byte(a.text), &a.json), what)
	return a
}

// at returns the value at a path of keys in the answer, nil if there is none.
func (a answered) at(keys ...string) any {
	v := a.json
	for _, key := range keys {
		object, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = object[key]
	}
	return v
}

// message returns the sentence of an error of any view.
func (a answered) message() string {
	message, ok := a.at("message").(string)
	if !ok {
		message, _ = a.at("error", "message").(string)
	}
	return message
}

// bad returns the parameters that a 400 names, in its order.
func (a answered) bad() (names []string) {
	if fields, ok := a.at("invalidFields").([]any); ok {
		for _, f := range fields {
			names = append(names, f.(map[string]any)["name"].(string))
		}
		return names
	}
	_, list, ok := strings.Cut(a.message(), "Invalid input: ")
	if !ok {
		return nil
	}
	for part := range strings.SplitSeq(list, "; ") {
		if name, _, ok := strings.Cut(part, " is "); ok {
			names = append(names, name)
		}
	}
	return names
}

// rows returns the rows of a list, each as the name of what it shows: "e1" for a delivery, "e1-2" for an attempt.
func (w *world) rows(t testing.TB, a answered) string {
	t.Helper()
	require.Equal(t, http.StatusOK, a.status, a.text)
	list, ok := a.json.([]any)
	for _, keys := range [][]string{{"data", "items"}, {"items"}} {
		if !ok {
			list, ok = a.at(keys...).([]any)
		}
	}
	require.True(t, ok, a.text)
	var names []string
	for _, row := range list {
		id := row.(map[string]any)["id"].(string)
		for name, delivery := range w.ids {
			if rest, ok := strings.CutPrefix(id, delivery); ok {
				_, event, _ := strings.Cut(name, " ")
				names = append(names, event+rest)
			}
		}
	}
	require.Len(t, names, len(list))
	return strings.Join(names, " ")
}

// Every endpoint, with something to be found in the world.
func (w *world) endpoints() []string {
	return []string{
		"/events/v2/history/webhooks/orders",
		"/v2/webhook-dispatches/" + w.ids["ann e5"],
		"/v2/webhook-dispatches",
		"/v2/webhooks/wh-ann/dispatches",
		"/webhooks/wh-ann/events/" + w.ids["ann e5"] + "-2",
		"/webhooks/wh-ann/events",
	}
}

func TestNewReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	_, err := httpapi.New(nil, httpapi.Options{Project: "a b", Challenge: "Bearer\r\nX: y"})
	var invalid *postrider.ValidationError
	require.ErrorAs(t, err, &invalid)
	var names []string
	for _, f := range invalid.Fields {
		names = append(names, f.Name)
		require.NotEmpty(t, f.Reason)
		require.NotEmpty(t, f.Code)
	}
	require.Equal(t, []string{"Dispatcher", "Options.Authorize", "Options.Project", "Options.Challenge"}, names)
}

func TestEveryEndpointAnswersTheDocumentedBody(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		h := w.handler(t)
		e1, e5, e7 := w.ids["ann e1"], w.ids["ann e5"], w.ids["ann e7"]

		require.Equal(t, `[{"id":"`+e1+`","source":{"id":"e1","project":"pvc","event":"order.created","payload":`+
			`{"n":1.00,"a":"\u003c\u0026\u003e","n":2}},"attempts":1,"lastResponseCode":200,"lastResponseTime":25,`+
			`"status":"DELIVERED","created":"2026-03-01T10:00:00.123Z","webhookName":"orders"}]`,
			ask(t, h, "/events/v2/history/webhooks/orders?status=DELIVERED").text)

		const second = `"startedAt":"2026-03-01T10:10:10.123Z","finishedAt":"2026-03-01T10:10:10.148Z",`
		a := ask(t, h, "/v2/webhook-dispatches/"+e5)
		require.Contains(t, a.text, `{"data":{"id":"`+e5+`","userId":"ann","webhookId":"wh-ann","createdAt":"2026-03-01T10:00:04.123Z",`+
			`"status":"ACTIVE","eventType":"order.created","eventData":{"n":1.00,"a":"\u003c\u0026\u003e","n":2},"calls":[{`)
		require.Contains(t, a.text, `{`+second+`"errorMessage":"`+postrider.ClassStatus.Sentence()+`","responseStatus":502,"responseBody":"answer"}`)
		require.Contains(t, a.text, `"errorMessage":"`+postrider.ClassTimeout.Sentence()+`","responseStatus":null,"responseBody":null}]}}`)

		a = ask(t, h, "/v2/webhooks/wh-ann/dispatches?limit=2")
		require.True(t, strings.HasPrefix(a.text, `{"data":{"total":8,"offset":0,"limit":2,"desc":false,"count":2,"items":[{"id":"`+e1), a.text)

		require.Equal(t, `{"id":"`+e5+`-3","kind":"order.created","date":"2026-03-01T10:00:04.123Z","deliveryFailed":true,"deliveryAttempt":3,`+
			`"timestampSent":1772359930,"status":"TIMEOUT","error":"`+postrider.ClassTimeout.Sentence()+`","retryOf":"`+e5+`-2",`+
			`"nextAttemptDate":"2026-03-01T10:13:10.123Z","data":{"n":1.00,"a":"\u003c\u0026\u003e","n":2}}`,
			ask(t, h, "/webhooks/wh-ann/events/"+e5+"-3").text)

		require.Contains(t, ask(t, h, "/v2/webhook-dispatches/"+e7).text, `"eventData":null`)
		require.NotContains(t, ask(t, h, "/events/v2/history/webhooks/orders?event=order.note").text, "payload")
	})
}

func TestEmptyListsAreLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, err := w.d.CreateWebhook(t.Context(), postrider.Webhook{
		ID: "wh-new", Project: "pvc", Name: "new", URL: "https://example.com", Events: []string{"none"},
	})
	require.NoError(t, err)
	h := w.handler(t)
	require.Equal(t, `[]`, ask(t, h, "/events/v2/history/webhooks/new").text)
	require.Equal(t, `{"data":{"total":0,"offset":0,"limit":1000,"desc":false,"count":0,"items":[]}}`, ask(t, h, "/v2/webhooks/wh-new/dispatches").text)
	require.Equal(t, `{"items":[]}`, ask(t, h, "/webhooks/wh-new/events").text)
}

// pastEventsOf makes past events look in a project.
func pastEventsOf(project string) func(*httpapi.Options) {
	return func(o *httpapi.Options) { o.Project = project }
}
