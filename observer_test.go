package postrider_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/storetest"
)

// notices is an observer that keeps what it is told.
type notices struct {
	mu  sync.Mutex
	all []postrider.Notice
}

func (n *notices) add(told postrider.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, told)
}

// of returns the notices of a kind, without their times.
func (n *notices) of(kind postrider.NoticeKind) (list []postrider.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, told := range n.all {
		if told.Kind == kind {
			told.Time = time.Time{}
			list = append(list, told)
		}
	}
	return list
}

func TestEachKindOfNoticeIsSent(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		var seen notices
		var log bytes.Buffer
		slogged := postrider.SlogObserver(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		var mu sync.Mutex
		faults := storetest.NewFaults(store)
		b := newBench(t, faults, postrider.Config{
			Retry: postrider.Schedule{time.Second}, Retention: time.Hour,
			Observe: func(n postrider.Notice) {
				seen.add(n)
				mu.Lock()
				defer mu.Unlock()
				slogged(n)
			},
		}, byType)
		b.hook("a", only)
		b.hook("b", only)
		ok, fail := b.emit("ok", "a"), b.emit("fail", "a")
		b.emit("ok", "a")      // a duplicate
		b.emit("ok", "nobody") // for no webhook
		require.Equal(t, []postrider.Notice{
			{Kind: postrider.NoticeEmitted, EventID: "ok", EventType: "a", Count: 1},
			{Kind: postrider.NoticeEmitted, EventID: "fail", EventType: "a", Count: 1},
		}, seen.of(postrider.NoticeEmitted))
		b.runFor(time.Minute)

		attempted := seen.of(postrider.NoticeAttempted)
		require.Len(t, attempted, 3)
		for _, n := range attempted {
			require.NotNil(t, n.Attempt)
			require.Equal(t, n.Attempt.DeliveryID, n.DeliveryID)
			require.Contains(t, []string{ok, fail}, n.DeliveryID)
			require.Equal(t, "a", n.WebhookID)
			require.Equal(t, "a", n.EventType)
			require.Contains(t, []string{"ok", "fail"}, n.EventID)
		}
		delivered, failed := seen.of(postrider.NoticeDelivered), seen.of(postrider.NoticeFailed)
		require.Len(t, delivered, 1)
		require.Equal(t, ok, delivered[0].DeliveryID)
		require.Len(t, failed, 1)
		require.Equal(t, fail, failed[0].DeliveryID)

		require.NoError(t, b.PauseWebhook(t.Context(), "a"))
		require.NoError(t, b.PauseWebhook(t.Context(), "a"))
		b.emit("ok2", "a")
		n, err := b.Cancel(t.Context(), postrider.DeliveryQuery{EventID: "ok2"})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, []postrider.Notice{{Kind: postrider.NoticeCanceled, EventID: "ok2", Count: 1}}, seen.of(postrider.NoticeCanceled))
		require.NoError(t, b.ResumeWebhook(t.Context(), "a"))
		require.NoError(t, b.DeleteWebhook(t.Context(), "b"))
		require.Error(t, b.DeleteWebhook(t.Context(), "b"))
		webhooks := seen.of(postrider.NoticeWebhook)
		require.Len(t, webhooks, 3)
		for i, want := range []struct {
			id, message string
			state       postrider.State
		}{{"a", "paused", postrider.StatePaused}, {"a", "resumed", postrider.StateEnabled}, {"b", "deleted", postrider.StateEnabled}} {
			require.Equal(t, want.id, webhooks[i].WebhookID)
			require.Equal(t, want.message, webhooks[i].Message)
			require.Equal(t, want.id, webhooks[i].Webhook.Name)
			require.Equal(t, want.state, webhooks[i].Webhook.State)
			require.Zero(t, webhooks[i].Share)
		}

		require.Empty(t, seen.of(postrider.NoticeStore))
		faults.Fail(storetest.Fault{Method: "Complete", Err: errDisk, Times: 3})
		b.emit("ok3", "a")
		b.runFor(time.Minute)
		troubles := seen.of(postrider.NoticeStore)
		require.Len(t, troubles, 2, "once when it begins, once when it is over")
		require.ErrorIs(t, troubles[0].Err, errDisk)
		require.NoError(t, troubles[1].Err)

		time.Sleep(time.Hour)
		pruned, err := b.Prune(t.Context())
		require.NoError(t, err)
		require.Equal(t, 4, pruned)
		require.Equal(t, []postrider.Notice{{Kind: postrider.NoticePruned, Count: 4}}, seen.of(postrider.NoticePruned))
		_, err = b.Prune(t.Context())
		require.NoError(t, err)
		require.Len(t, seen.of(postrider.NoticePruned), 1, "nothing to tell")

		for i, told := range seen.all {
			require.False(t, told.Time.IsZero())
			require.True(t, i == 0 || !told.Time.Before(seen.all[i-1].Time))
		}
		text := log.String()
		require.Equal(t, len(seen.all), strings.Count(text, "\n"), "a line each")
		require.NotContains(t, text, "http")
		require.NotContains(t, text, "hidden")
		require.NotContains(t, text, testSecret[6:20])
		require.NotContains(t, text, "[secret]")
	})
}

func TestNothingIsToldOfTheCallersTransaction(t *testing.T) {
	t.Parallel()
	var seen notices
	d, store := newDispatcher(t, postrider.Config{Observe: seen.add})
	hook(t, d, "a")
	tx := store.Begin()
	_, err := d.In(tx).Emit(t.Context(), postrider.Event{Project: "p", Type: "x", Payload: []byte("1")})
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	require.Empty(t, seen.all)
}

func TestPanicOfAnObserverEndsInTheLog(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		b := newBench(t, store, postrider.Config{Observe: func(postrider.Notice) { panic("no") }}, answers(0, 200))
		b.hook("a")
		id := b.emit("e", "t")
		b.runFor(time.Second)
		require.Equal(t, "DELIVERED", b.status(id))
		require.NoError(t, b.PauseWebhook(t.Context(), "a"))
		require.Contains(t, b.log.String(), "Config.Observe")
	})
}

func TestSlogObserverWritesALineForEachNotice(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	observe := postrider.SlogObserver(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	})))
	at := time.Date(2026, 3, 29, 1, 2, 3, 0, time.UTC)
	web := func(state postrider.State, reason string, window int) *postrider.Webhook {
		w := validWebhook()
		w.URL += "?token=hidden"
		w.State, w.Reason, w.Window = state, reason, window
		return &w
	}
	private := errors.New(`Post "https://a.example/in?token=hidden": EOF`)
	for _, c := range []struct {
		notice postrider.Notice
		want   string
	}{
		{
			postrider.Notice{Kind: postrider.NoticeEmitted, Project: "p", EventID: "e", EventType: "t", Count: 2},
			`level=DEBUG msg="event emitted" project=p event=e type=t count=2`,
		},
		{
			postrider.Notice{
				Kind: postrider.NoticeAttempted, EventID: "e", EventType: "t", DeliveryID: "d", WebhookID: "w", Err: private,
				Attempt: &postrider.Attempt{
					Number: 2, StartedAt: at, FinishedAt: at.Add(time.Second), Failed: true, Code: 503, Class: postrider.ClassStatus,
					Error: "not to be logged", Body: []byte("hidden"), NextAt: at.Add(time.Hour),
				},
			},
			`level=DEBUG msg="attempt recorded" event=e type=t delivery=d webhook=w attempt=2 code=503 class=STATUS took=1s next=2026-03-29T02:02:03.000Z`,
		},
		{
			postrider.Notice{Kind: postrider.NoticeDelivered, DeliveryID: "d", Attempt: &postrider.Attempt{Number: 1, StartedAt: at, FinishedAt: at, Code: 200}},
			`level=DEBUG msg=delivered delivery=d attempt=1 code=200 took=0s`,
		},
		{postrider.Notice{Kind: postrider.NoticeFailed, DeliveryID: "d"}, `level=WARN msg="delivery failed" delivery=d`},
		{postrider.Notice{Kind: postrider.NoticeCanceled, WebhookID: "w", Count: 3}, `level=INFO msg="deliveries canceled" webhook=w count=3`},
		{
			postrider.Notice{Kind: postrider.NoticeWebhook, WebhookID: "id", Webhook: web(postrider.StatePaused, "", 1), Message: "paused"},
			`level=INFO msg="webhook changed" webhook=id name=name state=PAUSED what=paused`,
		},
		{
			postrider.Notice{Kind: postrider.NoticeWebhook, WebhookID: "id", Webhook: web(postrider.StateDisabled, "gone", 0), Message: "deleted"},
			`level=INFO msg="webhook changed" webhook=id name=name state=DISABLED reason=gone what=deleted`,
		},
		{
			postrider.Notice{Kind: postrider.NoticeWebhook, WebhookID: "id", Webhook: web(postrider.StateEnabled, "", 1), Message: "breaker open"},
			`level=WARN msg="webhook fails" webhook=id name=name state=ENABLED what="breaker open"`,
		},
		{
			postrider.Notice{Kind: postrider.NoticeWebhook, WebhookID: "id", Webhook: web(postrider.StateEnabled, "", 0), Share: 80},
			`level=WARN msg="webhook fails" webhook=id name=name state=ENABLED share=80`,
		},
		{
			postrider.Notice{Kind: postrider.NoticeWebhook, WebhookID: "id", Webhook: web(postrider.StateDisabled, "the receiver answered 410", 0)},
			`level=WARN msg="webhook fails" webhook=id name=name state=DISABLED reason="the receiver answered 410"`,
		},
		{postrider.Notice{Kind: postrider.NoticeWebhook, WebhookID: "id", Message: "deleted"}, `level=INFO msg="webhook changed" webhook=id what=deleted`},
		{postrider.Notice{Kind: postrider.NoticeStore, Err: errDisk}, `level=ERROR msg="store fails" error="disk on fire"`},
		{postrider.Notice{Kind: postrider.NoticeStore}, `level=INFO msg="store works again"`},
		{postrider.Notice{Kind: postrider.NoticePruned, Count: 9}, `level=INFO msg="deliveries pruned" count=9`},
		{postrider.Notice{Kind: 99}, `level=INFO msg="notice of an unknown kind"`},
	} {
		log.Reset()
		observe(c.notice)
		require.Equal(t, c.want+"\n", log.String())
	}

	muted := postrider.SlogObserver(slog.New(silent{t}))
	muted(postrider.Notice{Kind: postrider.NoticeEmitted})
	require.NotPanics(t, func() { postrider.SlogObserver(nil)(postrider.Notice{Kind: postrider.NoticeEmitted}) })
}

// silent is a handler that writes nothing, and must not be asked to.
type silent struct{ t *testing.T }

func (silent) Enabled(context.Context, slog.Level) bool { return false }
func (s silent) Handle(context.Context, slog.Record) error {
	s.t.Error("handled")
	return nil
}
func (s silent) WithAttrs([]slog.Attr) slog.Handler { return s }
func (s silent) WithGroup(string) slog.Handler      { return s }
