package postrider_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/signature"
)

// wrapped makes a webhook send envelopes.
func wrapped(w *postrider.Webhook) { w.Envelope = true }

func TestEnvelope(t *testing.T) {
	t.Parallel()
	at := time.Date(2022, 11, 3, 22, 26, 10, 344522000, time.FixedZone("", 2*3600))
	const head = `{"type":"contact.created","timestamp":"2022-11-03T20:26:10.344522Z","data":`
	for _, c := range []struct{ name, contentType, payload, data string }{
		{"JSON, byte for byte", "", `{ "b":1.0, "a":[1e400,"<é>"],` + "\n" + `"b":2}`, `{ "b":1.0, "a":[1e400,"<é>"],` + "\n" + `"b":2}`},
		{"JSON that is no object", "application/json; charset=utf-8", ` null `, ` null `},
		{"JSON by its suffix", "application/vnd.api+json", `[]`, `[]`},
		{"text that could be JSON", "text/plain", `[]`, `"[]"`},
		{"what says it is JSON and is not", "application/vnd.api+json", `[`, `"["`},
		{"text", "application/xml", `<a b="c">` + "\n&é\x01</a>", `"<a b=\"c\">\n&é\u0001</a>"`},
		{"nothing", "text/plain", "", `""`},
		{"bytes", "application/octet-stream", "\xff\xfe\x00", `"//4A"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var got postrider.Request
				b := newBench(t, nil, postrider.Config{}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
					got = r
					return postrider.Response{Code: 200}, nil
				})
				b.hook("a", wrapped)
				_, err := b.Emit(t.Context(), postrider.Event{
					ID: "e", Type: "contact.created", Time: at, Payload: []byte(c.payload), ContentType: c.contentType,
				})
				require.NoError(t, err)
				b.runFor(time.Second)
				require.Equal(t, head+c.data+"}", string(got.Body))
				require.True(t, json.Valid(got.Body))
				require.Equal(t, []string{"application/json"}, got.Header["Content-Type"])
			})
		})
	}
}

func TestEnvelopeIsTheSameAtEveryAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var bodies []string
		b := newBench(t, nil, postrider.Config{}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			bodies = append(bodies, string(r.Body))
			return postrider.Response{Code: 500}, nil
		})
		b.hook("a", wrapped)
		b.emit("e", "x")
		b.runFor(10 * time.Minute)
		require.Len(t, bodies, 3)
		require.Equal(t, `{"type":"x","timestamp":"2000-01-01T00:00:00Z","data":{}}`, bodies[0])
		require.Equal(t, bodies[0], bodies[1])
		require.Equal(t, bodies[0], bodies[2])
	})
}

// onWire emits an event to a webhook at a server, and returns the request as the server read it.
func onWire(t *testing.T, c postrider.Config, e postrider.Event, set func(*postrider.Webhook)) (http.Header, []byte) {
	t.Helper()
	type request struct {
		header http.Header
		body   []byte
	}
	got := make(chan request, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- request{r.Header, body}
	}))
	defer server.Close()
	c.Logger, c.Network = quiet(), loopback
	d, err := postrider.New(memstore.New(memstore.Options{}), c)
	require.NoError(t, err)
	secret, err := postrider.ParseSecret(testSecret)
	require.NoError(t, err)
	w := postrider.Webhook{Name: "a", URL: server.URL, Events: []string{"*"}, Secrets: []postrider.Secret{secret}}
	set(&w)
	_, err = d.CreateWebhook(t.Context(), w)
	require.NoError(t, err)
	stop := start(d)
	receipt, err := d.Emit(t.Context(), e)
	require.NoError(t, err)
	v, err := d.AwaitDelivery(t.Context(), receipt.Deliveries[0])
	require.NoError(t, err)
	require.Equal(t, postrider.StatusDelivered, v.Status)
	require.NoError(t, stop())
	r := <-got
	return r.header, r.body
}

func TestBytesOnTheWireAreThoseThatWereSigned(t *testing.T) {
	t.Parallel()
	payload := []byte("{ \"a\": \"<\u2028>\" }\n")
	encode := func(d postrider.Draft) (postrider.Body, error) {
		return postrider.Body{Content: fmt.Appendf(nil, "%d %s", d.Attempt, d.Event.Payload), ContentType: "text/x-mine"}, nil
	}
	for _, c := range []struct {
		name        string
		config      postrider.Config
		set         func(*postrider.Webhook)
		body        string
		contentType string
	}{
		{"payload", postrider.Config{}, func(*postrider.Webhook) {}, string(payload), "application/json"},
		{"envelope", postrider.Config{}, wrapped, `{"type":"x","timestamp":"2001-02-03T04:05:06Z","data":` + string(payload) + `}`, "application/json"},
		{"encoded", postrider.Config{Encode: encode}, func(*postrider.Webhook) {}, "1 " + string(payload), "text/x-mine"},
		{"encoded instead of an envelope", postrider.Config{Encode: encode}, wrapped, "1 " + string(payload), "text/x-mine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			event := postrider.Event{ID: "e", Type: "x", Time: time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC), Payload: payload}
			header, body := onWire(t, c.config, event, c.set)
			require.Equal(t, c.body, string(body))
			require.Equal(t, c.contentType, header.Get("Content-Type"))
			verifier, err := signature.NewVerifier(testSecret)
			require.NoError(t, err)
			require.NoError(t, verifier.Verify(header, body))
		})
	}
}

func TestEncodeGetsTheAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var drafts []postrider.Draft
		var sent []postrider.Request
		begun := time.Now()
		b := newBench(t, nil, postrider.Config{Encode: func(d postrider.Draft) (postrider.Body, error) {
			drafts = append(drafts, d)
			return postrider.Body{Content: fmt.Appendf(nil, "%d", d.Attempt)}, nil
		}}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			sent = append(sent, r)
			return postrider.Response{Code: 500}, nil
		})
		w := b.hook("a")
		_, err := b.Emit(t.Context(), postrider.Event{ID: "e", Type: "x", Payload: []byte("p"), ContentType: "text/plain", Metadata: map[string]string{"k": "v"}})
		require.NoError(t, err)
		b.runFor(time.Minute)

		require.Len(t, drafts, 2)
		for i, d := range drafts {
			require.Equal(t, i+1, d.Attempt)
			require.Equal(t, i, d.Delivery.Attempts)
			require.Equal(t, begun.Add(time.Duration(i)*5*time.Second).UTC(), d.Time)
			require.Equal(t, "e", d.Event.ID)
			require.Equal(t, "p", string(d.Event.Payload))
			require.Equal(t, "v", d.Event.Metadata["k"])
			require.Equal(t, w.Secrets, d.Webhook.Secrets)
			require.Equal(t, sent[i].DeliveryID, d.Delivery.ID)

			require.Equal(t, fmt.Sprint(i+1), string(sent[i].Body))
			require.Equal(t, []string{"text/plain"}, sent[i].Header["Content-Type"], "the event's, as Encode named none")
			require.Equal(t, []string{fmt.Sprint(d.Time.Unix())}, sent[i].Header["Webhook-Timestamp"])
		}
	})
}

func TestDraftDoesNotPrintSecrets(t *testing.T) {
	t.Parallel()
	draft := postrider.Draft{Webhook: validWebhook()}
	secret := draft.Webhook.Secrets[0].Reveal()
	text, err := json.Marshal(draft)
	require.NoError(t, err)
	for _, s := range []string{fmt.Sprintf("%v %+v %#v", draft, draft, &draft), string(text)} {
		require.NotContains(t, s, secret)
		require.NotContains(t, s, strings.TrimPrefix(secret, "whsec_"))
		require.Contains(t, s, "[secret]")
	}
}

func TestBodyThatCannotBeMadeIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	const most = 2*10 + 64<<10 // with MaxPayload 10
	content := func(n int, contentType string) (postrider.Body, error) {
		return postrider.Body{Content: bytes.Repeat([]byte("x"), n), ContentType: contentType}, nil
	}
	for _, c := range []struct {
		name   string
		encode func(postrider.Draft) (postrider.Body, error)
		ok     bool
		log    string
	}{
		{"empty", func(postrider.Draft) (postrider.Body, error) { return content(0, "") }, true, ""},
		{"as large as can be", func(postrider.Draft) (postrider.Body, error) { return content(most, "") }, true, ""},
		{"too large", func(postrider.Draft) (postrider.Body, error) { return content(most+1, "") }, false, "its body has 65557 bytes, want at most 65556"},
		{"content type with a line break", func(postrider.Draft) (postrider.Body, error) { return content(1, "a/b\r\nX: y") }, false, "its content type is"},
		{"an error", func(postrider.Draft) (postrider.Body, error) {
			b, _ := content(1, "")
			return b, errors.New("no template at http://templates.example/path")
		}, false, "no template at http://templates.example"},
		{"a panic", func(postrider.Draft) (postrider.Body, error) { panic(errors.New("hidden")) }, false, "where=Config.Encode panic=*errors.errorString"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil, postrider.Config{Encode: c.encode, MaxPayload: 10}, answers(0, 200))
				b.hook("a")
				id := b.emit("e", "x")
				b.runFor(time.Minute)
				v, attempts := b.delivery(id)
				if c.ok {
					require.Equal(t, postrider.StatusDelivered, v.Status)
					require.Empty(t, b.log.String())
					return
				}
				require.Empty(t, b.times(), "nothing was sent")
				require.Equal(t, postrider.StatusInProcess, v.Status)
				require.Len(t, attempts, 2)
				require.Equal(t, postrider.ClassProtocol, attempts[0].Class)
				require.Equal(t, "The body of the request could not be made", attempts[0].Error)
				require.Contains(t, b.log.String(), c.log)
				require.Equal(t, 1, strings.Count(b.log.String(), "Config.Encode makes no body"), "logged once for the webhook")
				require.NotContains(t, b.log.String(), "/path")
				require.NotContains(t, b.log.String(), "hidden")
			})
		})
	}
}
