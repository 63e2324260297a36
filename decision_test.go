package postrider_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
)

// says is a Config.Classify that always decides the same.
func says(d postrider.Decision) func(postrider.Response) postrider.Decision {
	return func(postrider.Response) postrider.Decision { return d }
}

// after is a Response with this code and Retry-After.
func after(code int, text string) postrider.Response {
	return postrider.Response{Code: code, Header: http.Header{"Retry-After": {text}}}
}

// responds answers every request alike.
func responds(r postrider.Response) reply {
	return func(context.Context, postrider.Request) (postrider.Response, error) { return r, nil }
}

func TestVerdictOfAnAnswer(t *testing.T) {
	t.Parallel()
	const (
		status200 = "The endpoint answered 200, which is not a success"
		status410 = "The endpoint answered 410, which is not a success"
		status429 = "The endpoint answered 429, which is not a success"
		status500 = "The endpoint answered 500, which is not a success"
		status503 = "The endpoint answered 503, which is not a success"
		gone      = "the endpoint answered 410 Gone"
		unasked   = "the receiver's answer disabled it"
	)
	open, delivered, failed := postrider.StatusInProcess, postrider.StatusDelivered, postrider.StatusFailed
	rule := postrider.ClassRule.Sentence()
	long := strings.Repeat("a", 255) + "é"
	for _, c := range []struct {
		name     string
		classify func(postrider.Response) postrider.Decision
		success  postrider.Success
		retry    postrider.RetryPolicy // 5 s and so on if nil
		resp     postrider.Response
		status   postrider.Status
		text     string
		next     time.Duration // until the next attempt
		disabled string
		hold     time.Duration // of the webhook
		log      string
	}{
		{name: "a success", resp: postrider.Response{Code: 204}, status: delivered},
		{name: "a failure", resp: postrider.Response{Code: 500}, status: open, text: status500, next: 5 * time.Second},
		{name: "410 disables", resp: postrider.Response{Code: 410}, status: open, text: status410, next: 5 * time.Second, disabled: gone},
		{name: "410 at the last attempt", retry: postrider.Schedule{}, resp: postrider.Response{Code: 410}, status: failed, text: status410, disabled: gone},
		{name: "410 as a success", success: postrider.Success{Codes: []string{"4xx"}}, resp: postrider.Response{Code: 410}, status: delivered},
		{name: "410 that lacks the header of a success", success: postrider.Success{Codes: []string{"410"}, Header: "X-Ok"}, resp: postrider.Response{Code: 410},
			status: open, text: rule, next: 5 * time.Second},

		{name: "429 slows", resp: after(429, "60"), status: open, text: status429, next: time.Minute, hold: time.Minute},
		{name: "503 slows the webhook by an hour at most", resp: after(503, "7200"), status: open, text: status503, next: 2 * time.Hour, hold: time.Hour},
		{name: "429 slows by a day at most", resp: after(429, "999999"), status: open, text: status429, next: 24 * time.Hour, hold: time.Hour},
		{name: "429 never speeds", resp: after(429, "1"), status: open, text: status429, next: 5 * time.Second, hold: time.Second},
		{name: "429 at the last attempt", retry: postrider.Schedule{}, resp: after(429, "60"), status: failed, text: status429, hold: time.Minute},
		{name: "500 does not slow", resp: after(500, "60"), status: open, text: status500, next: 5 * time.Second},
		{name: "429 as a success does not slow", success: postrider.Success{Codes: []string{"429"}}, resp: after(429, "60"), status: delivered},

		{name: "no opinion", classify: says(postrider.Decision{}), resp: postrider.Response{Code: 410},
			status: open, text: status410, next: 5 * time.Second, disabled: gone},
		{name: "just a reason", classify: says(postrider.Decision{Reason: "moved away"}), resp: postrider.Response{Code: 410},
			status: open, text: "moved away", next: 5 * time.Second, disabled: "moved away"},
		{name: "just a reason for a success", classify: says(postrider.Decision{Reason: "fine"}), resp: postrider.Response{Code: 200}, status: delivered},
		{name: "delivered", classify: says(postrider.Decision{Kind: postrider.DecisionDelivered, Reason: "fine"}), resp: after(503, "60"), status: delivered},
		{name: "retry a success", classify: says(postrider.Decision{Kind: postrider.DecisionRetry}), resp: postrider.Response{Code: 200},
			status: open, text: rule, next: 5 * time.Second},
		{name: "retry with a reason", classify: says(postrider.Decision{Kind: postrider.DecisionRetry, Reason: "not yet"}),
			resp: postrider.Response{Code: 200}, status: open, text: "not yet", next: 5 * time.Second},
		{name: "retry after 410", classify: says(postrider.Decision{Kind: postrider.DecisionRetry}), resp: postrider.Response{Code: 410},
			status: open, text: status410, next: 5 * time.Second},
		{name: "retry after 429", classify: says(postrider.Decision{Kind: postrider.DecisionRetry}), resp: after(429, "60"),
			status: open, text: status429, next: time.Minute, hold: time.Minute},
		{name: "retry at", classify: func(postrider.Response) postrider.Decision {
			return postrider.Decision{Kind: postrider.DecisionRetryAt, At: time.Now().Add(time.Second)}
		}, resp: after(429, "60"), status: open, text: status429, next: time.Second},
		{name: "retry in a day at the latest", classify: func(postrider.Response) postrider.Decision {
			return postrider.Decision{Kind: postrider.DecisionRetryAt, At: time.Now().Add(postrider.Forever)}
		}, resp: postrider.Response{Code: 410}, status: open, text: status410, next: 24 * time.Hour},
		{name: "retry at, without another attempt", classify: func(postrider.Response) postrider.Decision {
			return postrider.Decision{Kind: postrider.DecisionRetryAt, At: time.Now().Add(time.Second)}
		}, retry: postrider.Schedule{}, resp: postrider.Response{Code: 500}, status: failed, text: status500},
		{name: "give up", classify: says(postrider.Decision{Kind: postrider.DecisionGiveUp, Reason: "no such user"}),
			resp: postrider.Response{Code: 500}, status: failed, text: "no such user"},
		{name: "give up after 503", classify: says(postrider.Decision{Kind: postrider.DecisionGiveUp}), resp: after(503, "60"),
			status: failed, text: status503, hold: time.Minute},
		{name: "disable", classify: says(postrider.Decision{Kind: postrider.DecisionDisable}), resp: postrider.Response{Code: 500},
			status: open, text: status500, next: 5 * time.Second, disabled: unasked},
		{name: "disable with a reason", classify: says(postrider.Decision{Kind: postrider.DecisionDisable, Reason: "unsubscribed"}),
			resp: postrider.Response{Code: 200}, status: open, text: "unsubscribed", next: 5 * time.Second, disabled: "unsubscribed"},

		{name: "a panic", classify: func(postrider.Response) postrider.Decision { panic(status200) }, resp: postrider.Response{Code: 410},
			status: open, text: status410, next: 5 * time.Second, disabled: gone, log: "where=Config.Classify panic=string"},
		{name: "no such kind", classify: says(postrider.Decision{Kind: 99, Reason: "no"}), resp: postrider.Response{Code: 500},
			status: open, text: status500, next: 5 * time.Second, log: "a kind that there is not"},
		{name: "a reason that is too long", classify: says(postrider.Decision{Kind: postrider.DecisionDisable, Reason: long}), resp: postrider.Response{Code: 500},
			status: open, text: long[:255], next: 5 * time.Second, disabled: long[:255], log: "too long or not UTF-8"},
		{name: "a reason that is not text", classify: says(postrider.Decision{Kind: postrider.DecisionGiveUp, Reason: "a\xffb"}), resp: postrider.Response{Code: 500},
			status: failed, text: "ab", log: "too long or not UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil, postrider.Config{Classify: c.classify, Retry: c.retry}, responds(c.resp))
				b.hook("a", func(w *postrider.Webhook) { w.Success = c.success })
				id := b.emit("e", "x")
				now := time.Now()
				b.runFor(time.Millisecond)

				v, attempts := b.delivery(id)
				require.Len(t, attempts, 1)
				require.Equal(t, c.status, v.Status)
				require.Equal(t, c.text, attempts[0].Error)
				require.Equal(t, c.resp.Code, attempts[0].Code)
				if c.next == 0 {
					require.Zero(t, attempts[0].NextAt)
				} else {
					require.Equal(t, c.next, attempts[0].NextAt.Sub(now))
					require.Equal(t, c.next, v.NextAt.Sub(now))
				}
				w, err := b.Webhook(t.Context(), "a")
				require.NoError(t, err)
				require.Equal(t, c.disabled, w.Reason)
				require.Equal(t, c.disabled != "", w.State == postrider.StateDisabled)
				if c.hold == 0 {
					require.Zero(t, w.NotBefore)
				} else {
					require.Equal(t, c.hold, w.NotBefore.Sub(now))
				}
				if c.log == "" {
					require.NotContains(t, b.log.String(), "Classify")
				} else {
					require.Contains(t, b.log.String(), c.log)
				}
			})
		})
	}
}

func TestClassifySeesTheAnswerAsItIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got []postrider.Response
		classify := func(r postrider.Response) postrider.Decision {
			got = append(got, r)
			return postrider.Decision{}
		}
		body := strings.Repeat("b", postrider.MaxBody+1)
		replies := []postrider.Response{
			{Code: 500, Header: http.Header{"X-A": {"1"}}, Body: []byte(body)}, {Code: 0}, {Code: 200},
		}
		b := newBench(t, nil, postrider.Config{Classify: classify}, func(_ context.Context, r postrider.Request) (postrider.Response, error) {
			return replies[r.Attempt-1], nil
		})
		b.hook("a")
		b.emit("e", "x")
		b.runFor(time.Hour)
		require.Len(t, got, 2, "what has no status code is no answer")
		require.Equal(t, postrider.Response{Code: 500, Header: http.Header{"X-A": {"1"}}, Body: []byte(body[:postrider.MaxBody]), Truncated: true}, got[0])
		require.Equal(t, 200, got[1].Code)
	})
}

func TestRetryAtThatIsPastStillHasAnEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{
			Classify: says(postrider.Decision{Kind: postrider.DecisionRetryAt}), Retry: postrider.Schedule{time.Hour, time.Hour},
		}, answers(0, 500))
		b.hook("a")
		id := b.emit("e", "x")
		b.runFor(time.Second)
		require.Equal(t, []time.Duration{0, 0, 0}, b.times())
		require.Equal(t, "FAILED", b.status(id))
	})
}

func TestMisuseOfClassifyIsLoggedOnceForAWebhook(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil, postrider.Config{Classify: says(postrider.Decision{Kind: 99})}, answers(0, 500))
		b.hook("a")
		b.emit("e", "x")
		b.runFor(time.Hour)
		require.Greater(t, len(b.times()), 2)
		require.Equal(t, 1, strings.Count(b.log.String(), "a kind that there is not"))
	})
}

func TestDeliveryOfADisabledWebhookGoesOnByItsSchedule(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, open func(*testing.T) postrider.Store) {
		for _, c := range []struct {
			name   string
			resume time.Duration
			second time.Duration
		}{
			{"resumed before the next attempt is due", 2 * time.Second, 5 * time.Second},
			{"resumed later", time.Minute, time.Minute},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, open(t), postrider.Config{}, answers(0, 410, 200))
					b.hook("a")
					id := b.emit("e", "x")
					stop := b.run()
					time.Sleep(c.resume)
					require.Equal(t, []time.Duration{0}, b.times())
					require.Equal(t, "IN_PROCESS", b.status(id))
					require.NoError(t, b.ResumeWebhook(t.Context(), "a"))
					time.Sleep(time.Hour)
					require.Equal(t, []time.Duration{0, c.second}, b.times())
					require.Equal(t, "DELIVERED", b.status(id))
					require.NoError(t, stop())
				})
			})
		}
	})
}
