package interop_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"

	"github.com/postrider/postrider/signature"
)

const stripeSecret = "whsec_51TKyHBy5KFY1Ab98GQ8V60BkWnejkWy"

func TestStripesLibraryTakesWhatTheStripeShapeSigns(t *testing.T) {
	t.Parallel()
	body := []byte(`{"id": "evt_1", "object": "event", "type": "paid", "api_version": "` + stripe.APIVersion + `"}`)
	scheme, err := signature.ParseScheme("stripe")
	require.NoError(t, err)
	var value []byte
	for _, secret := range []string{"the secret that comes next", stripeSecret} {
		signer, err := scheme.Prepare(secret)
		require.NoError(t, err)
		value = signer.AppendSign(value, "evt_1", time.Now().Unix(), body)
	}
	require.Equal(t, 2, strings.Count(string(value), ",v1="))

	event, err := webhook.ConstructEvent(body, string(value), stripeSecret)
	require.NoError(t, err)
	require.Equal(t, "evt_1", event.ID)
	event, err = webhook.ConstructEvent(body, string(value), "the secret that comes next")
	require.NoError(t, err)
	require.Equal(t, "evt_1", event.ID)

	_, err = webhook.ConstructEvent(body, string(value), "the secret of somebody else")
	require.ErrorIs(t, err, webhook.ErrNoValidSignature)
	_, err = webhook.ConstructEvent(body[:len(body)-1], string(value), stripeSecret)
	require.ErrorIs(t, err, webhook.ErrNoValidSignature)
}

func TestStripeVerifierTakesWhatStripesLibrarySigns(t *testing.T) {
	t.Parallel()
	signed := webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{
		Payload: []byte(`{"id": "evt_1"}`), Secret: stripeSecret, Timestamp: time.Now(),
	})
	v, err := signature.NewStripeVerifier(stripeSecret)
	require.NoError(t, err)
	header := http.Header{}
	header.Set("Stripe-Signature", signed.Header)
	require.NoError(t, v.Verify(header, signed.Payload))
	require.ErrorIs(t, v.Verify(header, append(signed.Payload, '\n')), signature.ErrNoMatch)
}
