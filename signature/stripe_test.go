package signature_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/postrider/postrider/signature"
)

// Made with openssl: dgst -sha256 -hmac <secret> over 1614265330.{"id":"evt_1"}.
const (
	stripeSecret    = "whsec_test_secret_0123456789"
	stripeBody      = `{"id":"evt_1"}`
	stripeHex       = "f8d3a4a7a8ca36ef2e4c33e8a5282062ca868c275b5efa2efa3e6e690d9b51cc"
	stripeSignature = "t=1614265330,v1=" + stripeHex
)

func TestStripeVerifies(t *testing.T) {
	t.Parallel()
	v := stripeAt(t, vectorTimestamp, stripeSecret)
	both := stripeAt(t, vectorTimestamp, "another secret of it", stripeSecret)
	wrong := strings.Repeat("0", 64)
	for _, value := range []string{
		stripeSignature,
		"v1=" + stripeHex + ",t=1614265330",
		"t=1614265330,v1=" + wrong + ",v1=" + stripeHex + ",v0=" + wrong,
		"t=1614265330,v0=a=b,v1=,=,v1=" + stripeHex,
		"t=1614265330" + strings.Repeat(",v1=x", 9) + ",v1=" + stripeHex,
	} {
		require.NoError(t, v.Verify(stripeHeader(value), []byte(stripeBody)), value)
		require.NoError(t, both.Verify(stripeHeader(value), []byte(stripeBody)), value)
	}
}

func TestStripeNamesTheReason(t *testing.T) {
	t.Parallel()
	wrong := strings.Repeat("0", 64)
	for value, c := range map[string]struct {
		reason error
		text   string
	}{
		"":                              {signature.ErrMissingHeader, "missing header: Stripe-Signature"},
		"t=1614265330":                  {signature.ErrNoMatch, "no matching signature: Stripe-Signature, v1 entries: 0"},
		"t=1614265330,v1=" + wrong:      {signature.ErrNoMatch, "v1 entries: 1"},
		"t=1614265330,v0=" + stripeHex:  {signature.ErrNoMatch, "v1 entries: 0"},
		"t=1614265330, v1=" + stripeHex: {signature.ErrNoMatch, "v1 entries: 0"},
		"t=1614265330,v1=" + strings.ToUpper(stripeHex): {signature.ErrNoMatch, "v1 entries: 1"},
		"t=1614265331,v1=" + stripeHex:                  {signature.ErrNoMatch, "v1 entries: 1"},
		"v1=" + stripeHex:                               {signature.ErrMalformed, "has 0 entries t=, want 1"},
		stripeSignature + ",t=1614265330":               {signature.ErrMalformed, "has 2 entries t=, want 1"},
		stripeSignature + ",":                           {signature.ErrMalformed, "malformed header: Stripe-Signature has"},
		"t":                                             {signature.ErrMalformed, "has an entry without ="},
		"t=,v1=" + stripeHex:                            {signature.ErrBadTimestamp, "bad timestamp: Stripe-Signature"},
		"t=01614265330,v1=" + stripeHex:                 {signature.ErrBadTimestamp, ""},
		"t=-1,v1=" + stripeHex:                          {signature.ErrBadTimestamp, ""},
		"t=1,v1=" + stripeHex:                           {signature.ErrTooOld, "is 1614265329 s in the past"},
		"t=1614265631,v1=" + stripeHex:                  {signature.ErrTooNew, "Stripe-Signature is 301 s in the future"},
		stripeSignature + strings.Repeat(",v0=x", 10):   {signature.ErrTooMany, "Stripe-Signature has more than 10 entries"},
		stripeSignature + "," + strings.Repeat("x", 4096-len(stripeSignature)): {signature.ErrTooLong,
			"header too long: Stripe-Signature has 4097 bytes, want at most 4096"},
	} {
		err := stripeAt(t, vectorTimestamp, stripeSecret).Verify(stripeHeader(value), []byte(stripeBody))
		require.ErrorIs(t, err, c.reason, value)
		require.ErrorContains(t, err, c.text)
		require.True(t, strings.HasPrefix(err.Error(), "signature: "))
		require.NotContains(t, err.Error(), stripeHex[:8])
	}
	twice := http.Header{signature.HeaderStripe: {stripeSignature, stripeSignature}}
	v := stripeAt(t, vectorTimestamp, stripeSecret)
	require.ErrorIs(t, v.Verify(twice, []byte(stripeBody)), signature.ErrRepeatedHeader)
	require.ErrorIs(t, v.Verify(nil, nil), signature.ErrMissingHeader)
}

func TestEveryFlippedBitOfStripeIsRefused(t *testing.T) {
	t.Parallel()
	v := stripeAt(t, vectorTimestamp, stripeSecret)
	for bit := range 8 * len(stripeSignature) {
		require.Error(t, v.Verify(stripeHeader(flip(stripeSignature, bit)), []byte(stripeBody)), "bit %d", bit)
	}
	for bit := range 8 * len(stripeBody) {
		require.ErrorIs(t, v.Verify(stripeHeader(stripeSignature), []byte(flip(stripeBody, bit))), signature.ErrNoMatch)
	}
	for bit := range 7 { // of the last character; the eighth makes it no ASCII
		last := len(stripeSecret) - 1
		secret := stripeSecret[:last] + flip(stripeSecret[last:], bit)
		if other, err := signature.NewStripeVerifier(secret); err == nil {
			other.Now = v.Now
			require.ErrorIs(t, other.Verify(stripeHeader(stripeSignature), []byte(stripeBody)), signature.ErrNoMatch)
		}
	}
}

func TestStripeToleranceIsExactToTheSecond(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		tolerance time.Duration
		age       int64
		reason    error
	}{
		{0, 300, nil}, {0, 301, signature.ErrTooOld}, {0, -300, nil}, {0, -301, signature.ErrTooNew},
		{10 * time.Second, 10, nil}, {10 * time.Second, 11, signature.ErrTooOld},
		{time.Nanosecond, 0, nil}, {time.Nanosecond, 1, signature.ErrTooOld},
	} {
		v := stripeAt(t, vectorTimestamp+c.age, stripeSecret)
		v.Tolerance = c.tolerance
		require.ErrorIs(t, v.Verify(stripeHeader(stripeSignature), []byte(stripeBody)), c.reason)
	}
}

func TestUnusableStripeVerifierVerifiesNothing(t *testing.T) {
	t.Parallel()
	require.ErrorIs(t, new(signature.StripeVerifier).Verify(stripeHeader(stripeSignature), nil), signature.ErrVerifier)
	v := stripeAt(t, vectorTimestamp, stripeSecret)
	v.Tolerance = -time.Second
	require.EqualError(t, v.Verify(stripeHeader(stripeSignature), []byte(stripeBody)),
		"signature: unusable verifier: Tolerance is -1s, want 0 or more")

	none, err := signature.NewStripeVerifier()
	require.Nil(t, none)
	require.ErrorIs(t, err, signature.ErrVerifier)
	none, err = signature.NewStripeVerifier("short", stripeSecret, publicText)
	require.Nil(t, none)
	require.ErrorIs(t, err, signature.ErrBadKey)
	require.EqualError(t, err, "signature: bad key: secret 1 of 3: 5 bytes, want 16 to 256\n"+
		"signature: bad key: secret 3 of 3: prefix whpk_ is that of an asymmetric key, want a shared secret")
}

// stripeAt returns a verifier whose clock stands at this second.
func stripeAt(t testing.TB, now int64, secrets ...string) *signature.StripeVerifier {
	t.Helper()
	v, err := signature.NewStripeVerifier(secrets...)
	require.NoError(t, err)
	v.Now = func() time.Time { return time.Unix(now, 0) }
	return v
}

func stripeHeader(value string) http.Header { return http.Header{signature.HeaderStripe: {value}} }
