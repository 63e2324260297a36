package views_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/views"
)

func ptr[T any](v T) *T { return &v }

var at = views.Time{Time: time.Date(2019, 7, 21, 17, 32, 28, 202_999_999, time.UTC)}

// TestDocuments compares raw bytes, so that the order of keys counts, and reads back what was written.
func TestDocuments(t *testing.T) {
	t.Parallel()
	payload := json.RawMessage(`{"b":1,"a":1e400,"b":12345678901234567890}`)
	same(t, "past event", views.PastEvent{
		ID: "d", Source: views.Source{ID: "e", Project: "pvc", Event: "broadcast-start", Payload: payload}, Attempts: 3, LastResponseCode: 200,
		LastResponseTime: ptr(int64(25)), Status: "NEW", LastError: "Remote endpoint returned 500 HTTP code", Created: at, WebhookName: "pvc-broadcast-events",
	}, `{"id":"d","source":{"id":"e","project":"pvc","event":"broadcast-start","payload":{"b":1,"a":1e400,"b":12345678901234567890}},`+
		`"attempts":3,"lastResponseCode":200,"lastResponseTime":25,"status":"NEW","lastError":"Remote endpoint returned 500 HTTP code",`+
		`"created":"2019-07-21T17:32:28.202Z","webhookName":"pvc-broadcast-events"}`)
	same(t, "past event without what may be absent", views.PastEvent{Created: at},
		`{"id":"","source":{"id":"","project":"","event":""},"attempts":0,"status":"","created":"2019-07-21T17:32:28.202Z","webhookName":""}`)
	same(t, "a last response in no time", views.PastEvent{Created: at, LastResponseTime: new(int64)},
		`{"id":"","source":{"id":"","project":"","event":""},"attempts":0,"lastResponseTime":0,"status":"","created":"2019-07-21T17:32:28.202Z","webhookName":""}`)
	same(t, "a payload that is null", views.Source{Payload: json.RawMessage(`null`)}, `{"id":"","project":"","event":"","payload":null}`)

	dispatch := views.Dispatch{
		ID: "d", UserID: "u", WebhookID: "w", CreatedAt: at, Status: views.DispatchActive, EventType: "ACTOR.BUILD.ABORTED", EventData: payload,
		Calls: []views.Call{
			{StartedAt: at, FinishedAt: at, ErrorMessage: ptr("Cannot send request"), ResponseStatus: ptr(200), ResponseBody: ptr(`{"foo": "bar"}`)},
			{},
		},
	}
	const dispatchText = `{"id":"d","userId":"u","webhookId":"w","createdAt":"2019-07-21T17:32:28.202Z","status":"ACTIVE","eventType":"ACTOR.BUILD.ABORTED",` +
		`"eventData":{"b":1,"a":1e400,"b":12345678901234567890},"calls":[{"startedAt":"2019-07-21T17:32:28.202Z","finishedAt":"2019-07-21T17:32:28.202Z",` +
		`"errorMessage":"Cannot send request","responseStatus":200,"responseBody":"{\"foo\": \"bar\"}"},` +
		`{"startedAt":null,"finishedAt":null,"errorMessage":null,"responseStatus":null,"responseBody":null}]}`
	same(t, "dispatch", views.Data[views.Dispatch]{Data: dispatch}, `{"data":`+dispatchText+`}`)
	same(t, "dispatches", views.Data[views.DispatchList]{Data: views.DispatchList{
		Total: 7, Offset: 2, Limit: 1, Desc: true, Count: 1, Items: []views.Dispatch{dispatch},
	}}, `{"data":{"total":7,"offset":2,"limit":1,"desc":true,"count":1,"items":[`+dispatchText+`]}}`)
	b, err := json.Marshal(views.Dispatch{Calls: []views.Call{}})
	require.NoError(t, err)
	require.Contains(t, string(b), `"eventData":null,"calls":[]`)

	event := views.WebhookEvent{
		ID: "d-2", Kind: "x", Date: at, DeliveryFailed: true, DeliveryAttempt: 2, TimestampSent: 1563730348, Status: "TIMEOUT",
		Error: "late", RetryOf: "d-1", NextAttemptDate: at, Data: payload,
	}
	const eventText = `{"id":"d-2","kind":"x","date":"2019-07-21T17:32:28.202Z","deliveryFailed":true,"deliveryAttempt":2,"timestampSent":1563730348,` +
		`"status":"TIMEOUT","error":"late","retryOf":"d-1","nextAttemptDate":"2019-07-21T17:32:28.202Z","data":{"b":1,"a":1e400,"b":12345678901234567890}}`
	same(t, "webhook event", event, eventText)
	same(t, "webhook events", views.WebhookEventPage{Items: []views.WebhookEvent{event}, NextPageToken: "more"}, `{"items":[`+eventText+`],"nextPageToken":"more"}`)
	same(t, "last webhook events", views.WebhookEventPage{Items: []views.WebhookEvent{}}, `{"items":[]}`)
	b, err = json.Marshal(views.WebhookEvent{Date: at, Status: "200"})
	require.NoError(t, err)
	require.Equal(t, `{"id":"","kind":"","date":"2019-07-21T17:32:28.202Z","deliveryFailed":false,"deliveryAttempt":0,"timestampSent":0,"status":"200","data":null}`, string(b))
}

func TestErrorBodies(t *testing.T) {
	t.Parallel()
	same(t, "past events", views.PastEventsError{
		Message: "m", ErrorCode: views.PastEventsInvalid, InvalidFields: []views.InvalidField{{Name: "limit", Reason: "is 0", ErrorCode: "out_of_range"}}, Internal: "i",
	}, `{"message":"m","errorCode":"invalid_parameters","invalidFields":[{"name":"limit","reason":"is 0","errorCode":"out_of_range"}],"internal":"i"}`)
	b, err := json.Marshal(&views.PastEventsError{Message: "m", ErrorCode: views.PastEventsNotFound})
	require.NoError(t, err)
	require.Equal(t, `{"message":"m","errorCode":"not_found","invalidFields":[]}`, string(b))
	same(t, "dispatch", views.DispatchError{Error: views.DispatchProblem{Type: views.DispatchNotFound, Message: "m"}},
		`{"error":{"type":"record-not-found","message":"m"}}`)
	same(t, "webhook event", views.WebhookEventError{Error: views.WebhookEventProblem{ID: views.WebhookEventNotFound, Status: 404, Message: "m"}},
		`{"error":{"id":"not_found","status":404,"message":"m"}}`)
}

// same checks what v is in JSON, and that it is the same after it was read back.
func same[T any](t *testing.T, name string, v T, want string) {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err, name)
	require.Equal(t, want, string(b), name)
	var back T
	d := json.NewDecoder(strings.NewReader(want))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&back), name)
	b, err = json.Marshal(back)
	require.NoError(t, err, name)
	require.Equal(t, want, string(b), name)
}

func TestTime(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		t    time.Time
		want string
	}{
		{time.Time{}, `null`},
		{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), `"2026-01-02T03:04:05.000Z"`},
		{time.Date(2026, 1, 2, 3, 4, 5, 999_999_999, time.UTC), `"2026-01-02T03:04:05.999Z"`}, // cut off, not rounded
		{time.Date(2026, 1, 2, 3, 4, 5, 1_500_000, time.UTC), `"2026-01-02T03:04:05.001Z"`},
		{time.Date(2026, 1, 1, 0, 30, 0, 0, time.FixedZone("", 3600)), `"2025-12-31T23:30:00.000Z"`},
		{time.Date(1969, 12, 31, 23, 59, 59, 999_600_000, time.UTC), `"1969-12-31T23:59:59.999Z"`},
		{time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC), `"0001-01-01T00:00:00.000Z"`},
		{time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC), `"9999-12-31T23:59:59.999Z"`},
	} {
		b, err := json.Marshal(views.Time{Time: c.t})
		require.NoError(t, err)
		require.Equal(t, c.want, string(b))
		var back views.Time
		require.NoError(t, json.Unmarshal(b, &back))
		if c.t.Year() > 1 {
			require.Equal(t, c.t.UTC().Truncate(time.Millisecond), back.Time)
			require.Equal(t, c.want, `"`+back.String()+`"`)
		}
	}
	_, err := json.Marshal(views.Time{Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)})
	require.Error(t, err)

	var v views.Time
	require.NoError(t, json.Unmarshal([]byte(`"2026-01-02T03:04:05+01:00"`), &v)) // what others write
	require.Equal(t, "2026-01-02T02:04:05.000Z", v.String())
	require.NoError(t, json.Unmarshal([]byte(`null`), &v))
	require.True(t, v.IsZero())
	for _, bad := range []string{`0`, `"yesterday"`, `{}`, `"2026-01-02"`, `true`} {
		require.Error(t, json.Unmarshal([]byte(bad), &v), bad)
	}
}
