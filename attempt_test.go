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

// other changes everything about how a webhook is sent to.
func other(t *testing.T, b *bench) (next postrider.Webhook) {
	t.Helper()
	next, err := b.UpdateWebhook(t.Context(), "a", func(w *postrider.Webhook) error {
		w.URL, w.Method = "http://new.example/", http.MethodPut
		w.Header = http.Header{"X-New": {"1"}}
		w.Secrets = []postrider.Secret{postrider.NewSecret()}
		w.Retry = postrider.Schedule{time.Second, time.Minute}
		w.Timeout = 2 * time.Second
		w.Success = postrider.Success{Codes: []string{"418"}}
		w.Envelope = true
		return nil
	})
	require.NoError(t, err)
	return next
}

// signedBy reports whether the request carries a signature under the webhook's only secret.
func signedBy(t *testing.T, w postrider.Webhook, r *postrider.Request) bool {
	t.Helper()
	verifier, err := signature.NewVerifier(w.Secrets[0].Reveal())
	require.NoError(t, err)
	return verifier.Verify(r.Header, r.Body) == nil
}

func TestChangesApplyToWhatWaits(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open func(*testing.T) postrider.Store) {
		synctest.Test(t, func(t *testing.T) {
			var got []postrider.Request
			var limits []time.Duration
			codes := []int{500, 200, 418} // under the new rule 200 is a failure and 418 a success
			b := newBench(t, open(t), postrider.Config{}, func(ctx context.Context, r postrider.Request) (postrider.Response, error) {
				end, _ := ctx.Deadline()
				got, limits = append(got, r), append(limits, time.Until(end))
				return postrider.Response{Code: codes[len(got)-1]}, nil
			})
			was := b.hook("a")
			id := b.emit("e", "x")
			stop := b.run()
			time.Sleep(time.Second)
			is := other(t, b)
			v, _ := b.delivery(id)
			require.Equal(t, b.start.Add(5*time.Second).UTC(), v.NextAt, "a planned time stays")

			time.Sleep(4500 * time.Millisecond)
			require.Equal(t, []time.Duration{0, 5 * time.Second}, b.times())

			time.Sleep(time.Minute) // the wait after attempt 2 in the new schedule
			require.Equal(t, []time.Duration{0, 5 * time.Second, 65 * time.Second}, b.times())
			require.Equal(t, "DELIVERED", b.status(id))
			_, attempts := b.delivery(id)
			require.Equal(t, []int{500, 200, 418}, []int{attempts[0].Code, attempts[1].Code, attempts[2].Code})
			require.Equal(t, []bool{true, true, false}, []bool{attempts[0].Failed, attempts[1].Failed, attempts[2].Failed})
			require.NoError(t, stop())

			require.True(t, signedBy(t, was, &got[0]))
			require.Equal(t, "http://new.example/", got[1].URL.String())
			require.Equal(t, http.MethodPut, got[1].Method)
			require.Equal(t, []string{"1"}, got[1].Header["X-New"])
			require.True(t, signedBy(t, is, &got[1]))
			require.False(t, signedBy(t, was, &got[1]))
			require.Contains(t, string(got[1].Body), `"data":{}`)
			require.Equal(t, []time.Duration{15 * time.Second, 2 * time.Second, 2 * time.Second}, limits)
		})
	})
}

func TestChangesDoNotTouchARequestInFlight(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open func(*testing.T) postrider.Store) {
		for _, c := range []struct {
			code   int
			status string
			next   time.Duration // after the end of the attempt
		}{
			{200, "DELIVERED", 0},                // the old rule
			{418, "IN_PROCESS", 5 * time.Second}, // and the old schedule
		} {
			t.Run(c.status, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, open(t), postrider.Config{}, answers(10*time.Second, c.code)) // the old time limit
					b.hook("a")
					id := b.emit("e", "x")
					stop := b.run()
					time.Sleep(time.Second)
					other(t, b)
					time.Sleep(10 * time.Second)
					v, attempts := b.delivery(id)
					require.Equal(t, c.status, v.Status.String())
					require.Equal(t, c.code, attempts[0].Code)
					if c.next > 0 {
						require.Equal(t, b.start.Add(10*time.Second+c.next).UTC(), attempts[0].NextAt)
					}
					require.NoError(t, stop())
				})
			})
		}
	})
}

func TestEveryChangeCountsAmongFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var urls []string
		b := newBench(t, nil, postrider.Config{Retry: postrider.Schedule{time.Second, time.Second, time.Second}}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			urls = append(urls, r.URL.Path)
			return postrider.Response{Code: 500}, nil
		})
		b.hook("a")
		b.emit("e", "x")
		stop := b.run()
		// Failures make new versions of the webhook too: one that was changed must not be taken for one of those.
		for i, url := range []string{"http://a.example/1", "http://a.example/2"} {
			time.Sleep(time.Duration(i+1) * 500 * time.Millisecond)
			_, err := b.UpdateWebhook(t.Context(), "a", func(w *postrider.Webhook) error {
				w.URL = url
				return nil
			})
			require.NoError(t, err)
		}
		time.Sleep(time.Minute)
		require.NoError(t, stop())
		require.Equal(t, []string{"/in", "/1", "/2", "/2"}, urls)
	})
}
