package postrider_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

func validWebhook() postrider.Webhook {
	return postrider.Webhook{ID: "id", Name: "name", URL: "https://a.example/in", Events: []string{"*"}, Secrets: []postrider.Secret{postrider.NewSecret()}}
}

func TestWebhookReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	require.NoError(t, validWebhook().Validate())
	w := postrider.Webhook{
		ID: "", Project: "a b", Name: strings.Repeat("n", 65), Owner: "a\nb", URL: "http://", Method: "TRACE",
		Header:  http.Header{"Host": {"x"}, "X-A": {"b\r\nc"}, "X:": {""}},
		Events:  []string{"", "a*b", "ok", "a b"},
		Secrets: []postrider.Secret{{}},
		Schemes: []postrider.Scheme{"v9"},
		Retry:   postrider.Schedule{-1}, Timeout: -1,
		Success:     postrider.Success{Codes: []string{"2xx", "600", "20"}, Header: "a b"},
		MaxInFlight: -1, RateLimit: postrider.RateLimit{Burst: 10_001}, BreakAfter: -1, State: 9,
	}
	names := []string{}
	for _, f := range fields(t, w.Validate()) {
		name, _, _ := strings.Cut(f, " ")
		names = append(names, name)
	}
	require.Subset(t, names, []string{
		"Webhook.ID", "Webhook.Project", "Webhook.Name", "Webhook.Owner", "Webhook.URL", "Webhook.Method",
		`Webhook.Header["Host"]`, `Webhook.Header["X-A"]`, `Webhook.Header["X:"]`,
		"Webhook.Events[0]", "Webhook.Events[1]", "Webhook.Events[3]", "Webhook.Secrets[0]", "Webhook.Schemes[0]",
		"Webhook.Retry[0]", "Webhook.Timeout", "Webhook.Success.Codes[1]", "Webhook.Success.Codes[2]",
		"Webhook.Success.Header", "Webhook.MaxInFlight", "Webhook.RateLimit.N", "Webhook.RateLimit.Per", "Webhook.RateLimit.Burst", "Webhook.BreakAfter", "Webhook.State",
	})
	require.Len(t, names, 25)
}

func TestWebhookNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"a": true, strings.Repeat("a", 64): true, "A-z_09": true,
		"": false, strings.Repeat("a", 65): false, "a b": false, "a.b": false, "ä": false, "a/b": false,
	} {
		w := validWebhook()
		w.Name = name
		require.Equal(t, ok, w.Validate() == nil, "%q", name)
	}
}

func TestWebhookURLs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"http://a.example":                  "",
		"https://a.example:8443/p/a?th=x&y": "",
		"http://[2001:db8::1]:80/":          "",
		"http://xn--bcher-kva.example/":     "",
		"":                                  "is empty",
		"http://":                           "has no host",
		"http:///path":                      "has no host",
		"https://?x":                        "has no host",
		"http:a.example":                    "has no host",
		"a.example/in":                      `has the scheme ""`,
		"file:///etc/passwd":                `has the scheme "file"`,
		"ftp://a.example/":                  `has the scheme "ftp"`,
		"http://user:pw@a.example/":         "has a user",
		"http://a.example/#part":            "has a fragment",
		"http://a.example:99999/":           `has the port "99999"`,
		"http://a.example:0/":               `has the port "0"`,
		"http://a.example:/":                "has the port",
		"http://a.example/ b":               "holds a space",
		"http://a.example\\@b.example/":     "holds a space, a backslash",
		"http://a.example/\x00":             "holds a space, a backslash or a control character",
		"http://a.example/%zz":              "does not parse",
		"http://[::1":                       "does not parse",
		"http://a.example/" + strings.Repeat("x", 2048): "is 2065 bytes",
	} {
		w := validWebhook()
		w.URL = text
		err := w.Validate()
		if want == "" {
			require.NoError(t, err, text)
			continue
		}
		lines := fields(t, err)
		require.Len(t, lines, 1, text)
		require.Contains(t, lines[0], "Webhook.URL "+want, text)
		require.NotContains(t, lines[0], "pw")
	}
}

func TestWebhookMethods(t *testing.T) {
	t.Parallel()
	for method, ok := range map[string]bool{
		"": true, "POST": true, "PUT": true, "PATCH": true, "DELETE": true,
		"GET": false, "HEAD": false, "TRACE": false, "CONNECT": false, "OPTIONS": false, "post": false, "PO ST": false,
	} {
		w := validWebhook()
		w.Method = method
		require.Equal(t, ok, w.Validate() == nil, "%q", method)
	}
}

func TestWebhookHeaders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header http.Header
		ok     bool
	}{
		{http.Header{"X-A": {"1", "2"}, "Authorization": {"Bearer x"}, "User-Agent": {"me"}}, true},
		{http.Header{"x-a": {"ü"}}, true},
		{http.Header{"X-A": {""}}, true},
		{http.Header{"Host": {"x"}}, false},
		{http.Header{"hOsT": {"x"}}, false},
		{http.Header{"content-length": {"1"}}, false},
		{http.Header{"Transfer-Encoding": {"chunked"}}, false},
		{http.Header{"webhook-id": {"x"}}, false},
		{http.Header{"Webhook-Anything": {"x"}}, false},
		{http.Header{"Idempotency-Key": {"x"}}, false},
		{http.Header{"Connection": {"close"}}, false},
		{http.Header{"Proxy-Authorization": {"x"}}, false},
		{http.Header{"X-A": {"1"}, "x-a": {"2"}}, false},
		{http.Header{"": {"1"}}, false},
		{http.Header{"X A": {"1"}}, false},
		{http.Header{"X-A": {"a\nb"}}, false},
		{http.Header{"X-A": {" a"}}, false},
		{http.Header{"X-A": {strings.Repeat("x", 4097)}}, false},
		{http.Header{"X-A": make([]string, 33)}, false},
		{http.Header{"X-A": {strings.Repeat("x", 4096), strings.Repeat("x", 4096), strings.Repeat("x", 4096), strings.Repeat("x", 4096)}}, false},
	} {
		w := validWebhook()
		w.Header = c.header
		err := w.Validate()
		require.Equal(t, c.ok, err == nil, "%v: %v", c.header, err)
		if err != nil {
			require.NotContains(t, err.Error(), "Bearer")
		}
	}
}

func TestWebhookPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern    string
		ok         bool
		match, not string
	}{
		{"*", true, "anything", ""},
		{"a.b", true, "a.b", "a.bc"},
		{"a-*", true, "a-", "a"},
		{"a-*", true, "a-b.c", "b-a-"},
		{"", false, "", ""},
		{"a*b", false, "", ""},
		{"**", false, "", ""},
		{"a b", false, "", ""},
		{strings.Repeat("a", 128), true, strings.Repeat("a", 128), ""},
		{strings.Repeat("a", 129), false, "", ""},
	} {
		w := validWebhook()
		w.Events = []string{c.pattern}
		require.Equal(t, c.ok, w.Validate() == nil, "%q", c.pattern)
		if c.ok {
			require.True(t, w.Matches(c.match), "%q %q", c.pattern, c.match)
			require.False(t, c.not != "" && w.Matches(c.not), "%q %q", c.pattern, c.not)
		}
	}
	w := validWebhook()
	w.Events = nil
	require.Equal(t, []string{`Webhook.Events is empty, want 1 to 256 patterns; "*" takes every event`}, fields(t, w.Validate()))
	require.False(t, w.Matches("x"))
	w.Events = make([]string, 257)
	require.Len(t, fields(t, w.Validate()), 1)
	w.Events = []string{"a", "b-*"}
	require.True(t, w.Matches("b-1"))
}

func TestWebhookSecrets(t *testing.T) {
	t.Parallel()
	w := validWebhook()
	for range 5 {
		w.Secrets = append(w.Secrets, postrider.NewSecret())
	}
	require.Equal(t, []string{"Webhook.Secrets has 6 secrets, want at most 5"}, fields(t, w.Validate()))
	for _, text := range []string{"", "whsec_", "whsec_c2hvcnQ=", "whsec_!", "whsk_" + strings.Repeat("A", 44), testSecret + " "} {
		_, err := postrider.ParseSecret(text)
		lines := fields(t, err)
		require.Contains(t, lines[0], "Secret is [secret], ")
	}
	a, b := postrider.NewSecret(), postrider.NewSecret()
	require.NotEqual(t, a.Reveal(), b.Reveal())
	again, err := postrider.ParseSecret(a.Reveal())
	require.NoError(t, err)
	require.Equal(t, a, again)
	at := time.Now()
	require.False(t, a.Expired(at))
	a.ExpiresAt = at
	require.True(t, a.Expired(at))
	require.False(t, a.Expired(at.Add(-1)))
}

func TestEventReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	ok := postrider.Event{Type: "a.b-c_D9", Payload: []byte("null")}
	require.NoError(t, ok.Validate())
	bad := postrider.Event{
		ID: strings.Repeat("i", 65), Project: "ä", Type: strings.Repeat("t", 129), ContentType: "text",
		Metadata: map[string]string{"k": "\xff"}, OrderKey: "a\nb",
	}
	var names []string
	for _, f := range fields(t, bad.Validate()) {
		name, _, _ := strings.Cut(f, " ")
		names = append(names, name)
	}
	require.Equal(t, []string{"Event.ID", "Event.Project", "Event.Type", "Event.ContentType", "Event.Metadata", "Event.OrderKey"}, names)
}

func TestWebhookLimits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		limit postrider.RateLimit
		want  []string
	}{
		{postrider.RateLimit{}, nil},
		{postrider.RateLimit{N: 1, Per: time.Millisecond}, nil},
		{postrider.RateLimit{N: 1_000_000, Per: 24 * time.Hour, Burst: 10_000}, nil},
		{postrider.RateLimit{N: 1_000_001, Per: time.Millisecond - 1, Burst: -1}, []string{
			"Webhook.RateLimit.N is 1000001, want 1 to 1000000",
			"Webhook.RateLimit.Per is 999.999µs, want 1ms to 24h0m0s",
			"Webhook.RateLimit.Burst is -1, want 0 to 10000",
		}},
		{postrider.RateLimit{N: 5}, []string{"Webhook.RateLimit.Per is 0s, want 1ms to 24h0m0s"}},
		{postrider.RateLimit{Per: 24*time.Hour + 1}, []string{
			"Webhook.RateLimit.N is 0, want 1 to 1000000", "Webhook.RateLimit.Per is 24h0m0.000000001s, want 1ms to 24h0m0s",
		}},
	} {
		w := validWebhook()
		w.Ordered, w.Envelope, w.RateLimit = true, true, c.limit
		if c.want == nil {
			require.NoError(t, w.Validate(), "%+v", c.limit)
			continue
		}
		require.Equal(t, c.want, fields(t, w.Validate()))
	}
	w := validWebhook()
	w.BreakAfter = 1 << 20
	require.NoError(t, w.Validate())
	w.BreakAfter++
	require.Equal(t, []string{"Webhook.BreakAfter is 1048577, want 0 to 1048576"}, fields(t, w.Validate()))
}

func TestEventOrderKeys(t *testing.T) {
	t.Parallel()
	for key, ok := range map[string]bool{
		"": true, "k": true, "order 7/ü": true, strings.Repeat("k", 256): true,
		strings.Repeat("k", 257): false, "a\nb": false, "\xff": false, "\x00": false,
	} {
		e := postrider.Event{Type: "t", Payload: []byte("1"), OrderKey: key}
		require.Equal(t, ok, e.Validate() == nil, "%q", key)
	}
}

func TestEventPayloads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		contentType, payload string
		ok                   bool
	}{
		{"", `{"a":1}`, true},
		{"", ` 1 `, true},
		{"", ``, false},
		{"", `{"a":1`, false},
		{"application/json", `{'a':1}`, false},
		{"Application/JSON; charset=utf-8", `{`, false},
		{"application/json; charset=utf-8", `{}`, true},
		{"text/plain", ``, true},
		{"text/plain; charset=utf-8", "anything\x00", true},
		{"application/cloudevents+json", `{`, true},
		{"text", `x`, false},
		{"text/plain\r\nX: y", `x`, false},
		{"text/" + strings.Repeat("x", 256), `x`, false},
	} {
		e := postrider.Event{Type: "x", ContentType: c.contentType, Payload: []byte(c.payload)}
		require.Equal(t, c.ok, e.Validate() == nil, "%q %q: %v", c.contentType, c.payload, e.Validate())
	}
}

func TestEventMetadata(t *testing.T) {
	t.Parallel()
	e := postrider.Event{Type: "x", Payload: []byte("1"), Metadata: map[string]string{}}
	for i := range 32 {
		e.Metadata[fmt.Sprint(i)] = "v"
	}
	require.NoError(t, e.Validate())
	e.Metadata["more"] = "v"
	require.Equal(t, []string{"Event.Metadata has 33 entries, want at most 32"}, fields(t, e.Validate()))
	e.Metadata = map[string]string{"k": strings.Repeat("v", 16<<10)}
	require.Equal(t, []string{"Event.Metadata is 16385 bytes, want at most 16384"}, fields(t, e.Validate()))
}

func TestNewEvent(t *testing.T) {
	t.Parallel()
	e, err := postrider.NewEvent("p", "x", map[string]int{"a": 1})
	require.NoError(t, err)
	require.Equal(t, postrider.Event{Project: "p", Type: "x", Payload: []byte(`{"a":1}`)}, e)
	_, err = postrider.NewEvent("p", "x", func() {})
	require.ErrorContains(t, err, `payload of event "x"`)
}

func TestDeliveryReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ok := postrider.Delivery{
		ID: "d", EventID: "e", EventType: "x", WebhookID: "w", WebhookName: "n", Status: postrider.StatusDelivered,
		Attempts: 1, CreatedAt: now, FinishedAt: now,
	}
	require.NoError(t, ok.Validate())
	bad := ok
	bad.ID, bad.Project, bad.EventType, bad.Attempts, bad.FinishedAt, bad.NextAt, bad.CreatedAt = "", "a b", "", 0, time.Time{}, now, time.Time{}
	var names []string
	for _, f := range fields(t, bad.Validate()) {
		name, _, _ := strings.Cut(f, " ")
		names = append(names, name)
	}
	require.Equal(t, []string{
		"Delivery.ID", "Delivery.Project", "Delivery.EventType", "Delivery.Attempts", "Delivery.FinishedAt",
		"Delivery.NextAt", "Delivery.CreatedAt",
	}, names)
	for _, c := range []struct {
		status   postrider.Status
		attempts int
		ok       bool
	}{
		{postrider.StatusNew, 0, true}, {postrider.StatusNew, 1, false}, {postrider.StatusInProcess, 0, false},
		{postrider.StatusInProcess, 1, true}, {postrider.StatusDelivered, 0, false}, {postrider.StatusCanceled, 0, true},
		{postrider.StatusFailed, 10, true}, {9, 1, false},
	} {
		d := ok
		d.Status, d.Attempts = c.status, c.attempts
		if !c.status.Final() {
			d.FinishedAt = time.Time{}
		}
		require.Equal(t, c.ok, d.Validate() == nil, "%v %d", c.status, c.attempts)
	}
}

func TestAttemptReportsEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ok := postrider.Attempt{DeliveryID: "d", Number: 1, StartedAt: now, FinishedAt: now, Code: 200}
	require.NoError(t, ok.Validate())
	require.Equal(t, "d-1", ok.ID())
	bad := postrider.Attempt{
		Number: 0, Code: 1000, Class: postrider.ClassTLS, Error: strings.Repeat("x", 513),
		Body: make([]byte, postrider.MaxBody+1), NextAt: now,
	}
	var names []string
	for _, f := range fields(t, bad.Validate()) {
		name, _, _ := strings.Cut(f, " ")
		names = append(names, name)
	}
	require.Equal(t, []string{
		"Attempt.DeliveryID", "Attempt.Number", "Attempt.FinishedAt", "Attempt.Code", "Attempt.Class", "Attempt.Error",
		"Attempt.Body", "Attempt.NextAt",
	}, names)
}

func TestSmallSetsAsText(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal([]any{
		postrider.StatusNew, postrider.StatusInProcess, postrider.StatusDelivered, postrider.StatusCanceled, postrider.StatusFailed,
		postrider.StateEnabled, postrider.StatePaused, postrider.StateDisabled, postrider.ClassNone, postrider.ClassTimeout,
	})
	require.NoError(t, err)
	require.JSONEq(t, `["NEW","IN_PROCESS","DELIVERED","CANCELED","FAILED","ENABLED","PAUSED","DISABLED","NONE","TIMEOUT"]`, string(text))
	var status postrider.Status
	require.NoError(t, json.Unmarshal([]byte(`"CANCELED"`), &status))
	require.Equal(t, postrider.StatusCanceled, status)
	require.Error(t, json.Unmarshal([]byte(`"canceled"`), &status))
	_, err = json.Marshal(postrider.Status(9))
	require.Error(t, err)
	require.Equal(t, "Status(9)", postrider.Status(9).String())

	seen := map[string]bool{"": true}
	for c := postrider.ClassDNS; c <= postrider.ClassCanceled; c++ {
		require.False(t, seen[c.Sentence()], "each class has a sentence of its own")
		seen[c.Sentence()] = true
	}
	require.Empty(t, postrider.Class(99).Sentence())
}
