package interop_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"

	"github.com/postrider/postrider"
	"github.com/postrider/postrider/memstore"
)

// One webhook moves from one dialect to another: what is sent to it satisfies both libraries, byte for byte.
func TestWhatIsSentSatisfiesTheLibrariesOfBothDialects(t *testing.T) {
	t.Parallel()
	standard, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	payload := []byte(`{"id": "evt_1", "object": "event", "type": "paid", "api_version": "` + stripe.APIVersion + `"}`)
	got := make(chan error, 2)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = standard.Verify(body, r.Header)
		}
		got <- err
		_, err = webhook.ConstructEvent(body, r.Header.Get("Stripe-Signature"), secret)
		got <- err
	}))
	defer receiver.Close()
	d, err := postrider.New(memstore.New(memstore.Options{}), postrider.Config{
		Network: postrider.Network{AllowPrefixes: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}},
		Encode: func(postrider.Draft) (postrider.Body, error) {
			return postrider.Body{Content: payload}, nil
		},
	})
	require.NoError(t, err)
	key, err := postrider.ParseSecret(secret)
	require.NoError(t, err)
	w, err := d.CreateWebhook(t.Context(), postrider.Webhook{
		Name: "a", URL: receiver.URL, Events: []string{"*"}, Secrets: []postrider.Secret{key},
		Schemes: []postrider.Scheme{postrider.SchemeStandard, postrider.SchemeStripe},
	})
	require.NoError(t, err)
	a, err := d.SendTest(t.Context(), w.ID)
	require.NoError(t, err)
	require.False(t, a.Failed, a.Error)
	require.NoError(t, <-got, "Standard Webhooks")
	require.NoError(t, <-got, "Stripe")
}
