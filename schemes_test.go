package postrider_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
	"github.com/postrider/postrider/signature"
)

// opaque is a secret whose whole text is the key.
const opaque = "It's a Secret to Everybody"

func secretOf(t *testing.T, text string) postrider.Secret {
	t.Helper()
	s, err := postrider.ParseSecret(text)
	require.NoError(t, err)
	return s
}

func TestEverySchemeOfAWebhookSigns(t *testing.T) {
	t.Parallel()
	private := postrider.NewPrivateSecret()
	key, err := signature.ParsePrivateKey(private.Reveal())
	require.NoError(t, err)
	standard, err := signature.NewVerifier(testSecret)
	require.NoError(t, err)
	asymmetric, err := signature.NewVerifier(key.Public().String())
	require.NoError(t, err)
	stripe, err := signature.NewStripeVerifier(opaque)
	require.NoError(t, err)
	gitHub, err := signature.NewGitHubVerifier(opaque)
	require.NoError(t, err)
	body, err := signature.NewBodyVerifier("X-Acme-Signature", opaque)
	require.NoError(t, err)
	got := make(chan error, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var err error
		for _, v := range []signature.RequestVerifier{standard, asymmetric, stripe, gitHub, body} {
			if bad := v.Verify(r.Header, b); bad != nil && err == nil {
				err = bad
			}
		}
		got <- err
	}))
	defer receiver.Close()
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{Network: loopback})
	require.NoError(t, err)
	w, err := d.CreateWebhook(t.Context(), postrider.Webhook{
		Name: "a", URL: receiver.URL, Events: []string{"*"},
		Secrets: []postrider.Secret{secretOf(t, testSecret), private, secretOf(t, opaque)},
		Schemes: []postrider.Scheme{
			postrider.SchemeStandard, postrider.SchemeAsymmetric, postrider.SchemeStripe, postrider.SchemeGitHub,
			postrider.SchemeBody("x-acme-signature"),
		},
	})
	require.NoError(t, err)
	_, err = d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	// GitHub's headers carry one signature: that of the newest secret, which is the whsec_ one.
	require.ErrorIs(t, <-got, signature.ErrNoMatch)

	_, err = d.UpdateWebhook(t.Context(), w.ID, func(w *postrider.Webhook) error {
		w.Secrets = []postrider.Secret{secretOf(t, opaque), secretOf(t, testSecret), private}
		return nil
	})
	require.NoError(t, err)
	_, err = d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	require.NoError(t, <-got)
}

func TestGitHubShape(t *testing.T) {
	t.Parallel()
	header := make(chan http.Header, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { header <- r.Header }))
	defer receiver.Close()
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{
		Network: loopback,
		Encode: func(postrider.Draft) (postrider.Body, error) {
			return postrider.Body{Content: []byte("Hello, World!"), ContentType: "text/plain"}, nil
		},
	})
	require.NoError(t, err)
	w, err := d.CreateWebhook(t.Context(), postrider.Webhook{
		Name: "a", URL: receiver.URL, Events: []string{"*"},
		Secrets: []postrider.Secret{secretOf(t, opaque)}, Schemes: []postrider.Scheme{postrider.SchemeGitHub},
	})
	require.NoError(t, err)
	_, err = d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	h := <-header
	// The vector of GitHub's documentation.
	require.Equal(t, "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17", h.Get("X-Hub-Signature-256"))
	require.Empty(t, h.Values("Webhook-Signature"))
	require.NotEmpty(t, h.Get("Webhook-Id"))
}

func TestSchemesAreChecked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit func(*postrider.Webhook)
		want string
	}{
		"unknown":   {func(w *postrider.Webhook) { w.Schemes = []postrider.Scheme{"v9"} }, `Webhook.Schemes[0] is "v9"`},
		"twice":     {func(w *postrider.Webhook) { w.Schemes = []postrider.Scheme{"github", "github"} }, "a second time"},
		"framing":   {func(w *postrider.Webhook) { w.Schemes = []postrider.Scheme{"sha256:host"} }, "not allowed"},
		"forwarded": {func(w *postrider.Webhook) { w.Schemes = []postrider.Scheme{"sha256:X-Forwarded-For"} }, "not allowed"},
		"own header": {func(w *postrider.Webhook) {
			w.Schemes, w.Header = []postrider.Scheme{"sha256:X-A"}, http.Header{"X-A": {"b"}}
		}, "Webhook.Header has as well"},
		"own header in another spelling": {func(w *postrider.Webhook) {
			w.Schemes, w.Header = []postrider.Scheme{"sha256:X-A"}, http.Header{"x-a": {"b"}}
		}, "Webhook.Header has as well"},
		"no private":    {func(w *postrider.Webhook) { w.Schemes = []postrider.Scheme{"v1", "v1a"} }, `no secret that the scheme "v1a" takes`},
		"no standard":   {func(w *postrider.Webhook) { w.Secrets = []postrider.Secret{secretOf(t, opaque)} }, `no secret that the scheme "v1" takes`},
		"stripe header": {func(w *postrider.Webhook) { w.Header = http.Header{"Stripe-Signature": {"x"}} }, "is set by the dispatcher"},
	} {
		w := validWebhook()
		c.edit(&w)
		require.ErrorContains(t, w.Validate(), c.want, name)
	}
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{})
	require.NoError(t, err)
	made, err := d.CreateWebhook(t.Context(), postrider.Webhook{
		Name: "a", URL: "https://a.example/", Events: []string{"*"}, Schemes: []postrider.Scheme{postrider.SchemeAsymmetric},
	})
	require.NoError(t, err)
	require.Contains(t, made.Secrets[0].Reveal(), "whsk_")
	next, err := d.RotateSecret(t.Context(), made.ID, time.Hour)
	require.NoError(t, err)
	require.Contains(t, next.Reveal(), "whsk_")
	for _, text := range []string{"whpk_" + opaque, "short", "sealed:" + opaque, "with\nnewline and more text", opaque + " "} {
		_, err := postrider.ParseSecret(text)
		require.ErrorIs(t, err, postrider.ErrInvalid)
		require.NotContains(t, err.Error(), text)
	}
}

// A new secret replaces those of its kind: what another scheme signs with goes on.
func TestRotationLeavesTheKeysOfOtherSchemesAlone(t *testing.T) {
	t.Parallel()
	for _, schemes := range [][]postrider.Scheme{{"v1", "v1a"}, {"v1a", "v1"}, {"github", "v1a"}, {"v1a", "github"}, {"v1", "github"}} {
		t.Run(fmt.Sprint(schemes), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				sent := &bodies{}
				d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{Sender: sent, Logger: quiet()})
				require.NoError(t, err)
				old := []postrider.Secret{postrider.NewSecret(), postrider.NewPrivateSecret()}
				w, err := d.CreateWebhook(t.Context(), postrider.Webhook{
					Name: "a", URL: "https://a.example/", Events: []string{"*"}, Schemes: schemes, Secrets: old,
				})
				require.NoError(t, err)
				next, err := d.RotateSecret(t.Context(), w.ID, time.Hour)
				require.NoError(t, err)
				time.Sleep(time.Hour)
				stop := start(d)
				r, err := d.Emit(t.Context(), postrider.Event{Type: "x", Payload: []byte(`{}`)})
				require.NoError(t, err)
				v, err := d.AwaitDelivery(t.Context(), r.Deliveries[0])
				require.NoError(t, err)
				require.Equal(t, postrider.StatusDelivered, v.Status)
				require.NoError(t, stop())
				symmetric, private := next, old[1]
				if schemes[0] == "v1a" {
					symmetric, private = old[0], next
				}
				key, err := signature.ParsePrivateKey(private.Reveal())
				require.NoError(t, err)
				for _, s := range schemes {
					var v signature.RequestVerifier
					switch s {
					case "v1":
						v, err = signature.NewVerifier(symmetric.Reveal())
					case "v1a":
						v, err = signature.NewVerifier(key.Public().String())
					default:
						v, err = signature.NewGitHubVerifier(symmetric.Reveal())
					}
					require.NoError(t, err)
					require.NoError(t, v.Verify(sent.all[0].Header, sent.all[0].Body), "%s", s)
				}
			})
		})
	}
}

// Of another kind even what has expired stays, since a scheme needs it.
func TestRotationWithAnExpiredKeyOfTheOtherKind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _ := newDispatcher(t, postrider.Config{})
		private := postrider.NewPrivateSecret()
		private.ExpiresAt = time.Now().Add(time.Minute).UTC()
		w, err := d.CreateWebhook(t.Context(), postrider.Webhook{
			Name: "a", URL: "https://a.example/", Events: []string{"*"}, Schemes: []postrider.Scheme{"v1", "v1a"},
			Secrets: []postrider.Secret{postrider.NewSecret(), private},
		})
		require.NoError(t, err)
		time.Sleep(time.Hour)
		_, err = d.RotateSecret(t.Context(), w.ID, time.Hour)
		require.NoError(t, err)
	})
}

// A key in base64 without whsec_ is one of Standard Webhooks, unless another scheme of the webhook takes it.
func TestKeysWithoutPrefix(t *testing.T) {
	t.Parallel()
	bare := testSecret[len("whsec_"):]
	w := validWebhook()
	w.Secrets = []postrider.Secret{secretOf(t, bare)}
	require.NoError(t, w.Validate())
	w.Schemes = []postrider.Scheme{postrider.SchemeGitHub, postrider.SchemeStandard}
	require.ErrorContains(t, w.Validate(), `no secret that the scheme "v1" takes`)
}
