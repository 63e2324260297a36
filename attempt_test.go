package postrider_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/signature"
)

func TestRequestIsSignedByEveryLiveSecret(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got postrider.Request
		b := newBench(t, nil, postrider.Config{}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			got = r
			return postrider.Response{Code: 200}, nil
		})
		w := b.hook("a", func(w *postrider.Webhook) {
			gone, later := postrider.NewSecret(), postrider.NewSecret()
			gone.ExpiresAt = time.Now() // expired at this very moment
			later.ExpiresAt = time.Now().Add(time.Second)
			w.Secrets = []postrider.Secret{later, gone, w.Secrets[0]}
			w.Header = http.Header{"X-Team": {"a", "b"}, "user-agent": {"mine"}}
		})
		body := []byte(`{"a": 1 }`)
		_, err := b.Emit(t.Context(), postrider.Event{ID: "evt", Type: "x", Payload: body, ContentType: "application/json; charset=utf-8"})
		require.NoError(t, err)
		at := time.Now().Unix()
		b.runFor(time.Second)

		var want []string
		for _, i := range []int{0, 2} {
			key, err := signature.ParseKey(w.Secrets[i].Reveal())
			require.NoError(t, err)
			want = append(want, key.Sign("evt", at, body))
		}
		require.Equal(t, http.Header{
			"Content-Type":      {"application/json; charset=utf-8"},
			"User-Agent":        {"mine"},
			"Webhook-Id":        {"evt"},
			"Webhook-Timestamp": {fmt.Sprint(at)},
			"Webhook-Signature": {strings.Join(want, " ")},
			"X-Team":            {"a", "b"},
		}, got.Header)
		require.Equal(t, body, got.Body)
		require.Equal(t, "POST", got.Method)
	})
}

func TestNothingIsSentUnsigned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		b.hook("a", func(w *postrider.Webhook) { w.Secrets[0].ExpiresAt = time.Now() })
		id := b.emit("e", "x")
		b.runFor(time.Minute)
		require.Empty(t, b.times())
		v, attempts := b.delivery(id)
		require.Equal(t, postrider.StatusInProcess, v.Status)
		require.Equal(t, "The webhook has no secret that has not expired", attempts[0].Error)
		require.Equal(t, 1, strings.Count(b.log.String(), "no live secret"), "logged once for the webhook")
	})
}

func TestUnsendableWebhookIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{}, answers(0, 200))
		// Past the dispatcher, as another version might have stored it.
		require.NoError(t, b.store.CreateWebhook(t.Context(), postrider.Webhook{
			ID: "a", Name: "a", URL: "http://a.example/?token=hidden", Events: []string{"*"},
			Header: http.Header{"transfer-encoding": {"chunked"}}, Secrets: []postrider.Secret{postrider.NewSecret()},
		}))
		id := b.emit("e", "x")
		b.runFor(time.Second)
		require.Empty(t, b.times())
		_, attempts := b.delivery(id)
		require.Equal(t, "The URL or the headers of the webhook cannot be sent", attempts[0].Error)
		require.Contains(t, b.log.String(), "webhook cannot be sent to")
		require.NotContains(t, b.log.String(), "hidden")
	})
}

func TestSuccessRule(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		rule  postrider.Success
		resp  postrider.Response
		class postrider.Class
		code  int
	}{
		{"any 2xx", postrider.Success{}, postrider.Response{Code: 299}, postrider.ClassNone, 299},
		{"no 3xx", postrider.Success{}, postrider.Response{Code: 301}, postrider.ClassStatus, 301},
		{"its own codes", postrider.Success{Codes: []string{"3xx", "418"}}, postrider.Response{Code: 418}, postrider.ClassNone, 418},
		{"no others", postrider.Success{Codes: []string{"3xx", "418"}}, postrider.Response{Code: 200}, postrider.ClassStatus, 200},
		{"the header", postrider.Success{Header: "x-ok"}, postrider.Response{Code: 200, Header: http.Header{"X-Ok": {""}}}, postrider.ClassNone, 200},
		{"no header", postrider.Success{Header: "X-Ok"}, postrider.Response{Code: 200}, postrider.ClassRule, 200},
		{"no answer in it", postrider.Success{}, postrider.Response{}, postrider.ClassProtocol, 0},
		{"no code in it", postrider.Success{}, postrider.Response{Code: 2000}, postrider.ClassProtocol, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil, postrider.Config{}, func(context.Context, postrider.Request) (postrider.Response, error) { return c.resp, nil })
				b.hook("a", func(w *postrider.Webhook) { w.Success = c.rule })
				id := b.emit("e", "x")
				b.runFor(time.Second)
				_, attempts := b.delivery(id)
				require.Equal(t, c.class, attempts[0].Class)
				require.Equal(t, c.code, attempts[0].Code)
			})
		})
	}
}

func TestBodyOfACustomSenderIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		body := bytes.Repeat([]byte("x"), postrider.MaxBody+1)
		b := newBench(t, nil, postrider.Config{}, func(context.Context, postrider.Request) (postrider.Response, error) {
			return postrider.Response{Code: 200, Body: body}, nil
		})
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Second)
		_, attempts := b.delivery(id)
		require.Len(t, attempts[0].Body, postrider.MaxBody)
		require.True(t, attempts[0].Truncated)
	})
}
