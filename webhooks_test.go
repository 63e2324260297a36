package postrider_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/signature"
)

func TestCreateWebhookFillsIn(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	w, err := d.CreateWebhook(t.Context(), postrider.Webhook{
		Project: "p", Name: "a", URL: "https://a.example/in", Events: []string{"x"},
		Window: 3, Failures: 7, Reason: "none", NotBefore: time.Now(), Version: 9, CreatedAt: time.Unix(1, 0),
	})
	require.NoError(t, err)
	require.Len(t, w.ID, 36)
	require.Len(t, w.Secrets, 1)
	require.False(t, w.Secrets[0].IsZero())
	require.EqualValues(t, 1, w.Version)
	require.Zero(t, w.Window)
	require.Zero(t, w.Failures)
	require.Empty(t, w.Reason)
	require.Zero(t, w.NotBefore)
	require.WithinDuration(t, time.Now(), w.CreatedAt, time.Minute)

	again, err := d.Webhook(t.Context(), w.ID)
	require.NoError(t, err)
	require.Equal(t, w, again)
	named, err := d.WebhookNamed(t.Context(), "p", "a")
	require.NoError(t, err)
	require.Equal(t, w, named)

	_, err = d.CreateWebhook(t.Context(), postrider.Webhook{Project: "p", Name: "a", URL: "https://b.example/", Events: []string{"x"}})
	require.ErrorIs(t, err, postrider.ErrExists)
	_, err = d.CreateWebhook(t.Context(), postrider.Webhook{Name: "a", URL: "https://b.example/", Events: []string{"x"}})
	require.NoError(t, err, "the name is free in another project")
	named, err = d.WebhookNamed(t.Context(), "", "a")
	require.NoError(t, err)
	require.Empty(t, named.Project)

	_, err = d.WebhookNamed(t.Context(), "q", "a")
	require.ErrorIs(t, err, postrider.ErrNotFound)
	_, err = d.WebhookNamed(t.Context(), "p", "")
	require.ErrorIs(t, err, postrider.ErrNotFound)
	_, err = d.Webhook(t.Context(), "nothing")
	require.ErrorIs(t, err, postrider.ErrNotFound)
}

func TestCreateWebhookRefuses(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{MaxTimeout: 20 * time.Second})
	_, err := d.CreateWebhook(t.Context(), postrider.Webhook{
		Name: "", URL: "ftp://a.example/", Events: []string{"x"}, Timeout: 21 * time.Second, State: postrider.StateDisabled,
	})
	require.Equal(t, []string{
		"Webhook.Name is empty, want 1 to 64 of [a-zA-Z0-9_-]",
		`Webhook.URL has the scheme "ftp", want http or https`,
		"Webhook.Timeout is 21s, want 0s to 20s",
		"Webhook.State is DISABLED, want ENABLED or PAUSED",
	}, fields(t, err))
	page, err := d.Webhooks(t.Context(), postrider.WebhookQuery{})
	require.NoError(t, err)
	require.Empty(t, page.Items)
}

func TestEnsureWebhookCreatesThenUpdates(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	want := postrider.Webhook{Project: "p", Name: "a", URL: "https://a.example/", Events: []string{"x"}, Header: http.Header{"X-A": {"1"}}}
	made, err := d.EnsureWebhook(t.Context(), want)
	require.NoError(t, err)
	same, err := d.EnsureWebhook(t.Context(), want)
	require.NoError(t, err)
	require.Equal(t, made, same, "nothing to do: nothing is stored, the version stays")

	require.NoError(t, d.PauseWebhook(t.Context(), made.ID))
	want.URL, want.Header, want.State = "https://b.example/", nil, postrider.StateEnabled
	changed, err := d.EnsureWebhook(t.Context(), want)
	require.NoError(t, err)
	require.Equal(t, made.ID, changed.ID)
	require.Equal(t, made.Secrets, changed.Secrets, "none given: they stay")
	require.Equal(t, "https://b.example/", changed.URL)
	require.Empty(t, changed.Header)
	require.Equal(t, postrider.StatePaused, changed.State, "the state stays")
	require.Equal(t, made.CreatedAt, changed.CreatedAt)
	require.EqualValues(t, 3, changed.Version)

	want.Secrets = []postrider.Secret{postrider.NewSecret()}
	changed, err = d.EnsureWebhook(t.Context(), want)
	require.NoError(t, err)
	require.Equal(t, want.Secrets, changed.Secrets)

	want.ID = "another"
	_, err = d.EnsureWebhook(t.Context(), want)
	require.Equal(t, []string{fmt.Sprintf(`Webhook.ID is "another", want %q as it was: it never changes`, made.ID)}, fields(t, err))
	_, err = d.EnsureWebhook(t.Context(), postrider.Webhook{ID: made.ID, Project: "p", Name: "new", URL: "https://a.example/", Events: []string{"x"}})
	require.ErrorIs(t, err, postrider.ErrExists, "the ID is another webhook's")
	_, err = d.EnsureWebhook(t.Context(), postrider.Webhook{Name: "bad name"})
	require.ErrorIs(t, err, postrider.ErrInvalid)
}

func TestEnsureWebhookFromManySidesMakesOne(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	var wg sync.WaitGroup
	ids := make([]string, 16)
	for i := range ids {
		wg.Go(func() {
			w, err := d.EnsureWebhook(context.Background(), postrider.Webhook{
				Project: "p", Name: "a", URL: fmt.Sprintf("https://a.example/%d", i), Events: []string{"x"},
			})
			if err != nil {
				t.Error(err)
			}
			ids[i] = w.ID
		})
	}
	wg.Wait()
	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	w, err := d.Webhook(t.Context(), ids[0])
	require.NoError(t, err)
	require.EqualValues(t, 16, w.Version)
}

func TestUpdateWebhook(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	w := hook(t, d, "a")
	changed, err := d.UpdateWebhook(t.Context(), w.ID, func(w *postrider.Webhook) error {
		w.Events = append(w.Events[:0], "y")
		w.Version, w.Failures, w.CreatedAt = 99, 99, time.Time{}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []string{"y"}, changed.Events)
	require.EqualValues(t, 2, changed.Version)
	require.Zero(t, changed.Failures)
	require.Equal(t, w.CreatedAt, changed.CreatedAt)

	same, err := d.UpdateWebhook(t.Context(), w.ID, func(*postrider.Webhook) error { return nil })
	require.NoError(t, err)
	require.EqualValues(t, 2, same.Version)

	_, err = d.UpdateWebhook(t.Context(), w.ID, func(w *postrider.Webhook) error {
		w.ID, w.Project, w.Method = "x", "q", "GET"
		return nil
	})
	require.Equal(t, []string{
		`Webhook.Method is "GET", want POST, PUT, PATCH or DELETE`,
		fmt.Sprintf(`Webhook.ID is "x", want %q as it was: it never changes`, w.ID),
		`Webhook.Project is "q", want "p" as it was: it never changes`,
	}, fields(t, err))
	_, err = d.UpdateWebhook(t.Context(), w.ID, func(w *postrider.Webhook) error {
		w.State = postrider.StatePaused
		return nil
	})
	require.Equal(t, []string{"Webhook.State is PAUSED, want ENABLED as it was: use PauseWebhook or ResumeWebhook"}, fields(t, err))

	no := errors.New("no")
	_, err = d.UpdateWebhook(t.Context(), w.ID, func(w *postrider.Webhook) error {
		w.Events[0] = "z"
		return no
	})
	require.ErrorIs(t, err, no)
	_, err = d.UpdateWebhook(t.Context(), "nothing", func(*postrider.Webhook) error { return nil })
	require.ErrorIs(t, err, postrider.ErrNotFound)
	other := hook(t, d, "b")
	_, err = d.UpdateWebhook(t.Context(), other.ID, func(w *postrider.Webhook) error {
		w.Name = "a"
		return nil
	})
	require.ErrorIs(t, err, postrider.ErrExists)
	stored, err := d.Webhook(t.Context(), w.ID)
	require.NoError(t, err)
	require.Equal(t, changed, stored, "none of these changed anything")
}

func TestUpdateWebhookStartsAgainWhenSomebodyWasFaster(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	w := hook(t, d, "a")
	calls := 0
	changed, err := d.UpdateWebhook(t.Context(), w.ID, func(w *postrider.Webhook) error {
		if calls++; calls < 3 {
			_, err := d.UpdateWebhook(t.Context(), w.ID, func(w *postrider.Webhook) error {
				w.Owner += "x"
				return nil
			})
			require.NoError(t, err, "the function runs outside any transaction")
		}
		w.Events = []string{"y"}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 3, calls)
	require.Equal(t, "xx", changed.Owner)
	require.Equal(t, []string{"y"}, changed.Events)

	_, err = d.UpdateWebhook(t.Context(), w.ID, func(w *postrider.Webhook) error {
		_, err := d.UpdateWebhook(t.Context(), w.ID, func(w *postrider.Webhook) error {
			w.Owner = fmt.Sprint(w.Version)
			return nil
		})
		w.Events = []string{"z"}
		return err
	})
	require.ErrorIs(t, err, postrider.ErrConflict, "but not for ever")
}

func TestResumeForgetsFailures(t *testing.T) {
	t.Parallel()
	d, store := newDispatcher(t, postrider.Config{})
	w := hook(t, d, "a")
	w.State, w.Reason, w.NotBefore, w.Window = postrider.StateDisabled, "gone", time.Now().Add(time.Hour), 2
	w.FailingSince, w.Failures = time.Now(), 12
	require.NoError(t, store.UpdateWebhook(t.Context(), w))
	require.NoError(t, d.ResumeWebhook(t.Context(), w.ID))
	w, err := d.Webhook(t.Context(), w.ID)
	require.NoError(t, err)
	require.Equal(t, postrider.StateEnabled, w.State)
	require.Empty(t, w.Reason)
	require.Zero(t, w.NotBefore)
	require.Zero(t, w.Window)
	require.Zero(t, w.FailingSince)
	require.Zero(t, w.Failures)
	require.NoError(t, d.ResumeWebhook(t.Context(), w.ID), "a second time too")
	require.NoError(t, d.PauseWebhook(t.Context(), w.ID))
	require.NoError(t, d.PauseWebhook(t.Context(), w.ID))
	require.ErrorIs(t, d.PauseWebhook(t.Context(), "nothing"), postrider.ErrNotFound)
	require.ErrorIs(t, d.ResumeWebhook(t.Context(), "nothing"), postrider.ErrNotFound)
}

func TestWebhookThatIsReturnedIsTheCallersOwn(t *testing.T) {
	t.Parallel()
	d, _ := newDispatcher(t, postrider.Config{})
	w := hook(t, d, "a")
	w.Events[0], w.Secrets[0] = "changed", postrider.Secret{}
	page, err := d.Webhooks(t.Context(), postrider.WebhookQuery{Project: "p"})
	require.NoError(t, err)
	require.Equal(t, "*", page.Items[0].Events[0])
	page.Items[0].Events[0] = "changed"
	again, err := d.Webhook(t.Context(), w.ID)
	require.NoError(t, err)
	require.Equal(t, "*", again.Events[0])
	require.False(t, again.Secrets[0].IsZero())
}

// many is a store that finds webhooks by name only after several short pages.
type many struct{ *memstore.Store }

func (m many) Webhooks(ctx context.Context, q postrider.WebhookQuery) (postrider.Page[postrider.Webhook], error) {
	q.Name, q.Limit = "", 1
	return m.Store.Webhooks(ctx, q)
}

func TestWebhookNamedReadsEveryPage(t *testing.T) {
	t.Parallel()
	d, err := postrider.New(many{memstore.New(memstore.Options{})}, postrider.Config{Logger: quiet()})
	require.NoError(t, err)
	for i := range 5 {
		_, err := d.CreateWebhook(t.Context(), postrider.Webhook{Name: fmt.Sprint("n", i), URL: "http://a.example/", Events: []string{"*"}})
		require.NoError(t, err)
	}
	w, err := d.WebhookNamed(t.Context(), "", "n4")
	require.NoError(t, err)
	require.Equal(t, "n4", w.Name)
	_, err = d.WebhookNamed(t.Context(), "", "n5")
	require.ErrorIs(t, err, postrider.ErrNotFound)
}

// bodies is a sender that keeps the requests it gets.
type bodies struct {
	mu  sync.Mutex
	all []postrider.Request
}

func (s *bodies) Send(_ context.Context, r postrider.Request) (postrider.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, r)
	return postrider.Response{Code: 200}, nil
}

func TestRotatedSecretsBothSignUntilTheOldOneExpires(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store postrider.Store) {
		sent := &bodies{}
		d, err := postrider.New(store, postrider.Config{Sender: sent, Logger: quiet()})
		require.NoError(t, err)
		w := hook(t, d, "a")
		old := w.Secrets[0]
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()

		fresh, err := d.RotateSecret(t.Context(), w.ID, 0)
		require.NoError(t, err)
		require.NotEqual(t, old.Reveal(), fresh.Reveal())
		require.Zero(t, fresh.ExpiresAt)
		w, err = d.Webhook(t.Context(), w.ID)
		require.NoError(t, err)
		require.Len(t, w.Secrets, 2)
		require.Equal(t, fresh, w.Secrets[0], "the newest first")
		require.Equal(t, start.Add(24*time.Hour).UTC(), w.Secrets[1].ExpiresAt)

		// Until the last microsecond a receiver verifies with either; from then on with the new one alone.
		for _, c := range []struct {
			at  time.Duration
			old bool
		}{{0, true}, {24*time.Hour - time.Microsecond, true}, {24 * time.Hour, false}, {25 * time.Hour, false}} {
			time.Sleep(time.Until(start.Add(c.at)))
			r, err := d.Emit(t.Context(), postrider.Event{Project: "p", Type: "x", Payload: []byte(`{"a":1}`)})
			require.NoError(t, err)
			_, err = d.AwaitDelivery(t.Context(), r.Deliveries[0])
			require.NoError(t, err)
			sent.mu.Lock()
			last := sent.all[len(sent.all)-1]
			sent.mu.Unlock()
			require.NoError(t, signature.Verify(last.Header, last.Body, fresh.Reveal()), "after %v", c.at)
			err = signature.Verify(last.Header, last.Body, old.Reveal())
			require.Equal(t, c.old, err == nil, "after %v: %v", c.at, err)
		}
		cancel()
		require.NoError(t, <-ended)

		_, err = d.RotateSecret(t.Context(), w.ID, time.Hour)
		require.NoError(t, err)
		w, err = d.Webhook(t.Context(), w.ID)
		require.NoError(t, err)
		require.Len(t, w.Secrets, 2, "what has expired is dropped")
		require.Equal(t, fresh.Reveal(), w.Secrets[1].Reveal())
	})
}

func TestRotateSecretRefuses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDispatcher(t, postrider.Config{})
		w := hook(t, d, "a")
		start := time.Now()
		for i := range 4 {
			_, err := d.RotateSecret(t.Context(), w.ID, time.Duration(4-i)*time.Hour)
			require.NoError(t, err)
		}
		w, err := d.Webhook(t.Context(), w.ID)
		require.NoError(t, err)
		require.Len(t, w.Secrets, 5)
		require.Zero(t, w.Secrets[0].ExpiresAt)
		for _, s := range w.Secrets[1:] {
			require.Equal(t, start.Add(time.Hour).UTC(), s.ExpiresAt, "a shorter overlap ends those before it too")
		}
		_, err = d.RotateSecret(t.Context(), w.ID, time.Minute)
		require.Equal(t, []string{"Webhook.Secrets has 6 secrets, want at most 5"}, fields(t, err))
		_, err = d.RotateSecret(t.Context(), w.ID, -1)
		require.Equal(t, []string{"overlap is -1ns, want 0s to 8784h0m0s"}, fields(t, err))
		_, err = d.RotateSecret(t.Context(), "nothing", 0)
		require.ErrorIs(t, err, postrider.ErrNotFound)
		same, err := d.Webhook(t.Context(), w.ID)
		require.NoError(t, err)
		require.Equal(t, w, same, "nothing is changed")

		time.Sleep(time.Hour)
		secret, err := d.RotateSecret(t.Context(), w.ID, 100*time.Hour)
		require.NoError(t, err)
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", secret, secret, secret), secret.Reveal()[6:])
		time.Sleep(time.Hour)
		_, err = d.RotateSecret(t.Context(), w.ID, 200*time.Hour)
		require.NoError(t, err)
		w, err = d.Webhook(t.Context(), w.ID)
		require.NoError(t, err)
		require.Len(t, w.Secrets, 3)
		require.Equal(t, start.Add(202*time.Hour).UTC(), w.Secrets[1].ExpiresAt)
		require.Equal(t, start.Add(101*time.Hour).UTC(), w.Secrets[2].ExpiresAt, "one that expires earlier does so")
	})
}
