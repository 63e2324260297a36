package postrider_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/bolt"
	"github.com/postrider/postrider/httpapi"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/seal"
	"github.com/postrider/postrider/signature"
)

func sealerOf(t *testing.T, ids ...string) *seal.Sealer {
	t.Helper()
	var keys []seal.Key
	for _, id := range ids {
		keys = append(keys, seal.NewKey(id, bytes.Repeat([]byte(id[:1]), seal.KeySize)))
	}
	s, err := seal.New(keys...)
	require.NoError(t, err)
	return s
}

// What is told to nobody but the receiver: in the secret, and where URLs and headers carry credentials.
const (
	canarySecret = "canary-in-the-secret-0123456789"
	canaryHeader = "canary-in-a-header"
	canaryPath   = "canary-in-the-path"
	canaryQuery  = "canary-in-the-query"
	canaryUser   = "canary-in-the-user"
)

// canaries says which of the canaries are in a text.
func canaries(text string) (found []string) {
	for _, c := range []string{canarySecret, canaryHeader, canaryPath, canaryQuery, canaryUser} {
		if strings.Contains(text, c) {
			found = append(found, c)
		}
	}
	return found
}

func TestSecretsAndHeadersAreSealedInTheFile(t *testing.T) {
	t.Parallel()
	verifier, err := signature.NewGitHubVerifier(canarySecret)
	require.NoError(t, err)
	got := make(chan error, 8)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		err := verifier.Verify(r.Header, body.Bytes())
		if r.Header.Get("X-Token") != canaryHeader {
			err = fmt.Errorf("X-Token is %q", r.Header.Get("X-Token"))
		}
		got <- err
	}))
	defer receiver.Close()
	file := filepath.Join(t.TempDir(), "webhooks.db")
	open := func(c postrider.Config) (*postrider.Dispatcher, func()) {
		store, err := bolt.Open(file, bolt.Options{})
		require.NoError(t, err)
		c.Network = loopback
		d, err := postrider.New(store, c)
		require.NoError(t, err)
		return d, func() { require.NoError(t, store.Close()) }
	}
	d, done := open(postrider.Config{Sealer: sealerOf(t, "one")})
	w, err := d.CreateWebhook(t.Context(), postrider.Webhook{
		Name: "a", URL: receiver.URL, Events: []string{"*"}, Schemes: []postrider.Scheme{postrider.SchemeGitHub},
		Secrets: []postrider.Secret{secretOf(t, canarySecret)}, Header: http.Header{"X-Token": {canaryHeader}},
	})
	require.NoError(t, err)
	require.Equal(t, canarySecret, w.Secrets[0].Reveal())
	require.Equal(t, canaryHeader, w.Header.Get("X-Token"))
	_, err = d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	require.NoError(t, <-got)
	require.NoError(t, d.PauseWebhook(t.Context(), w.ID))
	require.NoError(t, d.ResumeWebhook(t.Context(), w.ID))
	done()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Empty(t, canaries(string(raw)))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	// Another key before it: what is there is read, and sealed anew when it is changed.
	d, done = open(postrider.Config{Sealer: sealerOf(t, "two", "one")})
	_, err = d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	require.NoError(t, <-got)
	require.NoError(t, d.PauseWebhook(t.Context(), w.ID))
	done()
	d, done = open(postrider.Config{Sealer: sealerOf(t, "two")})
	_, err = d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	require.NoError(t, <-got)
	done()

	// Without the key nothing is sent, and nothing is told.
	var log bytes.Buffer
	for _, c := range []postrider.Config{{}, {Sealer: sealerOf(t, "three")}} {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		d, done = open(c)
		_, err = d.Webhook(t.Context(), w.ID)
		require.Error(t, err)
		a, err := d.SendTest(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, postrider.ClassProtocol, a.Class)
		require.ErrorIs(t, d.DeleteWebhook(t.Context(), "nothing"), postrider.ErrNotFound)
		done()
	}
	require.Contains(t, log.String(), "sealed")
	require.Empty(t, canaries(log.String()))
}

func TestWebhooksAreSealedWhenTheyAreChangedNext(t *testing.T) {
	t.Parallel()
	store := memstore.New(memstore.Options{})
	plain, err := postrider.New(store, postrider.Config{})
	require.NoError(t, err)
	w, err := plain.CreateWebhook(t.Context(), postrider.Webhook{Name: "a", URL: "https://a.example/", Events: []string{"*"}})
	require.NoError(t, err)
	sealing, err := postrider.New(store, postrider.Config{Sealer: sealerOf(t, "one")})
	require.NoError(t, err)
	again, err := sealing.EnsureWebhook(t.Context(), postrider.Webhook{Name: "a", URL: "https://a.example/", Events: []string{"*"}})
	require.NoError(t, err)
	require.Equal(t, w.Version, again.Version, "nothing has changed")
	_, err = plain.Webhook(t.Context(), w.ID)
	require.NoError(t, err)
	_, err = sealing.RotateSecret(t.Context(), w.ID, time.Hour)
	require.NoError(t, err)
	_, err = plain.Webhook(t.Context(), w.ID)
	require.ErrorContains(t, err, "sealed")
	now, err := sealing.Webhook(t.Context(), w.ID)
	require.NoError(t, err)
	require.Equal(t, w.Secrets[0].Reveal(), now.Secrets[1].Reveal())
	page, err := sealing.Webhooks(t.Context(), postrider.WebhookQuery{})
	require.NoError(t, err)
	require.Equal(t, []postrider.Webhook{now}, page.Items)

	// Bound to the ID: one webhook's secret cannot be put into another.
	stored, err := store.Webhook(t.Context(), w.ID)
	require.NoError(t, err)
	stored.ID, stored.Name = "other", "other"
	require.NoError(t, store.CreateWebhook(t.Context(), stored))
	_, err = sealing.Webhook(t.Context(), "other")
	require.ErrorIs(t, err, seal.ErrRefused)
}

// moody is a Sealer whose Open panics, and then fails, before it works.
type moody struct {
	postrider.Sealer
	calls atomic.Int64
}

func (m *moody) Open(sealed, boundTo []byte) ([]byte, error) {
	switch m.calls.Add(1) {
	case 1:
		panic(canarySecret)
	case 2:
		return nil, errors.New("the key service is away")
	}
	return m.Sealer.Open(sealed, boundTo)
}

// A webhook that could not be opened is tried again, and what a Sealer panics with is told to nobody.
func TestSealerThatFailsForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{
			Sealer: &moody{Sealer: sealerOf(t, "one")}, Sender: &bodies{}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		require.NoError(t, err)
		w := postrider.Webhook{Name: "a", URL: "https://a.example/", Events: []string{"*"}, Retry: postrider.Schedule{time.Second, time.Second}}
		_, err = d.CreateWebhook(t.Context(), w)
		require.ErrorContains(t, err, "panic in Config.Sealer")
		r, err := d.Emit(t.Context(), postrider.Event{Type: "x", Payload: []byte(`{}`)})
		require.NoError(t, err)
		stop := start(d)
		v, err := d.AwaitDelivery(t.Context(), r.Deliveries[0])
		require.NoError(t, err)
		require.Equal(t, postrider.StatusDelivered, v.Status)
		require.Equal(t, 2, v.Attempts, "the first could not be made")
		require.NoError(t, stop())
		require.Contains(t, log.String(), "the key service is away")
		require.Empty(t, canaries(log.String()))
	})
}

// One webhook that cannot be opened is no trouble to those who ask for others.
func TestWebhookWithoutItsKeyIsAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.Options{})
		old, err := postrider.New(store, postrider.Config{Sealer: sealerOf(t, "old")})
		require.NoError(t, err)
		w := postrider.Webhook{Project: "other", Name: "a", URL: "https://a.example/", Events: []string{"*"}}
		lost, err := old.CreateWebhook(t.Context(), w)
		require.NoError(t, err)
		d, err := postrider.New(store, postrider.Config{Sealer: sealerOf(t, "new"), Retention: time.Hour, Logger: quiet()})
		require.NoError(t, err)
		w.Project = ""
		made, err := d.EnsureWebhook(t.Context(), w)
		require.NoError(t, err)
		require.NotEqual(t, lost.ID, made.ID)
		_, err = d.WebhookNamed(t.Context(), "other", "a")
		require.ErrorContains(t, err, "unknown key")
		_, err = d.History(t.Context(), "a", postrider.HistoryQuery{})
		require.NoError(t, err)

		// Nor is it to Run, which cancels what waits for too long for a webhook that is disabled.
		_, err = d.Emit(t.Context(), postrider.Event{Type: "x", Payload: []byte(`{}`)})
		require.NoError(t, err)
		kept, err := store.Webhook(t.Context(), made.ID)
		require.NoError(t, err)
		kept.State = postrider.StateDisabled
		require.NoError(t, store.UpdateWebhook(t.Context(), kept))
		stop := start(d)
		time.Sleep(3 * time.Hour)
		require.NoError(t, stop())
		s, err := d.Stats(t.Context(), postrider.StatsQuery{})
		require.NoError(t, err)
		require.Zero(t, s.Open())
	})
}

// What a Sealer keeps is sealed in what an observer is told, too.
func TestNoticesHoldWebhooksAsTheyAreKept(t *testing.T) {
	t.Parallel()
	var told []postrider.Notice
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{
		Sealer: sealerOf(t, "one"), Observe: func(n postrider.Notice) { told = append(told, n) },
	})
	require.NoError(t, err)
	w, err := d.CreateWebhook(t.Context(), postrider.Webhook{
		Name: "a", URL: "https://a.example/", Events: []string{"*"}, Header: http.Header{"Authorization": {canaryHeader}},
	})
	require.NoError(t, err)
	require.NoError(t, d.PauseWebhook(t.Context(), w.ID))
	require.NoError(t, d.ResumeWebhook(t.Context(), w.ID))
	require.NoError(t, d.DeleteWebhook(t.Context(), w.ID))
	require.Len(t, told, 3)
	for _, n := range told {
		require.Len(t, n.Webhook.Header, 1)
		require.Empty(t, canaries(fmt.Sprintf("%+v", n.Webhook)))
		require.NotContains(t, n.Webhook.Secrets[0].Reveal(), w.Secrets[0].Reveal())
	}
}

// Nothing that is written for people holds what is told to the receiver alone.
func TestNothingTellsTheCanaries(t *testing.T) {
	t.Parallel()
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	defer receiver.Close()
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{Network: loopback, Logger: logger, Observe: postrider.SlogObserver(logger)})
	require.NoError(t, err)
	hook := postrider.Webhook{
		Name: "a", URL: receiver.URL + "/" + canaryPath + "?q=" + canaryQuery, Events: []string{"*"},
		Schemes: []postrider.Scheme{postrider.SchemeGitHub},
		Secrets: []postrider.Secret{secretOf(t, canarySecret)}, Header: http.Header{"X-Token": {canaryHeader}},
	}
	w, err := d.CreateWebhook(t.Context(), hook)
	require.NoError(t, err)
	a, err := d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	require.NoError(t, d.PauseWebhook(t.Context(), w.ID))
	told := []string{fmt.Sprintf("%v %+v %#v", a, a, a), fmt.Sprintf("%v %s %q %x %#v", w.Secrets, w.Secrets, w.Secrets, w.Secrets, w.Secrets)}
	text, err := json.Marshal(w.Secrets)
	require.NoError(t, err)
	told = append(told, string(text))

	bad := hook
	bad.Name = "b"
	for _, url := range []string{
		"ftp://h/" + canaryPath, "https://" + canaryUser + ":" + canarySecret + "@h/" + canaryPath,
		"https://h:99999/" + canaryPath + "?" + canaryQuery, "https://h/%zz" + canaryPath, "://" + canaryPath,
	} {
		bad.URL = url
		_, err = d.CreateWebhook(t.Context(), bad)
		require.ErrorIs(t, err, postrider.ErrInvalid)
		told = append(told, fmt.Sprintf("%v %+v %#v", err, err, err))
	}
	bad.URL, bad.Header = hook.URL, http.Header{"Host": {canaryHeader}, "X-A": {canaryHeader + "\n"}}
	_, err = d.CreateWebhook(t.Context(), bad)
	told = append(told, fmt.Sprintf("%v %#v", err, err))
	views, err := httpapi.New(d, httpapi.Options{
		Authorize: func(*http.Request, httpapi.Permission) (httpapi.Scope, error) { return httpapi.Scope{}, nil },
		Logger:    logger, Internal: true,
	})
	require.NoError(t, err)
	for _, path := range []string{
		"/events/v2/history/webhooks/a", "/v2/webhook-dispatches", "/v2/webhook-dispatches/" + a.DeliveryID,
		"/v2/webhooks/" + w.ID + "/dispatches", "/webhooks/" + w.ID + "/events", "/webhooks/" + w.ID + "/events/" + a.ID(),
	} {
		answer := httptest.NewRecorder()
		views.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		require.Equal(t, http.StatusOK, answer.Code, path)
		told = append(told, answer.Body.String())
	}
	_, err = postrider.ParseSecret(canarySecret + "\n")
	told = append(told, fmt.Sprintf("%v %#v", err, err), log.String())
	for _, text := range told {
		require.Empty(t, canaries(text), text)
	}
	require.NotEmpty(t, log.String())
}
