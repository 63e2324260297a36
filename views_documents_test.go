package postrider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/views"
)

// golden returns a document of testdata/views on one line, under the delivery's real ID.
func golden(t testing.TB, name, deliveryID string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "views", name+".json"))
	require.NoError(t, err)
	var line bytes.Buffer
	require.NoError(t, json.Compact(&line, b))
	return strings.ReplaceAll(line.String(), "413f13e3-684e-7123-8247-0963feaa3351", deliveryID)
}

// TestOneDeliverySeenThreeWays is the worked example of the three pages: one delivery, three documents, compared byte
// for byte with files that were written by hand.
func TestOneDeliverySeenThreeWays(t *testing.T) {
	for _, rule := range []struct {
		name  string
		codes []string
		after string // what the last documents are called
	}{
		{"only 200 is a success", []string{"200"}, "3"},
		{"any 2xx is a success", nil, "delivered"},
	} {
		t.Run(rule.name, func(t *testing.T) {
			onEachStore(t, func(t *testing.T, open opener) {
				synctest.Test(t, func(t *testing.T) { oneDelivery(t, open(t, time.Now), rule.codes, rule.after) })
			})
		})
	}
}

func oneDelivery(t *testing.T, store postrider.Store, success []string, after string) {
	ctx := t.Context()
	time.Sleep(10 * time.Hour) // a bubble begins on 2000-01-01 at midnight
	b := newBench(t, store, postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
		switch r.Attempt {
		case 1:
			return postrider.Response{Code: 500, Body: []byte(`{"foo": "bar"}`)}, sleep(ctx, 120*time.Millisecond)
		case 2:
			return hang(ctx, r)
		}
		return postrider.Response{Code: 204}, sleep(ctx, 25*time.Millisecond)
	})
	w := b.hook("asdLZtadYvn4mBZmm", func(w *postrider.Webhook) {
		w.Project, w.Name, w.Owner = "pvc", "pvc-broadcast-events", "wRsJZtadYvn4mBZmm"
		w.Success.Codes = success
		w.Timeout = 30 * time.Second
		w.Retry = postrider.Schedule{59*time.Second + 880*time.Millisecond, 10*time.Minute + 30*time.Second, 30 * time.Minute, 2 * time.Hour}
	})
	r, err := b.Emit(ctx, postrider.Event{
		ID: "166ae306-50ff-11e9-8647-d663bd873d93", Project: "pvc", Type: "broadcast-start", Payload: []byte(`{"foo": "bar"}`),
	})
	require.NoError(t, err)
	require.Len(t, r.Deliveries, 1)
	id := r.Deliveries[0]

	same := func(stage string) {
		t.Helper()
		history, err := b.History(ctx, w.Name, postrider.HistoryQuery{Project: "pvc"})
		require.NoError(t, err)
		require.Equal(t, golden(t, "past-events-"+stage, id), asText(t, history))

		dispatch, err := b.Dispatch(ctx, id)
		require.NoError(t, err)
		require.Equal(t, golden(t, "webhook-dispatch-"+stage, id), asText(t, views.Data[views.Dispatch]{Data: dispatch}))
		list, err := b.Dispatches(ctx, postrider.DispatchQuery{WebhookID: w.ID})
		require.NoError(t, err)
		require.Equal(t, views.DispatchList{Total: 1, Limit: 1000, Count: 1, Items: []views.Dispatch{dispatch}}, list)

		events, err := b.WebhookEvents(ctx, w.ID, postrider.WebhookEventQuery{})
		require.NoError(t, err)
		require.Equal(t, golden(t, "webhook-events-"+stage, id), asText(t, events))
		for _, want := range events.Items {
			one, err := b.WebhookEvent(ctx, w.ID, want.ID)
			require.NoError(t, err)
			require.Equal(t, want, one)
		}
	}
	same("0")
	time.Sleep(time.Second)
	stop := b.run()
	time.Sleep(5 * time.Minute)
	same("2")
	time.Sleep(10 * time.Minute)
	same(after)
	require.NoError(t, stop())
}

// TestViewsOfPayloads shows what becomes of payloads in the three documents.
func TestViewsOfPayloads(t *testing.T) {
	deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) // as deep as encoding/json goes
	const none = ""
	for _, c := range []struct{ name, contentType, payload, want string }{
		{"white space goes", "", " {\"a\" :\n[ 1 ] } ", `{"a":[1]}`},
		{"order of keys and duplicate keys", "", `{"b":1,"a":2,"b":3}`, `{"b":1,"a":2,"b":3}`},
		{"digits of numbers", "", `[1e400,-0,1.0,1.10,1E+2,12345678901234567890123,0.1000000000000000055]`, `[1e400,-0,1.0,1.10,1E+2,12345678901234567890123,0.1000000000000000055]`},
		{"HTML is escaped", "", `"<a href='x'>&</a>"`, `"\u003ca href='x'\u003e\u0026\u003c/a\u003e"`},
		{"U+2028", "", "\"\u2028\u2029\"", `"\u2028\u2029"`},
		{"escapes stay", "", `"\u00e9\/\ud800"`, `"\u00e9\/\ud800"`},
		{"other scripts", "", `{"ключ":"値😀"}`, `{"ключ":"値😀"}`},
		{"not UTF-8", "", "{\"a\xff\":\"b\xc3\"}", "{\"a\uFFFD\":\"b\uFFFD\"}"},
		{"null is a value", "", `null`, `null`},
		{"a string is a value", "", `""`, `""`},
		{"false is a value", "", `false`, `false`},
		{"as deep as can be", "", deep, deep},
		{"JSON with a parameter", "Application/JSON; charset=utf-8", `{}`, `{}`},
		{"a kind of JSON", "application/cloudevents+JSON; charset=utf-8", `{"a": 1}`, `{"a":1}`},
		{"a kind of JSON that is not", "application/cloudevents+json", `{"a": `, none},
		{"text", "text/plain", `hello`, none},
		{"text that would parse", "text/plain", `123`, none},
		{"nothing", "text/plain", ``, none},
		{"bytes", "application/octet-stream", "\x00\xff\xfe", none},
		{"a form", "application/x-www-form-urlencoded", `a=1`, none},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEachStore(t, func(t *testing.T, open opener) {
				s := newShelf(t, open, nil)
				s.hook("w")
				r, err := s.Emit(t.Context(), postrider.Event{ID: "e", Type: "x", Time: shelfStart, ContentType: c.contentType, Payload: []byte(c.payload)})
				require.NoError(t, err)
				id := r.Deliveries[0]
				s.attempt(id, 200, 0, postrider.StatusDelivered)

				a, b := `,"payload":`+c.want, c.want
				if c.want == none {
					a, b = "", "null"
				}
				history, err := s.History(t.Context(), "w", postrider.HistoryQuery{})
				require.NoError(t, err)
				text := asText(t, history)
				require.Contains(t, text, `"event":"x"`+a+`},"attempts":1,"lastResponseCode":200,"lastResponseTime":0,"status":"DELIVERED","created"`)
				dispatch, err := s.Dispatch(t.Context(), id)
				require.NoError(t, err)
				text = asText(t, views.Data[views.Dispatch]{Data: dispatch})
				require.Contains(t, text, `"eventData":`+b+`,"calls":[`)
				events, err := s.WebhookEvents(t.Context(), "w", postrider.WebhookEventQuery{})
				require.NoError(t, err)
				text = asText(t, events)
				require.True(t, strings.HasSuffix(text, `"data":`+b+`}]}`), text)

				// What a caller does to a document reaches neither the store nor the next document.
				for i := range history[0].Source.Payload {
					history[0].Source.Payload[i] = '!'
				}
				again, err := s.Dispatch(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, dispatch, again)
			})
		})
	}
}

func TestAnswersInTheDocuments(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		s := newShelf(t, open, nil)
		s.hook("w")
		id := s.emit("", "x", `{}`)[0]
		record := func(then postrider.Status, a postrider.Attempt) {
			claims, _, err := s.store.Claim(t.Context(), postrider.ClaimRequest{Max: 1, Lease: time.Hour, Only: id})
			require.NoError(t, err)
			a.DeliveryID, a.WebhookID, a.Number = id, "w", claims[0].Delivery.Attempts+1
			a.StartedAt, a.Timestamp = s.now, s.now.Unix()
			a.FinishedAt = s.now.Add(1_999_999 * time.Nanosecond)
			_, err = s.store.Complete(t.Context(), []postrider.Outcome{{DeliveryID: id, Token: claims[0].Token, Attempt: &a, Status: then}})
			require.NoError(t, err)
		}
		s.pass(500 * time.Microsecond)
		record(postrider.StatusInProcess, postrider.Attempt{Failed: true, Class: postrider.ClassDNS, Error: postrider.ClassDNS.Sentence()})
		history, err := s.History(t.Context(), "w", postrider.HistoryQuery{})
		require.NoError(t, err)
		// No answer so far, but an attempt: a duration and an error, and no code.
		require.Contains(t, asText(t, history), `"attempts":1,"lastResponseTime":1,"status":"IN_PROCESS","lastError":"The host name could not be resolved","created":"2026-02-03T04:05:06.789Z"`)

		record(postrider.StatusInProcess, postrider.Attempt{Failed: true, Class: postrider.ClassRule, Error: postrider.ClassRule.Sentence(), Code: 200, Body: []byte("a\xffb\xe2\x80")})
		record(postrider.StatusInProcess, postrider.Attempt{Failed: true, Class: postrider.ClassProtocol, Error: postrider.ClassProtocol.Sentence(), Body: []byte("no code")})
		record(postrider.StatusDelivered, postrider.Attempt{Code: 202, Body: []byte("<ok>\u2028")})
		dispatch, err := s.Dispatch(t.Context(), id)
		require.NoError(t, err)
		const at = `"startedAt":"2026-02-03T04:05:06.789Z","finishedAt":"2026-02-03T04:05:06.791Z"`
		require.Contains(t, asText(t, dispatch), `"status":"SUCCEEDED","eventType":"x","eventData":{},"calls":[`+
			`{`+at+`,"errorMessage":"The host name could not be resolved","responseStatus":null,"responseBody":null},`+
			`{`+at+`,"errorMessage":"The answer did not meet the success rule of the webhook","responseStatus":200,"responseBody":"a\ufffdb\ufffd\ufffd"},`+
			`{`+at+`,"errorMessage":"The request or its answer was not valid HTTP","responseStatus":null,"responseBody":"no code"},`+
			`{`+at+`,"errorMessage":null,"responseStatus":202,"responseBody":"\u003cok\u003e\u2028"}]`)

		events, err := s.WebhookEvents(t.Context(), "w", postrider.WebhookEventQuery{})
		require.NoError(t, err)
		var statuses []string
		for _, e := range events.Items {
			statuses = append(statuses, e.Status)
		}
		require.Equal(t, []string{"202", "PROTOCOL", "200", "DNS"}, statuses)
		require.NotContains(t, asText(t, events), "nextAttemptDate") // failed, and no next one was planned
	})
}

func TestViewsWithoutRows(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		s := newShelf(t, open, nil)
		s.hook("w")
		history, err := s.History(t.Context(), "w", postrider.HistoryQuery{})
		require.NoError(t, err)
		require.Equal(t, `[]`, asText(t, history))
		for _, id := range []string{"", "w"} {
			list, err := s.Dispatches(t.Context(), postrider.DispatchQuery{WebhookID: id})
			require.NoError(t, err)
			require.Equal(t, `{"data":{"total":0,"offset":0,"limit":1000,"desc":false,"count":0,"items":[]}}`, asText(t, views.Data[views.DispatchList]{Data: list}))
		}
		events, err := s.WebhookEvents(t.Context(), "w", postrider.WebhookEventQuery{})
		require.NoError(t, err)
		require.Equal(t, `{"items":[]}`, asText(t, events))
	})
}

func TestViewsOfATestEvent(t *testing.T) {
	onEachStore(t, func(t *testing.T, open opener) {
		s := newShelf(t, open, nil)
		s.hook("w")
		r, err := s.store.Enqueue(t.Context(), []postrider.Item{{
			Event: postrider.Event{ID: "e", Type: postrider.TypeTest, Time: shelfStart, Payload: []byte(`{}`)}, To: []string{"w"}, Test: true,
		}})
		require.NoError(t, err)
		s.attempt(r[0].Deliveries[0], 200, 0, postrider.StatusDelivered)
		history, err := s.History(t.Context(), "w", postrider.HistoryQuery{Event: "TEST"})
		require.NoError(t, err)
		require.Len(t, history, 1)
		list, err := s.Dispatches(t.Context(), postrider.DispatchQuery{})
		require.NoError(t, err)
		require.Equal(t, "TEST", list.Items[0].EventType)
		events, err := s.WebhookEvents(t.Context(), "w", postrider.WebhookEventQuery{Kind: "TEST"})
		require.NoError(t, err)
		require.Len(t, events.Items, 1)
	})
}
