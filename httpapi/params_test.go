package httpapi_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// The rows of the parameter tables: what is asked of every parameter. "combined" is TestParametersCombine, and the
// last pair of each here.
var rowsOfTables = []string{"absent", "lower bound", "upper bound", "below", "above", "wrong type", "empty", "repeated", "combined"}

// big is a webhook with 210 deliveries of one attempt each.
func (w *world) big(t testing.TB) {
	_, err := w.d.CreateWebhook(t.Context(), postrider.Webhook{
		ID: "wh-ann2", Owner: "ann", Project: "big", Name: "big", URL: "https://example.com", Events: []string{"*"},
	})
	require.NoError(t, err)
	for i := range 210 {
		id := fmt.Sprintf("b%03d", i)
		w.emit(t, postrider.Event{ID: id, Project: "big", Type: "big", Payload: []byte(`1`)}, "ann")
		claims, _, err := w.store.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: 1e9, Only: w.ids["ann "+id]})
		require.NoError(t, err)
		a := postrider.Attempt{DeliveryID: claims[0].Delivery.ID, WebhookID: "wh-ann2", Number: 1, StartedAt: w.now, FinishedAt: w.now, Code: 200}
		_, err = w.store.Complete(t.Context(), []postrider.Outcome{
			{DeliveryID: a.DeliveryID, Token: claims[0].Token, Attempt: &a, Status: postrider.StatusDelivered},
		})
		require.NoError(t, err)
	}
}

func TestParametersOfPastEvents(t *testing.T) {
	t.Parallel()
	const all = "e8 e7 e6 e5 e4 e3 e2 e1"
	w := newWorld(t)
	w.big(t)
	w.testParameters(t, "/events/v2/history/webhooks/orders", []parameter{
		{"offset", []row{
			{"absent", "", all}, {"lower bound", "offset=0", all}, {"upper bound", "offset=100000", ""},
			{"below", "offset=-1", refused}, {"above", "offset=100001", refused}, {"above", "offset=99999999999999999999", refused},
			{"wrong type", "offset=a", refused}, {"wrong type", "offset=1.0", refused}, {"wrong type", "offset=%2B1", refused},
			{"wrong type", "offset=-", refused}, {"wrong type", "offset=1e1", refused}, {"wrong type", "offset=0x1", refused},
			{"empty", "offset=", refused}, {"empty", "offset", refused}, {"repeated", "offset=1&offset=1", refused},
			{"combined", "offset=2&limit=3", "e6 e5 e4"}, {"combined", "status=IN_PROCESS&offset=1", "e5 e4"},
		}},
		{"limit", []row{
			{"absent", "", all}, {"lower bound", "limit=1", "e8"}, {"upper bound", "limit=100", all},
			{"below", "limit=0", refused}, {"below", "limit=-5", refused}, {"below", "limit=-99999999999999999999", refused},
			{"above", "limit=101", refused}, {"wrong type", "limit=ten", refused}, {"wrong type", "limit=%D9%A3", refused},
			{"empty", "limit=", refused}, {"repeated", "limit=1&limit=2", refused}, {"combined", "limit=1&status=FAILED", "e7"},
		}},
		{"responseCode", []row{
			{"absent", "", all}, {"lower bound", "responseCode=100", "e8"}, {"upper bound", "responseCode=599", "e7"},
			{"below", "responseCode=99", refused}, {"below", "responseCode=0", refused}, {"above", "responseCode=600", refused},
			{"wrong type", "responseCode=5xx", refused}, {"wrong type", "responseCode=none", refused}, {"empty", "responseCode=", refused},
			{"repeated", "responseCode=200&responseCode=500", refused}, {"combined", "responseCode=502&status=IN_PROCESS", "e5"},
			{"combined", "responseCode=503", ""}, // the last one received is another
		}},
		{"status", []row{
			{"absent", "", all}, {"lower bound", "status=NEW", "e6"}, {"upper bound", "status=FAILED", "e7 e2"},
			{"combined", "status=IN_PROCESS&minAttempts=1", "e8 e5 e4"}, {"combined", "status=DELIVERED&responseCode=200", "e1"},
			{"combined", "status=CANCELED&minAttempts=0", "e3"},
			{"below", "status=new", refused}, {"above", "status=DONE", refused}, {"wrong type", "status=0", refused},
			{"wrong type", "status=NEW,FAILED", refused}, {"empty", "status=", refused}, {"repeated", "status=NEW&status=FAILED", refused},
		}},
		{"event", []row{
			{"absent", "", all}, {"lower bound", "event=a", ""}, {"upper bound", "event=" + strings.Repeat("a", 128), ""},
			{"below", "event=order.", ""}, {"above", "event=" + strings.Repeat("a", 129), refused}, // a prefix is no match
			{"wrong type", "event=order.*", refused}, {"wrong type", "event=a%20b", refused}, {"wrong type", "event=%00", refused},
			{"wrong type", "event=%FF", refused}, {"wrong type", "event=%zz", refused}, {"wrong type", "event=order.paid;x", refused},
			{"empty", "event=", refused}, {"repeated", "event=order.paid&event=order.paid", refused},
			{"combined", "event=order.paid&status=CANCELED", "e3"},
		}},
		{"from", []row{
			{"absent", "", all}, {"lower bound", "from=0001-01-01T00:00:00.000001Z", all}, {"upper bound", "from=9999-12-31T23:59:59.999999Z", ""},
			{"lower bound", "from=2026-03-01T10:00:07.123Z", "e8"}, {"above", "from=2026-03-01T10:00:07.124Z", ""},
			{"below", "from=2026-03-01T10:00:06.124Z", "e8"}, {"below", "from=0001-01-01T00:00:00Z", refused}, {"below", "from=0000-12-31T23:59:59Z", refused},
			{"above", "from=9999-12-31T23:59:59-01:00", refused}, {"above", "from=10000-01-01T00:00:00Z", refused},
			{"wrong type", "from=2026-03-01", refused}, {"wrong type", "from=1772359200", refused}, {"wrong type", "from=2026-03-01 10:00:00", refused},
			{"wrong type", "from=2026-03-01T10:00:00", refused}, {"wrong type", "from=2026-02-30T10:00:00Z", refused},
			{"wrong type", "from=2026-03-01T10:00:00+01:00", refused}, // the + is a space
			{"wrong type", "from=2026-03-01T1:00:00Z", refused}, {"wrong type", "from=2026-03-01T10:00:00,5Z", refused},
			{"empty", "from=", refused}, {"repeated", "from=2026-03-01T10:00:00Z&from=2026-03-01T10:00:00Z", refused},
			{"combined", "from=2026-03-01T11:00:06%2B01:00&to=2026-03-01T10:00:07Z", "e7"},
			{"combined", "from=2026-03-01T10:00:06Z&status=NEW", ""}, {"combined", "from=2026-03-01T10:00:04Z&status=NEW", "e6"},
		}},
		{"to", []row{
			{"absent", "", all}, {"lower bound", "to=0001-01-01T00:00:00.000001Z", ""}, {"upper bound", "to=9999-12-31T23:59:59Z", all},
			{"lower bound", "to=2026-03-01T10:00:00.123Z", "e1"}, {"below", "to=2026-03-01T10:00:00.122Z", ""},
			{"below", "to=0001-01-01T00:00:00Z", refused}, {"above", "to=2026-03-01T10:00:00.124Z", "e1"},
			{"above", "to=10000-01-01T00:00:00Z", refused}, {"wrong type", "to=now", refused}, {"empty", "to=", refused},
			{"repeated", "to=2026-03-01T10:00:00Z&to=", refused}, {"combined", "to=2026-03-01T10:00:01Z&from=2026-03-01T10:00:02Z", refused},
			{"combined", "from=2026-03-01T10:00:01.123Z&to=2026-03-01T10:00:01.123Z", "e2"},
			{"combined", "to=2026-03-01T10:00:04.123Z&minAttempts=3", "e5"},
		}},
		{"minAttempts", []row{
			{"absent", "", all}, {"lower bound", "minAttempts=0", all}, {"lower bound", "minAttempts=1", "e8 e7 e5 e4 e2 e1"},
			{"upper bound", "minAttempts=2147483647", ""}, {"below", "minAttempts=-1", refused}, {"above", "minAttempts=2147483648", refused},
			{"wrong type", "minAttempts=two", refused}, {"empty", "minAttempts=", refused}, {"repeated", "minAttempts=1&minAttempts=2", refused},
			{"combined", "minAttempts=2&status=FAILED", "e2"},
		}},
	})

	h := w.handler(t, pastEventsOf("big"))
	for query, n := range map[string]int{"": 100, "limit=100": 100, "limit=99": 99, "offset=200": 10, "offset=205&limit=3": 3} {
		require.Len(t, ask(t, h, "/events/v2/history/webhooks/big?"+query).json, n, query)
	}
}

func TestParametersOfDispatches(t *testing.T) {
	t.Parallel()
	const all, back = "e1 e2 e3 e4 e5 e6 e7 e8", "e8 e7 e6 e5 e4 e3 e2 e1"
	w := newWorld(t)
	parameters := []parameter{
		{"offset", []row{
			{"absent", "", all}, {"lower bound", "offset=0", all}, {"upper bound", "offset=100000", ""}, {"below", "offset=-1", refused},
			{"above", "offset=100001", refused}, {"wrong type", "offset=x", refused}, {"empty", "offset=", refused},
			{"repeated", "offset=1&offset=2", refused}, {"combined", "offset=5&desc=1", "e3 e2 e1"}, {"combined", "offset=6&limit=1", "e7"},
		}},
		{"limit", []row{
			{"absent", "", all}, {"lower bound", "limit=1", "e1"}, {"upper bound", "limit=1000", all}, {"below", "limit=0", refused},
			{"below", "limit=-1", refused}, {"above", "limit=1001", all}, {"above", "limit=99999999999999999999", all},
			{"wrong type", "limit=1.5", refused}, {"empty", "limit=", refused}, {"repeated", "limit=1&limit=1", refused},
			{"combined", "limit=2&desc=true", "e8 e7"},
		}},
		{"desc", []row{
			{"absent", "", all}, {"lower bound", "desc=0", all}, {"lower bound", "desc=false", all}, {"upper bound", "desc=1", back},
			{"upper bound", "desc=true", back}, {"below", "desc=-1", refused}, {"above", "desc=2", refused}, {"wrong type", "desc=yes", refused},
			{"wrong type", "desc=TRUE", refused}, {"empty", "desc=", all}, {"empty", "desc", all}, {"repeated", "desc=1&desc=1", refused},
			{"combined", "desc=1&offset=7", "e1"},
		}},
	}
	w.testParameters(t, "/v2/webhooks/wh-ann/dispatches", parameters)

	h := w.handler(t)
	a := ask(t, h, "/v2/webhook-dispatches?desc=1&limit=1001&offset=2")
	require.Equal(t, []any{18.0, 2.0, 1000.0, true, 16.0}, []any{
		a.at("data", "total"), a.at("data", "offset"), a.at("data", "limit"), a.at("data", "desc"), a.at("data", "count"),
	}, "of every webhook")
	for _, p := range parameters {
		for _, r := range p.rows {
			status := http.StatusOK
			if r.want == refused {
				status = http.StatusBadRequest
			}
			require.Equal(t, status, ask(t, h, "/v2/webhook-dispatches?"+r.query).status, r.query)
		}
	}
}

func TestParametersOfWebhookEvents(t *testing.T) {
	t.Parallel()
	const all = "e8-1 e7-1 e5-3 e5-2 e5-1 e4-1 e2-2 e2-1 e1-1"
	w := newWorld(t)
	w.big(t)
	h := w.handler(t)
	token := nextToken(t, ask(t, h, "/webhooks/wh-ann/events?limit=3"))
	w.testParameters(t, "/webhooks/wh-ann/events", []parameter{
		{"kind", []row{
			{"absent", "", all}, {"lower bound", "kind=a", ""}, {"upper bound", "kind=" + strings.Repeat("k", 128), ""}, {"below", "kind=order", ""},
			{"above", "kind=" + strings.Repeat("k", 129), refused}, {"wrong type", "kind=*", refused}, {"wrong type", "kind=%E2%82%AC", refused},
			{"empty", "kind=", refused}, {"repeated", "kind=order.paid&kind=order.paid", refused}, {"combined", "kind=order.paid&deliveryFailed=true", "e4-1"},
			{"combined", "kind=order.paid", "e4-1"},
		}},
		{"deliveryFailed", []row{
			{"absent", "", all}, {"lower bound", "deliveryFailed=false", "e1-1"},
			{"upper bound", "deliveryFailed=true", "e8-1 e7-1 e5-3 e5-2 e5-1 e4-1 e2-2 e2-1"}, {"below", "deliveryFailed=0", refused},
			{"above", "deliveryFailed=1", refused}, {"wrong type", "deliveryFailed=True", refused}, {"empty", "deliveryFailed=", refused},
			{"repeated", "deliveryFailed=true&deliveryFailed=false", refused}, {"combined", "deliveryFailed=true&limit=2", "e8-1 e7-1"},
		}},
		{"limit", []row{
			{"absent", "", all}, {"lower bound", "limit=1", "e8-1"}, {"upper bound", "limit=200", all}, {"below", "limit=0", refused},
			{"above", "limit=201", refused}, {"wrong type", "limit=all", refused}, {"empty", "limit=", refused},
			{"repeated", "limit=1&limit=1", refused}, {"combined", "limit=3&kind=order.created", "e8-1 e5-3 e5-2"},
		}},
		{"paginationToken", []row{
			{"absent", "", all}, {"lower bound", "paginationToken=" + token, "e5-2 e5-1 e4-1 e2-2 e2-1 e1-1"},
			{"upper bound", "limit=2&paginationToken=" + token, "e5-2 e5-1"}, // a page may have another size
			{"below", "paginationToken=" + token[1:], refused}, {"above", "paginationToken=" + token + "A", refused},
			{"above", "paginationToken=" + strings.Repeat("A", 3000), refused},
			{"wrong type", "paginationToken=%00", refused}, {"wrong type", "paginationToken=2", refused}, {"empty", "paginationToken=", refused},
			{"repeated", "paginationToken=" + token + "&paginationToken=" + token, refused},
			{"combined", "kind=order.paid&paginationToken=" + token, refused}, // of another query
			{"combined", "deliveryFailed=true&paginationToken=" + token, refused},
		}},
	})

	for query, n := range map[string]int{"": 50, "limit=200": 200, "limit=49": 49} {
		a := ask(t, h, "/webhooks/wh-ann2/events?"+query)
		require.Len(t, a.at("items"), n, query)
		require.NotEmpty(t, a.at("nextPageToken"), query)
	}
}

func TestTokensLeadThroughAllPagesOnce(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		h := w.handler(t)
		for limit := 1; limit <= 10; limit++ {
			var seen []string
			query := fmt.Sprintf("?limit=%d", limit)
			for target := query; ; {
				a := ask(t, h, "/webhooks/wh-ann/events"+target)
				seen = append(seen, w.rows(t, a))
				token, more := a.at("nextPageToken").(string)
				if !more {
					break
				}
				target = query + "&paginationToken=" + url.QueryEscape(token)
			}
			require.Equal(t, "e8-1 e7-1 e5-3 e5-2 e5-1 e4-1 e2-2 e2-1 e1-1", strings.Join(seen, " "))
			require.Len(t, seen, (9+limit-1)/limit, "the last page has no token")
		}
	})
}

func TestEveryBadParameterIsListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.handler(t)
	token := nextToken(t, ask(t, h, "/webhooks/wh-ann/events?limit=1"))
	tokenOfKind := nextToken(t, ask(t, h, "/webhooks/wh-ann/events?limit=1&kind=order.created"))
	for _, c := range []struct {
		target string
		want   string
	}{
		{"/events/v2/history/webhooks/orders?minAttempts=x&to=&from=1&event=*&status=x&responseCode=1&offset=-1&limit=0",
			"limit offset responseCode status event from to minAttempts"},
		{"/events/v2/history/webhooks/a%20b?zeta=1&limit=0&alpha=2&zeta=3&to=x", "name limit to zeta alpha"},
		{"/events/v2/history/webhooks/?limit=1000", "name limit"},
		{"/events/v2/history/webhooks/" + strings.Repeat("a", 65), "name"},
		{"/events/v2/history/webhooks/a%2Fb", "name"},
		{"/events/v2/history/webhooks/%FF", "name"},
		{"/events/v2/history/webhooks/orders?Limit=1", "Limit"},
		{"/events/v2/history/webhooks/orders?limit=1&limit=x&offset=1", "limit"},
		{"/events/v2/history/webhooks/orders?limit=x&limit=1&limit=2&%zz=1&a%00b", "limit \uFFFD\uFFFD a\x00b"},
		{"/v2/webhook-dispatches?desc=x&limit=0&offset=100001&webhookId=1", "offset limit desc webhookId"},
		{"/v2/webhooks/wh-ann/dispatches?status=ACTIVE&desc=x", "desc status"},
		{"/v2/webhook-dispatches/" + w.ids["ann e1"] + "?limit=1&offset=1", "limit offset"},
		{"/webhooks/wh-ann/events?kind=&deliveryFailed=&limit=&paginationToken=&x=", "kind deliveryFailed limit paginationToken x"},
		{"/webhooks/wh-ann/events?limit=0&paginationToken=bad&x=1", "limit paginationToken x"},
		{"/webhooks/wh-ann/events?limit=0&paginationToken=" + token, "limit"},
		{"/webhooks/wh-ann/events?kind=*&paginationToken=" + token, "kind"},
		{"/webhooks/wh-ann/events?kind=*&paginationToken=" + tokenOfKind, "kind"},
		{"/webhooks/wh-ann/events/" + w.ids["ann e1"] + "-1?kind=a", "kind"},
		{"/webhooks/wh-ann/events?x=" + strings.Repeat("a", 4<<10), "query"},
		{"/v2/webhook-dispatches?&&", ""},
		{"/v2/webhook-dispatches?=1", ""},
	} {
		a := ask(t, h, c.target)
		switch {
		case strings.HasSuffix(c.target, "?&&"):
			require.Equal(t, 200, a.status)
		case strings.HasSuffix(c.target, "?=1"):
			require.Equal(t, 400, a.status)
			require.Contains(t, a.message(), `"" is not a parameter here, want offset, limit, desc`)
		case strings.Contains(c.target, "%zz"):
			require.Equal(t, 400, a.status)
			require.Equal(t, []string{"limit", "%zz", "a\x00b"}, a.bad())
		default:
			require.Equal(t, 400, a.status, c.target)
			require.Equal(t, c.want, strings.Join(a.bad(), " "), c.target)
		}
	}
}

// nextToken returns the token of the page that follows, for a query string.
func nextToken(t *testing.T, a answered) string {
	text, ok := a.at("nextPageToken").(string)
	require.True(t, ok, a.text)
	return url.QueryEscape(text)
}

func TestHostileQueriesGetShortAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.handler(t)
	var many strings.Builder
	for i := range 1300 {
		fmt.Fprintf(&many, "%02x&", i)
	}
	require.Less(t, many.Len(), 5000)
	for _, query := range []string{
		many.String()[:4096], "limit=" + strings.Repeat("9", 4000), strings.Repeat("%00", 1300), strings.Repeat("&", 4096),
		strings.Repeat("limit=1&", 500), "status=" + strings.Repeat("%22", 1300), strings.Repeat("a", 1<<20),
	} {
		for _, target := range w.endpoints() {
			r := httptest.NewRequest(http.MethodGet, target, nil)
			r.URL.RawQuery = query
			require.Less(t, len(do(t, h, r).text), 300_000)
		}
	}
}

// refused, as what is wanted, is a 400 that names the parameter.
const refused = "refused"

type parameter struct {
	name string
	rows []row
}

type row struct {
	label string // one of rowsOfTables
	query string
	want  string // the rows of the answer, or refused
}

// testParameters asks every row of every parameter, and that no row is missing.
func (w *world) testParameters(t *testing.T, target string, parameters []parameter) {
	t.Helper()
	h := w.handler(t)
	for _, p := range parameters {
		for _, label := range rowsOfTables {
			require.True(t, slices.ContainsFunc(p.rows, func(r row) bool { return r.label == label }), "%s has no row %s", p.name, label)
		}
		for _, r := range p.rows {
			require.Contains(t, rowsOfTables, r.label)
			what := p.name + ", " + r.label + ": " + r.query
			request := httptest.NewRequest(http.MethodGet, target, nil)
			request.URL.RawQuery = r.query
			a := do(t, h, request)
			if r.want == refused {
				require.Equal(t, http.StatusBadRequest, a.status, what)
				require.Equal(t, []string{p.name}, a.bad(), what)
				continue
			}
			require.Equal(t, r.want, w.rows(t, a), what)
		}
	}
}
